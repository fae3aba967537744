//! Blinded keys: what an AP entry is signed and stored under in one epoch (PROTOCOL §7).
//!
//! As in Tor's version 3 onion services: the public key A becomes hA, the secret scalar a becomes ha, where h is a
//! hash of A and the epoch. Whoever knows A can compute hA for every epoch; nobody else can tell which hA belong
//! together. Keys must be canonical encodings of points without a small-order part, otherwise one identity would
//! have several blinded keys.

use std::fmt;

use curve25519_dalek::{
    edwards::{CompressedEdwardsY, EdwardsPoint},
    scalar::Scalar,
};
use ed25519_dalek::{
    Signature, VerifyingKey,
    hazmat::{ExpandedSecretKey, raw_sign},
};
use sha2::{Digest, Sha512};
use zeroize::Zeroizing;

use super::keys::Key;
use crate::identity::{ApPublic, ApSecret, SUITE};

/// An identity's public key in one epoch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlindedPublic([u8; 32]);

impl BlindedPublic {
    /// The blinded key of an identity.
    pub fn of(public: &ApPublic, epoch: u64) -> BlindedPublic {
        let point = public.point() * factor(public, epoch);
        BlindedPublic(point.compress().to_bytes())
    }

    /// From a stranger: refuses what no identity can have.
    pub fn from_bytes(bytes: [u8; 32]) -> Option<BlindedPublic> {
        sound_point(&bytes).map(|_| BlindedPublic(bytes))
    }

    /// For the wire.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Whether the owner of the identity signed this, in this key's epoch.
    #[must_use]
    pub fn verify(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        verify_strict(&self.0, message, signature)
    }
}

impl fmt::Debug for BlindedPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "BlindedPublic({a:02x}{b:02x}{c:02x}{d:02x})")
    }
}

/// What signs for an identity in one epoch.
pub struct BlindedSecret {
    expanded: ExpandedSecretKey,
    public: BlindedPublic,
    verifying: VerifyingKey,
}

impl BlindedSecret {
    /// The blinded secret of an identity.
    pub fn of(secret: &ApSecret, epoch: u64) -> BlindedSecret {
        let identity = secret.expanded();
        let public = secret.public();
        let scalar = identity.scalar * factor(&public, epoch);
        let point = EdwardsPoint::mul_base(&scalar);
        let expanded = ExpandedSecretKey { scalar, hash_prefix: prefix(&identity.hash_prefix, epoch) };
        BlindedSecret {
            expanded,
            public: BlindedPublic(point.compress().to_bytes()),
            verifying: VerifyingKey::from(point),
        }
    }

    /// What the signatures of this key are checked with.
    pub fn public(&self) -> &BlindedPublic {
        &self.public
    }

    /// Signs as Ed25519 does.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        raw_sign::<Sha512>(&self.expanded, message, &self.verifying).to_bytes()
    }
}

impl fmt::Debug for BlindedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlindedSecret(of {:?})", self.public)
    }
}

/// What an identity's entry is enciphered under in one epoch: known to all who know the public key, and to nobody
/// who merely stores the entry.
pub fn entry_key(public: &ApPublic, epoch: u64) -> Key {
    Key::from_bytes(*public.as_bytes()).derive(&[b"phantom-ap-entry-v1", &[SUITE], &epoch.to_be_bytes()])
}

/// Decodes a point; refuses encodings that are not canonical, and points with a small-order part.
pub(crate) fn sound_point(bytes: &[u8; 32]) -> Option<EdwardsPoint> {
    let point = CompressedEdwardsY(*bytes).decompress()?;
    let sound = point.compress().as_bytes() == bytes && !point.is_small_order() && point.is_torsion_free();
    sound.then_some(point)
}

/// Ed25519 with the checks of `verify_strict`: no small-order key or commitment, no second form of a signature.
pub(crate) fn verify_strict(key: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> bool {
    VerifyingKey::from_bytes(key)
        .is_ok_and(|key| key.verify_strict(message, &Signature::from_bytes(signature)).is_ok())
}

fn factor(public: &ApPublic, epoch: u64) -> Scalar {
    let hash = Sha512::new()
        .chain_update(b"phantom-blind-v1")
        .chain_update([SUITE])
        .chain_update(public.as_bytes())
        .chain_update(epoch.to_be_bytes());
    Scalar::from_bytes_mod_order_wide(&hash.finalize().into())
}

/// The blinded key's own part of the nonces of signatures: it must differ where the scalar differs.
#[allow(clippy::expect_used)] // invariant: half of a hash of 64 bytes
fn prefix(identity: &[u8; 32], epoch: u64) -> [u8; 32] {
    let hash = Sha512::new()
        .chain_update(b"phantom-blind-nonce-v1")
        .chain_update(identity)
        .chain_update(epoch.to_be_bytes());
    let full: Zeroizing<[u8; 64]> = Zeroizing::new(hash.finalize().into());
    *full.first_chunk().expect("half of a hash")
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::ChaCha20Rng};

    use super::*;

    fn identity(seed: u8) -> ApSecret {
        ApSecret::generate(&mut ChaCha20Rng::from_seed([seed; 32]))
    }

    #[test]
    fn reader_and_owner_compute_one_blinded_key() {
        let secret = identity(1);
        for epoch in [0, 20_777, u64::MAX] {
            assert_eq!(
                BlindedPublic::of(&secret.public(), epoch),
                *BlindedSecret::of(&secret, epoch).public()
            );
        }
    }

    #[test]
    fn blinded_signatures_verify_in_their_epoch_only() {
        let secret = identity(1);
        let today = BlindedSecret::of(&secret, 7);
        let signature = today.sign(b"entry");
        assert!(today.public().verify(b"entry", &signature));
        assert!(!today.public().verify(b"another", &signature));
        assert!(!BlindedPublic::of(&secret.public(), 8).verify(b"entry", &signature));
        assert!(!secret.public().verify(b"entry", &signature));
    }

    #[test]
    fn blinded_keys_are_sound_and_differ_by_epoch_and_identity() {
        let (one, two) = (identity(1).public(), identity(2).public());
        let keys = [BlindedPublic::of(&one, 1), BlindedPublic::of(&one, 2), BlindedPublic::of(&two, 1)];
        for (place, key) in keys.iter().enumerate() {
            assert_eq!(BlindedPublic::from_bytes(*key.as_bytes()), Some(*key));
            assert!(!keys[..place].contains(key));
        }
    }

    #[test]
    fn the_entry_key_changes_with_the_epoch() {
        let public = identity(1).public();
        assert_ne!(entry_key(&public, 1), entry_key(&public, 2));
    }

    #[test]
    fn small_order_and_mixed_keys_are_refused() {
        for torsion in curve25519_dalek::constants::EIGHT_TORSION {
            assert!(BlindedPublic::from_bytes(torsion.compress().to_bytes()).is_none());
            let mixed = identity(1).public().point() + torsion;
            let pure = torsion == EdwardsPoint::default();
            assert_eq!(BlindedPublic::from_bytes(mixed.compress().to_bytes()).is_some(), pure);
        }
    }

    #[test]
    fn encodings_that_are_not_canonical_are_refused() {
        // y = p + 1 .. p + 18 and the two points with x = 0 and a sign bit.
        for low in 0xee..=0xff {
            let mut bytes = [0xff; 32];
            bytes[0] = low;
            for last in [0x7f, 0xff] {
                bytes[31] = last;
                assert!(sound_point(&bytes).is_none());
            }
        }
        let mut minus_zero = [0; 32];
        minus_zero[0] = 1;
        minus_zero[31] = 0x80;
        assert!(sound_point(&minus_zero).is_none());
    }
}
