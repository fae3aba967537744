//! What is open at this node: links, paths, and the tunnels inside each path, in the order in which they came.
//!
//! Everything that is iterated is here and in `BTreeMap`s, so that runs repeat. The registry lies under a mutex that
//! only opening, closing and the sweep take; whoever removes a tunnel here is the one who tells its ends.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::{
    HopInstall, OwnedInstall, Side, TunnelRef,
    hop::{End, HopPath, PathEnd, Relay},
    origin::{Origin, OwnedPath},
    terminal::Terminal,
};
use crate::{
    identity::NodeId,
    limits::{ACCEPTING_PATHS, TUNNEL_IDLE, TUNNELS_PER_EXIT, TUNNELS_PER_PATH, UNCONFIRMED},
    time::Moment,
    wire::cell::{LinkId, PathId, TunnelId},
};

/// A tunnel in one of its three shapes.
#[derive(Clone)]
pub(super) enum Tunnel {
    Relay(Arc<Relay>),
    Terminal(Arc<Terminal>),
    Origin(Arc<Origin>),
}

/// Where a cell finds its tunnel: the value in the forwarding table.
#[derive(Clone)]
pub(super) enum Seat {
    Relay(Arc<Relay>, Side),
    FromOwner(Arc<Terminal>),
    FromJoin(Arc<Terminal>),
    Origin(Arc<Origin>),
}

/// A tunnel, and the end of it that a terminal may have got later.
pub(super) struct TunnelState {
    pub(super) tunnel: Tunnel,
    pub(super) join: Option<End>,
}

impl TunnelState {
    /// Both ends (or the one) with what stands in the forwarding table for each.
    pub(super) fn seats(&self) -> [Option<(End, Seat)>; 2] {
        match &self.tunnel {
            Tunnel::Relay(relay) => {
                let [a, b] = relay.ends;
                [
                    Some((a, Seat::Relay(Arc::clone(relay), Side::A))),
                    Some((b, Seat::Relay(Arc::clone(relay), Side::B))),
                ]
            }
            Tunnel::Terminal(terminal) => [
                Some((terminal.owner, Seat::FromOwner(Arc::clone(terminal)))),
                self.join.map(|join| (join, Seat::FromJoin(Arc::clone(terminal)))),
            ],
            Tunnel::Origin(origin) => [Some((origin.end, Seat::Origin(Arc::clone(origin)))), None],
        }
    }

    fn last_use(&self, now: Moment) -> Moment {
        match &self.tunnel {
            Tunnel::Relay(relay) => relay.used.at(now),
            Tunnel::Terminal(terminal) => terminal.used.at(now),
            Tunnel::Origin(origin) => origin.used.at(now),
        }
    }

    /// Since when the owner has not said that it wants this visitor.
    fn unconfirmed_since(&self) -> Option<Moment> {
        match &self.tunnel {
            Tunnel::Terminal(terminal) if !terminal.is_confirmed() => Some(terminal.opened),
            _ => None,
        }
    }

    fn is_over(&self, now: Moment) -> bool {
        now.since(self.last_use(now)) >= TUNNEL_IDLE
            || self.unconfirmed_since().is_some_and(|since| now.since(since) >= UNCONFIRMED)
    }
}

/// A path in one of its two shapes.
#[derive(Clone)]
pub(super) enum RoutingPath {
    Hop(Arc<HopPath>),
    Owned(Arc<OwnedPath>),
}

impl RoutingPath {
    pub(super) fn ends(&self) -> [Option<PathEnd>; 2] {
        match self {
            RoutingPath::Hop(hop) => hop.neighbours,
            RoutingPath::Owned(owned) => [Some(owned.end), None],
        }
    }
}

pub(super) struct PathState {
    pub(super) path: RoutingPath,
    expires: Moment,
    idle: Duration,
    used: Moment,
    /// By serial: the oldest first.
    pub(super) tunnels: BTreeMap<u64, TunnelState>,
}

struct Link {
    peer: NodeId,
    dialled: bool,
    picked: u64,
    /// Tunnels whose terminal is here and whose other terminal is the link's peer.
    joins: BTreeSet<TunnelRef>,
}

/// Why a tunnel cannot be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// The path or the link is no more: nobody is left to be told.
    Gone,
    /// The path carries all that it may.
    Full,
    /// The peer picked an id that is in use.
    InUse,
}

/// What an entry does with one more visitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    Free,
    /// After this one has gone.
    InPlaceOf(TunnelRef),
    Full,
}

#[derive(Default)]
pub(super) struct Registry {
    links: BTreeMap<LinkId, Link>,
    paths: BTreeMap<u64, PathState>,
    ends: BTreeMap<PathEnd, u64>,
    accepting: Arc<[Arc<HopPath>]>,
    /// Numbers paths and tunnels.
    counter: u64,
}

impl Registry {
    pub(super) fn link_up(&mut self, link: LinkId, peer: NodeId, dialled: bool) {
        self.links.insert(link, Link { peer, dialled, picked: 0, joins: BTreeSet::new() });
    }

    /// Forgets a link; returns the paths and the joins that it carried.
    pub(super) fn link_down(&mut self, link: LinkId) -> (Vec<u64>, Vec<TunnelRef>) {
        let joins = self.links.remove(&link).map(|link| link.joins).unwrap_or_default();
        let ids = |id| (link, PathId::new(id));
        let paths = self.ends.range(ids(0)..=ids(u64::MAX)).map(|(_, path)| *path).collect();
        (paths, joins.into_iter().collect())
    }

    pub(super) fn peer(&self, link: LinkId) -> Option<NodeId> {
        self.links.get(&link).map(|link| link.peer)
    }

    /// The next tunnel id that this side picks. They count up and never return in the life of a link.
    pub(super) fn pick(&mut self, link: LinkId) -> Result<TunnelId, Refused> {
        let link = self.links.get_mut(&link).ok_or(Refused::Gone)?;
        link.picked += 1;
        Ok(TunnelId::new(link.picked | if link.dialled { TunnelId::DIALLER } else { 0 }))
    }

    /// Whether an id is one that the peer may pick.
    pub(super) fn is_peers_pick(&self, link: LinkId, tunnel: TunnelId) -> bool {
        let by_dialler = tunnel.get() & TunnelId::DIALLER != 0;
        self.links.get(&link).is_some_and(|link| link.dialled != by_dialler)
    }

    fn count(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    /// Adds a path that this node serves, unless one of its ends is taken or has no link.
    pub(super) fn add_hop(&mut self, now: Moment, install: HopInstall) -> Option<Arc<HopPath>> {
        if install.neighbours == [None; 2] || !self.are_free(&install.neighbours) {
            return None;
        }
        let accepts = !install.route_keys.is_empty();
        let is_terminal = install.neighbours.contains(&None);
        if accepts && (!is_terminal || self.accepting.len() >= ACCEPTING_PATHS) {
            return None;
        }
        let (expires, idle) = (install.expires, install.idle);
        let hop = Arc::new(HopPath::new(self.count(), install));
        self.add(now, hop.id, RoutingPath::Hop(Arc::clone(&hop)), expires, idle);
        if accepts {
            self.accepting = self.accepting.iter().cloned().chain([Arc::clone(&hop)]).collect();
        }
        Some(hop)
    }

    pub(super) fn add_owned(&mut self, now: Moment, install: OwnedInstall) -> Option<Arc<OwnedPath>> {
        if install.hops.is_empty() || !self.are_free(&[Some((install.link, install.path)), None]) {
            return None;
        }
        let (expires, idle) = (install.expires, install.idle);
        let owned = Arc::new(OwnedPath::new(self.count(), install));
        self.add(now, owned.id, RoutingPath::Owned(Arc::clone(&owned)), expires, idle);
        Some(owned)
    }

    fn are_free(&self, ends: &[Option<PathEnd>; 2]) -> bool {
        let [a, b] = ends;
        a != b
            && ends
                .iter()
                .flatten()
                .all(|end| self.links.contains_key(&end.0) && !self.ends.contains_key(end))
    }

    fn add(&mut self, now: Moment, id: u64, path: RoutingPath, expires: Moment, idle: Duration) {
        self.ends.extend(path.ends().into_iter().flatten().map(|end| (end, id)));
        self.paths.insert(id, PathState { path, expires, idle, used: now, tunnels: BTreeMap::new() });
    }

    pub(super) fn path_at(&self, end: PathEnd) -> Option<&RoutingPath> {
        self.path(*self.ends.get(&end)?)
    }

    pub(super) fn path_number_at(&self, end: PathEnd) -> Option<u64> {
        self.ends.get(&end).copied()
    }

    pub(super) fn path(&self, id: u64) -> Option<&RoutingPath> {
        self.paths.get(&id).map(|state| &state.path)
    }

    /// Paths that accept visitors. A snapshot: their keys are tried without the lock.
    pub(super) fn accepting(&self) -> Arc<[Arc<HopPath>]> {
        Arc::clone(&self.accepting)
    }

    /// Removes a path with all its tunnels.
    pub(super) fn remove_path(&mut self, id: u64) -> Option<PathState> {
        let state = self.paths.remove(&id)?;
        for end in state.path.ends().iter().flatten() {
            self.ends.remove(end);
        }
        for (serial, tunnel) in &state.tunnels {
            self.forget_join(TunnelRef { path: id, serial: *serial }, tunnel.join);
        }
        if matches!(&state.path, RoutingPath::Hop(hop) if !hop.route_keys.is_empty()) {
            self.accepting = self.accepting.iter().filter(|hop| hop.id != id).cloned().collect();
        }
        Some(state)
    }

    /// A place for one more tunnel in a path.
    pub(super) fn next_tunnel(&mut self, path: u64) -> Result<TunnelRef, Refused> {
        let state = self.paths.get(&path).ok_or(Refused::Gone)?;
        if state.tunnels.len() >= TUNNELS_PER_PATH {
            return Err(Refused::Full);
        }
        Ok(TunnelRef { path, serial: self.count() })
    }

    pub(super) fn add_tunnel(&mut self, now: Moment, at: TunnelRef, state: TunnelState) {
        self.remember_join(at, state.join);
        if let Some(path) = self.paths.get_mut(&at.path) {
            path.used = now;
            path.tunnels.insert(at.serial, state);
        }
    }

    pub(super) fn tunnel(&self, at: TunnelRef) -> Option<&TunnelState> {
        self.paths.get(&at.path)?.tunnels.get(&at.serial)
    }

    /// The way to the other terminal is known.
    pub(super) fn set_join(&mut self, at: TunnelRef, end: End) {
        self.remember_join(at, Some(end));
        let path = self.paths.get_mut(&at.path);
        if let Some(state) = path.and_then(|path| path.tunnels.get_mut(&at.serial)) {
            state.join = Some(end);
        }
    }

    pub(super) fn remove_tunnel(&mut self, at: TunnelRef) -> Option<TunnelState> {
        let state = self.paths.get_mut(&at.path)?.tunnels.remove(&at.serial)?;
        self.forget_join(at, state.join);
        Some(state)
    }

    fn remember_join(&mut self, at: TunnelRef, join: Option<End>) {
        if let Some(link) = join.and_then(|(link, _)| self.links.get_mut(&link)) {
            link.joins.insert(at);
        }
    }

    fn forget_join(&mut self, at: TunnelRef, join: Option<End>) {
        if let Some(link) = join.and_then(|(link, _)| self.links.get_mut(&link)) {
            link.joins.remove(&at);
        }
    }

    /// The flood rules of an entry: the oldest unconfirmed visitor makes room, not the new one; one exit's link holds
    /// at most a quarter (PROTOCOL §5).
    pub(super) fn room_for_visitor(&self, path: u64, exit: LinkId) -> Room {
        let Some(state) = self.paths.get(&path) else { return Room::Full };
        let by_exit = |tunnel: &TunnelState| tunnel.join.is_some_and(|(link, _)| link == exit);
        let exit_is_full = state.tunnels.values().filter(|t| by_exit(t)).count() >= TUNNELS_PER_EXIT;
        if !exit_is_full && state.tunnels.len() < TUNNELS_PER_PATH {
            return Room::Free;
        }
        state
            .tunnels
            .iter()
            .find(|(_, tunnel)| tunnel.unconfirmed_since().is_some() && (!exit_is_full || by_exit(tunnel)))
            .map_or(Room::Full, |(serial, _)| Room::InPlaceOf(TunnelRef { path, serial: *serial }))
    }

    /// Paths and tunnels whose time is over.
    pub(super) fn sweep(&mut self, now: Moment) -> (Vec<u64>, Vec<TunnelRef>) {
        let (mut paths, mut tunnels) = (Vec::new(), Vec::new());
        for (id, state) in &mut self.paths {
            if !state.tunnels.is_empty() {
                state.used = now;
            }
            if now >= state.expires || now.since(state.used) >= state.idle {
                paths.push(*id);
                continue;
            }
            let over = state.tunnels.iter().filter(|(_, tunnel)| tunnel.is_over(now));
            tunnels.extend(over.map(|(serial, _)| TunnelRef { path: *id, serial: *serial }));
        }
        (paths, tunnels)
    }

    /// Paths, path ends, tunnels and joins.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> [usize; 4] {
        [
            self.paths.len(),
            self.ends.len(),
            self.paths.values().map(|path| path.tunnels.len()).sum(),
            self.links.values().map(|link| link.joins.len()).sum(),
        ]
    }
}
