//! The way out: TCP connections of visitors to the ordinary Internet (PROTOCOL §6.10). Off until somebody publishes it.
//!
//! Names are resolved here, far from who asks. Every address is looked at after that: no rule, no name and no trick of a
//! resolver leads to an address of a special purpose, or to this machine.

mod happy;
mod near;
mod resolve;
mod rules;

use std::{
    io,
    net::{IpAddr, UdpSocket},
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use phantom_protocol::{network::is_public, wire::outward::Outside};
use tokio::{net::TcpStream, time::timeout};

use crate::session::{GoOut, Refusal};

pub use near::near;
pub use rules::{BadRule, Names, Ports, Prefix, Rules};

/// From the wish to the connection.
const WHOLE: Duration = Duration::from_secs(30);
/// Addresses of one name that are tried.
const ADDRESSES: usize = 8;

/// A way out for visitors.
#[derive(Debug)]
pub struct WayOut {
    rules: Rules,
    /// The networks of this machine, and where its node is reached: behind address translation the machine does not know
    /// that it is itself.
    home: Vec<Prefix>,
}

impl WayOut {
    /// One that leads where the rules say.
    pub fn new(rules: Rules, home: Vec<Prefix>) -> WayOut {
        WayOut { rules, home }
    }

    async fn connect(&self, to: &Outside, port: u16) -> Result<TcpStream, Refusal> {
        if !self.rules.admit_port(port) || !self.rules.may_admit(to) {
            return Err(Refusal::NotAllowed);
        }
        let addresses = match (to.as_address(), to.as_name()) {
            (Some(address), _) => vec![address],
            (None, name) => resolve::resolve(name.unwrap_or_default()).await?,
        };
        let addresses = self.admitted(to, addresses);
        if addresses.is_empty() {
            return Err(Refusal::NotAllowed);
        }
        let tcp = happy::connect(&happy::mixed(addresses, ADDRESSES), port).await;
        let tcp = tcp.map_err(|error| Refusal::of_dial(&error))?;
        let _only_slower_without = tcp.set_nodelay(true);
        Ok(tcp)
    }

    fn admitted(&self, to: &Outside, addresses: Vec<IpAddr>) -> Vec<IpAddr> {
        let addresses = addresses.into_iter().map(|address| address.to_canonical());
        let admitted = addresses.filter(|address| {
            is_public(*address)
                && self.rules.admit(Some(to), *address)
                && !self.home.iter().any(|home| home.contains(*address))
                && !is_of_this_machine(*address)
        });
        admitted.collect()
    }
}

impl GoOut for WayOut {
    fn connect(&self, to: Outside, port: u16) -> BoxFuture<'_, Result<TcpStream, Refusal>> {
        let connecting = async move { timeout(WHOLE, WayOut::connect(self, &to, port)).await };
        connecting.map(|connected| connected.unwrap_or(Err(Refusal::TimedOut))).boxed()
    }
}

/// Whether an address is one of this machine's: unless the system says that it is not.
fn is_of_this_machine(address: IpAddr) -> bool {
    match UdpSocket::bind((address, 0)) {
        Ok(_) => true,
        Err(error) => error.kind() != io::ErrorKind::AddrNotAvailable && !is_unknown_family(&error),
    }
}

/// A machine without IPv6 has no address of it.
fn is_unknown_family(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(address: &str) -> IpAddr {
        address.parse().unwrap()
    }

    #[test]
    fn this_machine_knows_its_addresses_and_that_others_are_not_its() {
        assert!(is_of_this_machine(ip("127.0.0.1")) && is_of_this_machine(ip("127.5.6.7")));
        assert!(!is_of_this_machine(ip("9.9.9.9")) && !is_of_this_machine(ip("2620:fe::fe")));
    }

    #[test]
    fn whatever_a_name_resolves_to_leads_neither_home_nor_to_the_node_itself() {
        let everywhere = Rules {
            networks: vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()],
            ..Rules::default()
        };
        let way_out = WayOut::new(
            everywhere,
            vec![
                Prefix::of(ip("9.9.9.10")),
                "9.9.8.7/28".parse().unwrap(),
                "2a00:1:2:3::7/64".parse().unwrap(),
            ],
        );
        let name = Outside::name("example.com").unwrap();
        let resolved = [
            "9.9.9.9",
            "9.9.8.16",
            "2a00:1:2:4::9",
            "127.0.0.1",
            "10.0.0.1",
            "169.254.169.254",
            "::1",
            "::ffff:192.168.1.1",
            "64:ff9b::a00:1",
            "2002:a00:1::",
            "fe80::1",
            "fc00::1",
            "100.64.0.1",
            "0.0.0.0",
            "9.9.9.10",
            "::ffff:9.9.9.10",
            "9.9.8.1",
            "2a00:1:2:3:4::9",
            "255.255.255.255",
            "224.0.0.1",
        ];
        assert_eq!(
            way_out.admitted(&name, resolved.map(ip).into()),
            ["9.9.9.9", "9.9.8.16", "2a00:1:2:4::9"].map(ip)
        );
    }

    #[tokio::test]
    async fn what_the_rules_leave_out_is_refused_before_anybody_is_asked() {
        let rules = Rules { names: vec!["example.org".parse().unwrap()], ..Rules::default() };
        let way_out = WayOut::new(rules, Vec::new());
        let refused =
            async |to: Result<Outside, _>, port| way_out.connect(&to.unwrap(), port).await.unwrap_err();
        assert_eq!(refused(Outside::name("example.com"), 80).await, Refusal::NotAllowed);
        assert_eq!(refused(Outside::name("example.org"), 25).await, Refusal::NotAllowed);
        assert_eq!(refused(Outside::address(ip("9.9.9.9")), 80).await, Refusal::NotAllowed);
    }
}
