//! What `phantom visit` shows. The JSON of it is stable: fields are added, never renamed.

use std::{fmt, net::Ipv6Addr};

use serde::{Deserialize, Serialize};

/// A party that programs visit under a kept identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Visit {
    /// The full name of who is visited.
    pub to: String,
    /// The local label of the identity.
    pub label: String,
    /// Its full name: what the visited may know it by.
    pub name: String,
    /// Its address.
    pub address: Ipv6Addr,
}

impl fmt::Display for Visit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} as {}, {}", self.to, self.label, self.address)
    }
}
