//! The bulk of HCTR2 by AES-NI, AVX and PCLMULQDQ.
//!
//! POLYVAL's product is M·H·x^-128 modulo x^128 + x^127 + x^126 + x^121 + 1. Dividing that by x^64 shows
//! x^-64 = x^64 + p with p = x^63 + x^62 + x^57. Let halves be M = M1·x^64 + M0, and D = H·x^-64, which is H with its
//! halves swapped plus H0·p. Then
//!
//! M·H·x^-128 = (M1·H + M0·D)·x^-64 = (R·x^64 + F)·x^-64 = R + F·x^-64
//!
//! with R = M1·H1 + M0·D1 and F = M1·H0 + M0·D0: four short products, and F·x^-64 is F with its halves swapped plus
//! F0·p. The R and F of several blocks, each with its own power of H, are added and then reduced at once.
//!
//! The only `unsafe` of the core is here: three calls of functions that are compiled for instructions which not every
//! processor has, behind the question whether this one has them. They compute with values and dereference nothing.

#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m128i, _mm_aesenc_si128, _mm_aesenclast_si128, _mm_aeskeygenassist_si128, _mm_clmulepi64_si128,
    _mm_cvtsi128_si64, _mm_set_epi64x, _mm_setzero_si128, _mm_shuffle_epi32, _mm_slli_si128,
    _mm_unpackhi_epi64, _mm_xor_si128,
};

use zeroize::Zeroize;

use super::BLOCK;

/// Blocks that are under way at once. It divides the blocks of a body, and five times AES's keys, blocks and sums
/// just about fit into the registers: 4 is a tenth slower, 6 and 8 too.
const STRIDE: usize = 5;
const ROUNDS: usize = 14;
/// p of the text above.
const P: i64 = 0xc200_0000_0000_0000_u64.cast_signed();
/// Swaps the halves.
const SWAP: i32 = 0b01_00_11_10;

/// Keys made ready. Only made on processors that have the instructions.
pub(in super::super) struct Instructions {
    round_keys: RoundKeys,
    /// H^STRIDE, ..., H^1.
    powers: [Power; STRIDE],
}

type RoundKeys = [u128; ROUNDS + 1];

/// A power of H, and its D.
#[derive(Clone, Copy, Default)]
struct Power {
    h: u128,
    d: u128,
}

impl Drop for Instructions {
    fn drop(&mut self) {
        self.round_keys.zeroize();
        for power in &mut self.powers {
            power.h.zeroize();
            power.d.zeroize();
        }
    }
}

impl Instructions {
    /// Nothing if the processor does not have them.
    pub(super) fn new(key: &[u8; 32]) -> Option<Instructions> {
        let has_all = is_x86_feature_detected!("aes")
            && is_x86_feature_detected!("avx")
            && is_x86_feature_detected!("pclmulqdq");
        // SAFETY: the processor has all the features that the function is compiled for.
        has_all.then(|| unsafe { expand(key) })
    }

    pub(super) fn absorb(&self, state: u128, blocks: &[[u8; BLOCK]]) -> u128 {
        // SAFETY: `self` exists, so the processor has all the features that the function is compiled for.
        unsafe { absorb(&self.powers, state, blocks) }
    }

    pub(super) fn turn_and_absorb(&self, start: u128, state: u128, blocks: &mut [[u8; BLOCK]]) -> u128 {
        // SAFETY: `self` exists, so the processor has all the features that the function is compiled for.
        unsafe { turn_and_absorb(self, start, state, blocks) }
    }
}

#[target_feature(enable = "avx,aes,pclmulqdq")]
fn expand(key: &[u8; 32]) -> Instructions {
    let round_keys = round_keys(key);
    let [hash_key] = encrypt(&round_keys, [load(0)]);
    Instructions { round_keys, powers: powers(store(hash_key)) }
}

/// AES-256's key schedule (FIPS 197).
#[target_feature(enable = "avx,aes")]
fn round_keys(key: &[u8; 32]) -> RoundKeys {
    /// The next round key of even number, from the one before the last and the last.
    macro_rules! even {
        ($before:ident, $last:ident, $round_constant:literal) => {
            _mm_xor_si128(
                spread($before),
                _mm_shuffle_epi32(_mm_aeskeygenassist_si128($last, $round_constant), 0xff),
            )
        };
    }
    /// The same of odd number.
    macro_rules! odd {
        ($before:ident, $last:ident) => {
            _mm_xor_si128(spread($before), _mm_shuffle_epi32(_mm_aeskeygenassist_si128($last, 0), 0xaa))
        };
    }
    let half = |half: &[u8]| half.iter().rev().fold(0, |value, byte| value << 8 | u128::from(*byte));
    let (k0, k1) = key.split_at(BLOCK);
    let (k0, k1) = (load(half(k0)), load(half(k1)));
    let k2 = even!(k0, k1, 0x01);
    let k3 = odd!(k1, k2);
    let k4 = even!(k2, k3, 0x02);
    let k5 = odd!(k3, k4);
    let k6 = even!(k4, k5, 0x04);
    let k7 = odd!(k5, k6);
    let k8 = even!(k6, k7, 0x08);
    let k9 = odd!(k7, k8);
    let k10 = even!(k8, k9, 0x10);
    let k11 = odd!(k9, k10);
    let k12 = even!(k10, k11, 0x20);
    let k13 = odd!(k11, k12);
    let k14 = even!(k12, k13, 0x40);
    let mut keys = [0; ROUNDS + 1];
    for (to, from) in keys.iter_mut().zip([k0, k1, k2, k3, k4, k5, k6, k7, k8, k9, k10, k11, k12, k13, k14]) {
        *to = store(from);
    }
    keys
}

/// Each word becomes the XOR of itself and the words before it.
#[target_feature(enable = "avx")]
#[inline]
fn spread(key: __m128i) -> __m128i {
    let key = _mm_xor_si128(key, _mm_slli_si128(key, 4));
    _mm_xor_si128(key, _mm_slli_si128(key, 8))
}

#[target_feature(enable = "avx,aes")]
#[inline]
fn encrypt<const N: usize>(keys: &RoundKeys, mut blocks: [__m128i; N]) -> [__m128i; N] {
    let [first, middle @ .., last] = keys;
    let (first, last) = (load(*first), load(*last));
    for block in &mut blocks {
        *block = _mm_xor_si128(*block, first);
    }
    for key in middle {
        let key = load(*key);
        for block in &mut blocks {
            *block = _mm_aesenc_si128(*block, key);
        }
    }
    for block in &mut blocks {
        *block = _mm_aesenclast_si128(*block, last);
    }
    blocks
}

#[target_feature(enable = "avx,pclmulqdq")]
fn powers(hash_key: u128) -> [Power; STRIDE] {
    let first = Power { h: hash_key, d: divided(hash_key) };
    let mut powers = [first; STRIDE];
    let mut last = hash_key;
    for power in powers.iter_mut().rev().skip(1) {
        last = store(reduce(product(load(last), &first)));
        *power = Power { h: last, d: divided(last) };
    }
    powers
}

/// D of the text above.
#[target_feature(enable = "avx,pclmulqdq")]
fn divided(h: u128) -> u128 {
    let h = load(h);
    let low = _mm_clmulepi64_si128(h, _mm_set_epi64x(0, P), 0x00);
    store(_mm_xor_si128(_mm_shuffle_epi32(h, SWAP), low))
}

#[target_feature(enable = "avx,pclmulqdq")]
fn absorb(powers: &[Power; STRIDE], state: u128, blocks: &[[u8; BLOCK]]) -> u128 {
    let [.., last] = powers;
    let (strides, end) = blocks.as_chunks::<STRIDE>();
    let mut state = load(state);
    for stride in strides {
        state = absorb_some(powers, state, stride);
    }
    for block in end {
        state = absorb_some(std::array::from_ref(last), state, std::array::from_ref(block));
    }
    store(state)
}

#[target_feature(enable = "avx,aes,pclmulqdq")]
fn turn_and_absorb(keys: &Instructions, start: u128, state: u128, blocks: &mut [[u8; BLOCK]]) -> u128 {
    let [.., last] = &keys.powers;
    let (strides, end) = blocks.as_chunks_mut::<STRIDE>();
    let (start, mut state) = (load(start), load(state));
    let mut counter = 0;
    for stride in strides {
        turn_some(keys, start, &mut counter, stride);
        state = absorb_some(&keys.powers, state, stride);
    }
    for block in end.as_chunks_mut::<1>().0 {
        turn_some(keys, start, &mut counter, block);
        state = absorb_some(std::array::from_ref(last), state, block);
    }
    store(state)
}

#[target_feature(enable = "avx,aes")]
#[inline]
fn turn_some<const N: usize>(
    keys: &Instructions,
    start: __m128i,
    counter: &mut i64,
    blocks: &mut [[u8; BLOCK]; N],
) {
    let mut stream = [start; N];
    for block in &mut stream {
        *counter += 1;
        *block = _mm_xor_si128(start, _mm_set_epi64x(0, *counter));
    }
    for (block, key) in blocks.iter_mut().zip(encrypt(&keys.round_keys, stream)) {
        *block = store(_mm_xor_si128(load(u128::from_le_bytes(*block)), key)).to_le_bytes();
    }
}

/// As many blocks as powers, and one reduction. The first block waits for the state, so its product comes last.
#[target_feature(enable = "avx,pclmulqdq")]
#[inline]
fn absorb_some<const N: usize>(powers: &[Power; N], state: __m128i, blocks: &[[u8; BLOCK]; N]) -> __m128i {
    let mut sum = Product { r: _mm_setzero_si128(), f: _mm_setzero_si128() };
    for place in (0..N).rev() {
        let block = load(u128::from_le_bytes(blocks[place]));
        let block = if place == 0 { _mm_xor_si128(state, block) } else { block };
        let Product { r, f } = product(block, &powers[place]);
        sum = Product { r: _mm_xor_si128(sum.r, r), f: _mm_xor_si128(sum.f, f) };
    }
    reduce(sum)
}

/// R and F of the text above.
#[derive(Clone, Copy)]
struct Product {
    r: __m128i,
    f: __m128i,
}

#[target_feature(enable = "avx,pclmulqdq")]
#[inline]
fn product(m: __m128i, power: &Power) -> Product {
    let (h, d) = (load(power.h), load(power.d));
    Product {
        r: _mm_xor_si128(_mm_clmulepi64_si128(m, h, 0x11), _mm_clmulepi64_si128(m, d, 0x10)),
        f: _mm_xor_si128(_mm_clmulepi64_si128(m, h, 0x01), _mm_clmulepi64_si128(m, d, 0x00)),
    }
}

#[target_feature(enable = "avx,pclmulqdq")]
#[inline]
fn reduce(sum: Product) -> __m128i {
    let low = _mm_clmulepi64_si128(sum.f, _mm_set_epi64x(0, P), 0x00);
    _mm_xor_si128(_mm_xor_si128(sum.r, low), _mm_shuffle_epi32(sum.f, SWAP))
}

#[target_feature(enable = "avx")]
#[inline]
fn load(value: u128) -> __m128i {
    _mm_set_epi64x(((value >> 64) as u64).cast_signed(), (value as u64).cast_signed())
}

#[target_feature(enable = "avx")]
#[inline]
fn store(value: __m128i) -> u128 {
    let high = _mm_cvtsi128_si64(_mm_unpackhi_epi64(value, value));
    u128::from(high.cast_unsigned()) << 64 | u128::from(_mm_cvtsi128_si64(value).cast_unsigned())
}
