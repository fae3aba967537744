//! Dishonest relays: nothing panics, nothing wrong is delivered, honest traffic goes on.

use std::collections::BTreeMap;

use phantom_protocol::{
    crypto::datagram::Speaker,
    node::Ticket,
    tunnel::{Kind, OwnerTunnelId},
};
use rand::{SeedableRng, rngs::ChaCha20Rng};

use crate::{
    vices::{Spoiler, Vice},
    whole::{Plan, World},
};

const NODES: usize = 30;
const SERVICE: usize = 1;

/// A service and a client among relays, of which every `share`th has the vice. For two minutes the client opens tunnels
/// and sends sealed datagrams; returns how many arrived.
fn traffic_among(vice: Vice, share: usize, seed: u64) -> usize {
    let mut world = World::new(Plan::of(NODES, seed));
    let bad: Vec<usize> = (4..NODES).step_by(share).collect();
    for place in &bad {
        let spoiler = Spoiler::new(vice, seed + *place as u64);
        world.at(*place, |member, _| member.spoiler = Some(spoiler));
    }
    let (_, secret) = world.service(SERVICE, 7, 3);
    let client = world.join(NODES, 4).0;
    world.run(90);
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let mut sent: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
    let (mut arrived, mut confirmed, mut read) = (0, 0, BTreeMap::<OwnerTunnelId, usize>::new());
    for round in 0..60u64 {
        let tried: Vec<_> = world.member(client).seen.opened.values().rev().take(2).cloned().collect();
        world.at(client, |member, now| member.open(now, round, secret.public(), &tried));
        world.run(1);
        let ways: Vec<_> = world.member(client).seen.opened.values().cloned().collect();
        for way in ways {
            for number in 0..3u64 {
                let plain = [round, way.tunnel.get(), number].map(u64::to_be_bytes).concat().repeat(50);
                let mut sealed = Vec::new();
                way.secrets[0].seal(&mut rng, Speaker::Client, &plain, &mut sealed);
                if world.at(client, |member, now| member.send(now, way.tunnel, Kind::Sealed, &sealed)) {
                    sent.insert(plain, 0);
                }
            }
        }
        world.run(1);
        let visitors = world.member(SERVICE).seen.visitors.clone();
        for visitor in &visitors[confirmed..] {
            world.at(SERVICE, |member, now| member.confirm(now, visitor.tunnel));
        }
        confirmed = visitors.len();
        for visitor in &visitors {
            let all = world.member(SERVICE).seen.delivered.get(&visitor.tunnel).cloned().unwrap_or_default();
            let seen = read.insert(visitor.tunnel, all.len()).unwrap_or(0);
            for (_, datagram) in &all[seen..] {
                let mut opened = Vec::new();
                // A dishonest terminal can alter what crosses between terminals: then it does not open.
                let is_whole = visitor.secrets[0].open(Speaker::Client, datagram, &mut opened).is_some();
                if is_whole {
                    *sent.get_mut(&opened).expect("only what was sent") += 1;
                    arrived += 1;
                }
            }
        }
    }
    assert!(sent.values().all(|times| *times <= 1), "something was delivered twice");
    let is_honest = |id| world.place_of(id).is_some_and(|place| !bad.contains(&place));
    for (place, member) in world.net.nodes().filter(|(place, _)| !bad.contains(&place.0)) {
        let accused: Vec<_> = member.seen.links_closed.iter().filter(|id| is_honest(**id)).collect();
        assert!(accused.is_empty(), "{place:?} ended links to honest nodes: {accused:?}");
    }
    let opened = world.member(client).seen.opened.len();
    let bad_paths = world
        .net
        .nodes()
        .flat_map(|(_, member)| member.node.paths().map(|(_, path)| path.relays.clone()).collect::<Vec<_>>());
    let bad_paths = bad_paths.filter(|relays| relays.iter().any(|relay| !is_honest(*relay))).count();
    println!(
        "{vice:?}: {bad_paths} of the standing paths have a bad relay, {opened} of 60 tunnels, {arrived} of {} datagrams",
        sent.len()
    );
    assert!(world.member(client).seen.opened.contains_key(&Ticket(59)) || opened > 30);
    arrived
}

#[test]
fn flipped_bits_in_cells_are_never_delivered() {
    assert!(traffic_among(Vice::FlipBits, 3, 401) > 100);
}

#[test]
fn flipped_bits_in_arrays_only_cost_circles() {
    assert!(traffic_among(Vice::FlipSetups, 6, 402) > 500);
}

#[test]
fn dropped_cells_are_only_missing() {
    assert!(traffic_among(Vice::Drop, 3, 403) > 100);
}

#[test]
fn repeated_cells_are_not_delivered_twice() {
    // Who repeats an opener uses its tunnel id again, and loses the link for that (PROTOCOL §3.2).
    assert!(traffic_among(Vice::Repeat, 3, 404) > 500);
}

#[test]
fn paths_in_which_tunnels_keep_dying_are_left() {
    // An owner who never leaves a path gets 109 of 168 through here.
    assert!(traffic_among(Vice::RepeatData, 3, 409) > 250);
}

#[test]
fn reordered_cells_end_tunnels_and_nothing_else() {
    assert!(traffic_among(Vice::Reorder, 3, 405) > 100);
}

#[test]
fn garbage_ends_the_links_of_those_who_send_it() {
    assert!(traffic_among(Vice::Garbage, 3, 406) > 300);
}

#[test]
fn silent_refusals_are_walked_around() {
    assert!(traffic_among(Vice::DenySetups, 6, 407) > 500);
}

#[test]
fn replayed_arrays_and_openers_lead_nowhere() {
    assert!(traffic_among(Vice::Replay, 3, 408) > 100);
}
