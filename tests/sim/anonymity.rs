//! The watcher looks on while paths are built and tunnels carry bytes, and finds nothing; where something is broken on
//! purpose, it finds that.

use std::collections::{BTreeSet, HashSet};

use phantom_protocol::{
    identity::NodeId,
    node::Ticket,
    tunnel::Kind,
    wire::{
        cell::PathId,
        contact::{Contact, TlsKeys},
    },
};
use rand::{Rng, SeedableRng, rngs::ChaCha20Rng};

use crate::{
    vices::{Spoiler, Vice},
    watch::{Circle, Stop, faults},
    whole::{Plan, World},
};

const SERVICE: usize = 1;

/// A service, a client, 40 random datagrams each way, and trials of all lengths, all watched.
fn watched(seed: u64, vice: Option<Vice>) -> World {
    let mut world = World::new(Plan::of(30, seed));
    world.watch.borrow_mut().checks = true;
    for hops in 1..=6 {
        world.at(3 + hops, |member, now| {
            member.act(now, |node, out| node.handle_trial(now, Ticket(hops as u64), hops, out));
        });
    }
    let (_, secret) = world.service(SERVICE, 7, 3);
    let client = world.join(30, 2).0;
    world.run(30);
    let (way, visitor) = world.connect(client, SERVICE, secret.public(), 1);
    if let Some(vice) = vice {
        let paths: Vec<_> = world.member(client).node.paths().map(|(id, path)| (id, path.clone())).collect();
        let relay = paths.iter().find(|(id, _)| Some(*id) == way.path).unwrap().1.relays[1];
        let place = world.place_of(relay).unwrap();
        world.at(place, |member, _| member.spoiler = Some(Spoiler::new(vice, seed)));
    }
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    for _ in 0..40 {
        let mut payload = [0; 1_200];
        rng.fill_bytes(&mut payload);
        world.at(client, |member, now| member.send(now, way.tunnel, Kind::Sealed, &payload));
        rng.fill_bytes(&mut payload);
        world.at(SERVICE, |member, now| member.send(now, visitor.tunnel, Kind::Sealed, &payload));
        world.run(1);
    }
    world
}

#[test]
fn no_node_learns_more_than_its_neighbours() {
    let world = watched(501, None);
    let watch = world.watch.borrow();
    println!("{} circles, {} slots, {} cells watched", watch.circles.len(), watch.slots, watch.cells);
    let complete = watch.circles.iter().filter(|circle| circle.returned == 2).count();
    assert!(complete >= 10, "{complete} circles came around twice");
    assert!(watch.slots >= 150 && watch.cells >= 500);
    watch.assert_nothing_leaks();
}

#[test]
fn a_relay_that_takes_no_layer_off_is_seen() {
    let world = watched(502, Some(Vice::Unturned));
    let watch = world.watch.borrow();
    assert!(watch.violations.iter().any(|leak| leak.contains("16 bytes")), "{:?}", watch.violations);
}

fn contact(number: u8) -> Contact {
    let address = std::net::SocketAddr::from(([10, number, 3, 7], 443));
    Contact::listed(NodeId::from_bytes([number; 32]), address, TlsKeys::one([number; 32]))
}

/// Owner 0, then 1, 2, 3, each with a random plaintext.
fn sound_circle() -> Circle {
    let mut rng = ChaCha20Rng::seed_from_u64(503);
    let stops = (1..=3u8).map(|number| {
        let mut plaintext = vec![0; 200];
        rng.fill_bytes(&mut plaintext);
        Stop::new(
            contact(number).id,
            BTreeSet::from([contact(number - 1).id, contact((number + 1) % 4).id]),
            vec![plaintext],
            BTreeSet::from([PathId::new(u64::from(number)), PathId::new(u64::from(number + 1))]),
        )
    });
    Circle { owner: contact(0), stops: stops.collect(), returned: 2 }
}

#[test]
fn what_a_broken_owner_would_show_is_seen() {
    let found = |circle: &Circle, at| faults(circle, at, &HashSet::new());
    assert_eq!(found(&sound_circle(), 1), Vec::<String>::new());

    let mut with_id = sound_circle();
    with_id.stops[1].plaintexts[0][60..92].copy_from_slice(contact(0).id.as_bytes());
    assert!(found(&with_id, 1)[0].contains("owner's id"));

    let mut with_address = sound_circle();
    with_address.stops[1].plaintexts[0][60..66].copy_from_slice(&[10, 0, 3, 7, 0, 0]);
    assert!(found(&with_address, 1)[0].contains("owner's address"));

    let mut with_value = sound_circle();
    let secret = with_value.stops[0].plaintexts[0][33..49].to_vec();
    with_value.stops[2].plaintexts[0][101..117].copy_from_slice(&secret);
    assert!(found(&with_value, 2)[0].contains("share a value"));
    assert!(found(&with_value, 1).is_empty());

    let mut with_path_id = sound_circle();
    with_path_id.stops[2].ids.insert(PathId::new(1));
    assert!(found(&with_path_id, 2)[0].contains("share an id"));
}
