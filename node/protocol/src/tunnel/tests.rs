//! The tunnel layer as a whole, on the small network of `testnet`.

mod attacks;
mod bounds;
mod ends;
mod joins;

use std::collections::BTreeSet;

use proptest::prelude::*;
use rand::{Rng, RngExt, SeedableRng, rngs::ChaCha20Rng, seq::SliceRandom};

use super::{
    testnet::{self, Built, Fate, Net},
    *,
};
use crate::{
    limits::{
        ACCEPTED_KEYS, CELLS_WHILE_DIALLING, JOINS_PER_LINK, PATH_SHARES, PATHS, PATHS_OF_EVERY_LINK,
        TUNNEL_IDLE, TUNNELS, TUNNELS_OF_EVERY_PATH, TUNNELS_PER_EXIT, TUNNELS_PER_PATH, UNCONFIRMED,
    },
    wire::{
        cell::{BODY, Body, CELL, Cell, Command, TunnelId},
        opener,
    },
};

/// Nodes 0 (client) and 1 (service), then `n1` and `n2` relays.
fn two_paths(seed: u64, n1: usize, n2: usize) -> (Net, Built, Built) {
    let mut net = Net::new(seed, 2 + n1 + n2);
    let client = net.build(0, &(2..2 + n1).collect::<Vec<_>>());
    let service = net.build(1, &(2 + n1..2 + n1 + n2).collect::<Vec<_>>());
    (net, client, service)
}

fn payload(rng: &mut impl Rng) -> Vec<u8> {
    let mut payload = vec![0; rng.random_range(0..=MAX_PAYLOAD)];
    rng.fill_bytes(&mut payload);
    payload
}

/// Sends one payload each way and checks that both arrive.
fn exchange(net: &mut Net, a: (usize, OwnerTunnelId), b: (usize, OwnerTunnelId)) {
    for (from, to) in [(a, b), (b, a)] {
        let sent = payload(&mut net.rng);
        assert!(net.send(from.0, from.1, &sent));
        net.run();
        assert_eq!(net.take_payloads(to.0, to.1), [sent]);
    }
}

#[test]
fn payloads_cross_two_paths_of_any_lengths_though_cells_are_lost() {
    for n1 in 1..=8 {
        for n2 in [1, 3, 8] {
            let (mut net, client, service) = two_paths(n1 as u64 * 10 + n2 as u64, n1, n2);
            let (c, s) = net.connect(&client, &service);
            exchange(&mut net, (0, c), (1, s));
            // The queues drop what they like, as long as it is not too much.
            let mut sent: [Vec<Vec<u8>>; 2] = Default::default();
            for _ in 0..40 {
                for (from, tunnel) in [(0, c), (1, s)] {
                    let payload = payload(&mut net.rng);
                    assert!(net.send(from, tunnel, &payload));
                    sent[from].push(payload);
                }
            }
            let mut luck = ChaCha20Rng::seed_from_u64(1);
            net.run_with(|_, _, _| if luck.random_bool(0.03) { Fate::Drop } else { Fate::Pass });
            let mut got = 0;
            for (to, tunnel, from) in [(0, c, 1), (1, s, 0)] {
                let received = net.take_payloads(to, tunnel);
                got += received.len();
                let mut rest = sent[from].iter();
                assert!(received.iter().all(|payload| rest.any(|sent| sent == payload)), "{n1} {n2}");
            }
            assert!(got > 30, "{n1} {n2}: {got}");
            net.at(0, |switch, out| switch.close_tunnel(c, out));
            net.run();
            assert_eq!(net.take_events(1), [SwitchEvent::TunnelClosed { tunnel: s }]);
            net.assert_no_tunnels();
        }
    }
}

#[test]
fn one_node_may_be_everything_at_once() {
    // Client and service, both of length 0, on one node: every hop is a loop.
    let mut net = Net::new(3, 1);
    let client = net.build(0, &[]);
    let service = net.build(0, &[]);
    let (c, s) = net.connect(&client, &service);
    exchange(&mut net, (0, c), (0, s));
    net.at(0, |switch, out| switch.close_tunnel(s, out));
    net.run();
    net.assert_no_tunnels();
}

#[test]
fn an_owner_may_be_its_own_terminal() {
    for (n1, n2) in [(0, 3), (3, 0), (0, 0)] {
        let (mut net, client, service) = two_paths(4, n1, n2);
        let (c, s) = net.connect(&client, &service);
        exchange(&mut net, (0, c), (1, s));
        net.at(1, |switch, out| switch.close_tunnel(s, out));
        net.run();
        assert_eq!(net.take_events(0), [SwitchEvent::TunnelClosed { tunnel: c }]);
        net.assert_no_tunnels();
    }
}

#[test]
fn an_exit_may_be_the_entry() {
    let mut net = Net::new(5, 6);
    let client = net.build(0, &[2, 3, 4]);
    let service = net.build(1, &[5, 3, 4]);
    let (c, s) = net.connect(&client, &service);
    exchange(&mut net, (0, c), (1, s));
}

#[test]
fn an_echo_comes_back_and_leaves_nothing() {
    for hops in 0..=8 {
        let mut net = Net::new(hops as u64, 9);
        let path = net.build(0, &(1..=hops).collect::<Vec<_>>());
        net.open(&path, &Opener::Echo);
        net.run();
        assert_eq!(net.take_events(0), [SwitchEvent::Echoed { path: path.id }]);
        net.assert_no_tunnels();
    }
}

#[test]
fn an_entry_is_published_at_the_terminal() {
    let mut net = Net::new(6, 4);
    let path = net.build(0, &[1, 2, 3]);
    let entry = vec![7; opener::MAX_PUBLISHED];
    let tunnel = net.open(&path, &Opener::Publish { entry: entry.clone() });
    net.run();
    assert_eq!(net.take_events(0), [SwitchEvent::Answered { tunnel, answer: Answer::Published }]);
    let link = net.link(3, 2).0;
    assert_eq!(net.take_events(3), [SwitchEvent::Publish { link, entry }]);
    net.assert_no_tunnels();
    let too_long = Opener::Publish { entry: vec![7; opener::MAX_PUBLISHED + 1] };
    assert!(net.at(0, |switch, out| switch.open_tunnel(Moment(0), path.id, &too_long, out)).is_none());
}
