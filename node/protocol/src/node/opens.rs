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
/// How often an unknown peer is looked for.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
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
    /// Until when an unknown peer may become known: counted from when there is a path, for who has none may not know
    /// the network yet.
    known_by: Option<Moment>,
    /// Look-ups cost: not before this.
    look_at: Moment,
    /// Until when there must be a path.
    deadline: Moment,
}

impl WaitingOpen {
    /// When it must be looked at again.
    fn next_timeout(&self) -> Moment {
        let next = self.known_by.map_or(self.deadline, |known_by| known_by.min(self.look_at));
        next.min(self.deadline)
    }

    /// Nobody knows the peer: true if that is final.
    fn is_unknown(&mut self, now: Moment) -> bool {
        self.look_at = now + LOOK_AGAIN;
        *self.known_by.get_or_insert(now + LOOKUP) <= now || self.deadline <= now
    }
}

enum Attempt {
    Sent,
    UnknownPeer,
    NoPath,
    TooEarly,
}

impl Node {
    /// Asks for a tunnel: answered by [`Output::Opened`] or [`Output::OpenFailed`].
    pub fn handle_open(&mut self, now: Now, request: OpenRequest, out: &mut impl Outlet) {
        if self.opens.len() >= WAITING {
            return self.refuse(&request, OpenFailure::TooMany);
        }
        self.suspect(now, &request.avoid_paths, out);
        self.opens.push(WaitingOpen {
            request,
            known_by: None,
            look_at: now.moment,
            deadline: now.moment + BUILD,
        });
        self.settle(now, out);
    }

    /// Nobody waits for this answer any more.
    pub fn handle_open_cancelled(&mut self, ticket: Ticket) {
        self.opens.retain(|open| open.request.ticket != ticket);
    }

    /// Serves what can be served, refuses what has waited too long.
    pub(super) fn serve_opens(&mut self, now: Now, out: &mut impl Outlet) {
        for mut open in std::mem::take(&mut self.opens) {
            match self.attempt(now, &open, out) {
                Attempt::Sent => {}
                Attempt::UnknownPeer if open.is_unknown(now.moment) => {
                    self.refuse(&open.request, OpenFailure::UnknownPeer);
                }
                Attempt::NoPath if open.deadline <= now.moment => {
                    let obstacle = self.stats.obstacle;
                    self.refuse(&open.request, OpenFailure::NoPath(obstacle));
                }
                Attempt::UnknownPeer | Attempt::NoPath | Attempt::TooEarly => self.opens.push(open),
            }
        }
    }

    /// When the next request is looked for again, or refused.
    pub(super) fn next_open(&self) -> Option<Moment> {
        self.opens.iter().map(WaitingOpen::next_timeout).min()
    }

    fn attempt(&mut self, now: Now, open: &WaitingOpen, out: &mut impl Outlet) -> Attempt {
        let request = &open.request;
        if !self.pool.serves(request.group, &request.avoid_paths, now.unix) {
            return Attempt::NoPath;
        }
        if now.moment < open.look_at {
            return Attempt::TooEarly;
        }
        let Some(contents) = self.exchange.view().look_up(&request.peer, now.unix) else {
            return Attempt::UnknownPeer;
        };
        let all = contents.entry_nodes.as_slice();
        let fresh: Vec<_> =
            all.iter().filter(|way| !request.avoid_entries.contains(&way.contact.id)).collect();
        let Some(way) = fresh.choose(&mut self.rng).copied().or_else(|| all.choose(&mut self.rng)) else {
            return Attempt::UnknownPeer;
        };
        while let Some(path) = self.draw(now, request, way.contact.id) {
            let exit =
                self.pool.get(path).and_then(|ready| ready.terminal()).unwrap_or(self.config.secret.id());
            let token = Token::make(&mut self.rng, &way.route_key, &exit, &way.contact.id);
            let opener = Opener::Join { entry: way.contact, token };
            if let Some(tunnel) = self.switch.open_tunnel(now.moment, path, &opener, out) {
                self.deaths.handle_birth(now.moment, tunnel, path, false);
                self.outputs.push_back(Output::Opened {
                    ticket: request.ticket,
                    tunnel,
                    secret: contents.session_secret,
                    entry: way.contact.id,
                    path,
                });
                return Attempt::Sent;
            }
            // It is full, or has just ended: what runs in it goes on, the next one is drawn.
            self.forget_path(now, path);
        }
        Attempt::NoPath
    }

    /// A path to this entry node. One whose exit is the entry itself lets one node see both: only if there is no other.
    fn draw(&mut self, now: Now, request: &OpenRequest, entry: NodeId) -> Option<OwnedPathId> {
        let mut avoid = Avoid { paths: request.avoid_paths.clone(), terminals: vec![entry] };
        self.pool.draw(request.group, &avoid, now.unix).or_else(|| {
            avoid.terminals.clear();
            self.pool.draw(request.group, &avoid, now.unix)
        })
    }

    fn refuse(&mut self, request: &OpenRequest, why: OpenFailure) {
        self.outputs.push_back(Output::OpenFailed { ticket: request.ticket, why });
    }
}
