//! The two things that HCTR2 does to all blocks of a message but the first: hash them with POLYVAL (RFC 8452), and
//! XOR AES in XCTR mode over them while their hash is taken again.
//!
//! Every hop does both to every cell, so this is the hottest code there is. Where the processor has the instructions,
//! both go through it at once: AES and the multiplication of polynomials are different units, which are kept busy
//! together, best if the first hash of what is turned next is taken along. Elsewhere, and as the oracle of the tests,
//! the crates `aes` and `polyval` do one after the other; they are slower also because `polyval` cannot begin from a
//! state without a copy of its keys, which it must erase afterwards.

use aes::{
    Aes256,
    cipher::{Array, BlockCipherEncrypt},
};
use polyval::{Polyval, universal_hash::UniversalHash};

#[cfg(target_arch = "x86_64")]
use self::instructions::Instructions;

pub(super) const BLOCK: usize = 16;
/// Keystream blocks that the portable way makes at once.
const KEYSTREAM: usize = 32;

/// A key made ready.
pub(super) enum Bulk {
    #[cfg(target_arch = "x86_64")]
    Instructions(Box<Instructions>),
    Portable(Box<Portable>),
}

impl Bulk {
    /// `aes` is made of the same key.
    pub(super) fn new(key: &[u8; 32], aes: &Aes256) -> Bulk {
        #[cfg(target_arch = "x86_64")]
        if let Some(instructions) = Instructions::new(key) {
            return Bulk::Instructions(Box::new(instructions));
        }
        let _only_used_by_instructions = key;
        Bulk::Portable(Box::new(Portable::new(aes)))
    }

    /// The hash's state after more blocks. The first state is 0, the last one is the hash.
    pub(super) fn absorb(&self, state: u128, blocks: &[[u8; BLOCK]]) -> u128 {
        match self {
            #[cfg(target_arch = "x86_64")]
            Bulk::Instructions(instructions) => instructions.absorb(state, blocks),
            Bulk::Portable(portable) => portable.absorb(state, blocks),
        }
    }

    /// XORs AES(start ^ 1), AES(start ^ 2), ... (little-endian) over the blocks, and absorbs what they have become.
    pub(super) fn turn_and_absorb(&self, start: u128, state: u128, blocks: &mut [[u8; BLOCK]]) -> u128 {
        match self {
            #[cfg(target_arch = "x86_64")]
            Bulk::Instructions(instructions) => instructions.turn_and_absorb(start, state, blocks),
            Bulk::Portable(portable) => portable.turn_and_absorb(start, state, blocks),
        }
    }

    /// The same, and absorbs what they have become under the `next` key as well. Each hash begins with its own state.
    pub(super) fn turn_and_absorb_twice(
        &self,
        start: u128,
        [own, theirs]: [u128; 2],
        blocks: &mut [[u8; BLOCK]],
        next: &Bulk,
    ) -> [u128; 2] {
        match (self, next) {
            #[cfg(target_arch = "x86_64")]
            (Bulk::Instructions(keys), Bulk::Instructions(next)) => {
                keys.turn_and_absorb_twice(start, [own, theirs], blocks, next)
            }
            _ => [self.turn_and_absorb(start, own, blocks), next.absorb(theirs, blocks)],
        }
    }

    /// The same, and absorbs as many `others` under the `next` key.
    pub(super) fn turn_and_absorb_beside(
        &self,
        start: u128,
        [own, theirs]: [u128; 2],
        blocks: &mut [[u8; BLOCK]],
        next: &Bulk,
        others: &[[u8; BLOCK]],
    ) -> [u128; 2] {
        match (self, next) {
            #[cfg(target_arch = "x86_64")]
            (Bulk::Instructions(keys), Bulk::Instructions(next)) if blocks.len() == others.len() => {
                keys.turn_and_absorb_beside(start, [own, theirs], blocks, next, others)
            }
            _ => [self.turn_and_absorb(start, own, blocks), next.absorb(theirs, others)],
        }
    }
}

pub(super) struct Portable {
    aes: Aes256,
    /// Keyed, nothing absorbed.
    hash: Polyval,
}

impl Portable {
    fn new(aes: &Aes256) -> Portable {
        let mut key = Array::from([0; BLOCK]);
        aes.encrypt_block(&mut key);
        let portable = Portable { aes: aes.clone(), hash: Polyval::new(&key) };
        zeroize::Zeroize::zeroize(key.as_mut_slice());
        portable
    }

    /// A state is what the next block is added to before it is multiplied.
    fn absorb(&self, state: u128, blocks: &[[u8; BLOCK]]) -> u128 {
        let Some((first, rest)) = blocks.split_first() else { return state };
        let mut hash = self.hash.clone();
        hash.update(&[(state ^ u128::from_le_bytes(*first)).to_le_bytes().into()]);
        hash.update(Array::cast_slice_from_core(rest));
        u128::from_le_bytes(hash.finalize().into())
    }

    fn turn_and_absorb(&self, start: u128, state: u128, blocks: &mut [[u8; BLOCK]]) -> u128 {
        let mut counter = 0;
        let mut keystream = [Array::from([0; BLOCK]); KEYSTREAM];
        for piece in blocks.chunks_mut(KEYSTREAM) {
            let (stream, _) = keystream.split_at_mut(piece.len());
            for block in stream.iter_mut() {
                counter += 1;
                *block = (start ^ counter).to_le_bytes().into();
            }
            self.aes.encrypt_blocks(stream);
            for (byte, key) in piece.as_flattened_mut().iter_mut().zip(Array::slice_as_flattened(stream)) {
                *byte ^= key;
            }
        }
        self.absorb(state, blocks)
    }
}

#[cfg(target_arch = "x86_64")]
mod instructions;

#[cfg(test)]
mod tests {
    use aes::cipher::KeyInit;
    use proptest::prelude::*;

    use super::*;

    fn both(key: &[u8; 32]) -> [Bulk; 2] {
        let aes = Aes256::new(key.into());
        [Bulk::new(key, &aes), Bulk::Portable(Box::new(Portable::new(&aes)))]
    }

    /// Otherwise the tests below compare the portable way with itself.
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_processors_of_today_have_the_instructions() {
        assert!(Instructions::new(&[0; 32]).is_some(), "this processor lacks AES-NI, AVX or PCLMULQDQ");
    }

    #[test]
    fn no_blocks_change_nothing() {
        for bulk in both(&[1; 32]) {
            assert_eq!(bulk.absorb(5, &[]), 5);
            assert_eq!(bulk.turn_and_absorb(7, 5, &mut []), 5);
        }
    }

    proptest! {
        #[test]
        fn both_ways_agree_on_any_number_of_blocks(
            key: [u8; 32],
            start: u128,
            state: u128,
            blocks in proptest::collection::vec(any::<[u8; BLOCK]>(), 0..100),
        ) {
            let [ours, portable] = both(&key);
            prop_assert_eq!(ours.absorb(state, &blocks), portable.absorb(state, &blocks));
            let (mut one, mut other) = (blocks.clone(), blocks);
            let state = [ours.turn_and_absorb(start, state, &mut one), portable.turn_and_absorb(start, state, &mut other)];
            prop_assert_eq!(state[0], state[1]);
            prop_assert_eq!(one, other);
        }

        #[test]
        fn what_is_taken_along_changes_nothing(
            keys: [[u8; 32]; 2],
            start: u128,
            states: [u128; 2],
            bodies in proptest::collection::vec(any::<[[u8; BLOCK]; 2]>(), 0..100),
        ) {
            let (blocks, others): (Vec<_>, Vec<_>) = bodies.into_iter().map(|[one, other]| (one, other)).unzip();
            let [[key, portable], [next, next_portable]] = keys.map(|key| both(&key));
            let mut expected = blocks.clone();
            let own = portable.turn_and_absorb(start, states[0], &mut expected);
            let mut turned = blocks.clone();
            let twice = key.turn_and_absorb_twice(start, states, &mut turned, &next);
            prop_assert_eq!(twice, [own, next_portable.absorb(states[1], &expected)]);
            prop_assert_eq!(&turned, &expected);
            let mut turned = blocks;
            let beside = key.turn_and_absorb_beside(start, states, &mut turned, &next, &others);
            prop_assert_eq!(beside, [own, next_portable.absorb(states[1], &others)]);
            prop_assert_eq!(&turned, &expected);
        }
    }
}
