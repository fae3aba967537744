//! What a hop takes, and from whom, before it forwards anything.

use super::*;

#[test]
fn an_x_node_forwards_only_when_both_links_stand() {
    let mut world = World::new(12, 8);
    world.start(3).unwrap();
    while world.messages.front().is_some_and(|message| message.round == Round::One) {
        let message = world.messages.pop_front().unwrap();
        world.deliver(message);
    }
    // Now nobody gets new links.
    world.cut.extend((1..12).flat_map(|a| (1..12).map(move |b| (a, b))));
    world.run();
    assert!(world.told.installed.is_empty());
    world.wait(ROUND_TIMEOUT);
    assert_eq!(world.told.failed, [BuildFailure::TimedOut(Round::Two)]);
}

#[test]
fn round_two_is_taken_once_and_anything_else_erases_the_setup() {
    for repeat in [Round::One, Round::Two] {
        let mut world = World::new(12, 9);
        world.start(3).unwrap();
        let first = world.messages.front().unwrap().clone();
        while world.messages.front().is_some_and(|message| message.round == Round::One) {
            let message = world.messages.pop_front().unwrap();
            world.deliver(message);
        }
        assert_eq!(world.helpers[&first.to].setups.len(), 1);
        let second = world.messages.front().unwrap().clone();
        if repeat == Round::One {
            world.deliver(first.clone());
            assert_eq!(world.helpers[&first.to].setups.len(), 0);
            world.run();
            assert!(world.told.installed.is_empty());
        } else {
            world.run();
            let installed = world.installed();
            world.deliver(second);
            world.run();
            assert_eq!((world.installed(), world.told.installed.len()), (installed, 1));
        }
    }
}

#[test]
fn a_setup_is_forgotten_after_thirty_seconds() {
    let mut world = World::new(12, 11);
    world.start(3).unwrap();
    let first = world.messages.pop_front().unwrap();
    let at = first.to;
    world.deliver(first);
    world.wait(BETWEEN_ROUNDS - Duration::from_micros(1));
    assert_eq!(world.helpers[&at].setups.len(), 1);
    world.wait(Duration::from_micros(1));
    assert_eq!(world.helpers[&at].setups.len(), 0);
    assert_eq!(world.helpers[&at].setups.next_timeout(), None);
}

#[test]
fn an_array_from_the_wrong_neighbour_or_with_the_wrong_id_is_refused() {
    for wrong in 0..2 {
        let mut world = World::new(12, 12);
        world.start(3).unwrap();
        let mut first = world.messages.pop_front().unwrap();
        if wrong == 0 {
            first.from = (1..12).find(|at| *at != first.to).unwrap();
        } else {
            first.connection = PathId::new(first.connection.get() + 1);
        }
        let at = first.to;
        world.deliver(first);
        assert!(world.messages.is_empty() && world.helpers[&at].setups.is_empty());
    }
}

#[test]
fn a_link_brings_ten_arrays_a_second() {
    let mut world = World::new(12, 13);
    world.start(3).unwrap();
    let honest = world.messages.pop_front().unwrap();
    let to = honest.to;
    for n in 0..1_000 {
        let garbage = Message { connection: PathId::new(n), array: SetupArray::zeroed(), ..honest.clone() };
        world.deliver(garbage);
    }
    world.deliver(honest.clone());
    assert!(world.helpers[&to].setups.is_empty());
    world.wait(Duration::from_secs(1));
    world.deliver(honest);
    assert_eq!(world.helpers[&to].setups.len(), 1);
}
