//! An identity on its way out of the state folder: one line of text, sealed by a passphrase.
//!
//! ```text
//! "phantom-identity-1:" base32 of    salt 16 | sealed 81 | checksum 4
//! sealed     AES-256-GCM, nonce 0, over    length of the name 1 | name, filled with zeros 32 | key 32
//! its key    Argon2id of passphrase and salt: 64 MiB, 3 passes, 4 lanes (RFC 9106 §4, second choice)
//! checksum   the first bytes of SHA-256 of all before it
//! ```
//!
//! So the line tells nobody which identity it holds. The salt is fresh for each, and with it the key, so the nonce need not
//! be. The checksum tells damage from a wrong passphrase. The number in front stands for all of this: another way of doing it
//! gets another number.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use data_encoding::{BASE32_NOPAD, BASE32_NOPAD_NOCASE};
use phantom_protocol::identity::ApSecret;
use rand::CryptoRng;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::doors::is_label;

/// What the line begins with, without the version.
const PREFIX: &str = "phantom-identity-";
const VERSION: &str = "1";
const SALT: usize = 16;
const NAME: usize = 32;
const KEY: usize = 32;
const PLAIN: usize = 1 + NAME + KEY;
const TAG: usize = 16;
const CHECKSUM: usize = 4;
const MEMORY_KIB: u32 = 64 * 1024;
const PASSES: u32 = 3;
const LANES: u32 = 4;

/// Why an exported identity cannot be taken in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealedError {
    /// Something else.
    #[error("it does not hold an exported identity (that is one line, {PREFIX}{VERSION}:...)")]
    NotOne,
    /// Made by a newer program.
    #[error(
        "it was made by another version of Phantom (format {0}, this one knows {VERSION}): use that version"
    )]
    OtherVersion(String),
    /// Not what was written.
    #[error("it is damaged: characters are missing or wrong. Use another copy")]
    Damaged,
    /// The passphrase does not open it.
    #[error("this is not its passphrase")]
    WrongPassphrase,
    /// Argon2 has no room.
    #[error("there is not enough memory: opening and sealing take {} MiB", MEMORY_KIB / 1024)]
    NoMemory,
}

/// Seals an identity, with the name that it has here.
pub fn seal(
    name: &str,
    secret: &ApSecret,
    passphrase: &[u8],
    rng: &mut impl CryptoRng,
) -> Result<String, SealedError> {
    let mut salt = [0; SALT];
    rng.fill_bytes(&mut salt);
    let mut sealed = plain(name, secret).ok_or(SealedError::NotOne)?;
    let tag = key(passphrase, &salt)?
        .seal_in_place_separate_tag(
            Nonce::assume_unique_for_key([0; 12]),
            Aad::empty(),
            sealed.as_mut_slice(),
        )
        .map_err(|_| SealedError::Damaged)?;
    let mut bytes = [&salt[..], sealed.as_slice(), tag.as_ref()].concat();
    let checksum = checksum(&bytes);
    bytes.extend_from_slice(&checksum);
    Ok(format!("{PREFIX}{VERSION}:{}\n", BASE32_NOPAD.encode(&bytes).to_ascii_lowercase()))
}

/// Opens what [`seal`] has made: the name that it had there, and the identity.
pub fn open(text: &str, passphrase: &[u8]) -> Result<(String, ApSecret), SealedError> {
    let (salt, mut sealed) = parse(text)?;
    let plain = key(passphrase, &salt)?
        .open_in_place(Nonce::assume_unique_for_key([0; 12]), Aad::empty(), sealed.as_mut_slice())
        .map_err(|_| SealedError::WrongPassphrase)?;
    let (length, rest) = plain.split_first().ok_or(SealedError::Damaged)?;
    let (name, key) = rest.split_first_chunk::<NAME>().ok_or(SealedError::Damaged)?;
    let name = name.get(..usize::from(*length)).and_then(|name| std::str::from_utf8(name).ok());
    let name = name.filter(|name| is_label(name)).ok_or(SealedError::Damaged)?;
    let key = <&[u8; KEY]>::try_from(key).map_err(|_| SealedError::Damaged)?;
    Ok((name.to_owned(), ApSecret::from_bytes(key)))
}

/// What can be told without the passphrase.
pub fn check(text: &str) -> Result<(), SealedError> {
    parse(text).map(|_| ())
}

fn plain(name: &str, secret: &ApSecret) -> Option<Zeroizing<Vec<u8>>> {
    let mut filled = [0; NAME];
    filled.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
    let mut plain = Zeroizing::new(Vec::with_capacity(PLAIN));
    plain.push(u8::try_from(name.len()).ok()?);
    plain.extend_from_slice(&filled);
    plain.extend_from_slice(secret.to_bytes().as_slice());
    Some(plain)
}

fn parse(text: &str) -> Result<([u8; SALT], Zeroizing<Vec<u8>>), SealedError> {
    let (version, code) =
        text.trim().strip_prefix(PREFIX).and_then(|rest| rest.split_once(':')).ok_or(SealedError::NotOne)?;
    if version != VERSION {
        let is_number = version.len() <= 9 && version.bytes().all(|byte| byte.is_ascii_digit());
        return Err(if is_number { SealedError::OtherVersion(version.into()) } else { SealedError::NotOne });
    }
    let bytes = BASE32_NOPAD_NOCASE.decode(code.as_bytes()).map_err(|_| SealedError::Damaged)?;
    let (body, sum) = bytes.split_last_chunk::<CHECKSUM>().ok_or(SealedError::Damaged)?;
    let (salt, sealed) = body.split_first_chunk::<SALT>().ok_or(SealedError::Damaged)?;
    if sealed.len() != PLAIN + TAG || checksum(body) != *sum {
        return Err(SealedError::Damaged);
    }
    Ok((*salt, Zeroizing::new(sealed.to_vec())))
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM] {
    let [a, b, c, d, ..]: [u8; 32] = Sha256::digest(bytes).into();
    [a, b, c, d]
}

fn key(passphrase: &[u8], salt: &[u8; SALT]) -> Result<LessSafeKey, SealedError> {
    let params =
        argon2::Params::new(MEMORY_KIB, PASSES, LANES, Some(32)).map_err(|_| SealedError::NoMemory)?;
    let argon = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    let mut key = Zeroizing::new([0; 32]);
    argon.hash_password_into(passphrase, salt, key.as_mut_slice()).map_err(|_| SealedError::NoMemory)?;
    let key = UnboundKey::new(&AES_256_GCM, key.as_slice()).map_err(|_| SealedError::NoMemory)?;
    Ok(LessSafeKey::new(key))
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::ChaCha20Rng};

    use super::*;

    fn sealed(name: &str) -> String {
        let secret = ApSecret::from_bytes(&[7; 32]);
        seal(name, &secret, b"correct horse", &mut ChaCha20Rng::from_seed([1; 32])).unwrap()
    }

    #[test]
    fn what_was_sealed_opens_with_its_passphrase_alone() {
        let text = sealed("shop");
        let (name, secret) = open(&text, b"correct horse").unwrap();
        assert_eq!((name.as_str(), secret.to_bytes()), ("shop", Zeroizing::new([7; 32])));
        let wrong = open(&text, b"correct horses").map(|_| ()).unwrap_err();
        assert_eq!(wrong, SealedError::WrongPassphrase);
    }

    #[test]
    fn what_was_exported_once_stays_readable() {
        let kept = "phantom-identity-1:ai7toib2er3mijlguyomkxb4vbllg2oxz33wd4sxf2rxr4m5qwjiwqjotz6jgpn74cwq5ega6wnhk3rlzx55wm2f5tsoyolkepazr2jbtdnpizjtyicqmxiffysmh7rww35xbyvbajet2qh7ingzuwawzuq7uyisvq";
        let (name, secret) = open(kept, b"correct horse").unwrap();
        assert_eq!((name.as_str(), secret.to_bytes()), ("shop", Zeroizing::new([7; 32])));
    }

    #[test]
    fn it_survives_mail_programs_and_does_not_show_the_length_of_the_name() {
        let text = sealed("shop");
        assert_eq!(text.len(), sealed(&"a".repeat(32)).len());
        assert_eq!(text.lines().count(), 1);
        let shouted = text.trim().replace(
            text.trim().split_once(':').unwrap().1,
            &text.trim().split_once(':').unwrap().1.to_uppercase(),
        );
        assert_eq!(check(&format!("  {shouted}\r\n\n")), Ok(()));
    }

    #[test]
    fn every_damaged_character_is_found_without_the_passphrase() {
        let text = sealed("shop");
        let text = text.trim();
        let code = text.find(':').unwrap() + 1;
        for at in code..text.len() {
            let mut damaged = text.as_bytes().to_vec();
            damaged[at] = if damaged[at] == b'a' { b'b' } else { b'a' };
            assert_eq!(check(std::str::from_utf8(&damaged).unwrap()), Err(SealedError::Damaged), "{at}");
            assert!(check(&text[..at]).is_err(), "{at}");
        }
    }

    #[test]
    fn other_texts_and_versions_are_told_apart() {
        for other in
            ["", "hello", "phantom-invitation-1:aaaa", "phantom-identity-x:aaaa", "phantom-identity-1"]
        {
            assert_eq!(check(other), Err(SealedError::NotOne), "{other}");
        }
        assert_eq!(check("phantom-identity-2:aaaa"), Err(SealedError::OtherVersion("2".into())));
    }
}
