//! The local socket: how the command line speaks to a running node (PROTOCOL §8).
//!
//! One protocol, version 1: frames of a length (4 bytes, highest first) and JSON. A client says [`Request::Hello`] with
//! its version first; the node answers each request with one [`Reply`], in order. What a node does not know is answered
//! with an error, never ignored. Only the user who runs the node is served, and nobody who is under `phantom run`.

mod client;
mod frame;
mod origin;
mod place;
mod room;
mod server;
#[cfg(test)]
mod tests;

use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize};

use super::{Ended, HostRequest, Hosted, LookedUp, Pinged, Status, Visit};

pub use client::{ClientError, INSIDE, LocalClient};
pub use place::{BindError, LocalSocket, client_places, demo_places, make_folders, node_places};

/// The version of the protocol.
pub const VERSION: u32 = 1;

/// What a client may ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Must be first.
    Hello {
        /// The version that the client speaks.
        version: u32,
    },
    /// How are you?
    Status {},
    /// Publish a port.
    Host {
        /// Which, and how.
        service: HostRequest,
    },
    /// Publish it no longer.
    Unhost {
        /// The local label of its identity.
        label: String,
    },
    /// Can this party be reached?
    LookUp {
        /// Its full name.
        name: String,
    },
    /// Go to this party and back.
    Ping {
        /// Its full name.
        name: String,
        /// Give up after this; a minute is the most.
        patience_ms: u64,
    },
    /// Let all isolation groups start afresh.
    NewIdentity {},
    /// Visit a party under a kept identity from now on.
    Visit {
        /// Its full name.
        to: String,
        /// The local label of the identity.
        label: String,
    },
    /// Visit it under one-time identities again.
    ForgetVisit {
        /// Its full name.
        to: String,
    },
    /// Who is visited under a kept identity?
    Visits {},
    /// Carry for a program. After the reply this connection speaks `phantom_policy::frame`, as long as the run goes on.
    Run {
        /// Its servers are to be found by others, too.
        publish: Option<Publish>,
    },
}

/// How the servers of a run are published.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Publish {
    /// Under the kept identity of this label; without one under an identity of the run's own.
    pub label: Option<String>,
}

/// What a node answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// To a hello.
    Hello {
        /// The version that the node speaks.
        version: u32,
        /// The version of the program.
        software: String,
    },
    /// To a status.
    Status {
        /// It.
        status: Box<Status>,
    },
    /// To a host: others can find it now.
    Hosted {
        /// What was published.
        service: Hosted,
    },
    /// To an unhost.
    Unhosted {},
    /// To a look-up.
    LookedUp {
        /// What is known.
        found: LookedUp,
    },
    /// To a ping, when something came back, or nothing will.
    Pinged {
        /// What became of it.
        ping: Pinged,
    },
    /// To a new identity.
    NewIdentity {
        /// What was ended for it.
        ended: Ended,
    },
    /// To all that is about visits: the one, or all.
    Visits {
        /// Them.
        visits: Vec<Visit>,
    },
    /// To a run: it has begun.
    Run {
        /// Its own AP address.
        address: Ipv6Addr,
        /// Under which others find its servers.
        name: Option<String>,
    },
    /// To anything.
    Error {
        /// For programs.
        code: ErrorCode,
        /// For people.
        message: String,
    },
}

/// The kinds of errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The client speaks another version, or has not said which.
    Version,
    /// The node does not know this request.
    Request,
    /// It knows it, and could not do it.
    Failed,
    /// Written by a newer node.
    #[serde(other)]
    Unknown,
}
