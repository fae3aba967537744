//! A virtual network: a clock, links with latency, and one seed for everything.
//!
//! It plays the part of the daemon: it dials, carries messages in order, and calls each node when it asked to be
//! called. Whatever happens at the same instant happens in the order in which it was planned, so a run repeats
//! exactly. A node of the simulation is anything that implements [`SimNode`].

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    time::Duration,
};

use phantom_protocol::{
    identity::NodeId,
    time::{Moment, Now, UnixTime},
    wire::{cell::LinkId, contact::Contact},
};
use rand::{Rng, RngExt, SeedableRng, rngs::ChaCha20Rng};

/// The date on which all simulations begin.
pub const START: u64 = 1_800_000_000;

/// A node as the virtual daemon sees it. After each `handle_*` it is asked for actions until it has none.
pub trait SimNode {
    /// What it sends over links.
    type Message;

    fn id(&self) -> NodeId;
    fn handle_link_up(&mut self, now: Now, link: LinkId, peer: NodeId, dialled: bool);
    fn handle_link_down(&mut self, now: Now, link: LinkId);
    fn handle_dial_failed(&mut self, now: Now, peer: NodeId);
    fn handle_message(&mut self, now: Now, link: LinkId, message: Self::Message);
    /// What has become of a knock at that node's door.
    fn handle_knocked(&mut self, _now: Now, _peer: NodeId, _reached: bool) {}
    fn handle_timeout(&mut self, now: Now);
    fn next_timeout(&self) -> Moment;
    fn poll_action(&mut self, now: Now) -> Option<Action<Self::Message>>;
}

/// What a node asks its daemon for.
pub enum Action<M> {
    Dial(Contact),
    Knock(Contact),
    Send(LinkId, M),
    Close(LinkId),
}

/// Names a node of the simulation; counted from zero in the order in which they were added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(pub usize);

/// What the network has carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub messages: u64,
    pub links: u64,
    pub closed_by_nodes: u64,
    /// Depends on when each message arrived where: two runs with the same one were the same run.
    pub fingerprint: u64,
}

/// The world of a simulation.
pub struct VirtualNetwork<N: SimNode> {
    /// Links and dials take so many times less than between continents.
    pub nearness: u32,
    moment: Moment,
    rng: ChaCha20Rng,
    places: Vec<Option<N>>,
    by_id: BTreeMap<NodeId, Place>,
    /// Nodes that nobody can dial, though they say so.
    hidden: BTreeSet<Place>,
    /// How far each node's clock is ahead, in seconds.
    skews: Vec<i64>,
    /// Both ends of each link. A link has one number for both its ends.
    links: BTreeMap<LinkId, Link>,
    next_link: u64,
    /// What is going to happen, by time and then by order of planning.
    plan: BTreeMap<(Moment, u64), Event<N::Message>>,
    planned: u64,
    /// The wake-up that each node waits for, so that one that was moved is told apart.
    wake_ups: Vec<Moment>,
    pub traffic: Traffic,
}

struct Link {
    ends: [Place; 2],
    latency: Duration,
}

enum Event<M> {
    Wake(Place),
    Dialled(Place, Contact),
    Knocked(Place, Contact),
    Message { to: Place, link: LinkId, message: M },
    LinkDown { to: Place, link: LinkId },
}

impl<M> Event<M> {
    /// Where it happens.
    fn place(&self) -> Place {
        match self {
            Event::Wake(place) | Event::Dialled(place, _) | Event::Knocked(place, _) => *place,
            Event::Message { to, .. } | Event::LinkDown { to, .. } => *to,
        }
    }
}

impl<N: SimNode> VirtualNetwork<N> {
    pub fn new(seed: u64) -> Self {
        Self {
            nearness: 1,
            moment: Moment(0),
            rng: ChaCha20Rng::seed_from_u64(seed),
            places: Vec::new(),
            by_id: BTreeMap::new(),
            hidden: BTreeSet::new(),
            skews: Vec::new(),
            links: BTreeMap::new(),
            next_link: LinkId::FIRST,
            plan: BTreeMap::new(),
            planned: 0,
            wake_ups: Vec::new(),
            traffic: Traffic::default(),
        }
    }

    /// A node that joins now.
    pub fn add(&mut self, node: N) -> Place {
        let place = Place(self.places.len());
        self.by_id.insert(node.id(), place);
        self.places.push(Some(node));
        self.skews.push(0);
        self.wake_ups.push(self.moment);
        self.schedule(Duration::ZERO, Event::Wake(place));
        place
    }

    /// Sets a node's clock wrong.
    pub fn skew(&mut self, place: Place, seconds: i64) {
        self.skews[place.0] = seconds;
    }

    /// From now on nobody can dial this node, or everybody again. Its links stay.
    pub fn hide(&mut self, place: Place, hidden: bool) {
        if hidden {
            self.hidden.insert(place)
        } else {
            self.hidden.remove(&place)
        };
    }

    /// A node dies without a word; its neighbours notice.
    pub fn crash(&mut self, place: Place) -> N {
        let node = self.places[place.0].take().expect("it lives");
        let links: Vec<LinkId> =
            self.links.iter().filter(|(_, link)| link.ends.contains(&place)).map(|(id, _)| *id).collect();
        links.into_iter().for_each(|link| self.close(link));
        node
    }

    /// A node that has died begins another life where it was.
    pub fn revive(&mut self, place: Place, node: N) {
        // What its earlier life waited for, this one does not.
        self.plan.retain(|_, event| event.place() != place);
        self.places[place.0] = Some(node);
        self.wake_ups[place.0] = self.moment;
        self.schedule(Duration::ZERO, Event::Wake(place));
    }

    pub fn node(&self, place: Place) -> &N {
        self.places[place.0].as_ref().expect("it lives")
    }

    /// All nodes that live.
    pub fn nodes(&self) -> impl Iterator<Item = (Place, &N)> {
        self.places.iter().enumerate().filter_map(|(at, node)| Some((Place(at), node.as_ref()?)))
    }

    /// Something happens to a node from outside: a user does something.
    pub fn with<R>(&mut self, place: Place, act: impl FnOnce(&mut N, Now) -> R) -> R {
        let now = self.now(place);
        let result = act(self.places[place.0].as_mut().expect("it lives"), now);
        self.settle(place);
        result
    }

    /// Both clocks of a node.
    pub fn now(&self, place: Place) -> Now {
        let unix = START + self.moment.0 / 1_000_000;
        // One who is about to join has a clock, too.
        let skew = self.skews.get(place.0).copied().unwrap_or(0);
        Now { moment: self.moment, unix: UnixTime(unix.saturating_add_signed(skew)) }
    }

    pub fn elapsed(&self) -> Duration {
        self.moment.since(Moment(0))
    }

    /// Lets time pass.
    pub fn run(&mut self, time: Duration) {
        let end = self.moment + time;
        while let Some(next) = self.plan.first_entry().filter(|next| next.key().0 <= end) {
            let ((moment, _), event) = next.remove_entry();
            self.moment = moment;
            self.happen(event);
        }
        self.moment = end;
    }

    /// Lets time pass until something is so; gives up after `limit`. Looks ten times a second.
    pub fn run_until(&mut self, limit: Duration, is_so: impl Fn(&Self) -> bool) -> bool {
        let end = self.moment + limit;
        while !is_so(self) {
            if self.moment >= end {
                return false;
            }
            self.run(Duration::from_millis(100));
        }
        true
    }

    fn happen(&mut self, event: Event<N::Message>) {
        match event {
            Event::Wake(place) if self.wake_ups[place.0] == self.moment => {
                self.tell(place, |node, now| node.handle_timeout(now));
            }
            Event::Wake(_) => {}
            Event::Dialled(dialler, contact) => self.connect(dialler, contact),
            Event::Knocked(who, contact) => {
                let reached = self.listener(contact).is_some();
                self.tell(who, |node, now| node.handle_knocked(now, contact.id, reached));
            }
            Event::Message { to, link, message } => {
                if self.links.contains_key(&link) {
                    self.traffic.messages += 1;
                    let arrival = self.moment.0 ^ ((to.0 as u64) << 48);
                    self.traffic.fingerprint =
                        (self.traffic.fingerprint ^ arrival).wrapping_mul(0x0000_0100_0000_01b3);
                    self.tell(to, |node, now| node.handle_message(now, link, message));
                }
            }
            Event::LinkDown { to, link } => self.tell(to, |node, now| node.handle_link_down(now, link)),
        }
    }

    fn connect(&mut self, dialler: Place, contact: Contact) {
        if self.places[dialler.0].is_none() {
            return;
        }
        let Some(listener) = self.listener(contact).filter(|at| *at != dialler) else {
            return self.tell(dialler, |node, now| node.handle_dial_failed(now, contact.id));
        };
        let ends = [dialler, listener];
        let standing = self.links.values().any(|link| ends.iter().all(|end| link.ends.contains(end)));
        if standing {
            return; // both dialled: the first link stays
        }
        let link = LinkId(self.next_link);
        self.next_link += 1;
        self.traffic.links += 1;
        let latency = self.some_time(5_000..100_000);
        self.links.insert(link, Link { ends, latency });
        let dialler_id = self.node(dialler).id();
        self.tell(dialler, |node, now| node.handle_link_up(now, link, contact.id, true));
        self.tell(listener, |node, now| node.handle_link_up(now, link, dialler_id, false));
    }

    fn listener(&self, contact: Contact) -> Option<Place> {
        let place = self.by_id.get(&contact.id).copied();
        place.filter(|at| self.places[at.0].is_some() && !self.hidden.contains(at))
    }

    fn close(&mut self, link: LinkId) {
        if let Some(Link { ends, latency }) = self.links.remove(&link) {
            ends.into_iter().for_each(|to| self.schedule(latency, Event::LinkDown { to, link }));
        }
    }

    fn tell(&mut self, place: Place, act: impl FnOnce(&mut N, Now)) {
        if self.places[place.0].is_some() {
            self.with(place, act);
        }
    }

    /// Does what a node asks for after each event, and plans its next wake-up.
    fn settle(&mut self, place: Place) {
        let now = self.now(place);
        while let Some(action) = self.places[place.0].as_mut().and_then(|node| node.poll_action(now)) {
            match action {
                Action::Dial(contact) => {
                    let wait = self.some_time(10_000..200_000);
                    self.schedule(wait, Event::Dialled(place, contact));
                }
                Action::Knock(contact) => {
                    let wait = self.some_time(10_000..200_000);
                    self.schedule(wait, Event::Knocked(place, contact));
                }
                Action::Send(link, message) => self.send(place, link, message),
                Action::Close(link) => {
                    self.traffic.closed_by_nodes += 1;
                    self.close(link);
                }
            }
        }
        // At least a microsecond later: a node that is never content must not stop time.
        let wake = self.node(place).next_timeout().max(Moment(self.moment.0 + 1));
        if wake != self.wake_ups[place.0] {
            self.wake_ups[place.0] = wake;
            self.schedule(wake.since(self.moment), Event::Wake(place));
        }
    }

    /// Latency is the same for all messages of a link, so they arrive in order.
    fn send(&mut self, from: Place, link: LinkId, message: N::Message) {
        if let Some(Link { ends, latency }) = self.links.get(&link) {
            let [a, b] = *ends;
            let to = if from == a { b } else { a };
            let latency = *latency;
            self.schedule(latency, Event::Message { to, link, message });
        }
    }

    /// Between the ends of the earth as many microseconds as this.
    fn some_time(&mut self, micros: Range<u64>) -> Duration {
        Duration::from_micros(self.rng.random_range(micros)) / self.nearness
    }

    fn schedule(&mut self, wait: Duration, event: Event<N::Message>) {
        self.planned += 1;
        self.plan.insert((self.moment + wait, self.planned), event);
    }
}

impl<N: SimNode> VirtualNetwork<N> {
    /// Some of the nodes that live.
    pub fn sample(&mut self, count: usize) -> BTreeSet<Place> {
        let mut living: Vec<Place> = self.nodes().map(|(place, _)| place).collect();
        let mut chosen = BTreeSet::new();
        while chosen.len() < count && !living.is_empty() {
            let at = self.rng.random_range(0..living.len());
            chosen.insert(living.swap_remove(at));
        }
        chosen
    }

    /// Randomness for nodes that are made by the simulation.
    pub fn seed(&mut self) -> [u8; 32] {
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        seed
    }
}
