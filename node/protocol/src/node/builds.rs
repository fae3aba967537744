//! Keeps the pool and the services in paths: says what is wanted, carries out what [`Builds`] asks for, installs what
//! comes of it (PROTOCOL §4).

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use super::{Node, Output, Purpose, ReadyPath, Ticket, Waiter};
use crate::{
    identity::NodeId,
    limits::BUILDS_AT_ONCE,
    netdb::{View, ap_entry::EntryNode, view::KnownNode},
    path::{
        builder::{BuildFailure, EstablishedPath, PathUse},
        builds::{BuildId, BuildOutput, BuildRequest, Builds, StartError},
        guards::{GuardNotice, Guards},
        own_terminal,
        pacer::{Paced, Pacer},
        plan::{Candidate, PlanError},
    },
    time::{Moment, Now, UnixTime},
    tunnel::{Outlet, OwnedHop, OwnedInstall, OwnedPathId, Side},
    wire::{opener::Opener, setup::PathClass},
};

/// Build times that are remembered.
const KEPT_TIMES: usize = 1_000;
/// A circle that could not be planned is tried again after this.
const REPLAN: Duration = Duration::from_secs(1);
/// Or after this, when something new is known.
const REPLAN_WITH_NEWS: Duration = Duration::from_millis(50);

/// A circle under way.
pub(super) struct Pending {
    purpose: Purpose,
    terminal: Option<NodeId>,
    started: Moment,
    installed: Option<(OwnedPathId, EstablishedPath)>,
}

/// Why there is no measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrialFailure {
    /// The circle was not drawn.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The circle has failed.
    #[error(transparent)]
    Build(#[from] BuildFailure),
}

/// How building went since the start.
#[derive(Clone, Debug, Default)]
pub struct BuildStats {
    /// Circles that became paths.
    pub succeeded: u64,
    /// Circles that did not.
    pub failed: u64,
    /// How long the last successful ones took, newest last.
    pub times: VecDeque<Duration>,
    /// How long all successful ones took together.
    pub spent: Duration,
    /// Why the last one failed.
    pub last_failure: Option<BuildFailure>,
    /// Why no circle can be drawn, if so.
    pub obstacle: Option<PlanError>,
    /// What the user should know about guards.
    pub notice: Option<GuardNotice>,
}

impl Node {
    /// Starts circles while something is wanted and the pace allows it. What cannot be had now keeps nobody else waiting.
    pub(super) fn refill(&mut self, now: Now, out: &mut impl Outlet) {
        self.replan_at.retain(|_, at| now.moment < *at);
        let mut skipped: BTreeSet<Purpose> = self.replan_at.keys().copied().collect();
        while let Some((purpose, hops)) = self.wanted(now, &skipped) {
            let begun = if hops == 0 {
                self.own_terminal(now, purpose, out).is_some()
            } else {
                self.begin_circle(now, purpose, hops)
            };
            if !begun {
                skipped.insert(purpose);
            }
        }
    }

    /// When something that is wanted may be tried again.
    pub(super) fn next_build(&self, now: Now) -> Option<Moment> {
        let paused = Some(self.build_at).filter(|at| now.moment < *at);
        self.replan_at.values().copied().chain(paused).min()
    }

    /// Something new is known of the network: what could not be planned may be possible now.
    pub(super) fn replan_soon(&mut self, now: Moment) {
        for at in self.replan_at.values_mut() {
            *at = (*at).min(now + REPLAN_WITH_NEWS);
        }
    }

    /// Builds one path of this length, measures and ends it: answered by [`Output::Trial`].
    pub fn handle_trial(&mut self, now: Now, ticket: Ticket, hops: usize, out: &mut impl Outlet) {
        if hops == 0 {
            // There is nothing to be built.
            return self.outputs.push_back(Output::Trial { ticket, outcome: Ok(Duration::ZERO) });
        }
        self.trials.push_back((ticket, hops));
        self.settle(now, out);
    }

    /// What is missing most: services before the pool, for somebody may be waiting at their door.
    fn wanted(&self, now: Now, skipped: &BTreeSet<Purpose>) -> Option<(Purpose, usize)> {
        let trials = self.trials.iter().map(|(ticket, hops)| (Purpose::Trial(*ticket), 1, *hops));
        let services = self.services.iter();
        let services = services.map(|(id, service)| (Purpose::Service(*id), service.wanted(), service.hops));
        // Without hops a path costs nothing: it is made when it is drawn.
        let pool = if self.config.hops == 0 { usize::from(!self.opens.is_empty()) } else { self.config.pool };
        let missing = |purpose: Purpose, target: usize| {
            let under_way = self.circles.values().filter(|pending| pending.purpose == purpose).count();
            self.pool.count(purpose, now.unix) + under_way < target
        };
        trials
            .chain(services)
            .chain([(Purpose::Free, pool, self.config.hops)])
            .find(|(purpose, target, _)| !skipped.contains(purpose) && missing(*purpose, *target))
            .map(|(purpose, _, hops)| (purpose, hops))
    }

    /// Begins a circle. False if that must wait.
    fn begin_circle(&mut self, now: Now, purpose: Purpose, hops: usize) -> bool {
        if self.circles.len() >= BUILDS_AT_ONCE || now.moment < self.build_at {
            return false;
        }
        match self.start_circle(now, purpose, hops) {
            Ok(build) => {
                if self.replan_at.is_empty() {
                    self.stats.obstacle = None;
                }
                self.trials.retain(|(ticket, _)| purpose != Purpose::Trial(*ticket));
                let terminal = self.builds.terminal(build);
                let pending = Pending { purpose, terminal, started: now.moment, installed: None };
                self.circles.insert(build, pending);
                return true;
            }
            Err(StartError::Paced(Paced::Busy)) => {}
            Err(StartError::Paced(Paced::Until(time))) => {
                let wait = Duration::from_secs(time.0.saturating_sub(now.unix.0).max(1));
                self.build_at = now.moment + wait;
            }
            Err(StartError::Plan(error)) => self.handle_obstacle(now, purpose, error),
        }
        false
    }

    /// No circle can be drawn: a measurement says so, the others are tried again.
    fn handle_obstacle(&mut self, now: Now, purpose: Purpose, error: PlanError) {
        if let Purpose::Trial(ticket) = purpose {
            self.trials.retain(|(waiting, _)| *waiting != ticket);
            return self.outputs.push_back(Output::Trial { ticket, outcome: Err(error.into()) });
        }
        self.stats.obstacle = Some(error);
        self.replan_at.insert(purpose, now.moment + REPLAN);
    }

    fn start_circle(&mut self, now: Now, purpose: Purpose, hops: usize) -> Result<BuildId, StartError> {
        let avoid_terminals = self.terminals(purpose);
        let request = BuildRequest {
            hops,
            kept_identity: matches!(purpose, Purpose::Service(_)),
            avoid_terminals: &avoid_terminals,
            purpose: path_use(purpose),
        };
        let candidates = candidates(self.exchange.view(), self.config.contact.id);
        self.builds.start(now, self.config.contact, &candidates, &request, &mut self.rng)
    }

    /// The guards that circles may take now.
    pub fn guards(&self, now: UnixTime) -> Vec<NodeId> {
        let candidates = candidates(self.exchange.view(), self.config.contact.id);
        self.builds.guards_in_use(now, &self.config.contact, &candidates)
    }

    /// Where the paths of a service end, those under way among them: one entry node must not be the only one.
    fn terminals(&self, purpose: Purpose) -> BTreeSet<NodeId> {
        if purpose == Purpose::Free {
            return BTreeSet::new();
        }
        let standing = self.pool.iter().filter(|(_, path)| path.purpose == purpose);
        let under_way = self.circles.values().filter(|pending| pending.purpose == purpose);
        let under_way = under_way.filter_map(|pending| pending.terminal);
        standing.filter_map(|(_, path)| path.terminal()).chain(under_way).collect()
    }

    /// Length 0: this node is its own terminal, over its link to itself.
    fn own_terminal(&mut self, now: Now, purpose: Purpose, out: &mut impl Outlet) -> Option<OwnedPathId> {
        let (path, hop) = own_terminal(now.unix, self.config.contact, path_use(purpose), &mut self.rng);
        if !self.install_hop(now, hop, out) {
            return None;
        }
        let id = self.install_owned(now, &path)?;
        self.add_ready(now, id, path, purpose);
        Some(id)
    }

    /// Does what the circles ask for.
    pub(super) fn drive_builds(&mut self, now: Now, out: &mut impl Outlet) {
        while let Some(output) = self.builds.poll_output() {
            match output {
                BuildOutput::NeedLink(contact) => match self.neighbours.link(&contact.id) {
                    Some(link) => self.builds.handle_link(now, contact.id, Some(link), &mut self.rng),
                    None => self.want_link(contact, Waiter::Builds),
                },
                BuildOutput::Send { link, round, connection, array } => {
                    self.send_array(link, round, connection, array);
                }
                BuildOutput::Install { build, path } => self.try_path(now, build, *path, out),
                BuildOutput::Ready(build) => self.handle_ready(now, build, out),
                BuildOutput::Failed { build, failure } => self.handle_failed(build, failure, out),
                BuildOutput::Notice(notice) => self.stats.notice = Some(notice),
            }
        }
    }

    /// Installs a path and sends an echo through it.
    fn try_path(&mut self, now: Now, build: BuildId, path: EstablishedPath, out: &mut impl Outlet) {
        let installed = self.install_owned(now, &path);
        let echo = installed.and_then(|id| self.switch.open_tunnel(now.moment, id, &Opener::Echo, out));
        match (installed, echo) {
            (Some(id), Some(_)) => {
                if let Some(pending) = self.circles.get_mut(&build) {
                    pending.installed = Some((id, path));
                }
            }
            (installed, _) => {
                if let Some(id) = installed {
                    self.switch.end_owned_path(id, out);
                }
                self.builds.handle_path_ended(now, build, &mut self.rng);
            }
        }
    }

    fn install_owned(&mut self, now: Now, path: &EstablishedPath) -> Option<OwnedPathId> {
        let side = |out_is_a_to_b: bool| if out_is_a_to_b { Side::A } else { Side::B };
        let hops = path.hops.iter();
        let install = OwnedInstall {
            link: path.link,
            path: path.path,
            hops: hops
                .map(|hop| OwnedHop { secret: hop.secret.clone(), owner_side: side(hop.out_is_a_to_b) })
                .collect(),
            accepts: !path.route_keys.is_empty(),
            expires: now.moment + Duration::from_secs(path.expiry.0.saturating_sub(now.unix.0)),
            idle: path.idle,
        };
        self.switch.install_owned(now.moment, install)
    }

    /// The echo came back.
    pub(super) fn handle_echo(&mut self, now: Now, path: OwnedPathId) {
        self.probes.handle_end(path);
        if let Some(build) = self.circle_of(path) {
            self.builds.handle_echo(now, build, &mut self.rng);
        }
    }

    fn handle_ready(&mut self, now: Now, build: BuildId, out: &mut impl Outlet) {
        let Some(Pending { purpose, started, installed: Some((id, path)), .. }) = self.circles.remove(&build)
        else {
            return;
        };
        self.stats.succeeded += 1;
        self.stats.times.push_back(now.moment.since(started));
        self.stats.spent += now.moment.since(started);
        if self.stats.times.len() > KEPT_TIMES {
            self.stats.times.pop_front();
        }
        self.outputs.push_back(Output::Persist(self.builds.encode()));
        match purpose {
            Purpose::Trial(ticket) => {
                self.switch.end_owned_path(id, out);
                self.outputs.push_back(Output::Trial { ticket, outcome: Ok(now.moment.since(started)) });
            }
            // The service has left while its path was built.
            Purpose::Service(service) if !self.services.contains_key(&service) => {
                self.switch.end_owned_path(id, out);
            }
            _ => self.add_ready(now, id, path, purpose),
        }
    }

    fn add_ready(&mut self, now: Now, id: OwnedPathId, path: EstablishedPath, purpose: Purpose) {
        if let Purpose::Service(service) = purpose
            && let Some(service) = self.services.get_mut(&service)
            && let Some(route_key) = path.route_keys.first()
        {
            service.add(id, EntryNode { contact: path.terminal, route_key: route_key.clone() }, now.moment);
        }
        let relays = path.hops.iter().map(|hop| hop.node).collect();
        self.pool.add(id, ReadyPath { purpose, relays, expiry: path.expiry });
        self.schedule_probe(now, id);
    }

    fn handle_failed(&mut self, build: BuildId, failure: BuildFailure, out: &mut impl Outlet) {
        self.stats.failed += 1;
        self.stats.last_failure = Some(failure);
        self.outputs.push_back(Output::Persist(self.builds.encode()));
        let Some(Pending { purpose, installed, .. }) = self.circles.remove(&build) else {
            return;
        };
        if let Some((id, _)) = installed {
            self.switch.end_owned_path(id, out);
        }
        if let Purpose::Trial(ticket) = purpose {
            self.outputs.push_back(Output::Trial { ticket, outcome: Err(failure.into()) });
        }
    }

    /// A path of ours is gone, whoever ended it.
    pub(super) fn forget_path(&mut self, now: Now, path: OwnedPathId) {
        if let Some(build) = self.circle_of(path) {
            self.builds.handle_path_ended(now, build, &mut self.rng);
        }
        self.pool.remove(path);
        self.probes.forget(path);
        self.deaths.forget(path);
        for service in self.services.values_mut() {
            service.remove(path, now.moment);
        }
    }

    /// Ends what its hops are about to forget.
    pub(super) fn end_expired_paths(&mut self, now: Now, out: &mut impl Outlet) {
        for path in self.pool.expired(now.unix) {
            self.switch.end_owned_path(path, out);
            self.forget_path(now, path);
        }
    }

    fn circle_of(&self, path: OwnedPathId) -> Option<BuildId> {
        let mut circles = self.circles.iter();
        let found =
            circles.find(|(_, pending)| pending.installed.as_ref().is_some_and(|(id, _)| *id == path));
        found.map(|(build, _)| *build)
    }
}

/// All paths have one class of limits: a class of their own would show which ones lead to a service.
fn path_use(purpose: Purpose) -> PathUse {
    let route_keys = usize::from(matches!(purpose, Purpose::Service(_)));
    PathUse { class: PathClass::Standard, route_keys }
}

/// What an earlier life has kept. A state that does not parse is as good as none: the guards are drawn anew.
pub(super) fn restore(kept: Option<&[u8]>) -> Builds {
    kept.and_then(|state| Builds::decode(state).ok())
        .unwrap_or_else(|| Builds::new(Guards::new(), Pacer::new()))
}

/// The known nodes but this one.
fn candidates(view: &View, own: NodeId) -> Vec<Candidate<'_>> {
    view.nodes().filter(|node| node.record.id() != own).filter_map(candidate).collect()
}

/// A known node as the plan sees it.
fn candidate(node: &KnownNode) -> Option<Candidate<'_>> {
    Some(Candidate {
        contact: node.record.contact(),
        path_key: node.record.path_keys().first()?,
        issued: node.record.version(),
        first_seen: node.first_seen,
        family: node.record.family(),
    })
}
