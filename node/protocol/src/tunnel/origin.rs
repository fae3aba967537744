//! The owner's side: a path that this node owns, and its tunnels (PROTOCOL §3, §5).
//!
//! The owner knows all secrets of its path, so it undoes in advance what every hop will do, and undoes afterwards what
//! every hop has done. Offsets are constant: from the number of one cell it computes the tweak at every hop, whatever
//! was dropped on the way.

use std::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering},
};

use super::{
    Kind, Outlet, OwnedHop, OwnedInstall, OwnerTunnelId, TunnelRef,
    gap::{Breach, Gap},
    hop::{End, LastUse, Novelty, Openers, PathEnd, lock},
    layer::{Layer, Seen, tunnel_layers, unturn_opener},
};
use crate::{
    crypto::wide_block::{Chain, Pass},
    limits::TUNNEL_CELLS,
    time::Moment,
    wire::{
        body,
        cell::{Body, Cell, Command},
    },
};

/// A path that this node owns.
pub(super) struct OwnedPath {
    pub(super) id: u64,
    /// X1.
    pub(super) end: PathEnd,
    pub(super) accepts: bool,
    hops: Vec<OwnedHop>,
    openers: Openers,
}

/// Why an opener cannot be used.
pub(super) enum OpenerRefused {
    Repeated,
    /// The replay cache is full: the path must end.
    Full,
}

impl OwnedPath {
    pub(super) fn new(id: u64, install: OwnedInstall) -> OwnedPath {
        OwnedPath {
            id,
            end: (install.link, install.path),
            accepts: install.accepts,
            hops: install.hops,
            openers: Openers::new(),
        }
    }

    /// Prepares an opener for its way out.
    pub(super) fn wrap_opener(&self, body: &mut Body) -> Result<Layers, OpenerRefused> {
        let mut seen: Vec<Seen> = self
            .hops
            .iter()
            .rev()
            .map(|hop| unturn_opener(&hop.secret, hop.owner_side.direction(), body))
            .collect();
        seen.reverse();
        self.layers(&seen)
    }

    /// Takes off what the hops have done to an opener that has come in.
    pub(super) fn unwrap_opener(&self, body: &mut Body) -> Result<Layers, OpenerRefused> {
        let seen: Vec<Seen> = self
            .hops
            .iter()
            .map(|hop| unturn_opener(&hop.secret, hop.owner_side.other().direction(), body))
            .collect();
        self.layers(&seen)
    }

    /// The tunnel's layers at all hops, by how each saw the opener on its side A. What X1 saw stands for all in the
    /// replay cache.
    fn layers(&self, seen: &[Seen]) -> Result<Layers, OpenerRefused> {
        match seen.first().map(|first| self.openers.remember(*first)) {
            Some(Novelty::New) => {}
            Some(Novelty::Repeated) => return Err(OpenerRefused::Repeated),
            Some(Novelty::Full) | None => return Err(OpenerRefused::Full),
        }
        let mut layers = Layers { outward: Vec::new(), inward: Vec::new() };
        let (mut out_shift, mut in_shift) = (0u32, 0u32);
        for (hop, seen) in self.hops.iter().zip(seen) {
            let [a, b] = tunnel_layers(&hop.secret, seen);
            let (outward, inward) = match hop.owner_side {
                super::Side::A => (a, b),
                super::Side::B => (b, a),
            };
            let out_offset = outward.offset;
            layers.outward.push((out_shift, outward));
            out_shift = out_shift.wrapping_add(out_offset);
            in_shift = in_shift.wrapping_sub(inward.offset);
            layers.inward.push((in_shift, inward));
        }
        Ok(layers)
    }
}

/// The layers of all hops, X1 first, each with what to add to a cell's number at the owner to get its tweak there.
pub(super) struct Layers {
    outward: Vec<(u32, Layer)>,
    inward: Vec<(u32, Layer)>,
}

/// What a tunnel of ours is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Echo,
    Publish,
    Join,
    Incoming,
}

/// The count towards the network.
struct Outgoing {
    next: u32,
    sent: u32,
}

/// A tunnel of ours.
pub(super) struct Origin {
    pub(super) at: TunnelRef,
    /// X1.
    pub(super) end: End,
    pub(super) purpose: Purpose,
    layers: Layers,
    outgoing: Mutex<Outgoing>,
    gap: Mutex<Gap>,
    /// Of a join: the answer, or a datagram that stands for it, has come.
    settled: AtomicBool,
    pub(super) used: LastUse,
}

impl Origin {
    /// `first` is the number of the first cell: random.
    pub(super) fn new(
        at: TunnelRef,
        end: End,
        purpose: Purpose,
        layers: Layers,
        first: u32,
        now: Moment,
    ) -> Origin {
        Origin {
            at,
            end,
            purpose,
            layers,
            outgoing: Mutex::new(Outgoing { next: first, sent: 0 }),
            gap: Mutex::new(Gap::new()),
            settled: AtomicBool::new(false),
            used: LastUse::new(now),
        }
    }

    pub(super) fn id(&self) -> OwnerTunnelId {
        OwnerTunnelId(self.at.serial)
    }

    /// Whether this is the first sign that the join stands.
    pub(super) fn settle(&self) -> bool {
        self.purpose == Purpose::Join
            && !self.settled.load(Ordering::Relaxed)
            && !self.settled.swap(true, Ordering::Relaxed)
    }

    /// Puts all layers on and sends. The lock keeps a cell's number and its place in the queue together; whoever
    /// sends on one tunnel from several threads waits for himself only.
    pub(super) fn send(&self, kind: Kind, payload: &[u8], out: &mut impl Outlet) -> Result<(), SendFailed> {
        let mut cell = Cell::new(Command::Data, self.end.1);
        body::write(kind, payload, cell.body_mut()).map_err(|_| SendFailed::TooLong)?;
        let mut outgoing = lock(&self.outgoing);
        if outgoing.sent >= TUNNEL_CELLS {
            return Err(SendFailed::Worn);
        }
        let number = outgoing.next;
        let layers = self.layers.outward.iter().rev();
        let passes = layers.map(|(shift, layer)| layer.unturn(number.wrapping_add(*shift)));
        Chain::default().turn(passes, cell.body_mut(), None);
        cell.set_index(outgoing.next);
        outgoing.next = outgoing.next.wrapping_add(1);
        outgoing.sent += 1;
        out.forward(self.end.0, &cell);
        Ok(())
    }

    /// Checks the number of a cell that has come in.
    pub(super) fn check(&self, cell: &Cell) -> Result<(), Breach> {
        lock(&self.gap).accept(cell.index())
    }

    /// What is to be done to a cell of this number, layer by layer.
    pub(super) fn pass(&self, number: u32, layer: usize) -> Option<Pass<'_>> {
        let (shift, layer) = self.layers.inward.get(layer)?;
        Some(layer.unturn(number.wrapping_add(*shift)))
    }
}

/// Why a cell was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SendFailed {
    TooLong,
    /// The tunnel has carried all that it may.
    Worn,
}
