//! The choice of nodes for a circle (PROTOCOL §4).
//!
//! The three places that see the owner's address are filled with three of its four guards. For kept identities the
//! places next to a guard are filled from a second, slowly changing set. All others are random nodes of the whole view
//! with fresh records; nodes seen for hours come first if there are twice as many as needed. Nodes in doubt, guards in
//! use and guards set aside are taken only where others do not suffice.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use rand::seq::SliceRandom;
use rand_core::CryptoRng;

use super::{
    diversity::Diversity,
    guards::{Guards, GuardsStopped},
    layout::Layout,
};
use crate::{
    crypto::seal::PathPublic,
    identity::NodeId,
    limits::{FRESH_RECORD_SECS, GUARDS_PER_CIRCLE, MAX_HOPS, SEASONED_SECS, SECOND_SET},
    time::UnixTime,
    wire::contact::Contact,
};

/// A family as its members declare it.
pub type Family = [u8; 16];

/// What the network view knows of a node.
#[derive(Clone, Copy)]
pub struct Candidate<'a> {
    /// How to reach it. Unlisted nodes are never chosen.
    pub contact: Contact,
    /// The newest path key of its record.
    pub path_key: &'a PathPublic,
    /// When its record was signed.
    pub issued: UnixTime,
    /// When this node first heard of it.
    pub first_seen: UnixTime,
    /// The family that it declares, if any.
    pub family: Option<Family>,
}

/// What kind of circle is wanted.
#[derive(Clone, Copy)]
pub struct PlanRequest<'a> {
    /// X-nodes, 1 to 8. A path of length 0 needs no plan: [`super::own_terminal`].
    pub hops: usize,
    /// Whether the path is for an identity that is kept: the nodes next to guards change slowly then.
    pub kept_identity: bool,
    /// Nodes in doubt, and how much. Used only where there are no others, the least doubtful first.
    pub avoid: &'a BTreeMap<NodeId, u32>,
    /// Terminals that the identity's other entries have. Used only where there are no others.
    pub avoid_terminals: &'a BTreeSet<NodeId>,
}

/// A node with a place in the circle.
#[derive(Clone)]
pub struct Stop {
    /// How its neighbours reach it.
    pub contact: Contact,
    /// What its setup package is sealed to.
    pub path_key: PathPublic,
}

/// A circle's nodes in their order, and the path's order among them.
#[derive(Clone)]
pub struct Plan {
    sequence: Vec<Stop>,
    layout: Layout,
    watched: Vec<NodeId>,
}

/// Why no circle can be drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Not a length that has a circle.
    #[error("a routing path has 1 to {MAX_HOPS} hops (0 is the mode without anonymity), not {0}")]
    Length(usize),
    /// The network view is too small.
    #[error(
        "a path of {hops} hops needs {needed} other nodes, each in a network of its own; {usable} of {known} known \
         nodes can be used ({stale} have no fresh record, {unlisted} have no public address, {alike} share a /16, /32 \
         or family with another or with this node)"
    )]
    TooFewNodes {
        /// Wanted X-nodes.
        hops: usize,
        /// Nodes of the circle besides the owner.
        needed: usize,
        /// Nodes that could stand in one circle together.
        usable: usize,
        /// Nodes in the view besides the owner.
        known: usize,
        /// With a record older than about 10 minutes.
        stale: usize,
        /// Without a public address.
        unlisted: usize,
        /// Too close to others.
        alike: usize,
    },
    /// Too few guards answer.
    #[error("a path needs {GUARDS_PER_CIRCLE} guards, and only {0} can be reached; is this computer online?")]
    TooFewGuards(usize),
    /// Guards deny selectively.
    #[error(transparent)]
    Guards(#[from] GuardsStopped),
}

/// Shuffles before a draw is given up.
const DRAWS: usize = 8;

impl Plan {
    /// Draws one.
    pub fn draw(
        now: UnixTime,
        own: &Contact,
        view: &[Candidate<'_>],
        guards: &mut Guards,
        request: &PlanRequest<'_>,
        rng: &mut impl CryptoRng,
    ) -> Result<Plan, PlanError> {
        if !(1..=MAX_HOPS).contains(&request.hops) {
            return Err(PlanError::Length(request.hops));
        }
        let view = Usable::of(now, own, view);
        let layout = Layout::draw(request.hops, rng);
        guards.refresh(now, own, &view.candidates, rng)?;
        if view.distinct < layout.len() {
            return Err(view.too_few(request.hops, layout.len()));
        }
        let watched = guards.in_use(now, own, &view.candidates);
        if watched.len() < GUARDS_PER_CIRCLE {
            return Err(PlanError::TooFewGuards(watched.len()));
        }
        let second = request.kept_identity.then(|| guards.second_set(now, own, &view.candidates, rng));
        // Families overlap networks, so that a draw may run into a corner where another one does not.
        let drawn = (0..DRAWS).find_map(|_| {
            let pool = view.pool(layout.len(), &watched, guards, request.avoid, rng);
            Draw { own, watched: &watched, second: second.as_deref(), pool, request }.fill(&layout, rng)
        });
        let sequence = drawn.ok_or_else(|| view.too_few(request.hops, layout.len()))?;
        let watched = watched.iter().map(|guard| guard.contact.id).collect();
        Ok(Plan { sequence, layout, watched })
    }

    /// The circle without its owner.
    pub fn sequence(&self) -> &[Stop] {
        &self.sequence
    }

    /// The X-nodes in the order of the path: X1 first, the terminal last.
    pub fn path(&self) -> impl Iterator<Item = &Stop> {
        self.path_places().iter().filter_map(|place| self.sequence.get(*place))
    }

    /// Where in the sequence the X-nodes are, in the order of the path.
    pub fn path_places(&self) -> &[usize] {
        &self.layout.path
    }

    /// The nodes that see the owner's address: first and last of the sequence, and X1.
    pub fn guards(&self) -> [&Stop; GUARDS_PER_CIRCLE] {
        #[allow(clippy::indexing_slicing)] // invariant: a layout's places are places of its sequence
        self.layout.guard_places().map(|place| &self.sequence[place])
    }

    /// The guards that were in use when the plan was drawn, three of which it has.
    pub fn watched(&self) -> &[NodeId] {
        &self.watched
    }
}

/// The view without what no circle may hold.
struct Usable<'a> {
    candidates: Vec<Candidate<'a>>,
    now: UnixTime,
    distinct: usize,
    distinct_seasoned: usize,
    known: usize,
    stale: usize,
    unlisted: usize,
}

impl<'a> Usable<'a> {
    fn of(now: UnixTime, own: &Contact, view: &[Candidate<'a>]) -> Usable<'a> {
        let others = || view.iter().filter(|candidate| candidate.contact.id != own.id);
        let listed = || others().filter(|candidate| candidate.contact.address.is_some());
        let candidates: Vec<_> = listed().filter(|candidate| candidate.is_fresh(now)).copied().collect();
        let seasoned = candidates.iter().filter(|candidate| candidate.is_seasoned(now));
        Usable {
            now,
            distinct: count_distinct(own, candidates.iter()),
            distinct_seasoned: count_distinct(own, seasoned),
            known: others().count(),
            stale: listed().count() - candidates.len(),
            unlisted: others().count() - listed().count(),
            candidates,
        }
    }

    fn too_few(&self, hops: usize, needed: usize) -> PlanError {
        PlanError::TooFewNodes {
            hops,
            needed,
            usable: self.distinct,
            known: self.known,
            stale: self.stale,
            unlisted: self.unlisted,
            alike: self.candidates.len() - self.distinct,
        }
    }

    /// All candidates in random order, those that are better left alone at the end.
    fn pool(
        &self,
        needed: usize,
        watched: &[Candidate<'_>],
        guards: &Guards,
        avoid: &BTreeMap<NodeId, u32>,
        rng: &mut impl CryptoRng,
    ) -> Vec<Candidate<'a>> {
        let only_seasoned = self.distinct_seasoned >= 2 * needed;
        let mut pool = self.candidates.clone();
        pool.shuffle(rng);
        pool.sort_by_key(|candidate| {
            let id = candidate.contact.id;
            let guard = watched.iter().any(|guard| guard.contact.id == id) || guards.is_aside(self.now, id);
            let unseasoned = only_seasoned && !candidate.is_seasoned(self.now);
            (guard, unseasoned, avoid.get(&id).copied().unwrap_or(0))
        });
        pool
    }
}

fn count_distinct<'a>(own: &Contact, candidates: impl Iterator<Item = &'a Candidate<'a>>) -> usize {
    let mut diversity = Diversity::around(own);
    candidates.filter(|candidate| diversity.admit(candidate)).count()
}

impl Candidate<'_> {
    fn is_fresh(&self, now: UnixTime) -> bool {
        now.0.saturating_sub(self.issued.0) <= FRESH_RECORD_SECS
    }

    fn is_seasoned(&self, now: UnixTime) -> bool {
        now.0.saturating_sub(self.first_seen.0) >= SEASONED_SECS
    }
}

/// Fills the places of a layout.
struct Draw<'a> {
    own: &'a Contact,
    watched: &'a [Candidate<'a>],
    second: Option<&'a [Candidate<'a>]>,
    pool: Vec<Candidate<'a>>,
    request: &'a PlanRequest<'a>,
}

impl Draw<'_> {
    fn fill(&self, layout: &Layout, rng: &mut impl CryptoRng) -> Option<Vec<Stop>> {
        let mut circle = Diversity::around(self.own);
        let mut places: BTreeMap<usize, Candidate<'_>> = BTreeMap::new();

        let mut guards = self.watched.to_vec();
        guards.shuffle(rng);
        // The terminal of a path of one hop is a guard, too.
        let at_terminal = layout.guard_places().iter().position(|place| *place == layout.terminal());
        let other = guards.iter().position(|guard| self.is_other_terminal(guard));
        if let (Some(at), Some(other)) = (at_terminal, other)
            && guards.get(at).is_some_and(|guard| !self.is_other_terminal(guard))
        {
            guards.swap(at, other);
        }
        for (place, guard) in layout.guard_places().into_iter().zip(guards) {
            circle.admit(&guard).then(|| places.insert(place, guard))?;
        }
        if let Some(second) = self.second {
            let mut second = second.to_vec();
            second.shuffle(rng);
            let mut beside = layout.places_beside_guards();
            beside.sort_by_key(|place| *place != layout.terminal());
            for place in beside {
                let is_terminal = place == layout.terminal();
                let fresh = second.iter().filter(|node| is_terminal && self.is_other_terminal(node));
                match fresh.chain(&second).find(|candidate| circle.admit(candidate)) {
                    Some(node) => _ = places.insert(place, *node),
                    // Only in a network that is too small for the set stand others here.
                    None if second.len() < SECOND_SET => {}
                    None => return None,
                }
            }
        }
        if let Entry::Vacant(place) = places.entry(layout.terminal()) {
            let fresh = self.pool.iter().filter(|node| self.is_other_terminal(node));
            place.insert(*fresh.chain(&self.pool).find(|candidate| circle.admit(candidate))?);
        }
        let mut vacant: Vec<usize> = (0..layout.len()).filter(|place| !places.contains_key(place)).collect();
        vacant.shuffle(rng);
        for place in vacant {
            places.insert(place, *self.pool.iter().find(|candidate| circle.admit(candidate))?);
        }
        Some(
            places
                .into_values()
                .map(|node| Stop { contact: node.contact, path_key: node.path_key.clone() })
                .collect(),
        )
    }

    /// Whether none of the identity's other paths ends here.
    fn is_other_terminal(&self, node: &Candidate<'_>) -> bool {
        !self.request.avoid_terminals.contains(&node.contact.id)
    }
}

#[cfg(test)]
mod tests;
