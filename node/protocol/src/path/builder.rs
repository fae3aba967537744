//! The owner's side of one circle: two rounds, then an echo (PROTOCOL §4).
//!
//! Five states, each with one deadline, 15 seconds after it was entered. `Linking` waits for the links to both ends of
//! the sequence and to X1, so that a guard that cannot be reached is told from one that denies. `Rounding` (twice: setup
//! packages, goodie boxes) waits for the array to come back and compares it with what it expects. `Echoing` waits for
//! an opener to return through the finished path. `Done`. Whatever else happens ends in `Failed`, and then everything,
//! nodes, ids and keys, is thrown away.

use std::{collections::VecDeque, time::Duration};

use rand_core::CryptoRng;

use super::{
    array::Circulation,
    circle::{Circle, GuardLinks},
    plan::Plan,
};
use crate::{
    crypto::{Key, proof::RouteKey},
    identity::NodeId,
    limits::ROUND_TIMEOUT,
    time::{Moment, Now, UnixTime},
    wire::{
        cell::{LinkId, PathId},
        contact::Contact,
        setup::{PathClass, Round, SetupArray},
    },
};

/// What the node must do.
pub enum BuilderOutput {
    /// Find or dial a link to this node, then call [`Builder::handle_link`].
    NeedLink(Contact),
    /// Send the array to the first node of the circle.
    Send { link: LinkId, round: Round, connection: PathId, array: SetupArray },
    /// The path stands: install it, send an opener of kind echo through it, then call [`Builder::handle_echo`].
    Install(EstablishedPath),
    /// The echo came back: the path may be used.
    Ready,
    /// Nothing of this circle is of use any more. If the path was installed, end it.
    Failed(BuildFailure),
}

/// A path, as its owner knows it.
#[derive(Clone)]
pub struct EstablishedPath {
    /// X1 first, the terminal last.
    pub hops: Vec<OwnedHop>,
    /// The link to X1.
    pub link: LinkId,
    /// The path's name on that link.
    pub path: PathId,
    /// The last node of the path.
    pub terminal: Contact,
    /// What the terminal accepts tokens for.
    pub route_keys: Vec<RouteKey>,
    /// The earliest of the hops' expiries.
    pub expiry: UnixTime,
    /// The hops end the path when it has carried nothing for this long.
    pub idle: Duration,
}

/// One X-node, as the owner knows it.
#[derive(Clone)]
pub struct OwnedHop {
    /// Who.
    pub node: NodeId,
    /// The secret that its goodie box brought it.
    pub secret: Key,
    /// Whether what leaves the owner goes from A to B at this hop.
    pub out_is_a_to_b: bool,
}

/// Why a circle failed. The other nodes never say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildFailure {
    /// No link to a guard.
    #[error("the guard {0} could not be reached")]
    Unreachable(NodeId),
    /// A link to a guard broke.
    #[error("the link to a guard broke")]
    LinkLost,
    /// Nothing came back in time.
    #[error("round {} did not come back in time", *.0 as u8 + 1)]
    TimedOut(Round),
    /// What came back is not what honest nodes make of the array.
    #[error("round {} came back altered", *.0 as u8 + 1)]
    Altered(Round),
    /// The path stands but carries nothing.
    #[error("the finished path did not bring back an echo in time")]
    NoEcho,
    /// The path ended before it was ready.
    #[error("the finished path was ended by one of its nodes")]
    Ended,
    /// A record has a path key that cannot be used.
    #[error("a node has published an unusable path key")]
    BadKey,
}

/// What the path is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathUse {
    /// How long it may live.
    pub class: PathClass,
    /// Route keys to draw and put into the terminal's box, at most 16: one for each identity that the terminal shall be
    /// an entry node of.
    pub route_keys: usize,
}

/// One circle on its way.
pub struct Builder {
    own: Contact,
    deadline: Moment,
    state: State,
    outputs: VecDeque<BuilderOutput>,
}

enum State {
    Linking(Box<Linking>),
    Rounding(Box<Rounding>),
    Echoing,
    Done,
    Failed,
}

struct Linking {
    plan: Plan,
    purpose: PathUse,
    /// In the order of [`Plan::guards`].
    links: [Option<LinkId>; 3],
}

/// An array is on its way around the circle.
struct Rounding {
    round: Round,
    circle: Circle,
    expected: Circulation,
}

impl Builder {
    /// Begins. `own` is what the neighbours get to know of the owner: its address only if it is listed.
    pub fn start(now: Now, own: Contact, plan: Plan, purpose: PathUse) -> Builder {
        let outputs = plan.guards().map(|stop| BuilderOutput::NeedLink(stop.contact)).into();
        let linking = Linking { plan, purpose, links: [None; 3] };
        Builder {
            own,
            deadline: now.moment + ROUND_TIMEOUT,
            state: State::Linking(Box::new(linking)),
            outputs,
        }
    }

    /// The answer to [`BuilderOutput::NeedLink`]. Other nodes' links do no harm.
    pub fn handle_link(&mut self, now: Now, node: NodeId, link: Option<LinkId>, rng: &mut impl CryptoRng) {
        let State::Linking(linking) = &mut self.state else {
            return;
        };
        let Some(known) = linking.place(node) else {
            return;
        };
        *known = link;
        if link.is_none() {
            return self.fail(BuildFailure::Unreachable(node));
        }
        if let [Some(first), Some(last), Some(path)] = linking.links {
            let links = GuardLinks { first, last, path };
            let circle = Circle::draw(now.unix, self.own, linking.plan.clone(), linking.purpose, links, rng);
            self.send(now, circle, Round::One, rng);
        }
    }

    /// A link is gone.
    pub fn handle_link_down(&mut self, link: LinkId) {
        let needed = match &self.state {
            State::Linking(linking) => linking.links.contains(&Some(link)),
            State::Rounding(rounding) => rounding.circle.uses(link),
            State::Echoing | State::Done | State::Failed => false,
        };
        if needed {
            self.fail(BuildFailure::LinkLost);
        }
    }

    /// Whether an array from this link with this id is this circle's.
    pub fn expects(&self, from: LinkId, connection: PathId) -> bool {
        matches!(&self.state, State::Rounding(rounding) if rounding.circle.exit() == (from, connection))
    }

    /// The array came back, for which [`Builder::expects`] was true.
    pub fn handle_round(&mut self, now: Now, round: Round, array: &SetupArray, rng: &mut impl CryptoRng) {
        let State::Rounding(rounding) = std::mem::replace(&mut self.state, State::Failed) else {
            return;
        };
        let Rounding { round: awaited, circle, expected } = *rounding;
        if round != awaited || !expected.returned(array) {
            return self.fail(BuildFailure::Altered(awaited));
        }
        match round {
            Round::One => self.send(now, circle, Round::Two, rng),
            Round::Two => {
                self.enter(now, State::Echoing);
                self.outputs.extend(circle.establish().map(BuilderOutput::Install));
            }
        }
    }

    /// The opener came back through the finished path.
    pub fn handle_echo(&mut self) {
        if matches!(self.state, State::Echoing) {
            self.state = State::Done;
            self.outputs.push_back(BuilderOutput::Ready);
        }
    }

    /// One of its nodes has ended the installed path.
    pub fn handle_path_ended(&mut self) {
        if matches!(self.state, State::Echoing) {
            self.fail(BuildFailure::Ended);
        }
    }

    /// Gives up what waits for too long.
    pub fn handle_timeout(&mut self, now: Now) {
        if now.moment < self.deadline {
            return;
        }
        match &self.state {
            State::Linking(linking) => {
                let missing = linking.missing().unwrap_or(self.own.id);
                self.fail(BuildFailure::Unreachable(missing));
            }
            State::Rounding(rounding) => self.fail(BuildFailure::TimedOut(rounding.round)),
            State::Echoing => self.fail(BuildFailure::NoEcho),
            State::Done | State::Failed => {}
        }
    }

    /// When to call [`Builder::handle_timeout`].
    pub fn next_timeout(&self) -> Option<Moment> {
        (!matches!(self.state, State::Done | State::Failed)).then_some(self.deadline)
    }

    /// What to do next.
    pub fn poll_output(&mut self) -> Option<BuilderOutput> {
        self.outputs.pop_front()
    }

    fn send(&mut self, now: Now, circle: Circle, round: Round, rng: &mut impl CryptoRng) {
        let Some((array, expected)) = circle.circulation(round, rng) else {
            return self.fail(BuildFailure::BadKey);
        };
        let (link, connection) = circle.entrance();
        self.enter(now, State::Rounding(Box::new(Rounding { round, circle, expected })));
        self.outputs.push_back(BuilderOutput::Send { link, round, connection, array });
    }

    fn enter(&mut self, now: Now, state: State) {
        self.deadline = now.moment + ROUND_TIMEOUT;
        self.state = state;
    }

    fn fail(&mut self, failure: BuildFailure) {
        self.state = State::Failed;
        self.outputs.push_back(BuilderOutput::Failed(failure));
    }
}

impl Linking {
    fn place(&mut self, node: NodeId) -> Option<&mut Option<LinkId>> {
        let mut places = self.plan.guards().into_iter().zip(&mut self.links);
        places.find_map(|(stop, link)| (stop.contact.id == node).then_some(link))
    }

    fn missing(&self) -> Option<NodeId> {
        let mut places = self.plan.guards().into_iter().zip(&self.links);
        places.find_map(|(stop, link)| link.is_none().then_some(stop.contact.id))
    }
}
