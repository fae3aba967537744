//! Tunnels towards peers: look up where the peer lets clients in, draw a path, make a token, send the opener
//! (PROTOCOL §5).

use std::time::Duration;

use rand::seq::IndexedRandom;

use super::{GroupId, Node, Output, pool::Avoid};
use crate::{
    crypto::proof::Token,
    identity::{ApPublic, NodeId},
    netdb::{ApEntry, View, ap_entry::LookUp},
    path::plan::PlanError,
    time::{Moment, Now, UnixTime},
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
    /// Until when an unknown peer may become known: counted from when there is a path, for who has none may not know
    /// the network yet.
    known_by: Option<Moment>,
    search: Search,
    /// Until when there must be a path.
    deadline: Moment,
}

impl WaitingOpen {
    pub(super) fn request(&self) -> &OpenRequest {
        &self.request
    }

    /// When it must be looked at again.
    fn next_timeout(&self) -> Moment {
        self.known_by.map_or(self.deadline, |known_by| known_by.min(self.deadline))
    }

    /// Nobody knows the peer: true if that is final.
    fn is_unknown(&mut self, now: Moment) -> bool {
        *self.known_by.get_or_insert(now + LOOKUP) <= now || self.deadline <= now
    }
}

/// Looks for one peer's entry. What it has found holds until entries come or go, for looking costs.
struct Search {
    look_up: LookUp,
    /// At how many changes it looked last, and what it found.
    found: Option<(u64, Option<ApEntry>)>,
}

impl Search {
    fn new(peer: ApPublic, now: UnixTime) -> Search {
        Search { look_up: LookUp::new(peer, now), found: None }
    }

    fn look(&mut self, view: &View, now: UnixTime) -> Option<&ApEntry> {
        if !self.look_up.is_current(now) {
            *self = Search::new(*self.look_up.public(), now);
        }
        let changes = view.entry_changes();
        if self.found.as_ref().is_none_or(|(at, _)| *at != changes) {
            self.found = Some((changes, view.find(&self.look_up, now)));
        }
        let (_, entry) = self.found.as_ref()?;
        entry.as_ref().filter(|entry| entry.expiry > now)
    }
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
        self.suspect(now, &request.avoid_paths, out);
        self.opens.push(WaitingOpen {
            search: Search::new(request.peer, now.unix),
            request,
            known_by: None,
            deadline: now.moment + BUILD,
        });
        self.settle(now, out);
    }

    /// Serves what can be served, refuses what has waited too long.
    pub(super) fn serve_opens(&mut self, now: Now, out: &mut impl Outlet) {
        for mut open in std::mem::take(&mut self.opens) {
            match self.attempt(now, &mut open, out) {
                Attempt::Sent => {}
                Attempt::UnknownPeer if open.is_unknown(now.moment) => {
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

    /// When the next request is looked for again, or refused.
    pub(super) fn next_open(&self) -> Option<Moment> {
        self.opens.iter().map(WaitingOpen::next_timeout).min()
    }

    fn attempt(&mut self, now: Now, open: &mut WaitingOpen, out: &mut impl Outlet) -> Attempt {
        let request = &open.request;
        if !self.pool.serves(request.group, &request.avoid_paths, now.unix) {
            return Attempt::NoPath;
        }
        let Some(contents) = open.search.look(self.exchange.view(), now.unix) else {
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
                    secret: contents.session_secret.clone(),
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

    pub(super) fn refuse(&mut self, request: &OpenRequest, why: OpenFailure) {
        self.outputs.push_back(Output::OpenFailed { ticket: request.ticket, why });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netdb::{
        Source,
        ap_entry::{
            epoch_of,
            tests::{NOW, entry, party, rng},
        },
        view::Stored,
    };

    fn publish(view: &mut View, seed: u8, issued: UnixTime) {
        let sealed = entry(seed, 1, issued).seal(&party(seed), epoch_of(NOW), &mut rng(2)).unwrap();
        assert_eq!(view.store_entry(NOW, sealed.verify(NOW).unwrap(), Source::Own), Stored::New);
    }

    #[test]
    fn who_waits_looks_again_when_entries_change_and_not_before() {
        let mut view = View::new();
        let mut search = Search::new(party(1).public(), NOW);
        assert_eq!(search.look(&view, NOW), None);
        let looked = |search: &Search| search.found.as_ref().map(|(at, _)| *at);
        let first = looked(&search);
        // What it has found is not looked for again: a mark left there stays.
        search.found = Some((view.entry_changes(), Some(entry(1, 2, NOW))));
        assert_eq!(search.look(&view, NOW).unwrap().entry_nodes.len(), 2);
        publish(&mut view, 1, NOW);
        assert_eq!(search.look(&view, NOW).unwrap().entry_nodes.len(), 1);
        assert!(looked(&search) > first);
        publish(&mut view, 1, UnixTime(NOW.0 + 1));
        assert_eq!(search.look(&view, NOW).unwrap().issued, UnixTime(NOW.0 + 1));
    }

    #[test]
    fn what_was_found_is_nothing_when_it_has_expired() {
        let mut view = View::new();
        publish(&mut view, 1, NOW);
        let mut search = Search::new(party(1).public(), NOW);
        let expiry = search.look(&view, NOW).unwrap().expiry;
        assert_eq!(search.look(&view, expiry), None);
    }
}
