//! Fixed vectors of every derivation that two nodes must agree on, so that none changes by accident (PROTOCOL §1,
//! §4 to §7). Whoever changes one of these changes the protocol's version.

use data_encoding::HEXLOWER;
use rand::{SeedableRng, rngs::ChaCha20Rng};
use sha2::{Digest, Sha256};

use super::{
    Direction, Key,
    blind::{BlindedPublic, BlindedSecret, entry_key},
    datagram::{SessionSecret, Speaker},
    proof::{RouteKey, Token},
    seal::{PathSecret, aead_seal, stream_xor},
    wide_block::{WideBlock, tweak},
};
use crate::{
    identity::{ApSecret, NodeId, NodePublic, NodeSecret},
    wire::cell::BODY,
};

fn rng() -> ChaCha20Rng {
    ChaCha20Rng::from_seed([42; 32])
}

fn hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(bytes)
}

/// Long values are compared by their hash.
fn hash(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

#[test]
fn derived_keys() {
    let key = Key::from_bytes(std::array::from_fn(|place| place as u8));
    assert_eq!(
        hex(key.derive(&[]).as_bytes()),
        "9b4c8120a4823a95f47cde17a244f4507244ee6e3957d1fab9fa29b44d3829b7"
    );
    assert_eq!(
        hex(key.derive(&[b"opener", &[1]]).as_bytes()),
        "9ddbfcfc4aeb0a3c1e64a7c87dceb015d74e0a885a3482ecfd088c6b325816c7"
    );
}

#[test]
fn the_kem() {
    let mut rng = rng();
    let secret = PathSecret::generate(&mut rng);
    let (ciphertext, key) = secret.public().encapsulate(&mut rng).unwrap();
    assert_eq!(
        hash(secret.public().as_bytes()),
        "5eb44bea58e8af06cbdf9668ba157e0d359d33339db0904f0cdcec7e7a7efb41"
    );
    assert_eq!(hash(&ciphertext), "3e5b1e2a50ff2eb71733962857e91dfee5771b1d5657ad28f376c2204953c129");
    assert_eq!(hex(key.as_bytes()), "3a713fbbe4fe69b2350699ca7b7770694d975c3b9f2ed099a197039b53e47b38");
}

#[test]
fn once_used_keys() {
    let key = Key::from_bytes([1; 32]);
    let mut sealed = *b"goodie box";
    let tag = aead_seal(&key, &mut sealed);
    assert_eq!(hex(&sealed), "d85af7b81c5e23ddfc01");
    assert_eq!(hex(&tag), "2bd270849627d2b26f14b07360794233");
    let mut stream = [0; 20];
    stream_xor(&key, &mut stream);
    assert_eq!(hex(&stream), "7298caa565031eadc6ce23d23ea66378aea8ae89");
}

#[test]
fn a_cell_body() {
    let mut body = [0; BODY];
    WideBlock::new(&[1; 32]).encipher(&tweak(Direction::BtoA, 0x0102_0304), &mut body);
    assert_eq!(hash(&body), "59e7b2f3739e24843fadef23f1672f808b718b3d808b1dfbb66d185bceadb1c8");
}

#[test]
fn tokens() {
    let token = Token::make(
        &mut rng(),
        &RouteKey::from_bytes([1; 32]),
        &NodeId::from_bytes([2; 32]),
        &NodeId::from_bytes([3; 32]),
    );
    assert_eq!(hex(token.as_bytes()), "98191f46e5830216445436978803697abb591c6d9b1c62798db4f4195b3a8c6d");
}

#[test]
fn sealed_datagrams() {
    let mut out = Vec::new();
    SessionSecret::from_bytes([1; 32]).seal(&mut rng(), Speaker::Service, b"hello", &mut out);
    assert_eq!(hex(&out), "98191f46e5830216445436978803697ab6350f9ae17d1c2a4e756690e54383088762aead14");
}

#[test]
fn nodes() {
    let node = NodeSecret::generate(&mut rng());
    assert_eq!(node.id().to_string(), "2076e5995ea494e9b56983a6e5a4122f5bf4eb89b38ba8cadaf6b87788c489c0");
    assert_eq!(
        NodePublic { nonce: 7, ..node.public() }.id().to_string(),
        "3f6e2ad35db22942912b90a80695c0a5ae3364316fafc9233ffecac144518bd5"
    );
    let mut worked = [0; 32];
    worked[..2].copy_from_slice(&38539_u16.to_be_bytes());
    assert_eq!(NodeId::from_bytes(worked).work(), 18);
    assert_eq!(NodeId::from_bytes([0x8b; 32]).work(), 0);
}

#[test]
fn anonymous_parties() {
    let party = ApSecret::generate(&mut rng());
    assert_eq!(party.public().address().to_string(), "fcb2:e85b:d7b2:2d53:173:50a9:719e:50af");
    assert_eq!(
        party.public().name().to_string(),
        "ah3gx4goltvvqk4t2z4aqigcajnzsz5o3krftpn3t46qff7m5uhbqfdb.ap"
    );
}

#[test]
fn blinded_keys() {
    let party = ApSecret::generate(&mut rng());
    assert_eq!(
        hex(BlindedPublic::of(&party.public(), 20_777).as_bytes()),
        "64e637b666ecbc64eaa23171f3c766649bf7415ca884f4ec02c76476fdf35107"
    );
    assert_eq!(
        hash(&BlindedSecret::of(&party, 20_777).sign(b"entry")),
        "b8b6949234157cf099021b64f6c0bf3c0667fd7feb27731414fb2360617bcf58"
    );
    assert_eq!(
        hex(entry_key(&party.public(), 20_777).as_bytes()),
        "018e9b9793888a1d18b5f2d5e2138a81044ddfaee8769ac82bc2e794c1577a38"
    );
}
