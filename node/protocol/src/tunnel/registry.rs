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
    budget::Budget,
    identity::NodeId,
    limits::{
        ACCEPTED_KEYS, ACCEPTING_PATHS, JOINS_PER_LINK, PATH_SHARES, PATHS, PATHS_OF_EVERY_LINK, TUNNEL_IDLE,
        TUNNEL_SHARES, TUNNELS, TUNNELS_OF_EVERY_PATH, TUNNELS_PER_EXIT, TUNNELS_PER_PATH, UNCONFIRMED,
    },
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
    /// Ends of paths that it carries.
    paths: usize,
    /// Joins that the peer may still try.
    attempts: Option<Budget>,
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
    /// Tunnels of all paths.
    tunnels: usize,
}

impl Registry {
    pub(super) fn link_up(&mut self, link: LinkId, peer: NodeId, dialled: bool) {
        self.links.insert(
            link,
            Link { peer, dialled, picked: 0, joins: BTreeSet::new(), paths: 0, attempts: None },
        );
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

    /// Links that carry neither a path nor a join.
    pub(super) fn idle_links(&self) -> Vec<LinkId> {
        let idle = self.links.iter().filter(|(_, link)| link.paths == 0 && link.joins.is_empty());
        idle.map(|(id, _)| *id).collect()
    }

    /// Whether the peer may try one more join: each costs an entry work for all whom it accepts for.
    pub(super) fn may_join(&mut self, now: Moment, link: LinkId) -> bool {
        let Some(link) = self.links.get_mut(&link) else { return false };
        let attempts = link.attempts.get_or_insert_with(|| Budget::new(now, JOINS_PER_LINK));
        let allowed = attempts.allows(now);
        if allowed {
            attempts.spend(1);
        }
        allowed
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
        let keys: usize = self.accepting.iter().map(|hop| hop.route_keys.len()).sum();
        let is_full =
            self.accepting.len() >= ACCEPTING_PATHS || keys + install.route_keys.len() > ACCEPTED_KEYS;
        if accepts && (!is_terminal || is_full) {
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

    /// Paths of others: those that this node is no end of.
    pub(super) fn of_others(&self) -> Vec<u64> {
        let is_of_others = |state: &PathState| match &state.path {
            RoutingPath::Hop(hop) => hop.neighbours.iter().flatten().all(|end| end.0.0 >= LinkId::FIRST),
            RoutingPath::Owned(_) => false,
        };
        self.paths.iter().filter(|(_, state)| is_of_others(state)).map(|(id, _)| *id).collect()
    }

    fn are_free(&self, ends: &[Option<PathEnd>; 2]) -> bool {
        let [a, b] = ends;
        a != b
            && ends
                .iter()
                .flatten()
                .all(|end| self.has_room_for_a_path(end.0) && !self.ends.contains_key(end))
    }

    /// A link that stands carries paths: the fewer places are free at this node, the fewer, but always some.
    fn has_room_for_a_path(&self, link: LinkId) -> bool {
        let free = PATHS.saturating_sub(self.paths.len());
        self.links.get(&link).is_some_and(|link| link.paths < (free / PATH_SHARES).max(PATHS_OF_EVERY_LINK))
    }

    fn add(&mut self, now: Moment, id: u64, path: RoutingPath, expires: Moment, idle: Duration) {
        for end in path.ends().into_iter().flatten() {
            self.ends.insert(end, id);
            if let Some(link) = self.links.get_mut(&end.0) {
                link.paths += 1;
            }
        }
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
            if let Some(link) = self.links.get_mut(&end.0) {
                link.paths = link.paths.saturating_sub(1);
            }
        }
        self.tunnels = self.tunnels.saturating_sub(state.tunnels.len());
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
        if state.tunnels.len() >= self.tunnels_of_a_path() {
            return Err(Refused::Full);
        }
        Ok(TunnelRef { path, serial: self.count() })
    }

    /// How many tunnels a path may hold: the fewer places are free at this node, the fewer, but always some, however
    /// many others are full.
    fn tunnels_of_a_path(&self) -> usize {
        (TUNNELS.saturating_sub(self.tunnels) / TUNNEL_SHARES).clamp(TUNNELS_OF_EVERY_PATH, TUNNELS_PER_PATH)
    }

    pub(super) fn add_tunnel(&mut self, now: Moment, at: TunnelRef, state: TunnelState) {
        self.remember_join(at, state.join);
        if let Some(path) = self.paths.get_mut(&at.path) {
            path.used = now;
            self.tunnels += 1;
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
        self.tunnels = self.tunnels.saturating_sub(1);
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
        if !exit_is_full && state.tunnels.len() < self.tunnels_of_a_path() {
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
    pub(super) fn sizes(&self) -> [usize; 4] {
        [
            self.paths.len(),
            self.ends.len(),
            self.paths.values().map(|path| path.tunnels.len()).sum(),
            self.links.values().map(|link| link.joins.len()).sum(),
        ]
    }
}
