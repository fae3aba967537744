//! What the doors see of a running node.

use std::task::{Context, Poll};

use phantom_proxy::Connection;

use super::{Command, Daemon, DriverStatus, hosting::hosted, lock, relaying};
use crate::{
    doors::{self, Link, Measures, Quota, Service, Status, Tally},
    link::LinkStats,
    session::{Flow, SessionStream},
};

impl Connection for SessionStream {
    fn reset(self) {
        SessionStream::reset(self);
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        SessionStream::poll_gone(self, cx)
    }
}

impl doors::Flow for Flow {
    fn send(&mut self, data: &[u8]) {
        Flow::send(self, data);
    }

    async fn ended(&mut self) {
        Flow::ended(self).await;
    }
}

impl Daemon {
    /// How the node is, without what only its doors and its process know.
    pub async fn status(&self) -> Status {
        let driver = self.ask(|answer| Command::Status { answer }).await.unwrap_or_default();
        let clock = &self.0.clock;
        let relaying =
            driver.relaying.map(|relaying| relaying::said(relaying, self.listening(), driver.quota.as_ref()));
        let (relaying, relaying_why) = relaying.unwrap_or_default();
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            node: self.id().to_string(),
            uptime_seconds: clock.moment().since(self.0.started).as_secs(),
            state: self.config().state.clone(),
            listen: self.listening(),
            invitation: self.invitation().map(|invitation| invitation.to_string()),
            links: self.link_stats().iter().map(|stats| link(stats, &driver)).collect(),
            guards: driver.guards.iter().map(|(_, guard)| guard.clone()).collect(),
            services: self.services(&driver),
            published_runs: self.0.serving.runs(&driver.entries),
            visits: self.visits(),
            out_proxy: self.config().out_proxy.map(|peer| peer.name().to_string()),
            sessions: self.0.sessions.sessions(),
            known_nodes: driver.known_nodes,
            paths: driver.paths,
            relays_in_use: driver.relays_in_use,
            obstacle: driver.obstacle,
            notice: driver.notice,
            relaying: relaying.to_owned(),
            relaying_why,
            quota: driver.quota.map(|quota| Quota {
                bytes: quota.most,
                used: quota.used,
                renewed: quota.renewed,
            }),
            ..Status::default()
        }
    }

    /// How it is, in numbers alone.
    pub async fn measures(&self) -> Measures {
        let driver = self.ask(|answer| Command::Status { answer }).await.unwrap_or_default();
        let links = self.link_stats();
        let [paths_here, _, tunnels_here, joins, _, tunnels_own, _] = self.0.switch.sizes();
        let mut paths: Tally = ["free", "client", "service"].map(|purpose| (purpose, 0)).into();
        for path in &driver.paths.ready {
            if let Some(count) = paths.get_mut(path.purpose.as_str()) {
                *count += 1;
            }
        }
        let (services, visitors) = {
            let online = lock(&self.0.hosting.online);
            let ports: usize = online.values().map(|identity| lock(&identity.targets).len()).sum();
            let visitors: usize = online.values().map(|identity| identity.service.sessions()).sum();
            let runs = self.0.serving.services();
            (ports + runs.len(), visitors + runs.iter().map(|service| service.sessions()).sum::<usize>())
        };
        Measures {
            uptime: self.0.clock.moment().since(self.0.started),
            known_nodes: driver.known_nodes,
            links_dialled: links.iter().filter(|link| link.dialled).count(),
            links_accepted: links.iter().filter(|link| !link.dialled).count(),
            carried: self.0.links.carried(),
            cells_waiting: links.iter().map(|link| link.waiting).sum(),
            links_ended: driver.links_ended,
            dials_failed: driver.dials_failed,
            paths,
            paths_built: driver.paths.built,
            paths_failed: driver.paths.failed,
            build_times: driver.build_times,
            build_time: driver.build_time,
            paths_here,
            tunnels_here,
            joins,
            tunnels_own,
            tunnels_broken: self.tunnels_broken(),
            sessions: self.0.sessions.sessions(),
            visitors,
            services,
            entries: driver.entries.values().sum(),
        }
    }

    /// One for each published port.
    fn services(&self, driver: &DriverStatus) -> Vec<Service> {
        let mut services = Vec::new();
        for identity in lock(&self.0.hosting.online).values() {
            for request in lock(&identity.targets).values() {
                services.push(Service {
                    hosted: hosted(request.clone(), &identity.public),
                    entries: driver.entries.get(&identity.id).copied().unwrap_or(0),
                    sessions: identity.service.sessions(),
                });
            }
        }
        services
    }
}

fn link(stats: &LinkStats, driver: &DriverStatus) -> Link {
    Link {
        node: stats.peer.to_string(),
        address: stats.address,
        dialled: stats.dialled,
        guard: driver.guards.iter().any(|(guard, _)| *guard == stats.peer),
        since_seconds: stats.age.as_secs(),
        round_trip_micros: stats.round_trip.map(|time| time.as_micros() as u64),
        cells_in: stats.cells_in,
        cells_out: stats.cells_out,
    }
}
