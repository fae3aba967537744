//! Routing tunnels: the hop layer, and both ends of it (PROTOCOL §3, §5).
//!
//! A [`Switch`] holds all tunnels of a node, whatever the node is for them: a relay turns one layer and passes the cell
//! on, a terminal joins two paths, an owner puts on or takes off all layers. Who owns a path, where it leads and how it
//! was set up are not known here: paths are installed and ended by the driver.
//!
//! ```text
//! link task   --- handle_cells --> +--------+ --- Outlet::forward ---> queue of a link
//! session     --- send ----------> | Switch | --- Outlet::deliver ---> session
//! driver      --- install, end --> +--------+ --- Outlet::report ----> driver
//! ```
//!
//! Cells go this way without allocation and without passing the driver: one look-up in a `DashMap`, an `Arc` cloned
//! out, one layer turned in place. What is iterated lies in a [`registry`], which only opening and closing touches.

mod close;
mod fault;
mod gap;
mod hop;
mod layer;
mod open;
mod origin;
pub mod queue;
mod registry;
mod row;
mod switch;
mod terminal;

#[cfg(test)]
pub(crate) mod testnet;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use fault::PeerMisbehaved;
pub use queue::{FairQueue, QueueLimits, Stuck};
pub use switch::Switch;

pub use crate::wire::{
    body::{Kind, MAX_PAYLOAD},
    opener::{Answer, Opener},
};
use crate::{
    crypto::{Direction, Key, proof::RouteKey},
    time::Moment,
    wire::{
        cell::{Cell, LinkId, PathId},
        contact::Contact,
    },
};

/// One of the two neighbours of a hop, in the order that the path's owner has drawn: the coin (PROTOCOL §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// Cells that come in here run from A to B.
    A = 0,
    /// Cells that come in here run from B to A.
    B = 1,
}

impl Side {
    /// The other neighbour.
    pub fn other(self) -> Side {
        match self {
            Side::A => Side::B,
            Side::B => Side::A,
        }
    }

    /// The direction of what comes in on this side.
    pub fn direction(self) -> Direction {
        match self {
            Side::A => Direction::AtoB,
            Side::B => Direction::BtoA,
        }
    }
}

/// Names a routing path that this node owns. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnedPathId(pub(crate) u64);

/// Names one end of a routing tunnel that this node owns, outgoing or incoming. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnerTunnelId(pub(crate) u64);

impl OwnerTunnelId {
    /// The number, for addresses that a session makes of it.
    pub fn get(self) -> u64 {
        self.0
    }

    /// The tunnel with this number; it need not exist.
    pub fn from_number(number: u64) -> OwnerTunnelId {
        OwnerTunnelId(number)
    }
}

/// Names a tunnel whose terminal, this node, waits for a link to an entry node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExitTunnel(pub(crate) TunnelRef);

/// A path and a tunnel inside it, as this node numbers them. Tunnels of all paths count together, so that a smaller
/// number is an older tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TunnelRef {
    pub(crate) path: u64,
    pub(crate) serial: u64,
}

/// What a node that serves as an X-node has learnt from its goodie box.
pub struct HopInstall {
    /// The neighbours, indexed by [`Side`]. Exactly one is `None` at a terminal: the outside.
    pub neighbours: [Option<(LinkId, PathId)>; 2],
    /// The hop secret. It never touches the disk.
    pub secret: Key,
    /// At a terminal: whom it accepts joins for. Empty elsewhere, and where the path is an exit only.
    pub route_keys: Vec<RouteKey>,
    /// When the hop ends the path.
    pub expires: Moment,
    /// The hop ends the path when it has had no tunnel for this long.
    pub idle: Duration,
}

/// A path that this node owns and has set up.
pub struct OwnedInstall {
    /// The link to X1: [`LinkId::LOOP_A`] for length 0.
    pub link: LinkId,
    /// The path's id on that link.
    pub path: PathId,
    /// X1 to Xn; for length 0 this node itself, as its own terminal behind [`LinkId::LOOP_B`].
    pub hops: Vec<OwnedHop>,
    /// Whether visitors may come in: it has route keys at its terminal.
    pub accepts: bool,
    /// When the path is over.
    pub expires: Moment,
    /// The path ends when it has had no tunnel for this long.
    pub idle: Duration,
}

/// A hop as the path's owner knows it.
pub struct OwnedHop {
    /// The hop secret.
    pub secret: Key,
    /// The coin: which of the hop's sides looks towards the owner.
    pub owner_side: Side,
}

/// Where a [`Switch`] puts what it makes of a cell. All return at once and call nothing of the switch.
pub trait Outlet {
    /// Puts a cell into the queue of a link. What goes to [`LinkId::LOOP_A`] must come in again from
    /// [`LinkId::LOOP_B`], and the other way round.
    fn forward(&mut self, link: LinkId, cell: &Cell);
    /// The same for several, in their order.
    fn forward_all(&mut self, link: LinkId, cells: &[Cell]) {
        cells.iter().for_each(|cell| self.forward(link, cell));
    }
    /// Hands over the payload of a cell for the owner of a tunnel: [`Kind::Sealed`] or [`Kind::Plain`]. It may come
    /// before `open_tunnel` has returned the id, or before the driver has seen [`SwitchEvent::Incoming`].
    fn deliver(&mut self, tunnel: OwnerTunnelId, kind: Kind, payload: &[u8]);
    /// Tells the driver.
    fn report(&mut self, event: SwitchEvent);
}

/// What the driver has to know, or to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SwitchEvent {
    /// A tunnel's owner wants this node, its terminal, to join `entry`: find or make a link to it, prove that it is
    /// the one, then call [`Switch::exit_dialled`]. Not reported where the entry is this node itself.
    Dial {
        /// Which tunnel waits.
        exit: ExitTunnel,
        /// Whom to dial. Public addresses only, unless the network is a test.
        entry: Contact,
    },
    /// A visitor has come in on one of our paths. Unless [`Switch::confirm`] is called, the entry soon closes it.
    Incoming {
        /// The path it came by.
        path: OwnedPathId,
        /// The new tunnel.
        tunnel: OwnerTunnelId,
    },
    /// What became of an opener of ours. After [`Answer::Published`] the tunnel is gone without a `TunnelClosed`.
    Answered {
        /// The tunnel that `open_tunnel` returned.
        tunnel: OwnerTunnelId,
        /// What the terminal says. A first datagram from the other side counts as [`Answer::Joined`].
        answer: Answer,
    },
    /// An opener of kind echo has come back. Its tunnel is gone without a `TunnelClosed`.
    Echoed {
        /// The path works.
        path: OwnedPathId,
    },
    /// A tunnel of ours is gone, for whatever reason but `close_tunnel`.
    TunnelClosed {
        /// Which.
        tunnel: OwnerTunnelId,
    },
    /// A path of ours is gone, for whatever reason but `end_owned_path`. Its tunnels have been reported before.
    OwnedPathEnded {
        /// Which.
        path: OwnedPathId,
    },
    /// A path that we served as a hop is gone, for whatever reason but `end_hop_path`.
    HopPathEnded {
        /// Both its ends here; `None` is the outside of a terminal.
        neighbours: [Option<(LinkId, PathId)>; 2],
    },
    /// A tunnel's owner wants this node, its terminal, to put an AP entry into the network database. Not checked.
    Publish {
        /// The link that it came over.
        link: LinkId,
        /// The encoded entry.
        entry: Vec<u8>,
    },
    /// The peer of a link did what no honest node does. What it concerned is closed already.
    Misbehaved {
        /// Whose peer.
        link: LinkId,
        /// The sin, for the log. It is never put on the wire.
        what: PeerMisbehaved,
    },
}
