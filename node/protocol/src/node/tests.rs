//! A node's dispatch, with the world played by the tests.

use std::time::Duration;

use super::*;
use crate::{
    limits::{STRANGERS_DIALS, UNKNOWN_DIALS},
    network::Network,
    time::UnixTime,
    tunnel::{Kind, OwnerTunnelId, PeerMisbehaved, TunnelRef},
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
        relay: Relay::Always,
        quota: None,
        spending: None,
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

fn new_link(link: LinkId, seed: u8) -> NewLink {
    NewLink { link, peer: secret(seed).id(), address: None, dialled: true }
}

fn learn(node: &mut Node, seed: u8, address: &str) {
    let record = NodeRecord::sign(&secret(seed), &facts(address), now().unix).unwrap();
    let record = record.verify(&Network::private("test"), now().unix).unwrap();
    let records = ControlMessage::Records(vec![Published::Node(record.bytes().to_vec())]);
    node.handle_link_up(now(), new_link(LINK, 200), &mut Nowhere);
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
    let up = NewLink { peer: under_way[1].id, ..new_link(LinkId(1_000), 0) };
    node.handle_link_up(now(), up, &mut Nowhere);
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
        node.handle_link_up(now(), new_link(link, seed), &mut Nowhere);
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

/// A neighbour whose link comes from this address.
fn neighbour(node: &mut Node, link: LinkId, seed: u8, address: &str, dialled: bool) {
    let address = Some(address.parse().unwrap());
    node.handle_link_up(now(), NewLink { address, dialled, ..new_link(link, seed) }, &mut Nowhere);
}

/// What a neighbour's wish for a knock leads to: a knock, an answer at once, the end of its link, or nothing.
fn ask_for_knock(node: &mut Node, link: LinkId, contact: Contact) -> Option<Output> {
    node.handle_message(now(), link, ControlMessage::Knock(contact), &mut Nowhere);
    std::iter::from_fn(|| node.poll_output()).find(|output| {
        matches!(output, Output::Knock(_) | Output::CloseLink(_))
            || matches!(output, Output::Send { message: ControlMessage::Knocked(_), .. })
    })
}

#[test]
fn a_neighbour_gets_a_knock_at_its_own_door_and_is_told_what_came_of_it() {
    let contact = contact(1, "127.2.0.1:443");
    for reached in [true, false] {
        let mut node = node(vec![]);
        neighbour(&mut node, LINK, 1, "127.2.0.1", false);
        let asked = ask_for_knock(&mut node, LINK, contact);
        assert!(matches!(asked, Some(Output::Knock(door)) if door == contact));
        node.handle_knocked(now(), contact.id, reached, &mut Nowhere);
        let told = std::iter::from_fn(|| node.poll_output()).any(|output| {
            matches!(output, Output::Send { link: LINK, message: ControlMessage::Knocked(it) } if it == reached)
        });
        assert!(told);
        assert!(ask_for_knock(&mut node, LINK, contact).is_none(), "once in a while");
    }
}

#[test]
fn nobody_gets_a_knock_at_the_door_of_somebody_else() {
    let mut node = node(vec![]);
    neighbour(&mut node, LINK, 1, "127.2.0.1", false);
    let elsewhere = ask_for_knock(&mut node, LINK, contact(1, "127.3.0.1:443"));
    assert!(matches!(elsewhere, Some(Output::Send { message: ControlMessage::Knocked(false), .. })));
    neighbour(&mut node, LinkId(1_000), 2, "127.3.0.1", false);
    let in_anothers_name = ask_for_knock(&mut node, LinkId(1_000), contact(3, "127.3.0.1:443"));
    assert!(matches!(in_anothers_name, Some(Output::CloseLink(LinkId(1_000)))));
}

#[test]
fn knocks_count_with_the_dials_that_strangers_ask_for() {
    let mut node = node(vec![]);
    let mut knocks = 0;
    for seed in 1..=100 {
        let (link, address) = (LinkId(1_000 + u64::from(seed)), format!("127.{seed}.0.1"));
        neighbour(&mut node, link, seed, &address, false);
        let asked = ask_for_knock(&mut node, link, contact(seed, &format!("{address}:443")));
        knocks += usize::from(matches!(asked, Some(Output::Knock(_))));
    }
    assert_eq!(knocks, STRANGERS_DIALS.min(UNKNOWN_DIALS.0 as usize));
}

/// Whether this node, known as reachable at `own` by nobody yet, takes a link for a proof of it.
fn is_proof(own: &str, network: Network, from: &str, dialled: bool) -> bool {
    let mut node = node(vec![contact(9, "127.9.0.1:443")]);
    node.config.contact = contact(0, own);
    node.config.relay = Relay::Auto;
    node.config.network = network;
    node.start(now(), &mut Nowhere);
    assert_eq!(node.relaying(now()), Relaying::Proving);
    neighbour(&mut node, LINK, 1, from, dialled);
    node.relaying(now()) == Relaying::Yes
}

#[test]
fn whoever_comes_in_from_elsewhere_is_a_proof() {
    for (own, network, from, dialled, proves) in [
        ("1.1.1.1:443", Network::public(), "2.2.2.2", false, true),
        ("1.1.1.1:443", Network::public(), "::ffff:2.2.2.2", false, true),
        ("1.1.1.1:443", Network::public(), "2.2.2.2", true, false),
        ("1.1.1.1:443", Network::public(), "1.1.1.1", false, false),
        ("1.1.1.1:443", Network::public(), "192.168.0.7", false, false),
        ("1.1.1.1:443", Network::public(), "127.0.0.1", false, false),
        ("192.168.0.1:443", Network::private("test"), "192.168.0.7", false, true),
        ("192.168.0.1:443", Network::private("test"), "192.168.0.1", false, false),
        ("127.0.0.1:443", Network::private("test"), "127.0.0.1", false, true),
    ] {
        assert_eq!(is_proof(own, network, from, dialled), proves, "{own} from {from}");
    }
}

#[test]
fn a_node_whose_quota_is_spent_ceases_to_relay_until_the_next_month() {
    let mut node = node(vec![]);
    node.spending = Spending::new(now().moment, Some(1_000), None);
    node.start(now(), &mut Nowhere);
    let at = |seconds: u64| Now {
        moment: now().moment + Duration::from_secs(seconds),
        unix: UnixTime(now().unix.0 + seconds),
    };
    let turns = |node: &mut Node| -> Vec<bool> {
        let outputs = std::iter::from_fn(|| node.poll_output());
        outputs.filter_map(|it| if let Output::Relaying(it) = it { Some(it) } else { None }).collect()
    };
    node.handle_carried(at(1), 999, &mut Nowhere);
    assert_eq!((node.relaying(at(1)), turns(&mut node)), (Relaying::Yes, vec![true]));
    assert!(node.helps(at(1).unix));
    node.handle_carried(at(2), 1, &mut Nowhere);
    assert_eq!((node.relaying(at(2)), turns(&mut node)), (Relaying::Spent, vec![false]));
    assert!(!node.helps(at(2).unix));
    let month = 31 * 86_400;
    node.handle_timeout(at(month), &mut Nowhere);
    assert_eq!((node.relaying(at(month)), turns(&mut node)), (Relaying::Yes, vec![true]));
}

#[test]
fn what_was_spent_is_kept_now_and_then_and_counts_after_a_restart() {
    let mut node = node(vec![]);
    node.spending = Spending::new(now().moment, Some(1_000), None);
    let mut kept = Vec::new();
    for second in 0..300 {
        let now = Now { moment: now().moment + Duration::from_secs(second), unix: now().unix };
        node.handle_carried(now, 3, &mut Nowhere);
        let outputs = std::iter::from_fn(|| node.poll_output());
        kept.extend(outputs.filter_map(|it| if let Output::KeepSpending(it) = it { Some(it) } else { None }));
    }
    assert!((2..=6).contains(&kept.len()), "{} times in five minutes", kept.len());
    let again = Spending::new(now().moment, Some(900), node.spending().as_deref());
    node.spending = again;
    assert_eq!(node.relaying(now()), Relaying::Spent);
    assert_eq!(node.quota(now().unix).unwrap().used, 900);
    node.spending = Spending::new(now().moment, Some(900), Some(b"damaged"));
    assert_eq!(node.quota(now().unix).unwrap().used, 0);
}
