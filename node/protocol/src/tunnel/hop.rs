//! A path as one of its hops knows it, and a relay's tunnels in it (PROTOCOL §3, §4, §5).

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use super::{
    HopInstall, Side, TunnelRef,
    gap::{Breach, Gap},
    layer::{Layer, Seen, tunnel_layers, turn_opener},
};
use crate::{
    crypto::{
        Key,
        proof::{RouteKey, Token},
        wide_block::Pass,
    },
    identity::NodeId,
    limits::{OPENERS_PER_PATH, TOKENS_REMEMBERED},
    time::Moment,
    wire::cell::{Body, Cell, LinkId, PathId, TunnelId},
};

/// One end of a tunnel.
pub(super) type End = (LinkId, TunnelId);
/// One end of a path.
pub(super) type PathEnd = (LinkId, PathId);

/// Locks; a panic elsewhere has not left anything half done under any of these locks.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Since when nothing has happened, exact to one sweep: cells set a flag, the sweep knows the time.
pub(super) struct LastUse {
    active: AtomicBool,
    /// Written by the sweep alone.
    last: AtomicU64,
}

impl LastUse {
    pub(super) fn new(now: Moment) -> LastUse {
        LastUse { active: AtomicBool::new(false), last: AtomicU64::new(now.0) }
    }

    /// Looks before it writes: threads of both directions share this, and most find it set.
    pub(super) fn touch(&self) {
        if !self.active.load(Ordering::Relaxed) {
            self.active.store(true, Ordering::Relaxed);
        }
    }

    /// For the sweep: when it was last in use.
    pub(super) fn at(&self, now: Moment) -> Moment {
        if self.active.swap(false, Ordering::Relaxed) {
            self.last.store(now.0, Ordering::Relaxed);
        }
        Moment(self.last.load(Ordering::Relaxed))
    }
}

/// What became of an opener at the replay cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Novelty {
    New,
    Repeated,
    /// The cache is full; nothing is ever evicted, so the path must end.
    Full,
}

/// The openers that a path has seen.
pub(super) struct Openers(Mutex<BTreeSet<Seen>>);

impl Openers {
    pub(super) fn new() -> Openers {
        Openers(Mutex::new(BTreeSet::new()))
    }

    pub(super) fn remember(&self, seen: Seen) -> Novelty {
        let mut known = lock(&self.0);
        if known.contains(&seen) {
            Novelty::Repeated
        } else if known.len() >= OPENERS_PER_PATH {
            Novelty::Full
        } else {
            known.insert(seen);
            Novelty::New
        }
    }
}

/// The numbers of the last tokens that a path has accepted.
#[derive(Default)]
struct Tokens {
    order: VecDeque<[u8; 16]>,
    known: BTreeSet<[u8; 16]>,
}

/// A path that this node serves.
pub(super) struct HopPath {
    pub(super) id: u64,
    /// Indexed by [`Side`]; `None` is a terminal's outside.
    pub(super) neighbours: [Option<PathEnd>; 2],
    secret: Key,
    openers: Openers,
    pub(super) route_keys: Vec<RouteKey>,
    tokens: Mutex<Tokens>,
}

impl HopPath {
    pub(super) fn new(id: u64, install: HopInstall) -> HopPath {
        HopPath {
            id,
            neighbours: install.neighbours,
            secret: install.secret,
            openers: Openers::new(),
            route_keys: install.route_keys,
            tokens: Mutex::default(),
        }
    }

    pub(super) fn neighbour(&self, side: Side) -> Option<PathEnd> {
        let [a, b] = self.neighbours;
        match side {
            Side::A => a,
            Side::B => b,
        }
    }

    /// On which side this neighbour is.
    pub(super) fn side_of(&self, end: PathEnd) -> Option<Side> {
        [Side::A, Side::B].into_iter().find(|side| self.neighbour(*side) == Some(end))
    }

    /// At a terminal: the side that does not lead to the owner.
    pub(super) fn outside(&self) -> Option<Side> {
        [Side::A, Side::B].into_iter().find(|side| self.neighbour(*side).is_none())
    }

    /// Permutes an opener that came in on `side`, and returns the layers of its tunnel if it is a new one.
    pub(super) fn turn_opener(&self, side: Side, body: &mut Body) -> Result<[Layer; 2], Novelty> {
        let seen = turn_opener(&self.secret, side.direction(), body);
        match self.openers.remember(seen) {
            Novelty::New => Ok(tunnel_layers(&self.secret, &seen)),
            refused => Err(refused),
        }
    }

    /// Whether this path's owner accepts the token. Tries all keys, whichever fits: how long it takes says nothing.
    pub(super) fn accepts(&self, token: &Token, exit: &NodeId, entry: &NodeId) -> bool {
        self.route_keys.iter().fold(false, |accepted, key| accepted | key.accepts(token, exit, entry))
    }

    /// Whether an accepted token is new; remembers it.
    pub(super) fn redeem(&self, token: &Token) -> bool {
        let mut tokens = lock(&self.tokens);
        let nonce = token.nonce();
        if !tokens.known.insert(nonce) {
            return false;
        }
        tokens.order.push_back(nonce);
        if tokens.order.len() > TOKENS_REMEMBERED
            && let Some(oldest) = tokens.order.pop_front()
        {
            tokens.known.remove(&oldest);
        }
        true
    }
}

/// One direction of a tunnel, from the side where it comes in.
pub(super) struct Way {
    gap: Mutex<Gap>,
    layer: Layer,
}

impl Way {
    pub(super) fn new(layer: Layer) -> Way {
        Way { gap: Mutex::new(Gap::new()), layer }
    }

    /// Checks a cell's number. The lock is never contended, for one link is read by one thread.
    pub(super) fn check(&self, cell: &Cell) -> Result<(), Breach> {
        lock(&self.gap).accept(cell.index())
    }

    /// What is to be done to a cell of this number.
    pub(super) fn pass(&self, number: u32) -> Pass<'_> {
        self.layer.turn(number)
    }

    /// Renumbers a cell that was turned.
    pub(super) fn renumber(&self, cell: &mut Cell) {
        cell.set_index(cell.index().wrapping_add(self.layer.offset));
    }
}

/// A tunnel through this node.
pub(super) struct Relay {
    pub(super) at: TunnelRef,
    /// Indexed by [`Side`].
    pub(super) ends: [End; 2],
    ways: [Way; 2],
    pub(super) used: LastUse,
}

impl Relay {
    pub(super) fn new(at: TunnelRef, ends: [End; 2], layers: [Layer; 2], now: Moment) -> Relay {
        Relay { at, ends, ways: layers.map(Way::new), used: LastUse::new(now) }
    }

    /// The direction of cells that come in on `from`.
    pub(super) fn way(&self, from: Side) -> &Way {
        let [ab, ba] = &self.ways;
        match from {
            Side::A => ab,
            Side::B => ba,
        }
    }

    /// Addresses a cell that came in on `from` and was turned; the link that it leaves by.
    pub(super) fn readdress(&self, from: Side, cell: &mut Cell) -> LinkId {
        let [a, b] = self.ends;
        let (link, tunnel) = match from {
            Side::A => b,
            Side::B => a,
        };
        self.way(from).renumber(cell);
        cell.set_tunnel(tunnel);
        link
    }
}
