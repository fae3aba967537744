//! The services that this node hosts: which of its paths lead to them, and when their AP entries are published.
//!
//! A service wants three paths with different terminals. Whenever the set of its paths changes, and twice an epoch, it
//! publishes anew, for the current epoch and the next, through two of the paths themselves (PROTOCOL §7). What is
//! published names the terminals and the route keys under which they let clients in.

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
    pub publish_at: Option<Moment>,
    /// Whether an entry that names at least one way in has been handed to the network.
    pub published: bool,
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
            published: false,
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

    /// True if the entry is due; then the next date is set.
    pub fn take_due(&mut self, now: Moment) -> bool {
        let due = self.publish_at.is_some_and(|at| at <= now) && !self.entries.is_empty();
        if due {
            self.publish_at = Some(now + REPUBLISH);
            self.published = true;
        }
        due
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
            entry_nodes: self.entries.values().take(ENTRIES).cloned().collect(),
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
    pub(super) fn handle_visitor(&mut self, now: Now, path: OwnedPathId, tunnel: OwnerTunnelId) {
        let Some(Purpose::Service(id)) = self.pool.get(path).map(|ready| ready.purpose) else {
            return;
        };
        let Some(service) = self.services.get(&id) else {
            return;
        };
        // Clients and their clocks may be an epoch behind or ahead (PROTOCOL §6).
        let epoch = epoch_of(now.unix);
        let secrets = [epoch, epoch.saturating_sub(1), epoch + 1].map(|epoch| service.session_secret(epoch));
        self.outputs.push_back(Output::Incoming { service: id, tunnel, secrets: secrets.into() });
    }

    /// Publishes what is due, for this epoch and the next, each through two ways in.
    pub(super) fn publish_services(&mut self, now: Now, out: &mut impl Outlet) {
        for (id, service) in &mut self.services {
            if !service.take_due(now.moment) {
                continue;
            }
            service.issued = UnixTime((service.issued.0 + 1).max(now.unix.0));
            let epoch = epoch_of(now.unix);
            for epoch in [epoch, epoch + 1] {
                let Some(entry) = service.seal(epoch, &mut self.rng) else { continue };
                for path in service.entries.keys().take(PUBLISHERS) {
                    let opener = Opener::Publish { entry: entry.clone() };
                    // A path that has just broken is reported by the switch; the next publication replaces this one.
                    let _ = self.switch.open_tunnel(now.moment, *path, &opener, out);
                }
            }
            self.outputs.push_back(Output::Published { service: *id, entries: service.entries.len() });
        }
    }
}
