//! Sealing to a path key: hybrid KEM, and the ciphers whose keys are used once (PROTOCOL §4).
//!
//! The KEM is X25519 and ML-KEM-768 side by side. HKDF-SHA256-Extract takes both secrets, both ciphertexts and both
//! public keys, so the result is secret while either of the two is unbroken, and is bound to one ciphertext and one
//! recipient. An X25519 result of zeros (a public key of small order) is refused on both sides.

use std::fmt;

use aes::Aes256;
use aes_gcm::{
    Aes256Gcm, Tag,
    aead::{AeadInOut, KeyInit},
};
use ctr::{
    Ctr128BE,
    cipher::{KeyIvInit, StreamCipher},
};
use hkdf::HkdfExtract;
use libcrux_ml_kem::mlkem768::{self, MlKem768Ciphertext, MlKem768PrivateKey, MlKem768PublicKey};
use rand_core::CryptoRng;
use sha2::Sha256;
use x25519_dalek::{PublicKey, SharedSecret, StaticSecret};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::keys::Key;

const X25519: usize = 32;
const KEM_SEED: usize = 64;
const KEM_PUBLIC: usize = 1184;
const KEM_CIPHERTEXT: usize = 1088;
const KEM_COINS: usize = 32;

/// Bytes of an encapsulation: X25519 public key, ML-KEM ciphertext.
pub const CIPHERTEXT: usize = X25519 + KEM_CIPHERTEXT;
/// Bytes of a [`PathPublic`]: X25519 public key, ML-KEM public key.
pub const PUBLIC: usize = X25519 + KEM_PUBLIC;
/// Bytes of a stored [`PathSecret`]: X25519 secret, ML-KEM seed.
pub const SECRET: usize = X25519 + KEM_SEED;
/// Bytes that [`aead_seal`] adds.
pub const TAG: usize = 16;

const SALT: &[u8] = b"phantom-path-kem-v1: x25519, ml-kem-768";

/// What opens slots that were sealed to a [`PathPublic`].
pub struct PathSecret {
    x25519: StaticSecret,
    seed: Zeroizing<[u8; KEM_SEED]>,
    kem: Box<MlKem768PrivateKey>,
    public: PathPublic,
}

impl PathSecret {
    /// A fresh key pair.
    pub fn generate(rng: &mut impl CryptoRng) -> PathSecret {
        let mut bytes = Zeroizing::new([0; SECRET]);
        rng.fill_bytes(bytes.as_mut_slice());
        PathSecret::from_bytes(&bytes)
    }

    /// The key pair that [`PathSecret::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8; SECRET]) -> PathSecret {
        let (x25519, seed) = halves::<SECRET, X25519, KEM_SEED>(bytes);
        let x25519 = StaticSecret::from(*x25519);
        let pair = mlkem768::generate_key_pair(*seed);
        let (kem, kem_public) = pair.into_parts();
        let public = PathPublic::join(PublicKey::from(&x25519).as_bytes(), kem_public.as_slice());
        PathSecret { x25519, seed: Zeroizing::new(*seed), kem: Box::new(kem), public }
    }

    /// For the disk.
    pub fn to_bytes(&self) -> Zeroizing<[u8; SECRET]> {
        let mut bytes = Zeroizing::new([0; SECRET]);
        let (x25519, seed) = bytes.split_at_mut(X25519);
        x25519.copy_from_slice(self.x25519.as_bytes());
        seed.copy_from_slice(self.seed.as_slice());
        bytes
    }

    /// What others seal to.
    pub fn public(&self) -> &PathPublic {
        &self.public
    }

    /// The key that [`PathPublic::encapsulate`] gave to its caller. A ciphertext that was made for another key, or
    /// altered, yields an unrelated key, which no tag fits; only an X25519 result of zeros is refused here.
    pub fn decapsulate(&self, ciphertext: &[u8; CIPHERTEXT]) -> Option<Key> {
        let (ephemeral, kem) = halves::<CIPHERTEXT, X25519, KEM_CIPHERTEXT>(ciphertext);
        let shared = self.x25519.diffie_hellman(&PublicKey::from(*ephemeral));
        let kem_shared = Zeroizing::new(mlkem768::decapsulate(&self.kem, &MlKem768Ciphertext::from(kem)));
        combine(&shared, &kem_shared, ciphertext, &self.public)
    }
}

impl Drop for PathSecret {
    fn drop(&mut self) {
        // The KEM's crate does not erase its keys; the other fields erase themselves.
        for index in 0..MlKem768PrivateKey::len() {
            self.kem[index].zeroize();
        }
    }
}

impl ZeroizeOnDrop for PathSecret {}

impl fmt::Debug for PathSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PathSecret(of {:?})", self.public)
    }
}

/// A node's path key, as its record names it.
#[derive(Clone, PartialEq, Eq)]
pub struct PathPublic(Box<[u8; PUBLIC]>);

impl PathPublic {
    /// Refuses what is no ML-KEM key. (Any 32 bytes are an X25519 key; those of small order fail when used.)
    pub fn from_bytes(bytes: &[u8; PUBLIC]) -> Option<PathPublic> {
        let (_, kem) = halves::<PUBLIC, X25519, KEM_PUBLIC>(bytes);
        mlkem768::validate_public_key(&MlKem768PublicKey::from(kem)).then(|| PathPublic(Box::new(*bytes)))
    }

    /// For the wire.
    pub fn as_bytes(&self) -> &[u8; PUBLIC] {
        &self.0
    }

    /// A fresh key and what tells it to the owner of this path key; nothing if this path key is one of small order.
    pub fn encapsulate(&self, rng: &mut impl CryptoRng) -> Option<([u8; CIPHERTEXT], Key)> {
        let (x25519, kem) = halves::<PUBLIC, X25519, KEM_PUBLIC>(&self.0);
        let ephemeral = StaticSecret::random_from_rng(rng);
        let shared = ephemeral.diffie_hellman(&PublicKey::from(*x25519));
        let mut coins = Zeroizing::new([0; KEM_COINS]);
        rng.fill_bytes(coins.as_mut_slice());
        let (kem_ciphertext, kem_shared) = mlkem768::encapsulate(&MlKem768PublicKey::from(kem), *coins);
        let kem_shared = Zeroizing::new(kem_shared);

        let mut ciphertext = [0; CIPHERTEXT];
        let (front, back) = ciphertext.split_at_mut(X25519);
        front.copy_from_slice(PublicKey::from(&ephemeral).as_bytes());
        back.copy_from_slice(kem_ciphertext.as_slice());
        let key = combine(&shared, &kem_shared, &ciphertext, self)?;
        Some((ciphertext, key))
    }

    fn join(x25519: &[u8; X25519], kem: &[u8; KEM_PUBLIC]) -> PathPublic {
        let mut bytes = Box::new([0; PUBLIC]);
        let (front, back) = bytes.split_at_mut(X25519);
        front.copy_from_slice(x25519);
        back.copy_from_slice(kem);
        PathPublic(bytes)
    }
}

impl fmt::Debug for PathPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = *self.0;
        write!(f, "PathPublic({a:02x}{b:02x}{c:02x}{d:02x})")
    }
}

/// The KEM's combiner. Every input has one length, so they are simply strung together.
#[allow(clippy::expect_used)] // invariant: one hash is asked for
fn combine(
    shared: &SharedSecret,
    kem_shared: &[u8; 32],
    ciphertext: &[u8; CIPHERTEXT],
    public: &PathPublic,
) -> Option<Key> {
    if !shared.was_contributory() {
        return None;
    }
    let mut extract = HkdfExtract::<Sha256>::new(Some(SALT));
    extract.input_ikm(shared.as_bytes());
    extract.input_ikm(kem_shared);
    extract.input_ikm(ciphertext);
    extract.input_ikm(public.as_bytes());
    let (mut pseudorandom, _) = extract.finalize();
    let key = Key::from_bytes(pseudorandom.into()).derive(&[b"path slot"]);
    pseudorandom.as_mut_slice().zeroize();
    Some(key)
}

/// Splits an array whose length is known; the lengths add up or it does not compile.
#[allow(clippy::expect_used)] // invariant: checked by the compiler
fn halves<const N: usize, const A: usize, const B: usize>(bytes: &[u8; N]) -> (&[u8; A], &[u8; B]) {
    const { assert!(N == A + B) };
    let (front, back) = bytes.split_first_chunk().expect("A is less than N");
    (front, back.try_into().expect("B is the rest of N"))
}

/// Enciphers in place with AES-256-GCM, nonce 0: **the key must never be used again**. Returns the tag.
#[allow(clippy::expect_used)] // invariant: nothing in memory reaches GCM's limit of 64 GiB
pub fn aead_seal(key: &Key, buffer: &mut [u8]) -> [u8; TAG] {
    Aes256Gcm::new(key.as_bytes().into())
        .encrypt_inout_detached(&Default::default(), &[], buffer.into())
        .expect("a buffer is shorter than 64 GiB")
        .into()
}

/// Opens in place what [`aead_seal`] made; leaves the buffer as it was, and says no, if it was made otherwise.
#[must_use]
pub fn aead_open(key: &Key, buffer: &mut [u8], tag: &[u8; TAG]) -> bool {
    Aes256Gcm::new(key.as_bytes().into())
        .decrypt_inout_detached(&Default::default(), &[], buffer.into(), &Tag::from(*tag))
        .is_ok()
}

/// XORs the AES-256-CTR stream from counter 0: **the key must never be used again**.
pub fn stream_xor(key: &Key, buffer: &mut [u8]) {
    Ctr128BE::<Aes256>::new(key.as_bytes().into(), &Default::default()).apply_keystream(buffer);
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::ChaCha20Rng};

    use super::*;

    fn rng() -> ChaCha20Rng {
        ChaCha20Rng::from_seed([1; 32])
    }

    #[test]
    fn both_sides_of_the_kem_get_one_key() {
        let mut rng = rng();
        let secret = PathSecret::generate(&mut rng);
        let (ciphertext, key) = secret.public().encapsulate(&mut rng).unwrap();
        assert_eq!(secret.decapsulate(&ciphertext), Some(key.clone()));
        let (_, other) = secret.public().encapsulate(&mut rng).unwrap();
        assert_ne!(key, other);
    }

    #[test]
    fn a_stored_secret_opens_what_the_first_one_did() {
        let mut rng = rng();
        let secret = PathSecret::generate(&mut rng);
        let stored = PathSecret::from_bytes(&secret.to_bytes());
        assert_eq!(stored.public(), secret.public());
        let (ciphertext, key) = secret.public().encapsulate(&mut rng).unwrap();
        assert_eq!(stored.decapsulate(&ciphertext), Some(key));
    }

    #[test]
    fn a_change_in_either_half_of_the_ciphertext_changes_the_key() {
        let mut rng = rng();
        let secret = PathSecret::generate(&mut rng);
        let (ciphertext, key) = secret.public().encapsulate(&mut rng).unwrap();
        for place in [0, X25519 - 1, X25519, CIPHERTEXT - 1] {
            let mut altered = ciphertext;
            altered[place] ^= 1;
            assert_ne!(secret.decapsulate(&altered), Some(key.clone()), "byte {place}");
        }
    }

    #[test]
    fn another_key_pair_gets_another_key() {
        let mut rng = rng();
        let (secret, other) = (PathSecret::generate(&mut rng), PathSecret::generate(&mut rng));
        let (ciphertext, key) = secret.public().encapsulate(&mut rng).unwrap();
        assert_ne!(other.decapsulate(&ciphertext), Some(key));
    }

    #[test]
    fn small_order_x25519_is_refused_on_both_sides() {
        let mut rng = rng();
        let secret = PathSecret::generate(&mut rng);
        let (mut ciphertext, _) = secret.public().encapsulate(&mut rng).unwrap();
        let mut public = *secret.public().as_bytes();
        for small in [[0; 32], std::array::from_fn(|i| u8::from(i == 0))] {
            ciphertext[..X25519].copy_from_slice(&small);
            assert_eq!(secret.decapsulate(&ciphertext), None);
            public[..X25519].copy_from_slice(&small);
            assert!(PathPublic::from_bytes(&public).unwrap().encapsulate(&mut rng).is_none());
        }
    }

    #[test]
    fn a_public_key_that_is_no_ml_kem_key_is_refused() {
        let mut public = *PathSecret::generate(&mut rng()).public().as_bytes();
        assert!(PathPublic::from_bytes(&public).is_some());
        public[X25519..X25519 + 3].fill(0xff); // coefficients that are not below q
        assert!(PathPublic::from_bytes(&public).is_none());
    }

    #[test]
    fn what_was_altered_does_not_open_and_stays_as_it_is() {
        let key = Key::from_bytes([3; 32]);
        let mut buffer = *b"goodie box";
        let tag = aead_seal(&key, &mut buffer);
        assert_ne!(&buffer, b"goodie box");
        let mut altered = buffer;
        altered[0] ^= 1;
        let before = altered;
        assert!(!aead_open(&key, &mut altered, &tag));
        assert_eq!(altered, before);
        assert!(!aead_open(&Key::from_bytes([4; 32]), &mut buffer, &tag));
        assert!(aead_open(&key, &mut buffer, &tag));
        assert_eq!(&buffer, b"goodie box");
    }

    #[test]
    fn the_stream_undoes_itself() {
        let key = Key::from_bytes([5; 32]);
        let mut buffer = [0; 100];
        stream_xor(&key, &mut buffer);
        assert_ne!(buffer, [0; 100]);
        stream_xor(&key, &mut buffer);
        assert_eq!(buffer, [0; 100]);
    }
}
