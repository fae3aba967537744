//! A node that ends and at once begins another life, with the same identity and the same service.
//!
//! An entry's date counts seconds. A life that follows on another one quickly may not know yet what that has signed last,
//! and sign with the same date: then some storers keep the one entry and some the other, as they came (PROTOCOL §7.2).

use std::{ops::Range, time::Duration};

use phantom_protocol::{
    limits::FORWARD_PAUSE,
    node::{Relay, Ticket},
    wire::opener::Answer,
};

use crate::whole::{Plan, World};

const NODES: usize = 20;
const SERVICE: usize = NODES;
const VISITORS: usize = 4;
/// A service looks after this whether its entry has come back (PROTOCOL §7.2).
const COMES_BACK: Duration = Duration::from_secs(20);
/// From its last life's last entry on. Another one is handed in after the look, a node passes news of a record on at once or
/// after the pause (PROTOCOL §7.3), and all nodes are near: a second is plenty for what is on its way.
const FOUND_WITHIN: Duration =
    COMES_BACK.saturating_add(FORWARD_PAUSE).saturating_add(Duration::from_secs(1));

#[test]
fn a_service_with_several_lives_in_a_second_is_found_by_everybody() {
    found_after_three_lives(3, 302..306);
}

#[test]
fn an_open_service_with_several_lives_in_a_second_is_found_by_everybody() {
    // Its way in stands at once, so the first thing that a life does is to sign an entry, before it knows anything.
    found_after_three_lives(0, 310..312);
}

fn found_after_three_lives(hops: usize, seeds: Range<u64>) {
    let refused: usize = seeds.map(|seed| refused_at_first(seed, hops)).sum();
    assert!(refused > 0, "no visitor of any seed has met the entry of a life that is over");
}

/// Says how many visitors were led to a life that is over, before the last one had looked. Later all of them must be let in.
fn refused_at_first(seed: u64, hops: usize) -> usize {
    let mut world = World::new(Plan { nearness: 100, ..Plan::of(NODES, seed) });
    // It relays for nobody: no visitor's path breaks when it ends.
    assert_eq!(world.join_as(SERVICE, 0, Relay::Never).0, SERVICE);
    let visitors: Vec<usize> = (1..=VISITORS).map(|number| world.join(SERVICE + number, 2).0).collect();
    world.run(20);
    let mut peer = None;
    for life in 0..3 {
        if life > 0 {
            // So long that the entry has come out of the service's paths.
            world.net.run(Duration::from_millis(30));
            world.restart(SERVICE);
        }
        let (_, secret) = world.service(SERVICE, 7, hops);
        peer = Some(secret.public());
        assert!(publishes(&mut world, hops), "{:?}", world.member(SERVICE).node.build_stats());
        println!("life {life} signs at {:?}", world.net.elapsed());
    }
    let (peer, published) = (peer.unwrap(), world.net.elapsed());
    let let_in = |world: &mut World, ticket| {
        for visitor in &visitors {
            world.at(*visitor, |member, now| member.open(now, ticket, peer, &[]));
        }
        world.run(3);
        let is_in = |visitor: &&usize| {
            let seen = &world.member(**visitor).seen;
            let way = seen.opened.get(&Ticket(ticket));
            way.is_some_and(|way| seen.answers.get(&way.tunnel) == Some(&Answer::Joined))
        };
        visitors.iter().filter(is_in).count()
    };
    world.net.run(2 * FORWARD_PAUSE);
    let refused = VISITORS - let_in(&mut world, 1);
    world.net.run(published + FOUND_WITHIN - world.net.elapsed());
    println!("hops {hops}: {refused} refused at first");
    assert_eq!(let_in(&mut world, 2), VISITORS, "some of {VISITORS} are still led to a life that is over");
    refused
}

/// Lets time pass until an entry with all ways in is signed.
fn publishes(world: &mut World, hops: usize) -> bool {
    let wanted = if hops == 0 { 1 } else { 3 };
    (0..5_000).any(|_| {
        world.net.run(Duration::from_millis(1));
        world.member(SERVICE).seen.published.iter().any(|(_, ways)| *ways == wanted)
    })
}
