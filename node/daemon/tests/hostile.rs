//! Members of the network that turn on a running node: floods of records, control messages without measure, cells that
//! no honest node sends. The node's memory stays bounded, the links end, and honest nodes go on building paths.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{net::SocketAddr, sync::Arc, time::Duration};

use phantom_node::{
    clock::Clock,
    daemon::{Config, Daemon},
    link::{Dial, LinkConfig, LinkEvent, LinkEvents, Links, TlsIdentity},
};
use phantom_protocol::{
    crypto::seal::{PathPublic, PathSecret},
    identity::NodeSecret,
    limits::{ARRAY, NODES_PER_SUBNET},
    network::Network,
    tunnel::{Outlet, Switch},
    wire::{
        cell::{Cell, Command, LinkId, PathId, TunnelId},
        contact::{Contact, TlsKeys},
        control::{ControlMessage, Published, Round},
        hello::VERSIONS,
        record::{NodeFacts, NodeRecord},
    },
};
use rand::{Rng, RngExt, SeedableRng, rngs::ChaCha20Rng};
use tokio::time::{sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(60);
/// What all nodes of the test together may grow by.
const GROWTH: usize = 200 << 20;

fn network() -> Network {
    Network::private("hostile")
}

/// A network of six; paths of one relay need four.
async fn honest() -> Vec<Daemon> {
    let mut nodes: Vec<Daemon> = Vec::new();
    for number in 0..6u8 {
        let ip = format!("127.{}.0.1", 130 + number);
        let config = Config {
            listen: Some(format!("{ip}:0").parse().unwrap()),
            source: Some(ip.parse().unwrap()),
            friends: nodes.first().map(|first| first.invitation().unwrap().contact()).into_iter().collect(),
            hops: 1,
            pool: 1,
            ..Config::new(network())
        };
        nodes.push(Daemon::start(config).await.unwrap());
    }
    for node in &nodes {
        timeout(PATIENCE, node.paths_ready(1)).await.unwrap().unwrap();
    }
    nodes
}

struct Attacker {
    links: Links,
    events: LinkEvents,
    link: LinkId,
}

async fn attacker(seed: u64, victim: Contact) -> Attacker {
    let node = Arc::new(NodeSecret::generate(&mut ChaCha20Rng::seed_from_u64(seed)));
    let clock = Clock::new();
    let tls = TlsIdentity::generate(clock.unix()).unwrap();
    let switch = Arc::new(Switch::new([1; 32], node.id()));
    let (links, mut events) = Links::start(LinkConfig::new(node, network(), tls, clock), switch).unwrap();
    assert_eq!(links.dial(victim), Dial::UnderWay);
    let link = loop {
        match timeout(PATIENCE, events.recv()).await.unwrap().unwrap() {
            LinkEvent::Up { link, .. } => break link,
            LinkEvent::DialFailed { why, .. } => panic!("{why}"),
            _ => {}
        }
    };
    Attacker { links, events, link }
}

impl Attacker {
    fn say(&self, message: &ControlMessage) {
        self.links.send(self.link, message);
    }

    async fn loses_its_link(mut self) {
        let down = async {
            loop {
                if matches!(self.events.recv().await, None | Some(LinkEvent::Down { .. })) {
                    return;
                }
            }
        };
        timeout(PATIENCE, down).await.expect("the link should have ended");
    }
}

/// Records of nodes that do not exist, correctly signed, all in one subnet.
fn invented(key: &PathPublic, rng: &mut ChaCha20Rng) -> Vec<Published> {
    let record = |_| {
        let [a, b] = rng.random::<[u8; 2]>();
        let facts = NodeFacts {
            addresses: vec![SocketAddr::from(([127, 200, a, b], 443))],
            tls_keys: TlsKeys::one([1; 32]),
            path_keys: vec![key.clone()],
            versions: VERSIONS.to_vec(),
            family: None,
        };
        let record = NodeRecord::sign(&NodeSecret::generate(rng), &facts, Clock::new().unix()).unwrap();
        Published::Node(record.verify(&network(), Clock::new().unix()).unwrap().bytes().to_vec())
    };
    (0..15).map(record).collect()
}

fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_members_neither_fill_a_node_nor_stop_the_honest_ones() {
    let nodes = honest().await;
    let victim = nodes[0].invitation().unwrap().contact();
    let known = nodes[0].status().await.known_nodes;
    let before = resident();
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let key = PathSecret::generate(&mut rng).public().clone();

    // Garbage of all kinds: each ends its link.
    let mut noise = vec![0; 3_000];
    rng.fill_bytes(&mut noise);
    let garbage = attacker(1, victim).await;
    garbage.say(&ControlMessage::Partner);
    garbage.say(&ControlMessage::Records(vec![Published::Node(noise)]));
    garbage.loses_its_link().await;
    let uninvited = attacker(2, victim).await;
    uninvited.say(&ControlMessage::Records(invented(&key, &mut rng)));
    uninvited.loses_its_link().await;
    let oversize = attacker(3, victim).await;
    let mut cell = Cell::new(Command::Control, TunnelId::new(0));
    cell.body_mut()[..5].copy_from_slice(&[4, 255, 255, 255, 255]);
    oversize.links.outlet().forward(oversize.link, &cell);
    oversize.loses_its_link().await;
    let dirty = attacker(4, victim).await;
    dirty.links.outlet().forward(dirty.link, &Cell::new(Command::Data, TunnelId::new(0)));
    dirty.loses_its_link().await;

    // Floods that keep to the format, for as long as honest nodes work beside them.
    let mut floods = Vec::new();
    for seed in 10..20 {
        let flood = attacker(seed, victim).await;
        flood.say(&ControlMessage::Partner);
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let key = key.clone();
        floods.push(tokio::spawn(async move {
            loop {
                flood.say(&ControlMessage::Records(invented(&key, &mut rng)));
                let mut array = Box::new([0; ARRAY]);
                rng.fill_bytes(array.as_mut_slice());
                let connection = PathId::new(rng.random());
                flood.say(&ControlMessage::Setup { round: Round::One, connection, array });
                for _ in 0..20 {
                    let mut cell = Cell::new(Command::Data, TunnelId::new(rng.random()));
                    rng.fill_bytes(&mut cell.body_mut()[..]);
                    flood.links.outlet().forward(flood.link, &cell);
                }
                sleep(Duration::from_millis(20)).await;
            }
        }));
    }
    for node in nodes.iter().cycle().skip(1).take(10) {
        let mut tries = 0;
        // A circle through a busy node may miss its time once.
        while let Err(why) = timeout(PATIENCE, node.try_path(1)).await.unwrap() {
            tries += 1;
            assert!(tries < 3, "{why}");
        }
    }
    let status = nodes[0].status().await;
    assert!(status.known_nodes <= known + NODES_PER_SUBNET, "{} nodes are known", status.known_nodes);
    let grown = resident().saturating_sub(before);
    assert!(grown < GROWTH, "{grown} bytes");
    floods.iter().for_each(tokio::task::JoinHandle::abort);
    timeout(PATIENCE, nodes[0].try_path(1)).await.unwrap().unwrap();
}
