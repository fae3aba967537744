//! The services that this node hosts: which of its paths lead to them, and when their AP entries are published.
//!
//! A service wants three paths with different terminals. Whenever the set of its paths changes, and every half hour, it
//! publishes anew, for the current epoch and the next, through two of the paths themselves (PROTOCOL §7). What is
//! published names the terminals and the route keys under which they let clients in. Every record reaches every node,
//! so a service looks whether its entry has come back to this one, and else hands it in again, through other paths.

use std::{collections::BTreeMap, time::Duration};

use rand_core::CryptoRng;

use super::{Node, Output, Purpose, ServiceId};
use crate::{
    crypto::{Key, datagram::SessionSecret},
    identity::ApSecret,
    limits::AP_ENTRY_LIFE_SECS,
    netdb::ap_entry::{ApEntry, EntryNode, epoch_of},
    time::{Moment, Now, UnixTime},
    tunnel::{Outlet, OwnedPathId, OwnerTunnelId},
    wire::opener::Opener,
};

/// Paths that a service keeps open.
pub const ENTRIES: usize = 3;
/// An unchanged entry is published again after this.
const REPUBLISH: Duration = Duration::from_secs(1800);
/// A changed one waits this long for more changes, so that three new paths make one entry.
const SETTLE: Duration = Duration::from_millis(400);
/// An entry that has been handed in must be known here, too, after this.
const COMES_BACK: Duration = Duration::from_secs(20);
/// So often in a row an entry that somebody else's stands before is published again: an earlier life of the service has signed it,
/// or another node that hosts the same identity, with which there is no end.
const OVERTAKES: usize = 3;
/// An entry is handed in at the terminals of this many of its paths.
const PUBLISHERS: usize = 2;

/// One hosted identity.
pub struct Service {
    /// Its key.
    pub secret: ApSecret,
    /// X-nodes of its paths.
    pub hops: usize,
    /// The ways in that stand.
    pub entries: BTreeMap<OwnedPathId, EntryNode>,
    /// The date of the last entry: strictly rising.
    pub issued: UnixTime,
    /// When to publish next.
    publish_at: Option<Moment>,
    /// When the last entry must have come back.
    check_at: Option<Moment>,
    /// Entries in a row that have not.
    lost: usize,
    /// Those of them before which somebody else's stood.
    overtaken: usize,
    /// The ways in that the last entry names.
    named: Vec<EntryNode>,
}

/// What is known here of the last entry, some time after it was handed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Itself,
    Nothing,
    Anothers,
}

impl Service {
    /// A service without a way in.
    pub fn new(secret: ApSecret, hops: usize) -> Service {
        Service {
            secret,
            hops,
            entries: BTreeMap::new(),
            issued: UnixTime(0),
            publish_at: None,
            check_at: None,
            lost: 0,
            overtaken: 0,
            named: Vec::new(),
        }
    }

    /// Paths that the service should have. An open service (length 0) has one: the node itself.
    pub fn wanted(&self) -> usize {
        if self.hops == 0 { 1 } else { ENTRIES }
    }

    /// A new way in stands.
    pub fn add(&mut self, path: OwnedPathId, entry: EntryNode, now: Moment) {
        self.entries.insert(path, entry);
        let complete = self.entries.len() >= self.wanted();
        self.publish_soon(if complete { now } else { now + SETTLE });
    }

    /// A way in is lost; true if it was one of this service.
    pub fn remove(&mut self, path: OwnedPathId, now: Moment) -> bool {
        let known = self.entries.remove(&path).is_some();
        if known && !self.entries.is_empty() {
            self.publish_soon(now + SETTLE);
        }
        known
    }

    /// When something is due. Without a way in there is nothing to be published, whatever the date.
    pub fn next_timeout(&self) -> Option<Moment> {
        let due = [self.publish_at, self.check_at].into_iter().flatten().min();
        due.filter(|_| !self.entries.is_empty())
    }

    fn is_due(&self, now: Moment) -> bool {
        self.next_timeout().is_some_and(|due| due <= now)
    }

    /// Whether the last entry should have come back by now. Asked once for each.
    fn take_check(&mut self, now: Moment) -> bool {
        self.check_at.take_if(|at| *at <= now).is_some()
    }

    /// What this entry, which is the newest one that is known, is to the last one of ours. Of two with the same date the one that
    /// came first stays: so a life that ended in the second in which this one began may have the last word.
    fn known(&self, entry: Option<&ApEntry>) -> Known {
        match entry {
            Some(entry) if entry.issued == self.issued && entry.entry_nodes == self.named => Known::Itself,
            Some(entry) if entry.issued >= self.issued => Known::Anothers,
            _ => Known::Nothing,
        }
    }

    /// The last entry has come back, or not.
    fn handle_check(&mut self, now: Moment, known: Known) {
        (self.lost, self.overtaken) = match known {
            Known::Itself => (0, 0),
            Known::Nothing => (self.lost + 1, 0),
            Known::Anothers => (self.lost, self.overtaken + 1),
        };
        if known != Known::Itself && self.overtaken <= OVERTAKES {
            self.publish_soon(now);
        }
    }

    /// True if the entry is due; then the next dates are set.
    fn take_due(&mut self, now: Moment) -> bool {
        let due = self.publish_at.is_some_and(|at| at <= now);
        if due {
            self.publish_at = Some(now + REPUBLISH);
            self.check_at = Some(now + COMES_BACK);
        }
        due
    }

    /// The paths to hand an entry in: other ones after it was lost.
    fn publishers(&self) -> impl Iterator<Item = OwnedPathId> {
        let count = self.entries.len().max(1);
        self.entries.keys().rev().cycle().skip(self.lost % count).take(PUBLISHERS.min(count)).copied()
    }

    /// The secret that clients of this epoch seal their first datagrams with. It is derived, so that a restart keeps it.
    pub fn session_secret(&self, epoch: u64) -> SessionSecret {
        let seed = Key::from_bytes(*self.secret.to_bytes());
        SessionSecret::from_bytes(*seed.derive(&[b"session secret", &epoch.to_be_bytes()]).as_bytes())
    }

    /// Begins another entry, of this date. It names the newest ways in: the oldest one may be about to end, and be there only until
    /// its successor is known.
    fn begin_entry(&mut self, issued: UnixTime) {
        self.issued = issued;
        self.named = self.entries.values().rev().take(ENTRIES).cloned().collect();
    }

    /// The entry of an epoch, as storers keep it.
    fn seal(&self, epoch: u64, rng: &mut impl CryptoRng) -> Option<Vec<u8>> {
        let entry = ApEntry {
            public: self.secret.public(),
            entry_nodes: self.named.clone(),
            session_secret: self.session_secret(epoch),
            capabilities: 0,
            issued: self.issued,
            expiry: UnixTime(self.issued.0 + AP_ENTRY_LIFE_SECS),
        };
        entry.seal(&self.secret, epoch, rng).ok().map(|sealed| sealed.bytes().to_vec())
    }

    fn publish_soon(&mut self, at: Moment) {
        self.publish_at = Some(self.publish_at.map_or(at, |set| set.min(at)));
    }
}

impl Node {
    /// Begins to host an identity; its paths are built and its entry published from now on.
    pub fn handle_host(
        &mut self,
        now: Now,
        secret: ApSecret,
        hops: usize,
        out: &mut impl Outlet,
    ) -> ServiceId {
        let id = ServiceId(self.number());
        self.services.insert(id, Service::new(secret, hops));
        self.settle(now, out);
        id
    }

    /// Stops hosting an identity and ends its paths.
    pub fn handle_unhost(&mut self, now: Now, service: ServiceId, out: &mut impl Outlet) {
        if let Some(gone) = self.services.remove(&service) {
            for path in gone.entries.keys() {
                self.switch.end_owned_path(*path, out);
                self.forget_path(now, *path);
            }
        }
        self.settle(now, out);
    }

    /// Ways in to a service that stand now.
    pub fn entries(&self, service: ServiceId) -> usize {
        self.services.get(&service).map_or(0, |service| service.entries.len())
    }

    /// A visitor has come in on a path: whose it is decides which service gets it.
    pub(super) fn handle_visitor(
        &mut self,
        now: Now,
        path: OwnedPathId,
        tunnel: OwnerTunnelId,
        out: &mut impl Outlet,
    ) {
        let purpose = self.pool.get(path).map(|ready| ready.purpose);
        let service = match purpose {
            Some(Purpose::Service(id)) => self.services.get(&id).map(|service| (id, service)),
            _ => None,
        };
        let Some((id, service)) = service else {
            // The path is not used, or no more: nobody here waits for visitors.
            return self.switch.close_tunnel(tunnel, out);
        };
        // Clients and their clocks may be an epoch behind or ahead (PROTOCOL §6).
        let epoch = epoch_of(now.unix);
        let secrets = [epoch, epoch.saturating_sub(1), epoch + 1].map(|epoch| service.session_secret(epoch));
        self.deaths.handle_birth(now.moment, tunnel, path, true);
        self.outputs.push_back(Output::Incoming { service: id, tunnel, secrets: secrets.into() });
    }

    /// Publishes what is due, for this epoch and the next, each through two ways in.
    pub(super) fn publish_services(&mut self, now: Now, out: &mut impl Outlet) {
        let today = epoch_of(now.unix);
        for (id, service) in self.services.iter_mut().filter(|(_, service)| service.is_due(now.moment)) {
            let public = service.secret.public();
            let view = self.exchange.view();
            let known = [today, today + 1].map(|epoch| view.look_up_in(&public, epoch, now.unix));
            if service.take_check(now.moment) {
                let [worst, other] = known.each_ref().map(|entry| service.known(entry.as_ref()));
                service.handle_check(now.moment, if worst == Known::Itself { other } else { worst });
            }
            if !service.take_due(now.moment) {
                continue;
            }
            // An earlier life, whose clock was ahead, may have signed a later one.
            let newest = known.iter().flatten().map(|entry| entry.issued.0).max().unwrap_or(0);
            service.begin_entry(UnixTime((service.issued.0.max(newest) + 1).max(now.unix.0)));
            for epoch in [today, today + 1] {
                let Some(entry) = service.seal(epoch, &mut self.rng) else { continue };
                for path in service.publishers() {
                    let opener = Opener::Publish { entry: entry.clone() };
                    // A path that has just broken is reported by the switch; then the entry is published anew.
                    let _ = self.switch.open_tunnel(now.moment, path, &opener, out);
                }
            }
            self.outputs.push_back(Output::Published { service: *id, entries: service.entries.len() });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use rand::{SeedableRng, rngs::ChaCha20Rng};

    use super::*;
    use crate::{
        crypto::proof::RouteKey,
        identity::NodeId,
        netdb::ap_entry::SealedEntry,
        wire::contact::{Contact, TlsKeys},
    };

    const NOW: Moment = Moment(1_000_000);

    fn entry(number: u8) -> EntryNode {
        let address = SocketAddr::from(([10, number, 0, 1], 443));
        let contact = Contact::listed(NodeId::from_bytes([number; 32]), address, TlsKeys::one([number; 32]));
        EntryNode { contact, route_key: RouteKey::from_bytes([number; 32]) }
    }

    fn service(entries: u8) -> Service {
        let mut service = Service::new(ApSecret::from_bytes(&[1; 32]), 3);
        (0..entries).for_each(|number| service.add(OwnedPathId(u64::from(number)), entry(number), NOW));
        service
    }

    #[test]
    fn a_service_that_has_lost_all_ways_in_waits_for_one_and_then_publishes() {
        let mut service = service(3);
        assert!(service.take_due(NOW));
        (0..3).for_each(|number| assert!(service.remove(OwnedPathId(number), NOW)));
        assert_eq!(service.next_timeout(), None);
        assert!(!service.is_due(NOW + REPUBLISH));
        service.add(OwnedPathId(9), entry(9), NOW + SETTLE);
        assert!(service.is_due(NOW + SETTLE + SETTLE));
    }

    #[test]
    fn the_first_ways_in_wait_for_the_others_but_not_for_long() {
        let mut service = service(1);
        assert_eq!(service.next_timeout(), Some(NOW + SETTLE));
        service.add(OwnedPathId(1), entry(1), NOW);
        assert!(!service.is_due(NOW));
        service.add(OwnedPathId(2), entry(2), NOW);
        assert!(service.is_due(NOW));
    }

    #[test]
    fn an_entry_that_does_not_come_back_is_due_at_once_and_through_another_path() {
        let mut service = service(3);
        assert!(service.take_due(NOW));
        let first: Vec<_> = service.publishers().collect();
        assert!(!service.take_check(NOW));
        assert!(service.take_check(NOW + COMES_BACK));
        service.handle_check(NOW + COMES_BACK, Known::Nothing);
        assert!(service.take_due(NOW + COMES_BACK));
        let second: Vec<_> = service.publishers().collect();
        assert_eq!((first.len(), second.len()), (PUBLISHERS, PUBLISHERS));
        assert!(second.iter().any(|path| !first.contains(path)));
        service.handle_check(NOW + COMES_BACK, Known::Itself);
        assert!(!service.take_due(NOW + COMES_BACK));
        assert_eq!(service.publishers().collect::<Vec<_>>(), first);
    }

    fn opened(service: &Service, now: UnixTime) -> ApEntry {
        let mut rng = ChaCha20Rng::from_seed([2; 32]);
        let sealed = SealedEntry::decode(&service.seal(epoch_of(now), &mut rng).unwrap()).unwrap();
        sealed.verify(now).unwrap().open(&service.secret.public(), now).unwrap()
    }

    #[test]
    fn the_entry_of_an_earlier_life_is_not_taken_for_ones_own_though_it_is_as_late() {
        let (mut before, mut service) = (service(2), service(3));
        let now = UnixTime(1_000);
        before.begin_entry(now);
        service.begin_entry(now);
        assert_eq!(service.known(Some(&opened(&service, now))), Known::Itself);
        assert_eq!(service.known(Some(&opened(&before, now))), Known::Anothers);
        before.begin_entry(UnixTime(999));
        assert_eq!(service.known(Some(&opened(&before, now))), Known::Nothing, "ours is on its way");
        assert_eq!(service.known(None), Known::Nothing);
        // It is overtaken, but whoever is another node with the same identity is so only a few times.
        assert!(service.take_due(NOW));
        let again = (0..10).filter(|_| {
            service.handle_check(NOW, Known::Anothers);
            service.take_due(NOW)
        });
        assert_eq!(again.count(), OVERTAKES);
        service.handle_check(NOW, Known::Itself);
        service.handle_check(NOW, Known::Anothers);
        assert!(service.take_due(NOW));
    }

    #[test]
    fn the_entry_names_the_newest_ways_in() {
        let mut service = service(4);
        let now = UnixTime(1_000);
        service.begin_entry(now);
        let named: Vec<u8> =
            opened(&service, now).entry_nodes.iter().map(|way| way.contact.id.as_bytes()[0]).collect();
        assert_eq!(named, [3, 2, 1]);
    }

    #[test]
    fn secrets_of_sessions_differ_by_epoch_and_survive_a_restart() {
        let bytes = |service: &Service, epoch| *service.session_secret(epoch).as_bytes();
        assert_eq!(bytes(&service(0), 5), bytes(&service(1), 5));
        assert_ne!(bytes(&service(0), 5), bytes(&service(0), 6));
    }
}
