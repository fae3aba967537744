//! A small network in memory, for tests: nodes with a switch each, links that keep order, virtual time.
//!
//! Nothing is hidden: a test may drop, change, repeat or invent any cell on any link, in the order in which it is
//! sent. The driver's part (dialling, links) is played by the test or, with `dial`, by the network itself.

use std::collections::{BTreeMap, VecDeque};

use rand::{Rng, RngExt, SeedableRng, rngs::ChaCha20Rng};

use super::{
    Answer, HopInstall, Kind, Opener, Outlet, OwnedHop, OwnedInstall, OwnedPathId, OwnerTunnelId, Side,
    Switch, SwitchEvent,
};
use crate::{
    crypto::{
        Key,
        proof::{RouteKey, Token},
    },
    identity::NodeId,
    time::Moment,
    wire::{
        cell::{Cell, LinkId, PathId},
        contact::{Contact, TlsKeys},
    },
};

/// When paths without tunnels end.
pub(crate) const IDLE: std::time::Duration = std::time::Duration::from_secs(900);

/// What one node has put out.
#[derive(Default)]
pub(crate) struct Outbox {
    pub(crate) cells: VecDeque<(LinkId, Cell)>,
    pub(crate) delivered: Vec<(OwnerTunnelId, Kind, Vec<u8>)>,
    pub(crate) events: Vec<SwitchEvent>,
}

impl Outlet for Outbox {
    fn forward(&mut self, link: LinkId, cell: &Cell) {
        self.cells.push_back((link, cell.clone()));
    }
    fn deliver(&mut self, tunnel: OwnerTunnelId, kind: Kind, payload: &[u8]) {
        self.delivered.push((tunnel, kind, payload.to_vec()));
    }
    fn report(&mut self, event: SwitchEvent) {
        self.events.push(event);
    }
}

pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) switch: Switch,
    pub(crate) out: Outbox,
}

/// A path that the network has been told to install.
pub(crate) struct Built {
    pub(crate) owner: usize,
    pub(crate) id: OwnedPathId,
    /// X1 to Xn, as node numbers.
    pub(crate) hops: Vec<usize>,
    pub(crate) route_key: RouteKey,
}

/// What happens to a cell on a link, from the first node to the second.
pub(crate) enum Fate {
    Pass,
    Drop,
}

pub(crate) struct Net {
    pub(crate) now: Moment,
    pub(crate) nodes: Vec<Node>,
    /// (node, its link) to (peer, its link).
    links: BTreeMap<(usize, LinkId), (usize, LinkId)>,
    next_link: u64,
    /// The ends of all paths that a node is part of.
    ends: BTreeMap<usize, Vec<(LinkId, PathId)>>,
    pub(crate) rng: ChaCha20Rng,
    /// Links are made for whoever wants to dial.
    pub(crate) dial: bool,
}

impl Net {
    pub(crate) fn new(seed: u64, nodes: usize) -> Net {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let nodes = (0..nodes)
            .map(|number| {
                let id = NodeId::from_bytes([number as u8 + 1; 32]);
                Node { id, switch: Switch::new(rng.random(), id), out: Outbox::default() }
            })
            .collect();
        let mut net = Net {
            now: Moment(1_000_000),
            nodes,
            links: BTreeMap::new(),
            next_link: LinkId::FIRST,
            ends: BTreeMap::new(),
            rng,
            dial: true,
        };
        for node in 0..net.nodes.len() {
            net.links.insert((node, LinkId::LOOP_A), (node, LinkId::LOOP_B));
            net.links.insert((node, LinkId::LOOP_B), (node, LinkId::LOOP_A));
        }
        net
    }

    /// The link between two nodes, made if need be, as each numbers it.
    pub(crate) fn link(&mut self, a: usize, b: usize) -> (LinkId, LinkId) {
        if a == b {
            return (LinkId::LOOP_A, LinkId::LOOP_B);
        }
        if let Some((&(_, at_a), &(_, at_b))) =
            self.links.iter().find(|((from, _), (to, _))| (*from, *to) == (a, b))
        {
            return (at_a, at_b);
        }
        let (at_a, at_b) = (LinkId(self.next_link), LinkId(self.next_link + 1));
        self.next_link += 2;
        let dialled = self.rng.random();
        self.nodes[a].switch.link_up(at_a, self.nodes[b].id, dialled);
        self.nodes[b].switch.link_up(at_b, self.nodes[a].id, !dialled);
        self.links.insert((a, at_a), (b, at_b));
        self.links.insert((b, at_b), (a, at_a));
        (at_a, at_b)
    }

    /// A link goes down at both ends; what was on it is lost.
    pub(crate) fn cut(&mut self, a: usize, b: usize) {
        let (at_a, at_b) = self.link(a, b);
        self.links.remove(&(a, at_a));
        self.links.remove(&(b, at_b));
        for (node, link) in [(a, at_a), (b, at_b)] {
            let Node { switch, out, .. } = &mut self.nodes[node];
            out.cells.retain(|(to, _)| *to != link);
            switch.link_down(link, out);
        }
    }

    /// Installs a path as if it had been set up, with random coins. No hops: length 0.
    pub(crate) fn build(&mut self, owner: usize, hops: &[usize]) -> Built {
        let hops: Vec<usize> = if hops.is_empty() { vec![owner] } else { hops.to_vec() };
        let expires = Moment(u64::MAX);
        let route_key = RouteKey::random(&mut self.rng);
        let mut owned = Vec::new();
        let mut towards_owner = None;
        let mut first = None;
        let mut before = owner;
        for (place, &node) in hops.iter().enumerate() {
            let path = PathId::new(self.rng.next_u64());
            let (out_there, back_here) = self.link(before, node);
            if place == 0 {
                first = Some((out_there, path));
            } else {
                self.install(
                    before,
                    towards_owner.unwrap(),
                    Some((out_there, path)),
                    vec![],
                    &mut owned,
                    expires,
                );
            }
            towards_owner = Some((back_here, path));
            before = node;
        }
        self.install(before, towards_owner.unwrap(), None, vec![route_key.clone()], &mut owned, expires);
        let (link, path) = first.unwrap();
        self.ends.entry(owner).or_default().push((link, path));
        let install = OwnedInstall { link, path, hops: owned, accepts: true, expires, idle: IDLE };
        let id = self.nodes[owner].switch.install_owned(self.now, install).unwrap();
        Built { owner, id, hops, route_key }
    }

    fn install(
        &mut self,
        node: usize,
        back: (LinkId, PathId),
        onward: Option<(LinkId, PathId)>,
        route_keys: Vec<RouteKey>,
        owned: &mut Vec<OwnedHop>,
        expires: Moment,
    ) {
        let secret = Key::random(&mut self.rng);
        let owner_side = if self.rng.random() { Side::A } else { Side::B };
        self.ends.entry(node).or_default().extend([Some(back), onward].into_iter().flatten());
        let neighbours = match owner_side {
            Side::A => [Some(back), onward],
            Side::B => [onward, Some(back)],
        };
        owned.push(OwnedHop { secret: secret.clone(), owner_side });
        let install = HopInstall { neighbours, secret, route_keys, expires, idle: IDLE };
        assert!(self.nodes[node].switch.install_hop(self.now, install));
    }

    pub(crate) fn contact(&self, node: usize) -> Contact {
        let address = format!("127.{}.0.1:443", 16 + node).parse().unwrap();
        Contact::listed(self.nodes[node].id, address, TlsKeys::one([9; 32]))
    }

    /// Calls a method of a node's switch with its outbox.
    pub(crate) fn at<T>(&mut self, node: usize, call: impl FnOnce(&Switch, &mut Outbox) -> T) -> T {
        let Node { switch, out, .. } = &mut self.nodes[node];
        call(switch, out)
    }

    pub(crate) fn open(&mut self, path: &Built, opener: &Opener) -> OwnerTunnelId {
        let now = self.now;
        self.at(path.owner, |switch, out| switch.open_tunnel(now, path.id, opener, out)).unwrap()
    }

    /// The opener from `client` to whom `service` accepts.
    pub(crate) fn join(&mut self, client: &Built, service: &Built) -> Opener {
        let (exit, entry) = (*client.hops.last().unwrap(), *service.hops.last().unwrap());
        let (exit, entry_id) = (self.nodes[exit].id, self.nodes[entry].id);
        let token = Token::make(&mut self.rng, &service.route_key, &exit, &entry_id);
        Opener::Join { entry: self.contact(entry), token }
    }

    /// Opens a tunnel between two paths and runs; returns both ends.
    pub(crate) fn connect(&mut self, client: &Built, service: &Built) -> (OwnerTunnelId, OwnerTunnelId) {
        let opener = self.join(client, service);
        let tunnel = self.open(client, &opener);
        self.run();
        let answers = self.take_events(client.owner);
        let joined = SwitchEvent::Answered { tunnel, answer: Answer::Joined };
        assert!(answers.contains(&joined), "{answers:?}");
        let visits = if client.owner == service.owner { answers } else { self.take_events(service.owner) };
        let visitor = visits.into_iter().find_map(|event| match event {
            SwitchEvent::Incoming { path, tunnel } if path == service.id => Some(tunnel),
            _ => None,
        });
        (tunnel, visitor.unwrap())
    }

    pub(crate) fn send(&mut self, node: usize, tunnel: OwnerTunnelId, payload: &[u8]) -> bool {
        self.at(node, |switch, out| switch.send(tunnel, Kind::Plain, payload, out))
    }

    /// Brings a cell to a node as if its link had.
    pub(crate) fn inject(&mut self, node: usize, from: LinkId, mut cell: Cell) {
        let now = self.now;
        self.at(node, |switch, out| switch.handle_cell(now, from, &mut cell, out));
    }

    /// Carries cells until there are none.
    pub(crate) fn run(&mut self) {
        self.run_with(|_, _, _| Fate::Pass);
    }

    /// As `run`, with an adversary who sees (from, to, cell) and may change it.
    pub(crate) fn run_with(&mut self, mut adversary: impl FnMut(usize, usize, &mut Cell) -> Fate) {
        loop {
            let mut quiet = true;
            for node in 0..self.nodes.len() {
                while let Some((link, mut cell)) = self.nodes[node].out.cells.pop_front() {
                    quiet = false;
                    let Some(&(peer, from)) = self.links.get(&(node, link)) else { continue };
                    if let Fate::Pass = adversary(node, peer, &mut cell) {
                        self.inject(peer, from, cell);
                    }
                }
                quiet &= !(self.dial && self.answer_dials(node));
            }
            if quiet {
                return;
            }
        }
    }

    fn answer_dials(&mut self, node: usize) -> bool {
        let events = std::mem::take(&mut self.nodes[node].out.events);
        let (dials, others): (Vec<_>, Vec<_>) =
            events.into_iter().partition(|event| matches!(event, SwitchEvent::Dial { .. }));
        self.nodes[node].out.events = others;
        for event in &dials {
            let SwitchEvent::Dial { exit, entry } = event else { continue };
            let peer = self.nodes.iter().position(|peer| peer.id == entry.id);
            let link = peer.map(|peer| self.link(node, peer).0);
            self.at(node, |switch, out| switch.exit_dialled(*exit, link, out));
        }
        !dials.is_empty()
    }

    pub(crate) fn hop_ends(&self, node: usize) -> Vec<(LinkId, PathId)> {
        self.ends.get(&node).cloned().unwrap_or_default()
    }

    pub(crate) fn links_of(&self, node: usize) -> Vec<LinkId> {
        self.links.keys().filter(|(at, _)| *at == node).map(|(_, link)| *link).collect()
    }

    /// Lets time pass, then has every node sweep.
    pub(crate) fn pass_time(&mut self, time: std::time::Duration) {
        self.now = self.now + time;
        let now = self.now;
        for node in 0..self.nodes.len() {
            self.at(node, |switch, out| switch.handle_timeout(now, out));
        }
        self.run();
    }

    pub(crate) fn take_events(&mut self, node: usize) -> Vec<SwitchEvent> {
        std::mem::take(&mut self.nodes[node].out.events)
    }

    pub(crate) fn take_payloads(&mut self, node: usize, tunnel: OwnerTunnelId) -> Vec<Vec<u8>> {
        let delivered = std::mem::take(&mut self.nodes[node].out.delivered);
        let (here, others): (Vec<_>, Vec<_>) = delivered.into_iter().partition(|(to, ..)| *to == tunnel);
        self.nodes[node].out.delivered = others;
        here.into_iter().map(|(_, _, payload)| payload).collect()
    }

    /// Whether nothing is left of any tunnel, at any node.
    pub(crate) fn assert_no_tunnels(&self) {
        for (number, node) in self.nodes.iter().enumerate() {
            let [_, _, tunnels, joins, seats, owners, held] = node.switch.sizes();
            assert_eq!([tunnels, joins, seats, owners, held], [0; 5], "node {number}");
        }
    }

    /// Whether nothing is left of any path, at any node.
    pub(crate) fn assert_empty(&self) {
        self.assert_no_tunnels();
        for (number, node) in self.nodes.iter().enumerate() {
            assert_eq!(node.switch.sizes(), [0; 7], "node {number}");
        }
    }
}
