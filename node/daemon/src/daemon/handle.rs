//! What the doors see of a running node.

use std::io;

use phantom_protocol::identity::ApPublic;
use phantom_proxy::Connection;

use super::{Command, Daemon, DriverStatus, hosting::hosted, lock};
use crate::{
    doors::{HostRequest, Hosted, Link, NodeHandle, Service, Status},
    link::LinkStats,
    session::{Group, SessionStream},
};

impl Connection for SessionStream {
    fn reset(self) {
        SessionStream::reset(self);
    }
}

impl NodeHandle for Daemon {
    type Stream = SessionStream;

    async fn connect(&self, group: &str, peer: ApPublic, port: u16) -> io::Result<SessionStream> {
        Ok(Daemon::connect(self, &Group::new(group), peer, port).await?)
    }

    async fn host(&self, request: HostRequest) -> anyhow::Result<Hosted> {
        Daemon::host(self, request, self.config().hops).await
    }

    async fn unhost(&self, label: &str) -> anyhow::Result<()> {
        let known = Daemon::unhost(self, label).await?;
        anyhow::ensure!(known, "Nothing is hosted as {label:?}. `phantom status` lists what is.");
        Ok(())
    }

    async fn status(&self) -> Status {
        let driver = self.ask(|answer| Command::Status { answer }).await.unwrap_or_default();
        let clock = &self.0.clock;
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            node: self.id().to_string(),
            uptime_seconds: clock.moment().since(self.0.started).as_secs(),
            listen: self.listening(),
            socks: None,
            dns: None,
            invitation: self.invitation().map(|invitation| invitation.to_string()),
            links: self.link_stats().iter().map(link).collect(),
            services: self.services(&driver),
            sessions: self.0.sessions.sessions(),
            known_nodes: driver.known_nodes,
            paths: driver.paths,
            relays_in_use: driver.relays_in_use,
            obstacle: driver.obstacle,
            notice: driver.notice,
        }
    }
}

impl Daemon {
    /// One for each published port.
    fn services(&self, driver: &DriverStatus) -> Vec<Service> {
        let mut services = Vec::new();
        for (label, identity) in lock(&self.0.hosting.online).iter() {
            for (port, to) in lock(&identity.targets).iter() {
                services.push(Service {
                    hosted: hosted(label.clone(), &identity.public, *port, *to),
                    entries: driver.entries.get(&identity.id).copied().unwrap_or(0),
                    sessions: identity.service.sessions(),
                });
            }
        }
        services
    }
}

fn link(stats: &LinkStats) -> Link {
    Link {
        node: stats.peer.to_string(),
        address: stats.address,
        dialled: stats.dialled,
        cells_in: stats.cells_in,
        cells_out: stats.cells_out,
    }
}
