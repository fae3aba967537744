//! What a node does to learn, and to tell others, who can be reached (PROTOCOL §7.6).
//!
//! A neighbour that asks for it gets a knock at the door that it names: one more connection, which ends where a browser
//! would end it. That must not make this node a scanner for others: the address has to be the one that the neighbour's
//! own link comes from, and the knock counts with the dials that strangers ask for. The neighbour learns yes or no.

use std::{collections::BTreeMap, net::IpAddr};

use super::{Node, Output, reachable::Relay};
use crate::{
    identity::NodeId,
    limits::{KNOCKS_OF_A_LINK, PROOF_VAIN},
    time::{Moment, Now},
    tunnel::Outlet,
    wire::{cell::LinkId, contact::Contact, control::ControlMessage},
};

/// A link that stands, as the daemon has made or met it.
#[derive(Clone, Copy, Debug)]
pub struct NewLink {
    /// Its number.
    pub link: LinkId,
    /// Who is at its other end.
    pub peer: NodeId,
    /// Where that is; `None` if it was told before.
    pub address: Option<IpAddr>,
    /// Whether this node dialled.
    pub dialled: bool,
}

/// Whether a node serves in the paths of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relaying {
    /// It does, and says so.
    Yes,
    /// It does when it was reached from elsewhere.
    Proving,
    /// It would, but nobody reaches it.
    Unreached,
    /// The quota of this month is spent.
    Spent,
    /// Its user does not want it.
    Unwanted,
    /// It has no address.
    Unlisted,
}

/// Knocks that neighbours have asked for.
#[derive(Default)]
pub(super) struct Knocks {
    /// Where neighbours' links come from.
    addresses: BTreeMap<LinkId, IpAddr>,
    under_way: BTreeMap<NodeId, LinkId>,
    last: BTreeMap<LinkId, Moment>,
}

impl Knocks {
    pub(super) fn handle_link_down(&mut self, link: LinkId) {
        self.addresses.remove(&link);
        self.last.remove(&link);
        // The knock goes on, and its answer to nobody.
    }

    /// Whether this link may ask for one now; counts it.
    fn admit(&mut self, now: Moment, link: LinkId, node: NodeId) -> bool {
        let rested = self.last.get(&link).is_none_or(|last| now.since(*last) >= KNOCKS_OF_A_LINK);
        if !rested || self.under_way.contains_key(&node) {
            return false;
        }
        self.last.insert(link, now);
        true
    }
}

impl Node {
    /// How it stands with relaying for others, if there is something left to give.
    pub(super) fn willing_to_relay(&self, now: Moment) -> Relaying {
        match self.config.relay {
            _ if self.config.contact.address.is_none() => Relaying::Unlisted,
            Relay::Never => Relaying::Unwanted,
            Relay::Always => Relaying::Yes,
            Relay::Auto if self.reachability.is_proven(now) => Relaying::Yes,
            Relay::Auto if self.reachability.vain() >= PROOF_VAIN => Relaying::Unreached,
            Relay::Auto => Relaying::Proving,
        }
    }

    /// The knock at this node's door has been heard, or not.
    pub fn handle_knocked(&mut self, now: Now, node: NodeId, reached: bool, out: &mut impl Outlet) {
        self.strangers_dials.done(&node);
        if let Some(link) = self.knocks.under_way.remove(&node) {
            self.outputs.push_back(Output::Send { link, message: ControlMessage::Knocked(reached) });
        }
        self.settle(now, out);
    }

    /// A link says something about the door of one of its ends.
    pub(super) fn note_link(&mut self, now: Moment, new: NewLink) {
        if let Some(address) = new.address.map(|address| address.to_canonical()) {
            self.knocks.addresses.insert(new.link, address);
            if !new.dialled && self.comes_from_elsewhere(address) {
                self.reachability.handle_visit(now);
            }
        }
        self.reachability.handle_link_up(now);
    }

    /// Whether somebody at this address says something about how others reach this node. To addresses of loopback
    /// there is no other way than from the same machine.
    fn comes_from_elsewhere(&self, address: IpAddr) -> bool {
        let Some(own) = self.config.contact.address else { return false };
        own.ip().is_loopback() || (own.ip() != address && self.config.network.admits((address, 1).into()))
    }

    /// The neighbour wishes to know whether it can be reached.
    pub(super) fn knock(&mut self, now: Now, link: LinkId, peer: NodeId, contact: Contact) {
        let Some(address) = contact.address.filter(|_| contact.id == peer) else {
            return self.outputs.push_back(Output::CloseLink(link));
        };
        if !self.knocks.admit(now.moment, link, peer) {
            return;
        }
        let is_its_own = self.knocks.addresses.get(&link) == Some(&address.ip());
        if !is_its_own || !self.config.network.admits(address) {
            let message = ControlMessage::Knocked(false);
            return self.outputs.push_back(Output::Send { link, message });
        }
        let is_known = self.known_contact(&peer) == Some(contact);
        if self.strangers_dials.admit(now.moment, peer, is_known) {
            self.knocks.under_way.insert(peer, link);
            self.outputs.push_back(Output::Knock(contact));
        }
    }

    /// Whether anything depends on being reached.
    pub(super) fn seeks_proof(&self) -> bool {
        self.config.relay == Relay::Auto && self.config.contact.address.is_some()
    }

    /// Asks a neighbour if it is time to, and lets the world know what has changed.
    pub(super) fn drive_reachability(&mut self, now: Now) {
        if self.seeks_proof() {
            let links = self.neighbours.links().map(|(_, link)| link);
            if let Some(link) = self.reachability.poll_ask(now.moment, links) {
                let message = ControlMessage::Knock(self.config.contact);
                self.outputs.push_back(Output::Send { link, message });
            }
        }
        let relays = self.relaying(now) == Relaying::Yes;
        if std::mem::replace(&mut self.relays, relays) != relays {
            self.outputs.push_back(Output::Relaying(relays));
            if relays {
                self.announce(now);
            } else {
                self.exchange.withdraw();
            }
        }
    }
}
