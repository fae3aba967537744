//! How a node is: what `phantom status` shows. The JSON of it is stable: fields are added, never renamed.

use std::{
    net::{Ipv6Addr, SocketAddr},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

use super::{Hosted, Visit};
use crate::confinement::Report;

/// A node at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Of this program.
    pub version: String,
    /// The node's id, in hex.
    pub node: String,
    /// Since the node was started.
    pub uptime_seconds: u64,
    /// What of the machine its process has given up.
    pub confinement: Report,
    /// Its state folder, if it keeps anything.
    pub state: Option<PathBuf>,
    /// Where other nodes reach it.
    pub listen: Option<SocketAddr>,
    /// Where the proxy port is: SOCKS5, SOCKS4a, HTTP CONNECT.
    pub socks: Option<SocketAddr>,
    /// Where the DNS port is.
    pub dns: Option<SocketAddr>,
    /// Where the transparent port is.
    pub transparent: Option<SocketAddr>,
    /// Where monitoring finds measurements.
    pub metrics: Option<SocketAddr>,
    /// What another node joins with.
    pub invitation: Option<String>,
    /// Nodes of the network that are known here, without this one.
    pub known_nodes: usize,
    /// Established links.
    pub links: Vec<Link>,
    /// The nodes that may see this one's address at the ends of its paths: addresses, or ids in hex.
    pub guards: Vec<String>,
    /// Own routing paths.
    pub paths: Paths,
    /// All relays that the own paths run through.
    pub relays_in_use: Vec<String>,
    /// Published ports.
    pub services: Vec<Service>,
    /// Programs under `phantom run` that others can come to.
    pub published_runs: Vec<PublishedRun>,
    /// Who is visited under a kept identity.
    pub visits: Vec<Visit>,
    /// Who leads programs to the ordinary Internet.
    pub out_proxy: Option<String>,
    /// Open sessions as a client.
    pub sessions: usize,
    /// Why no path can be built, if so.
    pub obstacle: Option<String>,
    /// What the user should know.
    pub notice: Option<String>,
    /// Whether this node serves in the paths of others: "yes", "no", or "proving" while it is looked whether it can.
    pub relaying: String,
    /// Why it does not, if so.
    pub relaying_why: Option<String>,
    /// What the links may carry in a month, if that is limited.
    pub quota: Option<Quota>,
}

/// A monthly quota.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Quota {
    /// Bytes a month, both directions together.
    pub bytes: u64,
    /// Of this month.
    pub used: u64,
    /// The day, in UTC, on which the next month begins: 2026-12-01.
    pub renewed: String,
}

/// A link to another node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Link {
    /// The other's id, in hex.
    pub node: String,
    /// Where it is.
    pub address: Option<SocketAddr>,
    /// Whether it was dialled from here.
    pub dialled: bool,
    /// Whether the other is a guard in use.
    pub guard: bool,
    /// How long it has stood.
    pub since_seconds: u64,
    /// One round trip, measured when the link was made.
    pub round_trip_micros: Option<u64>,
    /// Cells that came in.
    pub cells_in: u64,
    /// Cells that went out.
    pub cells_out: u64,
}

/// The own routing paths.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Paths {
    /// Relays of each.
    pub hops: usize,
    /// Those that stand.
    pub ready: Vec<ReadyPath>,
    /// Built since the start.
    pub built: u64,
    /// Tried in vain since the start.
    pub failed: u64,
    /// The median time that one took to build.
    pub build_ms: Option<u64>,
}

/// A routing path that stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReadyPath {
    /// Its relays, from here to its terminal.
    pub relays: Vec<String>,
    /// What it is for: "free", "client" or "service".
    pub purpose: String,
    /// Seconds that it has left.
    pub expires_in: u64,
}

/// A program under `phantom run` that others can come to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedRun {
    /// Its full name, with `.ap`.
    pub name: String,
    /// Its address.
    pub address: Ipv6Addr,
    /// The local label of its identity, if that is kept.
    pub label: Option<String>,
    /// Ways in that stand.
    pub entries: usize,
    /// Visitors' sessions.
    pub sessions: usize,
}

/// A published port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// What is published.
    #[serde(flatten)]
    pub hosted: Hosted,
    /// Ways in that stand.
    #[serde(default)]
    pub entries: usize,
    /// Visitors' sessions.
    #[serde(default)]
    pub sessions: usize,
}
