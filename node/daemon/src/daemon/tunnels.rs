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
    outward::{Prefix, WayOut},
    session::{
        self, After, GoOut, OpenError, OpenTunnel, OpenedTunnel, Protocol, Refusal, Target, Targets,
        TunnelRequest, TunnelSend,
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

/// The published ports of one identity, and its way out.
pub(super) struct Ports {
    pub(super) targets: Arc<Mutex<hosting::Targets>>,
    /// Where its way out does not lead: to this node and what is near.
    pub(super) home: Vec<Prefix>,
}

impl Targets for Ports {
    /// Who finds a closed door here does not learn which of the other doors there are.
    fn target(&self, client: &ApPublic, protocol: Protocol, port: u16) -> Result<Target, Refusal> {
        let ports = lock(&self.targets);
        match ports.get(&(protocol, port)) {
            Some(HostRequest { to, proxy_protocol, allow, .. }) if allow.admits(client) => {
                Ok(Target { address: *to, introduces: *proxy_protocol })
            }
            _ => Err(closed(&ports, client, Refusal::Refused)),
        }
    }

    fn way_out(&self, client: &ApPublic) -> Result<Arc<dyn GoOut>, Refusal> {
        let ports = lock(&self.targets);
        match ports.get(&(Protocol::Outward, 0)) {
            Some(HostRequest { outward: Some(rules), allow, .. }) if allow.admits(client) => {
                Ok(Arc::new(WayOut::new(rules.clone(), self.home.clone())))
            }
            _ => Err(closed(&ports, client, Refusal::ProtocolUnknown)),
        }
    }

    fn admits(&self, client: &ApPublic) -> bool {
        lock(&self.targets).values().any(|port| port.allow.admits(client))
    }
}

/// What a client learns of what is not there, or not for it.
fn closed(ports: &hosting::Targets, client: &ApPublic, not_there: Refusal) -> Refusal {
    if ports.values().all(|port| port.allow.admits(client)) { not_there } else { Refusal::NotAllowed }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use phantom_protocol::identity::ApSecret;

    use super::*;
    use crate::doors::AccessList;

    fn party(number: u8) -> ApPublic {
        ApSecret::from_bytes(&[number; 32]).public()
    }

    fn ports(ports: &[(u16, &[u8])]) -> Ports {
        let port = |(port, allowed): &(u16, &[u8])| {
            let allowed = allowed.iter().map(|number| party(*number).name().to_string().parse().unwrap());
            let to = ([127, 0, 0, 1], *port).into();
            let allow = AccessList::of(allowed).unwrap();
            let request = HostRequest { allow, ..HostRequest::new(*port, to, "web") };
            ((Protocol::Tcp, *port), request)
        };
        let targets = Arc::new(Mutex::new(ports.iter().map(port).collect::<BTreeMap<_, _>>()));
        Ports { targets, home: Vec::new() }
    }

    #[test]
    fn a_port_is_for_whom_its_list_names_and_a_stranger_does_not_learn_which_ports_there_are() {
        let ports = ports(&[(80, &[]), (22, &[1]), (23, &[2])]);
        let asked =
            |client, port| ports.target(&party(client), Protocol::Tcp, port).map(|it| it.address.port());
        assert_eq!(asked(3, 80), Ok(80));
        assert_eq!(asked(1, 22), Ok(22));
        for port in [22, 23, 24] {
            assert_eq!(asked(3, port), Err(Refusal::NotAllowed), "{port}");
        }
        assert_eq!(asked(1, 24), asked(1, 23));
        assert!(ports.admits(&party(3)));
    }

    #[test]
    fn without_lists_everybody_learns_that_a_port_is_closed() {
        let ports = ports(&[(80, &[])]);
        assert_eq!(ports.target(&party(1), Protocol::Tcp, 81).err(), Some(Refusal::Refused));
    }

    #[test]
    fn for_whom_no_port_is_there_is_no_session() {
        let ports = ports(&[(22, &[1]), (23, &[2])]);
        assert!(ports.admits(&party(1)) && ports.admits(&party(2)) && !ports.admits(&party(3)));
        assert!(ports.target(&party(1), Protocol::Udp, 22).is_err());
    }
}
