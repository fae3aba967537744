//! Nodes on loopback: their links, and everybody who is none.

mod door;
mod knocks;
mod links;
mod relay;
mod speed;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use phantom_protocol::{
    identity::{NodeId, NodeSecret},
    network::Network,
    tunnel::Switch,
    wire::{
        cell::LinkId,
        contact::{Contact, TlsKeys},
    },
};
use rand::{SeedableRng, rngs::ChaCha20Rng};
use tokio::time::timeout;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

/// A node that has nothing but links.
struct Node {
    links: Links,
    events: LinkEvents,
    switch: Arc<Switch>,
    contact: Contact,
    clock: Clock,
}

fn secret(seed: u8) -> NodeSecret {
    NodeSecret::generate(&mut ChaCha20Rng::from_seed([seed; 32]))
}

fn config(seed: u8) -> LinkConfig {
    let clock = Clock::new();
    let tls = TlsIdentity::generate(clock.unix()).unwrap();
    LinkConfig {
        listen: Some("127.0.0.1:0".parse().unwrap()),
        listed: true,
        ..LinkConfig::new(Arc::new(secret(seed)), Network::private("test"), tls, clock)
    }
}

fn node(seed: u8) -> Node {
    start(config(seed))
}

fn start(config: LinkConfig) -> Node {
    let (id, clock, key) = (config.node.id(), config.clock, config.tls.key_hash());
    let switch = Arc::new(Switch::new([1; 32], id));
    let (links, events) = Links::start(config, Arc::clone(&switch)).unwrap();
    let contact = match links.listening() {
        Some(address) => Contact::listed(id, address, TlsKeys::one(key)),
        None => Contact::unlisted(id),
    };
    Node { links, events, switch, contact, clock }
}

/// Two nodes, the one with the smaller id first.
fn ordered_pair() -> (Node, Node) {
    let (a, b) = (node(1), node(2));
    if a.contact.id < b.contact.id { (a, b) } else { (b, a) }
}

impl Node {
    async fn event(&mut self) -> LinkEvent {
        timeout(PATIENCE, self.events.recv()).await.expect("news in time").expect("a running node")
    }

    async fn up(&mut self) -> LinkId {
        match self.event().await {
            LinkEvent::Up { link, .. } => link,
            other => panic!("{other:?}"),
        }
    }

    async fn dial_failed(&mut self) -> DialError {
        match self.event().await {
            LinkEvent::DialFailed { why, .. } => why,
            other => panic!("{other:?}"),
        }
    }

    async fn down(&mut self) -> LinkEnd {
        match self.event().await {
            LinkEvent::Down { why, .. } => why,
            other => panic!("{other:?}"),
        }
    }

    async fn message(&mut self) -> ControlMessage {
        match self.event().await {
            LinkEvent::Message { message, .. } => message,
            other => panic!("{other:?}"),
        }
    }

    fn id(&self) -> NodeId {
        self.contact.id
    }

    fn address(&self) -> SocketAddr {
        self.contact.address.unwrap()
    }

    /// What nobody expects does not happen.
    async fn stays_quiet(&mut self) {
        tokio::time::sleep(Duration::from_millis(200)).await;
        if let Some(event) = self.events.try_recv() {
            panic!("{event:?}");
        }
    }
}

/// Links two nodes, `a` dialling.
async fn link(a: &mut Node, b: &mut Node) -> (LinkId, LinkId) {
    assert_eq!(a.links.dial(b.contact), Dial::UnderWay);
    (a.up().await, b.up().await)
}
