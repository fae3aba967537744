//! Owners build paths: of all lengths, by the hundred, past guards that deny.

use std::time::{Duration, Instant};

use phantom_protocol::{limits::MAX_HOPS, node::Ticket, path::guards::GuardNotice, time::Moment};

use crate::{
    network::SimNode,
    vices::{Spoiler, Vice},
    whole::{Plan, World},
};

const NODES: usize = 40;

fn count_from(name: &str, short: usize) -> usize {
    std::env::var(name).ok().and_then(|count| count.parse().ok()).unwrap_or(short)
}

/// `PHANTOM_SIM_PATHS=1000` for the long run.
#[test]
fn everybody_builds_paths_of_all_lengths() {
    let paths = count_from("PHANTOM_SIM_PATHS", 320);
    let mut world = World::new(Plan::of(NODES, 101));
    let begun = Instant::now();
    for number in 0..paths {
        let (place, hops) = (number % NODES, 1 + (number / NODES + number) % MAX_HOPS);
        world.at(place, |member, now| {
            member.act(now, |node, out| node.handle_trial(now, Ticket(number as u64), hops, out));
        });
    }
    let trials = |world: &World| world.net.nodes().map(|(_, member)| member.seen.trials.len()).sum::<usize>();
    assert!(world.run_until(3_600, |world| trials(world) == paths), "{} of {paths}", trials(&world));
    let mut times = Vec::new();
    for (place, member) in world.net.nodes() {
        for (ticket, outcome) in &member.seen.trials {
            times.push(outcome.clone().unwrap_or_else(|why| panic!("{place:?}, {ticket:?}: {why}")));
        }
        assert_eq!(member.node.build_stats().failed, 0);
    }
    times.sort_unstable();
    println!(
        "{paths} paths in {:?} of virtual time, {:?} of real time; median {:?}, longest {:?}",
        world.net.elapsed(),
        begun.elapsed(),
        times[times.len() / 2],
        times[times.len() - 1]
    );
    world.run(60);
    for (_, member) in world.net.nodes() {
        assert_eq!(member.switch.sizes(), [0; 7]);
        let holdings = member.node.holdings();
        assert_eq!((holdings.setups, holdings.circles, holdings.awaited), (0, 0, 0));
    }
}

#[test]
fn pools_fill_and_nobody_spins() {
    let mut world = World::new(Plan { pool: 3, ..Plan::of(20, 102) });
    let full = |world: &World| world.net.nodes().all(|(_, member)| member.node.holdings().paths == 3);
    assert!(world.run_until(60, full));
    let before: u64 = world.net.nodes().map(|(_, member)| member.wakes).sum();
    world.run(60);
    let wakes = world.net.nodes().map(|(_, member)| member.wakes).sum::<u64>() - before;
    // The sweep of each second, and some more for the exchange.
    assert!(wakes < 20 * 60 * 4, "{wakes} wake-ups of 20 nodes within a minute");
}

#[test]
fn a_run_of_whole_nodes_repeats_from_its_seed() {
    let run = |seed| {
        let mut world = World::new(Plan { pool: 1, ..Plan::of(12, seed) });
        world.run(20);
        world.net.traffic
    };
    assert_eq!(run(103), run(103));
    assert_ne!(run(103).fingerprint, run(104).fingerprint);
}

#[test]
fn a_length_that_cannot_be_built_is_told_and_holds_up_nobody() {
    let mut world = World::new(Plan { pool: 1, ..Plan::of(12, 105) });
    for (ticket, hops) in [(1, 8), (2, 99), (3, 0), (4, 1)] {
        world.at(0, |member, now| {
            member.act(now, |node, out| node.handle_trial(now, Ticket(ticket), hops, out));
        });
    }
    // A service that is longer than the network allows must not starve the pool either.
    world.service(1, 1, 8);
    world.run(30);
    let trials = &world.member(0).seen.trials;
    assert!(trials[&Ticket(1)].as_ref().is_err_and(|why| why.contains("23 other nodes")), "{trials:?}");
    assert!(trials[&Ticket(2)].is_err());
    assert_eq!(trials[&Ticket(3)], Ok(Duration::ZERO));
    assert!(trials[&Ticket(4)].is_ok());
    assert_eq!(world.member(0).node.holdings().paths, 1);
    assert_eq!(world.member(1).node.holdings().paths, 1);
    let wake = world.member(1).next_timeout();
    assert!(wake > Moment(world.net.elapsed().as_micros() as u64));
}

#[test]
fn a_node_that_knows_too_few_builds_as_soon_as_it_knows_enough() {
    // Three hops take eight others.
    let mut world = World::new(Plan { pool: 1, ..Plan::of(8, 106) });
    world.run(10);
    assert!(world.member(3).node.build_stats().obstacle.is_some());
    world.join(8, 0);
    let built = world.run_until(10, |world| world.member(3).node.holdings().paths == 1);
    assert!(built, "{:?}", world.member(3).node.build_stats());
    assert!(world.member(3).node.build_stats().obstacle.is_none());
}

#[test]
fn a_guard_that_denies_is_set_aside() {
    let mut world = World::new(Plan::of(20, 107));
    world.watch.borrow_mut().checks = true;
    let ask = |world: &mut World, ticket: u64| {
        world.at(0, |member, now| {
            member.act(now, |node, out| node.handle_trial(now, Ticket(ticket), 1, out));
        });
    };
    ask(&mut world, 0);
    world.run(10);
    // With one hop the whole circle is of guards.
    let denier = world.watch.borrow().circles[0].stops[0].node;
    world.watch.borrow_mut().checks = false;
    let place = world.place_of(denier).unwrap();
    world.at(place, |member, _| member.spoiler = Some(Spoiler::new(Vice::DenySetups, 1)));
    (1..120).for_each(|ticket| ask(&mut world, ticket));
    let noticed = world.run_until(7_200, |world| world.member(0).node.build_stats().notice.is_some());
    let stats = world.member(0).node.build_stats().clone();
    println!(
        "{} circles succeeded, {} failed, after {:?}",
        stats.succeeded,
        stats.failed,
        world.net.elapsed()
    );
    assert!(noticed);
    assert_eq!(stats.notice, Some(GuardNotice::SetAside(denier)));
    world.run(60);
    let (failed, before) =
        (world.member(0).node.build_stats().failed, world.member(0).node.build_stats().succeeded);
    (200..220).for_each(|ticket| ask(&mut world, ticket));
    world.run(600);
    let stats = world.member(0).node.build_stats();
    assert!(
        stats.succeeded >= before + 20,
        "{} of 20, and {} failures",
        stats.succeeded - before,
        stats.failed - failed
    );
}
