//! What links tell the driver, in order, through one channel.
//!
//! Nothing is lost: the channel has no bound of its own. Instead each link pauses its reading while the driver has too
//! much of *its* news before it, so a peer that floods fills its own TCP window and nothing else.

use std::{net::SocketAddr, sync::Arc};

use phantom_protocol::{
    identity::NodeId,
    tunnel::SwitchEvent,
    wire::{cell::LinkId, control::ControlMessage, hello::ProvenPeer},
};
use tokio::sync::mpsc;

use super::{dial::DialError, table::Link, task::LinkEnd};

/// News for the driver.
#[derive(Debug)]
pub enum LinkEvent {
    /// Both sides have proved their identity; cells flow.
    Up {
        /// The new link.
        link: LinkId,
        /// Who is at its other end.
        peer: ProvenPeer,
        /// Where the TCP connection goes to, or came from.
        address: SocketAddr,
        /// Whether this node dialled.
        dialled: bool,
    },
    /// The link has ended, whoever ended it. Nothing comes from it any more.
    Down {
        /// The link.
        link: LinkId,
        /// Who was at its other end.
        peer: NodeId,
        /// Why it ended.
        why: LinkEnd,
    },
    /// The neighbour says something.
    Message {
        /// The link that it came on.
        link: LinkId,
        /// What it says.
        message: ControlMessage,
    },
    /// There will be no link from [`Links::dial`](super::Links::dial).
    DialFailed {
        /// Whom we dialled.
        node: NodeId,
        /// Why it failed.
        why: DialError,
    },
    /// What has become of [`Links::knock`](super::Links::knock).
    Knocked {
        /// At whose door.
        node: NodeId,
        /// Whether that node is there.
        reached: bool,
    },
    /// The switch met something that is not its own to decide.
    Switch(SwitchEvent),
}

/// Bytes that an event weighs at least.
const LEAST_WEIGHT: usize = 256;

struct Queued {
    event: LinkEvent,
    source: Option<(Arc<Link>, usize)>,
}

/// Where links put their news.
#[derive(Clone)]
pub(super) struct EventSender(mpsc::UnboundedSender<Queued>);

/// Where the driver takes it from.
pub struct LinkEvents(mpsc::UnboundedReceiver<Queued>);

pub(super) fn channel() -> (EventSender, LinkEvents) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (EventSender(sender), LinkEvents(receiver))
}

impl EventSender {
    /// News that no peer can multiply.
    pub(super) fn send(&self, event: LinkEvent) {
        // Without a receiver the node is going down.
        let _ = self.0.send(Queued { event, source: None });
    }

    /// News that `source` caused, for which it has sent `bytes`.
    pub(super) fn send_from(&self, source: &Arc<Link>, bytes: usize, event: LinkEvent) {
        let weight = bytes.max(LEAST_WEIGHT);
        source.backlog_grows(weight);
        let _ = self.0.send(Queued { event, source: Some((Arc::clone(source), weight)) });
    }
}

impl LinkEvents {
    /// The next news; `None` when all links are gone.
    pub async fn recv(&mut self) -> Option<LinkEvent> {
        self.0.recv().await.map(Queued::take)
    }

    /// The next news, if there is one already.
    pub fn try_recv(&mut self) -> Option<LinkEvent> {
        self.0.try_recv().ok().map(Queued::take)
    }
}

impl Queued {
    fn take(self) -> LinkEvent {
        if let Some((link, weight)) = self.source {
            link.backlog_shrinks(weight);
        }
        self.event
    }
}
