//! Where a stream leads that leaves the network: a name or an address of the ordinary Internet (PROTOCOL §6.10).
//!
//! ```text
//! kind 1 | host         3: a name of 3 to 253 characters; 4: an address of 4 bytes; 6: of 16 bytes
//! ```
//!
//! An [`Outside`] leads out by its form: no address of a special-purpose registry, no name that means something at home or
//! in another network. What a name resolves to is for whoever resolves it to check, by the same rule for addresses.

use std::net::IpAddr;

use super::reader::{Malformed, Reader, Writer};
use crate::network::is_public;

const NAME: u8 = 3;
const V4: u8 = 4;
const V6: u8 = 6;
/// The longest name, in characters.
const NAME_CHARS: usize = 253;
const LABEL_CHARS: usize = 63;

/// Last labels that do not lead to the ordinary Internet: IANA's special-use names, what routers and companies use at home,
/// and other networks. `.ap` is ours.
const SPECIAL: [&str; 24] = [
    "alt",
    "ap",
    "arpa",
    "bit",
    "corp",
    "example",
    "exit",
    "gnu",
    "home",
    "i2p",
    "internal",
    "intranet",
    "invalid",
    "lan",
    "local",
    "localdomain",
    "localhost",
    "loki",
    "mail",
    "onion",
    "private",
    "test",
    "workgroup",
    "zkey",
];

/// A place in the ordinary Internet, as far as its form tells.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Outside(Host);

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Host {
    Name(String),
    Address(IpAddr),
}

/// Why something does not lead out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotOutside {
    /// Of a special-purpose registry.
    #[error("the address is private, or has another special purpose")]
    SpecialAddress,
    /// Names something near, or in another network.
    #[error("the name means something on this machine, at home or in another network")]
    SpecialName,
    /// One label.
    #[error("a name without a dot means something near")]
    SingleLabel,
    /// Nothing that DNS could know.
    #[error("it is no name of a host")]
    NoName,
}

impl Outside {
    /// An address to which the Internet routes.
    pub fn address(address: IpAddr) -> Result<Outside, NotOutside> {
        let address = address.to_canonical();
        if is_public(address) { Ok(Outside(Host::Address(address))) } else { Err(NotOutside::SpecialAddress) }
    }

    /// A name that the Internet's DNS may know. A dot at its end is taken away, and letters become small.
    pub fn name(name: &str) -> Result<Outside, NotOutside> {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let is_label = |label: &str| {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            (1..=LABEL_CHARS).contains(&label.len()) && label.bytes().all(fits)
        };
        if name.len() > NAME_CHARS || !name.split('.').all(is_label) {
            return Err(NotOutside::NoName);
        }
        let Some((_, last)) = name.rsplit_once('.') else { return Err(NotOutside::SingleLabel) };
        // Some would read 127.1 or 10.0x1 as an address.
        if !last.starts_with(|first: char| first.is_ascii_lowercase()) {
            return Err(NotOutside::NoName);
        }
        if SPECIAL.contains(&last) {
            return Err(NotOutside::SpecialName);
        }
        Ok(Outside(Host::Name(name)))
    }

    /// The name, if it is one: small letters, no dot at its end.
    pub fn as_name(&self) -> Option<&str> {
        match &self.0 {
            Host::Name(name) => Some(name),
            Host::Address(_) => None,
        }
    }

    /// The address, if it is one: an IPv4 address never in IPv6 form.
    pub fn as_address(&self) -> Option<IpAddr> {
        match self.0 {
            Host::Name(_) => None,
            Host::Address(address) => Some(address),
        }
    }

    /// For the wire: at most 254 bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::with_capacity(1 + NAME_CHARS);
        match &self.0 {
            Host::Name(name) => {
                out.u8(NAME);
                out.bytes(name.as_bytes());
            }
            Host::Address(IpAddr::V4(address)) => {
                out.u8(V4);
                out.bytes(&address.octets());
            }
            Host::Address(IpAddr::V6(address)) => {
                out.u8(V6);
                out.bytes(&address.octets());
            }
        }
        out.finish()
    }

    /// From the wire: the one encoding of what leads out.
    pub fn decode(bytes: &[u8]) -> Result<Outside, Malformed> {
        let mut from = Reader::new(bytes);
        let outside = match from.u8()? {
            NAME => {
                let name = from.bytes(bytes.len().saturating_sub(1))?;
                let name = std::str::from_utf8(name).map_err(|_| Malformed::Field("name"))?;
                Outside::name(name).map_err(|_| Malformed::Field("name"))?
            }
            V4 => Outside::address(from.array::<4>()?.into()).map_err(|_| Malformed::Field("address"))?,
            V6 => Outside::address(from.array::<16>()?.into()).map_err(|_| Malformed::Field("address"))?,
            _ => return Err(Malformed::Field("kind")),
        };
        from.finish()?;
        if outside.encode() == bytes { Ok(outside) } else { Err(Malformed::Field("host")) }
    }
}

/// Nobody's log is to say where somebody goes.
impl std::fmt::Debug for Outside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.as_name().is_some() { "Name(hidden)" } else { "Address(hidden)" })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ordinary_names_and_public_addresses_lead_out_and_survive_the_wire() {
        for (name, canonical) in [
            ("example.com", "example.com"),
            ("WWW.Example.COM.", "www.example.com"),
            ("_dmarc.example.org", "_dmarc.example.org"),
            ("r3---sn.example.net", "r3---sn.example.net"),
            ("xn--bcher-kva.xn--p1ai", "xn--bcher-kva.xn--p1ai"),
            ("1.2.3.4.example.com", "1.2.3.4.example.com"),
            ("local.example.com", "local.example.com"),
        ] {
            let outside = Outside::name(name).unwrap();
            assert_eq!(outside.as_name(), Some(canonical));
            assert_eq!(Outside::decode(&outside.encode()), Ok(outside));
        }
        for (address, canonical) in
            [("9.9.9.9", "9.9.9.9"), ("::ffff:9.9.9.9", "9.9.9.9"), ("2620:fe::fe", "2620:fe::fe")]
        {
            let outside = Outside::address(address.parse().unwrap()).unwrap();
            assert_eq!(outside.as_address(), Some(canonical.parse().unwrap()));
            assert_eq!(Outside::decode(&outside.encode()), Ok(outside));
        }
    }

    #[test]
    fn what_means_something_near_or_in_another_network_does_not_lead_out() {
        let long = format!("{}.com", "a".repeat(64));
        let longer = format!("{}com", "a.".repeat(126));
        assert_eq!(longer.len(), 255);
        for name in [
            "localhost",
            "printer",
            "",
            ".",
            "a..com",
            ".com",
            "a b.com",
            "ä.com",
            "127.1",
            "1.2.3",
            "10.0x1",
            "0x7f.1",
            "a.localhost",
            "printer.local",
            "router.lan",
            "x.onion",
            "x.i2p",
            "name.ap",
            "NAME.AP.",
            "1.0.0.127.in-addr.arpa",
            "db.internal",
            "a.test",
            "com..",
            &long,
            &longer,
        ] {
            assert!(Outside::name(name).is_err(), "{name}");
        }
        for address in [
            "127.0.0.1",
            "10.1.2.3",
            "::1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "2002:a00:1::",
            "fc00::1",
            "0.0.0.0",
        ] {
            assert_eq!(
                Outside::address(address.parse().unwrap()),
                Err(NotOutside::SpecialAddress),
                "{address}"
            );
        }
    }

    #[test]
    fn every_place_has_one_encoding() {
        for bytes in [
            &b""[..],
            b"\x03",
            b"\x03Example.com",
            b"\x03example.com.",
            b"\x03localhost",
            b"\x05example.com",
            b"\x04\x09\x09\x09",
            b"\x04\x09\x09\x09\x09\x09",
            b"\x04\x7f\x00\x00\x01",
            b"\x06\0\0\0\0\0\0\0\0\0\0\xff\xff\x09\x09\x09\x09",
            b"\x039.9.9.9",
            b"\x03a\0b.com",
            b"\x03\xff.com",
        ] {
            assert!(Outside::decode(bytes).is_err(), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_written_the_same_way(kind in 2_u8..8, host in "[a-zA-Z0-9._-]{0,40}", raw in proptest::collection::vec(any::<u8>(), 0..20)) {
            for rest in [host.as_bytes(), &raw] {
                let bytes = [&[kind], rest].concat();
                if let Ok(outside) = Outside::decode(&bytes) {
                    prop_assert_eq!(outside.encode(), bytes);
                }
            }
        }

        #[test]
        fn no_special_address_leads_out(address in any::<[u8; 4]>()) {
            let address = std::net::Ipv4Addr::from(address);
            let mapped = address.to_ipv6_mapped();
            prop_assert_eq!(Outside::address(address.into()), Outside::address(mapped.into()));
            if address.is_private() || address.is_loopback() || address.is_link_local() || address.is_multicast() {
                prop_assert!(Outside::address(address.into()).is_err());
            }
        }
    }
}
