//! What a question is about, and the records of the answers. No sockets, no waiting.

use std::net::{IpAddr, Ipv6Addr};

use hickory_proto::rr::{
    Name, RData, Record, RecordType,
    rdata::{A, AAAA, NS, PTR, SOA},
};

use crate::Addresses;

/// Seconds that an answer may be kept. A local alias stays with its peer for far longer.
const TTL: u32 = 60;
/// Seconds that a "no" may be kept: a service may be published at any time.
const NEGATIVE_TTL: u32 = 5;

/// What a question is about.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// The zone itself.
    Apex,
    /// A host of the zone, as [`crate::Lookup::lookup`] wants it.
    Host(String),
    /// An address that only the zone's names have.
    Address(IpAddr),
    /// Somebody else's: refused.
    Foreign,
}

impl Subject {
    /// `name` may be in any case.
    pub(crate) fn of(name: &Name) -> Subject {
        let name = name.to_lowercase();
        let mut labels = name.iter().rev();
        match (labels.next(), labels.next()) {
            (Some(b"ap"), None) => Subject::Apex,
            (Some(b"ap"), Some(_)) => Subject::Host(name.to_ascii().trim_end_matches('.').to_owned()),
            (Some(b"arpa"), Some(b"in-addr" | b"ip6")) => reverse(&name),
            _ => Subject::Foreign,
        }
    }
}

/// Whole addresses only, and only those that no router knows.
fn reverse(name: &Name) -> Subject {
    match name.parse_arpa_name() {
        Ok(net) if net.prefix_len() == net.max_prefix_len() && is_ours(net.addr()) => {
            Subject::Address(net.addr())
        }
        _ => Subject::Foreign,
    }
}

/// Local aliases, 127.192.0.0/10, and AP addresses, fc00::/8 (PROTOCOL §1).
fn is_ours(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => matches!(v4.octets(), [127, second, _, _] if second >= 192),
        IpAddr::V6(v6) => v6.octets().starts_with(&[0xfc]),
    }
}

/// The records of a host that a question of type `wanted` is answered with.
pub(crate) fn host_records(name: &Name, wanted: RecordType, addresses: &Addresses) -> Vec<Record> {
    let v4 = addresses.alias.filter(|_| matches!(wanted, RecordType::A | RecordType::ANY));
    let v6 = addresses.address.filter(|_| matches!(wanted, RecordType::AAAA | RecordType::ANY));
    let v4 = v4.map(|alias| RData::A(A(alias)));
    let v6 = v6.map(|address: Ipv6Addr| RData::AAAA(AAAA(address)));
    v4.into_iter().chain(v6).map(|data| Record::from_rdata(name.clone(), TTL, data)).collect()
}

/// The record of an address; none if `host` is no name, or if something else is wanted.
pub(crate) fn address_records(name: &Name, wanted: RecordType, host: &str) -> Vec<Record> {
    let host = Name::from_ascii(format!("{host}.")).ok();
    let host = host.filter(|_| matches!(wanted, RecordType::PTR | RecordType::ANY));
    host.map(|host| Record::from_rdata(name.clone(), TTL, RData::PTR(PTR(host)))).into_iter().collect()
}

/// The records of the zone itself.
pub(crate) fn apex_records(wanted: RecordType) -> Vec<Record> {
    match wanted {
        RecordType::SOA | RecordType::ANY => vec![authority()],
        RecordType::NS => vec![Record::from_rdata(zone(), TTL, RData::NS(NS(server())))],
        _ => Vec::new(),
    }
}

/// What comes with every "no", so that it is believed, and for how long.
pub(crate) fn authority() -> Record {
    let minutes = 60;
    let soa = SOA::new(server(), nobody(), 1, 60 * minutes, 10 * minutes, 24 * 60 * minutes, NEGATIVE_TTL);
    Record::from_rdata(zone(), NEGATIVE_TTL, RData::SOA(soa))
}

fn zone() -> Name {
    name(&["ap"])
}

/// The zone is served on this machine only, so its server needs no name that anybody resolves.
fn server() -> Name {
    name(&["localhost"])
}

fn nobody() -> Name {
    name(&["nobody", "invalid"])
}

#[allow(clippy::expect_used)] // invariant: our own short labels
fn name(labels: &[&str]) -> Name {
    Name::from_labels(labels.iter().map(|label| label.as_bytes())).expect("labels are valid")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(text: &str) -> Subject {
        Subject::of(&Name::from_ascii(text).expect("a name"))
    }

    #[test]
    fn names_in_the_zone_are_hosts() {
        assert_eq!(subject("ap."), Subject::Apex);
        assert_eq!(subject("WWW.Example.AP."), Subject::Host("www.example.ap".into()));
    }

    #[test]
    fn names_outside_are_foreign_however_they_look() {
        for name in
            [".", "com.", "ap.com.", "notap.", "example.ap.example.", "arpa.", "in-addr.arpa.", "localhost."]
        {
            assert_eq!(subject(name), Subject::Foreign, "{name}");
        }
    }

    #[test]
    fn only_whole_addresses_of_the_network_have_a_reverse() {
        assert_eq!(subject("1.2.192.127.in-addr.arpa."), Subject::Address([127, 192, 2, 1].into()));
        assert_eq!(subject("1.2.255.127.in-addr.arpa."), Subject::Address([127, 255, 2, 1].into()));
        for foreign in [
            "1.0.0.127.in-addr.arpa.",
            "1.2.191.127.in-addr.arpa.",
            "192.127.in-addr.arpa.",
            "8.8.8.8.in-addr.arpa.",
        ] {
            assert_eq!(subject(foreign), Subject::Foreign, "{foreign}");
        }
        let nibbles = |first: &str| format!("{}{first}.ip6.arpa.", "0.".repeat(30));
        assert_eq!(
            subject(&nibbles("c.f")),
            Subject::Address(Ipv6Addr::from([0xfc00, 0, 0, 0, 0, 0, 0, 0]).into())
        );
        assert_eq!(subject(&nibbles("d.f")), Subject::Foreign);
        assert_eq!(subject("c.f.ip6.arpa."), Subject::Foreign);
    }
}
