//! Why tunnels end before their time. Inside, an error names the sin; on the wire all are a CLOSE.

use super::gap::Breach;
use crate::wire::body::BadBody;

/// What the peer of a link did that no honest node does. An honest node closes a tunnel instead of forwarding such a
/// cell, so it is the neighbour who is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerMisbehaved {
    /// An unknown command, or a field in use that the command does not have.
    #[error("a cell with an unknown command or a dirty header")]
    DirtyHeader,
    /// Dummy, control and hello cells are the link's, they never reach the switch.
    #[error("a cell of the link's own among the tunnels' cells")]
    ForeignCommand,
    /// The peer opened a tunnel under an id that this side picks from, or that is in use.
    #[error("a tunnel id that is not the peer's to pick")]
    ForeignTunnelId,
    /// An opener came for the second time.
    #[error("a repeated opener")]
    RepeatedOpener,
    /// A cell's number repeats, runs back or leaps. An honest relay never makes it repeat or run back; a leap may be a long
    /// row of cells that it had to drop.
    #[error("a cell's number repeats, runs back or leaps")]
    BadStep,
    /// A joined or data cell came in a state where it has no business, from a node that is the other terminal.
    #[error("a cell between terminals that breaks their rules")]
    BadJoin,
}

impl PeerMisbehaved {
    /// Whether the neighbour alone can have done it, so that its link ends. A leap may have begun with an owner who
    /// leaves out as many numbers as the rule allows, and have grown by an honest queue's drop; an opener that is new at
    /// one hop may equal, as seen on side A of the next, an earlier one of the other direction, if an owner and its
    /// terminal have made it so. These end the tunnel only, or owners could make honest neighbours part.
    pub(crate) fn is_the_peers_own(self) -> bool {
        !matches!(self, PeerMisbehaved::BadStep | PeerMisbehaved::RepeatedOpener)
    }
}

/// Why a tunnel is closed by this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    #[error(transparent)]
    Gap(#[from] Breach),
    #[error(transparent)]
    Body(#[from] BadBody),
    /// A sound body whose kind has no business in this state.
    #[error("a cell in a state where it has no business")]
    NoBusiness,
}
