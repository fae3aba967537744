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
use crate::wire::cell::Body;

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
}

/// Which of the two inverse permutations.
#[derive(Clone, Copy)]
enum Mode {
    Encipher,
    Decipher,
}

impl WideBlock {
    /// Expands the key.
    pub fn new(key: &[u8; 32]) -> WideBlock {
        let aes = Aes256::new(key.into());
        let mut separator = Array::from(1u128.to_le_bytes());
        aes.encrypt_block(&mut separator);
        let bulk = Bulk::new(key, &aes);
        let wide_block = WideBlock { aes, bulk, separator: u128::from_le_bytes(separator.into()) };
        separator.as_mut_slice().zeroize();
        wide_block
    }

    /// Turns a body, from A to B.
    pub fn encipher(&self, tweak: &[u8; TWEAK], body: &mut Body) {
        let (first, rest) = split(body);
        self.turn(Mode::Encipher, tweak, first, rest);
    }

    /// The inverse of [`WideBlock::encipher`].
    pub fn decipher(&self, tweak: &[u8; TWEAK], body: &mut Body) {
        let (first, rest) = split(body);
        self.turn(Mode::Decipher, tweak, first, rest);
    }

    /// HCTR2 over a message of any length from one block on, under a tweak of any length. Both modes differ in the
    /// middle only.
    fn turn(&self, mode: Mode, tweak: &[u8], first: &mut [u8; BLOCK], rest: &mut [u8]) {
        let (blocks, end) = rest.as_chunks_mut::<BLOCK>();
        let tweaked = self.absorb_tweak(tweak, !end.is_empty());
        let state = self.bulk.absorb(tweaked, blocks);
        let inner = u128::from_le_bytes(*first) ^ self.absorb_end(state, end);
        let mut block = Array::from(inner.to_le_bytes());
        match mode {
            Mode::Encipher => self.aes.encrypt_block(&mut block),
            Mode::Decipher => self.aes.decrypt_block(&mut block),
        }
        let outer = u128::from_le_bytes(block.into());
        let start = inner ^ outer ^ self.separator;
        let state = self.bulk.turn_and_absorb(start, tweaked, blocks);
        self.turn_end(start ^ (blocks.len() as u128 + 1), end);
        *first = (outer ^ self.absorb_end(state, end)).to_le_bytes();
    }

    /// The hash of tweak and message begins with a block that names the tweak's length and whether the message
    /// has a ragged end.
    fn absorb_tweak(&self, tweak: &[u8], ragged: bool) -> u128 {
        let prefix = 2 * (8 * tweak.len() as u128) + 2 + u128::from(ragged);
        let (blocks, end) = tweak.as_chunks::<BLOCK>();
        let state = self.bulk.absorb(0, &[prefix.to_le_bytes()]);
        let state = self.bulk.absorb(state, blocks);
        if end.is_empty() { state } else { self.bulk.absorb(state, &[padded(end, None)]) }
    }

    /// Absorbs what is less than a block, padded with a one and zeros.
    fn absorb_end(&self, state: u128, end: &[u8]) -> u128 {
        if end.is_empty() { state } else { self.bulk.absorb(state, &[padded(end, Some(1))]) }
    }

    /// XORs the beginning of AES(counter) over what is less than a block.
    fn turn_end(&self, counter: u128, end: &mut [u8]) {
        if end.is_empty() {
            return;
        }
        let mut key = Array::from(counter.to_le_bytes());
        self.aes.encrypt_block(&mut key);
        for (byte, key) in end.iter_mut().zip(key) {
            *byte ^= key;
        }
    }
}

impl Drop for WideBlock {
    fn drop(&mut self) {
        self.separator.zeroize(); // `aes` and `bulk` erase themselves
    }
}

#[allow(clippy::expect_used)] // invariant: BODY is more than a block
fn split(body: &mut Body) -> (&mut [u8; BLOCK], &mut [u8]) {
    body.split_first_chunk_mut().expect("a body is longer than a block")
}

/// Less than a block, then what marks its end, then zeros.
fn padded(end: &[u8], mark: Option<u8>) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    for (to, from) in block.iter_mut().zip(end.iter().copied().chain(mark)) {
        *to = from;
    }
    block
}

mod bulk;
#[cfg(test)]
mod tests;
