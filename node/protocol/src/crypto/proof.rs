//! Tokens: how a client proves to an entry node that it has read an AP entry (PROTOCOL §5).
//!
//! The entry node holds one route key per accepting path; the AP entry publishes it. A token is 16 random bytes and
//! 16 bytes of HMAC-SHA256 under the route key over them, the exit's and the entry's NodeId. So it serves one exit
//! at one entry, and shows to nobody without the route key what it leads to.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use rand_core::CryptoRng;
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::keys::Key;
use crate::identity::NodeId;

const NONCE: usize = 16;
const PROOF: usize = 16;
/// Bytes of a [`Token`].
pub const TOKEN: usize = NONCE + PROOF;

/// Shared by the owner of an entry, its entry node on one path, and all who can read the entry.
#[derive(Clone, PartialEq, Eq)]
pub struct RouteKey(Key);

impl RouteKey {
    /// A fresh one, for one path and one identity.
    pub fn random(rng: &mut impl CryptoRng) -> RouteKey {
        RouteKey(Key::random(rng))
    }

    /// From a goodie box or an AP entry.
    pub fn from_bytes(bytes: [u8; 32]) -> RouteKey {
        RouteKey(Key::from_bytes(bytes))
    }

    /// For a goodie box or an AP entry.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// Whether the token was made with this key, for this exit and this entry. Takes the same time either way.
    #[must_use]
    pub fn accepts(&self, token: &Token, exit: &NodeId, entry: &NodeId) -> bool {
        self.proof(&token.nonce(), exit, entry).ct_eq(&token.proof()).into()
    }

    #[allow(clippy::expect_used)] // invariant: HMAC takes keys of any length
    fn proof(&self, nonce: &[u8; NONCE], exit: &NodeId, entry: &NodeId) -> [u8; PROOF] {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.as_bytes()).expect("HMAC takes any key");
        mac.update(nonce);
        mac.update(exit.as_bytes());
        mac.update(entry.as_bytes());
        let full: [u8; 32] = mac.finalize().into_bytes().into();
        let (proof, _) = full.split_first_chunk().expect("half of a hash");
        *proof
    }
}

impl fmt::Debug for RouteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RouteKey(..)")
    }
}

/// Opens one tunnel from one exit at one entry, once.
#[derive(Clone, Copy)]
pub struct Token([u8; TOKEN]);

impl Token {
    /// A fresh token.
    pub fn make(rng: &mut impl CryptoRng, key: &RouteKey, exit: &NodeId, entry: &NodeId) -> Token {
        let mut nonce = [0; NONCE];
        rng.fill_bytes(&mut nonce);
        let mut token = [0; TOKEN];
        let (front, back) = token.split_at_mut(NONCE);
        front.copy_from_slice(&nonce);
        back.copy_from_slice(&key.proof(&nonce, exit, entry));
        Token(token)
    }

    /// From the wire: any 32 bytes may be one.
    pub fn from_bytes(bytes: [u8; TOKEN]) -> Token {
        Token(bytes)
    }

    /// For the wire.
    pub fn as_bytes(&self) -> &[u8; TOKEN] {
        &self.0
    }

    /// What an entry remembers so that no token works twice.
    pub fn nonce(&self) -> [u8; NONCE] {
        let [nonce @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = self.0;
        nonce
    }

    fn proof(&self) -> [u8; PROOF] {
        let [_, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, proof @ ..] = self.0;
        proof
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::ChaCha20Rng};

    use super::*;

    const EXIT: NodeId = NodeId::from_bytes([1; 32]);
    const ENTRY: NodeId = NodeId::from_bytes([2; 32]);

    #[test]
    fn a_token_serves_its_exit_and_entry_only() {
        let mut rng = ChaCha20Rng::from_seed([1; 32]);
        let key = RouteKey::random(&mut rng);
        let token = Token::make(&mut rng, &key, &EXIT, &ENTRY);
        assert!(key.accepts(&token, &EXIT, &ENTRY));
        assert!(!key.accepts(&token, &ENTRY, &EXIT));
        assert!(!key.accepts(&token, &EXIT, &EXIT));
        assert!(!RouteKey::random(&mut rng).accepts(&token, &EXIT, &ENTRY));
    }

    #[test]
    fn no_two_tokens_are_alike() {
        let mut rng = ChaCha20Rng::from_seed([1; 32]);
        let key = RouteKey::random(&mut rng);
        let (one, two) =
            (Token::make(&mut rng, &key, &EXIT, &ENTRY), Token::make(&mut rng, &key, &EXIT, &ENTRY));
        assert_ne!(one.nonce(), two.nonce());
        assert_ne!(one.proof(), two.proof());
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let mut rng = ChaCha20Rng::from_seed([1; 32]);
        let key = RouteKey::random(&mut rng);
        let token = Token::make(&mut rng, &key, &EXIT, &ENTRY);
        for bit in 0..8 * TOKEN {
            let mut bytes = *token.as_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(!key.accepts(&Token::from_bytes(bytes), &EXIT, &ENTRY), "bit {bit}");
        }
    }
}
