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
    netdb::{ap_entry::EntryNode, view::KnownNode},
    path::{
        builder::{BuildFailure, EstablishedPath, PathUse},
        builds::{BuildId, BuildOutput, BuildRequest, Builds, StartError},
        guards::{GuardNotice, Guards},
        own_terminal,
        pacer::{Paced, Pacer},
        plan::{Candidate, PlanError},
    },
    time::{Moment, Now},
    tunnel::{Outlet, OwnedHop, OwnedInstall, OwnedPathId, Side},
    wire::{opener::Opener, setup::PathClass},
};

/// Build times that are remembered.
const KEPT_TIMES: usize = 1_000;
/// A circle that could not be planned is tried again after this, or as soon as something new is known.
const REPLAN: Duration = Duration::from_secs(1);

/// A circle under way.
pub(super) struct Pending {
    purpose: Purpose,
    started: Moment,
    installed: Option<(OwnedPathId, EstablishedPath)>,
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
    /// Why the last one failed.
    pub last_failure: Option<BuildFailure>,
    /// Why no circle can be drawn, if so.
    pub obstacle: Option<PlanError>,
    /// What the user should know about guards.
    pub notice: Option<GuardNotice>,
}

impl Node {
    /// Starts circles while something is wanted and the pace allows it.
    pub(super) fn refill(&mut self, now: Now, out: &mut impl Outlet) {
        while let Some((purpose, hops)) = self.wanted(now) {
            if hops == 0 {
                if self.own_terminal(now, purpose, out).is_none() {
                    return;
                }
                continue;
            }
            if self.circles.len() >= BUILDS_AT_ONCE || now.moment < self.build_at {
                return;
            }
            match self.start_circle(now, purpose, hops) {
                Ok(build) => {
                    self.stats.obstacle = None;
                    if matches!(purpose, Purpose::Trial(_)) {
                        self.trials.pop_front();
                    }
                    self.circles.insert(build, Pending { purpose, started: now.moment, installed: None });
                }
                Err(StartError::Paced(Paced::Busy)) => return,
                Err(StartError::Paced(Paced::Until(time))) => {
                    let wait = Duration::from_secs(time.0.saturating_sub(now.unix.0).max(1));
                    self.build_at = now.moment + wait;
                }
                Err(StartError::Plan(error)) => {
                    self.stats.obstacle = Some(error);
                    self.build_at = now.moment + REPLAN;
                }
            }
        }
    }

    /// Builds one path of this length, measures and ends it: answered by [`Output::Trial`].
    pub fn handle_trial(&mut self, now: Now, ticket: Ticket, hops: usize, out: &mut impl Outlet) {
        self.trials.push_back((ticket, hops));
        self.settle(now, out);
    }

    /// What is missing most: services before the pool, for somebody may be waiting at their door.
    fn wanted(&self, now: Now) -> Option<(Purpose, usize)> {
        if let Some((ticket, hops)) = self.trials.front() {
            return Some((Purpose::Trial(*ticket), *hops));
        }
        let missing = |purpose: Purpose, target: usize| {
            let under_way = self.circles.values().filter(|pending| pending.purpose == purpose).count();
            self.pool.count(purpose, now.unix) + under_way < target
        };
        let service = self.services.iter().find(|(id, service)| {
            let target = service.wanted();
            missing(Purpose::Service(**id), target)
        });
        if let Some((id, service)) = service {
            return Some((Purpose::Service(*id), service.hops));
        }
        // Without hops a path costs nothing: it is made when it is drawn.
        let pool = if self.config.hops == 0 { usize::from(!self.opens.is_empty()) } else { self.config.pool };
        missing(Purpose::Free, pool).then_some((Purpose::Free, self.config.hops))
    }

    fn start_circle(&mut self, now: Now, purpose: Purpose, hops: usize) -> Result<BuildId, StartError> {
        let own = self.config.contact.id;
        let avoid_terminals: BTreeSet<NodeId> = self
            .pool
            .iter()
            .filter(|(_, path)| path.purpose == purpose && purpose != Purpose::Free)
            .filter_map(|(_, path)| path.terminal())
            .collect();
        let request = BuildRequest {
            hops,
            kept_identity: matches!(purpose, Purpose::Service(_)),
            avoid_terminals: &avoid_terminals,
            purpose: path_use(purpose),
        };
        let nodes = self.exchange.view().nodes();
        let candidates: Vec<_> = nodes.filter(|node| node.record.id() != own).filter_map(candidate).collect();
        self.builds.start(now, self.config.contact, &candidates, &request, &mut self.rng)
    }

    /// Length 0: this node is its own terminal, over its link to itself.
    fn own_terminal(&mut self, now: Now, purpose: Purpose, out: &mut impl Outlet) -> Option<OwnedPathId> {
        let (path, hop) = own_terminal(now.unix, self.config.contact, path_use(purpose), &mut self.rng);
        self.install_hop(now, hop, out);
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
            _ => self.builds.handle_path_ended(now, build, &mut self.rng),
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
        if let Some(build) = self.circle_of(path) {
            self.builds.handle_echo(now, build, &mut self.rng);
        }
    }

    fn handle_ready(&mut self, now: Now, build: BuildId, out: &mut impl Outlet) {
        let Some(Pending { purpose, started, installed: Some((id, path)) }) = self.circles.remove(&build)
        else {
            return;
        };
        self.stats.succeeded += 1;
        self.stats.times.push_back(now.moment.since(started));
        if self.stats.times.len() > KEPT_TIMES {
            self.stats.times.pop_front();
        }
        self.outputs.push_back(Output::Persist(self.builds.encode()));
        if let Purpose::Trial(ticket) = purpose {
            self.switch.end_owned_path(id, out);
            self.outputs.push_back(Output::Trial { ticket, outcome: Ok(now.moment.since(started)) });
        } else {
            self.add_ready(now, id, path, purpose);
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
            self.outputs.push_back(Output::Trial { ticket, outcome: Err(failure) });
        }
    }

    /// A path of ours is gone, whoever ended it.
    pub(super) fn forget_path(&mut self, now: Now, path: OwnedPathId) {
        if let Some(build) = self.circle_of(path) {
            self.builds.handle_path_ended(now, build, &mut self.rng);
        }
        self.pool.remove(path);
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
