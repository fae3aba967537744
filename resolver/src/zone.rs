//! What a question is about, and the records of the answers. No sockets, no waiting.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::rr::{
    Name, RData, RecordType,
    rdata::{
        A, AAAA, HINFO, HTTPS, NS, PTR, SOA, SRV, SVCB, TXT,
        svcb::{Alpn, SvcParamKey, SvcParamValue},
    },
};

use crate::{Data, Wanted};

/// Seconds that an answer may be kept. A local alias stays with its peer for far longer.
pub(crate) const TTL: u32 = 60;
/// Seconds that a "no" may be kept: a service may be published at any time.
pub(crate) const NEGATIVE_TTL: u32 = 5;
/// Nibbles of an address behind those of `fc`.
const NIBBLES: usize = 30;

/// A name of ours.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// So many of its last labels are the name of its zone.
    pub(crate) zone_labels: usize,
    pub(crate) what: What,
}

/// What a name of ours is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// The zone itself.
    Apex,
    /// A host, as [`crate::Lookup::lookup`] wants it.
    Host(String),
    /// An address that only names of `.ap` have.
    Address(IpAddr),
    /// The beginning of addresses: it is there, and has nothing.
    Between,
    /// Never a name of anybody.
    Nothing,
}

impl Place {
    /// Nothing if it is somebody else's. The labels come from the left, and may be in any case.
    pub(crate) fn of(labels: &[&[u8]]) -> Option<Place> {
        let (top, rest) = labels.split_last()?;
        if top.eq_ignore_ascii_case(b"ap") {
            return Some(Place {
                zone_labels: 1,
                what: if rest.is_empty() { What::Apex } else { host(rest) },
            });
        }
        if !top.eq_ignore_ascii_case(b"arpa") {
            return None;
        }
        let (rest, [third, second, first]) = rest.split_last_chunk::<3>()?;
        let is = |label: &[u8], text: &str| label.eq_ignore_ascii_case(text.as_bytes());
        let what = if is(first, "ip6") && is(second, "f") && is(third, "c") {
            address(rest, NIBBLES, nibble, |nibbles| {
                let number =
                    nibbles.iter().fold(0xfc_u128, |number, nibble| number << 4 | u128::from(*nibble));
                IpAddr::V6(Ipv6Addr::from(number))
            })
        } else if is(first, "in-addr") && is(second, "127") {
            // Each second number is a zone of its own: no name above them holds these alone.
            let second = octet(third).filter(|second| *second >= 192)?;
            address(rest, 2, octet, |rest| match rest {
                [third, fourth] => IpAddr::V4(Ipv4Addr::new(127, second, *third, *fourth)),
                _ => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            })
        } else {
            return None;
        };
        Some(Place { zone_labels: 4, what })
    }

    /// A name that is none of ours, where there are no zones but ours.
    pub(crate) fn of_root(labels: &[&[u8]]) -> Place {
        let is_above = |zones: &[&[u8]]| {
            labels.len() <= zones.len()
                && labels
                    .iter()
                    .rev()
                    .zip(zones.iter().rev())
                    .all(|(one, other)| one.eq_ignore_ascii_case(other))
        };
        let what = match labels {
            [] => What::Apex,
            // Their "no" would be one for all names below.
            _ if is_above(&[b"127", b"in-addr", b"arpa"]) || is_above(&[b"f", b"ip6", b"arpa"]) => {
                What::Between
            }
            _ => What::Nothing,
        };
        Place { zone_labels: 0, what }
    }
}

/// Names with anything in their labels that no host has are nobody's: so no label can be taken for two.
fn host(labels: &[&[u8]]) -> What {
    let is_plain = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'.' | b'\\');
    let mut host = String::with_capacity(64);
    for label in labels {
        if !label.iter().all(is_plain) {
            return What::Nothing;
        }
        host.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
        host.push('.');
    }
    host.push_str("ap");
    What::Host(host)
}

/// An address of `length` parts, or its beginning, from the labels in front of its zone.
fn address(
    labels: &[&[u8]],
    length: usize,
    part: impl Fn(&[u8]) -> Option<u8>,
    whole: impl Fn(&[u8]) -> IpAddr,
) -> What {
    let parts: Option<Vec<u8>> = labels.iter().rev().map(|label| part(label)).collect();
    match parts {
        Some(parts) if parts.is_empty() => What::Apex,
        Some(parts) if parts.len() < length => What::Between,
        Some(parts) if parts.len() == length => What::Address(whole(&parts)),
        _ => What::Nothing,
    }
}

fn nibble(label: &[u8]) -> Option<u8> {
    let [digit] = label else { return None };
    char::from(*digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// As it is always written: no leading zeros, no sign.
fn octet(label: &[u8]) -> Option<u8> {
    let text = str::from_utf8(label).ok()?;
    text.parse::<u8>().ok().filter(|number| number.to_string() == text)
}

/// What a question of this type wants of a host.
pub(crate) fn wanted(wanted: RecordType) -> Wanted {
    match wanted {
        RecordType::A => Wanted::A,
        RecordType::AAAA => Wanted::Aaaa,
        RecordType::SRV => Wanted::Srv,
        RecordType::TXT => Wanted::Txt,
        RecordType::HTTPS => Wanted::Https,
        _ => Wanted::Other,
    }
}

/// What a host that has this is said to have.
pub(crate) fn host_records(wanted: RecordType, data: Vec<Data>) -> Vec<RData> {
    if wanted == RecordType::ANY {
        return any_records(wanted);
    }
    data.into_iter().filter_map(record_data).collect()
}

/// Nothing if a name in it is none.
fn record_data(data: Data) -> Option<RData> {
    let host = |name: String| Name::from_ascii(format!("{name}.")).ok();
    Some(match data {
        Data::A(alias) => RData::A(A(alias)),
        Data::Aaaa(address) => RData::AAAA(AAAA(address)),
        Data::Srv { priority, weight, port, target } => {
            RData::SRV(SRV::new(priority, weight, port, host(target)?))
        }
        Data::Txt(texts) => RData::TXT(TXT::new(texts)),
        Data::Https { priority, target, alpn, port } => {
            let alpn = (!alpn.is_empty()).then_some((SvcParamKey::Alpn, SvcParamValue::Alpn(Alpn(alpn))));
            let port = port.map(|port| (SvcParamKey::Port, SvcParamValue::Port(port)));
            let target = target.map_or(Some(Name::root()), host)?;
            RData::HTTPS(HTTPS(SVCB::new(priority, target, alpn.into_iter().chain(port).collect())))
        }
    })
}

/// The name of an address; none if `host` is no name, or if something else is wanted.
pub(crate) fn address_records(wanted: RecordType, host: &str) -> Vec<RData> {
    let host = Name::from_ascii(format!("{host}.")).ok();
    match host {
        Some(host) if wanted == RecordType::PTR => vec![RData::PTR(PTR(host))],
        _ => any_records(wanted),
    }
}

/// What a zone itself has.
pub(crate) fn apex_records(wanted: RecordType) -> Vec<RData> {
    match wanted {
        RecordType::SOA => vec![authority()],
        RecordType::NS => vec![RData::NS(NS(server()))],
        _ => any_records(wanted),
    }
}

/// Who wants everything gets a sign that there is no such thing (RFC 8482); who wants something else gets nothing here.
pub(crate) fn any_records(wanted: RecordType) -> Vec<RData> {
    let sign = (wanted == RecordType::ANY).then(|| RData::HINFO(HINFO::new("RFC8482".into(), String::new())));
    sign.into_iter().collect()
}

/// What comes with every "no", so that it is believed, and for how long.
pub(crate) fn authority() -> RData {
    let minutes = 60;
    RData::SOA(SOA::new(server(), nobody(), 1, 60 * minutes, 10 * minutes, 24 * 60 * minutes, NEGATIVE_TTL))
}

/// The zones are served on this machine only, so their server needs no name that anybody resolves.
fn server() -> Name {
    name(&["localhost"])
}

fn nobody() -> Name {
    name(&["nobody", "invalid"])
}

#[allow(clippy::expect_used)] // invariant: our own short labels
fn name(labels: &[&str]) -> Name {
    let mut name = Name::from_labels(labels.iter().map(|label| label.as_bytes())).expect("labels are valid");
    name.set_fqdn(true);
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of labels between dots, whatever is in them.
    fn what(text: &str) -> Option<What> {
        let labels = text.split_terminator('.').filter(|label| !label.is_empty());
        Place::of(&labels.map(str::as_bytes).collect::<Vec<_>>()).map(|place| place.what)
    }

    #[test]
    fn names_in_the_zone_are_hosts() {
        assert_eq!(what("ap."), Some(What::Apex));
        assert_eq!(what("WWW.Example.AP."), Some(What::Host("www.example.ap".into())));
        assert_eq!(what("_http._tcp.example.ap."), Some(What::Host("_http._tcp.example.ap".into())));
    }

    #[test]
    fn a_label_that_holds_a_dot_is_nobodys() {
        for strange in ["a.example", "a\\example", "a b", "a\0", "\u{e4}"] {
            let place = Place::of(&[strange.as_bytes(), b"ap"]);
            assert_eq!(place.map(|place| place.what), Some(What::Nothing), "{strange:?}");
        }
    }

    #[test]
    fn names_outside_are_foreign_however_they_look() {
        for name in [
            ".",
            "com.",
            "ap.com.",
            "notap.",
            "example.ap.example.",
            "arpa.",
            "in-addr.arpa.",
            "ip6.arpa.",
            "f.ip6.arpa.",
            "localhost.",
            "127.in-addr.arpa.",
            "1.0.0.127.in-addr.arpa.",
            "1.2.191.127.in-addr.arpa.",
            "0192.127.in-addr.arpa.",
            "8.8.8.8.in-addr.arpa.",
        ] {
            assert_eq!(what(name), None, "{name}");
        }
        assert_eq!(what(&format!("{}d.f.ip6.arpa.", "0.".repeat(30))), None);
    }

    #[test]
    fn the_reverse_zones_hold_whole_addresses_and_their_beginnings() {
        assert_eq!(what("1.2.192.127.in-addr.arpa."), Some(What::Address([127, 192, 2, 1].into())));
        assert_eq!(what("1.2.255.127.IN-ADDR.arpa."), Some(What::Address([127, 255, 2, 1].into())));
        let nibbles = |count: usize| format!("{}C.f.ip6.arpa.", "1.".repeat(count));
        let whole: Ipv6Addr = "fc11:1111:1111:1111:1111:1111:1111:1111".parse().expect("an address");
        assert_eq!(what(&nibbles(30)), Some(What::Address(whole.into())));
        for (name, expected) in [
            ("192.127.in-addr.arpa.".to_owned(), What::Apex),
            ("2.192.127.in-addr.arpa.".to_owned(), What::Between),
            ("256.2.192.127.in-addr.arpa.".to_owned(), What::Nothing),
            ("01.2.192.127.in-addr.arpa.".to_owned(), What::Nothing),
            ("+1.2.192.127.in-addr.arpa.".to_owned(), What::Nothing),
            ("1.1.2.192.127.in-addr.arpa.".to_owned(), What::Nothing),
            (nibbles(0), What::Apex),
            (nibbles(29), What::Between),
            (nibbles(31), What::Nothing),
            (format!("g.{}", nibbles(29)), What::Nothing),
            (format!("11.{}", nibbles(29)), What::Nothing),
        ] {
            assert_eq!(what(&name), Some(expected), "{name}");
        }
    }
}
