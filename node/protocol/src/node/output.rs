//! What a node asks of its driver, and tells it.

use std::time::Duration;

#[cfg(doc)]
use super::Node;
use super::{OpenFailure, ServiceId, Ticket, TrialFailure};
use crate::{
    crypto::datagram::SessionSecret,
    identity::NodeId,
    tunnel::{OwnedPathId, OwnerTunnelId},
    wire::{cell::LinkId, contact::Contact, control::ControlMessage, opener::Answer},
};

/// What the driver must do.
pub enum Output {
    /// Dial this node. Then call [`Node::handle_link_up`] or [`Node::handle_dial_failed`].
    Dial(Contact),
    /// Send this over the link.
    Send {
        /// Which.
        link: LinkId,
        /// What.
        message: ControlMessage,
    },
    /// A tunnel towards the peer is on its way: datagrams may follow at once.
    Opened {
        /// Whose request it answers.
        ticket: Ticket,
        /// The tunnel.
        tunnel: OwnerTunnelId,
        /// What its first datagrams are sealed with.
        secret: SessionSecret,
        /// The entry node that it asks for, to be avoided if it fails.
        entry: NodeId,
        /// Our own path that it runs in.
        path: OwnedPathId,
    },
    /// There will be no tunnel.
    OpenFailed {
        /// Whose request it answers.
        ticket: Ticket,
        /// Why.
        why: OpenFailure,
    },
    /// The far end of a tunnel has said what became of it.
    Answered {
        /// The tunnel.
        tunnel: OwnerTunnelId,
        /// What.
        answer: Answer,
    },
    /// A visitor came in.
    Incoming {
        /// For whom.
        service: ServiceId,
        /// By which tunnel.
        tunnel: OwnerTunnelId,
        /// Secrets that the visitor's first datagrams may be sealed with.
        secrets: Vec<SessionSecret>,
    },
    /// A tunnel is gone.
    TunnelEnded {
        /// Which.
        tunnel: OwnerTunnelId,
    },
    /// The service's entry has been published with this many ways in.
    Published {
        /// Whose.
        service: ServiceId,
        /// How many.
        entries: usize,
    },
    /// How the building of one path went.
    Trial {
        /// Whose request it answers.
        ticket: Ticket,
        /// How long it took, or why it failed.
        outcome: Result<Duration, TrialFailure>,
    },
    /// End this link: its peer did what no honest node does.
    CloseLink(LinkId),
    /// Close this link in order: nobody has used it for long.
    ReleaseLink(LinkId),
    /// Open a connection to this node and end it again before a word is said, link or no link. Then call
    /// [`Node::handle_knocked`].
    Knock(Contact),
    /// From now on this node says that it can be dialled, or no longer does.
    Relaying(bool),
    /// Keep this on disk: it is what was carried this month.
    KeepSpending(Vec<u8>),
    /// Keep this on disk: it is the memory of guards and of the pace of building.
    Persist(Vec<u8>),
}
