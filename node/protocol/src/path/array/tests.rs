//! The array for every length, as its owner and its nodes see it.

use std::collections::BTreeSet;

use rand::{RngExt, SeedableRng, rngs::ChaCha20Rng};

use super::*;
use crate::time::UnixTime;

/// Nodes in the circles of 1 to 8 hops.
const CIRCLES: [usize; 8] = [3, 5, 8, 11, 14, 17, 20, 23];

fn payload(at: usize) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(format!("payload of node {at}").into_bytes())
}

fn is_payload(peeled: &Peeled, at: usize) -> bool {
    let (said, zeros) = peeled.payload.split_at(payload(at).len());
    said == &payload(at)[..] && zeros.iter().all(|byte| *byte == 0)
}

/// A circle that both rounds can be tried on.
struct Nodes {
    keys: Vec<PathKeys>,
    secrets: Vec<Key>,
}

impl Nodes {
    fn new(count: usize, rng: &mut ChaCha20Rng) -> Nodes {
        Nodes {
            keys: (0..count).map(|_| PathKeys::new(UnixTime(0), rng)).collect(),
            secrets: (0..count).map(|_| Key::random(rng)).collect(),
        }
    }

    fn build(&self, round: u8, rng: &mut ChaCha20Rng) -> (SetupArray, Circulation) {
        let slots: Vec<Sealed<'_>> = (0..self.keys.len())
            .map(|at| Sealed {
                seal: match round {
                    1 => Seal::Setup(self.keys[at].current()),
                    _ => Seal::Box(self.secrets[at].clone()),
                },
                payload: payload(at),
            })
            .collect();
        build(&slots, rng).unwrap()
    }

    fn peel(&mut self, round: u8, at: usize, array: SetupArray) -> Option<Peeled> {
        match round {
            1 => peel_setup(array, &mut self.keys[at]),
            _ => peel_box(array, &self.secrets[at]),
        }
    }
}

#[test]
fn every_node_finds_its_payload_every_flipped_slot_is_found_and_the_owner_gets_what_it_expects() {
    let mut rng = ChaCha20Rng::from_seed([1; 32]);
    for count in CIRCLES {
        let mut nodes = Nodes::new(count, &mut rng);
        for round in [1, 2] {
            let (mut array, expected) = nodes.build(round, &mut rng);
            for at in 0..count {
                for slot in 0..SLOTS {
                    let mut altered = array.clone();
                    altered.as_bytes_mut()[slot * SLOT + rng.random_range(0..SLOT)] ^=
                        1 << rng.random_range(0..8);
                    // The highest bit of an X25519 key is ignored by the curve, not by the key derivation.
                    assert!(nodes.peel(round, at, altered).is_none(), "slot {slot} at node {at} of {count}");
                }
                let peeled = nodes.peel(round, at, array).unwrap();
                assert!(is_payload(&peeled, at));
                array = peeled.forward;
            }
            assert!(expected.returned(&array));
            array.as_bytes_mut()[rng.random_range(0..ARRAY)] ^= 1;
            assert!(!expected.returned(&array));
        }
    }
}

#[test]
fn no_slot_looks_alike_at_two_nodes() {
    let mut rng = ChaCha20Rng::from_seed([2; 32]);
    let mut seen = BTreeSet::new();
    let mut total = 0;
    for count in CIRCLES {
        let mut nodes = Nodes::new(count, &mut rng);
        for round in [1, 2] {
            let (mut array, _) = nodes.build(round, &mut rng);
            for at in 0..=count {
                total += SLOTS;
                seen.extend(array.slots().map(<[u8]>::to_vec));
                if at < count {
                    array = nodes.peel(round, at, array).unwrap().forward;
                }
            }
        }
    }
    assert_eq!(seen.len(), total);
}

#[test]
fn a_slot_is_opened_by_its_own_node_only_and_once() {
    let mut rng = ChaCha20Rng::from_seed([3; 32]);
    let mut nodes = Nodes::new(3, &mut rng);
    let (array, _) = nodes.build(1, &mut rng);
    assert!(nodes.peel(1, 1, array.clone()).is_none());
    assert!(nodes.peel(1, 0, array.clone()).is_some());
    assert!(nodes.peel(1, 0, array).is_none());
    let (array, _) = nodes.build(2, &mut rng);
    assert!(nodes.peel(2, 1, array.clone()).is_none());
    assert!(nodes.peel(2, 0, array).is_some());
}

#[test]
fn an_older_key_still_opens_slots_after_the_key_has_changed() {
    let mut rng = ChaCha20Rng::from_seed([4; 32]);
    let mut nodes = Nodes::new(1, &mut rng);
    let (array, expected) = nodes.build(1, &mut rng);
    assert!(nodes.keys[0].handle_timeout(UnixTime(4 * 3600), &mut rng));
    assert!(expected.returned(&nodes.peel(1, 0, array).unwrap().forward));
}

#[test]
fn the_box_key_depends_on_both_connections() {
    let secret = Key::from_bytes([5; 32]);
    let key = box_key(&secret, &[1; 5], &[2; 5]);
    assert_ne!(key, box_key(&secret, &[2; 5], &[1; 5]));
    assert_ne!(key, box_key(&secret, &[1; 5], &[1; 5]));
}
