//! All that an owner draws for one circle, and the slots made of it (PROTOCOL §4).
//!
//! The rule of this file: no value occurs in the slots of two nodes that are not neighbours, in the circle or in the
//! path. Every connection, path id, secret, coin and expiry is drawn for itself. Shared by all is only the class of the
//! limits, one of three.

use rand::RngExt;
use rand_core::CryptoRng;
use zeroize::Zeroizing;

use super::{
    array::{self, Circulation, Seal, Sealed, box_key},
    builder::{EstablishedPath, OwnedHop, PathUse},
    hop::{HopNeighbour, NewHop},
    plan::Plan,
};
use crate::{
    crypto::{Key, proof::RouteKey},
    identity::NodeId,
    limits::{EXPIRY_JITTER_SECS, EXPIRY_ROUNDING_SECS, ROUTE_KEYS_PER_PATH},
    time::UnixTime,
    wire::{
        cell::{LinkId, PathId},
        contact::Contact,
        setup::{GoodieBox, HopBox, PathClass, Round, SetupArray, SetupPackage},
    },
};

/// The owner's links to the nodes that see its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GuardLinks {
    /// To the first node of the sequence.
    pub first: LinkId,
    /// From the last one.
    pub last: LinkId,
    /// To X1.
    pub path: LinkId,
}

/// A circle with everything drawn.
pub(super) struct Circle {
    own: Contact,
    plan: Plan,
    purpose: PathUse,
    links: GuardLinks,
    /// One more than nodes: the owner is at both ends.
    connections: Vec<PathId>,
    /// Of the slots.
    secrets: Vec<Key>,
    /// Of the slots.
    expiries: Vec<UnixTime>,
    /// X1 first.
    hops: Vec<OwnedHop>,
    /// The path's id between each hop and the one before it, which for X1 is the owner.
    paths: Vec<PathId>,
    route_keys: Vec<RouteKey>,
}

impl Circle {
    /// Draws it.
    pub fn draw(
        now: UnixTime,
        own: Contact,
        plan: Plan,
        purpose: PathUse,
        links: GuardLinks,
        rng: &mut impl CryptoRng,
    ) -> Circle {
        let nodes = plan.sequence().len();
        let hops: Vec<OwnedHop> = plan.path().map(|stop| draw_hop(stop.contact.id, rng)).collect();
        Circle {
            own,
            purpose,
            links,
            connections: distinct(nodes + 1, rng),
            secrets: (0..nodes).map(|_| Key::random(rng)).collect(),
            expiries: (0..nodes).map(|_| draw_expiry(now, purpose.class, rng)).collect(),
            paths: distinct(hops.len(), rng),
            hops,
            route_keys: draw_route_keys(purpose, rng),
            plan,
        }
    }

    /// Where the array starts.
    pub fn entrance(&self) -> (LinkId, PathId) {
        (self.links.first, self.connections.first().copied().unwrap_or_default())
    }

    /// Where it comes back.
    pub fn exit(&self) -> (LinkId, PathId) {
        (self.links.last, self.connections.last().copied().unwrap_or_default())
    }

    /// Whether the circle breaks without this link.
    pub fn uses(&self, link: LinkId) -> bool {
        [self.links.first, self.links.last, self.links.path].contains(&link)
    }

    /// The array of a round. `None` if a node's path key is unusable.
    pub fn circulation(&self, round: Round, rng: &mut impl CryptoRng) -> Option<(SetupArray, Circulation)> {
        let slots: Vec<Sealed<'_>> = match round {
            Round::One => self.packages().collect(),
            Round::Two => self.boxes().collect(),
        };
        array::build(&slots, rng)
    }

    /// What the owner keeps when both rounds came back.
    pub fn establish(self) -> Option<EstablishedPath> {
        let terminal = self.plan.path().last()?.contact;
        // The path is as long as the first of its hops remembers it.
        let expiry = self.plan.path_places().iter().filter_map(|place| self.expiries.get(*place)).min()?;
        Some(EstablishedPath {
            terminal,
            link: self.links.path,
            path: *self.paths.first()?,
            route_keys: self.route_keys,
            expiry: *expiry,
            idle: self.purpose.class.idle(),
            hops: self.hops,
        })
    }

    fn packages(&self) -> impl Iterator<Item = Sealed<'_>> {
        let contacts: Vec<Contact> = self.plan.sequence().iter().map(|stop| stop.contact).collect();
        let previous: Vec<NodeId> =
            std::iter::once(self.own).chain(contacts.iter().copied()).map(|contact| contact.id).collect();
        let next = contacts.into_iter().skip(1).chain([self.own]);
        let connections = self.connections.iter().zip(self.connections.iter().skip(1));
        let own = self.secrets.iter().zip(&self.expiries);
        self.plan.sequence().iter().zip(previous).zip(next).zip(connections).zip(own).map(
            |((((stop, previous), next), (before, after)), (secret, expiry))| Sealed {
                seal: Seal::Setup(&stop.path_key),
                payload: SetupPackage {
                    previous,
                    previous_connection: *before,
                    next,
                    next_connection: *after,
                    secret: secret.clone(),
                    class: self.purpose.class,
                    expiry: *expiry,
                }
                .encode(),
            },
        )
    }

    fn boxes(&self) -> impl Iterator<Item = Sealed<'_>> {
        let connections = self.connections.iter().zip(self.connections.iter().skip(1));
        self.secrets.iter().zip(connections).enumerate().map(|(place, (secret, (before, after)))| Sealed {
            seal: Seal::Box(box_key(secret, &before.to_bytes(), &after.to_bytes())),
            payload: self.goodies(place),
        })
    }

    /// What the node at this place of the sequence gets in round 2.
    fn goodies(&self, place: usize) -> Zeroizing<Vec<u8>> {
        let position = self.plan.path_places().iter().position(|hop| *hop == place);
        position
            .and_then(|at| self.hop_box(at))
            .map_or(GoodieBox::Helper, |hop| GoodieBox::Hop(Box::new(hop)))
            .encode()
    }

    /// The box of hop `at`, counted from X1 = 0.
    fn hop_box(&self, at: usize) -> Option<HopBox> {
        let contact = |at: usize| self.plan.path().nth(at).map(|stop| stop.contact);
        let inner = match at.checked_sub(1) {
            None => self.own,
            Some(before) => contact(before)?,
        };
        let inward = Some((inner, *self.paths.get(at)?));
        let outward = contact(at + 1).zip(self.paths.get(at + 1).copied());
        let hop = self.hops.get(at)?;
        let route_keys = if outward.is_none() { self.route_keys.clone() } else { Vec::new() };
        let neighbours = if hop.out_is_a_to_b { [inward, outward] } else { [outward, inward] };
        Some(HopBox { neighbours, secret: hop.secret.clone(), route_keys })
    }
}

/// The path of length 0, openly not anonymous: the owner is its own terminal, over its link to itself. There is no
/// array and no echo: install both and use it.
pub fn own_terminal(
    now: UnixTime,
    own: Contact,
    purpose: PathUse,
    rng: &mut impl CryptoRng,
) -> (EstablishedPath, NewHop) {
    let hop = draw_hop(own.id, rng);
    let path = PathId::new(rng.random());
    let expiry = draw_expiry(now, purpose.class, rng);
    let route_keys = draw_route_keys(purpose, rng);
    let inward = Some(HopNeighbour { node: own.id, link: LinkId::LOOP_B, path });
    let installed = NewHop {
        neighbours: if hop.out_is_a_to_b { [inward, None] } else { [None, inward] },
        secret: hop.secret.clone(),
        route_keys: route_keys.clone(),
        expiry,
        idle: purpose.class.idle(),
    };
    let established = EstablishedPath {
        hops: vec![hop],
        link: LinkId::LOOP_A,
        path,
        terminal: own,
        route_keys,
        expiry,
        idle: purpose.class.idle(),
    };
    (established, installed)
}

fn draw_hop(node: NodeId, rng: &mut impl CryptoRng) -> OwnedHop {
    OwnedHop { node, secret: Key::random(rng), out_is_a_to_b: rng.random() }
}

/// Rounded up to 10 minutes, plus a random time up to an hour.
fn draw_expiry(now: UnixTime, class: PathClass, rng: &mut impl CryptoRng) -> UnixTime {
    let wanted = now.0.saturating_add(class.lifetime().as_secs());
    let rounded = wanted.div_ceil(EXPIRY_ROUNDING_SECS).saturating_mul(EXPIRY_ROUNDING_SECS);
    UnixTime(rounded.saturating_add(rng.random_range(0..=EXPIRY_JITTER_SECS)))
}

fn draw_route_keys(purpose: PathUse, rng: &mut impl CryptoRng) -> Vec<RouteKey> {
    (0..purpose.route_keys.min(ROUTE_KEYS_PER_PATH)).map(|_| RouteKey::random(rng)).collect()
}

/// Random ids, all different: two connections of one circle may share a link.
fn distinct(count: usize, rng: &mut impl CryptoRng) -> Vec<PathId> {
    let mut ids = Vec::with_capacity(count);
    while ids.len() < count {
        let id = PathId::new(rng.random());
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    ids
}

#[cfg(test)]
mod tests;
