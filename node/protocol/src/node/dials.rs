//! Dials that strangers ask for: setups that this node helps with, exits that it is (PROTOCOL §2).
//!
//! Whoever builds a path through this node names nodes with addresses of his choice. So a stranger's word about a node
//! counts only where nothing better is known: a false address must neither fail nor delay this node's own dials to the
//! same node, or anybody could make its guards look unreachable. Of what strangers want, only so much is under way at
//! once; nodes that nobody has announced are dialled at a slow pace, or this node would knock on doors for port
//! scanners; and the last places for links are kept for this node's own needs.

use std::collections::BTreeSet;

use super::{Node, Output, Waiter};
use crate::{
    budget::Budget,
    identity::NodeId,
    limits::{LINKS_FOR_STRANGERS, STRANGERS_DIALS, UNKNOWN_DIALS},
    time::{Moment, Now},
    wire::contact::Contact,
};

/// What strangers may still ask for.
pub(super) struct StrangersDials {
    under_way: BTreeSet<NodeId>,
    unknown: Budget,
}

impl StrangersDials {
    pub(super) fn new(now: Moment) -> StrangersDials {
        StrangersDials { under_way: BTreeSet::new(), unknown: Budget::new(now, UNKNOWN_DIALS) }
    }

    /// Whether one more may begin; counts it.
    pub(super) fn admit(&mut self, now: Moment, node: NodeId, is_known: bool) -> bool {
        if self.under_way.len() >= STRANGERS_DIALS || !(is_known || self.unknown.allows(now)) {
            return false;
        }
        if !is_known {
            self.unknown.spend(1);
        }
        self.under_way.insert(node)
    }

    /// A dial to this node has ended, whoever wanted it.
    pub(super) fn done(&mut self, node: &NodeId) {
        self.under_way.remove(node);
    }
}

impl Node {
    /// Waits for a link to a node that a stranger has named, and dials it if nobody does. False if that is too much.
    pub(super) fn dial_for_stranger(&mut self, now: Now, named: Contact, waiter: Waiter) -> bool {
        if self.neighbours.is_awaited(&named.id) {
            self.neighbours.wait(named.id, waiter);
            return true;
        }
        let known = self.known_contact(&named.id);
        let contact = known.unwrap_or(named);
        let admitted = contact.address.is_some_and(|address| self.config.network.admits(address))
            && self.neighbours.links().count() < LINKS_FOR_STRANGERS
            && self.strangers_dials.admit(now.moment, contact.id, known.is_some());
        if admitted && self.neighbours.wait(contact.id, waiter) {
            self.outputs.push_back(Output::Dial(contact));
        }
        admitted
    }

    /// What a node says of itself, or a friend of it.
    pub(super) fn known_contact(&self, node: &NodeId) -> Option<Contact> {
        let announced = self.exchange.view().node(node).map(|known| known.record.contact());
        announced.or_else(|| self.config.friends.iter().find(|friend| friend.id == *node).copied())
    }
}
