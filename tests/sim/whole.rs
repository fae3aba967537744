//! Whole nodes on the virtual network: each with its switch, and a daemon's reflexes.
//!
//! A [`Member`] carries cells between its node's switch and its links, tells the node what the switch reports, and keeps
//! what the node says to its daemon in `seen`. If it has a [`Vice`](crate::vices::Vice), that spoils what it sends.

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    net::{Ipv4Addr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use phantom_protocol::{
    crypto::datagram::SessionSecret,
    identity::{ApPublic, ApSecret, NodeId, NodeSecret},
    limits::DEFAULT_HOPS,
    network::Network,
    node::{GroupId, NewLink, Node, NodeConfig, OpenFailure, OpenRequest, Output, Relay, ServiceId, Ticket},
    time::{Moment, Now},
    tunnel::{Kind, Outlet, OwnedPathId, OwnerTunnelId, Switch, SwitchEvent},
    wire::{
        cell::{Cell, LinkId},
        contact::{Contact, TlsKeys},
        control::ControlMessage,
        opener::Answer,
    },
};
use rand::{SeedableRng, rngs::ChaCha20Rng};

use crate::{
    network::{Action, Place, SimNode, VirtualNetwork},
    vices::Spoiler,
    watch::Watch,
};

/// What travels over a virtual link.
#[derive(Clone)]
pub enum Freight {
    Cell(Box<Cell>),
    Message(ControlMessage),
}

/// A tunnel that a member has opened or let in.
#[derive(Clone)]
pub struct Way {
    pub tunnel: OwnerTunnelId,
    pub secrets: Vec<SessionSecret>,
    /// Of tunnels that were opened here.
    pub entry: Option<NodeId>,
    pub path: Option<OwnedPathId>,
}

/// What a node has said to its daemon.
#[derive(Default)]
pub struct Seen {
    pub opened: BTreeMap<Ticket, Way>,
    pub refused: BTreeMap<Ticket, OpenFailure>,
    pub answers: BTreeMap<OwnerTunnelId, Answer>,
    pub visitors: Vec<Way>,
    pub ended: Vec<OwnerTunnelId>,
    pub published: Vec<(ServiceId, usize)>,
    pub trials: BTreeMap<Ticket, Result<Duration, String>>,
    pub delivered: BTreeMap<OwnerTunnelId, Vec<(Kind, Vec<u8>)>>,
    pub links_closed: Vec<NodeId>,
}

/// Where a member's switch puts what it makes.
#[derive(Default)]
struct Outbox {
    cells: VecDeque<(LinkId, Cell)>,
    events: VecDeque<SwitchEvent>,
    delivered: Vec<(OwnerTunnelId, Kind, Vec<u8>)>,
}

impl Outlet for Outbox {
    fn forward(&mut self, link: LinkId, cell: &Cell) {
        self.cells.push_back((link, cell.clone()));
    }
    fn deliver(&mut self, tunnel: OwnerTunnelId, kind: Kind, payload: &[u8]) {
        self.delivered.push((tunnel, kind, payload.to_vec()));
    }
    fn report(&mut self, event: SwitchEvent) {
        self.events.push_back(event);
    }
}

/// A node with what its daemon would do.
pub struct Member {
    pub node: Node,
    pub switch: Arc<Switch>,
    pub seen: Seen,
    pub spoiler: Option<Spoiler>,
    /// Time-outs that the node has asked for.
    pub wakes: u64,
    id: NodeId,
    life: Life,
    out: Outbox,
    actions: VecDeque<Action<Freight>>,
    links: BTreeMap<LinkId, NodeId>,
    /// Where everybody is.
    roster: Rc<RefCell<BTreeMap<NodeId, SocketAddr>>>,
    clock: Now,
    watch: Rc<RefCell<Watch>>,
}

impl Member {
    /// Calls the node, then lets everything that follows inside this member happen.
    pub fn act<R>(&mut self, now: Now, act: impl FnOnce(&mut Node, &mut Turn<'_>) -> R) -> R {
        self.clock = now;
        let result = act(&mut self.node, &mut Turn(&mut self.out));
        self.settle(now);
        result
    }

    pub fn host(&mut self, now: Now, secret: &ApSecret, hops: usize) -> ServiceId {
        let secret = ApSecret::from_bytes(&secret.to_bytes());
        self.act(now, |node, out| node.handle_host(now, secret, hops, out))
    }

    pub fn open(&mut self, now: Now, ticket: u64, peer: ApPublic, before: &[Way]) {
        let request = OpenRequest {
            ticket: Ticket(ticket),
            group: GroupId(1),
            peer,
            avoid_entries: before.iter().filter_map(|way| way.entry).collect(),
            avoid_paths: before.iter().filter_map(|way| way.path).collect(),
        };
        self.act(now, |node, out| node.handle_open(now, request, out));
    }

    /// What a session does.
    pub fn send(&mut self, now: Now, tunnel: OwnerTunnelId, kind: Kind, payload: &[u8]) -> bool {
        self.clock = now;
        let sent = self.switch.send(tunnel, kind, payload, &mut self.out);
        self.settle(now);
        sent
    }

    pub fn confirm(&mut self, now: Now, tunnel: OwnerTunnelId) {
        self.switch.confirm(tunnel, &mut self.out);
        self.settle(now);
    }

    fn settle(&mut self, now: Now) {
        loop {
            if let Some(event) = self.out.events.pop_front() {
                self.node.handle_switch(now, event, &mut self.out);
            } else if let Some((link, mut cell)) = self.out.cells.pop_front() {
                match link {
                    LinkId::LOOP_A => {
                        self.switch.handle_cell(now.moment, LinkId::LOOP_B, &mut cell, &mut self.out);
                    }
                    LinkId::LOOP_B => {
                        self.switch.handle_cell(now.moment, LinkId::LOOP_A, &mut cell, &mut self.out);
                    }
                    link => self.ship(link, Freight::Cell(Box::new(cell))),
                }
            } else if let Some(output) = self.node.poll_output() {
                self.carry_out(output);
            } else {
                break;
            }
        }
        for (tunnel, kind, payload) in self.out.delivered.drain(..) {
            self.seen.delivered.entry(tunnel).or_default().push((kind, payload));
        }
    }

    fn ship(&mut self, link: LinkId, freight: Freight) {
        match &mut self.spoiler {
            None => self.actions.push_back(Action::Send(link, freight)),
            Some(spoiler) => {
                let spoilt = spoiler.spoil(link, freight);
                self.actions.extend(spoilt.into_iter().map(|(link, freight)| Action::Send(link, freight)));
            }
        }
    }

    fn carry_out(&mut self, output: Output) {
        let seen = &mut self.seen;
        match output {
            Output::Dial(contact) => self.actions.push_back(Action::Dial(contact)),
            Output::Knock(contact) => self.actions.push_back(Action::Knock(contact)),
            Output::Send { link, message } => self.ship(link, Freight::Message(message)),
            Output::CloseLink(link) => {
                seen.links_closed.extend(self.links.get(&link));
                self.actions.push_back(Action::Close(link));
            }
            Output::ReleaseLink(link) => self.actions.push_back(Action::Close(link)),
            Output::Opened { ticket, tunnel, secret, entry, path } => {
                let way = Way { tunnel, secrets: vec![secret], entry: Some(entry), path: Some(path) };
                seen.opened.insert(ticket, way);
            }
            Output::OpenFailed { ticket, why } => {
                seen.refused.insert(ticket, why);
            }
            Output::Answered { tunnel, answer } => {
                seen.answers.insert(tunnel, answer);
            }
            Output::Incoming { tunnel, secrets, .. } => {
                seen.visitors.push(Way { tunnel, secrets, entry: None, path: None });
            }
            Output::TunnelEnded { tunnel } => seen.ended.push(tunnel),
            Output::Published { service, entries } => seen.published.push((service, entries)),
            Output::Trial { ticket, outcome } => {
                seen.trials.insert(ticket, outcome.map_err(|why| why.to_string()));
            }
            Output::Persist(_) | Output::Relaying(_) | Output::KeepSpending(_) => {}
        }
    }
}

/// Lets tests hand a member's outlet to its node.
pub struct Turn<'a>(&'a mut Outbox);

impl Outlet for Turn<'_> {
    fn forward(&mut self, link: LinkId, cell: &Cell) {
        self.0.forward(link, cell);
    }
    fn deliver(&mut self, tunnel: OwnerTunnelId, kind: Kind, payload: &[u8]) {
        self.0.deliver(tunnel, kind, payload);
    }
    fn report(&mut self, event: SwitchEvent) {
        self.0.report(event);
    }
}

impl SimNode for Member {
    type Message = Freight;

    fn id(&self) -> NodeId {
        self.id
    }

    fn handle_link_up(&mut self, now: Now, link: LinkId, peer: NodeId, dialled: bool) {
        self.links.insert(link, peer);
        self.switch.link_up(link, peer, dialled);
        let address = self.roster.borrow().get(&peer).map(SocketAddr::ip);
        let new = NewLink { link, peer, address, dialled };
        self.act(now, |node, out| node.handle_link_up(now, new, out));
    }

    fn handle_link_down(&mut self, now: Now, link: LinkId) {
        self.links.remove(&link);
        self.switch.link_down(link, &mut self.out);
        self.act(now, |node, out| node.handle_link_down(now, link, out));
    }

    fn handle_dial_failed(&mut self, now: Now, peer: NodeId) {
        self.act(now, |node, out| node.handle_dial_failed(now, peer, out));
    }

    fn handle_knocked(&mut self, now: Now, peer: NodeId, reached: bool) {
        self.act(now, |node, out| node.handle_knocked(now, peer, reached, out));
    }

    fn handle_message(&mut self, now: Now, link: LinkId, freight: Freight) {
        let Some(&peer) = self.links.get(&link) else { return };
        self.watch.borrow_mut().see(peer, self.id, link, &freight);
        if let Some(spoiler) = &mut self.spoiler {
            spoiler.learn(link, &freight);
        }
        self.clock = now;
        match freight {
            Freight::Cell(mut cell) => {
                self.switch.handle_cell(now.moment, link, &mut cell, &mut self.out);
                self.settle(now);
            }
            Freight::Message(message) => {
                self.act(now, |node, out| node.handle_message(now, link, message, out));
            }
        }
    }

    fn handle_timeout(&mut self, now: Now) {
        self.wakes += 1;
        if let Some(spoiler) = &mut self.spoiler {
            let garbage = spoiler.invent(&self.links);
            self.actions.extend(garbage.into_iter().map(|(link, freight)| Action::Send(link, freight)));
        }
        self.act(now, |node, out| node.handle_timeout(now, out));
    }

    fn next_timeout(&self) -> Moment {
        self.node.next_timeout(self.clock)
    }

    fn poll_action(&mut self, _now: Now) -> Option<Action<Freight>> {
        self.actions.pop_front()
    }
}

/// What a node's lives have in common.
struct Life {
    number: usize,
    secret: Arc<NodeSecret>,
    pool: usize,
    relay: Relay,
}

/// How many nodes, and how they are set up.
#[derive(Clone, Copy)]
pub struct Plan {
    pub nodes: usize,
    pub pool: usize,
    pub hops: usize,
    pub relay: Relay,
    /// Links take so many times less than between continents.
    pub nearness: u32,
    pub seed: u64,
}

impl Plan {
    pub fn of(nodes: usize, seed: u64) -> Plan {
        Plan { nodes, pool: 0, hops: DEFAULT_HOPS, relay: Relay::Always, nearness: 1, seed }
    }
}

/// A network of whole nodes and what the simulation knows of it.
pub struct World {
    pub net: VirtualNetwork<Member>,
    pub watch: Rc<RefCell<Watch>>,
    plan: Plan,
    roster: Rc<RefCell<BTreeMap<NodeId, SocketAddr>>>,
    friend: Option<Contact>,
}

impl World {
    /// Nodes that all know the first one, and have learnt of each other.
    pub fn new(plan: Plan) -> World {
        println!("seed {}", plan.seed);
        let watch = Rc::new(RefCell::new(Watch::default()));
        let mut net = VirtualNetwork::new(plan.seed);
        net.nearness = plan.nearness;
        let mut world = World { net, watch, plan, roster: Rc::default(), friend: None };
        for number in 0..plan.nodes {
            world.join(number, plan.pool);
        }
        world.net.run(Duration::from_secs(20));
        let least = world.net.nodes().map(|(_, member)| member.node.known_nodes()).min();
        assert_eq!(least, Some(plan.nodes - 1), "everybody knows everybody");
        world
    }

    /// One more node, in a network of its own.
    pub fn join(&mut self, number: usize, pool: usize) -> Place {
        self.join_as(number, pool, self.plan.relay)
    }

    /// The same, with a will of its own.
    pub fn join_as(&mut self, number: usize, pool: usize, relay: Relay) -> Place {
        let seed = self.net.seed();
        let secret = Arc::new(NodeSecret::generate(&mut ChaCha20Rng::from_seed(self.net.seed())));
        let member = self.begin(Life { number, secret, pool, relay }, Vec::new(), seed);
        self.net.add(member)
    }

    /// A node dies without a word and begins another life at once, with its identity and the nodes that it knew.
    pub fn restart(&mut self, place: usize) {
        let before = self.net.crash(Place(place));
        let seed = self.net.seed();
        let member = self.begin(before.life, before.node.records(usize::MAX), seed);
        self.net.revive(Place(place), member);
    }

    fn begin(&mut self, life: Life, remembered: Vec<Vec<u8>>, seed: [u8; 32]) -> Member {
        let Life { number, ref secret, pool, relay } = life;
        let id = secret.id();
        let contact = Contact::listed(id, address(number), TlsKeys::one([number as u8 + 1; 32]));
        let config = NodeConfig {
            secret: Arc::clone(secret),
            contact,
            relay,
            quota: Some(u64::MAX),
            spending: None,
            network: Network::private("simulation"),
            family: None,
            hops: self.plan.hops,
            pool,
            friends: self.friend.into_iter().filter(|friend| friend.id != id).collect(),
            remembered,
            kept: None,
            seed,
        };
        self.friend.get_or_insert(contact);
        self.roster.borrow_mut().insert(id, address(number));
        self.watch.borrow_mut().meet(contact, seed);
        let now = self.net.now(Place(number));
        let switch = Arc::new(Switch::new(self.net.seed(), id));
        let mut member = Member {
            node: Node::new(now, config, Arc::clone(&switch)),
            switch,
            seen: Seen::default(),
            spoiler: None,
            wakes: 0,
            id,
            life,
            out: Outbox::default(),
            actions: VecDeque::new(),
            links: BTreeMap::new(),
            roster: Rc::clone(&self.roster),
            clock: now,
            watch: Rc::clone(&self.watch),
        };
        member.act(now, |node, out| node.start(now, out));
        member
    }

    pub fn member(&self, place: usize) -> &Member {
        self.net.node(Place(place))
    }

    pub fn at<R>(&mut self, place: usize, act: impl FnOnce(&mut Member, Now) -> R) -> R {
        self.net.with(Place(place), act)
    }

    pub fn run(&mut self, seconds: u64) {
        self.net.run(Duration::from_secs(seconds));
    }

    pub fn run_until(&mut self, seconds: u64, is_so: impl Fn(&World) -> bool) -> bool {
        for _ in 0..seconds * 10 {
            if is_so(self) {
                return true;
            }
            self.net.run(Duration::from_millis(100));
        }
        is_so(self)
    }

    pub fn place_of(&self, id: NodeId) -> Option<usize> {
        self.net.nodes().find(|(_, member)| member.id() == id).map(|(place, _)| place.0)
    }

    /// A name, hosted and published.
    pub fn service(&mut self, place: usize, key: u8, hops: usize) -> (ServiceId, ApSecret) {
        let secret = ApSecret::generate(&mut ChaCha20Rng::from_seed([key; 32]));
        let id = self.at(place, |member, now| member.host(now, &secret, hops));
        (id, secret)
    }

    /// What a session does for a tunnel: tries until one joins, each time by another entry and path. Gives all that it
    /// has tried, `before` first.
    pub fn reach(
        &mut self,
        client: usize,
        peer: ApPublic,
        ticket: u64,
        before: Vec<Way>,
        tries: u64,
    ) -> Vec<Way> {
        let mut tried = before;
        for ticket in (ticket..ticket + tries).map(Ticket) {
            self.at(client, |member, now| member.open(now, ticket.0, peer, &tried));
            self.run_until(12, |world| {
                let seen = &world.member(client).seen;
                seen.opened.get(&ticket).is_some_and(|way| seen.answers.contains_key(&way.tunnel))
            });
            let seen = &self.member(client).seen;
            let Some(way) = seen.opened.get(&ticket).cloned() else { continue };
            let joined = seen.answers.get(&way.tunnel) == Some(&Answer::Joined);
            tried.push(way);
            if joined {
                return tried;
            }
        }
        panic!("no tunnel in {tries} tries: {:?}", self.member(client).seen.answers);
    }

    /// Opens a tunnel and waits until it stands at both ends: the client's, then the service's.
    pub fn connect(&mut self, client: usize, service: usize, peer: ApPublic, ticket: u64) -> (Way, Way) {
        let visitors = self.member(service).seen.visitors.len();
        self.at(client, |member, now| member.open(now, ticket, peer, &[]));
        let stands = self.run_until(40, |world| {
            world.member(client).seen.opened.contains_key(&Ticket(ticket))
                && world.member(service).seen.visitors.len() > visitors
        });
        assert!(stands, "{:?}", self.member(client).seen.refused);
        let way = self.member(client).seen.opened[&Ticket(ticket)].clone();
        let visitor = self.member(service).seen.visitors[visitors].clone();
        self.at(service, |member, now| member.confirm(now, visitor.tunnel));
        (way, visitor)
    }
}

/// Each node in a /16 of its own.
fn address(number: usize) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(10 + (number / 250) as u8, (number % 250) as u8, 3, 7), 443))
}
