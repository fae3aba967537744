//! Never two nodes of one /16 (IPv4), /32 (IPv6) or declared family in a circle (PROTOCOL §4).

use std::collections::BTreeSet;

use super::plan::{Candidate, Family};
use crate::{identity::NodeId, netdb::view::Subnet, wire::contact::Contact};

/// The networks, families and nodes that a circle already holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Diversity {
    nodes: BTreeSet<NodeId>,
    networks: BTreeSet<Subnet>,
    families: BTreeSet<Family>,
}

impl Diversity {
    /// A circle that only its owner is in yet. The owner counts: a neighbour in its own network learns no less.
    pub fn around(own: &Contact) -> Diversity {
        let mut circle = Diversity::default();
        circle.nodes.insert(own.id);
        circle.networks.extend(subnet(own));
        circle
    }

    /// Adds the node if it differs from everything that is in the circle.
    pub fn admit(&mut self, candidate: &Candidate<'_>) -> bool {
        let Some(network) = subnet(&candidate.contact) else {
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

fn subnet(contact: &Contact) -> Option<Subnet> {
    contact.address.map(|address| Subnet::of(address.ip()))
}
