//! One record of TLS 1.3 (RFC 8446, 5.2 and 5.3), sealed and opened where it lies, and the chain of traffic secrets that
//! gives the keys (7.2 and 7.3).

use std::ops::Range;

use aws_lc_rs::{
    aead::{AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey},
    hkdf::{self, HKDF_SHA256, HKDF_SHA384, Prk},
};
use rustls::CipherSuite;
use zeroize::Zeroizing;

use super::Fault;

/// What a record begins with: type 1, version 2, length 2.
pub(crate) const HEADER: usize = 5;
const TAG: usize = 16;
const NONCE: usize = 12;
/// The most bytes of data in a record.
const MOST_DATA: usize = 1 << 14;
/// The most bytes behind a header.
const MOST_BODY: usize = MOST_DATA + 256;
/// The longest record.
pub(crate) const RECORD: usize = HEADER + MOST_BODY;

/// What a protected record holds. The outer type of all of them is that of data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Content {
    /// An alert.
    Alert = 21,
    /// A message of the kind that handshakes have, or a part of one.
    Handshake = 22,
    /// Data.
    Data = 23,
}

impl Content {
    fn from_byte(byte: u8) -> Option<Content> {
        [Content::Alert, Content::Handshake, Content::Data].into_iter().find(|content| *content as u8 == byte)
    }
}

/// A cipher suite of TLS 1.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// TLS_AES_128_GCM_SHA256
    Aes128,
    /// TLS_AES_256_GCM_SHA384
    Aes256,
    /// TLS_CHACHA20_POLY1305_SHA256
    ChaCha20,
}

impl Suite {
    /// As rustls calls it.
    pub fn from_rustls(suite: CipherSuite) -> Option<Suite> {
        match suite {
            CipherSuite::TLS13_AES_128_GCM_SHA256 => Some(Suite::Aes128),
            CipherSuite::TLS13_AES_256_GCM_SHA384 => Some(Suite::Aes256),
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => Some(Suite::ChaCha20),
            _ => None,
        }
    }

    fn cipher(self) -> &'static Algorithm {
        match self {
            Suite::Aes128 => &AES_128_GCM,
            Suite::Aes256 => &AES_256_GCM,
            Suite::ChaCha20 => &CHACHA20_POLY1305,
        }
    }

    fn hash(self) -> hkdf::Algorithm {
        match self {
            Suite::Aes128 | Suite::ChaCha20 => HKDF_SHA256,
            Suite::Aes256 => HKDF_SHA384,
        }
    }

    fn secret_length(self) -> usize {
        match self {
            Suite::Aes128 | Suite::ChaCha20 => 32,
            Suite::Aes256 => 48,
        }
    }

    /// Records under one key (RFC 8446, 5.5).
    pub(super) fn most_records(self) -> u64 {
        match self {
            Suite::Aes128 | Suite::Aes256 => 1 << 24,
            Suite::ChaCha20 => 1 << 62,
        }
    }
}

/// One direction of a connection, under one traffic secret.
pub struct RecordKey {
    suite: Suite,
    secret: Zeroizing<Vec<u8>>,
    key: LessSafeKey,
    iv: Zeroizing<[u8; NONCE]>,
    sequence: u64,
}

impl RecordKey {
    /// From a traffic secret under which `sequence` records have passed.
    pub fn new(suite: Suite, secret: &[u8], sequence: u64) -> Result<RecordKey, Fault> {
        if secret.len() != suite.secret_length() {
            return Err(Fault::NoKey);
        }
        let mut key = Zeroizing::new([0; 32]);
        let key = key.get_mut(..suite.cipher().key_len()).ok_or(Fault::NoKey)?;
        let mut iv = Zeroizing::new([0; NONCE]);
        expand(suite, secret, b"key", key)?;
        expand(suite, secret, b"iv", &mut *iv)?;
        let key = UnboundKey::new(suite.cipher(), key).map_err(|_| Fault::NoKey)?;
        Ok(RecordKey {
            suite,
            secret: Zeroizing::new(secret.to_vec()),
            key: LessSafeKey::new(key),
            iv,
            sequence,
        })
    }

    /// What comes after a key update.
    pub fn next(&self) -> Result<RecordKey, Fault> {
        let mut secret = Zeroizing::new(vec![0; self.secret.len()]);
        expand(self.suite, &self.secret, b"traffic upd", &mut secret)?;
        RecordKey::new(self.suite, &secret, 0)
    }

    pub(super) fn suite(&self) -> Suite {
        self.suite
    }

    /// Records that have passed.
    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Makes a record of what stands in `out` from `start`: room for the header, then the content.
    pub fn seal(&mut self, content: Content, out: &mut Vec<u8>, start: usize) -> Result<(), Fault> {
        out.push(content as u8);
        let nonce = self.next_nonce()?;
        let record = out.get_mut(start..).and_then(|record| record.split_first_chunk_mut::<HEADER>());
        let (header, text) = record.filter(|(_, text)| text.len() <= MOST_DATA + 1).ok_or(Fault::TooLong)?;
        let [.., high, low] = (text.len() + TAG).to_be_bytes();
        *header = [Content::Data as u8, 3, 3, high, low];
        let tag = self.key.seal_in_place_separate_tag(nonce, Aad::from(*header), text);
        out.extend_from_slice(tag.map_err(|_| Fault::NoKey)?.as_ref());
        Ok(())
    }

    /// Opens a whole record. What it holds lies in the range then.
    pub fn open(&mut self, record: &mut [u8]) -> Result<(Content, Range<usize>), Fault> {
        let nonce = self.next_nonce()?;
        let (header, body) = record.split_first_chunk_mut::<HEADER>().ok_or(Fault::BadTag)?;
        let text = self.key.open_in_place(nonce, Aad::from(*header), body).map_err(|_| Fault::BadTag)?;
        if text.len() > MOST_DATA + 1 {
            return Err(Fault::TooLong);
        }
        // Zeros behind the type are padding.
        let end = text.iter().rposition(|byte| *byte != 0).ok_or(Fault::Unexpected)?;
        let content = text.get(end).and_then(|byte| Content::from_byte(*byte)).ok_or(Fault::Unexpected)?;
        Ok((content, HEADER..HEADER + end))
    }

    fn next_nonce(&mut self) -> Result<Nonce, Fault> {
        let mut nonce = *self.iv;
        for (byte, number) in nonce.iter_mut().rev().zip(self.sequence.to_be_bytes().iter().rev()) {
            *byte ^= number;
        }
        self.sequence = self.sequence.checked_add(1).ok_or(Fault::NoKey)?;
        Ok(Nonce::assume_unique_for_key(nonce))
    }
}

/// The length of the record that `bytes` begin with, as soon as its header is there.
pub(super) fn record_length(bytes: &[u8]) -> Result<Option<usize>, Fault> {
    let Some([kind, _, _, high, low]) = bytes.first_chunk::<HEADER>() else { return Ok(None) };
    if *kind != Content::Data as u8 {
        return Err(Fault::Unexpected);
    }
    match usize::from(u16::from_be_bytes([*high, *low])) {
        body if body > MOST_BODY => Err(Fault::TooLong),
        body => Ok(Some(HEADER + body)),
    }
}

/// HKDF-Expand-Label (RFC 8446, 7.1) without a context.
fn expand(suite: Suite, secret: &[u8], label: &[u8], out: &mut [u8]) -> Result<(), Fault> {
    const PREFIX: &[u8] = b"tls13 ";
    let (length, label_length) = (out.len() as u16, (PREFIX.len() + label.len()) as u8);
    let info: [&[u8]; 5] = [&length.to_be_bytes(), &[label_length], PREFIX, label, &[0]];
    Prk::new_less_safe(suite.hash(), secret)
        .expand(&info, Length(out.len()))
        .and_then(|key| key.fill(out))
        .map_err(|_| Fault::NoKey)
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(suite: Suite) -> RecordKey {
        RecordKey::new(suite, &vec![7; suite.secret_length()], 0).unwrap()
    }

    /// A record with this inside: content, type and padding.
    fn record_with(inside: &[u8]) -> Vec<u8> {
        let key = key(Suite::Aes128);
        let [high, low] = ((inside.len() + TAG) as u16).to_be_bytes();
        let header = [23, 3, 3, high, low];
        let mut text = inside.to_vec();
        let nonce = Nonce::assume_unique_for_key(*key.iv);
        let tag = key.key.seal_in_place_separate_tag(nonce, Aad::from(header), &mut text).unwrap();
        [&header[..], &text, tag.as_ref()].concat()
    }

    #[test]
    fn the_padding_of_a_record_is_none_of_its_data() {
        let mut record = record_with(b"data\0\x17\0\0\0");
        let (content, range) = key(Suite::Aes128).open(&mut record).unwrap();
        assert_eq!((content, &record[range]), (Content::Data, &b"data\0"[..]));
    }

    #[test]
    fn a_record_without_a_type_or_of_an_unknown_one_is_refused() {
        for inside in [&b""[..], b"\0\0\0", b"data\x14", b"data\x18\0"] {
            let opened = key(Suite::Aes128).open(&mut record_with(inside));
            assert_eq!(opened.unwrap_err(), Fault::Unexpected, "{inside:?}");
        }
    }

    #[test]
    fn a_record_holds_as_much_as_the_standard_says_and_no_more() {
        let most = [vec![1; MOST_DATA], vec![23]].concat();
        assert_eq!(key(Suite::Aes128).open(&mut record_with(&most)).unwrap().1.len(), MOST_DATA);
        let more = [vec![1; MOST_DATA + 1], vec![23]].concat();
        assert_eq!(key(Suite::Aes128).open(&mut record_with(&more)).unwrap_err(), Fault::TooLong);
        assert!(key(Suite::Aes128).seal(Content::Data, &mut vec![0; HEADER + MOST_DATA], 0).is_ok());
        let sealed = key(Suite::Aes128).seal(Content::Data, &mut vec![0; HEADER + MOST_DATA + 1], 0);
        assert_eq!(sealed, Err(Fault::TooLong));
    }

    #[test]
    fn secrets_have_the_size_of_their_hash() {
        assert!(RecordKey::new(Suite::Aes256, &[7; 32], 0).is_err());
        assert!(RecordKey::new(Suite::Aes128, &[], 0).is_err());
    }

    #[test]
    fn every_record_has_its_own_number() {
        let (mut sealing, mut opening) = (key(Suite::ChaCha20), key(Suite::ChaCha20));
        let mut first = [vec![0; HEADER], b"same".to_vec()].concat();
        let mut second = first.clone();
        sealing.seal(Content::Data, &mut first, 0).unwrap();
        sealing.seal(Content::Data, &mut second, 0).unwrap();
        assert_ne!(first, second);
        // Out of turn it does not open.
        assert_eq!(opening.open(&mut second.clone()).unwrap_err(), Fault::BadTag);
        assert!(opening.open(&mut second).is_ok());
    }
}
