//! The daemon as its doors see it: the node, and what only the doors know.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{bail, ensure};
use futures_util::FutureExt;
use phantom_protocol::{
    address::{ApAddress, ApName},
    identity::ApPublic,
    wire::outward::Outside,
};
use tokio::time::timeout;

use super::{
    Awaited, CommandHandle, Ended, HostRequest, Hosted, LookedUp, Measures, Names, NodeHandle, Pinged,
    Serving, Status, Visit,
};
use crate::{
    confinement::Report,
    daemon::Daemon,
    session::{Deliver, Flow, Group, OpenError, Refusal, Serve, SessionStream},
};

/// Who hosts is told the truth after this time, and the node goes on trying.
const PUBLISHING: Duration = Duration::from_secs(120);

/// A running node behind its doors.
pub struct RunningNode {
    daemon: Daemon,
    ports: Ports,
    names: Arc<Names>,
    confinement: Report,
}

/// Where the ports for programs are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ports {
    /// The proxy port.
    pub socks: Option<SocketAddr>,
    /// The DNS port.
    pub dns: Option<SocketAddr>,
    /// The transparent port.
    pub transparent: Option<SocketAddr>,
    /// The port for monitoring.
    pub metrics: Option<SocketAddr>,
}

impl RunningNode {
    /// The node behind these ports, whose doors know these names, in a process that has given up so much.
    pub fn new(daemon: Daemon, ports: Ports, names: Arc<Names>, confinement: Report) -> RunningNode {
        RunningNode { daemon, ports, names, confinement }
    }
}

impl NodeHandle for RunningNode {
    type Stream = SessionStream;
    type Flow = Flow;

    async fn connect(&self, group: &str, peer: ApPublic, port: u16) -> io::Result<SessionStream> {
        self.daemon.connect(&Group::new(group), peer, port).await.map_err(to_program)
    }

    async fn meet(
        &self,
        group: &str,
        from: Option<ApAddress>,
        port: u16,
    ) -> io::Result<Awaited<SessionStream>> {
        let meeting = self.daemon.meet(&Group::new(group), from, port).await.map_err(to_program)?;
        let (name, port) = (meeting.public().name(), meeting.port());
        let came = async move {
            let (stream, visitor) = meeting.come().await?;
            Ok((stream, visitor.name()))
        };
        Ok(Awaited { name, port, came: came.boxed() })
    }

    fn out_proxy(&self) -> Option<ApPublic> {
        self.daemon.config().out_proxy
    }

    async fn go_out(&self, group: &str, to: Outside, port: u16) -> io::Result<SessionStream> {
        self.daemon.go_out(&Group::new(group), to, port).await.map_err(to_program)
    }

    async fn flow(&self, group: &str, peer: ApPublic, port: u16, deliver: Deliver) -> io::Result<Flow> {
        self.daemon.flow(&Group::new(group), peer, port, deliver).await.map_err(to_program)
    }

    async fn host(&self, request: HostRequest) -> anyhow::Result<Hosted> {
        let label = request.label.clone();
        let hops = self.daemon.config().hops;
        match timeout(PUBLISHING, self.daemon.host(request, hops)).await {
            Ok(result) => result,
            Err(_) => {
                let why = self.daemon.status().await.obstacle;
                let why = why.unwrap_or_else(|| "no entry path was built in time".to_owned());
                bail!("{label} is not published yet: {why}. The node goes on trying: see `phantom status`.");
            }
        }
    }

    async fn unhost(&self, label: &str) -> anyhow::Result<()> {
        let known = self.daemon.unhost(label).await?;
        let is_served = self.daemon.is_served(label);
        ensure!(
            known || !is_served,
            "A program under `phantom run` serves as {label}: it goes offline with that."
        );
        ensure!(known, "Nothing is hosted as {label:?}. `phantom status` lists what is.");
        Ok(())
    }

    async fn status(&self) -> Status {
        let confinement = self.confinement.clone();
        let Ports { socks, dns, transparent, metrics } = self.ports;
        Status { socks, dns, transparent, metrics, confinement, ..self.daemon.status().await }
    }
}

impl CommandHandle for RunningNode {
    async fn look_up(&self, peer: ApPublic) -> anyhow::Result<LookedUp> {
        self.daemon.look_up(peer).await
    }

    async fn ping(&self, peer: ApPublic, patience: Duration) -> anyhow::Result<Pinged> {
        self.daemon.ping(peer, patience).await
    }

    async fn new_identity(&self) -> anyhow::Result<Ended> {
        // Who comes back by an address of before would be known by it, and so would what was asked for.
        self.names.forget();
        self.daemon.new_identity().await
    }

    async fn visit(&self, to: ApName, label: &str) -> anyhow::Result<Visit> {
        self.daemon.visit(to, label).await
    }

    async fn forget_visit(&self, to: ApName) -> anyhow::Result<()> {
        self.daemon.forget_visit(to).await
    }

    fn visits(&self) -> Vec<Visit> {
        self.daemon.visits()
    }

    async fn serve(&self, label: Option<&str>, server: Arc<dyn Serve>) -> anyhow::Result<Serving> {
        let served = self.daemon.serve(label, server).await?;
        Ok(Serving { name: served.public().name(), online: Box::new(served) })
    }

    async fn measures(&self) -> Measures {
        self.daemon.measures().await
    }
}

fn to_program(refusal: Refusal) -> io::Error {
    match refusal {
        // The fault is on this side: no host is to blame.
        Refusal::NoTunnel(OpenError::NoPath) => io::Error::new(io::ErrorKind::NetworkUnreachable, refusal),
        refusal => refusal.into(),
    }
}
