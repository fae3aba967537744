//! Never two nodes of one /16 (IPv4), /32 (IPv6) or declared family in a circle (PROTOCOL §4).

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use super::plan::{Candidate, Family};
use crate::{identity::NodeId, wire::contact::Contact};

/// What likely has one operator behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Network {
    V4([u8; 2]),
    V6([u8; 4]),
}

impl Network {
    fn of(address: SocketAddr) -> Network {
        match address.ip().to_canonical() {
            IpAddr::V4(ip) => {
                let [a, b, ..] = ip.octets();
                Network::V4([a, b])
            }
            IpAddr::V6(ip) => {
                let [a, b, c, d, ..] = ip.octets();
                Network::V6([a, b, c, d])
            }
        }
    }
}

/// The networks, families and nodes that a circle already holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Diversity {
    nodes: BTreeSet<NodeId>,
    networks: BTreeSet<Network>,
    families: BTreeSet<Family>,
}

impl Diversity {
    /// A circle that only its owner is in yet. The owner counts: a neighbour in its own network learns no less.
    pub fn around(own: &Contact) -> Diversity {
        let mut circle = Diversity::default();
        circle.nodes.insert(own.id);
        circle.networks.extend(own.address.map(Network::of));
        circle
    }

    /// Adds the node if it differs from everything that is in the circle.
    pub fn admit(&mut self, candidate: &Candidate<'_>) -> bool {
        let Some(network) = candidate.contact.address.map(Network::of) else {
            return false;
        };
        let known = self.nodes.contains(&candidate.contact.id)
            || self.networks.contains(&network)
            || candidate.family.is_some_and(|family| self.families.contains(&family));
        if !known {
            self.nodes.insert(candidate.contact.id);
            self.networks.insert(network);
            self.families.extend(candidate.family);
        }
        !known
    }
}
