//! Hundreds of nodes tell each other of themselves.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use phantom_protocol::{
    crypto::{
        datagram::SessionSecret,
        proof::RouteKey,
        seal::{PathPublic, PathSecret},
    },
    identity::{ApSecret, NodeId, NodeSecret},
    limits::{AP_ENTRIES_KNOWN, RECORDS_MESSAGE},
    netdb::{ApEntry, EntryNode, Exchange, ExchangeOutput, ap_entry::epoch_of},
    network::Network,
    time::{Moment, Now, UnixTime},
    wire::{
        cell::LinkId,
        contact::{Contact, TlsKeys},
        control::{ControlMessage, Published},
        record::NodeFacts,
    },
};
use rand::{SeedableRng, rngs::ChaCha20Rng};

use crate::network::{Action, Place, SimNode, VirtualNetwork};

/// An exchange with a daemon's reflexes.
struct ExchangeNode {
    secret: Arc<NodeSecret>,
    exchange: Exchange,
    rng: ChaCha20Rng,
    links: Vec<(LinkId, NodeId)>,
    /// Dials under way for the exchange.
    wanted: Vec<NodeId>,
    /// Made-up entries that it still has to tell its neighbours, if it is one of those.
    flood: Vec<Published>,
}

impl SimNode for ExchangeNode {
    type Message = ControlMessage;

    fn id(&self) -> NodeId {
        self.secret.id()
    }

    fn handle_link_up(&mut self, now: Now, link: LinkId, peer: NodeId, _dialled: bool) {
        self.links.push((link, peer));
        if let Some(at) = self.wanted.iter().position(|wanted| *wanted == peer) {
            self.wanted.swap_remove(at);
            self.exchange.handle_partner_up(now, link, peer, true);
        }
    }

    fn handle_link_down(&mut self, _now: Now, link: LinkId) {
        self.links.retain(|(known, _)| *known != link);
        self.exchange.handle_link_down(link);
    }

    fn handle_dial_failed(&mut self, _now: Now, peer: NodeId) {
        self.wanted.retain(|wanted| *wanted != peer);
    }

    fn handle_message(&mut self, now: Now, link: LinkId, message: ControlMessage) {
        let Some(&(_, peer)) = self.links.iter().find(|(known, _)| *known == link) else { return };
        match message {
            ControlMessage::Partner => self.exchange.handle_partner_up(now, link, peer, false),
            ControlMessage::Records(records) => self.exchange.handle_records(now, link, &records),
            ControlMessage::Setup { .. } | ControlMessage::Knock(_) | ControlMessage::Knocked(_) => {
                panic!("nobody builds paths here")
            }
        }
    }

    fn handle_timeout(&mut self, now: Now) {
        self.exchange.handle_timeout(now, &mut self.rng);
    }

    fn next_timeout(&self) -> Moment {
        self.exchange.next_timeout()
    }

    fn poll_action(&mut self, now: Now) -> Option<Action<ControlMessage>> {
        if let Some(action) = self.poll_flood() {
            return Some(action);
        }
        loop {
            match self.exchange.poll_output(now)? {
                ExchangeOutput::Send { link, message } => return Some(Action::Send(link, message)),
                ExchangeOutput::Misbehaved { link, .. } => return Some(Action::Close(link)),
                ExchangeOutput::Dial(contact) => {
                    match self.links.iter().find(|(_, peer)| *peer == contact.id) {
                        Some(&(link, peer)) => self.exchange.handle_partner_up(now, link, peer, true),
                        None => {
                            self.wanted.push(contact.id);
                            return Some(Action::Dial(contact));
                        }
                    }
                }
            }
        }
    }
}

impl ExchangeNode {
    /// One message of made-up entries to the neighbour that it floods.
    fn poll_flood(&mut self) -> Option<Action<ControlMessage>> {
        let (link, _) = *self.links.first()?;
        let count = self.flood.len().min(RECORDS_MESSAGE / 1_200);
        let records: Vec<_> = self.flood.drain(..count).collect();
        (count > 0).then_some(Action::Send(link, ControlMessage::Records(records)))
    }
}

type Exchanges = VirtualNetwork<ExchangeNode>;

/// Each node in a /16 of its own.
fn address(number: usize) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(10 + (number / 250) as u8, (number % 250) as u8, 0, 1), 443))
}

fn facts(number: usize, path_key: &PathPublic) -> NodeFacts {
    NodeFacts {
        addresses: vec![address(number)],
        tls_keys: TlsKeys::one([number as u8; 32]),
        path_keys: vec![path_key.clone()],
        versions: vec![1],
        family: None,
    }
}

/// Nodes that all know the first one, and join within the first minute.
fn network_of(count: usize, seed: u64) -> Exchanges {
    let mut network = Exchanges::new(seed);
    let path_key = PathSecret::generate(&mut ChaCha20Rng::from_seed([1; 32])).public().clone();
    let mut friends = Vec::new();
    for number in 0..count {
        let mut rng = ChaCha20Rng::from_seed(network.seed());
        let secret = Arc::new(NodeSecret::generate(&mut rng));
        let moment = Moment(network.elapsed().as_micros() as u64);
        let exchange = Exchange::new(moment, Network::private("sim"), secret.id(), friends.clone());
        if number == 0 {
            friends.push(Contact::listed(secret.id(), address(0), TlsKeys::one([0; 32])));
        }
        let node = ExchangeNode {
            secret: Arc::clone(&secret),
            exchange,
            rng,
            links: Vec::new(),
            wanted: Vec::new(),
            flood: Vec::new(),
        };
        let place = network.add(node);
        network.with(place, |node, now| {
            node.exchange.announce(now, secret, facts(number, &path_key)).unwrap();
        });
        network.run(Duration::from_secs(60) / count as u32);
    }
    network
}

fn all_know(network: &Exchanges, count: usize) -> bool {
    network.nodes().all(|(_, node)| node.exchange.view().node_count() == count)
}

/// The age of the oldest record that anybody has of a node that lives, by the clock on the wall.
fn oldest(network: &Exchanges) -> u64 {
    let now = network.now(Place(0)).unix.0;
    let living: Vec<NodeId> = network.nodes().map(|(_, node)| node.id()).collect();
    let views = network.nodes().map(|(_, node)| node.exchange.view());
    let ages = views.flat_map(|view| living.iter().filter_map(|id| view.node(id)));
    ages.map(|node| now.saturating_sub(node.record.version().0)).max().unwrap_or(0)
}

fn publish(network: &mut Exchanges, at: Place, secret: &ApSecret, issued: UnixTime) {
    let entry = ApEntry {
        public: secret.public(),
        entry_nodes: vec![EntryNode {
            contact: Contact::listed(network.node(at).id(), address(at.0), TlsKeys::one([at.0 as u8; 32])),
            route_key: RouteKey::from_bytes([1; 32]),
        }],
        session_secret: SessionSecret::from_bytes([2; 32]),
        capabilities: 0,
        issued,
        expiry: UnixTime(issued.0 + 3600),
    };
    let mut rng = ChaCha20Rng::from_seed(network.seed());
    let sealed = entry.seal(secret, epoch_of(issued), &mut rng).unwrap();
    network.with(at, |node, now| {
        let own = node.id();
        node.exchange.handle_published(now, LinkId::LOOP_A, own, sealed.bytes());
    });
}

#[test]
fn everybody_learns_of_everybody_and_stays_up_to_date() {
    const NODES: usize = 200;
    let mut network = network_of(NODES, 1);
    assert!(network.run_until(Duration::from_secs(30), |network| all_know(network, NODES)));
    network.run(Duration::from_secs(660));
    assert!(all_know(&network, NODES));
    assert!(oldest(&network) < 310, "a record of {} s", oldest(&network));
    assert_eq!(network.traffic.closed_by_nodes, 0);
}

#[test]
fn each_version_crosses_each_link_about_once() {
    const NODES: usize = 100;
    let mut network = network_of(NODES, 2);
    network.run(Duration::from_secs(240));
    let (messages, links) = (network.traffic.messages, network.traffic.links);
    network.run(Duration::from_secs(300));
    // Once per link; twice if it was on its way in both directions at the same time.
    let bound = 2 * links * NODES as u64;
    let messages = network.traffic.messages - messages;
    assert!(messages <= bound, "{messages} messages over {links} links");
}

#[test]
fn the_network_outlives_its_first_node_and_forgets_the_dead() {
    const NODES: usize = 60;
    let mut network = network_of(NODES, 3);
    network.run(Duration::from_secs(120));
    network.crash(Place(0));
    let dead = network.sample(9);
    dead.iter().for_each(|place| drop(network.crash(*place)));
    network.run(Duration::from_secs(600));
    assert!(oldest(&network) < 310, "the living have lost each other: a record of {} s", oldest(&network));
    network.run(Duration::from_secs(3 * 3600));
    assert!(all_know(&network, NODES - 10));
}

#[test]
fn a_party_is_found_everywhere_in_its_newest_entry() {
    const NODES: usize = 60;
    let mut network = network_of(NODES, 4);
    network.run(Duration::from_secs(60));
    let secret = ApSecret::generate(&mut ChaCha20Rng::from_seed([7; 32]));
    let issued = network.now(Place(0)).unix;
    publish(&mut network, Place(7), &secret, issued);
    network.run(Duration::from_secs(1));
    publish(&mut network, Place(31), &secret, UnixTime(issued.0 + 1));
    network.run(Duration::from_secs(10));
    for (place, node) in network.nodes() {
        let found = node.exchange.view().look_up(&secret.public(), network.now(place).unix).unwrap();
        assert_eq!(found.issued, UnixTime(issued.0 + 1));
    }
}

/// Entries of parties that nobody is.
fn made_up(count: usize, issued: UnixTime, rng: &mut ChaCha20Rng) -> Vec<Published> {
    let contact = Contact::listed(NodeId::from_bytes([1; 32]), address(1), TlsKeys::one([1; 32]));
    let entry_nodes = vec![EntryNode { contact, route_key: RouteKey::from_bytes([1; 32]) }];
    let entries = (0..count).map(|_| {
        let secret = ApSecret::generate(rng);
        let entry = ApEntry {
            public: secret.public(),
            entry_nodes: entry_nodes.clone(),
            session_secret: SessionSecret::from_bytes([2; 32]),
            capabilities: 0,
            issued,
            expiry: UnixTime(issued.0 + 3600),
        };
        Published::ApEntry(entry.seal(&secret, epoch_of(issued), rng).unwrap().bytes().to_vec())
    });
    entries.collect()
}

#[test]
fn a_flood_of_made_up_entries_neither_displaces_a_service_nor_keeps_a_new_one_out() {
    const NODES: usize = 6;
    let mut network = network_of(NODES, 8);
    network.run(Duration::from_secs(30));
    let services: Vec<_> =
        (0..4).map(|seed| ApSecret::generate(&mut ChaCha20Rng::from_seed([seed; 32]))).collect();
    let everywhere = |network: &Exchanges, secret: &ApSecret| {
        let now = network.now(Place(0)).unix;
        network.nodes().all(|(_, node)| node.exchange.view().look_up(&secret.public(), now).is_some())
    };
    let issued = network.now(Place(0)).unix;
    publish(&mut network, Place(1), &services[0], issued);
    network.run(Duration::from_secs(10));
    let flooder = Place(NODES - 1);
    let mut rng = ChaCha20Rng::from_seed(network.seed());
    let flood = made_up(AP_ENTRIES_KNOWN + 2_000, issued, &mut rng);
    network.with(flooder, |node, _| node.flood = flood);
    for (minute, secret) in (1..6).zip(services.iter().skip(1).map(Some).chain([None, None])) {
        network.run(Duration::from_secs(60));
        assert!(everywhere(&network, &services[0]), "the service is lost after {minute} min");
        if let Some(secret) = secret {
            let issued = network.now(Place(0)).unix;
            publish(&mut network, Place(2), secret, issued);
            network.run(Duration::from_secs(10));
            assert!(everywhere(&network, secret), "a new service is not found after {minute} min");
        }
    }
    // Without the flood having filled the tables, all this would say nothing.
    let full = network.nodes().filter(|(_, node)| node.exchange.view().entry_count() == AP_ENTRIES_KNOWN);
    assert!(full.count() >= NODES - 1);
    assert_eq!(network.traffic.closed_by_nodes, 0);
}

#[test]
fn wrong_clocks_break_no_links() {
    const NODES: usize = 40;
    let mut network = network_of(NODES, 5);
    for (number, place) in network.sample(10).into_iter().enumerate() {
        network.skew(place, [-86_400, -900, -100, 100, 900][number % 5]);
    }
    network.run(Duration::from_secs(900));
    assert_eq!(network.traffic.closed_by_nodes, 0);
    let right = network.nodes().filter(|(place, _)| network.now(*place).unix == network.now(Place(0)).unix);
    // Nodes whose clocks are right, or nearly, know each other.
    right.for_each(|(_, node)| assert!(node.exchange.view().node_count() >= NODES - 4));
}

#[test]
fn a_run_repeats_from_its_seed() {
    let run = |seed| {
        let mut network = network_of(30, seed);
        network.run(Duration::from_secs(400));
        network.traffic
    };
    assert_eq!(run(6), run(6));
    assert_ne!(run(6).fingerprint, run(7).fingerprint);
}
