//! An invitation: one line of text with which a newcomer finds a first node (PROTOCOL §7).
//!
//! `phantom-invitation-1:` and then, in base32 without padding, in either case, with white space anywhere (mail
//! programs break lines):
//!
//! ```text
//! family 1 | network id 32 | node id 32 | TLS key 32 | port 2 | address 4 or 16 | checksum 4
//! ```
//!
//! The checksum is the first bytes of SHA-256 of a label and everything before it. An invitation is no secret, but
//! whoever gave it decides which network the newcomer sees first.

use std::{
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use data_encoding::BASE32_NOPAD;
use sha2::{Digest, Sha256};

use super::{
    contact::{Contact, TlsKeys},
    reader::{Malformed, Reader, Writer},
};
use crate::{identity::NodeId, network::NetworkId};

/// What a newcomer needs to know about its first node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Invitation {
    network: NetworkId,
    node: NodeId,
    address: SocketAddr,
    tls_key: [u8; 32],
}

/// Why a text is not an invitation that this node can use. The sentences are for users.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadInvitation {
    /// The text before the colon is something else.
    #[error("this is not an invitation: one begins with \"{PREFIX}\"")]
    NotAnInvitation,
    /// A later version's invitation.
    #[error(
        "this invitation was made by a newer version of Phantom: update this one, or ask for an older one"
    )]
    NewerVersion,
    /// The end is missing.
    #[error("the end of this invitation is missing: copy the whole line again, to its last character")]
    Truncated,
    /// There is more than an invitation.
    #[error("this invitation has something behind its end: copy the line again, and nothing after it")]
    TooLong,
    /// A character that base32 has not.
    #[error("the character {0:?} cannot be part of an invitation: copy the line again")]
    StrangeCharacter(char),
    /// The checksum is wrong.
    #[error("this invitation has a typing mistake: copy the line again instead of typing it")]
    Typo,
    /// The checksum is right, the content is not.
    #[error("this invitation names no node that can be reached: ask for a new one")]
    Unusable,
    /// It leads elsewhere.
    #[error("this invitation is for another network than the one this node belongs to")]
    OtherNetwork,
}

const PREFIX: &str = "phantom-invitation-1:";
const NAME: &str = "phantom-invitation-";
const CHECKSUM: usize = 4;

impl Invitation {
    /// Invites to `node`, if it can be dialled at all.
    pub fn new(network: NetworkId, node: &Contact) -> Option<Invitation> {
        let tls_key = *node.tls_keys.as_slice().first()?;
        Some(Invitation { network, node: node.id, address: node.address?, tls_key })
    }

    /// The network that the invitation is for.
    pub fn network(&self) -> NetworkId {
        self.network
    }

    /// The node to dial, whatever its network.
    pub fn contact(&self) -> Contact {
        Contact::listed(self.node, self.address, TlsKeys::one(self.tls_key))
    }

    /// The node to dial, if it belongs to `network`.
    pub fn contact_in(&self, network: NetworkId) -> Result<Contact, BadInvitation> {
        if self.network == network { Ok(self.contact()) } else { Err(BadInvitation::OtherNetwork) }
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.u8(if self.address.is_ipv4() { 4 } else { 6 });
        out.bytes(&self.network.0).bytes(self.node.as_bytes()).bytes(&self.tls_key).u16(self.address.port());
        match self.address.ip() {
            IpAddr::V4(ip) => out.bytes(&ip.octets()),
            IpAddr::V6(ip) => out.bytes(&ip.octets()),
        };
        let checksum = checksum(out.as_slice());
        out.bytes(&checksum);
        out.finish()
    }

    fn decode(content: &[u8]) -> Result<Invitation, Malformed> {
        let mut reader = Reader::new(content);
        let family = reader.u8()?;
        let network = NetworkId(reader.array()?);
        let node = NodeId::from_bytes(reader.array()?);
        let tls_key = reader.array()?;
        let port = reader.u16()?;
        let ip = match family {
            4 => IpAddr::from(reader.array::<4>()?),
            6 => IpAddr::from(reader.array::<16>()?),
            _ => return Err(Malformed::Field("address family")),
        };
        reader.finish()?;
        let invitation = Invitation { network, node, address: SocketAddr::new(ip, port), tls_key };
        // The rules for addresses are those of every other contact.
        Contact::from_bytes(&invitation.contact().to_bytes()).map(|_| invitation)
    }
}

impl std::fmt::Display for Invitation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{PREFIX}{}", BASE32_NOPAD.encode(&self.encode()).to_ascii_lowercase())
    }
}

impl FromStr for Invitation {
    type Err = BadInvitation;

    fn from_str(text: &str) -> Result<Invitation, BadInvitation> {
        let text: String = text.chars().filter(|character| !character.is_whitespace()).collect();
        let content = decode_base32(content_of(&text.to_ascii_lowercase())?)?;
        let (content, sum) = content.split_last_chunk::<CHECKSUM>().ok_or(BadInvitation::Truncated)?;
        if checksum(content) != *sum {
            return Err(BadInvitation::Typo);
        }
        Invitation::decode(content).map_err(|_| BadInvitation::Unusable)
    }
}

/// What follows the colon, if what stands before it is right.
fn content_of(text: &str) -> Result<&str, BadInvitation> {
    if let Some(content) = text.strip_prefix(PREFIX) {
        return Ok(content);
    }
    if !text.is_empty() && PREFIX.starts_with(text) {
        return Err(BadInvitation::Truncated);
    }
    let version = text.strip_prefix(NAME).and_then(|rest| rest.split_once(':')).map(|(version, _)| version);
    match version.and_then(|version| version.parse::<u32>().ok()) {
        Some(2..) => Err(BadInvitation::NewerVersion),
        _ => Err(BadInvitation::NotAnInvitation),
    }
}

fn decode_base32(text: &str) -> Result<Vec<u8>, BadInvitation> {
    if let Some(strange) = text.chars().find(|c| !matches!(c, 'a'..='z' | '2'..='7')) {
        return Err(BadInvitation::StrangeCharacter(strange));
    }
    // The family, 4 or 6, stands in the first two characters and tells how many there are.
    let is_ipv6 = ["ay", "az", "a2", "a3"].iter().any(|family| text.starts_with(family));
    let address = if is_ipv6 { 16 } else { 4 };
    let characters = BASE32_NOPAD.encode_len(1 + 3 * 32 + 2 + address + CHECKSUM);
    match text.len().cmp(&characters) {
        std::cmp::Ordering::Less => Err(BadInvitation::Truncated),
        std::cmp::Ordering::Greater => Err(BadInvitation::TooLong),
        std::cmp::Ordering::Equal => {
            BASE32_NOPAD.decode(text.to_ascii_uppercase().as_bytes()).map_err(|_| BadInvitation::Typo)
        }
    }
}

fn checksum(content: &[u8]) -> [u8; CHECKSUM] {
    let hash: [u8; 32] = Sha256::new().chain_update(PREFIX).chain_update(content).finalize().into();
    let [a, b, c, d, ..] = hash;
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::contact::tests::any_contact;

    const NETWORK: NetworkId = NetworkId([3; 32]);

    fn example(address: &str) -> Invitation {
        let node =
            Contact::listed(NodeId::from_bytes([1; 32]), address.parse().unwrap(), TlsKeys::one([2; 32]));
        Invitation::new(NETWORK, &node).unwrap()
    }

    #[test]
    fn the_format_is_fixed() {
        let text = example("127.16.0.1:443").to_string();
        assert_eq!(
            text,
            "phantom-invitation-1:aqbqgaydambqgaydambqgaydambqgaydambqgaydambqgaydambqgaibaeaqcai\
             baeaqcaibaeaqcaibaeaqcaibaeaqcaibaeaqcaibaibaeaqcaibaeaqcaibaeaqcaibaeaqcaibaeaqcaib\
             aeaqcaibado37caaadry6yc2q"
        );
        let text = example("[fd00::1]:443").to_string();
        assert_eq!(
            text,
            "phantom-invitation-1:aybqgaydambqgaydambqgaydambqgaydambqgaydambqgaydambqgaibaeaqcai\
             baeaqcaibaeaqcaibaeaqcaibaeaqcaibaeaqcaibaibaeaqcaibaeaqcaibaeaqcaibaeaqcaibaeaqcaib\
             aeaqcaibado75aaaaaaaaaaaaaaaaaaaaaaabqu2zeia"
        );
    }

    #[test]
    fn case_and_line_breaks_do_not_matter() {
        let mut text = example("127.16.0.1:443").to_string().to_ascii_uppercase();
        text.insert_str(40, "\r\n  ");
        assert_eq!(text.parse(), Ok(example("127.16.0.1:443")));
    }

    #[test]
    fn every_truncation_is_called_one() {
        for address in ["127.16.0.1:443", "[fd00::1]:443"] {
            let text = example(address).to_string();
            for end in 1..text.len() {
                let part = text.get(..end).unwrap();
                assert_eq!(part.parse::<Invitation>(), Err(BadInvitation::Truncated), "{part}");
            }
            assert_eq!(format!("{text}a").parse::<Invitation>(), Err(BadInvitation::TooLong));
        }
    }

    #[test]
    fn every_mistake_has_its_sentence() {
        let text = example("127.16.0.1:443").to_string();
        let cases = [
            ("".to_owned(), BadInvitation::NotAnInvitation),
            ("http://example.org/".to_owned(), BadInvitation::NotAnInvitation),
            (text.replace("-1:", "-2:"), BadInvitation::NewerVersion),
            (text.replace("-1:", "-x:"), BadInvitation::NotAnInvitation),
            (text.replace("-1:", "-1:!"), BadInvitation::StrangeCharacter('!')),
            (text.replace("-1:", "-1:é"), BadInvitation::StrangeCharacter('é')),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<Invitation>(), Err(error), "{text}");
        }
        let invitation: Invitation = text.parse().unwrap();
        assert_eq!(invitation.contact_in(NetworkId([4; 32])), Err(BadInvitation::OtherNetwork));
        assert_eq!(invitation.contact_in(NETWORK).map(|contact| contact.id), Ok(NodeId::from_bytes([1; 32])));
    }

    #[test]
    fn every_wrong_character_is_found() {
        let text = example("127.16.0.1:443").to_string();
        for at in PREFIX.len()..text.len() {
            for other in ["b", "7"] {
                let mut typo = text.clone();
                typo.replace_range(at..=at, other);
                assert!(typo == text || typo.parse::<Invitation>().is_err(), "{typo}");
            }
        }
    }

    #[test]
    fn nobody_is_invited_to_a_node_that_cannot_be_dialled() {
        assert_eq!(Invitation::new(NETWORK, &Contact::unlisted(NodeId::from_bytes([1; 32]))), None);
    }

    proptest! {
        #[test]
        fn invitations_come_back(node in any_contact(), network in any::<[u8; 32]>()) {
            if let Some(invitation) = Invitation::new(NetworkId(network), &node) {
                prop_assert_eq!(invitation.to_string().parse(), Ok(invitation));
            }
        }

        #[test]
        fn garbage_never_panics(text in ".*", tail in "[a-z2-7]{160,200}") {
            let _ = text.parse::<Invitation>();
            let _ = format!("{PREFIX}{text}").parse::<Invitation>();
            let parsed = format!("{PREFIX}{tail}").parse::<Invitation>();
            prop_assert!(parsed.is_err());
        }
    }
}
