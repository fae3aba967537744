//! What `phantom lookup`, `ping` and `new-identity` show. The JSON of it is stable: fields are added, never renamed.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// What the network says about a party at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LookedUp {
    /// Seconds until its entry expires; nothing if it has none.
    pub expires_in: Option<u64>,
    /// Ways in that the entry names.
    pub entries: usize,
}

/// What became of one ping.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pinged {
    /// Microseconds until the answer came, if one came.
    pub micros: Option<u64>,
    /// Why none came.
    pub why: Option<String>,
    /// The link to the first relay.
    pub first_link: Option<FirstLink>,
}

/// The link to the first relay of a path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FirstLink {
    /// The relay's id, in hex.
    pub node: String,
    /// Where it is.
    pub address: Option<SocketAddr>,
    /// One round trip, measured when the link was made.
    pub round_trip_micros: Option<u64>,
}

/// What was ended for a new identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ended {
    /// Sessions with peers.
    pub sessions: usize,
    /// Paths that they ran in.
    pub paths: usize,
}
