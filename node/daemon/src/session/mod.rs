//! Sessions: QUIC end to end over routing tunnels (PROTOCOL §6).
//!
//! A client's [`SessionPool`] keeps one session per isolation group and peer and replaces the tunnel below it when it
//! dies; a [`Service`] answers for one AP identity. Both speak QUIC through sockets that are made of [`Tunnel`]s: the
//! sockets seal what a relay must not read and never show one connection id on two tunnels.
//!
//! ```text
//!   SessionPool --- Session --- quinn --- ClientSocket --- Tunnel ~~~ Tunnel --- ServiceSocket --- quinn --- Service
//! ```

mod bindings;
mod client;
mod congestion;
mod datagram;
mod error;
mod flow;
mod introduction;
mod memory;
mod pace;
mod quota;
mod serve;
mod service;
mod socket_client;
mod socket_service;
mod stream;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod tls;
mod transport;
mod tunnel;
mod visit;
mod visitors;
mod watch;

use std::{fmt, sync::Arc};

use futures_util::future::BoxFuture;
use phantom_protocol::{
    crypto::datagram::SessionSecret,
    identity::{ApPublic, ApSecret, NodeId},
};
use serde::{Deserialize, Serialize};

pub use client::SessionPool;
pub use congestion::CongestionConfig;
pub use error::{OpenError, Refusal};
pub use flow::{Deliver, Flow};
pub use serve::{Caller, Serve};
pub use service::{GoOut, Service, SessionStats, Take, Target, Targets};
pub use stream::{SessionStream, splice};
pub use tunnel::{After, Inbox, Tunnel, TunnelSend};

/// An isolation group: its paths, look-ups and sessions are its own (PROTOCOL §1).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group(Arc<str>);

impl Group {
    /// The group with this name.
    pub fn new(name: &str) -> Group {
        Group(name.into())
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl Default for Group {
    /// The group of those who named none.
    fn default() -> Group {
        Group::new("default")
    }
}

/// What a port of a peer speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// A stream is a connection.
    #[default]
    Tcp,
    /// A flow is a conversation of datagrams.
    Udp,
    /// No port: a stream is a connection to the ordinary Internet.
    Outward,
}

/// Who a client is to its peers.
#[derive(Clone, Default)]
pub enum SpeakAs {
    /// A fresh identity for each group and peer.
    #[default]
    OneTime,
    /// An identity that is kept.
    Kept(Arc<ApSecret>),
}

impl fmt::Debug for SpeakAs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SpeakAs::OneTime => f.write_str("OneTime"),
            SpeakAs::Kept(secret) => write!(f, "Kept({:?})", secret.public()),
        }
    }
}

/// What a session asks of the layer below: a tunnel to an entry of its peer.
#[derive(Clone, Debug)]
pub struct TunnelRequest {
    /// Whose paths to use.
    pub group: Group,
    /// Who is to be reached.
    pub peer: ApPublic,
    /// Entry nodes that have just failed, the latest last: take another one if there is one.
    pub avoid: Vec<NodeId>,
    /// Known entries have failed: look the peer up anew.
    pub fresh: bool,
    /// Resolve only when the entry node has answered that it is joined. A living session has few connection ids to
    /// spare and must not spend one on each tunnel that leads nowhere; a first handshake saves the round trip.
    pub proven: bool,
}

/// A tunnel that [`OpenTunnel`] has opened.
#[derive(Debug)]
pub struct OpenedTunnel {
    /// The tunnel. It may still be unanswered: a closed inbox says that it was refused.
    pub tunnel: Tunnel,
    /// From the AP entry that named the entry node.
    pub secret: SessionSecret,
    /// The entry node.
    pub entry: NodeId,
}

/// Opens tunnels to peers: look-up, choice of path and entry, token, opener.
pub trait OpenTunnel: Send + Sync {
    /// Opens one.
    fn open(&self, request: TunnelRequest) -> BoxFuture<'_, Result<OpenedTunnel, OpenError>>;
}
