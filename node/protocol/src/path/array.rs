//! Building and peeling the array of 23 slots (PROTOCOL §4).
//!
//! Each node's slot is slot 0 when the array reaches it. It opens the slot, compares the SHA-256 of slots 1-22 with the
//! one inside, drops slot 0, appends a slot of zeros and turns all 23 with an AES-256-CTR stream whose key, used once,
//! stands in its slot; so the appended slot becomes a dummy that nobody can tell from the others. The owner computes
//! backward, as in Sphinx, what the streams will have made of the dummies, so that every node's hash covers them too:
//! one flipped bit anywhere is found by the next node.

use rand_core::CryptoRng;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::keys::PathKeys;
use crate::{
    crypto::{
        Key,
        seal::{PathPublic, aead_open, aead_seal, stream_xor},
    },
    limits::{ARRAY, SLOT, SLOTS},
    wire::setup::{CIPHERTEXT, Content, SetupArray, TAG},
};

/// What an array must look like when it comes back.
pub struct Circulation {
    returns: [u8; 32],
}

impl Circulation {
    /// Whether this is what the last node makes of the array if all nodes are honest. The owner tells nobody.
    pub fn returned(&self, array: &SetupArray) -> bool {
        sha256(array.as_bytes()).ct_eq(&self.returns).into()
    }
}

/// How a slot is sealed: one way for each round.
pub enum Seal<'a> {
    /// Round 1: to the node's path key.
    Setup(&'a PathPublic),
    /// Round 2: with the key made in round 1.
    Box(Key),
}

/// One slot, in the order of the circle.
pub struct Sealed<'a> {
    /// For whom.
    pub seal: Seal<'a>,
    /// What for: a setup package or goodie box.
    pub payload: Zeroizing<Vec<u8>>,
}

/// The key of a goodie box (PROTOCOL §4).
pub fn box_key(secret: &Key, previous: &[u8; 5], next: &[u8; 5]) -> Key {
    secret.derive(&[b"round 2", previous, next])
}

/// Seals one slot for each node, at most 23; the array is for the first of them. `None` if one of the path keys is not a usable one.
pub fn build(slots: &[Sealed<'_>], rng: &mut impl CryptoRng) -> Option<(SetupArray, Circulation)> {
    let count = slots.len();
    debug_assert!((1..=SLOTS).contains(&count));
    let streams: Vec<(Key, Zeroizing<Vec<u8>>)> = slots.iter().map(|_| fresh_stream(rng)).collect();

    // Slots 1-22 at the last node: filler, then what became of the dummies.
    let mut rest = Zeroizing::new(vec![0; (SLOTS - count) * SLOT]);
    rng.fill_bytes(&mut rest);
    rest.extend_from_slice(&dummies(streams.split_last()?.1));

    let mut array = SetupArray::zeroed();
    let mut returns = None;
    for (at, (slot, (key, _))) in slots.iter().zip(&streams).enumerate().rev() {
        let (own, others) = array.split_mut();
        others.copy_from_slice(&rest);
        seal(slot, &sha256(&rest), key, own, rng)?;
        returns.get_or_insert_with(|| {
            let mut last = array.clone();
            turn(&mut last, key);
            sha256(last.as_bytes())
        });
        let before = at.checked_sub(1).and_then(|before| streams.get(before));
        if let Some((_, stream)) = before {
            // This array is what the node before makes of its slots 1-22 and a zero slot.
            let whole: Vec<u8> = array.as_bytes().iter().zip(stream.iter()).map(|(a, b)| a ^ b).collect();
            let (shifted, appended) = whole.split_at(ARRAY - SLOT);
            debug_assert!(appended.iter().all(|byte| *byte == 0), "the dummies were computed right");
            rest = Zeroizing::new(shifted.to_vec());
        }
    }
    Some((array, Circulation { returns: returns? }))
}

/// What a node takes out of an array.
pub struct Peeled {
    /// The setup package or goodie box, and the zeros behind it.
    pub payload: Zeroizing<Vec<u8>>,
    /// For the next node.
    pub forward: SetupArray,
}

/// Round 1. `None` if no living key opens the slot, if a key has opened it before, or if anything was altered.
pub fn peel_setup(array: SetupArray, keys: &mut PathKeys) -> Option<Peeled> {
    let (own, _) = array.split();
    let (ciphertext, sealed) = own.split_first_chunk::<CIPHERTEXT>()?;
    let (sealed, tag) = sealed.split_last_chunk::<TAG>()?;
    let opened = keys.open(ciphertext, sealed, tag)?;
    let peeled = unwrap(&opened.content, array)?;
    keys.remember(opened.mark).then_some(peeled)
}

/// Round 2. `None` if anything was altered.
pub fn peel_box(array: SetupArray, key: &Key) -> Option<Peeled> {
    let (own, _) = array.split();
    let (sealed, tag) = own.split_last_chunk::<TAG>()?;
    let mut content = Zeroizing::new(sealed.to_vec());
    if !aead_open(key, &mut content, tag) {
        return None;
    }
    unwrap(&content, array)
}

/// PROTOCOL §4: the hash over slots 1-22 as received, then the shift and the stream.
fn unwrap(content: &[u8], mut array: SetupArray) -> Option<Peeled> {
    let content = Content::read(content).ok()?;
    let (_, others) = array.split();
    if !bool::from(sha256(others).ct_eq(&content.hash)) {
        return None;
    }
    turn(&mut array, &content.stream);
    Some(Peeled { payload: content.payload, forward: array })
}

fn turn(array: &mut SetupArray, stream: &Key) {
    array.shift();
    stream_xor(stream, array.as_bytes_mut());
}

fn fresh_stream(rng: &mut impl CryptoRng) -> (Key, Zeroizing<Vec<u8>>) {
    let key = Key::random(rng);
    let mut stream = Zeroizing::new(vec![0; ARRAY]);
    stream_xor(&key, &mut stream);
    (key, stream)
}

/// What the slots appended by these nodes look like to the node after them.
fn dummies(streams: &[(Key, Zeroizing<Vec<u8>>)]) -> Zeroizing<Vec<u8>> {
    let mut tail = Zeroizing::new(Vec::with_capacity(ARRAY));
    for (_, stream) in streams {
        let (shifted, appended) = stream.split_at(ARRAY - SLOT);
        let (_, over_tail) = shifted.split_at(shifted.len() - tail.len());
        tail.iter_mut().zip(over_tail).for_each(|(byte, mask)| *byte ^= mask);
        tail.extend_from_slice(appended);
    }
    tail
}

fn seal(
    slot: &Sealed<'_>,
    hash: &[u8; 32],
    stream: &Key,
    out: &mut [u8],
    rng: &mut impl CryptoRng,
) -> Option<()> {
    let (key, sealed) = match &slot.seal {
        Seal::Setup(public) => {
            let (ciphertext, key) = public.encapsulate(rng)?;
            let (head, sealed) = out.split_first_chunk_mut::<CIPHERTEXT>()?;
            *head = ciphertext;
            (key, sealed)
        }
        Seal::Box(key) => (key.clone(), out),
    };
    let (content, tag) = sealed.split_last_chunk_mut::<TAG>()?;
    Content::write(hash, stream, &slot.payload, content);
    *tag = aead_seal(&key, content);
    Some(())
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

#[cfg(test)]
mod tests;
