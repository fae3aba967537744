//! The services that this node hosts: which of its paths lead to them, and when their AP entries are published.
//!
//! A service wants three paths with different terminals. Whenever the set of its paths changes, and every half hour, it
//! publishes anew, for the current epoch and the next, through two of the paths themselves (PROTOCOL §7). What is
//! published names the terminals and the route keys under which they let clients in. Every record reaches every node,
//! so a service looks whether its entry has come back to this one, and else hands it in again, through other paths.
//!
//! Earlier lives of the service, on this node or another one, have signed entries, too. One that this life has not known may
//! have the date of its own first one: of two with the same date each storer keeps what came first, so this node cannot see
//! what the others keep. Therefore the first entry that a life looks for is followed by a later one, whatever has come back.

use std::{cmp::Ordering, collections::BTreeMap, time::Duration};

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

/// Paths that lead to a service.
const WAYS_IN: usize = 3;
/// An unchanged entry is published again after this.
const REPUBLISH: Duration = Duration::from_secs(1800);
/// A changed one waits this long for more changes, so that three new paths make one entry.
const SETTLE: Duration = Duration::from_millis(400);
/// An entry that has been handed in must be known here, too, after this.
const COMES_BACK: Duration = Duration::from_secs(20);
/// So often, before one has come back, an entry is published again that a later one has overtaken: an earlier life of the service
/// has signed that, or another node that hosts the same identity, with which there is no end.
const OVERTAKEN_AT_MOST: usize = 3;
/// An entry is handed in at the terminals of this many of its paths.
const PUBLISHERS: usize = 2;

/// One hosted identity.
pub struct Service {
    /// Its key.
    pub secret: ApSecret,
    /// X-nodes of its paths.
    pub hops: usize,
    /// The ways in that stand.
    pub ways_in: BTreeMap<OwnedPathId, EntryNode>,
    /// The date of the last entry: strictly rising.
    pub issued: UnixTime,
    /// When to publish next.
    publish_at: Option<Moment>,
    /// When the last entry must have come back.
    check_at: Option<Moment>,
    /// Whether any entry of this life has been looked for.
    has_checked: bool,
    /// Entries in a row that were missing.
    missing: usize,
    /// Entries that were overtaken since one has come back.
    overtaken: usize,
}

/// What has become of the last entry, some time after it was handed in; the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    /// It has come back, or one with its date.
    Back,
    /// An older one is known here, or none.
    Missing,
    /// A later one is, which this life has not signed.
    Overtaken,
}

impl Service {
    /// A service without a way in.
    pub fn new(secret: ApSecret, hops: usize) -> Service {
        Service {
            secret,
            hops,
            ways_in: BTreeMap::new(),
            issued: UnixTime(0),
            publish_at: None,
            check_at: None,
            has_checked: false,
            missing: 0,
            overtaken: 0,
        }
    }

    /// Paths that the service should have. An open service (length 0) has one: the node itself.
    pub fn wanted(&self) -> usize {
        if self.hops == 0 { 1 } else { WAYS_IN }
    }

    /// A new way in stands.
    pub fn add(&mut self, path: OwnedPathId, way_in: EntryNode, now: Moment) {
        self.ways_in.insert(path, way_in);
        let complete = self.ways_in.len() >= self.wanted();
        self.publish_soon(if complete { now } else { now + SETTLE });
    }

    /// A way in is lost; true if it was one of this service.
    pub fn remove(&mut self, path: OwnedPathId, now: Moment) -> bool {
        let known = self.ways_in.remove(&path).is_some();
        if known && !self.ways_in.is_empty() {
            self.publish_soon(now + SETTLE);
        }
        known
    }

    /// When something is due. Without a way in there is nothing to be published, whatever the date.
    pub fn next_timeout(&self) -> Option<Moment> {
        let due = [self.publish_at, self.check_at].into_iter().flatten().min();
        due.filter(|_| !self.ways_in.is_empty())
    }

    fn is_due(&self, now: Moment) -> bool {
        self.next_timeout().is_some_and(|due| due <= now)
    }

    /// Whether the last entry should have come back by now. Asked once for each.
    fn take_check(&mut self, now: Moment) -> bool {
        self.check_at.take_if(|at| *at <= now).is_some()
    }

    /// What has become of the last entry, if the newest one that is known here is of this date.
    fn fate(&self, known: Option<UnixTime>) -> Fate {
        match known.map(|date| date.cmp(&self.issued)) {
            Some(Ordering::Equal) => Fate::Back,
            Some(Ordering::Greater) => Fate::Overtaken,
            Some(Ordering::Less) | None => Fate::Missing,
        }
    }

    /// The last entry was looked for.
    fn handle_check(&mut self, now: Moment, fate: Fate) {
        (self.missing, self.overtaken) = match fate {
            Fate::Back => (0, 0),
            // With another node that hosts the same identity, an entry is missing here and overtaken there.
            Fate::Missing => (self.missing + 1, self.overtaken),
            Fate::Overtaken => (self.missing, self.overtaken + 1),
        };
        let is_first = !std::mem::replace(&mut self.has_checked, true);
        if is_first || (fate != Fate::Back && self.overtaken <= OVERTAKEN_AT_MOST) {
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

    /// The paths to hand an entry in: other ones after it was missing.
    fn publishers(&self) -> impl Iterator<Item = OwnedPathId> {
        let count = self.ways_in.len().max(1);
        self.ways_in.keys().rev().cycle().skip(self.missing % count).take(PUBLISHERS.min(count)).copied()
    }

    /// The secret that clients of this epoch seal their first datagrams with. It is derived, so that a restart keeps it.
    pub fn session_secret(&self, epoch: u64) -> SessionSecret {
        let seed = Key::from_bytes(*self.secret.to_bytes());
        SessionSecret::from_bytes(*seed.derive(&[b"session secret", &epoch.to_be_bytes()]).as_bytes())
    }

    /// The entry of an epoch, as storers keep it.
    fn seal(&self, epoch: u64, rng: &mut impl CryptoRng) -> Option<Vec<u8>> {
        let entry = ApEntry {
            public: self.secret.public(),
            // The newest: the oldest one may be about to end, and be there only until its successor is known.
            entry_nodes: self.ways_in.values().rev().take(WAYS_IN).cloned().collect(),
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
            for path in gone.ways_in.keys() {
                self.switch.end_owned_path(*path, out);
                self.forget_path(now, *path);
            }
        }
        self.settle(now, out);
    }

    /// Ways in to a service that stand now.
    pub fn entries(&self, service: ServiceId) -> usize {
        self.services.get(&service).map_or(0, |service| service.ways_in.len())
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
            let known = [today, today + 1]
                .map(|epoch| view.look_up_in(&public, epoch, now.unix).map(|entry| entry.issued));
            if service.take_check(now.moment) {
                let [todays, tomorrows] = known.map(|date| service.fate(date));
                service.handle_check(now.moment, todays.max(tomorrows));
            }
            if !service.take_due(now.moment) {
                continue;
            }
            // An earlier life, whose clock was ahead, may have signed a later one.
            let newest = known.into_iter().flatten().fold(service.issued, UnixTime::max);
            service.issued = now.unix.max(UnixTime(newest.0 + 1));
            for epoch in [today, today + 1] {
                let Some(entry) = service.seal(epoch, &mut self.rng) else { continue };
                for path in service.publishers() {
                    let opener = Opener::Publish { entry: entry.clone() };
                    // A path that has just broken is reported by the switch; then the entry is published anew.
                    let _ = self.switch.open_tunnel(now.moment, path, &opener, out);
                }
            }
            self.outputs.push_back(Output::Published { service: *id, entries: service.ways_in.len() });
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

    fn way_in(number: u8) -> EntryNode {
        let address = SocketAddr::from(([10, number, 0, 1], 443));
        let contact = Contact::listed(NodeId::from_bytes([number; 32]), address, TlsKeys::one([number; 32]));
        EntryNode { contact, route_key: RouteKey::from_bytes([number; 32]) }
    }

    fn service(ways_in: u8) -> Service {
        let mut service = Service::new(ApSecret::from_bytes(&[1; 32]), 3);
        (0..ways_in).for_each(|number| service.add(OwnedPathId(u64::from(number)), way_in(number), NOW));
        service
    }

    #[test]
    fn a_service_that_has_lost_all_ways_in_waits_for_one_and_then_publishes() {
        let mut service = service(3);
        assert!(service.take_due(NOW));
        (0..3).for_each(|number| assert!(service.remove(OwnedPathId(number), NOW)));
        assert_eq!(service.next_timeout(), None);
        assert!(!service.is_due(NOW + REPUBLISH));
        service.add(OwnedPathId(9), way_in(9), NOW + SETTLE);
        assert!(service.is_due(NOW + SETTLE + SETTLE));
    }

    #[test]
    fn the_first_ways_in_wait_for_the_others_but_not_for_long() {
        let mut service = service(1);
        assert_eq!(service.next_timeout(), Some(NOW + SETTLE));
        service.add(OwnedPathId(1), way_in(1), NOW);
        assert!(!service.is_due(NOW));
        service.add(OwnedPathId(2), way_in(2), NOW);
        assert!(service.is_due(NOW));
    }

    #[test]
    fn an_entry_that_does_not_come_back_is_due_at_once_and_through_another_path() {
        let mut service = service(3);
        assert!(service.take_due(NOW));
        let first: Vec<_> = service.publishers().collect();
        assert!(!service.take_check(NOW));
        assert!(service.take_check(NOW + COMES_BACK));
        service.handle_check(NOW + COMES_BACK, Fate::Missing);
        assert!(service.take_due(NOW + COMES_BACK));
        let second: Vec<_> = service.publishers().collect();
        assert_eq!((first.len(), second.len()), (PUBLISHERS, PUBLISHERS));
        assert!(second.iter().any(|path| !first.contains(path)));
        service.handle_check(NOW + COMES_BACK, Fate::Back);
        assert!(!service.take_due(NOW + COMES_BACK));
        assert_eq!(service.publishers().collect::<Vec<_>>(), first);
    }

    #[test]
    fn the_first_entry_of_a_life_is_followed_by_another_though_it_has_come_back() {
        let mut service = service(3);
        assert!(service.take_due(NOW));
        service.handle_check(NOW + COMES_BACK, Fate::Back);
        assert!(service.take_due(NOW + COMES_BACK));
        service.handle_check(NOW + 2 * COMES_BACK, Fate::Back);
        assert!(!service.take_due(NOW + 2 * COMES_BACK));
        assert!(service.take_due(NOW + COMES_BACK + REPUBLISH));
    }

    #[test]
    fn an_entry_that_a_later_one_has_overtaken_is_signed_again_but_not_without_end() {
        let mut service = Service { issued: UnixTime(1_000), has_checked: true, ..service(3) };
        let fates = [None, Some(999), Some(1_000), Some(1_001)].map(|date| service.fate(date.map(UnixTime)));
        assert_eq!(fates, [Fate::Missing, Fate::Missing, Fate::Back, Fate::Overtaken]);
        assert!(service.take_due(NOW));
        for (others, published) in
            [(vec![], OVERTAKEN_AT_MOST), (vec![Fate::Missing], 2 * OVERTAKEN_AT_MOST + 1)]
        {
            let fates = others.into_iter().chain([Fate::Overtaken]).cycle().take(20);
            let again = fates.filter(|fate| {
                service.handle_check(NOW, *fate);
                service.take_due(NOW)
            });
            assert_eq!(again.count(), published);
            service.handle_check(NOW, Fate::Back);
        }
        service.handle_check(NOW, Fate::Overtaken);
        assert!(service.take_due(NOW));
    }

    #[test]
    fn the_entry_names_the_newest_ways_in() {
        let now = UnixTime(1_000);
        let service = Service { issued: now, ..service(4) };
        let mut rng = ChaCha20Rng::from_seed([2; 32]);
        let sealed = SealedEntry::decode(&service.seal(epoch_of(now), &mut rng).unwrap()).unwrap();
        let opened = sealed.verify(now).unwrap().open(&service.secret.public(), now).unwrap();
        let named: Vec<u8> = opened.entry_nodes.iter().map(|way| way.contact.id.as_bytes()[0]).collect();
        assert_eq!(named, [3, 2, 1]);
    }

    #[test]
    fn secrets_of_sessions_differ_by_epoch_and_survive_a_restart() {
        let bytes = |service: &Service, epoch| *service.session_secret(epoch).as_bytes();
        assert_eq!(bytes(&service(0), 5), bytes(&service(1), 5));
        assert_ne!(bytes(&service(0), 5), bytes(&service(0), 6));
    }
}
