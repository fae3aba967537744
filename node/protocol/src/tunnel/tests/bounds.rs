//! What one peer, path or exit may take, and what is refused.

use super::*;

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
