//! What a hop, or whoever is on a link, does to cells, and what comes of it.

use super::*;

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
