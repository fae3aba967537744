//! The seam between sessions and the network: how a session sends, and how it asks for tunnels.

use std::sync::{Arc, Mutex};

use futures_util::{FutureExt, future::BoxFuture};
use phantom_protocol::{
    identity::ApPublic,
    tunnel::{OwnerTunnelId, Switch},
    wire::body::Kind,
};
use tokio::sync::{mpsc, oneshot};

use super::{driver::Command, hosting, lock};
use crate::{
    doors::HostRequest,
    link::{self, Links},
    session::{
        self, After, OpenError, OpenTunnel, OpenedTunnel, Protocol, Refusal, Target, Targets, TunnelRequest,
        TunnelSend,
    },
};

/// Sends for sessions, past the driver: the switch seals, the link's queue takes.
pub(super) struct Sender {
    links: Links,
    switch: Arc<Switch>,
}

impl Sender {
    pub(super) fn new(links: Links, switch: Arc<Switch>) -> Sender {
        Sender { links, switch }
    }
}

impl TunnelSend for Sender {
    fn send(&self, tunnel: OwnerTunnelId, kind: Kind, payload: &[u8], after: After) -> bool {
        let mut outlet = self.links.outlet();
        let sent = self.switch.send(tunnel, kind, payload, &mut outlet);
        if sent && after == After::More {
            outlet.leave(); // what follows takes the same link, and wakes it
        }
        sent
    }

    fn close(&self, tunnel: OwnerTunnelId) {
        self.links.forget_inbox(tunnel);
        self.switch.close_tunnel(tunnel, &mut self.links.outlet());
    }

    fn confirm(&self, tunnel: OwnerTunnelId) {
        self.switch.confirm(tunnel, &mut self.links.outlet());
    }
}

/// A session's inbox, as links know it.
pub(super) struct Delivery(pub(super) Arc<session::Inbox>);

impl link::Inbox for Delivery {
    fn push(&self, kind: Kind, payload: &[u8]) {
        self.0.push(kind, payload);
    }

    fn wake(&self) {
        self.0.wake();
    }
}

/// Asks the driver for tunnels.
pub(super) struct DriverOpener(mpsc::UnboundedSender<Command>);

impl DriverOpener {
    pub(super) fn new(commands: mpsc::UnboundedSender<Command>) -> DriverOpener {
        DriverOpener(commands)
    }
}

impl OpenTunnel for DriverOpener {
    fn open(&self, request: TunnelRequest) -> BoxFuture<'_, Result<OpenedTunnel, OpenError>> {
        let (answer, receiver) = oneshot::channel();
        let _ = self.0.send(Command::Open { request, answer });
        async move { receiver.await.unwrap_or(Err(OpenError::NoPath)) }.boxed()
    }
}

/// The published ports of one identity.
pub(super) struct Ports(pub(super) Arc<Mutex<hosting::Targets>>);

impl Targets for Ports {
    fn target(&self, _client: &ApPublic, protocol: Protocol, port: u16) -> Result<Target, Refusal> {
        let target =
            |request: &HostRequest| Target { address: request.to, introduces: request.proxy_protocol };
        lock(&self.0).get(&(protocol, port)).map(target).ok_or(Refusal::Refused)
    }
}
