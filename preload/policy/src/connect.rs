//! Where a call may lead.

use core::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::errno::{Errno, Refusal, Why};

/// Where DNS is asked.
const DNS: u16 = 53;

/// What the user allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Services of this machine may be reached.
    pub allow_local: bool,
}

/// Where a call leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// To a party of the network, by its AP address or the local alias of it.
    Party(SocketAddr),
    /// To the names of the network, whichever server the program asks.
    Names,
    /// To this machine, as the program says.
    Local,
}

/// Where a call to `to` leads. `is_own` says whether it is the run itself that listens there.
pub fn way(to: SocketAddr, rules: Rules, is_own: bool) -> Result<Way, Refusal> {
    let (address, port) = (to.ip().to_canonical(), to.port());
    if is_of_network(address) {
        return Ok(Way::Party(SocketAddr::new(address, port)));
    }
    if port == DNS {
        return Ok(Way::Names);
    }
    let here = address.is_loopback() || address.is_unspecified();
    match (here, rules.allow_local || is_own) {
        (true, true) => Ok(Way::Local),
        // What is closed to it is to look as if nobody listened.
        (true, false) => Err(Refusal::new(Errno::ECONNREFUSED, Why::Local)),
        (false, _) => Err(Refusal::new(Errno::ENETUNREACH, Why::Outside)),
    }
}

/// AP addresses, fc00::/8, and their local aliases, 127.192.0.0/10 (PROTOCOL §1).
pub fn is_of_network(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(alias) => is_alias(alias),
        IpAddr::V6(address) => matches!(address.octets(), [0xfc, ..]),
    }
}

fn is_alias(address: Ipv4Addr) -> bool {
    matches!(address.octets(), [127, second, _, _] if second >= 192)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(to: &str) -> Result<Way, Refusal> {
        way(to.parse().unwrap(), Rules::default(), false)
    }

    #[test]
    fn parties_are_reached_by_address_alias_and_mapped_alias() {
        for (to, party) in [
            ("[fc12::1]:80", "[fc12::1]:80"),
            ("127.192.0.1:443", "127.192.0.1:443"),
            ("[::ffff:127.255.255.254]:1", "127.255.255.254:1"),
            ("127.200.0.1:53", "127.200.0.1:53"),
        ] {
            assert_eq!(of(to), Ok(Way::Party(party.parse().unwrap())), "{to}");
        }
    }

    #[test]
    fn every_name_server_is_ours() {
        for to in ["8.8.8.8:53", "127.0.0.53:53", "[2001:db8::1]:53", "[::1]:53", "[::ffff:1.1.1.1]:53"] {
            assert_eq!(of(to), Ok(Way::Names), "{to}");
        }
    }

    #[test]
    fn nothing_leads_outside_whatever_is_allowed() {
        let rules = Rules { allow_local: true };
        for to in [
            "8.8.8.8:80",
            "10.0.0.1:1",
            "[2001:db8::1]:443",
            "[fd00::1]:80",
            "[fe80::1]:80",
            "[::ffff:9.9.9.9]:853",
        ] {
            for is_own in [false, true] {
                let refusal = way(to.parse().unwrap(), rules, is_own).unwrap_err();
                assert_eq!(refusal, Refusal::new(Errno::ENETUNREACH, Why::Outside), "{to}");
            }
        }
    }

    #[test]
    fn this_machine_is_closed_but_for_the_run_itself_unless_the_user_opens_it() {
        for to in [
            "127.0.0.1:80",
            "[::1]:80",
            "0.0.0.0:80",
            "[::]:80",
            "127.191.255.255:9",
            "[::ffff:127.0.0.1]:80",
        ] {
            assert_eq!(of(to).unwrap_err().errno, Errno::ECONNREFUSED, "{to}");
            let to = to.parse().unwrap();
            assert_eq!(way(to, Rules::default(), true), Ok(Way::Local));
            assert_eq!(way(to, Rules { allow_local: true }, false), Ok(Way::Local));
        }
    }
}
