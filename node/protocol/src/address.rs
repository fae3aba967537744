//! How an anonymous party is written: as an IPv6-shaped address, and as a name (PROTOCOL §1).
//!
//! The address is the byte `fc` and 120 bits of a hash of the key: enough to recognise a party, not to find it. The
//! name holds the key itself: base32 of suite, key and two bytes of checksum, then `.ap`. Labels in front of a name
//! mean the same party.

use std::{fmt, net::Ipv6Addr, str::FromStr};

use data_encoding::{BASE32_NOPAD, DecodeKind};
use sha2::{Digest, Sha256};

use crate::identity::{ApPublic, SUITE};

const PREFIX: u8 = 0xfc;
const CHECKSUM: usize = 2;
const NAME: usize = 1 + 32 + CHECKSUM;
/// Characters of a full name in front of `.ap`.
pub const NAME_CHARS: usize = NAME * 8 / 5;

/// The address of an anonymous party: an IPv6 address that no router knows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApAddress([u8; 16]);

impl ApAddress {
    /// The address that belongs to a key.
    pub fn of(public: &ApPublic) -> ApAddress {
        let hash = Sha256::new()
            .chain_update(b"phantom-ap-address")
            .chain_update([SUITE])
            .chain_update(public.as_bytes())
            .finalize();
        let mut address = [PREFIX; 16];
        for (to, from) in address.iter_mut().skip(1).zip(hash) {
            *to = from;
        }
        ApAddress(address)
    }

    /// From the wire: nothing if it does not begin with `fc`.
    pub fn from_bytes(bytes: [u8; 16]) -> Option<ApAddress> {
        matches!(bytes, [PREFIX, ..]).then_some(ApAddress(bytes))
    }

    /// For the wire.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl From<ApAddress> for Ipv6Addr {
    fn from(address: ApAddress) -> Ipv6Addr {
        Ipv6Addr::from(address.0)
    }
}

/// An IPv6 address outside `fc00::/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not an AP address: those begin with fc")]
pub struct NotApAddress(pub Ipv6Addr);

impl TryFrom<Ipv6Addr> for ApAddress {
    type Error = NotApAddress;

    fn try_from(address: Ipv6Addr) -> Result<ApAddress, NotApAddress> {
        ApAddress::from_bytes(address.octets()).ok_or(NotApAddress(address))
    }
}

impl fmt::Display for ApAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ipv6Addr::from(self.0).fmt(f)
    }
}

impl fmt::Debug for ApAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApAddress({self})")
    }
}

/// A party's full name: its key, in a form that people can copy.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApName(ApPublic);

impl ApName {
    /// The name of a key.
    pub fn of(public: &ApPublic) -> ApName {
        ApName(*public)
    }

    /// The key that the name holds.
    pub fn public(&self) -> &ApPublic {
        &self.0
    }

    /// Whether a host name ends in `.ap`, whatever stands in front: then nobody else may resolve it.
    pub fn is_ap(host: &str) -> bool {
        strip_zone(host).is_some()
    }
}

impl fmt::Display for ApName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [0; NAME];
        let (front, check) = bytes.split_at_mut(NAME - CHECKSUM);
        for (to, from) in front.iter_mut().zip([SUITE].iter().chain(self.0.as_bytes())) {
            *to = *from;
        }
        check.copy_from_slice(&checksum(front));
        write!(f, "{}.ap", BASE32_NOPAD.encode(&bytes).to_ascii_lowercase())
    }
}

impl fmt::Debug for ApName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApName({self})")
    }
}

/// Why a host name is no full name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// Not in the zone.
    #[error("`{0}` does not end in .ap: only .ap names lead into the network")]
    NotAp(String),
    /// Nothing in front of `.ap`.
    #[error("there is no name in front of .ap")]
    Empty,
    /// Cut off, or never a full name.
    #[error(
        "a full name has {NAME_CHARS} characters in front of .ap, `{label}` has {}: was it cut off when it was copied?",
        .label.chars().count()
    )]
    Length {
        /// What stood there.
        label: String,
    },
    /// Outside base32.
    #[error("`{0}` cannot stand in a name: it consists of the letters a to z and the digits 2 to 7")]
    Character(char),
    /// Not written by us.
    #[error("the name's checksum does not fit: one of its characters is wrong, please copy it again")]
    Checksum,
    /// Of a newer version.
    #[error("the name belongs to an identity of kind {0}, which this version does not know: please update")]
    Suite(u8),
    /// A key that nobody can safely have.
    #[error("the name holds a key that is not valid")]
    Key,
}

impl FromStr for ApName {
    type Err = BadName;

    fn from_str(host: &str) -> Result<ApName, BadName> {
        let labels = strip_zone(host).ok_or_else(|| BadName::NotAp(host.to_owned()))?;
        let label = labels.rsplit('.').next().unwrap_or(labels).to_ascii_uppercase();
        let bytes = decode(&label)?;
        let (front, check) = bytes.split_at(NAME - CHECKSUM);
        if check != checksum(front) {
            return Err(BadName::Checksum);
        }
        let (suite, key) = front.split_first().ok_or(BadName::Empty)?;
        if *suite != SUITE {
            return Err(BadName::Suite(*suite));
        }
        let key = key.try_into().map_err(|_| BadName::Key)?;
        ApPublic::from_bytes(key).map(ApName).ok_or(BadName::Key)
    }
}

/// What stands in front of `.ap`; a root dot at the end is accepted.
fn strip_zone(host: &str) -> Option<&str> {
    let host = host.strip_suffix('.').unwrap_or(host);
    let (labels, zone) = host.rsplit_once('.').unwrap_or(("", host));
    zone.eq_ignore_ascii_case("ap").then_some(labels)
}

fn decode(label: &str) -> Result<[u8; NAME], BadName> {
    if label.is_empty() {
        return Err(BadName::Empty);
    }
    if let Some(wrong) = label.chars().find(|c| !matches!(c, 'A'..='Z' | '2'..='7')) {
        return Err(BadName::Character(wrong.to_ascii_lowercase()));
    }
    let wrong_length = || BadName::Length { label: label.to_ascii_lowercase() };
    if label.len() != NAME_CHARS {
        return Err(wrong_length());
    }
    let mut bytes = [0; NAME];
    BASE32_NOPAD.decode_mut(label.as_bytes(), &mut bytes).map_err(|partial| match partial.error.kind {
        DecodeKind::Length => wrong_length(),
        _ => BadName::Checksum,
    })?;
    Ok(bytes)
}

fn checksum(front: &[u8]) -> [u8; CHECKSUM] {
    let hash: [u8; 32] = Sha256::new().chain_update(b"phantom-ap-name").chain_update(front).finalize().into();
    let [a, b, ..] = hash;
    [a, b]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::ChaCha20Rng};

    use super::*;
    use crate::identity::ApSecret;

    fn public(seed: u8) -> ApPublic {
        ApSecret::generate(&mut ChaCha20Rng::from_seed([seed; 32])).public()
    }

    #[test]
    fn a_name_reads_back_however_it_is_written() {
        let name = public(1).name().to_string();
        assert_eq!(name.len(), NAME_CHARS + 3);
        for written in [
            name.clone(),
            name.to_ascii_uppercase(),
            format!("www.{name}"),
            format!("a.b.{name}."),
            format!("WWW_1.{name}"),
        ] {
            assert_eq!(written.parse::<ApName>().unwrap().public(), &public(1), "{written}");
        }
    }

    #[test]
    fn every_wrong_character_is_noticed() {
        let name = public(1).name().to_string();
        let mut missed = 0;
        for place in 0..NAME_CHARS {
            let mut typo: Vec<char> = name.chars().collect();
            typo[place] = if typo[place] == 'a' { 'b' } else { 'a' };
            let typo: String = typo.into_iter().collect();
            missed += usize::from(typo.parse::<ApName>().is_ok());
        }
        assert_eq!(missed, 0);
    }

    #[test]
    fn errors_say_what_to_do() {
        let name = public(1).name().to_string();
        let error = |host: &str| host.parse::<ApName>().unwrap_err().to_string();
        assert!(error("example.com").contains("does not end in .ap"));
        assert!(error(".ap").contains("no name"));
        assert!(error("ap").contains("no name"));
        assert!(error("www.short.ap").contains("`short` has 5"));
        assert!(error(&name.replacen(&name[3..4], "1", 1)).contains("`1` cannot stand"));
        assert!(error(&format!("x{name}")).contains("has 57"));
        assert!(error("smörgås.ap").contains("`ö` cannot stand"));
    }

    #[test]
    fn names_of_other_suites_and_unsound_keys_are_refused() {
        let write = |suite: u8, key: [u8; 32]| {
            let mut bytes = vec![suite];
            bytes.extend(key);
            bytes.extend(checksum(&bytes));
            format!("{}.ap", BASE32_NOPAD.encode(&bytes)).parse::<ApName>()
        };
        assert!(write(SUITE, *public(1).as_bytes()).is_ok());
        assert_eq!(write(2, *public(1).as_bytes()), Err(BadName::Suite(2)));
        assert_eq!(write(SUITE, [0; 32]), Err(BadName::Key));
    }

    #[test]
    fn an_address_is_an_ipv6_address_that_begins_with_fc() {
        let address = public(1).address();
        let ip = Ipv6Addr::from(address);
        assert_eq!(ip.octets()[0], 0xfc);
        assert_eq!(ApAddress::try_from(ip), Ok(address));
        assert_ne!(address, public(2).address());
        assert!(ApAddress::try_from(Ipv6Addr::LOCALHOST).is_err());
    }

    proptest! {
        #[test]
        fn parsing_never_panics(host in ".{0,80}") {
            let _ = host.parse::<ApName>();
        }
    }
}
