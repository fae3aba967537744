//! Who is who: nodes and anonymous parties (PROTOCOL §1).
//!
//! A node is known by its NodeId, the hash of its Ed25519 key and a work nonce. An anonymous party (AP) is known by
//! its Ed25519 key, from which its address and its name follow. The two kinds never meet: nothing here leads from
//! one to the other.

use std::fmt;

use curve25519_dalek::edwards::EdwardsPoint;
use ed25519_dalek::{Signer, SigningKey, hazmat::ExpandedSecretKey};
use rand_core::CryptoRng;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::{
    address::{ApAddress, ApName},
    crypto::blind::{sound_point, verify_strict},
};

/// The suite of all identities of this version: Ed25519. Another byte may one day be a post-quantum one.
pub const SUITE: u8 = 1;

/// Names a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId([u8; 32]);

impl NodeId {
    /// From the wire.
    pub const fn from_bytes(bytes: [u8; 32]) -> NodeId {
        NodeId(bytes)
    }

    /// For the wire.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The work behind this id: leading zero bits of a hash of it, so that a network's difficulty does not change
    /// ids.
    pub fn work(&self) -> u32 {
        let hash = Sha256::new().chain_update(b"work").chain_update(self.0).finalize();
        let zeros = hash.iter().take_while(|byte| **byte == 0).count();
        let first = hash.iter().nth(zeros).map_or(0, |byte| byte.leading_zeros());
        8 * zeros as u32 + first
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "{a:02x}{b:02x}{c:02x}{d:02x}")
    }
}

/// A node's public identity.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct NodePublic {
    /// Ed25519.
    pub key: [u8; 32],
    /// What the node searched for to show work; any number.
    pub nonce: u64,
}

impl NodePublic {
    /// The id that this identity has.
    pub fn id(&self) -> NodeId {
        let hash = Sha256::new()
            .chain_update(b"phantom-node-id-v1")
            .chain_update(self.key)
            .chain_update(self.nonce.to_be_bytes());
        NodeId(hash.finalize().into())
    }

    /// Whether this node signed this.
    #[must_use]
    pub fn verify(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        verify_strict(&self.key, message, signature)
    }
}

impl fmt::Debug for NodePublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodePublic({:?})", self.id())
    }
}

/// Bytes of a stored [`NodeSecret`].
pub const NODE_SECRET: usize = 40;

/// A node's identity.
pub struct NodeSecret {
    signing: SigningKey,
    nonce: u64,
    id: NodeId,
}

impl NodeSecret {
    /// A fresh identity that shows no work.
    pub fn generate(rng: &mut impl CryptoRng) -> NodeSecret {
        NodeSecret::new(generate_signing(rng), 0)
    }

    /// A fresh identity whose id shows at least `bits` of work: takes about 2^bits hashes.
    pub fn generate_with_work(rng: &mut impl CryptoRng, bits: u32) -> NodeSecret {
        let mut secret = NodeSecret::generate(rng);
        while secret.id.work() < bits {
            secret.nonce = secret.nonce.wrapping_add(1);
            secret.id = secret.public().id();
        }
        secret
    }

    /// The identity that [`NodeSecret::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8; NODE_SECRET]) -> NodeSecret {
        let [seed @ .., a, b, c, d, e, f, g, h] = bytes;
        NodeSecret::new(SigningKey::from_bytes(seed), u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]))
    }

    /// For the disk.
    pub fn to_bytes(&self) -> Zeroizing<[u8; NODE_SECRET]> {
        let mut bytes = Zeroizing::new([0; NODE_SECRET]);
        let (seed, nonce) = bytes.split_at_mut(32);
        seed.copy_from_slice(self.signing.as_bytes());
        nonce.copy_from_slice(&self.nonce.to_be_bytes());
        bytes
    }

    /// What others know.
    pub fn public(&self) -> NodePublic {
        NodePublic { key: self.signing.verifying_key().to_bytes(), nonce: self.nonce }
    }

    /// This node's id.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// Signs as Ed25519 does.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.signing.sign(message).to_bytes()
    }

    fn new(signing: SigningKey, nonce: u64) -> NodeSecret {
        let id = NodePublic { key: signing.verifying_key().to_bytes(), nonce }.id();
        NodeSecret { signing, nonce, id }
    }
}

impl fmt::Debug for NodeSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeSecret(of {:?})", self.id)
    }
}

/// The public key of an anonymous party. Always canonical and without a small-order part: the constructor checks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApPublic([u8; 32]);

impl ApPublic {
    /// Refuses keys that are not canonical or have a small-order part.
    pub fn from_bytes(bytes: [u8; 32]) -> Option<ApPublic> {
        sound_point(&bytes).map(|_| ApPublic(bytes))
    }

    /// For the wire.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The party's IPv6-shaped address.
    pub fn address(&self) -> ApAddress {
        ApAddress::of(self)
    }

    /// The party's full name.
    pub fn name(&self) -> ApName {
        ApName::of(self)
    }

    /// Whether this party signed this.
    #[must_use]
    pub fn verify(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        verify_strict(&self.0, message, signature)
    }

    #[allow(clippy::expect_used)] // invariant: the constructor has decoded it
    pub(crate) fn point(&self) -> EdwardsPoint {
        sound_point(&self.0).expect("checked when it was made")
    }
}

impl fmt::Debug for ApPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApPublic({})", self.address())
    }
}

/// The identity of an anonymous party.
pub struct ApSecret(SigningKey);

impl ApSecret {
    /// A fresh identity.
    pub fn generate(rng: &mut impl CryptoRng) -> ApSecret {
        ApSecret(generate_signing(rng))
    }

    /// The identity that [`ApSecret::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8; 32]) -> ApSecret {
        ApSecret(SigningKey::from_bytes(bytes))
    }

    /// For the disk.
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// What others know.
    pub fn public(&self) -> ApPublic {
        ApPublic(self.0.verifying_key().to_bytes()) // a multiple of the base point, freshly encoded
    }

    /// Signs as Ed25519 does.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }

    pub(crate) fn expanded(&self) -> ExpandedSecretKey {
        ExpandedSecretKey::from(self.0.as_bytes())
    }
}

impl fmt::Debug for ApSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApSecret(of {:?})", self.public())
    }
}

fn generate_signing(rng: &mut impl CryptoRng) -> SigningKey {
    let mut seed = Zeroizing::new([0; 32]);
    rng.fill_bytes(seed.as_mut_slice());
    SigningKey::from_bytes(&seed)
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::ChaCha20Rng};

    use super::*;

    fn rng() -> ChaCha20Rng {
        ChaCha20Rng::from_seed([1; 32])
    }

    #[test]
    fn a_stored_node_is_the_same_node() {
        let node = NodeSecret::generate_with_work(&mut rng(), 4);
        let stored = NodeSecret::from_bytes(&node.to_bytes());
        assert_eq!(stored.id(), node.id());
        assert_eq!(stored.public(), node.public());
        assert_eq!(stored.public().id(), node.id());
    }

    #[test]
    fn a_nodes_signature_is_its_own() {
        let mut rng = rng();
        let (node, other) = (NodeSecret::generate(&mut rng), NodeSecret::generate(&mut rng));
        let signature = node.sign(b"record");
        assert!(node.public().verify(b"record", &signature));
        assert!(!node.public().verify(b"other", &signature));
        assert!(!other.public().verify(b"record", &signature));
    }

    #[test]
    fn the_nonce_belongs_to_the_id() {
        let public = NodeSecret::generate(&mut rng()).public();
        assert_ne!(NodePublic { nonce: 1, ..public }.id(), public.id());
    }

    #[test]
    fn work_is_found_and_counted() {
        assert!(NodeSecret::generate_with_work(&mut rng(), 9).public().id().work() >= 9);
    }

    #[test]
    fn a_stored_party_is_the_same_party() {
        let party = ApSecret::generate(&mut rng());
        let stored = ApSecret::from_bytes(&party.to_bytes());
        assert_eq!(stored.public(), party.public());
        assert!(party.public().verify(b"hello", &stored.sign(b"hello")));
    }

    #[test]
    fn own_public_keys_pass_the_check_for_strangers() {
        let public = ApSecret::generate(&mut rng()).public();
        assert_eq!(ApPublic::from_bytes(*public.as_bytes()), Some(public));
    }

    #[test]
    fn a_key_of_small_order_is_no_party_and_verifies_nothing() {
        let mut identity = [0; 32];
        identity[0] = 1;
        assert_eq!(ApPublic::from_bytes(identity), None);
        let mut forged = [0; 64];
        forged[0] = 1;
        assert!(!NodePublic { key: identity, nonce: 0 }.verify(b"anything", &forged));
    }
}
