//! How to reach a node: its id, where it listens, and which TLS keys it shows there (PROTOCOL §2, §4, §7).
//!
//! ```text
//! node id 32 | family 1 | address 16 | port 2 | number of TLS keys 1 | TLS keys 2 x 32
//! ```
//!
//! One size for all, so that a setup slot or an opener tells nobody which kind of address it holds. Family is 0
//! (unlisted: the node has no public address and has dialled), 4 or 6; an IPv4 address stands in the first four bytes;
//! all that is not used is zero. An unlisted contact has neither port nor TLS keys, every other one has a port and one
//! or two keys.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::reader::{Malformed, Reader, Writer};
use crate::identity::NodeId;

/// How to reach a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Contact {
    /// Who must answer there.
    pub id: NodeId,
    /// Where the node listens; `None` if it is unlisted and has dialled its neighbour.
    pub address: Option<SocketAddr>,
    /// What the dialler compares before it sends anything. Empty for an unlisted node only.
    pub tls_keys: TlsKeys,
}

/// Up to two SHA-256 of the SubjectPublicKeyInfo of a node's certificates: two while it changes them.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TlsKeys {
    count: u8,
    keys: [[u8; 32]; TlsKeys::MAX],
}

impl Contact {
    /// Bytes of every contact on the wire.
    pub const ENCODED: usize = 32 + 1 + 16 + 2 + 1 + 32 * TlsKeys::MAX;

    /// A node that listens at `address`.
    pub fn listed(id: NodeId, address: SocketAddr, tls_keys: TlsKeys) -> Contact {
        Contact { id, address: Some(canonical(address)), tls_keys }
    }

    /// A node that cannot be dialled: its neighbour finds it among its links.
    pub fn unlisted(id: NodeId) -> Contact {
        Contact { id, address: None, tls_keys: TlsKeys::NONE }
    }

    /// Appends the [`Contact::ENCODED`] bytes.
    pub fn encode(&self, out: &mut Writer) {
        out.bytes(self.id.as_bytes());
        encode_address(self.address, out);
        self.tls_keys.encode(out);
    }

    /// The [`Contact::ENCODED`] bytes by themselves.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::with_capacity(Self::ENCODED);
        self.encode(&mut out);
        out.finish()
    }

    /// Reads the next [`Contact::ENCODED`] bytes.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Contact, Malformed> {
        let id = NodeId::from_bytes(reader.array()?);
        let address = decode_address(reader)?;
        let tls_keys = TlsKeys::decode(reader)?;
        if address.is_some() == tls_keys.is_empty() {
            return Err(Malformed::Field("number of TLS keys"));
        }
        Ok(Contact { id, address, tls_keys })
    }

    /// Reads a contact that stands alone.
    pub fn from_bytes(bytes: &[u8]) -> Result<Contact, Malformed> {
        let mut reader = Reader::new(bytes);
        let contact = Contact::decode(&mut reader)?;
        reader.finish()?;
        Ok(contact)
    }
}

impl TlsKeys {
    /// More than this no node shows.
    pub const MAX: usize = 2;
    /// What an unlisted node has.
    pub const NONE: TlsKeys = TlsKeys { count: 0, keys: [[0; 32]; TlsKeys::MAX] };

    /// The key of a node that is not changing it.
    pub fn one(key: [u8; 32]) -> TlsKeys {
        TlsKeys { count: 1, keys: [key, [0; 32]] }
    }

    /// Two keys, while a node changes from one to the other.
    pub fn two(first: [u8; 32], second: [u8; 32]) -> TlsKeys {
        TlsKeys { count: 2, keys: [first, second] }
    }

    /// The keys.
    pub fn as_slice(&self) -> &[[u8; 32]] {
        self.keys.get(..usize::from(self.count)).unwrap_or(&[])
    }

    /// Whether a certificate with this key is the node's.
    pub fn contains(&self, key: &[u8; 32]) -> bool {
        self.as_slice().contains(key)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(super) fn encode(&self, out: &mut Writer) {
        out.u8(self.count);
        for key in &self.keys {
            out.bytes(key);
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<TlsKeys, Malformed> {
        let count = reader.u8()?;
        let [first, second] = [reader.array()?, reader.array()?];
        let keys = match count {
            0 => TlsKeys::NONE,
            1 => TlsKeys::one(first),
            2 if first != second => TlsKeys::two(first, second),
            _ => return Err(Malformed::Field("number of TLS keys")),
        };
        // What the count leaves unused is zero.
        if keys.keys != [first, second] {
            return Err(Malformed::Field("padding"));
        }
        Ok(keys)
    }
}

/// An address as all nodes write it: no IPv6 scopes and flow labels, and IPv4 never in IPv6 clothes.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

pub(super) fn encode_address(address: Option<SocketAddr>, out: &mut Writer) {
    let Some(address) = address.map(canonical) else {
        out.zeros(1 + 16 + 2);
        return;
    };
    match address.ip() {
        IpAddr::V4(ip) => out.u8(4).bytes(&ip.octets()).zeros(12),
        IpAddr::V6(ip) => out.u8(6).bytes(&ip.octets()),
    };
    out.u16(address.port());
}

pub(super) fn decode_address(reader: &mut Reader<'_>) -> Result<Option<SocketAddr>, Malformed> {
    let ip = match reader.u8()? {
        0 => {
            reader.zeros(16 + 2)?;
            return Ok(None);
        }
        4 => {
            let ip = Ipv4Addr::from(reader.array::<4>()?);
            reader.zeros(12)?;
            IpAddr::V4(ip)
        }
        6 => IpAddr::V6(Ipv6Addr::from(reader.array::<16>()?)),
        _ => return Err(Malformed::Field("address family")),
    };
    let port = reader.u16()?;
    if ip.is_unspecified() || ip.is_multicast() || ip.to_canonical() != ip || port == 0 {
        return Err(Malformed::Field("address"));
    }
    Ok(Some(SocketAddr::new(ip, port)))
}

impl std::fmt::Debug for Contact {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.address {
            Some(address) => write!(f, "{:?} at {address}", self.id),
            None => write!(f, "{:?} unlisted", self.id),
        }
    }
}

impl std::fmt::Debug for TlsKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TlsKeys({})", self.count)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Any contact that an honest node writes.
    pub(crate) fn any_contact() -> impl Strategy<Value = Contact> {
        let ip =
            prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)]
                .prop_filter("dialable", |ip| {
                    !ip.is_unspecified() && !ip.is_multicast() && ip.to_canonical() == *ip
                });
        let keys = prop_oneof![
            any::<[u8; 32]>().prop_map(TlsKeys::one),
            any::<[[u8; 32]; 2]>()
                .prop_filter("different", |[a, b]| a != b)
                .prop_map(|[a, b]| TlsKeys::two(a, b)),
        ];
        let id = any::<[u8; 32]>().prop_map(NodeId::from_bytes);
        prop_oneof![
            1 => id.clone().prop_map(Contact::unlisted),
            4 => (id, ip, 1u16.., keys)
                .prop_map(|(id, ip, port, keys)| Contact::listed(id, SocketAddr::new(ip, port), keys)),
        ]
    }

    fn example() -> Contact {
        Contact::listed(NodeId::from_bytes([1; 32]), "127.16.0.1:443".parse().unwrap(), TlsKeys::one([2; 32]))
    }

    #[test]
    fn the_format_is_fixed() {
        let mut expected = vec![1; 32];
        expected.extend([4, 127, 16, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x01, 0xbb, 1]);
        expected.extend([2; 32]);
        expected.extend([0; 32]);
        assert_eq!(example().to_bytes(), expected);
        assert_eq!(expected.len(), Contact::ENCODED);
        assert_eq!(Contact::ENCODED, 116);
    }

    #[test]
    fn an_ipv4_address_in_ipv6_clothes_is_undressed_when_written_and_refused_when_read() {
        let dressed = "[::ffff:127.16.0.1]:443".parse().unwrap();
        let contact = Contact::listed(NodeId::from_bytes([1; 32]), dressed, TlsKeys::one([2; 32]));
        assert_eq!(contact, example());

        let mut bytes = example().to_bytes();
        let mut address = vec![6];
        address.extend("::ffff:127.16.0.1".parse::<Ipv6Addr>().unwrap().octets());
        bytes.splice(32..49, address);
        assert_eq!(Contact::from_bytes(&bytes), Err(Malformed::Field("address")));
    }

    #[test]
    fn a_listed_node_without_tls_keys_is_refused() {
        let mut bytes = example().to_bytes();
        bytes[51] = 0;
        bytes[52..84].fill(0);
        assert_eq!(Contact::from_bytes(&bytes), Err(Malformed::Field("number of TLS keys")));
    }

    proptest! {
        #[test]
        fn every_contact_has_one_size_and_comes_back(contact in any_contact()) {
            let bytes = contact.to_bytes();
            prop_assert_eq!(bytes.len(), Contact::ENCODED);
            prop_assert_eq!(Contact::from_bytes(&bytes), Ok(contact));
        }

        #[test]
        fn whatever_parses_is_written_the_same_way(
            mut bytes in prop::collection::vec(any::<u8>(), Contact::ENCODED),
            family in prop::sample::select(vec![0u8, 4, 6]),
            count in 0u8..4,
            zeroed in any::<bool>(),
        ) {
            bytes[32] = family;
            bytes[51] = count;
            if zeroed {
                bytes[37..49].fill(0);
                bytes[84..].fill(0);
            }
            if let Ok(contact) = Contact::from_bytes(&bytes) {
                prop_assert_eq!(contact.to_bytes(), bytes);
            }
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Contact::from_bytes(&bytes);
        }
    }
}
