//! The forwarding table (PROTOCOL §3): one cell in, one layer, one cell out.
//!
//! Many link tasks share one `Switch`. Its `DashMap` has an injected hasher with a fixed seed and is never iterated; a
//! cell's tunnel is cloned out of it before any cryptography. Order of locks: the registry's before a shard's, and
//! none of either while a cell is turned or handed to the outlet.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use dashmap::DashMap;
use foldhash::quality::FixedState;
use rand::{SeedableRng, rngs::ChaCha20Rng};
use rand_core::Rng;

use super::{
    HopInstall, Kind, Outlet, OwnedInstall, OwnedPathId, OwnerTunnelId, PeerMisbehaved, SwitchEvent,
    TunnelRef,
    fault::Fault,
    gap::Breach,
    hop::{End, lock},
    origin::{Origin, Purpose, SendFailed},
    registry::{Registry, Seat},
    terminal::{HeldCells, Terminal},
};
use crate::{
    identity::NodeId,
    time::Moment,
    wire::{
        cell::{Cell, Command, LinkId, PathId, TunnelId},
        opener::Answer,
    },
};

/// Shards of the table: more than cores.
const SHARDS: usize = 64;

/// All tunnels of a node. Every method may be called from any thread; the cells of one link must come one after the
/// other, in their order.
///
/// The order of calls: [`link_up`](Switch::link_up) before anything that names the link, `install_*` before the
/// neighbours can know that the path stands, [`link_down`](Switch::link_down) once, after the link's last cell.
/// [`handle_timeout`](Switch::handle_timeout) every [`SWITCH_SWEEP`](crate::limits::SWITCH_SWEEP).
pub struct Switch {
    pub(super) own: NodeId,
    pub(super) table: DashMap<End, Seat, FixedState>,
    pub(super) owners: DashMap<OwnerTunnelId, Arc<Origin>, FixedState>,
    pub(super) registry: Mutex<Registry>,
    pub(super) held: HeldCells,
    /// Tunnels that the gap rule has ended.
    gaps: AtomicU64,
    rng: Mutex<ChaCha20Rng>,
}

impl Switch {
    /// A switch without links but the one to itself. The seed must be secret and fresh: it makes the random bytes of
    /// openers and places tunnels in the table.
    pub fn new(seed: [u8; 32], own: NodeId) -> Switch {
        let mut rng = ChaCha20Rng::from_seed(seed);
        let hasher = FixedState::with_seed(rng.next_u64());
        let mut registry = Registry::default();
        registry.link_up(LinkId::LOOP_A, own, true);
        registry.link_up(LinkId::LOOP_B, own, false);
        Switch {
            own,
            table: DashMap::with_hasher_and_shard_amount(hasher.clone(), SHARDS),
            owners: DashMap::with_hasher_and_shard_amount(hasher, SHARDS),
            registry: Mutex::new(registry),
            held: HeldCells::default(),
            gaps: AtomicU64::new(0),
            rng: Mutex::new(rng),
        }
    }

    /// A link stands, and its peer has proved its identity.
    pub fn link_up(&self, link: LinkId, peer: NodeId, dialled: bool) {
        lock(&self.registry).link_up(link, peer, dialled);
    }

    /// Begins to serve a path as a hop. False if a neighbour's link is gone or its path id is taken, if there is no
    /// neighbour, if a path that is not a terminal's has route keys, or if the node accepts for too many.
    #[must_use]
    pub fn install_hop(&self, now: Moment, install: HopInstall) -> bool {
        lock(&self.registry).add_hop(now, install).is_some()
    }

    /// Begins to use a path that this node owns. `None` if the link to X1 is gone or the path id is taken there.
    pub fn install_owned(&self, now: Moment, install: OwnedInstall) -> Option<OwnedPathId> {
        lock(&self.registry).add_owned(now, install).map(|owned| OwnedPathId(owned.id))
    }

    /// Takes a cell that a link has brought. It is turned in place; what it was is lost.
    pub fn handle_cell(&self, now: Moment, from: LinkId, cell: &mut Cell, out: &mut impl Outlet) {
        let Some(command) = cell.command().ok().filter(|command| is_clean(*command, cell)) else {
            return out.report(SwitchEvent::Misbehaved { link: from, what: PeerMisbehaved::DirtyHeader });
        };
        match command {
            Command::Data => self.handle_data(from, cell, out),
            Command::Open => self.handle_open(now, from, cell, out),
            Command::Close => self.handle_close((from, cell.tunnel()), out),
            Command::Join => self.handle_join(now, from, cell, out),
            Command::Joined => self.handle_joined((from, cell.tunnel()), out),
            Command::Destroy => self.handle_destroy((from, cell.path()), out),
            Command::Dummy | Command::Control | Command::Hello => {
                out.report(SwitchEvent::Misbehaved { link: from, what: PeerMisbehaved::ForeignCommand });
            }
        }
    }

    /// Sends a datagram ([`Kind::Sealed`] or [`Kind::Plain`]) on a tunnel of ours. False if the tunnel is gone or the
    /// payload is longer than [`MAX_PAYLOAD`](super::MAX_PAYLOAD).
    pub fn send(&self, tunnel: OwnerTunnelId, kind: Kind, payload: &[u8], out: &mut impl Outlet) -> bool {
        if !kind.crosses() {
            return false;
        }
        let Some(origin) = self.origin(tunnel) else { return false };
        origin.used.touch();
        self.send_on(&origin, kind, payload, out)
    }

    /// Tells the entry of an incoming tunnel that it is wanted. The cell may be lost under load: calling again is
    /// harmless.
    pub fn confirm(&self, tunnel: OwnerTunnelId, out: &mut impl Outlet) {
        if let Some(origin) = self.origin(tunnel).filter(|origin| origin.purpose == Purpose::Incoming) {
            self.send_on(&origin, Kind::Confirm, &[], out);
        }
    }

    fn send_on(&self, origin: &Origin, kind: Kind, payload: &[u8], out: &mut impl Outlet) -> bool {
        match origin.send(kind, payload, out) {
            Ok(()) => true,
            Err(SendFailed::TooLong) => false,
            Err(SendFailed::Worn) => {
                self.close(origin.at, None, None, out);
                false
            }
        }
    }

    /// Links that carry neither a path nor a join.
    pub fn idle_links(&self) -> Vec<LinkId> {
        lock(&self.registry).idle_links()
    }

    /// Whether a path still stands here.
    pub fn has_path(&self, path: OwnedPathId) -> bool {
        lock(&self.registry).path(path.0).is_some()
    }

    /// Whether a tunnel of ours still stands here.
    pub fn is_open(&self, tunnel: OwnerTunnelId) -> bool {
        self.owners.contains_key(&tunnel)
    }

    pub(super) fn origin(&self, tunnel: OwnerTunnelId) -> Option<Arc<Origin>> {
        self.owners.get(&tunnel).map(|origin| Arc::clone(&origin))
    }

    pub(super) fn seat(&self, end: End) -> Option<Seat> {
        self.table.get(&end).map(|seat| seat.clone())
    }

    /// The hot path.
    fn handle_data(&self, from: LinkId, cell: &mut Cell, out: &mut impl Outlet) {
        match self.seat((from, cell.tunnel())) {
            Some(Seat::Relay(relay, side)) => match relay.pass(side, cell) {
                Ok(link) => {
                    relay.used.touch();
                    out.forward(link, cell);
                }
                Err(breach) => self.fault(relay.at, from, breach.into(), out),
            },
            Some(Seat::Origin(origin)) => self.data_for_owner(from, &origin, cell, out),
            Some(Seat::FromOwner(terminal)) => {
                terminal.used.touch();
                if let Err(fault) = terminal.handle_owner_cell(cell, &self.held, out) {
                    self.fault(terminal.at, from, fault, out);
                }
            }
            Some(Seat::FromJoin(terminal)) => self.data_from_join(from, &terminal, cell, out),
            // A tunnel that was closed here while the cell was on its way.
            None => {}
        }
    }

    fn data_from_join(&self, from: LinkId, terminal: &Terminal, cell: &mut Cell, out: &mut impl Outlet) {
        terminal.used.touch();
        match terminal.handle_join_cell(cell) {
            Ok(()) => out.forward(terminal.owner.0, cell),
            Err(fault) => {
                // No relay stands between two terminals: a bad body is the peer's own.
                if !matches!(fault, Fault::Gap(_)) {
                    out.report(SwitchEvent::Misbehaved { link: from, what: PeerMisbehaved::BadJoin });
                }
                self.fault(terminal.at, from, fault, out);
            }
        }
    }

    fn data_for_owner(&self, from: LinkId, origin: &Origin, cell: &mut Cell, out: &mut impl Outlet) {
        origin.used.touch();
        let tunnel = origin.id();
        let (kind, payload) = match origin.receive(cell) {
            Ok(content) => content,
            Err(fault) => return self.fault(origin.at, from, fault, out),
        };
        match (origin.purpose, kind) {
            (Purpose::Join | Purpose::Incoming, Kind::Sealed | Kind::Plain) => {
                // The answer may have been dropped on its way, as any data cell.
                if origin.settle() {
                    out.report(SwitchEvent::Answered { tunnel, answer: Answer::Joined });
                }
                out.deliver(tunnel, kind, payload);
            }
            (Purpose::Echo, Kind::Echo) if payload.is_empty() => {
                out.report(SwitchEvent::Echoed { path: OwnedPathId(origin.at.path) });
                self.close_tunnel(tunnel, out);
            }
            (Purpose::Join | Purpose::Publish, Kind::Answer) => match Answer::decode(payload) {
                Ok(answer) => self.answered(from, origin, answer, out),
                Err(malformed) => self.fault(origin.at, from, malformed.into(), out),
            },
            _ => self.fault(origin.at, from, Fault::NoBusiness, out),
        }
    }

    fn answered(&self, from: LinkId, origin: &Origin, answer: Answer, out: &mut impl Outlet) {
        let tunnel = origin.id();
        let fits = match origin.purpose {
            Purpose::Join => answer != Answer::Published && origin.settle(),
            _ => answer == Answer::Published,
        };
        if !fits {
            return self.fault(origin.at, from, Fault::NoBusiness, out);
        }
        out.report(SwitchEvent::Answered { tunnel, answer });
        if answer != Answer::Joined {
            self.close_tunnel(tunnel, out);
        }
    }

    /// Tunnels that this node has closed because of the gap rule: too much of them was lost on the way, or a neighbour
    /// misbehaves.
    pub fn closed_by_gap_rule(&self) -> u64 {
        self.gaps.load(Ordering::Relaxed)
    }

    /// Ends a tunnel for what a cell of it was.
    pub(super) fn fault(&self, at: TunnelRef, from: LinkId, fault: Fault, out: &mut impl Outlet) {
        if matches!(fault, Fault::Gap(Breach::Step | Breach::Missing)) {
            self.gaps.fetch_add(1, Ordering::Relaxed);
        }
        if fault == Fault::Gap(Breach::Step) {
            out.report(SwitchEvent::Misbehaved { link: from, what: PeerMisbehaved::BadStep });
        }
        self.close(at, None, None, out);
    }

    pub(super) fn random<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        lock(&self.rng).fill_bytes(&mut bytes);
        bytes
    }

    /// What is open: paths, path ends, tunnels, joins, seats, owners' tunnels, held cells. All are zero when all has
    /// ended.
    pub fn sizes(&self) -> [usize; 7] {
        let [paths, ends, tunnels, joins] = lock(&self.registry).sizes();
        [paths, ends, tunnels, joins, self.table.len(), self.owners.len(), self.held.count()]
    }
}

/// Whether the fields that a command does not use are zero: an honest relay must not carry a mark for others.
fn is_clean(command: Command, cell: &Cell) -> bool {
    let (tunnel, path) = (cell.tunnel() != TunnelId::default(), cell.path() != PathId::default());
    match command {
        Command::Data => tunnel && !path,
        Command::Open => tunnel && cell.index() == 0,
        Command::Close | Command::Join | Command::Joined => tunnel && !path && cell.index() == 0,
        Command::Destroy => !tunnel && cell.index() == 0,
        Command::Dummy | Command::Control | Command::Hello => true,
    }
}
