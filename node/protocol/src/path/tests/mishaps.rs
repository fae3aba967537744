//! Whatever happens to arrays on their way.

use super::*;

/// What an enemy between two nodes does to a message.
#[derive(Clone, Copy, Debug)]
enum Mishap {
    Drop,
    Twice,
    Flip,
    Garbage,
    OtherRound,
    OtherConnection,
    Reorder,
}

fn mishap() -> impl Strategy<Value = Option<Mishap>> {
    use Mishap::*;
    prop_oneof![
        6 => Just(None),
        1 => prop::sample::select(vec![Drop, Twice, Flip, Garbage, OtherRound, OtherConnection, Reorder]).prop_map(Some),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_happens_on_the_way_nothing_panics_and_every_build_ends(
        seed in any::<u8>(),
        hops in 1usize..=4,
        mishaps in prop::collection::vec(mishap(), 40),
    ) {
        let mut world = World::new(16, seed);
        world.start(hops).unwrap();
        let mut mishaps = mishaps.into_iter();
        while let Some(mut message) = world.messages.pop_front() {
            match mishaps.next().flatten() {
                None => {}
                Some(Mishap::Drop) => continue,
                Some(Mishap::Twice) => world.messages.push_back(message.clone()),
                Some(Mishap::Flip) => {
                    let bytes = message.array.as_bytes_mut();
                    let at = world.rng.random_range(0..bytes.len());
                    bytes[at] ^= 1;
                }
                Some(Mishap::Garbage) => world.rng.fill(message.array.as_bytes_mut()),
                Some(Mishap::OtherRound) => {
                    message.round = if message.round == Round::One { Round::Two } else { Round::One };
                }
                Some(Mishap::OtherConnection) => message.connection = PathId::new(7),
                Some(Mishap::Reorder) => {
                    world.messages.push_back(message);
                    if world.messages.len() == 1 { break; }
                    continue;
                }
            }
            world.deliver(message);
        }
        // Nothing altered is ever taken for a path: what is installed is whole.
        for (_, path) in &world.told.installed {
            world.check_path(path);
        }
        world.wait(ROUND_TIMEOUT);
        world.wait(BETWEEN_ROUNDS);
        prop_assert!(world.builds.is_empty());
        prop_assert_eq!(world.told.failed.len(), 1);
        prop_assert!(world.helpers.values().all(|helper| helper.setups.is_empty()));
    }
}
