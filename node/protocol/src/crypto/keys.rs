//! Symmetric keys and how one comes from another (PROTOCOL §3, §5).
//!
//! A derived key is HKDF-SHA256-Expand of its parent under a label. A label is a list of parts; each part is written
//! with its length in front (two bytes, big-endian), so that no two lists look alike.

use std::fmt;

use hkdf::Hkdf;
use rand_core::CryptoRng;
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Bytes of a [`Key`].
pub const KEY: usize = 32;

/// A 256-bit secret: erased when dropped, compared in constant time, never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Key([u8; KEY]);

impl Key {
    /// A fresh key.
    pub fn random(rng: &mut impl CryptoRng) -> Key {
        let mut key = Key([0; KEY]);
        rng.fill_bytes(&mut key.0);
        key
    }

    /// A key that came over the wire or from the disk.
    pub fn from_bytes(bytes: [u8; KEY]) -> Key {
        Key(bytes)
    }

    /// A copy of another secret that leaves none behind on its way.
    pub fn copy_of(secret: &[u8; KEY]) -> Key {
        let mut key = Key([0; KEY]);
        key.0.copy_from_slice(secret);
        key
    }

    /// The secret itself, for sealing it into a message or handing it to a cipher.
    pub fn as_bytes(&self) -> &[u8; KEY] {
        &self.0
    }

    /// The child of this key that `label` names.
    #[allow(clippy::expect_used)] // invariants: KEY is the size of SHA-256's output
    pub fn derive(&self, label: &[&[u8]]) -> Key {
        let lengths: Vec<[u8; 2]> = label.iter().map(|part| part_length(part)).collect();
        let info: Vec<&[u8]> =
            lengths.iter().zip(label).flat_map(|(length, part)| [length.as_slice(), part]).collect();
        let mut child = Key([0; KEY]);
        Hkdf::<Sha256>::from_prk(&self.0)
            .expect("a key is as long as a hash")
            .expand_multi_info(&info, &mut child.0)
            .expect("one hash is not too much to ask for");
        child
    }
}

/// Labels are ours, not a peer's, and short; a part beyond 64 KiB would be cut off in its length only.
fn part_length(part: &[u8]) -> [u8; 2] {
    debug_assert!(part.len() <= usize::from(u16::MAX));
    (part.len() as u16).to_be_bytes()
}

impl ConstantTimeEq for Key {
    fn ct_eq(&self, other: &Key) -> subtle::Choice {
        self.0.ct_eq(&other.0)
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        self.ct_eq(other).into()
    }
}

impl Eq for Key {}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parent() -> Key {
        Key::from_bytes([7; KEY])
    }

    #[test]
    fn a_label_names_one_child() {
        assert_eq!(parent().derive(&[b"cells", b"a"]), parent().derive(&[b"cells", b"a"]));
        assert_ne!(parent().derive(&[b"cells", b"a"]), parent().derive(&[b"cells", b"b"]));
        assert_ne!(parent().derive(&[b"cells"]), parent());
    }

    #[test]
    fn moving_a_byte_between_the_parts_of_a_label_changes_the_child() {
        let children =
            [parent().derive(&[b"ab", b"c"]), parent().derive(&[b"a", b"bc"]), parent().derive(&[b"abc"])];
        assert_ne!(children[0], children[1]);
        assert_ne!(children[0], children[2]);
        assert_ne!(children[1], children[2]);
    }

    #[test]
    fn a_key_is_not_printed() {
        assert_eq!(format!("{:?}", parent()), "Key(..)");
    }
}
