//! The hop layer's cipher: HCTR2 with AES-256, a permutation of a whole body under a tweak (PROTOCOL §3).
//!
//! One changed bit of body or tweak makes the whole result random, and nothing grows. HCTR2 (Crowley, Huckleberry,
//! Biggers 2021) hashes the message but its first block with POLYVAL, turns the first block with AES, runs AES in
//! XCTR mode from what that yields over the rest, and hashes again. XCTR's blocks do not depend on each other, so
//! the whole keystream is made at once and the processor has as many AES blocks in flight as it can hold.

use aes::{
    Aes256,
    cipher::{Array, BlockCipherDecrypt, BlockCipherEncrypt, KeyInit},
};
use polyval::{Polyval, universal_hash::UniversalHash};
use zeroize::Zeroize;

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

const BLOCK: usize = 16;
/// Keystream blocks made at once: enough for a whole body, which has one block outside the keystream.
const KEYSTREAM: usize = BODY / BLOCK - 1;

/// One direction of one tunnel at one hop: a key made ready.
pub struct WideBlock {
    aes: Aes256,
    /// Keyed, nothing absorbed.
    hash: Polyval,
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
        let mut hash_key = Array::from(0u128.to_le_bytes());
        let mut separator = Array::from(1u128.to_le_bytes());
        aes.encrypt_block(&mut hash_key);
        aes.encrypt_block(&mut separator);
        let wide_block = WideBlock {
            aes,
            hash: Polyval::new(&hash_key),
            separator: u128::from_le_bytes(separator.into()),
        };
        hash_key.as_mut_slice().zeroize();
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
        let tweaked = self.absorb_tweak(tweak, rest.len());
        let inner = u128::from_le_bytes(*first) ^ digest(tweaked.clone(), rest);
        let mut block = Array::from(inner.to_le_bytes());
        match mode {
            Mode::Encipher => self.aes.encrypt_block(&mut block),
            Mode::Decipher => self.aes.decrypt_block(&mut block),
        }
        let outer = u128::from_le_bytes(block.into());
        self.xctr(inner ^ outer ^ self.separator, rest);
        *first = (outer ^ digest(tweaked, rest)).to_le_bytes();
    }

    /// The hash of tweak and message begins with a block that names the tweak's length and whether the message
    /// consists of whole blocks.
    fn absorb_tweak(&self, tweak: &[u8], rest_len: usize) -> Polyval {
        let ragged = u128::from(!rest_len.is_multiple_of(BLOCK));
        let prefix = 2 * (8 * tweak.len() as u128) + 2 + ragged;
        let mut hash = self.hash.clone();
        hash.update(&[prefix.to_le_bytes().into()]);
        hash.update_padded(tweak);
        hash
    }

    /// XORs AES(start ^ 1), AES(start ^ 2), ... (little-endian) over the message.
    fn xctr(&self, start: u128, message: &mut [u8]) {
        let mut counter = 0u128;
        let mut keystream = [Array::from([0u8; BLOCK]); KEYSTREAM];
        for piece in message.chunks_mut(KEYSTREAM * BLOCK) {
            let (stream, _) = keystream.split_at_mut(piece.len().div_ceil(BLOCK));
            for block in stream.iter_mut() {
                counter += 1;
                *block = (start ^ counter).to_le_bytes().into();
            }
            self.aes.encrypt_blocks(stream);
            for (byte, key) in piece.iter_mut().zip(Array::slice_as_flattened(stream)) {
                *byte ^= key;
            }
        }
    }
}

impl Drop for WideBlock {
    fn drop(&mut self) {
        self.separator.zeroize(); // `aes` and `hash` erase themselves
    }
}

#[allow(clippy::expect_used)] // invariant: BODY is more than a block
fn split(body: &mut Body) -> (&mut [u8; BLOCK], &mut [u8]) {
    body.split_first_chunk_mut().expect("a body is longer than a block")
}

/// Absorbs the message, a ragged end padded with a one and zeros.
fn digest(mut hash: Polyval, message: &[u8]) -> u128 {
    let (blocks, end) = message.as_chunks::<BLOCK>();
    hash.update(Array::cast_slice_from_core(blocks));
    if !end.is_empty() {
        let mut last = [0; BLOCK];
        for (to, from) in last.iter_mut().zip(end.iter().chain([&1])) {
            *to = *from;
        }
        hash.update(&[last.into()]);
    }
    u128::from_le_bytes(hash.finalize().into())
}

#[cfg(test)]
mod tests;
