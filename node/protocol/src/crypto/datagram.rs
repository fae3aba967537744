//! Sealed datagrams: what a session sends before its handshake hides it (PROTOCOL §6).
//!
//! A sealed datagram is a salt of 16 random bytes, then AES-256-GCM, with a nonce of zeros, under a key from the
//! session secret, the salt and who is speaking. So neither exit nor entry can read the first packets of a session,
//! and nobody who lacks the AP entry can shake hands with the service.

use std::fmt;

use rand_core::CryptoRng;

use super::{
    keys::Key,
    seal::{TAG, aead_open, aead_seal},
};

const SALT: usize = 16;
/// Bytes that sealing adds to a datagram.
pub const OVERHEAD: usize = SALT + TAG;

/// Which side of a session sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Speaker {
    /// Who opened the session.
    Client = 0,
    /// Who published the AP entry.
    Service = 1,
}

/// Random, once per sealed datagram. One that is known from another tunnel must not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Salt(pub [u8; SALT]);

/// The secret of one AP entry.
#[derive(Clone, PartialEq, Eq)]
pub struct SessionSecret(Key);

impl SessionSecret {
    /// A fresh one.
    pub fn random(rng: &mut impl CryptoRng) -> SessionSecret {
        SessionSecret(Key::random(rng))
    }

    /// From an AP entry.
    pub fn from_bytes(bytes: [u8; 32]) -> SessionSecret {
        SessionSecret(Key::from_bytes(bytes))
    }

    /// For an AP entry.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// Appends the sealed datagram to `out`.
    pub fn seal(&self, rng: &mut impl CryptoRng, speaker: Speaker, datagram: &[u8], out: &mut Vec<u8>) {
        let mut salt = [0; SALT];
        rng.fill_bytes(&mut salt);
        out.reserve(datagram.len() + OVERHEAD);
        out.extend_from_slice(&salt);
        let start = out.len();
        out.extend_from_slice(datagram);
        let (_, sealed) = out.split_at_mut(start);
        let tag = aead_seal(&self.key(&salt, speaker), sealed);
        out.extend_from_slice(&tag);
    }

    /// Appends what `sender` sealed to `out`; leaves `out` as it was if it does not open.
    pub fn open(&self, sender: Speaker, sealed: &[u8], out: &mut Vec<u8>) -> Option<Salt> {
        let (salt, rest) = sealed.split_first_chunk::<SALT>()?;
        let (content, tag) = rest.split_last_chunk::<TAG>()?;
        let start = out.len();
        out.extend_from_slice(content);
        let (_, opened) = out.split_at_mut(start);
        if aead_open(&self.key(salt, sender), opened, tag) {
            Some(Salt(*salt))
        } else {
            out.truncate(start);
            None
        }
    }

    fn key(&self, salt: &[u8; SALT], speaker: Speaker) -> Key {
        self.0.derive(&[b"sealed datagram", salt, &[speaker as u8]])
    }
}

impl fmt::Debug for SessionSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionSecret(..)")
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::ChaCha20Rng};

    use super::*;

    fn sealed() -> (SessionSecret, Vec<u8>) {
        let mut rng = ChaCha20Rng::from_seed([1; 32]);
        let secret = SessionSecret::random(&mut rng);
        let mut out = Vec::new();
        secret.seal(&mut rng, Speaker::Client, b"client hello", &mut out);
        (secret, out)
    }

    #[test]
    fn a_sealed_datagram_opens_and_grows_by_the_overhead() {
        let (secret, sealed) = sealed();
        assert_eq!(sealed.len(), 12 + OVERHEAD);
        let mut out = b"before ".to_vec();
        let salt = secret.open(Speaker::Client, &sealed, &mut out).unwrap();
        assert_eq!(out, b"before client hello");
        assert_eq!(salt.0, sealed[..SALT]);
    }

    #[test]
    fn a_reflected_datagram_does_not_open() {
        let (secret, sealed) = sealed();
        assert_eq!(secret.open(Speaker::Service, &sealed, &mut Vec::new()), None);
    }

    #[test]
    fn an_altered_or_cut_datagram_does_not_open_and_leaves_nothing_behind() {
        let (secret, sealed) = sealed();
        let mut out = b"before".to_vec();
        for place in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[place] ^= 0x80;
            assert_eq!(secret.open(Speaker::Client, &altered, &mut out), None);
            assert_eq!(secret.open(Speaker::Client, &sealed[..place], &mut out), None);
        }
        assert_eq!(out, b"before");
    }

    #[test]
    fn another_entrys_secret_does_not_open() {
        let (_, sealed) = sealed();
        let other = SessionSecret::from_bytes([9; 32]);
        assert_eq!(other.open(Speaker::Client, &sealed, &mut Vec::new()), None);
    }
}
