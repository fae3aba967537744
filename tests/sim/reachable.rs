//! Nodes look whether they can be dialled before they say so.

use std::time::Duration;

use phantom_protocol::{
    identity::NodeId,
    limits::{FRESH_RECORD_SECS, KNOCK_AGAIN, NODE_RECORD_LIFE_SECS, PROOF_LIFE, QUOTA_GRACE},
    node::{Relay, Relaying},
};

use crate::{
    network::Place,
    vices::{Spoiler, Vice},
    whole::{Plan, World},
};

fn world(nodes: usize, seed: u64) -> World {
    World::new(Plan { relay: Relay::Auto, pool: 1, ..Plan::of(nodes, seed) })
}

fn relaying(world: &World, place: usize) -> Relaying {
    world.member(place).node.relaying(world.net.now(Place(place)))
}

fn id(world: &World, place: usize) -> NodeId {
    world.member(place).node.id()
}

/// Whether this node has a record of that one.
fn knows(world: &World, place: usize, other: NodeId) -> bool {
    world.member(place).node.describe(&other) != other.to_string()
}

fn has_path(world: &World, place: usize) -> bool {
    world.member(place).node.paths().next().is_some()
}

#[test]
fn in_an_honest_world_everybody_is_reached_and_has_paths() {
    let mut world = world(12, 301);
    assert!((0..12).all(|place| relaying(&world, place) == Relaying::Yes));
    assert!(world.run_until(60, |world| (0..12).all(|place| has_path(world, place))));
    world.run(4 * 3_600);
    assert!((0..12).all(|place| relaying(&world, place) == Relaying::Yes));
}

#[test]
fn a_node_that_nobody_can_dial_owns_paths_and_is_in_none_of_others() {
    let mut world = world(12, 302);
    let hidden = world.join(12, 1);
    world.net.hide(hidden, true);
    for _ in 0..20 {
        world.run(30);
        let its_id = id(&world, 12);
        for place in 0..12 {
            assert!(!knows(&world, place, its_id));
            let node = &world.member(place).node;
            assert!(node.paths().all(|(_, path)| !path.relays.contains(&its_id)));
        }
    }
    assert_eq!(relaying(&world, 12), Relaying::Unreached);
    assert!(has_path(&world, 12));
    world.net.hide(hidden, false);
    let seconds = 2 * KNOCK_AGAIN.as_secs();
    assert!(world.run_until(seconds, |world| relaying(world, 12) == Relaying::Yes), "the port is open now");
}

#[test]
fn neighbours_who_deny_it_do_not_keep_a_node_out() {
    for seed in 303..309 {
        let mut world = world(12, seed);
        for place in 0..6 {
            let liar = Spoiler::new(Vice::Knocked(false), seed);
            world.at(place, |member, _| member.spoiler = Some(liar));
        }
        world.join(12, 1);
        assert!(world.run_until(120, |world| relaying(world, 12) == Relaying::Yes), "seed {seed}");
    }
}

#[test]
fn neighbours_who_say_yes_falsely_break_nobodys_paths() {
    let mut world = world(14, 309);
    for place in 0..14 {
        let liar = Spoiler::new(Vice::Knocked(true), 309);
        world.at(place, |member, _| member.spoiler = Some(liar));
    }
    let hidden = world.join(14, 1);
    world.net.hide(hidden, true);
    let its_id = id(&world, 14);
    assert!(world.run_until(60, |world| (0..14).all(|place| knows(world, place, its_id))), "the lie is out");
    for newcomer in 15..18 {
        world.join(newcomer, 2);
        assert!(world.run_until(180, |world| has_path(world, newcomer)));
    }
}

#[test]
fn a_node_whose_port_was_closed_says_so_after_hours_and_no_longer_than_that_is_drawn() {
    let mut world = world(12, 310);
    let closed = Place(5);
    world.net.hide(closed, true);
    let its_id = id(&world, 5);
    world.run(3_600);
    assert_eq!(relaying(&world, 5), Relaying::Yes, "that nobody came for an hour says nothing");
    world.run(PROOF_LIFE.as_secs());
    assert_eq!(relaying(&world, 5), Relaying::Unreached);
    // Its last record is no longer used for building, and then forgotten.
    world.run(FRESH_RECORD_SECS);
    let before: u64 = world.net.nodes().map(|(_, member)| member.node.build_stats().failed).sum();
    world.net.run(Duration::from_secs(3_600));
    let after: u64 = world.net.nodes().map(|(_, member)| member.node.build_stats().failed).sum();
    assert_eq!(before, after, "circles with it would have failed");
    world.run(NODE_RECORD_LIFE_SECS);
    assert!((0..12).filter(|place| *place != 5).all(|place| !knows(&world, place, its_id)));
}

#[test]
fn one_that_does_not_want_to_relay_is_unknown_to_others_and_has_paths() {
    let mut world = world(12, 311);
    let unwilling = world.join_as(12, 1, Relay::Never);
    assert!(world.run_until(60, |world| has_path(world, unwilling.0)));
    assert_eq!(relaying(&world, 12), Relaying::Unwanted);
    let its_id = id(&world, 12);
    assert!((0..12).all(|place| !knows(&world, place, its_id)));
}

#[test]
fn a_node_whose_quota_is_spent_leaves_the_paths_of_others_in_order_and_keeps_its_own() {
    let mut world = world(14, 312);
    assert!(world.run_until(120, |world| (0..14).all(|place| has_path(world, place))));
    let its_id = id(&world, 5);
    let serves = |world: &World| {
        let mut all = (0..14).filter(|place| *place != 5).flat_map(|place| world.member(place).node.paths());
        all.any(|(_, path)| path.relays.contains(&its_id))
    };
    // It is drawn sooner or later.
    for newcomer in 14..40 {
        if serves(&world) {
            break;
        }
        world.join(newcomer, 3);
        world.run(10);
    }
    world.at(5, |member, now| member.act(now, |node, out| node.handle_carried(now, u64::MAX, out)));
    assert_eq!(relaying(&world, 5), Relaying::Spent);
    let own: Vec<_> = world.member(5).node.paths().map(|(id, _)| id).collect();
    world.run(QUOTA_GRACE.as_secs() + 5);
    assert!(!serves(&world), "paths through it were ended");
    assert!(own.iter().any(|path| world.member(5).switch.has_path(*path)), "its own go on");
}
