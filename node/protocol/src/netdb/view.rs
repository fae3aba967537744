//! What a node knows of the network: the records of nodes and the sealed entries of parties (PROTOCOL §7).
//!
//! Every rule of a storer stands here: versions rise strictly, what has expired is gone, tables are bounded, and so
//! is the number of nodes of one subnet. A full table of nodes refuses what is new: nothing is pushed out, or whoever
//! invents nodes by the thousand could push out the honest ones. That of entries is shared, see [`super::entries`].

use std::{collections::BTreeMap, net::IpAddr};

use super::{
    ap_entry::{ApEntry, EntryKey, LookUp, VerifiedEntry},
    entries::{Entries, Source},
};
use crate::{
    identity::{ApPublic, NodeId},
    limits::{NODES_KNOWN, NODES_PER_SUBNET},
    time::UnixTime,
    wire::{control::Published, record::VerifiedRecord},
};

/// What is known.
#[derive(Debug, Default)]
pub struct View {
    nodes: BTreeMap<NodeId, KnownNode>,
    entries: Entries,
    subnets: BTreeMap<Subnet, usize>,
}

/// A node and since when it is known.
#[derive(Debug, Clone)]
pub struct KnownNode {
    /// Its newest record.
    pub record: VerifiedRecord,
    /// When its first record came. Nodes that have been seen for hours are preferred in paths.
    pub first_seen: UnixTime,
}

/// Names a record of either table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum RecordKey {
    Node(NodeId),
    ApEntry(EntryKey),
}

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// It is the newest now.
    New,
    /// This version or a newer one was known.
    Stale,
    /// The table, or the node's subnet, is full.
    Full,
}

/// A network that one operator is likely to have alone: a /16 of IPv4, a /32 of IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subnet {
    /// The first two bytes.
    V4([u8; 2]),
    /// The first four bytes.
    V6([u8; 4]),
}

impl Subnet {
    /// The subnet of an address.
    pub fn of(ip: IpAddr) -> Subnet {
        match ip.to_canonical() {
            IpAddr::V4(ip) => {
                let [a, b, ..] = ip.octets();
                Subnet::V4([a, b])
            }
            IpAddr::V6(ip) => {
                let [a, b, c, d, ..] = ip.octets();
                Subnet::V6([a, b, c, d])
            }
        }
    }
}

impl View {
    /// Nothing is known.
    pub fn new() -> View {
        View::default()
    }

    /// All known nodes, this node's own record among them, in the order of their ids.
    pub fn nodes(&self) -> impl Iterator<Item = &KnownNode> {
        self.nodes.values()
    }

    /// The nodes whose ids follow `id`, around the circle, each once.
    pub fn nodes_after(&self, id: NodeId) -> impl Iterator<Item = &KnownNode> {
        self.nodes.range(id..).chain(self.nodes.range(..id)).map(|(_, node)| node)
    }

    /// How many nodes are known.
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// How many sealed entries are known.
    pub fn entry_count(&self) -> usize {
        self.entries.len()
    }

    /// What is known of a node.
    pub fn node(&self, id: &NodeId) -> Option<&KnownNode> {
        self.nodes.get(id)
    }

    /// How a party is reached: its newest entry of this epoch or a neighbouring one, this one's if they are equally new.
    pub fn look_up(&self, public: &ApPublic, now: UnixTime) -> Option<ApEntry> {
        self.find(&LookUp::new(*public, now), now)
    }

    /// The same, where it is looked for more than once.
    pub fn find(&self, look_up: &LookUp, now: UnixTime) -> Option<ApEntry> {
        let sealed = look_up.keys().filter_map(|key| self.entries.get(key));
        let entries = sealed.filter_map(|entry| entry.open(look_up.public(), now));
        entries.max_by_key(|entry| entry.issued)
    }

    /// Rises whenever a sealed entry comes or goes: until then a look-up finds what it found.
    pub fn entry_changes(&self) -> u64 {
        self.entries.changes()
    }

    /// The newest entry of a party in one epoch.
    pub fn look_up_in(&self, public: &ApPublic, epoch: u64, now: UnixTime) -> Option<ApEntry> {
        self.entries.get(&EntryKey::of(public, epoch))?.open(public, now)
    }

    /// Keeps a node's record, if it is newer than what is known and there is room.
    pub fn store_node(&mut self, now: UnixTime, record: VerifiedRecord) -> Stored {
        let known = self.nodes.get(&record.id());
        if known.is_some_and(|known| known.record.version() >= record.version()) {
            return Stored::Stale;
        }
        let first_seen = known.map_or(now, |known| known.first_seen);
        if known.is_none() && self.nodes.len() >= NODES_KNOWN {
            return Stored::Full;
        }
        let replaced = self.remove_node(&record.id());
        if subnets_of(&record).any(|subnet| self.nodes_of(subnet) >= NODES_PER_SUBNET) {
            // A node that moves into a full subnet keeps the record it had.
            replaced.into_iter().for_each(|known| self.insert_node(known));
            return Stored::Full;
        }
        self.insert_node(KnownNode { record, first_seen });
        Stored::New
    }

    /// Keeps a sealed entry, if it is newer than what is known and there is room.
    pub fn store_entry(&mut self, now: UnixTime, entry: VerifiedEntry, source: Source) -> Stored {
        self.entries.store(now, entry, source)
    }

    /// Whether a sealed entry of this source would find a place.
    pub(super) fn has_room_for_entry(&self, now: UnixTime, key: &EntryKey, source: Source) -> bool {
        self.entries.has_room(now, key, source)
    }

    /// Forgets what has expired.
    pub fn sweep(&mut self, now: UnixTime) {
        let is_over = |node: &&KnownNode| node.record.expiry() <= now;
        let over: Vec<NodeId> = self.nodes().filter(is_over).map(|node| node.record.id()).collect();
        for id in over {
            self.remove_node(&id);
        }
        self.entries.sweep(now);
    }

    /// The version that is known of a record; versions of both tables rise.
    pub(super) fn version(&self, key: &RecordKey) -> Option<u64> {
        match key {
            RecordKey::Node(id) => self.nodes.get(id).map(|node| node.record.version().0),
            RecordKey::ApEntry(key) => self.entries.version(key),
        }
    }

    /// A record as it travels.
    pub(super) fn published(&self, key: &RecordKey) -> Option<Published> {
        match key {
            RecordKey::Node(id) => {
                self.nodes.get(id).map(|node| Published::Node(node.record.bytes().to_vec()))
            }
            RecordKey::ApEntry(key) => {
                self.entries.get(key).map(|entry| Published::ApEntry(entry.bytes().to_vec()))
            }
        }
    }

    /// Everything that is known: the nodes, then the entries.
    pub(super) fn keys(&self) -> impl Iterator<Item = RecordKey> {
        let nodes = self.nodes.keys().copied().map(RecordKey::Node);
        nodes.chain(self.entries.keys().map(RecordKey::ApEntry))
    }

    fn nodes_of(&self, subnet: Subnet) -> usize {
        self.subnets.get(&subnet).copied().unwrap_or(0)
    }

    fn insert_node(&mut self, node: KnownNode) {
        for subnet in subnets_of(&node.record) {
            *self.subnets.entry(subnet).or_default() += 1;
        }
        self.nodes.insert(node.record.id(), node);
    }

    fn remove_node(&mut self, id: &NodeId) -> Option<KnownNode> {
        let node = self.nodes.remove(id)?;
        for subnet in subnets_of(&node.record) {
            let count = self.nodes_of(subnet).saturating_sub(1);
            if count == 0 {
                self.subnets.remove(&subnet);
            } else {
                self.subnets.insert(subnet, count);
            }
        }
        Some(node)
    }
}

fn subnets_of(record: &VerifiedRecord) -> impl Iterator<Item = Subnet> {
    record.addresses().iter().map(|address| Subnet::of(address.ip()))
}
