//! Guards: the few long-lived nodes that get to see this owner's address (PROTOCOL §4).
//!
//! A list of up to 20 nodes, each of another network, is sampled once and changes only slowly: a node leaves it a random
//! 60 to 120 days after it came, or when its record was not seen for 20 days. In use are the first four of the list that
//! can be reached and have a fresh record; the next ones stand in for others and step back when those return. Each
//! circle takes three of the four at random, so that circles with and without each guard can be counted: a guard with
//! which less than half as many circles succeed as without it, more clearly than by chance, denies the others' paths,
//! and is set aside for 30 days.
//! That may happen twice within 30 days; before a third time building stops, because an attacker could otherwise walk
//! the owner from guard to guard.

use std::collections::{BTreeMap, BTreeSet};

use rand::{RngExt, seq::SliceRandom};
use rand_core::CryptoRng;

use super::{diversity::Diversity, plan::Candidate};
use crate::{
    identity::NodeId,
    limits::{
        GUARD_ABSENCE_SECS, GUARD_ASIDE_SECS, GUARD_CIRCLES, GUARD_DOUBT, GUARD_LIFE_SECS, GUARD_RETRY,
        GUARD_SAMPLE, GUARDS, GUARDS_ASIDE, GUARDS_PER_CIRCLE, SECOND_SET, SECOND_SET_LEAST_SECS,
        SECOND_SET_MOST_SECS,
    },
    time::UnixTime,
    wire::{
        contact::Contact,
        reader::{Malformed, Reader, Writer},
    },
};

/// The sampled list, the counters and the second set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guards {
    sample: Vec<Guard>,
    /// When guards were set aside, within the last 30 days.
    replaced: Vec<UnixTime>,
    stopped: UnixTime,
    second: Vec<Member>,
    /// Not stored: until when a guard is not tried again.
    unreachable: BTreeMap<NodeId, UnixTime>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Guard {
    id: NodeId,
    leaves: UnixTime,
    seen: UnixTime,
    aside: UnixTime,
    with: Tally,
    without: Tally,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Member {
    id: NodeId,
    leaves: UnixTime,
}

/// Circles and how many of them succeeded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    circles: u32,
    successes: u32,
}

/// What the user must be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GuardNotice {
    /// A guard denies.
    #[error(
        "a guard let far fewer paths succeed than the others and is set aside for 30 days; `phantom peers` shows who is left"
    )]
    SetAside(NodeId),
    /// One more than an owner should accept.
    #[error(transparent)]
    Stopped(#[from] GuardsStopped),
}

/// Building has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a third guard within 30 days denies paths: somebody may be trying to lead this node to guards of their choice. \
     No paths are built until {} (UTC seconds); connect from another network, or ask friends for another view of this one",
    .0.0
)]
pub struct GuardsStopped(pub UnixTime);

impl Guards {
    /// Nothing is sampled yet.
    pub fn new() -> Guards {
        Guards::default()
    }

    /// Brings the sampled list up to date with the view (usable candidates only).
    pub fn refresh(
        &mut self,
        now: UnixTime,
        own: &Contact,
        view: &[Candidate<'_>],
        rng: &mut impl CryptoRng,
    ) -> Result<(), GuardsStopped> {
        if now < self.stopped {
            return Err(GuardsStopped(self.stopped));
        }
        let known = by_id(view);
        for guard in &mut self.sample {
            if known.contains_key(&guard.id) {
                guard.seen = now;
            }
        }
        self.sample.retain(|guard| now < guard.leaves && !older(now, guard.seen, GUARD_ABSENCE_SECS));
        self.replaced.retain(|when| !older(now, *when, GUARD_ASIDE_SECS));
        self.unreachable.retain(|_, retry| now < *retry);

        let mut circle = Diversity::around(own);
        self.sample.iter().filter_map(|guard| known.get(&guard.id)).for_each(|guard| _ = circle.admit(guard));
        let listed: BTreeSet<NodeId> = self.sample.iter().map(|guard| guard.id).collect();
        let room = GUARD_SAMPLE.saturating_sub(self.sample.len());
        for candidate in shuffled(view, rng)
            .into_iter()
            .filter(|candidate| !listed.contains(&candidate.contact.id) && circle.admit(candidate))
            .take(room)
        {
            let life = rng.random_range(GUARD_LIFE_SECS..=2 * GUARD_LIFE_SECS);
            self.sample.push(Guard::new(candidate.contact.id, now, life));
        }
        Ok(())
    }

    /// The guards that circles may take now, at most four.
    pub fn in_use<'a>(&self, now: UnixTime, own: &Contact, view: &[Candidate<'a>]) -> Vec<Candidate<'a>> {
        let known = by_id(view);
        let mut circle = Diversity::around(own);
        self.sample
            .iter()
            .filter(|guard| {
                guard.aside <= now && self.unreachable.get(&guard.id).is_none_or(|retry| *retry <= now)
            })
            .filter_map(|guard| known.get(&guard.id).map(|candidate| **candidate))
            .filter(|candidate| circle.admit(candidate))
            .take(GUARDS)
            .collect()
    }

    /// Whether it is on the sampled list.
    pub fn lists(&self, node: NodeId) -> bool {
        self.sample.iter().any(|guard| guard.id == node)
    }

    /// Whether the node was set aside for denying.
    pub fn is_aside(&self, now: UnixTime, node: NodeId) -> bool {
        self.sample.iter().any(|guard| guard.id == node && now < guard.aside)
    }

    /// A guard could not be reached: another one stands in for some minutes. That is not denial and is not counted.
    pub fn handle_unreachable(&mut self, now: UnixTime, node: NodeId) {
        self.unreachable.insert(node, UnixTime(now.0.saturating_add(GUARD_RETRY.as_secs())));
    }

    /// A link to the node stands: its stand-in steps back.
    pub fn handle_reachable(&mut self, node: NodeId) {
        self.unreachable.remove(&node);
    }

    /// A circle whose guards could be reached has ended. `watched` are the guards that were in use, `used` the three
    /// among them that the circle took.
    pub fn handle_circle(
        &mut self,
        now: UnixTime,
        watched: &[NodeId],
        used: &[NodeId; GUARDS_PER_CIRCLE],
        success: bool,
    ) -> Option<GuardNotice> {
        for guard in self.sample.iter_mut().filter(|guard| watched.contains(&guard.id)) {
            let tally = if used.contains(&guard.id) { &mut guard.with } else { &mut guard.without };
            tally.count(success);
        }
        let denier = self.sample.iter_mut().filter_map(Guard::judge).next()?;
        self.set_aside(now, denier)
    }

    fn set_aside(&mut self, now: UnixTime, denier: NodeId) -> Option<GuardNotice> {
        let until = UnixTime(now.0.saturating_add(GUARD_ASIDE_SECS));
        self.replaced.retain(|when| !older(now, *when, GUARD_ASIDE_SECS));
        if self.replaced.len() >= GUARDS_ASIDE {
            let first = self.replaced.iter().min().copied().unwrap_or(now);
            self.stopped = UnixTime(first.0.saturating_add(GUARD_ASIDE_SECS));
            return Some(GuardsStopped(self.stopped).into());
        }
        self.replaced.push(now);
        self.sample.iter_mut().filter(|guard| guard.id == denier).for_each(|guard| guard.aside = until);
        // What was counted beside the denier says nothing about the others.
        self.sample.iter_mut().for_each(Guard::forget);
        Some(GuardNotice::SetAside(denier))
    }

    /// The second set: nodes that stand next to guards in the circles of kept identities, eight if the network has as
    /// many that are no guards in use. Each stays for a random 1 to 14 days; others stand in for those without a fresh
    /// record, but the set never holds more than twice eight.
    pub fn second_set<'a>(
        &mut self,
        now: UnixTime,
        own: &Contact,
        view: &[Candidate<'a>],
        rng: &mut impl CryptoRng,
    ) -> Vec<Candidate<'a>> {
        self.second.retain(|member| now < member.leaves);
        let known = by_id(view);
        let mut circle = Diversity::around(own);
        self.in_use(now, own, view).iter().for_each(|guard| _ = circle.admit(guard));
        let members = self.second.iter().filter_map(|member| known.get(&member.id).map(|node| **node));
        let mut set: Vec<Candidate<'a>> =
            members.filter(|node| circle.admit(node)).take(SECOND_SET).collect();
        let room = (2 * SECOND_SET).saturating_sub(self.second.len()).min(SECOND_SET - set.len());
        for node in shuffled(view, rng).into_iter().filter(|node| circle.admit(node)).take(room) {
            let stay = rng.random_range(SECOND_SET_LEAST_SECS..=SECOND_SET_MOST_SECS);
            self.second.push(Member { id: node.contact.id, leaves: UnixTime(now.0.saturating_add(stay)) });
            set.push(node);
        }
        set
    }

    /// For the store.
    pub fn encode(&self, out: &mut Writer) {
        out.u64(self.stopped.0).u16(self.replaced.len() as u16);
        self.replaced.iter().for_each(|when| _ = out.u64(when.0));
        out.u16(self.sample.len() as u16);
        self.sample.iter().for_each(|guard| guard.encode(out));
        out.u16(self.second.len() as u16);
        self.second.iter().for_each(|member| _ = out.bytes(member.id.as_bytes()).u64(member.leaves.0));
    }

    /// From the store.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Guards, Malformed> {
        let stopped = UnixTime(reader.u64()?);
        let replaced = list(reader, GUARDS_ASIDE, |reader| reader.u64().map(UnixTime))?;
        let sample = list(reader, GUARD_SAMPLE, Guard::decode)?;
        let second = list(reader, 2 * SECOND_SET, |reader| {
            Ok(Member { id: NodeId::from_bytes(reader.array()?), leaves: UnixTime(reader.u64()?) })
        })?;
        Ok(Guards { sample, replaced, stopped, second, unreachable: BTreeMap::new() })
    }
}

impl Guard {
    fn new(id: NodeId, now: UnixTime, life: u64) -> Guard {
        Guard {
            id,
            leaves: UnixTime(now.0.saturating_add(life)),
            seen: now,
            aside: UnixTime(0),
            with: Tally::default(),
            without: Tally::default(),
        }
    }

    fn forget(&mut self) {
        self.with = Tally::default();
        self.without = Tally::default();
    }

    /// Names a denier: after 30 circles with it, less than half of the others' success, and so far below it that chance
    /// explains it once in two thousand judgements only. While the first holds and the second does not, counting goes
    /// on; else half of what was counted is forgotten, so that each judgement is made on mostly new circles.
    fn judge(&mut self) -> Option<NodeId> {
        if self.with.circles < GUARD_CIRCLES {
            return None;
        }
        let suspicious = self.with.is_below_half_of(self.without);
        if suspicious && self.with.differs_from(self.without) {
            return Some(self.id);
        }
        if !suspicious || self.with.circles >= 2 * GUARD_CIRCLES {
            self.with.halve();
            self.without.halve();
        }
        None
    }

    fn encode(&self, out: &mut Writer) {
        out.bytes(self.id.as_bytes()).u64(self.leaves.0).u64(self.seen.0).u64(self.aside.0);
        for tally in [self.with, self.without] {
            out.u32(tally.circles).u32(tally.successes);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Guard, Malformed> {
        Ok(Guard {
            id: NodeId::from_bytes(reader.array()?),
            leaves: UnixTime(reader.u64()?),
            seen: UnixTime(reader.u64()?),
            aside: UnixTime(reader.u64()?),
            with: Tally { circles: reader.u32()?, successes: reader.u32()? },
            without: Tally { circles: reader.u32()?, successes: reader.u32()? },
        })
    }
}

impl Tally {
    fn count(&mut self, success: bool) {
        self.circles = self.circles.saturating_add(1);
        self.successes = self.successes.saturating_add(u32::from(success));
    }

    fn is_below_half_of(self, other: Tally) -> bool {
        2 * u64::from(self.successes) * u64::from(other.circles)
            < u64::from(other.successes) * u64::from(self.circles)
    }

    /// The test for two proportions, squared and without fractions:
    /// z^2 = (bn - am)^2 (n + m) / (nm (a + b) (n + m - a - b)), for a of n and b of m, is above [`GUARD_DOUBT`].
    fn differs_from(self, other: Tally) -> bool {
        let [a, n, b, m] = [self.successes, self.circles, other.successes, other.circles].map(i128::from);
        let difference = b * n - a * m;
        difference * difference * (n + m) > GUARD_DOUBT * n * m * (a + b) * (n + m - a - b)
    }

    fn halve(&mut self) {
        self.circles /= 2;
        self.successes /= 2;
    }
}

fn by_id<'v, 'a>(view: &'v [Candidate<'a>]) -> BTreeMap<NodeId, &'v Candidate<'a>> {
    view.iter().map(|candidate| (candidate.contact.id, candidate)).collect()
}

fn shuffled<'a>(view: &[Candidate<'a>], rng: &mut impl CryptoRng) -> Vec<Candidate<'a>> {
    let mut view = view.to_vec();
    view.shuffle(rng);
    view
}

fn older(now: UnixTime, when: UnixTime, seconds: u64) -> bool {
    now.0.saturating_sub(when.0) >= seconds
}

fn list<T>(
    reader: &mut Reader<'_>,
    most: usize,
    item: impl Fn(&mut Reader<'_>) -> Result<T, Malformed>,
) -> Result<Vec<T>, Malformed> {
    let count = usize::from(reader.u16()?);
    if count > most {
        return Err(Malformed::TooLong);
    }
    (0..count).map(|_| item(reader)).collect()
}

#[cfg(test)]
mod tests;
