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
    terminal::HeldCells,
};
use crate::{
    identity::NodeId,
    time::Moment,
    wire::cell::{Cell, Command, LinkId, PathId, TunnelId},
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

    /// Takes cells that a link has brought, in their order. They are turned in place; what they were is lost.
    pub fn handle_cells(&self, now: Moment, from: LinkId, cells: &mut [Cell], out: &mut impl Outlet) {
        for row in cells.chunk_by_mut(|one, next| is_data(one) == is_data(next)) {
            if row.first().is_some_and(is_data) {
                self.handle_data(from, row, out);
            } else {
                row.iter_mut().for_each(|cell| self.handle_other(now, from, cell, out));
            }
        }
    }

    /// Takes one.
    pub fn handle_cell(&self, now: Moment, from: LinkId, cell: &mut Cell, out: &mut impl Outlet) {
        self.handle_cells(now, from, std::slice::from_mut(cell), out);
    }

    fn handle_other(&self, now: Moment, from: LinkId, cell: &mut Cell, out: &mut impl Outlet) {
        let Some(command) = clean_command(cell) else {
            return out.report(SwitchEvent::Misbehaved { link: from, what: PeerMisbehaved::DirtyHeader });
        };
        match command {
            Command::Open => self.handle_open(now, from, cell, out),
            Command::Close => self.handle_close((from, cell.tunnel()), out),
            Command::Join => self.handle_join(now, from, cell, out),
            Command::Joined => self.handle_joined((from, cell.tunnel()), out),
            Command::Destroy => self.handle_destroy((from, cell.path()), out),
            Command::Data | Command::Dummy | Command::Control | Command::Hello => {
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

/// A data cell that nothing is wrong with so far.
fn is_data(cell: &Cell) -> bool {
    clean_command(cell) == Some(Command::Data)
}

fn clean_command(cell: &Cell) -> Option<Command> {
    cell.command().ok().filter(|command| is_clean(*command, cell))
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
