//! Which network a node belongs to: the parameters that all members share, and the id that links compare (PROTOCOL §1).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use sha2::{Digest, Sha256};

use crate::{
    limits::{AP_EPOCH_SECS, MAX_HOPS, NODE_RECORD_LIFE_SECS, SLOT, SLOTS},
    wire::cell::CELL,
};

/// The hash of all parameters of a network: two nodes whose networks differ in anything never form a link.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetworkId(pub [u8; 32]);

/// What may differ from network to network. Everything else is a constant, and is hashed all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// What people call it.
    pub name: String,
    /// Leading zero bits that a node id's work hash must have.
    pub work: u32,
    /// Whether nodes may have addresses that are not public: for the demo and for tests.
    pub private_addresses: bool,
}

impl Network {
    /// The network that everybody shares.
    pub fn public() -> Network {
        Network { name: "phantom".into(), work: 16, private_addresses: false }
    }

    /// A network of one's own, on any addresses, that asks for no work.
    pub fn private(name: &str) -> Network {
        Network { name: name.into(), work: 0, private_addresses: true }
    }

    /// The id of this network.
    pub fn id(&self) -> NetworkId {
        let mut hash = Sha256::new();
        hash.update(b"phantom-network-v1");
        hash.update((self.name.len() as u64).to_be_bytes());
        hash.update(self.name.as_bytes());
        hash.update([u8::from(self.private_addresses)]);
        let numbers = [
            u64::from(self.work),
            CELL as u64,
            SLOTS as u64,
            SLOT as u64,
            MAX_HOPS as u64,
            NODE_RECORD_LIFE_SECS,
            AP_EPOCH_SECS,
        ];
        for number in numbers {
            hash.update(number.to_be_bytes());
        }
        NetworkId(hash.finalize().into())
    }

    /// Whether a node of this network may be dialled at `address` (PROTOCOL §5: public addresses only, lest an exit
    /// be used to knock on doors inside its own house).
    pub fn admits(&self, address: SocketAddr) -> bool {
        address.port() != 0 && (self.private_addresses || is_public(address.ip()))
    }
}

impl std::fmt::Debug for NetworkId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "network {a:02x}{b:02x}{c:02x}{d:02x}")
    }
}

/// Whether the Internet routes to this address: everything in IANA's special-purpose registries is out.
pub fn is_public(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let shared = a == 100 && (64..128).contains(&b);
    let protocol_assignments = (a, b, c) == (192, 0, 0);
    let relays_of_6to4 = (a, b, c) == (192, 88, 99);
    let black_holes = matches!((a, b, c), (192, 31, 196) | (192, 175, 48));
    let multicast_relays = (a, b, c) == (192, 52, 193);
    let benchmarks = a == 198 && (18..20).contains(&b);
    let first_or_reserved = a == 0 || a >= 224;
    !(ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_documentation()
        || shared
        || protocol_assignments
        || relays_of_6to4
        || black_holes
        || multicast_relays
        || benchmarks
        || first_or_reserved)
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    let [a, b, c, ..] = ip.segments();
    let global_unicast = a & 0xe000 == 0x2000;
    let protocol_assignments = a == 0x2001 && b < 0x0200;
    let documentation = (a == 0x2001 && b == 0x0db8) || (a == 0x3fff && b < 0x1000);
    let tunnel_of_6to4 = a == 0x2002;
    let black_holes = (a, b, c) == (0x2620, 0x4f, 0x8000);
    global_unicast && !protocol_assignments && !documentation && !tunnel_of_6to4 && !black_holes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_parameter_changes_the_id() {
        let network = Network::private("a");
        let others = [
            Network::private("b"),
            Network { work: 1, ..network.clone() },
            Network { private_addresses: false, ..network.clone() },
        ];
        for other in others {
            assert_ne!(other.id(), network.id());
        }
        assert_eq!(Network::private("a").id(), network.id());
    }

    #[test]
    fn only_addresses_that_the_internet_routes_to_are_public() {
        for public in ["1.1.1.1", "100.128.0.1", "172.32.0.1", "2a00:1450::1", "2606:4700::1111"] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        let inside = [
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "127.16.0.1",
            "169.254.1.1",
            "172.16.0.1",
            "192.0.0.8",
            "192.0.2.1",
            "192.168.1.1",
            "192.31.196.1",
            "192.52.193.1",
            "192.175.48.1",
            "198.18.0.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "fc00::1",
            "fe80::1",
            "ff02::1",
            "2001::1",
            "2001:db8::1",
            "2002:a00:1::",
            "2620:4f:8000::1",
            "3fff::1",
        ];
        for inside in inside {
            assert!(!is_public(inside.parse().unwrap()), "{inside}");
        }
    }
}
