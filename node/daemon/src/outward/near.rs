//! What is near this machine: who is there trusts it, or is the operator's own, and a global address is no reason to lead
//! strangers to them (PROTOCOL §6.10).

use std::net::{IpAddr, Ipv6Addr};

use nix::{ifaddrs::getifaddrs, sys::socket::SockaddrStorage};

use super::Prefix;

/// Bits of an IPv6 network in which machines are neighbours, also if one has its address alone.
const NETWORK: u8 = 64;

/// The networks of this machine's interfaces, as they are now. If the system does not tell them, everything is near: the
/// way out leads nowhere then.
pub fn near() -> Vec<Prefix> {
    let Ok(interfaces) = getifaddrs() else {
        tracing::warn!("the system does not tell the networks of this machine: a way out would lead nowhere");
        return vec![Prefix::new(IpAddr::from([0; 4]), 0), Prefix::new(Ipv6Addr::UNSPECIFIED.into(), 0)];
    };
    let networks = interfaces.filter_map(|interface| {
        let address = ip(&interface.address?)?;
        Some(network(address, interface.netmask.as_ref().and_then(ip)))
    });
    networks.collect()
}

/// What is reached from this address without a router.
fn network(address: IpAddr, mask: Option<IpAddr>) -> Prefix {
    match (address, mask) {
        (IpAddr::V4(_), Some(IpAddr::V4(mask))) => Prefix::new(address, mask.to_bits().leading_ones() as u8),
        (IpAddr::V6(_), Some(IpAddr::V6(mask))) => {
            Prefix::new(address, NETWORK.min(mask.to_bits().leading_ones() as u8))
        }
        (IpAddr::V6(_), _) => Prefix::new(address, NETWORK),
        (IpAddr::V4(_), _) => Prefix::of(address),
    }
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|it| IpAddr::V4(it.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|it| IpAddr::V6(it.ip())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_tells_its_networks() {
        let loopback: IpAddr = "127.9.9.9".parse().unwrap();
        let near = near();
        assert!(near.iter().any(|network| network.contains(loopback)), "{near:?}");
        assert!(!near.iter().any(|network| network.contains("9.9.9.9".parse().unwrap())), "{near:?}");
    }

    #[test]
    fn neighbours_share_an_ipv4_network_and_at_least_the_half_of_an_ipv6_address() {
        let network = |address: &str, mask: Option<&str>| {
            network(address.parse().unwrap(), mask.map(|mask| mask.parse().unwrap())).to_string()
        };
        assert_eq!(network("93.184.216.7", Some("255.255.255.240")), "93.184.216.7/28");
        assert_eq!(network("93.184.216.7", None), "93.184.216.7/32");
        assert_eq!(network("2a00:1:2:3::7", Some("ffff:ffff:ffff:ffff::")), "2a00:1:2:3::7/64");
        assert_eq!(network("2a00:1:2:3::7", Some("ffff:ffff:ffff::")), "2a00:1:2:3::7/48");
        let alone = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        assert_eq!(network("2a00:1:2:3::7", Some(alone)), "2a00:1:2:3::7/64");
        assert_eq!(network("2a00:1:2:3::7", None), "2a00:1:2:3::7/64");
    }
}
