//! The ready routing paths of one owner (PROTOCOL §4).
//!
//! Paths are built ahead of need and stand here until somebody draws them. A path that a group has drawn serves that
//! group alone, until it ends. Paths of a service are kept apart: they accept what comes in.

use std::collections::BTreeMap;

use super::{GroupId, ServiceId, Ticket};
use crate::{identity::NodeId, time::UnixTime, tunnel::OwnedPathId};

/// New tunnels are not put into a path that ends sooner than this.
const LAST_USE_SECS: u64 = 120;

/// Whom a path serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// Nobody yet: it waits for a group to draw it.
    Free,
    /// One isolation group.
    Group(GroupId),
    /// One hosted service.
    Service(ServiceId),
    /// A measurement.
    Trial(Ticket),
}

/// What the owner knows about a path that stands.
#[derive(Clone, Debug)]
pub struct ReadyPath {
    /// Whom it serves.
    pub purpose: Purpose,
    /// X1 to Xn.
    pub relays: Vec<NodeId>,
    /// When the first of its hops forgets it.
    pub expiry: UnixTime,
}

impl ReadyPath {
    /// The relay at the far end: exit or entry node.
    pub fn terminal(&self) -> Option<NodeId> {
        self.relays.last().copied()
    }

    fn usable(&self, now: UnixTime) -> bool {
        self.expiry.0 > now.0 + LAST_USE_SECS
    }
}

/// All standing paths of one owner.
#[derive(Debug, Default)]
pub struct Pool {
    paths: BTreeMap<OwnedPathId, ReadyPath>,
}

impl Pool {
    /// Takes in a path that has proven to stand.
    pub fn add(&mut self, id: OwnedPathId, path: ReadyPath) {
        self.paths.insert(id, path);
    }

    /// Forgets a path that has ended.
    pub fn remove(&mut self, id: OwnedPathId) -> Option<ReadyPath> {
        self.paths.remove(&id)
    }

    /// A path of this group whose terminal is not among `avoid`: one it has, else a free one, which is its from now on.
    pub fn draw(&mut self, group: GroupId, avoid: &Avoid, now: UnixTime) -> Option<OwnedPathId> {
        let fits = |id: &OwnedPathId, path: &ReadyPath| {
            path.usable(now)
                && !avoid.paths.contains(id)
                && path.terminal().is_none_or(|terminal| !avoid.terminals.contains(&terminal))
        };
        let with = |purpose: Purpose| {
            self.paths.iter().find(|(id, path)| path.purpose == purpose && fits(id, path)).map(|(id, _)| *id)
        };
        let id = with(Purpose::Group(group)).or_else(|| with(Purpose::Free))?;
        if let Some(path) = self.paths.get_mut(&id) {
            path.purpose = Purpose::Group(group);
        }
        Some(id)
    }

    /// Whether the group has a path but these, or could draw one.
    pub fn serves(&self, group: GroupId, avoid: &[OwnedPathId], now: UnixTime) -> bool {
        let serves = |purpose: Purpose| purpose == Purpose::Free || purpose == Purpose::Group(group);
        let mut paths = self.paths.iter();
        paths.any(|(id, path)| serves(path.purpose) && path.usable(now) && !avoid.contains(id))
    }

    /// Paths that serve this purpose and may still be used.
    pub fn count(&self, purpose: Purpose, now: UnixTime) -> usize {
        self.paths.values().filter(|path| path.purpose == purpose && path.usable(now)).count()
    }

    /// Paths that have outlived their hops.
    pub fn expired(&self, now: UnixTime) -> Vec<OwnedPathId> {
        self.paths.iter().filter(|(_, path)| path.expiry <= now).map(|(id, _)| *id).collect()
    }

    /// All paths that stand.
    pub fn iter(&self) -> impl Iterator<Item = (OwnedPathId, &ReadyPath)> {
        self.paths.iter().map(|(id, path)| (*id, path))
    }

    /// One path.
    pub fn get(&self, id: OwnedPathId) -> Option<&ReadyPath> {
        self.paths.get(&id)
    }
}

/// What a new tunnel must not use again.
#[derive(Clone, Debug, Default)]
pub struct Avoid {
    /// Own paths that failed just now.
    pub paths: Vec<OwnedPathId>,
    /// Terminals that cannot serve: the entry node itself, for a path must not join itself by the same node.
    pub terminals: Vec<NodeId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime(1_000_000);

    fn node(number: u8) -> NodeId {
        NodeId::from_bytes([number; 32])
    }

    fn pool_of(paths: &[(u64, Purpose, u8, u64)]) -> Pool {
        let mut pool = Pool::default();
        for (id, purpose, terminal, life) in paths {
            let relays = vec![node(100), node(*terminal)];
            let path = ReadyPath { purpose: *purpose, relays, expiry: UnixTime(NOW.0 + life) };
            pool.add(OwnedPathId(*id), path);
        }
        pool
    }

    #[test]
    fn a_path_that_a_group_has_drawn_serves_no_other_group() {
        let mut pool = pool_of(&[(1, Purpose::Free, 1, 3_600), (2, Purpose::Free, 2, 3_600)]);
        let avoid = Avoid::default();
        assert_eq!(pool.draw(GroupId(1), &avoid, NOW), Some(OwnedPathId(1)));
        assert_eq!(pool.draw(GroupId(2), &avoid, NOW), Some(OwnedPathId(2)));
        assert_eq!(pool.draw(GroupId(3), &avoid, NOW), None);
        assert_eq!(pool.draw(GroupId(1), &avoid, NOW), Some(OwnedPathId(1)));
        assert!(pool.serves(GroupId(1), &[], NOW) && !pool.serves(GroupId(3), &[], NOW));
        assert!(!pool.serves(GroupId(1), &[OwnedPathId(1)], NOW));
    }

    #[test]
    fn neither_paths_nor_terminals_that_are_to_be_avoided_are_drawn() {
        let group = GroupId(1);
        let mut pool = pool_of(&[(1, Purpose::Group(group), 1, 3_600), (2, Purpose::Free, 2, 3_600)]);
        let failed = Avoid { paths: vec![OwnedPathId(1)], terminals: vec![] };
        assert_eq!(pool.draw(group, &failed, NOW), Some(OwnedPathId(2)));
        let entry = Avoid { paths: vec![], terminals: vec![node(1)] };
        assert_eq!(pool.draw(group, &entry, NOW), Some(OwnedPathId(2)));
        let both = Avoid { paths: vec![], terminals: vec![node(1), node(2)] };
        assert_eq!(pool.draw(group, &both, NOW), None);
    }

    #[test]
    fn a_path_about_to_end_is_neither_drawn_nor_counted_and_then_expires() {
        let mut pool = pool_of(&[(1, Purpose::Free, 1, LAST_USE_SECS)]);
        assert_eq!(pool.count(Purpose::Free, NOW), 0);
        assert_eq!(pool.draw(GroupId(1), &Avoid::default(), NOW), None);
        assert!(pool.expired(NOW).is_empty());
        assert_eq!(pool.expired(UnixTime(NOW.0 + LAST_USE_SECS)), [OwnedPathId(1)]);
    }

    #[test]
    fn paths_of_services_and_trials_are_not_drawn() {
        let service = Purpose::Service(ServiceId(1));
        let mut pool = pool_of(&[(1, service, 1, 3_600), (2, Purpose::Trial(Ticket(1)), 2, 3_600)]);
        assert_eq!(pool.draw(GroupId(1), &Avoid::default(), NOW), None);
        assert_eq!(pool.count(service, NOW), 1);
    }
}
