//! When paths and tunnels end.

use super::*;

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
