//! The hop layer's cipher: HCTR2 with AES-256, a permutation of a whole body under a tweak (PROTOCOL §3).
//!
//! One changed bit of body or tweak makes the whole result random, and nothing grows. HCTR2 (Crowley, Huckleberry,
//! Biggers 2021) hashes the message but its first block with POLYVAL, turns the first block with AES, runs AES in
//! XCTR mode from what that yields over the rest, and hashes again.

use aes::{
    Aes256,
    cipher::{Array, BlockCipherDecrypt, BlockCipherEncrypt, KeyInit},
};
use zeroize::Zeroize;

use self::bulk::{BLOCK, Bulk};
use crate::wire::cell::{BODY, Body};

/// Which way along a routing path, as one of its hops sees it: its neighbours are A and B in an order that the owner
/// has drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Direction {
    /// In at neighbour A, out at B.
    AtoB = 0,
    /// In at neighbour B, out at A.
    BtoA = 1,
}

impl Direction {
    /// The other way.
    pub fn reverse(self) -> Direction {
        match self {
            Direction::AtoB => Direction::BtoA,
            Direction::BtoA => Direction::AtoB,
        }
    }
}

/// Bytes of a tweak.
pub const TWEAK: usize = 16;

/// The tweak of a cell: direction, index big-endian, zeros.
pub fn tweak(direction: Direction, index: u32) -> [u8; TWEAK] {
    let [a, b, c, d] = index.to_be_bytes();
    [direction as u8, a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
}

/// One direction of one tunnel at one hop: a key made ready.
pub struct WideBlock {
    aes: Aes256,
    bulk: Bulk,
    /// HCTR2's L: separates the XCTR start from the inside of the first block's cipher.
    separator: u128,
    /// The hash's state after the block that comes before a [`tweak`] and a [`Body`].
    prefixed: u128,
}

/// Which of the two inverse permutations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// HCTR2's encryption.
    Encipher,
    /// The inverse.
    Decipher,
}

/// What is to be done to a body.
#[derive(Clone, Copy)]
pub struct Pass<'k> {
    block: &'k WideBlock,
    mode: Mode,
    tweak: [u8; TWEAK],
}

/// A body of which the first half of a pass is done: its hash is taken.
struct Begun {
    hash: u128,
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.hash.zeroize();
    }
}

/// A pass is begun, then finished. Its beginning only reads.
impl<'k> Pass<'k> {
    /// A pass under a key and a tweak.
    pub fn new(block: &'k WideBlock, mode: Mode, tweak: [u8; TWEAK]) -> Pass<'k> {
        Pass { block, mode, tweak }
    }

    /// Does the pass.
    pub fn turn(&self, body: &mut Body) {
        self.finish(self.begin(body), body);
    }

    fn begin(&self, body: &Body) -> Begun {
        Begun { hash: self.block.bulk.absorb(self.tweaked(), rest_of(body)) }
    }

    fn finish(&self, begun: Begun, body: &mut Body) {
        let (first, rest) = split(body);
        let (outer, start) = self.turn_first(&begun, first);
        let hash = self.block.bulk.turn_and_absorb(start, self.tweaked(), rest);
        *first = (outer ^ hash).to_le_bytes();
    }

    /// Begins another pass of the same body, too.
    fn finish_and_begin(&self, begun: Begun, body: &mut Body, next: &Pass<'_>) -> Begun {
        let (first, rest) = split(body);
        let (outer, start) = self.turn_first(&begun, first);
        let states = [self.tweaked(), next.tweaked()];
        let [hash, next] = self.block.bulk.turn_and_absorb_twice(start, states, rest, &next.block.bulk);
        *first = (outer ^ hash).to_le_bytes();
        Begun { hash: next }
    }

    /// Begins a pass of another body, too.
    fn finish_and_begin_other(&self, begun: Begun, body: &mut Body, next: &Pass<'_>, other: &Body) -> Begun {
        let (first, rest) = split(body);
        let (outer, start) = self.turn_first(&begun, first);
        let (states, others) = ([self.tweaked(), next.tweaked()], rest_of(other));
        let [hash, next] =
            self.block.bulk.turn_and_absorb_beside(start, states, rest, &next.block.bulk, others);
        *first = (outer ^ hash).to_le_bytes();
        Begun { hash: next }
    }

    fn turn_first(&self, begun: &Begun, first: &[u8; BLOCK]) -> (u128, u128) {
        self.block.turn_first(self.mode, u128::from_le_bytes(*first) ^ begun.hash)
    }

    fn tweaked(&self) -> u128 {
        self.block.bulk.absorb(self.block.prefixed, &[self.tweak])
    }
}

/// Does passes one after the other, and begins each while the one before is finished: that costs little, where the
/// processor has a unit for either.
#[derive(Default)]
pub struct Chain {
    begun: Option<Begun>,
}

impl Chain {
    /// Does all passes of a body. `next` must be the first pass of the body with which this is called next.
    pub fn turn<'k>(
        &mut self,
        mut passes: impl Iterator<Item = Pass<'k>>,
        body: &mut Body,
        next: Option<(Pass<'_>, &Body)>,
    ) {
        let Some(mut pass) = passes.next() else {
            self.begun = next.map(|(next, other)| next.begin(other));
            return;
        };
        let mut begun = self.begun.take().unwrap_or_else(|| pass.begin(body));
        for next in passes {
            begun = pass.finish_and_begin(begun, body, &next);
            pass = next;
        }
        match next {
            Some((next, other)) => {
                self.begun = Some(pass.finish_and_begin_other(begun, body, &next, other));
            }
            None => pass.finish(begun, body),
        }
    }
}

impl WideBlock {
    /// Expands the key.
    pub fn new(key: &[u8; 32]) -> WideBlock {
        let aes = Aes256::new(key.into());
        let mut separator = Array::from(1u128.to_le_bytes());
        aes.encrypt_block(&mut separator);
        let bulk = Bulk::new(key, &aes);
        let prefixed = bulk.absorb(0, &[prefix(TWEAK, false)]);
        let wide_block = WideBlock { aes, bulk, separator: u128::from_le_bytes(separator.into()), prefixed };
        separator.as_mut_slice().zeroize();
        wide_block
    }

    /// HCTR2's encryption of a body.
    pub fn encipher(&self, tweak: &[u8; TWEAK], body: &mut Body) {
        Pass::new(self, Mode::Encipher, *tweak).turn(body);
    }

    /// The inverse of [`WideBlock::encipher`].
    pub fn decipher(&self, tweak: &[u8; TWEAK], body: &mut Body) {
        Pass::new(self, Mode::Decipher, *tweak).turn(body);
    }

    /// The middle of HCTR2, where both modes differ: makes of the inside of the first block its outside, and the start
    /// of XCTR.
    fn turn_first(&self, mode: Mode, inner: u128) -> (u128, u128) {
        let mut block = Array::from(inner.to_le_bytes());
        match mode {
            Mode::Encipher => self.aes.encrypt_block(&mut block),
            Mode::Decipher => self.aes.decrypt_block(&mut block),
        }
        let outer = u128::from_le_bytes(block.into());
        (outer, inner ^ outer ^ self.separator)
    }
}

impl Drop for WideBlock {
    fn drop(&mut self) {
        // `aes` and `bulk` erase themselves.
        self.separator.zeroize();
        self.prefixed.zeroize();
    }
}

/// The hash begins with a block that names the tweak's length in bits, and whether the message has a ragged end.
fn prefix(tweak_bytes: usize, ragged: bool) -> [u8; BLOCK] {
    (2 * (8 * tweak_bytes as u128) + 2 + u128::from(ragged)).to_le_bytes()
}

#[allow(clippy::expect_used)] // invariant: BODY is more than a block
fn split(body: &mut Body) -> (&mut [u8; BLOCK], &mut [[u8; BLOCK]]) {
    const { assert!(BODY.is_multiple_of(BLOCK)) };
    let (first, rest) = body.split_first_chunk_mut().expect("a body is longer than a block");
    (first, rest.as_chunks_mut().0)
}

/// All blocks but the first.
fn rest_of(body: &Body) -> &[[u8; BLOCK]] {
    let (_, rest) = body.split_at(BLOCK);
    rest.as_chunks().0
}

mod bulk;
#[cfg(test)]
mod tests;
