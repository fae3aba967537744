//! Who stands in for whom, and who is caught denying.

use proptest::prelude::*;
use rand::{SeedableRng, rngs::ChaCha20Rng};

use super::*;
use crate::{
    crypto::seal::{PathPublic, PathSecret},
    path::tests::{contact, node_id},
};

const NOW: UnixTime = UnixTime(1_800_000_000);
const DAY: u64 = 86_400;

fn key() -> PathPublic {
    PathSecret::generate(&mut ChaCha20Rng::from_seed([9; 32])).public().clone()
}

fn view(nodes: impl IntoIterator<Item = usize>, key: &PathPublic) -> Vec<Candidate<'_>> {
    nodes
        .into_iter()
        .map(|at| Candidate {
            contact: contact(at),
            path_key: key,
            issued: NOW,
            first_seen: NOW,
            family: None,
        })
        .collect()
}

struct Owner {
    guards: Guards,
    rng: ChaCha20Rng,
    now: UnixTime,
    key: PathPublic,
    notices: Vec<GuardNotice>,
}

impl Owner {
    fn new(seed: u8) -> Owner {
        let rng = ChaCha20Rng::from_seed([seed; 32]);
        Owner { guards: Guards::new(), rng, now: NOW, key: key(), notices: Vec::new() }
    }

    fn in_use(&mut self, nodes: impl IntoIterator<Item = usize>) -> Result<Vec<NodeId>, GuardsStopped> {
        let view = view(nodes, &self.key);
        self.guards.refresh(self.now, &contact(0), &view, &mut self.rng)?;
        let guards = self.guards.in_use(self.now, &contact(0), &view);
        Ok(guards.iter().map(|guard| guard.contact.id).collect())
    }

    /// One circle, in a network where honest ones succeed with this chance and a denier, if the circle has one, lets
    /// none succeed.
    fn circle(&mut self, chance: f64, deniers: &BTreeSet<NodeId>) -> Result<(), GuardsStopped> {
        let watched = self.in_use(1..60)?;
        let mut used = watched.clone();
        used.shuffle(&mut self.rng);
        let [a, b, c, ..] = used[..] else { panic!("there are guards enough") };
        let denied = [a, b, c].iter().any(|guard| deniers.contains(guard));
        let success = !denied && self.rng.random_bool(chance);
        self.notices.extend(self.guards.handle_circle(self.now, &watched, &[a, b, c], success));
        Ok(())
    }
}

#[test]
fn the_list_is_sampled_once_and_the_first_four_are_used() {
    let mut owner = Owner::new(1);
    let guards = owner.in_use(1..60).unwrap();
    assert_eq!((guards.len(), owner.guards.sample.len()), (GUARDS, GUARD_SAMPLE));
    for _ in 0..50 {
        assert_eq!(owner.in_use((1..60).rev()).unwrap(), guards);
    }
}

#[test]
fn a_stand_in_steps_back_when_the_guard_returns() {
    let mut owner = Owner::new(2);
    let guards = owner.in_use(1..60).unwrap();
    owner.guards.handle_unreachable(owner.now, guards[1]);
    let with_stand_in = owner.in_use(1..60).unwrap();
    assert_eq!(with_stand_in[..3], [guards[0], guards[2], guards[3]]);
    assert!(!guards.contains(&with_stand_in[3]));
    owner.guards.handle_reachable(guards[1]);
    assert_eq!(owner.in_use(1..60).unwrap(), guards);

    owner.guards.handle_unreachable(owner.now, guards[0]);
    assert!(!owner.in_use(1..60).unwrap().contains(&guards[0]));
    owner.now.0 += GUARD_RETRY.as_secs();
    assert_eq!(owner.in_use(1..60).unwrap(), guards);

    let missing = (1..60).filter(|at| node_id(*at) != guards[2]);
    assert_eq!(owner.in_use(missing).unwrap()[..3], [guards[0], guards[1], guards[3]]);
    assert_eq!(owner.in_use(1..60).unwrap(), guards);
}

#[test]
fn guards_stay_for_two_months_and_leave_within_four() {
    let mut owner = Owner::new(3);
    let guards = owner.in_use(1..60).unwrap();
    for _ in 0..59 {
        owner.now.0 += DAY;
        assert_eq!(owner.in_use(1..60).unwrap(), guards);
    }
    owner.now.0 += 61 * DAY + 1;
    assert!(owner.in_use(1..60).is_ok());
    assert!(owner.guards.sample.iter().all(|guard| guard.leaves > owner.now));
}

#[test]
fn a_guard_that_is_gone_for_twenty_days_leaves_the_list() {
    let mut owner = Owner::new(4);
    let guards = owner.in_use(1..60).unwrap();
    let gone = guards[0];
    for day in 0..=20 {
        owner.now = UnixTime(NOW.0 + day * DAY);
        owner.in_use((1..60).filter(|at| node_id(*at) != gone)).unwrap();
        let listed = owner.guards.sample.iter().any(|guard| guard.id == gone);
        assert_eq!(listed, day < 20);
    }
}

#[test]
fn a_denying_guard_is_caught_within_a_hundred_circles_and_nobody_else_is() {
    for (seed, chance) in (0..40).map(|seed| (seed, [0.95, 0.5][usize::from(seed % 2)])) {
        let mut owner = Owner::new(seed);
        let denier = owner.in_use(1..60).unwrap()[usize::from(seed % 4)];
        for _ in 0..100 {
            owner.circle(chance, &BTreeSet::from([denier])).unwrap();
        }
        assert_eq!(owner.notices, [GuardNotice::SetAside(denier)], "seed {seed}");
        assert!(owner.guards.is_aside(owner.now, denier));
        assert!(!owner.in_use(1..60).unwrap().contains(&denier));
        owner.now.0 += GUARD_ASIDE_SECS;
        assert!(owner.in_use(1..60).unwrap().contains(&denier));
    }
}

#[test]
fn honest_guards_are_left_alone_however_many_circles_fail_for_other_reasons() {
    let mut accused = 0;
    for (seed, chance) in (0..60).map(|seed| (seed, [0.95, 0.7, 0.5][usize::from(seed % 3)])) {
        let mut owner = Owner::new(seed);
        for _ in 0..1_000 {
            if owner.circle(chance, &BTreeSet::new()).is_err() {
                break;
            }
        }
        accused += owner.notices.len();
    }
    // 60,000 circles.
    assert!(accused <= 3, "{accused} honest guards were set aside");
}

#[test]
fn two_deniers_are_set_aside_and_at_the_third_building_stops_with_a_clear_message() {
    let mut owner = Owner::new(7);
    let mut stopped = None;
    for _ in 0..1_000 {
        // Whoever comes first is the enemy's: it walks with the owner.
        let denier = match owner.in_use(1..60) {
            Ok(guards) => guards[0],
            Err(error) => {
                stopped = Some(error);
                break;
            }
        };
        owner.circle(0.9, &BTreeSet::from([denier])).unwrap();
        owner.now.0 += 60;
    }
    let GuardsStopped(until) = stopped.unwrap();
    assert_eq!(owner.guards.replaced.len(), 2);
    assert!(matches!(
        owner.notices[..],
        [GuardNotice::SetAside(_), GuardNotice::SetAside(_), GuardNotice::Stopped(_)]
    ));
    assert!(owner.notices[2].to_string().contains("No paths are built until"));
    assert!(until.0 <= NOW.0 + 30 * DAY + 60_000);
    owner.now = until;
    assert!(owner.in_use(1..60).is_ok());
}

proptest! {
    #[test]
    fn the_state_comes_back_from_the_store(seed in any::<u8>(), circles in 0usize..80) {
        let mut owner = Owner::new(seed);
        let denier = owner.in_use(1..60).unwrap()[0];
        for _ in 0..circles {
            owner.circle(0.8, &BTreeSet::from([denier])).unwrap();
        }
        owner.guards.second_set(owner.now, &contact(0), &view(1..60, &owner.key), &mut owner.rng);
        let mut out = Writer::new();
        owner.guards.encode(&mut out);
        let bytes = out.finish();
        let mut reader = Reader::new(&bytes);
        prop_assert_eq!(Guards::decode(&mut reader), Ok(owner.guards));
        prop_assert_eq!(reader.finish(), Ok(()));
    }

    #[test]
    fn garbage_in_the_store_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Guards::decode(&mut Reader::new(&bytes));
    }
}
