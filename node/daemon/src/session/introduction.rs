//! The PROXY protocol, version 1: a line in front of a connection by which a local server learns who comes (PROTOCOL §8).

use std::net::Ipv6Addr;

use phantom_protocol::identity::ApPublic;

/// The line for a visitor that connects to a port of the service `own`. Sessions have no ports: the visitor's is that of the
/// node's own connection to the server, so that two of its connections can be told apart.
pub(super) fn introduction(visitor: &ApPublic, own: &ApPublic, from: u16, to: u16) -> String {
    let address = |party: &ApPublic| Ipv6Addr::from(party.address());
    format!("PROXY TCP6 {} {} {from} {to}\r\n", address(visitor), address(own))
}

#[cfg(test)]
mod tests {
    use phantom_protocol::identity::ApSecret;

    use super::*;

    #[test]
    fn a_line_has_the_six_words_that_servers_expect() {
        let [visitor, own] = [1, 2].map(|number| ApSecret::from_bytes(&[number; 32]).public());
        let line = introduction(&visitor, &own, 40_000, 80);
        assert!(line.ends_with("\r\n") && line.len() <= 107, "{line}"); // what servers read at most
        let words: Vec<_> = line.trim_end().split(' ').collect();
        let [visitor, own] = [visitor, own].map(|party| Ipv6Addr::from(party.address()).to_string());
        assert_eq!(words, ["PROXY", "TCP6", &visitor, &own, "40000", "80"]);
    }
}
