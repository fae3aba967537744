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
//! AES and the multiplication are different units, which can begin one instruction in each cycle, if instructions for
//! both come in turn: a processor looks ahead for two hundred instructions, and each unit's come in blocks of seventy.
//! So [`turn`] turns some blocks, and between the rounds multiplies those that were turned before, and what else
//! there is to be hashed.
//!
//! The only `unsafe` of the core is here: calls of functions that are compiled for instructions which not every
//! processor has, behind the question whether this one has them. They compute with values and dereference nothing.

#![allow(unsafe_code)]

use std::{
    arch::x86_64::{
        __m128i, _mm_add_epi64, _mm_aesenc_si128, _mm_aesenclast_si128, _mm_aeskeygenassist_si128,
        _mm_clmulepi64_si128, _mm_cvtsi128_si64, _mm_set_epi64x, _mm_setzero_si128, _mm_shuffle_epi32,
        _mm_slli_si128, _mm_unpackhi_epi64, _mm_xor_si128,
    },
    hint::black_box,
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
    powers: Powers,
}

type RoundKeys = [u128; ROUNDS + 1];
/// H^STRIDE, ..., H^1.
type Powers = [Power; STRIDE];
type Stride = [[u8; BLOCK]; STRIDE];

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
        let [state, _] = unsafe { turn::<false, false>(self, start, [state, 0], blocks, &self.powers, &[]) };
        state
    }

    /// Absorbs what the blocks become under the `next` key, too.
    pub(super) fn turn_and_absorb_twice(
        &self,
        start: u128,
        states: [u128; 2],
        blocks: &mut [[u8; BLOCK]],
        next: &Instructions,
    ) -> [u128; 2] {
        // SAFETY: `self` exists, so the processor has all the features that the function is compiled for.
        unsafe { turn::<true, false>(self, start, states, blocks, &next.powers, &[]) }
    }

    /// Absorbs `others` under the `next` key, too. There must be as many.
    pub(super) fn turn_and_absorb_beside(
        &self,
        start: u128,
        states: [u128; 2],
        blocks: &mut [[u8; BLOCK]],
        next: &Instructions,
        others: &[[u8; BLOCK]],
    ) -> [u128; 2] {
        // SAFETY: `self` exists, so the processor has all the features that the function is compiled for.
        unsafe { turn::<true, true>(self, start, states, blocks, &next.powers, others) }
    }
}

#[target_feature(enable = "avx,aes,pclmulqdq")]
fn expand(key: &[u8; 32]) -> Instructions {
    let round_keys = round_keys(key);
    let [first, ..] = round_keys;
    let [hash_key] = encrypt(&round_keys, [load(first)]);
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

/// AES of blocks to which the first round key was added.
#[target_feature(enable = "avx,aes")]
#[inline]
fn encrypt<const N: usize>(keys: &RoundKeys, mut blocks: [__m128i; N]) -> [__m128i; N] {
    let [_, middle @ .., last] = keys;
    for key in middle {
        round(*key, &mut blocks);
    }
    for block in &mut blocks {
        *block = _mm_aesenclast_si128(*block, load(*last));
    }
    blocks
}

#[target_feature(enable = "avx,pclmulqdq")]
fn powers(hash_key: u128) -> Powers {
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
fn absorb(powers: &Powers, state: u128, blocks: &[[u8; BLOCK]]) -> u128 {
    let (strides, end) = blocks.as_chunks();
    let mut state = load(state);
    for stride in strides {
        state = absorb_some(powers, state, stride);
    }
    absorb_singly(powers, state, end)
}

/// XCTR over a message, its hash as it becomes, and if there are `TWO` hashes, one under `powers`: that of an `OTHER`
/// message as long, or that of this one once more. Each hash begins with one of the states.
///
/// What is hashed beside each stride is the one before it. All is decided when this is compiled: a choice in the loop
/// costs a tenth.
#[target_feature(enable = "avx,aes,pclmulqdq")]
fn turn<const TWO: bool, const OTHER: bool>(
    keys: &Instructions,
    start: u128,
    [own, beside]: [u128; 2],
    blocks: &mut [[u8; BLOCK]],
    powers: &Powers,
    others: &[[u8; BLOCK]],
) -> [u128; 2] {
    let [first, ..] = keys.round_keys;
    let mut counters = Counters::new(load(start ^ first));
    let mut states = [load(own), load(beside)];
    let (strides, end) = blocks.as_chunks_mut::<STRIDE>();
    let (others, others_end) = others.as_chunks::<STRIDE>();
    if let Some((first, rest)) = strides.split_first_mut() {
        let stream = encrypt(&keys.round_keys, counters.next());
        let mut before = turn_stride(first, stream);
        for (number, stride) in rest.iter_mut().enumerate() {
            let hashed = [&before, if OTHER { &others[number] } else { &before }];
            let (stream, after) = encrypt_and_absorb::<TWO>(keys, powers, counters.next(), states, hashed);
            states = after;
            before = turn_stride(stride, stream);
        }
        states[0] = absorb_some(&keys.powers, states[0], &before);
        if TWO {
            states[1] = absorb_some(powers, states[1], if OTHER { &others[rest.len()] } else { &before });
        }
    }
    for block in end.iter_mut() {
        let [key] = encrypt(&keys.round_keys, counters.next());
        *block = xor(block, key);
    }
    let [own, beside] = states;
    let own = absorb_singly(&keys.powers, own, end);
    let beside_end = if OTHER { others_end } else { end };
    [own, if TWO { absorb_singly(powers, beside, beside_end) } else { 0 }]
}

/// XORs a stride's keystream over it; what it has become.
#[target_feature(enable = "avx")]
#[inline]
fn turn_stride(stride: &mut Stride, stream: [__m128i; STRIDE]) -> Stride {
    for (block, key) in stride.iter_mut().zip(stream) {
        *block = xor(block, key);
    }
    *stride
}

/// Encrypts a stride as [`encrypt`] does, and absorbs two others between the rounds: one under its own powers, one under `powers`.
///
/// The loop must stay one: in one piece, the compiler would put all multiplications first and all rounds after them,
/// and one unit would wait for the other. Hence the black box.
#[target_feature(enable = "avx,aes,pclmulqdq")]
#[inline]
fn encrypt_and_absorb<const TWO: bool>(
    keys: &Instructions,
    powers: &Powers,
    mut blocks: [__m128i; STRIDE],
    states: [__m128i; 2],
    [own, beside]: [&Stride; 2],
) -> ([__m128i; STRIDE], [__m128i; 2]) {
    /// Rounds beside each block but the first, which waits for the state: it comes last.
    const ROUNDS_A_BLOCK: usize = 3;
    const { assert!(ROUNDS == ROUNDS_A_BLOCK * (STRIDE - 1) + 2) };
    let [_, rounds @ .., before_last, last] = &keys.round_keys;
    let mut sums = [Product::zero(); 2];
    let rounds = black_box(rounds.as_chunks::<ROUNDS_A_BLOCK>().0);
    for (place, [one, two, three]) in (1..STRIDE).rev().zip(rounds) {
        round(*one, &mut blocks);
        if TWO {
            sums[1] = sums[1].plus(product(load_block(&beside[place]), &powers[place]));
        }
        round(*two, &mut blocks);
        sums[0] = sums[0].plus(product(load_block(&own[place]), &keys.powers[place]));
        round(*three, &mut blocks);
    }
    round(*before_last, &mut blocks);
    let block = _mm_xor_si128(states[0], load_block(&own[0]));
    let own = reduce(sums[0].plus(product(block, &keys.powers[0])));
    let beside = if TWO {
        let block = _mm_xor_si128(states[1], load_block(&beside[0]));
        reduce(sums[1].plus(product(block, &powers[0])))
    } else {
        states[1]
    };
    for block in &mut blocks {
        *block = _mm_aesenclast_si128(*block, load(*last));
    }
    (blocks, [own, beside])
}

#[target_feature(enable = "avx,aes")]
#[inline]
fn round<const N: usize>(key: u128, blocks: &mut [__m128i; N]) {
    let key = load(key);
    for block in blocks {
        *block = _mm_aesenc_si128(*block, key);
    }
}

/// What the keystream is made of, the first round key added.
struct Counters {
    start: __m128i,
    last: __m128i,
}

impl Counters {
    #[target_feature(enable = "avx")]
    #[inline]
    fn new(start: __m128i) -> Counters {
        Counters { start, last: _mm_setzero_si128() }
    }

    #[target_feature(enable = "avx")]
    #[inline]
    fn next<const N: usize>(&mut self) -> [__m128i; N] {
        let mut counters = [self.start; N];
        let mut number = 0;
        for block in &mut counters {
            number += 1;
            *block = _mm_xor_si128(self.start, _mm_add_epi64(self.last, _mm_set_epi64x(0, number)));
        }
        self.last = _mm_add_epi64(self.last, _mm_set_epi64x(0, number));
        counters
    }
}

#[target_feature(enable = "avx")]
#[inline]
fn xor(block: &[u8; BLOCK], key: __m128i) -> [u8; BLOCK] {
    store(_mm_xor_si128(load_block(block), key)).to_le_bytes()
}

/// As many blocks as powers, and one reduction. The first block waits for the state, so its product comes last.
#[target_feature(enable = "avx,pclmulqdq")]
#[inline]
fn absorb_some<const N: usize>(powers: &[Power; N], state: __m128i, blocks: &[[u8; BLOCK]; N]) -> __m128i {
    let mut sum = Product::zero();
    for place in (0..N).rev() {
        let block = load_block(&blocks[place]);
        let block = if place == 0 { _mm_xor_si128(state, block) } else { block };
        sum = sum.plus(product(block, &powers[place]));
    }
    reduce(sum)
}

/// What is less than a stride.
#[target_feature(enable = "avx,pclmulqdq")]
fn absorb_singly(powers: &Powers, mut state: __m128i, blocks: &[[u8; BLOCK]]) -> u128 {
    let [.., first] = powers;
    for block in blocks {
        state = absorb_some(std::array::from_ref(first), state, std::array::from_ref(block));
    }
    store(state)
}

/// R and F of the text above.
#[derive(Clone, Copy)]
struct Product {
    r: __m128i,
    f: __m128i,
}

impl Product {
    #[target_feature(enable = "avx")]
    #[inline]
    fn zero() -> Product {
        Product { r: _mm_setzero_si128(), f: _mm_setzero_si128() }
    }

    #[target_feature(enable = "avx")]
    #[inline]
    fn plus(self, other: Product) -> Product {
        Product { r: _mm_xor_si128(self.r, other.r), f: _mm_xor_si128(self.f, other.f) }
    }
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
fn load_block(block: &[u8; BLOCK]) -> __m128i {
    load(u128::from_le_bytes(*block))
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
