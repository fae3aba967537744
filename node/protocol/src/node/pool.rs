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
