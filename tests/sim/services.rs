//! Services and clients: names are published and found, tunnels carry bytes, and everything is replaced that dies.

use std::collections::BTreeSet;

use phantom_protocol::{
    identity::ApSecret,
    node::{OpenFailure, Purpose, ServiceId, Ticket},
    time::Moment,
    tunnel::{Kind, OwnerTunnelId},
    wire::opener::Answer,
};

use crate::{
    network::{Place, SimNode},
    vices::{Spoiler, Vice},
    whole::{Plan, World},
};

const SERVICE: usize = 1;
const CLIENT: usize = 2;

fn world_with_a_service(nodes: usize, seed: u64) -> (World, ApSecret) {
    let mut world = World::new(Plan::of(nodes, seed));
    let (id, secret) = world.service(SERVICE, 7, 3);
    assert!(world.run_until(30, |world| world.member(SERVICE).node.entries(id) == 3));
    world.run(5);
    (world, secret)
}

/// A client whose pool was empty until now.
fn with_client(mut world: World, number: usize) -> (World, usize) {
    let place = world.join(number, 3).0;
    world.run(20);
    (world, place)
}

fn got(world: &World, place: usize, tunnel: OwnerTunnelId) -> Vec<(Kind, Vec<u8>)> {
    world.member(place).seen.delivered.get(&tunnel).cloned().unwrap_or_default()
}

/// The entry nodes that clients are told of.
fn entries(world: &World, secret: &ApSecret) -> BTreeSet<usize> {
    let mut paths = BTreeSet::new();
    let _ = secret;
    for (_, path) in world.member(SERVICE).node.paths() {
        paths.extend(path.terminal().and_then(|terminal| world.place_of(terminal)));
    }
    paths
}

#[test]
fn payloads_travel_both_ways_byte_for_byte() {
    let (world, secret) = world_with_a_service(24, 201);
    let (mut world, client) = with_client(world, 24);
    assert_eq!(entries(&world, &secret).len(), 3, "three ways in, three terminals");
    let (way, visitor) = world.connect(client, SERVICE, secret.public(), 1);
    let payloads: Vec<(Kind, Vec<u8>)> = (0..200u32)
        .map(|number| {
            let kind = if number % 3 == 0 { Kind::Sealed } else { Kind::Plain };
            (kind, number.to_be_bytes().repeat(1 + (number as usize * 7) % 338))
        })
        .collect();
    for (kind, payload) in &payloads {
        assert!(world.at(client, |member, now| member.send(now, way.tunnel, *kind, payload)));
        assert!(world.at(SERVICE, |member, now| member.send(now, visitor.tunnel, *kind, payload)));
    }
    world.run(5);
    assert_eq!(got(&world, SERVICE, visitor.tunnel), payloads);
    assert_eq!(got(&world, client, way.tunnel), payloads);
    assert_eq!(world.member(client).seen.answers[&way.tunnel], Answer::Joined);
    world.run(30);
    assert!(world.member(SERVICE).seen.ended.is_empty(), "a confirmed tunnel stays");
}

#[test]
fn a_request_waits_for_a_path_and_an_unknown_name_does_not_wait_for_long() {
    let (mut world, secret) = world_with_a_service(24, 202);
    let place = world.join(24, 1).0;
    let nobody = ApSecret::from_bytes(&[9; 32]).public();
    // It knows nobody yet, and has no path.
    world.at(place, |member, now| member.open(now, 1, secret.public(), &[]));
    world.at(place, |member, now| member.open(now, 2, nobody, &[]));
    let wakes = world.member(place).wakes;
    world.run(40);
    let member = world.member(place);
    assert!(member.seen.opened.contains_key(&Ticket(1)), "{:?}", member.seen.refused);
    assert_eq!(member.seen.refused[&Ticket(2)], OpenFailure::UnknownPeer);
    assert_eq!(member.node.holdings().opens, 0);
    assert!(member.wakes - wakes < 400, "{} wake-ups in 40 seconds", member.wakes - wakes);
    let without_pool = world.join(25, 0).0;
    world.run(10);
    world.at(without_pool, |member, now| member.open(now, 3, secret.public(), &[]));
    let wakes = world.member(without_pool).wakes;
    world.run(40);
    let member = world.member(without_pool);
    assert!(matches!(member.seen.refused[&Ticket(3)], OpenFailure::NoPath(_)));
    assert!(member.wakes - wakes < 400, "{} wake-ups in 40 seconds", member.wakes - wakes);
}

#[test]
fn groups_that_start_afresh_leave_nothing_of_what_they_had_and_services_stay() {
    let (world, secret) = world_with_a_service(24, 207);
    let (mut world, client) = with_client(world, 24);
    let (way, visitor) = world.connect(client, SERVICE, secret.public(), 1);
    let used = |world: &World| -> Vec<_> {
        let paths = world.member(client).node.paths();
        paths.filter(|(_, path)| matches!(path.purpose, Purpose::Group(_))).map(|(id, _)| id).collect()
    };
    assert_eq!(used(&world), [way.path.unwrap()]);
    let ended = world.at(client, |member, now| member.act(now, |node, out| node.handle_new_groups(now, out)));
    assert_eq!(ended, 1);
    assert!(used(&world).is_empty());
    assert!(world.run_until(5, |world| world.member(SERVICE).seen.ended.contains(&visitor.tunnel)));
    assert!(world.member(client).seen.ended.contains(&way.tunnel));
    // Free paths were kept, and the service has lost none of its own, whoever asks it for the same.
    let (again, _) = world.connect(client, SERVICE, secret.public(), 2);
    assert_ne!(again.path, way.path);
    assert_eq!(
        world.at(SERVICE, |member, now| member.act(now, |node, out| node.handle_new_groups(now, out))),
        0
    );
    assert_eq!(world.member(SERVICE).node.entries(ServiceId(1)), 3);
}

#[test]
fn a_relay_that_dies_is_replaced_on_both_sides() {
    let (world, secret) = world_with_a_service(30, 203);
    let (mut world, client) = with_client(world, 30);
    let (way, visitor) = world.connect(client, SERVICE, secret.public(), 1);
    let published = world.member(SERVICE).seen.published.len();
    let before = entries(&world, &secret);

    // The entry node: the service's path and the client's tunnel end, nothing else.
    let entry = world.place_of(way.entry.unwrap()).unwrap();
    world.net.crash(Place(entry));
    assert!(world.run_until(5, |world| {
        world.member(client).seen.ended.contains(&way.tunnel)
            && world.member(SERVICE).seen.ended.contains(&visitor.tunnel)
    }));
    // One of the others may have had the dead node in its path, too.
    let tried = world.reach(client, secret.public(), 10, vec![way.clone()], 3);
    let second = tried.last().unwrap().clone();
    assert_ne!(tried[1].entry, way.entry);
    assert_ne!(tried[1].path, way.path);
    assert_ne!(second.entry, way.entry);

    // The service has three ways in again, and has said so.
    let again = world.run_until(120, |world| entries(world, &secret).len() == 3);
    let service = world.member(SERVICE);
    assert!(again, "{:?} {:?}", service.node.holdings(), service.node.build_stats());
    world.run(5);
    assert!(world.member(SERVICE).seen.published.len() > published);
    assert!(entries(&world, &secret).iter().any(|entry| !before.contains(entry)));

    // A relay in the middle of the client's path.
    let relays: Vec<_> = world
        .member(client)
        .node
        .paths()
        .filter(|(path, _)| Some(*path) == second.path)
        .flat_map(|(_, path)| path.relays.clone())
        .collect();
    let middle = world.place_of(relays[1]).unwrap();
    if middle != SERVICE {
        world.net.crash(Place(middle));
        assert!(world.run_until(5, |world| world.member(client).seen.ended.contains(&second.tunnel)));
        assert!(world.run_until(60, |world| world.member(client).node.holdings().paths >= 3));
    }
    world.connect(client, SERVICE, secret.public(), 3);
}

#[test]
fn a_service_that_loses_all_its_ways_in_is_found_again() {
    let (world, secret) = world_with_a_service(30, 204);
    let (mut world, client) = with_client(world, 30);
    for entry in entries(&world, &secret) {
        world.net.crash(Place(entry));
    }
    let wakes = world.member(SERVICE).wakes;
    // The list that the client has is stale; each try is answered, and a later one succeeds.
    let tries = world.reach(client, secret.public(), 10, vec![], 12).len();
    println!("found again at try {tries}");
    let spent = world.member(SERVICE).wakes - wakes;
    assert!(spent < 10 * 4 * (tries as u64 + 1), "{spent} wake-ups for {tries} tries");
}

#[test]
fn a_way_in_that_swallows_everything_is_found_out_and_replaced() {
    let (mut world, secret) = world_with_a_service(30, 205);
    let path = world.member(SERVICE).node.paths().map(|(id, path)| (id, path.clone())).next().unwrap();
    let silent = world.place_of(path.1.relays[1]).unwrap();
    world.at(silent, |member, _| member.spoiler = Some(Spoiler::new(Vice::Drop, 0).always()));
    let gone = world.run_until(600, |world| world.member(SERVICE).node.paths().all(|(id, _)| id != path.0));
    assert!(gone, "the service keeps a dead way in");
    assert!(world.run_until(120, |world| entries(world, &secret).len() >= 3));
}

#[test]
fn an_entry_that_is_lost_on_its_way_is_handed_in_again() {
    let mut world = World::new(Plan::of(30, 206));
    // All news of parties are lost at first: everybody swallows the openers of others.
    let (id, secret) = world.service(SERVICE, 7, 3);
    assert!(world.run_until(30, |world| world.member(SERVICE).node.entries(id) == 2));
    let terminals: Vec<usize> = entries(&world, &secret).into_iter().collect();
    for terminal in &terminals {
        world.at(*terminal, |member, _| member.spoiler = Some(Spoiler::new(Vice::HideEntries, 0)));
    }
    let known = |world: &World| {
        let now = world.net.now(Place(CLIENT)).unix;
        world.member(CLIENT).node.knows(&secret.public(), now)
    };
    assert!(world.run_until(90, known), "{:?}", world.member(SERVICE).seen.published);
}

#[test]
fn a_hosted_name_that_leaves_takes_its_paths_along() {
    let mut world = World::new(Plan::of(20, 207));
    let (id, _) = world.service(SERVICE, 7, 3);
    // In the middle of building.
    world.run_until(30, |world| world.member(SERVICE).node.entries(id) == 1);
    assert!(world.member(SERVICE).node.holdings().circles > 0);
    world.at(SERVICE, |member, now| member.act(now, |node, out| node.handle_unhost(now, id, out)));
    world.run(90);
    assert_eq!(world.member(SERVICE).node.holdings(), Default::default());
    assert_eq!(world.member(SERVICE).switch.sizes()[5], 0);
    assert!(world.member(SERVICE).next_timeout() > Moment(world.net.elapsed().as_micros() as u64));
}
