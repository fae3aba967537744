//! The tunnel layer as a whole, on the small network of `testnet`.

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

#[test]
fn hops_see_neither_length_nor_direction() {
    // All cells of one tunnel look random and numbered anew on every link inside the paths.
    let (mut net, client, service) = two_paths(7, 3, 3);
    let (c, _) = net.connect(&client, &service);
    net.send(0, c, b"");
    let mut indices = BTreeSet::new();
    let mut bodies = Vec::<Body>::new();
    let exit_to_entry = (4, 7);
    net.run_with(|from, to, cell| {
        if (from, to) != exit_to_entry {
            assert!(indices.insert(cell.index()));
            assert!(cell.body().iter().filter(|byte| **byte == 0).count() < 40);
            bodies.push(*cell.body());
        }
        Fate::Pass
    });
    assert_eq!(bodies.len(), 6);
    assert!((1..6).all(|i| bodies[i] != bodies[i - 1]));
}

/// Every link of both paths and the join, in the direction from client to service.
fn way(client: &Built, service: &Built) -> Vec<(usize, usize)> {
    let mut nodes = vec![client.owner];
    nodes.extend(&client.hops);
    nodes.extend(service.hops.iter().rev());
    nodes.push(service.owner);
    nodes.windows(2).map(|pair| (pair[0], pair[1])).collect()
}

/// Runs an attack on one data cell at every place of a tunnel, in both directions; checks that the payload does not
/// arrive and that in the end the tunnel is gone everywhere.
fn attack_everywhere(mut attack: impl FnMut(&mut Net, usize, usize, &mut dyn FnMut(&mut Net))) {
    let (n1, n2) = (3, 3);
    for place in 0..n1 + n2 + 1 {
        for backward in [false, true] {
            let (mut net, client, service) = two_paths(place as u64, n1, n2);
            let (c, s) = net.connect(&client, &service);
            exchange(&mut net, (0, c), (1, s));
            let (a, b) = way(&client, &service)[place];
            let (sender, tunnel, a, b) = if backward { (1, s, b, a) } else { (0, c, a, b) };
            let mut send = |net: &mut Net| assert!(net.send(sender, tunnel, b"secret"));
            attack(&mut net, a, b, &mut send);
            net.run();
            for (node, tunnel) in [(0, c), (1, s)] {
                let events = net.take_events(node);
                assert!(events.contains(&SwitchEvent::TunnelClosed { tunnel }), "{place} {backward}");
            }
            net.assert_no_tunnels();
        }
    }
}

#[test]
fn a_flipped_bit_kills_the_tunnel() {
    let mut luck = ChaCha20Rng::seed_from_u64(8);
    attack_everywhere(|net, a, b, send| {
        send(net);
        // Between terminals the body is plain: only its zeros, kind and length are checked there, and a changed
        // payload or filler must not get through as what it was.
        let bit = luck.random_range(0..19 * 8);
        net.run_with(|from, to, cell| {
            if (from, to) == (a, b) && cell.command() == Ok(Command::Data) {
                // The topmost bit of the length, or any bit before it.
                let bit = bit.min(17 * 8);
                cell.body_mut()[bit / 8] ^= 0x80 >> (bit % 8);
            }
            Fate::Pass
        });
        for owner in [0, 1] {
            assert!(net.nodes[owner].out.delivered.is_empty());
        }
    });
}

#[test]
fn a_bit_flipped_anywhere_in_the_body_kills_the_tunnel_inside_a_path() {
    let mut luck = ChaCha20Rng::seed_from_u64(9);
    attack_everywhere(|net, a, b, send| {
        let (exit, entry) = (4, 7);
        let bit = if (a.min(b), a.max(b)) == (exit, entry) { 0 } else { luck.random_range(0..BODY * 8) };
        send(net);
        net.run_with(|from, to, cell| {
            if (from, to) == (a, b) && cell.command() == Ok(Command::Data) {
                cell.body_mut()[bit / 8] ^= 1 << (bit % 8);
            }
            Fate::Pass
        });
        for owner in [0, 1] {
            assert!(net.nodes[owner].out.delivered.is_empty());
        }
    });
}

#[test]
fn a_changed_number_kills_the_tunnel() {
    attack_everywhere(|net, a, b, send| {
        let exit_to_entry = (a.min(b), a.max(b)) == (4, 7);
        send(net);
        net.run_with(|from, to, cell| {
            if (from, to) == (a, b) && cell.command() == Ok(Command::Data) {
                // Within the gap rule, but another tweak. Between terminals the number is no tweak.
                let step = if exit_to_entry { 300 } else { 1 };
                cell.set_index(cell.index().wrapping_add(step));
            }
            Fate::Pass
        });
    });
}

#[test]
fn a_repeated_cell_kills_the_tunnel_at_the_next_honest_node() {
    attack_everywhere(|net, a, b, send| {
        let mut copy = None;
        send(net);
        net.run_with(|from, to, cell| {
            if (from, to) == (a, b) && cell.command() == Ok(Command::Data) {
                copy = Some(cell.clone());
            }
            Fate::Pass
        });
        let from = net.link(b, a).0;
        net.inject(b, from, copy.unwrap());
        assert!(net.nodes[b].out.events.iter().any(|event| {
            *event == SwitchEvent::Misbehaved { link: from, what: PeerMisbehaved::BadStep }
        }));
    });
}

#[test]
fn reordered_cells_kill_the_tunnel() {
    attack_everywhere(|net, a, b, send| {
        let mut late = None;
        send(net);
        send(net);
        net.run_with(|from, to, cell| {
            if (from, to) == (a, b) && cell.command() == Ok(Command::Data) && late.is_none() {
                late = Some(cell.clone());
                return Fate::Drop;
            }
            Fate::Pass
        });
        let from = net.link(b, a).0;
        net.inject(b, from, late.unwrap());
    });
}

#[test]
fn too_many_lost_cells_kill_the_tunnel_and_fewer_do_not() {
    for (lost, survives) in [(256, true), (257, false)] {
        let (mut net, client, service) = two_paths(10, 2, 2);
        let (c, s) = net.connect(&client, &service);
        exchange(&mut net, (0, c), (1, s));
        for _ in 0..lost {
            net.send(0, c, b"lost");
        }
        net.run_with(|_, _, _| Fate::Drop);
        net.send(0, c, b"kept");
        net.run();
        assert_eq!(net.take_payloads(1, s).len(), usize::from(survives));
        let events = net.take_events(1);
        assert_eq!(events.contains(&SwitchEvent::TunnelClosed { tunnel: s }), !survives);
    }
}

#[test]
fn a_token_works_once_and_for_one_exit() {
    let mut net = Net::new(11, 8);
    let service = net.build(1, &[5, 6]);
    let first = net.build(0, &[2, 3]);
    let other_exit = net.build(0, &[3, 2]);
    let opener = net.join(&first, &service);
    let ask = |net: &mut Net, path: &Built, opener: &Opener| {
        let tunnel = net.open(path, opener);
        net.run();
        let events = net.take_events(0);
        events.into_iter().find_map(|event| match event {
            SwitchEvent::Answered { tunnel: of, answer } if of == tunnel => Some(answer),
            _ => None,
        })
    };
    assert_eq!(ask(&mut net, &other_exit, &opener), Some(Answer::Unknown));
    assert_eq!(ask(&mut net, &first, &opener), Some(Answer::Joined));
    assert_eq!(ask(&mut net, &first, &opener), Some(Answer::Unknown));
    // A token for another service, which this entry does not serve.
    let elsewhere = net.build(1, &[7]);
    let Opener::Join { token, .. } = net.join(&first, &elsewhere) else { unreachable!() };
    let wrong_entry = Opener::Join { entry: net.contact(6), token };
    assert_eq!(ask(&mut net, &first, &wrong_entry), Some(Answer::Unknown));
    // A node that nobody knows.
    let Opener::Join { mut entry, token } = net.join(&first, &service) else { unreachable!() };
    entry.id = crate::identity::NodeId::from_bytes([0xee; 32]);
    assert_eq!(ask(&mut net, &first, &Opener::Join { entry, token }), Some(Answer::Unreachable));
}

#[test]
fn an_exit_keeps_the_newest_cells_while_it_dials() {
    let (mut net, client, service) = two_paths(12, 2, 2);
    net.dial = false;
    let opener = net.join(&client, &service);
    let tunnel = net.open(&client, &opener);
    let count = CELLS_WHILE_DIALLING as u32 + 10;
    for number in 0..count {
        net.send(0, tunnel, &number.to_be_bytes());
    }
    net.run();
    net.dial = true;
    net.run();
    let events = net.take_events(1);
    let [SwitchEvent::Incoming { tunnel: visitor, .. }] = events[..] else { panic!("{events:?}") };
    let expected: Vec<Vec<u8>> = (10..count).map(|number| number.to_be_bytes().to_vec()).collect();
    assert_eq!(net.take_payloads(1, visitor), expected);
    exchange(&mut net, (0, tunnel), (1, visitor));
}

#[test]
fn a_tunnel_closed_while_its_exit_dials_never_joins() {
    let (mut net, client, service) = two_paths(13, 2, 2);
    net.dial = false;
    let opener = net.join(&client, &service);
    let tunnel = net.open(&client, &opener);
    net.send(0, tunnel, b"held");
    net.run();
    net.at(0, |switch, out| switch.close_tunnel(tunnel, out));
    net.run();
    net.assert_no_tunnels();
    net.dial = true;
    net.run();
    assert!(net.take_events(1).is_empty());
    net.assert_no_tunnels();
}

#[test]
fn a_datagram_stands_for_a_lost_answer() {
    let (mut net, client, service) = two_paths(14, 2, 2);
    let opener = net.join(&client, &service);
    let tunnel = net.open(&client, &opener);
    net.run_with(
        |_, to, cell| {
            if to == 0 && cell.command() == Ok(Command::Data) { Fate::Drop } else { Fate::Pass }
        },
    );
    assert!(net.take_events(0).is_empty());
    let events = net.take_events(1);
    let [SwitchEvent::Incoming { tunnel: visitor, .. }] = events[..] else { panic!("{events:?}") };
    exchange(&mut net, (0, tunnel), (1, visitor));
    assert_eq!(net.take_events(0), [SwitchEvent::Answered { tunnel, answer: Answer::Joined }]);
}

#[test]
fn kinds_without_business_close_the_tunnel() {
    // What a hostile owner could put into its innermost body, at exit, entry, and the terminal of an echo.
    for kind in [Kind::Answer, Kind::Confirm, Kind::Echo, Kind::Join, Kind::Incoming, Kind::Publish] {
        for sender in [0, 1] {
            if (kind, sender) == (Kind::Confirm, 1) {
                continue;
            }
            let (mut net, client, service) = two_paths(15, 2, 2);
            let (c, s) = net.connect(&client, &service);
            let tunnel = [c, s][sender];
            net.at(sender, |switch, out| switch.origin(tunnel).unwrap().send(kind, &[], out).unwrap());
            net.run();
            assert!(net.take_events(0).contains(&SwitchEvent::TunnelClosed { tunnel: c }), "{kind:?}");
            assert!(net.take_events(1).contains(&SwitchEvent::TunnelClosed { tunnel: s }), "{kind:?}");
            net.assert_no_tunnels();
        }
    }
    assert!(!Kind::Confirm.crosses() && Kind::Plain.crosses());
}

#[test]
fn nothing_but_datagrams_crosses_between_terminals() {
    for kind in [3u8, 4, 5, 16, 17, 18, 19, 0, 255] {
        let (mut net, client, service) = two_paths(16, 2, 2);
        let (c, _) = net.connect(&client, &service);
        net.send(0, c, b"x");
        net.run_with(|from, to, cell| {
            if (from, to) == (3, 5) {
                cell.body_mut()[16] = kind;
            }
            Fate::Pass
        });
        assert!(net.nodes[1].out.delivered.is_empty());
        net.assert_no_tunnels();
    }
}

#[test]
fn the_filler_does_not_cross() {
    let (mut net, client, service) = two_paths(17, 1, 1);
    let (c, visitor) = net.connect(&client, &service);
    net.send(0, c, b"x");
    let mut last = None;
    net.run_with(|from, to, cell| {
        // A hostile exit writes into the filler.
        if (from, to) == (2, 3) {
            cell.body_mut()[1_000] = 0xaa;
        } else if to == 1 {
            last = Some(cell.clone());
            return Fate::Drop;
        }
        Fate::Pass
    });
    let mut cell = last.unwrap();
    let origin = net.nodes[1].switch.origin(visitor).unwrap();
    let number = cell.index();
    (0..).map_while(|layer| origin.pass(number, layer)).for_each(|pass| pass.turn(cell.body_mut()));
    assert_eq!(crate::wire::body::read(cell.body()).unwrap(), (Kind::Plain, &b"x"[..]));
    assert!(cell.body()[20..].iter().all(|byte| *byte == 0));
}

#[test]
fn either_end_and_every_hop_can_destroy_a_path() {
    for place in 0..5 {
        let (mut net, client, service) = two_paths(18 + place as u64, 3, 3);
        let (c, s) = net.connect(&client, &service);
        let (c2, s2) = net.connect(&client, &service);
        exchange(&mut net, (0, c), (1, s));
        match place {
            0 => net.at(0, |switch, out| switch.end_owned_path(client.id, out)),
            4 => net.cut(2, 3),
            hop => {
                let node = client.hops[hop - 1];
                let ends: Vec<_> = net.hop_ends(node);
                let (link, path) = ends[0];
                net.at(node, |switch, out| switch.end_hop_path(link, path, out));
            }
        }
        net.run();
        for (node, tunnels) in [(0, [c, c2]), (1, [s, s2])] {
            let events = net.take_events(node);
            for tunnel in tunnels {
                assert!(events.contains(&SwitchEvent::TunnelClosed { tunnel }), "{place} {events:?}");
            }
            let ended = events.contains(&SwitchEvent::OwnedPathEnded { path: client.id });
            assert_eq!(ended, node == 0 && place != 0, "{place}");
        }
        net.assert_no_tunnels();
        // The service's path is not concerned, until it ends too.
        net.at(1, |switch, out| switch.end_owned_path(service.id, out));
        net.run();
        net.assert_empty();
    }
}

#[test]
fn a_cut_join_closes_the_tunnel_at_both_owners() {
    let (mut net, client, service) = two_paths(30, 2, 2);
    let (c, s) = net.connect(&client, &service);
    net.cut(3, 5);
    net.run();
    assert_eq!(net.take_events(0), [SwitchEvent::TunnelClosed { tunnel: c }]);
    assert_eq!(net.take_events(1), [SwitchEvent::TunnelClosed { tunnel: s }]);
    net.assert_no_tunnels();
    // The paths live on, over a new link.
    let (c, s) = net.connect(&client, &service);
    exchange(&mut net, (0, c), (1, s));
}

#[test]
fn a_link_lost_before_the_entry_answers_is_unreachable() {
    let (mut net, client, service) = two_paths(31, 2, 2);
    let opener = net.join(&client, &service);
    let tunnel = net.open(&client, &opener);
    net.run_with(|_, _, cell| if cell.command() == Ok(Command::Join) { Fate::Drop } else { Fate::Pass });
    net.cut(3, 5);
    net.run();
    assert_eq!(net.take_events(0), [SwitchEvent::Answered { tunnel, answer: Answer::Unreachable }]);
    net.assert_no_tunnels();
}

#[test]
fn cells_of_tunnels_and_paths_that_nobody_knows_have_no_effect() {
    let (mut net, client, service) = two_paths(32, 2, 2);
    let (c, s) = net.connect(&client, &service);
    let from = net.link(2, 0).0;
    for command in [Command::Data, Command::Close, Command::Joined, Command::Open, Command::Destroy] {
        let tunnel = if command == Command::Destroy { 0 } else { 77 };
        for top in [0, TunnelId::DIALLER] {
            let mut cell = Cell::new(command, TunnelId::new(tunnel | if tunnel == 0 { 0 } else { top }));
            if matches!(command, Command::Open | Command::Destroy) {
                cell.set_path(PathId::new(12345));
            }
            net.inject(2, from, cell);
        }
    }
    assert!(net.nodes[2].out.cells.is_empty());
    exchange(&mut net, (0, c), (1, s));
}

#[test]
fn a_repeated_opener_opens_nothing() {
    for place in 0..=3 {
        for outward in [true, false] {
            let (mut net, client, service) = two_paths(33, 3, 3);
            let path = if outward { &client } else { &service };
            let mut nodes = vec![path.owner];
            nodes.extend(&path.hops);
            let pair = if outward { (place, place + 1) } else { (place + 1, place) };
            let (Some(&a), Some(&b)) = (nodes.get(pair.0), nodes.get(pair.1)) else { continue };
            let opener = net.join(&client, &service);
            net.open(&client, &opener);
            let mut copy = None;
            net.run_with(|from, to, cell| {
                if (from, to) == (a, b) && cell.command() == Ok(Command::Open) {
                    copy = Some(cell.clone());
                }
                Fate::Pass
            });
            let mut copy = copy.unwrap();
            let before = net.nodes[b].switch.sizes();
            net.take_events(b);
            copy.set_tunnel(TunnelId::new(copy.tunnel().get() + 1_000));
            let from = net.link(b, a).0;
            net.inject(b, from, copy);
            assert_eq!(net.nodes[b].switch.sizes(), before);
            let repeated = SwitchEvent::Misbehaved { link: from, what: PeerMisbehaved::RepeatedOpener };
            assert_eq!(net.take_events(b), [repeated], "{place} {outward}");
        }
    }
}

#[test]
fn an_opener_sent_twice_is_its_senders_breach_and_ends_no_tunnel() {
    let (mut net, client, service) = two_paths(33, 2, 2);
    let opener = net.join(&client, &service);
    net.open(&client, &opener);
    let mut copy = None;
    net.run_with(|from, to, cell| {
        if (from, to) == (0, 2) && cell.command() == Ok(Command::Open) {
            copy = Some(cell.clone());
        }
        Fate::Pass
    });
    let before = net.nodes[2].switch.sizes();
    net.take_events(2);
    let from = net.link(2, 0).0;
    net.inject(2, from, copy.unwrap());
    assert_eq!(net.nodes[2].switch.sizes(), before);
    let breach = SwitchEvent::Misbehaved { link: from, what: PeerMisbehaved::ForeignTunnelId };
    assert_eq!(net.take_events(2), [breach]);
}

#[test]
fn a_peer_cannot_pick_an_id_of_ours_or_one_in_use() {
    let (mut net, client, service) = two_paths(34, 2, 2);
    let opener = net.join(&client, &service);
    net.open(&client, &opener);
    let mut open = None;
    net.run_with(|from, to, cell| {
        if (from, to) == (0, 2) && cell.command() == Ok(Command::Open) {
            open = Some(cell.clone());
        }
        Fate::Pass
    });
    let open = open.unwrap();
    let from = net.link(2, 0).0;
    let mut ours = open.clone();
    ours.set_tunnel(TunnelId::new((open.tunnel().get() ^ TunnelId::DIALLER) + 5));
    ours.body_mut()[3] ^= 1;
    let mut in_use = open.clone();
    in_use.body_mut()[3] ^= 1;
    for bad in [ours, in_use] {
        net.inject(2, from, bad);
        let event = SwitchEvent::Misbehaved { link: from, what: PeerMisbehaved::ForeignTunnelId };
        assert_eq!(net.take_events(2), [event]);
    }
}

#[test]
fn a_mark_in_an_unused_field_is_not_carried() {
    let (mut net, client, service) = two_paths(35, 2, 2);
    let (c, s) = net.connect(&client, &service);
    net.send(0, c, b"marked");
    net.run_with(|from, _, cell| {
        if from == 0 {
            cell.set_path(PathId::new(1));
        }
        Fate::Pass
    });
    assert!(net.take_payloads(1, s).is_empty());
    let from = net.link(2, 0).0;
    let event = SwitchEvent::Misbehaved { link: from, what: PeerMisbehaved::DirtyHeader };
    assert_eq!(net.take_events(2), [event]);
}

#[test]
fn idle_tunnels_and_unconfirmed_visitors_die_and_confirmed_ones_live() {
    let (mut net, client, service) = two_paths(36, 2, 2);
    let (c, s) = net.connect(&client, &service);
    let (c2, s2) = net.connect(&client, &service);
    net.at(1, |switch, out| switch.confirm(s, out));
    net.at(1, |switch, out| switch.confirm(s, out));
    net.run();
    net.pass_time(UNCONFIRMED);
    assert_eq!(net.take_events(0), [SwitchEvent::TunnelClosed { tunnel: c2 }]);
    assert_eq!(net.take_events(1), [SwitchEvent::TunnelClosed { tunnel: s2 }]);
    for _ in 0..4 {
        net.pass_time(TUNNEL_IDLE / 2);
        exchange(&mut net, (0, c), (1, s));
    }
    net.pass_time(TUNNEL_IDLE);
    net.pass_time(TUNNEL_IDLE);
    assert_eq!(net.take_events(1), [SwitchEvent::TunnelClosed { tunnel: s }]);
    net.assert_no_tunnels();
    net.pass_time(testnet::IDLE);
    assert_eq!(net.take_events(0)[1..], [SwitchEvent::OwnedPathEnded { path: client.id }]);
    net.assert_empty();
}

#[test]
fn a_path_ends_when_it_expires() {
    let mut net = Net::new(40, 2);
    let (link, back) = net.link(0, 1);
    let (path, idle) = (PathId::new(7), testnet::IDLE);
    let secret = || Key::from_bytes([1; 32]);
    let hops = vec![OwnedHop { secret: secret(), owner_side: Side::B }];
    let late = net.now + 2 * idle;
    let owned = OwnedInstall { link, path, hops, accepts: false, expires: late, idle: 4 * idle };
    let owned = net.nodes[0].switch.install_owned(net.now, owned).unwrap();
    let neighbours = [None, Some((back, path))];
    let expires = net.now + idle;
    let hop = HopInstall { neighbours, secret: secret(), route_keys: vec![], expires, idle: 4 * idle };
    assert!(net.nodes[1].switch.install_hop(net.now, hop));
    net.pass_time(idle / 2);
    assert!(net.take_events(0).is_empty());
    // The hop's comes first, and its DESTROY ends the owner's.
    net.pass_time(idle / 2);
    assert_eq!(net.take_events(0), [SwitchEvent::OwnedPathEnded { path: owned }]);
    assert_eq!(net.take_events(1), [SwitchEvent::HopPathEnded { neighbours }]);
    net.assert_empty();
}

#[test]
fn at_its_limit_an_entry_drops_the_oldest_unconfirmed_of_the_greedy_exit() {
    let (mut net, client, service) = two_paths(37, 1, 1);
    let polite = net.build(0, &[1]);
    let (_, wanted) = net.connect(&polite, &service);
    let (_, first) = net.connect(&client, &service);
    net.at(1, |switch, out| switch.confirm(first, out));
    net.run();
    let (_, second) = net.connect(&client, &service);
    for _ in 2..TUNNELS_PER_EXIT {
        net.connect(&client, &service);
    }
    // One more: the confirmed one stays, the polite exit's stays, the oldest of this exit's others goes.
    let opener = net.join(&client, &service);
    net.open(&client, &opener);
    net.run();
    let closed: Vec<_> = net
        .take_events(1)
        .into_iter()
        .filter(|event| matches!(event, SwitchEvent::TunnelClosed { .. }))
        .collect();
    assert_eq!(closed, [SwitchEvent::TunnelClosed { tunnel: second }]);
    assert!(net.send(1, wanted, b"still here") && net.send(1, first, b"still here"));
}

#[test]
fn a_full_path_refuses_a_tunnel() {
    let (mut net, client, _) = two_paths(38, 1, 1);
    let entry = net.contact(3);
    net.dial = false;
    let opener = Opener::Join { entry, token: crate::crypto::proof::Token::from_bytes([0; 32]) };
    for _ in 0..TUNNELS_PER_PATH {
        net.open(&client, &opener);
    }
    let now = net.now;
    assert!(net.at(0, |switch, out| switch.open_tunnel(now, client.id, &opener, out)).is_none());
}

/// A path of node 1 with this id, whose other end is nowhere.
fn stub(link: LinkId, path: u64, route_keys: Vec<RouteKey>) -> HopInstall {
    HopInstall {
        neighbours: [Some((link, PathId::new(path))), None],
        secret: Key::from_bytes([1; 32]),
        route_keys,
        expires: Moment(u64::MAX),
        idle: testnet::IDLE,
    }
}

#[test]
fn a_flood_of_tunnels_leaves_room_in_the_paths_of_others() {
    let mut net = Net::new(60, 3);
    let (_, flooded) = net.link(0, 1);
    let (_, polite) = net.link(2, 1);
    let mut opener = net.rng.random::<u64>();
    let mut fill = |net: &mut Net, from: LinkId, path: u64, tunnels: usize| {
        assert!(net.at(1, |switch, _| switch.install_hop(Moment(0), stub(from, path, vec![]))));
        let before = net.nodes[1].switch.sizes()[2];
        for _ in 0..tunnels {
            opener += 1;
            let mut registry = hop::lock(&net.nodes[1].switch.registry);
            let number = registry.path_number_at((from, PathId::new(path))).unwrap();
            let Ok(at) = registry.next_tunnel(number) else { break };
            let layers = layer::tunnel_layers(&Key::from_bytes([1; 32]), &layer::Seen::for_tests(opener));
            let end = (from, TunnelId::new(opener));
            let terminal = terminal::Terminal::new(at, terminal::Role::Echo, end, Side::A, layers, Moment(0));
            let tunnel = registry::Tunnel::Terminal(std::sync::Arc::new(terminal));
            registry.add_tunnel(Moment(0), at, registry::TunnelState { tunnel, join: None });
        }
        net.nodes[1].switch.sizes()[2] - before
    };
    for path in 0..400 {
        fill(&mut net, flooded, path, TUNNELS_PER_PATH);
    }
    assert!(net.nodes[1].switch.sizes()[2] < TUNNELS + 400 * TUNNELS_OF_EVERY_PATH);
    assert!(fill(&mut net, polite, 1, TUNNELS_PER_PATH) >= TUNNELS_OF_EVERY_PATH);
    let memory = TUNNELS * std::mem::size_of::<hop::Relay>();
    assert!(memory < 300 << 20, "{memory} bytes of tunnels");
}

#[test]
fn a_flood_of_paths_leaves_room_for_those_of_other_links() {
    let mut net = Net::new(61, 3);
    let (_, flooded) = net.link(0, 1);
    let (_, polite) = net.link(2, 1);
    let mut fill = |from: LinkId| {
        (0..PATHS as u64)
            .take_while(|path| {
                net.at(1, |switch, _| switch.install_hop(Moment(0), stub(from, *path, vec![])))
            })
            .count()
    };
    let greedy = fill(flooded);
    assert!(greedy <= PATHS / PATH_SHARES, "{greedy}");
    assert!(fill(polite) >= PATHS_OF_EVERY_LINK);
}

#[test]
fn an_entry_accepts_for_so_many_keys_only_and_hears_so_many_joins_of_one_exit() {
    let mut net = Net::new(62, 2);
    let (_, from) = net.link(0, 1);
    let accepted = (0..200u64)
        .filter(|path| {
            let keys: Vec<_> = (0..16).map(|_| RouteKey::random(&mut net.rng)).collect();
            net.at(1, |switch, _| switch.install_hop(Moment(0), stub(from, *path, keys)))
        })
        .count();
    assert_eq!(accepted, ACCEPTED_KEYS / 16);

    let mut registry = registry::Registry::default();
    registry.link_up(from, net.nodes[0].id, true);
    let heard =
        |registry: &mut registry::Registry, now| (0..5_000).filter(|_| registry.may_join(now, from)).count();
    assert_eq!(heard(&mut registry, Moment(0)), JOINS_PER_LINK.0 as usize);
    assert_eq!(heard(&mut registry, Moment(1_000_000)), JOINS_PER_LINK.1 as usize);
}

#[test]
fn impossible_installations_are_refused() {
    let mut net = Net::new(39, 2);
    let (link, _) = net.link(0, 1);
    let key = || Key::from_bytes([1; 32]);
    let hop = |neighbours| HopInstall {
        neighbours,
        secret: key(),
        route_keys: vec![],
        expires: Moment(1),
        idle: testnet::IDLE,
    };
    let end = |path| Some((link, PathId::new(path)));
    let install = |net: &mut Net, hop| net.at(0, |switch, _| switch.install_hop(Moment(0), hop));
    assert!(!install(&mut net, hop([None, None])));
    assert!(!install(&mut net, hop([end(1), end(1)])));
    assert!(!install(&mut net, hop([end(1), Some((LinkId(999), PathId::new(1)))])));
    assert!(install(&mut net, hop([end(1), None])));
    assert!(!install(&mut net, hop([end(2), end(1)])));
    let relay_with_keys =
        HopInstall { route_keys: vec![RouteKey::from_bytes([1; 32])], ..hop([end(3), end(4)]) };
    assert!(!install(&mut net, relay_with_keys));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn garbage_never_panics_and_never_reaches_an_owner(
        seed: u64,
        heads in prop::collection::vec((0u8..10, 0u64..6, any::<bool>(), 0u64..3, 0u32..400, 0usize..6), 1..60),
    ) {
        let (mut net, client, service) = two_paths(seed, 2, 2);
        net.connect(&client, &service);
        let mut luck = ChaCha20Rng::seed_from_u64(seed);
        let ends: Vec<Vec<_>> = (0..6).map(|node| net.hop_ends(node)).collect();
        for (command, tunnel, top, path, index, node) in heads {
            let mut bytes = [0; CELL];
            luck.fill_bytes(&mut bytes[16..]);
            if index % 3 == 0 {
                bytes[16..].fill(0);
            }
            bytes[0] = command;
            let mut cell = Cell(bytes);
            cell.set_tunnel(TunnelId::new(tunnel | if top { TunnelId::DIALLER } else { 0 }));
            cell.set_index(if index < 200 { 0 } else { index });
            let mut links = net.links_of(node);
            links.shuffle(&mut luck);
            let mut link = links[0];
            if path == 1 && let Some((at, id)) = ends[node].first() {
                cell.set_path(*id);
                link = *at;
            }
            net.inject(node, link, cell);
        }
        net.run();
        prop_assert!(net.nodes.iter().all(|node| node.out.delivered.is_empty()));
    }
}
