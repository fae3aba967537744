//! The doors of a node: where local programs come in (PROTOCOL §8).
//!
//! For programs the proxy port, DNS for `.ap` and the transparent port; for monitoring the metrics; for the command line,
//! and for programs under `phantom run`, the local socket. A door knows the node only as a [`NodeHandle`].

mod access;
mod datagrams;
mod dns;
mod held;
pub mod local_socket;
mod metrics;
mod names;
mod port;
mod reach;
mod records;
mod running;
mod runs;
pub mod socks;
mod status;
mod transparent;
mod visit;
mod visitors;

use std::{
    any::Any,
    fmt,
    future::{Future, pending},
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use futures_util::future::{BoxFuture, join_all};
use phantom_protocol::{
    address::{ApAddress, ApName},
    identity::ApPublic,
    wire::outward::Outside,
};
use phantom_proxy::{Config, Connection, Elsewhere, Pac, Proxy};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};

pub use access::{AccessList, Visitor};
pub use dns::{DnsAnswers, DnsPort};
pub use local_socket::{BindError, LocalClient, LocalSocket};
pub use metrics::{Measures, MetricsPort, Tally};
pub use names::Names;
pub(crate) use port::has_no_ipv6;
pub use port::{LocalPort, PortError};
pub use reach::{Ended, FirstLink, LookedUp, Pinged};
pub use records::Records;
pub use running::{Ports, RunningNode};
pub use runs::{Begun, Runs};
pub use socks::SocksDoor;
pub use status::{Link, Paths, PublishedRun, Quota, ReadyPath, Service, Status};
pub use transparent::TransparentPort;
pub use visit::Visit;

use crate::{
    outward::Rules,
    session::{Deliver, Protocol, Serve},
};
use metrics::{Counted, Wishes};

/// Programs that have connected to the proxy port and were not looked at yet.
const QUEUE: i32 = 1024;

/// A node, as far as its doors need it.
pub trait NodeHandle: Send + Sync + 'static {
    /// A connection to a port of a peer.
    type Stream: Connection;
    /// A conversation of datagrams with a port of a peer.
    type Flow: Flow;

    /// Connects to a port of a peer, on behalf of an isolation group. The kind of the error tells the program why:
    /// refused, host or network unreachable, timed out, permission denied.
    fn connect(
        &self,
        group: &str,
        peer: ApPublic,
        port: u16,
    ) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// Who leads programs to the ordinary Internet, if the user has named somebody.
    fn out_proxy(&self) -> Option<ApPublic>;

    /// Connects to somebody outside the network by the out-proxy. Errors are those of [`NodeHandle::connect`].
    fn go_out(
        &self,
        group: &str,
        to: Outside,
        port: u16,
    ) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// Publishes a port (0: any) for one connection of `from`, or of anybody, under an identity that is made for it; returns
    /// when others can find it.
    fn meet(
        &self,
        group: &str,
        from: Option<ApAddress>,
        port: u16,
    ) -> impl Future<Output = io::Result<Awaited<Self::Stream>>> + Send;

    /// Opens a UDP flow to a port of a peer; what comes back goes to `deliver`. Errors are those of
    /// [`NodeHandle::connect`].
    fn flow(
        &self,
        group: &str,
        peer: ApPublic,
        port: u16,
        deliver: Deliver,
    ) -> impl Future<Output = io::Result<Self::Flow>> + Send;

    /// Publishes a local port under a kept identity; returns when others can find it. The text of an error is for the
    /// user.
    fn host(&self, request: HostRequest) -> impl Future<Output = anyhow::Result<Hosted>> + Send;

    /// Ends what [`NodeHandle::host`] began. The identity is kept.
    fn unhost(&self, label: &str) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// How the node is.
    fn status(&self) -> impl Future<Output = Status> + Send;
}

/// A port that waits for one visitor. Dropping it ends the waiting.
pub struct Awaited<S> {
    /// The identity that was made for it.
    pub name: ApName,
    /// The port to come to.
    pub port: u16,
    /// Ends when the visitor is there.
    pub came: BoxFuture<'static, io::Result<(S, ApName)>>,
}

/// A program that serves. Dropping it takes it offline.
pub struct Serving {
    /// Who it is to its visitors.
    pub name: ApName,
    /// What keeps it online.
    pub online: Box<dyn Any + Send + Sync>,
}

impl fmt::Debug for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Serving({})", self.name)
    }
}

/// What the command line alone asks of a node.
pub trait CommandHandle: NodeHandle {
    /// Whether the network can reach a party now.
    fn look_up(&self, peer: ApPublic) -> impl Future<Output = anyhow::Result<LookedUp>> + Send;

    /// Goes to a party and back, end to end. Opens a session if there is none.
    fn ping(&self, peer: ApPublic, patience: Duration)
    -> impl Future<Output = anyhow::Result<Pinged>> + Send;

    /// Lets all isolation groups start afresh: their sessions and paths end.
    fn new_identity(&self) -> impl Future<Output = anyhow::Result<Ended>> + Send;

    /// From now on programs visit `to` under the kept identity of this label.
    fn visit(&self, to: ApName, label: &str) -> impl Future<Output = anyhow::Result<Visit>> + Send;

    /// From now on programs visit `to` under one-time identities.
    fn forget_visit(&self, to: ApName) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// Who is visited under a kept identity.
    fn visits(&self) -> Vec<Visit>;

    /// Lets visitors come to a program that `server` reaches, under the kept identity of a label or a fresh one, until what is
    /// returned is dropped. The text of an error is for the user.
    fn serve(
        &self,
        label: Option<&str>,
        server: Arc<dyn Serve>,
    ) -> impl Future<Output = anyhow::Result<Serving>> + Send;

    /// How the node is, in numbers alone.
    fn measures(&self) -> impl Future<Output = Measures> + Send;
}

/// A conversation of datagrams. Dropping it ends it.
pub trait Flow: Send + 'static {
    /// Sends a datagram, which may get lost.
    fn send(&mut self, data: &[u8]);

    /// Ends when the other side has ended the flow, or it cannot go on.
    fn ended(&mut self) -> impl Future<Output = ()> + Send;
}

/// A wish to publish a local port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostRequest {
    /// The port that others connect to.
    pub port: u16,
    /// Where the node connects their connections to.
    pub to: SocketAddr,
    /// The local label of the identity, see [`is_label`].
    pub label: String,
    /// What the port speaks.
    #[serde(default)]
    pub protocol: Protocol,
    /// Each connection to `to` begins with a line of the PROXY protocol, which says who comes. Only for TCP.
    #[serde(default)]
    pub proxy_protocol: bool,
    /// Who may come in.
    #[serde(default, skip_serializing_if = "AccessList::admits_everybody")]
    pub allow: AccessList,
    /// Where the way out leads: there is one if `protocol` says so, which then has port 0 and no place of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outward: Option<Rules>,
}

impl HostRequest {
    /// To publish a way out for everybody.
    pub fn way_out(rules: Rules, label: &str) -> HostRequest {
        let nowhere = (Ipv4Addr::UNSPECIFIED, 0).into();
        HostRequest {
            protocol: Protocol::Outward,
            outward: Some(rules),
            ..HostRequest::new(0, nowhere, label)
        }
    }

    /// Why it cannot be published as it is, in words for the user.
    pub fn fault(&self) -> Option<&'static str> {
        let is_outward = self.protocol == Protocol::Outward;
        match self {
            _ if !is_label(&self.label) => Some("A label consists of 1 to 32 of a-z, 0-9 and -."),
            HostRequest { outward: Some(rules), .. } if !rules.is_bounded() => {
                Some("A way out has at most 1000 rules of each kind.")
            }
            HostRequest { outward, .. } if outward.is_some() != is_outward => {
                Some("Rules are for a way out.")
            }
            HostRequest { port, .. } if (*port == 0) != is_outward => {
                Some("A port is a number from 1 to 65535.")
            }
            HostRequest { proxy_protocol: true, protocol: Protocol::Udp | Protocol::Outward, .. } => {
                Some("The PROXY protocol is for TCP ports: nothing else has a line in front.")
            }
            _ => None,
        }
    }

    /// To publish a TCP port for everybody.
    pub fn new(port: u16, to: SocketAddr, label: &str) -> HostRequest {
        HostRequest {
            port,
            to,
            label: label.to_owned(),
            protocol: Protocol::Tcp,
            proxy_protocol: false,
            allow: AccessList::default(),
            outward: None,
        }
    }
}

/// A published port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hosted {
    /// The local label of the identity.
    pub label: String,
    /// Its full name, with `.ap`.
    pub name: String,
    /// Its address.
    pub address: Ipv6Addr,
    /// The port that others connect to.
    pub port: u16,
    /// Where their connections go.
    pub to: SocketAddr,
    /// What the port speaks.
    #[serde(default)]
    pub protocol: Protocol,
    /// Each connection to `to` begins with a line of the PROXY protocol, which says who comes. Only for TCP.
    #[serde(default)]
    pub proxy_protocol: bool,
    /// Who may come in.
    #[serde(default, skip_serializing_if = "AccessList::admits_everybody")]
    pub allow: AccessList,
    /// Where the way out leads, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outward: Option<Rules>,
}

impl fmt::Display for Hosted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Hosted { name, port, to, label, .. } = self;
        let udp = if self.protocol == Protocol::Udp { "udp " } else { "" };
        match &self.outward {
            Some(rules) => write!(f, "{name} -> the Internet, {rules} (as {label})")?,
            None => write!(f, "{name}:{port} -> {udp}{to} (as {label})")?,
        }
        match self.allow.known() {
            None => Ok(()),
            Some(1) => f.write_str(" for 1 known visitor"),
            Some(known) => write!(f, " for {known} known visitors"),
        }
    }
}

/// What a label consists of, for people: see [`is_label`].
pub const LABEL_RULE: &str = "1 to 32 of a-z, 0-9 and -";

/// Whether a text can be the local label of an identity. It is a part of a file name.
pub fn is_label(text: &str) -> bool {
    let fits = (1..=32).contains(&text.len()) && !text.starts_with('-');
    fits && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

/// The doors of one node, open but not yet served. Ports are open before there is a runtime: a right that opens them may be
/// gone by then.
#[derive(Debug, Default)]
pub struct Doors {
    /// For programs.
    pub socks: Option<TcpListener>,
    /// For programs and resolvers that ask for names.
    pub dns: Option<DnsPort>,
    /// For programs whose connections the kernel redirects.
    pub transparent: Option<TransparentPort>,
    /// For monitoring.
    pub metrics: Option<MetricsPort>,
    /// For the command line.
    pub sockets: Vec<LocalSocket>,
    /// Clients of the proxy port know Tor's codes F0 to F7.
    pub extended_errors: bool,
    /// What programs have asked for.
    pub names: Arc<Names>,
}

impl Doors {
    /// Serves everything until the future is dropped.
    pub async fn serve<N: CommandHandle>(self, node: Arc<N>) {
        let names = self.names;
        let wishes = Arc::new(Wishes::default());
        let runs = Arc::new(Runs::new(node.clone(), names.clone(), wishes.clone()));
        let sockets =
            join_all(self.sockets.into_iter().map(|socket| socket.serve(node.clone(), runs.clone())));
        let dns = async {
            if let Some(port) = self.dns {
                port.serve(names.clone()).await;
            }
        };
        let metrics = async {
            if let Some(port) = self.metrics {
                port.serve(node.clone(), wishes.clone()).await;
            }
        };
        let (proxy, door) = (proxy(self.extended_errors), SocksDoor::new(node.clone(), names.clone()));
        let door = Arc::new(Counted::new(door, wishes.clone()));
        let transparent = async {
            if let Some(port) = self.transparent {
                port.serve(&proxy, door.clone()).await;
            }
        };
        let socks = async {
            match self.socks {
                None => pending().await,
                Some(listener) => {
                    let error = match tokio::net::TcpListener::from_std(listener) {
                        Ok(listener) => {
                            let Err(error) = proxy.serve(listener, door.clone()).await;
                            error
                        }
                        Err(error) => error,
                    };
                    tracing::error!("the proxy port is closed: {error}");
                }
            }
        };
        tokio::join!(sockets, socks, dns, transparent, metrics);
    }
}

/// A page in `.ap` may refer to places outside. A browser that is configured by this port asks the port for them, too, and
/// is refused, where it would otherwise show its own address.
fn proxy(extended_errors: bool) -> Proxy {
    let pac = Pac::new("ap", Elsewhere::Here).map(|pac| pac.with_addresses(0xfc));
    Proxy::new(Config { pac, extended_errors, ..Config::default() })
}

/// Opens a proxy port. It comes before anything costly, so that the user learns at once that it is taken.
pub fn bind_socks(address: SocketAddr) -> Result<TcpListener, PortError> {
    let port = LocalPort::proxy(address)?;
    listen(address).map_err(|error| port.failed(error))
}

/// A browser that starts, or a crawler, opens connections by the hundred: with the usual queue of 128 some would wait a
/// second.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(QUEUE)?;
    Ok(socket.into())
}

/// Opens the local socket at those of `places` where no other node answers; the first must be free.
pub async fn bind_sockets(places: &[PathBuf]) -> Result<Vec<LocalSocket>, BindError> {
    let mut sockets = Vec::new();
    for (index, place) in places.iter().enumerate() {
        match LocalSocket::bind(place).await {
            Ok(socket) => sockets.push(socket),
            Err(error) if index > 0 => tracing::info!("no second local socket: {error}"),
            Err(error) => return Err(error),
        }
    }
    Ok(sockets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_safe_in_a_file_name() {
        for label in ["a", "web-8000", "0"] {
            assert!(is_label(label), "{label}");
        }
        for label in ["", "..", "a/b", "A", "a b", "-a", "a.b", "ä", &"a".repeat(33)] {
            assert!(!is_label(label), "{label}");
        }
    }

    #[test]
    fn a_taken_or_public_proxy_port_is_a_sentence_that_says_what_to_do() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = bind_socks(address).unwrap_err().to_string();
        assert!(error.starts_with(&format!("The proxy port {address} is in use")), "{error}");
        assert!(error.contains(". Choose another one: --socks 127.0.0.1:"), "{error}");
        let error = bind_socks("0.0.0.0:0".parse().unwrap()).unwrap_err();
        assert!(matches!(error, PortError::Public(_)), "{error}");
    }
}
