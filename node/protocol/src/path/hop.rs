//! What a node does when it is asked to help with a routing path (PROTOCOL §4, both rounds, as X or Y).
//!
//! A setup is one of three states, known by (link, connection id), with one deadline that never moves: 30 seconds after
//! round 1. `Dialling` holds the array of round 1 until a link to the next node stands. `Between` waits for round 2;
//! whatever else comes with that id erases it. `Joining`, of X-nodes, holds the array of round 2 until links to both
//! final neighbours stand; only then is the hop installed and the array forwarded. A refusal is silence: the setup is
//! forgotten, nobody is told. Nothing of this touches the disk.
//!
//! Calls: `handle_*`, then [`HopSetups::poll_output`] until it is empty, then [`HopSetups::next_timeout`].

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use super::{
    array::{Peeled, box_key, peel_box, peel_setup},
    keys::PathKeys,
    turns::{Arrived, Turns},
};
use crate::{
    crypto::{Key, proof::RouteKey},
    identity::NodeId,
    limits::{ARRAYS_BURST, ARRAYS_HELD, ARRAYS_PER_SECOND, BETWEEN_ROUNDS, PATH_LIFE_SECS, SETUPS_PER_LINK},
    time::{Moment, Now, UnixTime},
    wire::{
        cell::{LinkId, PathId},
        contact::Contact,
        setup::{GoodieBox, HopBox, PathClass, Round, SetupArray, SetupPackage},
    },
};

/// What the node must do.
pub enum HopOutput {
    /// Find or dial a link to this node (an unlisted one is found among the links or not at all), then call
    /// [`HopSetups::handle_link`].
    NeedLink(Contact),
    /// Send the array to the neighbour.
    Forward { link: LinkId, round: Round, connection: PathId, array: SetupArray },
    /// This node is now a hop of a path. Comes before the array of round 2 is forwarded. If a path of that id is
    /// installed on the link already, refuse both this and it: no honest owner draws an id twice.
    Install(NewHop),
}

/// A hop, as its goodie box and its setup package describe it.
pub struct NewHop {
    /// By side, A first; `None` is a terminal's "outside".
    pub neighbours: [Option<HopNeighbour>; 2],
    /// All keys of this hop come from it.
    pub secret: Key,
    /// What a terminal accepts tokens for.
    pub route_keys: Vec<RouteKey>,
    /// The path ends at this time.
    pub expiry: UnixTime,
    /// The path ends when it has carried nothing for this long.
    pub idle: Duration,
}

/// A neighbour in the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HopNeighbour {
    /// Whom the link must lead to.
    pub node: NodeId,
    /// The link, which stood when the hop was installed.
    pub link: LinkId,
    /// The path's name on that link.
    pub path: PathId,
}

/// All setups that this node helps with.
pub struct HopSetups {
    own: NodeId,
    setups: BTreeMap<Place, Setup>,
    /// All deadlines are equally far away when they are set, so this is in order. Some are of setups that are gone.
    deadlines: VecDeque<(Moment, Place)>,
    purses: BTreeMap<LinkId, Purse>,
    turns: Turns,
    outputs: VecDeque<HopOutput>,
}

/// Where an array came in.
type Place = (LinkId, PathId);

struct Setup {
    deadline: Moment,
    state: State,
}

enum State {
    Dialling(Box<Dialling>),
    Between(Between),
    Joining(Box<Joining>),
}

struct Dialling {
    package: SetupPackage,
    forward: SetupArray,
}

struct Between {
    box_key: Key,
    next_link: LinkId,
    next_connection: PathId,
    class: PathClass,
    expiry: UnixTime,
}

struct Joining {
    between: Between,
    goodies: Box<HopBox>,
    links: [Option<LinkId>; 2],
    forward: SetupArray,
}

impl HopSetups {
    /// For the node of this id.
    pub fn new(own: NodeId) -> HopSetups {
        HopSetups {
            own,
            setups: BTreeMap::new(),
            deadlines: VecDeque::new(),
            purses: BTreeMap::new(),
            turns: Turns::new(),
            outputs: VecDeque::new(),
        }
    }

    /// An array came in from the neighbour that has proven to be `from_id`. (The node asks its own builds first.)
    #[allow(clippy::too_many_arguments)] // everything is about one message
    pub fn handle_round(
        &mut self,
        now: Now,
        from: LinkId,
        from_id: NodeId,
        round: Round,
        connection: PathId,
        array: SetupArray,
        keys: &mut PathKeys,
    ) {
        let purse = self.purses.entry(from).or_insert_with(|| Purse::full(now.moment));
        if purse.take(now.moment) {
            let rank = purse.rank();
            self.turns.push(rank, Arrived { from, from_id, round, connection, array });
        } else {
            self.setups.remove(&(from, connection));
        }
        self.open_arrays(now, keys);
    }

    /// Opens what has come in, as fast as that is allowed.
    fn open_arrays(&mut self, now: Now, keys: &mut PathKeys) {
        while let Some(arrived) = self.turns.pop(now.moment) {
            self.open_array(now, arrived, keys);
        }
    }

    fn open_array(&mut self, now: Now, arrived: Arrived, keys: &mut PathKeys) {
        let Arrived { from, from_id, round, connection, array } = arrived;
        // Whatever comes with this id and is not the valid round 2 that it waits for erases it: it is out of the map.
        let known = self.setups.remove(&(from, connection));
        match (known, round) {
            (None, Round::One) => self.begin(now, (from, connection), from_id, array, keys),
            (Some(Setup { deadline, state: State::Between(between) }), Round::Two)
                if now.moment < deadline =>
            {
                self.open_box((from, connection), deadline, between, array);
            }
            _ => {}
        }
    }

    /// The answer to [`HopOutput::NeedLink`], for all setups that wait for that node. A new link that nobody asked for
    /// may be told too.
    pub fn handle_link(&mut self, now: Now, node: NodeId, link: Option<LinkId>) {
        let waiting: Vec<Place> =
            self.setups.iter().filter(|(_, setup)| setup.waits_for(node)).map(|(place, _)| *place).collect();
        for place in waiting {
            // Without the link the setup stays out of the map.
            if let (Some(setup), Some(link)) = (self.setups.remove(&place), link)
                && now.moment < setup.deadline
            {
                self.advance(place, setup, node, link);
            }
        }
    }

    /// The link is gone, and with it all setups that came over it or need it.
    pub fn handle_link_down(&mut self, link: LinkId) {
        self.purses.remove(&link);
        self.turns.handle_link_down(link);
        self.setups.retain(|(from, _), setup| *from != link && !setup.uses(link));
    }

    /// Opens what has waited, forgets what is 30 seconds old.
    pub fn handle_timeout(&mut self, now: Now, keys: &mut PathKeys) {
        self.open_arrays(now, keys);
        while let Some((deadline, place)) = self.deadlines.front().copied()
            && deadline <= now.moment
        {
            self.deadlines.pop_front();
            if self.setups.get(&place).is_some_and(|setup| setup.deadline <= now.moment) {
                self.setups.remove(&place);
            }
        }
    }

    /// When to call [`HopSetups::handle_timeout`].
    pub fn next_timeout(&self) -> Option<Moment> {
        let deadline = self.deadlines.front().map(|(deadline, _)| *deadline);
        deadline.into_iter().chain(self.turns.next_timeout()).min()
    }

    /// What to do next.
    pub fn poll_output(&mut self) -> Option<HopOutput> {
        self.outputs.pop_front()
    }

    /// Whether a setup came over this link, or needs it.
    pub fn uses(&self, link: LinkId) -> bool {
        self.setups.iter().any(|((from, _), setup)| *from == link || setup.uses(link))
    }

    /// Setups that this node remembers.
    pub fn len(&self) -> usize {
        self.setups.len()
    }

    /// Whether it remembers none.
    pub fn is_empty(&self) -> bool {
        self.setups.is_empty()
    }

    /// Round 1, PROTOCOL §4: the cheap limits, the slot, and then everything that an honest owner's package fulfils.
    fn begin(&mut self, now: Now, place: Place, from_id: NodeId, array: SetupArray, keys: &mut PathKeys) {
        if !self.has_room(place.0) {
            return;
        }
        let Some(Peeled { payload, forward }) = peel_setup(array, keys) else {
            return;
        };
        let Ok(package) = SetupPackage::decode(&payload) else {
            return;
        };
        let latest = now.unix.0.saturating_add(PATH_LIFE_SECS);
        let honest = package.previous == from_id
            && package.previous_connection == place.1
            && package.next.id != from_id
            && package.next.id != self.own
            && (now.unix.0..=latest).contains(&package.expiry.0);
        if !honest {
            return;
        }
        let deadline = now.moment + BETWEEN_ROUNDS;
        self.deadlines.push_back((deadline, place));
        self.outputs.push_back(HopOutput::NeedLink(package.next));
        self.setups.insert(
            place,
            Setup { deadline, state: State::Dialling(Box::new(Dialling { package, forward })) },
        );
    }

    /// Round 2, PROTOCOL §4: Y-nodes forward and forget, X-nodes ask for the links to their final neighbours.
    fn open_box(&mut self, place: Place, deadline: Moment, between: Between, array: SetupArray) {
        let Some(Peeled { payload, forward }) = peel_box(array, &between.box_key) else {
            return;
        };
        match GoodieBox::decode(&payload) {
            Ok(GoodieBox::Helper) => self.forward_boxes(&between, forward),
            Ok(GoodieBox::Hop(goodies)) => {
                let contacts: Vec<Contact> =
                    goodies.neighbours.iter().flatten().map(|(contact, _)| *contact).collect();
                if contacts.iter().any(|contact| contact.id == self.own) || self.arrays_held() >= ARRAYS_HELD
                {
                    return;
                }
                self.outputs.extend(contacts.into_iter().map(HopOutput::NeedLink));
                let joining = Joining { between, goodies, links: [None; 2], forward };
                self.setups.insert(place, Setup { deadline, state: State::Joining(Box::new(joining)) });
            }
            Err(_) => {}
        }
    }

    /// A link that a setup waited for stands.
    fn advance(&mut self, place: Place, setup: Setup, node: NodeId, link: LinkId) {
        let deadline = setup.deadline;
        let state = match setup.state {
            State::Dialling(dialling) => {
                let Dialling { package, forward } = *dialling;
                let between = Between::new(place.1, link, &package);
                let connection = package.next_connection;
                self.outputs.push_back(HopOutput::Forward {
                    link,
                    round: Round::One,
                    connection,
                    array: forward,
                });
                State::Between(between)
            }
            State::Between(between) => State::Between(between),
            State::Joining(mut joining) => {
                joining.handle_link(node, link);
                match joining.finish() {
                    Ok((hop, between, forward)) => {
                        self.outputs.push_back(HopOutput::Install(hop));
                        self.forward_boxes(&between, forward);
                        return;
                    }
                    Err(joining) => State::Joining(joining),
                }
            }
        };
        self.setups.insert(place, Setup { deadline, state });
    }

    fn forward_boxes(&mut self, between: &Between, array: SetupArray) {
        let (link, connection) = (between.next_link, between.next_connection);
        self.outputs.push_back(HopOutput::Forward { link, round: Round::Two, connection, array });
    }

    fn has_room(&self, link: LinkId) -> bool {
        let first = (link, PathId::default());
        let last = (link, PathId::new(u64::MAX));
        self.setups.range(first..=last).count() < SETUPS_PER_LINK && self.arrays_held() < ARRAYS_HELD
    }

    fn arrays_held(&self) -> usize {
        self.setups.values().filter(|setup| !matches!(setup.state, State::Between(_))).count()
    }
}

impl Setup {
    fn waits_for(&self, node: NodeId) -> bool {
        match &self.state {
            State::Dialling(dialling) => dialling.package.next.id == node,
            State::Between(_) => false,
            State::Joining(joining) => joining.waits_for(node),
        }
    }

    fn uses(&self, link: LinkId) -> bool {
        match &self.state {
            State::Dialling(_) => false,
            State::Between(between) => between.next_link == link,
            State::Joining(joining) => {
                joining.between.next_link == link || joining.links.contains(&Some(link))
            }
        }
    }
}

impl Between {
    /// What is kept of a setup package: its secret only as the key of the box.
    fn new(previous_connection: PathId, next_link: LinkId, package: &SetupPackage) -> Between {
        Between {
            box_key: box_key(
                &package.secret,
                &previous_connection.to_bytes(),
                &package.next_connection.to_bytes(),
            ),
            next_link,
            next_connection: package.next_connection,
            class: package.class,
            expiry: package.expiry,
        }
    }
}

impl Joining {
    fn sides(&self) -> impl Iterator<Item = (&Option<(Contact, PathId)>, &Option<LinkId>)> {
        self.goodies.neighbours.iter().zip(&self.links)
    }

    fn waits_for(&self, node: NodeId) -> bool {
        self.sides().any(|(neighbour, link)| {
            link.is_none() && neighbour.as_ref().is_some_and(|(contact, _)| contact.id == node)
        })
    }

    fn handle_link(&mut self, node: NodeId, link: LinkId) {
        for (neighbour, known) in self.goodies.neighbours.iter().zip(&mut self.links) {
            if neighbour.as_ref().is_some_and(|(contact, _)| contact.id == node) {
                *known = Some(link);
            }
        }
    }

    /// PROTOCOL §4: only when links to both final neighbours stand.
    fn finish(self: Box<Self>) -> Result<(NewHop, Between, SetupArray), Box<Joining>> {
        if self.sides().any(|(neighbour, link)| neighbour.is_some() && link.is_none()) {
            return Err(self);
        }
        let Joining { between, goodies, links: [a, b], forward } = *self;
        let [to_a, to_b] = goodies.neighbours;
        let neighbour = |named: Option<(Contact, PathId)>, link: Option<LinkId>| {
            named.zip(link).map(|((contact, path), link)| HopNeighbour { node: contact.id, link, path })
        };
        let hop = NewHop {
            neighbours: [neighbour(to_a, a), neighbour(to_b, b)],
            secret: goodies.secret,
            route_keys: goodies.route_keys,
            expiry: between.expiry,
            idle: between.class.idle(),
        };
        Ok((hop, between, forward))
    }
}

/// At most ~10 arrays a second of one link (PROTOCOL §4): a purse of time, which each array takes a tenth of a second
/// from. It keeps the fractions that a `Budget` rounds away.
struct Purse {
    credit: Duration,
    /// How seldom the link has brought arrays lately: grows with time, and each array takes a second from it. It never
    /// refuses; it ranks, over a minute. By the purse alone a link that brings as many as it may looks like one that has
    /// brought nothing.
    rank: Duration,
    last: Moment,
}

const PRICE: Duration = Duration::from_micros(1_000_000 / ARRAYS_PER_SECOND as u64);
const RANK: Duration = Duration::from_secs(60);
const RANK_PRICE: Duration = Duration::from_secs(1);
const FULL_PURSE: Duration = Duration::from_micros(PRICE.as_micros() as u64 * ARRAYS_BURST as u64);

impl Purse {
    fn full(now: Moment) -> Purse {
        Purse { credit: FULL_PURSE, rank: RANK, last: now }
    }

    fn take(&mut self, now: Moment) -> bool {
        let passed = now.since(self.last);
        self.credit = (self.credit + passed).min(FULL_PURSE);
        self.rank = (self.rank + passed).min(RANK).saturating_sub(RANK_PRICE);
        self.last = now;
        let rest = self.credit.checked_sub(PRICE);
        self.credit = rest.unwrap_or(self.credit);
        rest.is_some()
    }

    /// The more, the fewer the link has brought lately.
    fn rank(&self) -> u32 {
        self.rank.as_secs() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_brings_bursts_now_and_then_ranks_before_one_that_brings_as_many_as_it_may() {
        let start = Moment(1_000_000);
        let (mut flooder, mut honest) = (Purse::full(start), Purse::full(start));
        for tenth in 1..=1_200 {
            let now = start + PRICE * tenth;
            assert!(flooder.take(now), "it is within what a link may");
            if tenth % 100 == 0 {
                let ranks: Vec<_> = (0..3).map(|_| honest.take(now).then(|| honest.rank())).collect();
                assert!(tenth < 600 || ranks.iter().all(|rank| *rank > Some(flooder.rank())), "{ranks:?}");
            }
        }
    }
}
