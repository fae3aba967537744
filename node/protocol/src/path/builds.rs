//! All circles of one owner: guards and pace decide whether one starts, builders do the rounds, and how it ends is
//! counted (PROTOCOL §4).
//!
//! Calls: `start` or `handle_*`, then [`Builds::poll_output`] until it is empty, then [`Builds::next_timeout`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rand_core::CryptoRng;

use super::{
    builder::{BuildFailure, Builder, BuilderOutput, EstablishedPath, PathUse},
    doubts::Doubts,
    guards::{GuardNotice, Guards},
    pacer::{Paced, Pacer},
    plan::{Candidate, Plan, PlanError, PlanRequest},
};
use crate::{
    identity::NodeId,
    limits::GUARDS_PER_CIRCLE,
    time::{Moment, Now, UnixTime},
    wire::{
        cell::{LinkId, PathId},
        contact::Contact,
        reader::{Malformed, Reader, Writer},
        setup::{Round, SetupArray},
    },
};

/// A build, as its node numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BuildId(pub u64);

/// What the node must do.
pub enum BuildOutput {
    /// Find or dial a link to this node, then call [`Builds::handle_link`].
    NeedLink(Contact),
    /// Send the array to the neighbour.
    Send { link: LinkId, round: Round, connection: PathId, array: SetupArray },
    /// Install the path as an owned one, send an opener of kind echo through it, then call [`Builds::handle_echo`]; if
    /// it ends before, [`Builds::handle_path_ended`].
    Install { build: BuildId, path: Box<EstablishedPath> },
    /// The installed path may be used.
    Ready(BuildId),
    /// The build is over. If its path was installed, end it.
    Failed { build: BuildId, failure: BuildFailure },
    /// Tell the user; store the state.
    Notice(GuardNotice),
}

/// Why no build was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// Too many at once, or too many have failed.
    #[error(transparent)]
    Paced(#[from] Paced),
    /// No circle can be drawn.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

/// What a path is wanted for.
#[derive(Clone, Copy)]
pub struct BuildRequest<'a> {
    /// X-nodes, 1 to 8.
    pub hops: usize,
    /// Whether the path is for an identity that is kept.
    pub kept_identity: bool,
    /// Terminals that the identity's other entries have.
    pub avoid_terminals: &'a BTreeSet<NodeId>,
    /// Limits and route keys.
    pub purpose: PathUse,
}

/// The owner's builds.
pub struct Builds {
    guards: Guards,
    pacer: Pacer,
    circles: BTreeMap<BuildId, Circle>,
    next: u64,
    doubts: Doubts,
    outputs: VecDeque<BuildOutput>,
}

struct Circle {
    builder: Builder,
    terminal: Option<NodeId>,
    nodes: BTreeSet<NodeId>,
    watched: Vec<NodeId>,
    guards: [NodeId; GUARDS_PER_CIRCLE],
}

impl Builds {
    /// With what the store has kept, or new ones.
    pub fn new(guards: Guards, pacer: Pacer) -> Builds {
        Builds {
            guards,
            pacer,
            circles: BTreeMap::new(),
            next: 0,
            doubts: Doubts::default(),
            outputs: VecDeque::new(),
        }
    }

    /// Begins a circle. `own` is what neighbours get to know of the owner: its address only if it is listed.
    pub fn start(
        &mut self,
        now: Now,
        own: Contact,
        view: &[Candidate<'_>],
        request: &BuildRequest<'_>,
        rng: &mut impl CryptoRng,
    ) -> Result<BuildId, StartError> {
        self.pacer.may_start(now.unix)?;
        let avoid = self.doubts.weights(now.moment);
        let wanted = PlanRequest {
            hops: request.hops,
            kept_identity: request.kept_identity,
            avoid: &avoid,
            avoid_terminals: request.avoid_terminals,
        };
        let plan = Plan::draw(now.unix, &own, view, &mut self.guards, &wanted, rng)?;
        self.pacer.handle_started();
        let build = BuildId(self.next);
        self.next += 1;
        let circle = Circle {
            nodes: plan.sequence().iter().map(|stop| stop.contact.id).collect(),
            terminal: plan.path().last().map(|stop| stop.contact.id),
            watched: plan.watched().to_vec(),
            guards: plan.guards().map(|stop| stop.contact.id),
            builder: Builder::start(now, own, plan, request.purpose),
        };
        self.circles.insert(build, circle);
        self.collect(now, rng);
        Ok(build)
    }

    /// The answer to [`BuildOutput::NeedLink`]. New links that nobody asked for should be told too.
    pub fn handle_link(&mut self, now: Now, node: NodeId, link: Option<LinkId>, rng: &mut impl CryptoRng) {
        if link.is_some() {
            self.guards.handle_reachable(node);
        }
        for circle in self.circles.values_mut() {
            circle.builder.handle_link(now, node, link, rng);
        }
        self.collect(now, rng);
    }

    /// A link is gone.
    pub fn handle_link_down(&mut self, now: Now, link: LinkId, rng: &mut impl CryptoRng) {
        for circle in self.circles.values_mut() {
            circle.builder.handle_link_down(link);
        }
        self.collect(now, rng);
    }

    /// An array came in. Given back if it belongs to none of these circles: then it is for [`super::hop::HopSetups`].
    pub fn handle_round(
        &mut self,
        now: Now,
        from: LinkId,
        round: Round,
        connection: PathId,
        array: SetupArray,
        rng: &mut impl CryptoRng,
    ) -> Option<SetupArray> {
        let mut circles = self.circles.values_mut();
        let Some(circle) = circles.find(|circle| circle.builder.expects(from, connection)) else {
            return Some(array);
        };
        circle.builder.handle_round(now, round, &array, rng);
        self.collect(now, rng);
        None
    }

    /// The echo came back through the installed path.
    pub fn handle_echo(&mut self, now: Now, build: BuildId, rng: &mut impl CryptoRng) {
        if let Some(circle) = self.circles.get_mut(&build) {
            circle.builder.handle_echo();
        }
        self.collect(now, rng);
    }

    /// The installed path ended. Without effect after [`BuildOutput::Ready`].
    pub fn handle_path_ended(&mut self, now: Now, build: BuildId, rng: &mut impl CryptoRng) {
        if let Some(circle) = self.circles.get_mut(&build) {
            circle.builder.handle_path_ended();
        }
        self.collect(now, rng);
    }

    /// A path with these hops was left: its tunnels died, or it brought back no echo.
    pub fn handle_path_left(&mut self, now: Moment, hops: &[NodeId]) {
        self.doubts.handle_left(now, hops.iter().copied());
    }

    /// Whether this node is on the list that guards are taken from.
    pub fn is_guard(&self, node: NodeId) -> bool {
        self.guards.lists(node)
    }

    /// The guards that circles may take now, at most four.
    pub fn guards_in_use(&self, now: UnixTime, own: &Contact, view: &[Candidate<'_>]) -> Vec<NodeId> {
        self.guards.in_use(now, own, view).iter().map(|guard| guard.contact.id).collect()
    }

    /// A node does not answer where it says that it is.
    pub fn handle_unreachable(&mut self, now: Moment, node: NodeId) {
        self.doubts.handle_failure(now, [node]);
    }

    /// Gives up what waits for too long.
    pub fn handle_timeout(&mut self, now: Now, rng: &mut impl CryptoRng) {
        for circle in self.circles.values_mut() {
            circle.builder.handle_timeout(now);
        }
        self.collect(now, rng);
    }

    /// When to call [`Builds::handle_timeout`].
    pub fn next_timeout(&self) -> Option<Moment> {
        self.circles.values().filter_map(|circle| circle.builder.next_timeout()).min()
    }

    /// What to do next.
    pub fn poll_output(&mut self) -> Option<BuildOutput> {
        self.outputs.pop_front()
    }

    /// Where the path of a build under way will end.
    pub fn terminal(&self, build: BuildId) -> Option<NodeId> {
        self.circles.get(&build)?.terminal
    }

    /// Builds under way.
    pub fn len(&self) -> usize {
        self.circles.len()
    }

    /// Whether none is under way.
    pub fn is_empty(&self) -> bool {
        self.circles.is_empty()
    }

    /// For the store: guards and pace. Changes with every end of a build.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.u8(STATE_VERSION);
        self.guards.encode(&mut out);
        self.pacer.encode(&mut out);
        out.finish()
    }

    /// From the store.
    pub fn decode(state: &[u8]) -> Result<Builds, Malformed> {
        let mut reader = Reader::new(state);
        if reader.u8()? != STATE_VERSION {
            return Err(Malformed::Field("version"));
        }
        let guards = Guards::decode(&mut reader)?;
        let pacer = Pacer::decode(&mut reader)?;
        reader.finish()?;
        Ok(Builds::new(guards, pacer))
    }

    /// Takes over what the builders have to say.
    fn collect(&mut self, now: Now, rng: &mut impl CryptoRng) {
        for build in self.circles.keys().copied().collect::<Vec<_>>() {
            while let Some(output) =
                self.circles.get_mut(&build).and_then(|circle| circle.builder.poll_output())
            {
                match output {
                    BuilderOutput::NeedLink(contact) => {
                        self.outputs.push_back(BuildOutput::NeedLink(contact))
                    }
                    BuilderOutput::Send { link, round, connection, array } => {
                        self.outputs.push_back(BuildOutput::Send { link, round, connection, array });
                    }
                    BuilderOutput::Install(path) => {
                        self.outputs.push_back(BuildOutput::Install { build, path: Box::new(path) });
                    }
                    BuilderOutput::Ready => self.end(now, build, None, rng),
                    BuilderOutput::Failed(failure) => self.end(now, build, Some(failure), rng),
                }
            }
        }
    }

    fn end(&mut self, now: Now, build: BuildId, failure: Option<BuildFailure>, rng: &mut impl CryptoRng) {
        let Some(circle) = self.circles.remove(&build) else {
            return;
        };
        self.pacer.handle_finished(now.unix, failure.is_none(), rng);
        self.outputs.push_back(match failure {
            None => BuildOutput::Ready(build),
            Some(failure) => BuildOutput::Failed { build, failure },
        });
        match failure {
            Some(BuildFailure::Unreachable(guard)) => self.guards.handle_unreachable(now.unix, guard),
            // Not the guards' doing.
            Some(BuildFailure::LinkLost) => {}
            Some(BuildFailure::BadKey) => self.doubts.handle_failure(now.moment, circle.nodes),
            None => {
                self.doubts.handle_success(&circle.nodes);
                self.count(now.unix, &circle, true);
            }
            Some(
                BuildFailure::TimedOut(_)
                | BuildFailure::Altered(_)
                | BuildFailure::NoEcho
                | BuildFailure::Ended,
            ) => {
                self.count(now.unix, &circle, false);
                self.doubts.handle_failure(now.moment, circle.nodes);
            }
        }
    }

    fn count(&mut self, now: UnixTime, circle: &Circle, success: bool) {
        let notice = self.guards.handle_circle(now, &circle.watched, &circle.guards, success);
        self.outputs.extend(notice.map(BuildOutput::Notice));
    }
}

const STATE_VERSION: u8 = 1;
