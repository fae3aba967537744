//! How a node is: what `phantom status` shows. The JSON of it is stable: fields are added, never renamed.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::Hosted;

/// A node at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Of this program.
    pub version: String,
    /// The beginning of the node's id, in hex.
    pub node: String,
    /// Since the node was started.
    pub uptime_seconds: u64,
    /// Where other nodes reach it.
    pub listen: Option<SocketAddr>,
    /// Where SOCKS is served.
    pub socks: Option<SocketAddr>,
    /// What another node joins with.
    pub invitation: Option<String>,
    /// Nodes of the network that are known here, without this one.
    pub known_nodes: usize,
    /// Established links.
    pub links: Vec<Link>,
    /// Own routing paths.
    pub paths: Paths,
    /// The ids of the guards in use, shortened.
    pub guards: Vec<String>,
    /// Published ports.
    pub services: Vec<Service>,
    /// Open sessions as a client.
    pub sessions: usize,
    /// The ids of all relays that the own paths run through, shortened.
    pub relays_in_use: Vec<String>,
    /// Routing tunnels that this node forwards for others.
    pub tunnels_relayed: usize,
}

/// A link to another node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Link {
    /// The beginning of the other's id.
    pub node: String,
    /// Where it is.
    pub address: Option<SocketAddr>,
    /// Whether it was dialled from here.
    pub dialled: bool,
    /// Bytes of cells that came in.
    pub received: u64,
    /// Bytes of cells that went out.
    pub sent: u64,
}

/// The own routing paths.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Paths {
    /// X-nodes of each.
    pub hops: usize,
    /// As many are kept ready.
    pub wanted: usize,
    /// Being built now.
    pub building: usize,
    /// Those that stand.
    pub ready: Vec<ReadyPath>,
}

/// A routing path that stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReadyPath {
    /// The ids of its relays from here to its terminal, shortened.
    pub relays: Vec<String>,
    /// What it is for: "ready", "client" or "entry".
    pub purpose: String,
    /// Seconds that it has left.
    pub expires_in: u64,
}

/// A published port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// What is published.
    #[serde(flatten)]
    pub hosted: Hosted,
    /// Entry paths that are published for it.
    #[serde(default)]
    pub entries: usize,
    /// Visitors' sessions.
    #[serde(default)]
    pub sessions: usize,
}
