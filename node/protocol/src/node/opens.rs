//! Tunnels towards peers: look up where the peer lets clients in, draw a path, make a token, send the opener
//! (PROTOCOL §5).

use std::time::Duration;

use rand::seq::IndexedRandom;

use super::{GroupId, Node, Output, pool::Avoid};
use crate::{
    crypto::proof::Token,
    identity::{ApPublic, NodeId},
    path::plan::PlanError,
    time::{Moment, Now},
    tunnel::{Outlet, OwnedPathId},
    wire::opener::Opener,
};

/// An entry that was published a moment ago may still be on its way to us.
const LOOKUP: Duration = Duration::from_secs(5);
/// A path may have to be built first.
const BUILD: Duration = Duration::from_secs(25);
/// Requests that wait at once; more are refused.
const WAITING: usize = 4_096;

/// Names a request; drawn by the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Somebody wants a tunnel.
#[derive(Clone, Debug)]
pub struct OpenRequest {
    /// Comes back with the answer.
    pub ticket: Ticket,
    /// Whose paths to use.
    pub group: GroupId,
    /// To whom.
    pub peer: ApPublic,
    /// Entry nodes that failed just now: used only if there are no others.
    pub avoid_entries: Vec<NodeId>,
    /// Paths of the group that failed just now.
    pub avoid_paths: Vec<OwnedPathId>,
}

/// Why there is no tunnel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenFailure {
    /// Nobody has published an entry for the peer.
    #[error(
        "nobody in the network knows this name: the service is not running, or its entry has not spread yet"
    )]
    UnknownPeer,
    /// No path stands.
    #[error("no routing path is ready")]
    NoPath(Option<PlanError>),
    /// Too many requests wait already.
    #[error("too many connections wait for a path")]
    TooMany,
}

/// A request without what it needs.
pub(super) struct WaitingOpen {
    request: OpenRequest,
    /// Until when an unknown peer may become known.
    known_by: Moment,
    /// Until when there must be a path.
    pub deadline: Moment,
}

enum Attempt {
    Sent,
    UnknownPeer,
    NoPath,
}

impl Node {
    /// Asks for a tunnel: answered by [`Output::Opened`] or [`Output::OpenFailed`].
    pub fn handle_open(&mut self, now: Now, request: OpenRequest, out: &mut impl Outlet) {
        if self.opens.len() >= WAITING {
            return self.refuse(&request, OpenFailure::TooMany);
        }
        let (known_by, deadline) = (now.moment + LOOKUP, now.moment + BUILD);
        self.opens.push(WaitingOpen { request, known_by, deadline });
        self.settle(now, out);
    }

    /// Nobody waits for this answer any more.
    pub fn handle_open_cancelled(&mut self, ticket: Ticket) {
        self.opens.retain(|open| open.request.ticket != ticket);
    }

    /// Serves what can be served, refuses what has waited too long.
    pub(super) fn serve_opens(&mut self, now: Now, out: &mut impl Outlet) {
        for open in std::mem::take(&mut self.opens) {
            match self.attempt(now, &open.request, out) {
                Attempt::Sent => {}
                Attempt::UnknownPeer if open.known_by <= now.moment => {
                    self.refuse(&open.request, OpenFailure::UnknownPeer);
                }
                Attempt::NoPath if open.deadline <= now.moment => {
                    let obstacle = self.stats.obstacle;
                    self.refuse(&open.request, OpenFailure::NoPath(obstacle));
                }
                Attempt::UnknownPeer | Attempt::NoPath => self.opens.push(open),
            }
        }
    }

    /// When the next request is refused.
    pub(super) fn next_refusal(&self) -> Option<Moment> {
        self.opens.iter().map(|open| open.known_by.min(open.deadline)).min()
    }

    fn attempt(&mut self, now: Now, request: &OpenRequest, out: &mut impl Outlet) -> Attempt {
        let Some(contents) = self.exchange.view().look_up(&request.peer, now.unix) else {
            return Attempt::UnknownPeer;
        };
        let all = contents.entry_nodes.as_slice();
        let fresh: Vec<_> =
            all.iter().filter(|way| !request.avoid_entries.contains(&way.contact.id)).collect();
        let Some(way) = fresh.choose(&mut self.rng).copied().or_else(|| all.choose(&mut self.rng)) else {
            return Attempt::UnknownPeer;
        };
        // A path whose exit is the entry itself would let one node see both: only if there is no other.
        let mut avoid = Avoid { paths: request.avoid_paths.clone(), terminals: vec![way.contact.id] };
        let mut path = self.pool.draw(request.group, &avoid, now.unix);
        if path.is_none() {
            avoid.terminals.clear();
            path = self.pool.draw(request.group, &avoid, now.unix);
        }
        let Some(path) = path else {
            return Attempt::NoPath;
        };
        let exit = self.pool.get(path).and_then(|ready| ready.terminal()).unwrap_or(self.config.secret.id());
        let token = Token::make(&mut self.rng, &way.route_key, &exit, &way.contact.id);
        let opener = Opener::Join { entry: way.contact, token };
        let Some(tunnel) = self.switch.open_tunnel(now.moment, path, &opener, out) else {
            self.forget_path(now, path);
            return Attempt::NoPath;
        };
        self.outputs.push_back(Output::Opened {
            ticket: request.ticket,
            tunnel,
            secret: contents.session_secret,
            entry: way.contact.id,
            path,
        });
        Attempt::Sent
    }

    fn refuse(&mut self, request: &OpenRequest, why: OpenFailure) {
        self.outputs.push_back(Output::OpenFailed { ticket: request.ticket, why });
    }
}
