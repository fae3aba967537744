//! A node's dispatch, with the world played by the tests.

use super::*;
use crate::{
    limits::{STRANGERS_DIALS, UNKNOWN_DIALS},
    time::UnixTime,
    tunnel::{Kind, PeerMisbehaved, TunnelRef},
    wire::{
        cell::Cell,
        control::Published,
        record::{
            NodeRecord,
            tests::{facts, secret},
        },
    },
};

const LINK: LinkId = LinkId(LinkId::FIRST);
const FALSE_ADDRESS: &str = "127.99.0.1:1";

struct Nowhere;

impl Outlet for Nowhere {
    fn forward(&mut self, _: LinkId, _: &Cell) {}
    fn deliver(&mut self, _: OwnerTunnelId, _: Kind, _: &[u8]) {}
    fn report(&mut self, _: SwitchEvent) {}
}

fn now() -> Now {
    Now { moment: Moment(1_000_000), unix: UnixTime(1_800_000_000) }
}

fn contact(seed: u8, address: &str) -> Contact {
    let facts = facts(address);
    Contact::listed(secret(seed).id(), facts.addresses[0], facts.tls_keys)
}

fn node(friends: Vec<Contact>) -> Node {
    let secret = Arc::new(secret(0));
    let own = secret.id();
    let config = NodeConfig {
        contact: contact(0, "127.1.0.1:443"),
        secret,
        network: Network::private("test"),
        family: None,
        hops: 3,
        pool: 0,
        friends,
        kept: None,
        remembered: Vec::new(),
        seed: [1; 32],
    };
    Node::new(now(), config, Arc::new(Switch::new([2; 32], own)))
}

fn learn(node: &mut Node, seed: u8, address: &str) {
    let record = NodeRecord::sign(&secret(seed), &facts(address), now().unix).unwrap();
    let record = record.verify(&Network::private("test"), now().unix).unwrap();
    let records = ControlMessage::Records(vec![Published::Node(record.bytes().to_vec())]);
    node.handle_link_up(now(), LINK, secret(200).id(), &mut Nowhere);
    for message in [ControlMessage::Partner, records] {
        node.handle_message(now(), LINK, message, &mut Nowhere);
    }
}

fn ask_exit(node: &mut Node, entry: Contact) {
    let exit = ExitTunnel(TunnelRef { path: 1, serial: 1 });
    node.handle_switch(now(), SwitchEvent::Dial { exit, entry }, &mut Nowhere);
}

fn dials(node: &mut Node) -> Vec<Contact> {
    let outputs = std::iter::from_fn(|| node.poll_output());
    outputs
        .filter_map(|output| if let Output::Dial(contact) = output { Some(contact) } else { None })
        .collect()
}

#[test]
fn a_strangers_false_address_of_a_known_node_is_not_dialled() {
    let mut node = node(vec![]);
    learn(&mut node, 1, "127.2.0.1:443");
    ask_exit(&mut node, contact(1, FALSE_ADDRESS));
    assert_eq!(dials(&mut node), [contact(1, "127.2.0.1:443")]);
}

#[test]
fn a_strangers_false_address_of_a_friend_is_not_dialled() {
    let friend = contact(1, "127.2.0.1:443");
    let mut node = node(vec![friend]);
    ask_exit(&mut node, contact(1, FALSE_ADDRESS));
    assert_eq!(dials(&mut node), [friend]);
}

#[test]
fn strangers_make_a_node_knock_at_few_unknown_doors() {
    let mut node = node(vec![]);
    let mut asked = 0;
    for seed in 1..200 {
        ask_exit(&mut node, contact(seed, FALSE_ADDRESS));
        for contact in dials(&mut node) {
            asked += 1;
            node.handle_dial_failed(now(), contact.id, &mut Nowhere);
        }
    }
    assert_eq!(asked, UNKNOWN_DIALS.0 as usize);
}

#[test]
fn strangers_dials_under_way_are_bounded_and_places_come_back() {
    let mut node = node(vec![]);
    for seed in 1..=250 {
        learn(&mut node, seed, &format!("127.{seed}.0.1:443"));
    }
    let _ = dials(&mut node);
    for seed in 1..=100 {
        ask_exit(&mut node, contact(seed, FALSE_ADDRESS));
    }
    let under_way = dials(&mut node);
    assert_eq!(under_way.len(), STRANGERS_DIALS);
    node.handle_dial_failed(now(), under_way[0].id, &mut Nowhere);
    node.handle_link_up(now(), LinkId(1_000), under_way[1].id, &mut Nowhere);
    for seed in 101..=110 {
        ask_exit(&mut node, contact(seed, FALSE_ADDRESS));
    }
    assert_eq!(dials(&mut node).len(), 2);
}

#[test]
fn a_link_that_nobody_uses_is_released_and_a_partners_is_kept() {
    let mut node = node(vec![]);
    let (idle, partner) = (LinkId(1_000), LinkId(1_001));
    for (link, seed) in [(idle, 1), (partner, 2)] {
        node.switch.link_up(link, secret(seed).id(), false);
        node.handle_link_up(now(), link, secret(seed).id(), &mut Nowhere);
    }
    node.handle_message(now(), partner, ControlMessage::Partner, &mut Nowhere);
    let mut released = Vec::new();
    for second in 0..=700 {
        let now = Now { moment: now().moment + Duration::from_secs(second), unix: now().unix };
        node.handle_timeout(now, &mut Nowhere);
        let outputs = std::iter::from_fn(|| node.poll_output());
        released.extend(outputs.filter_map(|output| match output {
            Output::ReleaseLink(link) => Some((link, second)),
            _ => None,
        }));
    }
    let [(link, after)] = released[..] else { panic!("{released:?}") };
    assert_eq!(link, idle);
    assert!((600..=660).contains(&after), "after {after} s");
}

#[test]
fn a_peers_own_misdeed_ends_its_link_and_a_leap_does_not() {
    let mut node = node(vec![]);
    let sins = [
        (PeerMisbehaved::DirtyHeader, true),
        (PeerMisbehaved::BadStep, false),
        (PeerMisbehaved::RepeatedOpener, false),
    ];
    for (what, ends) in sins {
        node.handle_switch(now(), SwitchEvent::Misbehaved { link: LINK, what }, &mut Nowhere);
        let closed =
            std::iter::from_fn(|| node.poll_output()).any(|output| matches!(output, Output::CloseLink(LINK)));
        assert_eq!(closed, ends, "{what:?}");
    }
}
