//! Where the way out leads: ports, names, networks (PROTOCOL §6.10). What has a special purpose is out of question whatever
//! the rules say.

use std::{fmt, net::IpAddr, ops::RangeInclusive, str::FromStr};

use phantom_protocol::wire::outward::{NotOutside, Outside};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// Ports of web pages: what there is without rules.
const USUAL: [u16; 2] = [80, 443];
/// Parts of each rule.
const MOST: usize = 1_000;

/// What may be reached by the way out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rules {
    /// None: 80 and 443.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Ports>,
    /// Names, whatever they resolve to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<Names>,
    /// Addresses, whatever name led to them. Neither names nor networks: all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<Prefix>,
}

impl Rules {
    /// Whether these are not more than anybody can mean.
    pub fn is_bounded(&self) -> bool {
        self.ports.len().max(self.names.len()).max(self.networks.len()) <= MOST
    }

    /// Whether this port is allowed.
    pub fn admit_port(&self, port: u16) -> bool {
        match self.ports.as_slice() {
            [] => USUAL.contains(&port),
            ports => ports.iter().any(|range| range.0.contains(&port)),
        }
    }

    /// Whether it is worth asking where this place is.
    pub fn may_admit(&self, to: &Outside) -> bool {
        match to.as_address() {
            Some(address) => self.admit(None, address),
            None => self.admit_name(to) || self.names.is_empty() || !self.networks.is_empty(),
        }
    }

    /// Whether this address is allowed, to which a name may have led.
    pub fn admit(&self, name: Option<&Outside>, address: IpAddr) -> bool {
        let everything = self.names.is_empty() && self.networks.is_empty();
        everything
            || name.is_some_and(|name| self.admit_name(name))
            || self.networks.iter().any(|network| network.contains(address))
    }

    fn admit_name(&self, to: &Outside) -> bool {
        to.as_name().is_some_and(|name| self.names.iter().any(|pattern| pattern.contain(name)))
    }
}

impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ports.as_slice() {
            [] => f.write_str("ports 80, 443")?,
            ports => list(f, "ports ", ports)?,
        }
        if !self.names.is_empty() {
            list(f, " of ", &self.names)?;
        }
        if !self.networks.is_empty() {
            list(f, if self.names.is_empty() { " in " } else { " and in " }, &self.networks)?;
        }
        Ok(())
    }
}

fn list(f: &mut fmt::Formatter<'_>, before: &str, parts: &[impl fmt::Display]) -> fmt::Result {
    let parts: Vec<String> = parts.iter().map(ToString::to_string).collect();
    write!(f, "{before}{}", parts.join(", "))
}

/// A part of a rule that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRule {
    /// Of ports.
    #[error("it looks like 443, or 8000-8999")]
    Ports,
    /// Of names.
    #[error("it looks like example.org, or *.example.org for all names below it: {0}")]
    Names(NotOutside),
    /// Of networks.
    #[error("it looks like 192.0.2.0/24, or 2001:db8::/32")]
    Prefix,
}

/// One port, or from one to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports(RangeInclusive<u16>);

impl FromStr for Ports {
    type Err = BadRule;

    fn from_str(text: &str) -> Result<Ports, BadRule> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let number = |text: &str| text.parse::<u16>().map_err(|_| BadRule::Ports);
        match (number(first)?, number(last)?) {
            (first, last) if 1 <= first && first <= last => Ok(Ports(first..=last)),
            _ => Err(BadRule::Ports),
        }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.start(), self.0.end()) {
            (first, last) if first == last => write!(f, "{first}"),
            (first, last) => write!(f, "{first}-{last}"),
        }
    }
}

/// One name, or all that end in a dot and it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    name: String,
    below: bool,
}

impl Names {
    fn contain(&self, name: &str) -> bool {
        match self.below {
            false => name == self.name,
            true => name.strip_suffix(&self.name).is_some_and(|front| front.ends_with('.')),
        }
    }
}

impl FromStr for Names {
    type Err = BadRule;

    fn from_str(text: &str) -> Result<Names, BadRule> {
        let below = text.strip_prefix("*.");
        // A whole top-level domain has one label: another one in front makes it a name.
        let whole = below.map_or(text.to_owned(), |name| format!("x.{name}"));
        let name = Outside::name(&whole).map_err(BadRule::Names)?;
        let name = name.as_name().unwrap_or_default();
        Ok(Names {
            name: name.strip_prefix("x.").filter(|_| below.is_some()).unwrap_or(name).to_owned(),
            below: below.is_some(),
        })
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.below { "*." } else { "" }, self.name)
    }
}

/// A network by its first bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    address: IpAddr,
    bits: u8,
}

impl Prefix {
    pub(super) fn new(address: IpAddr, bits: u8) -> Prefix {
        Prefix { address, bits }
    }

    /// This address alone.
    pub fn of(address: IpAddr) -> Prefix {
        let address = address.to_canonical();
        Prefix { address, bits: if address.is_ipv4() { 32 } else { 128 } }
    }

    pub(super) fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(ours), IpAddr::V4(other)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.bits)).unwrap_or(0);
                (ours.to_bits() ^ other.to_bits()) & mask == 0
            }
            (IpAddr::V6(ours), IpAddr::V6(other)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.bits)).unwrap_or(0);
                (ours.to_bits() ^ other.to_bits()) & mask == 0
            }
            _ => false,
        }
    }
}

impl FromStr for Prefix {
    type Err = BadRule;

    fn from_str(text: &str) -> Result<Prefix, BadRule> {
        let (address, bits) =
            text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| BadRule::Prefix)?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(most), str::parse).ok().filter(|bits| *bits <= most);
        Ok(Prefix { address, bits: bits.ok_or(BadRule::Prefix)? })
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// Each part of a rule is a text.
macro_rules! as_text {
    ($($part:ty),*) => {$(
        impl Serialize for $part {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $part {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<$part, D::Error> {
                String::deserialize(from)?.parse().map_err(D::Error::custom)
            }
        }
    )*};
}

as_text!(Ports, Names, Prefix);

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(ports: &str, names: &str, networks: &str) -> Rules {
        fn parts<T: FromStr<Err = BadRule>>(text: &str) -> Vec<T> {
            text.split_whitespace().map(|part| part.parse().unwrap()).collect()
        }
        Rules { ports: parts(ports), names: parts(names), networks: parts(networks) }
    }

    fn name(name: &str) -> Outside {
        Outside::name(name).unwrap()
    }

    fn ip(address: &str) -> IpAddr {
        address.parse().unwrap()
    }

    #[test]
    fn without_rules_web_pages_of_everybody_are_allowed() {
        let rules = Rules::default();
        assert!(rules.admit_port(80) && rules.admit_port(443));
        assert!(!rules.admit_port(25) && !rules.admit_port(8080) && !rules.admit_port(0));
        assert!(rules.may_admit(&name("example.com")) && rules.admit(None, ip("9.9.9.9")));
    }

    #[test]
    fn a_name_is_allowed_by_itself_or_by_what_stands_in_front_of_it() {
        let rules = rules("", "example.org *.example.net *.edu", "");
        for (allowed, is_allowed) in [
            ("example.org", true),
            ("www.example.org", false),
            ("example.net", false),
            ("a.b.example.net", true),
            ("notexample.net", false),
            ("a.edu", true),
            ("example.com", false),
        ] {
            assert_eq!(rules.may_admit(&name(allowed)), is_allowed, "{allowed}");
            assert_eq!(rules.admit(Some(&name(allowed)), ip("9.9.9.9")), is_allowed, "{allowed}");
        }
        assert!(!rules.may_admit(&Outside::address(ip("9.9.9.9")).unwrap()), "it has no name");
    }

    #[test]
    fn a_network_allows_whatever_name_leads_into_it() {
        let rules = rules("", "example.org", "9.9.9.0/24 2620:fe::/48");
        let other = name("example.com");
        assert!(rules.may_admit(&other), "that depends on where it is");
        assert!(rules.admit(Some(&other), ip("9.9.9.200")) && rules.admit(Some(&other), ip("2620:fe::9")));
        assert!(rules.admit(Some(&other), ip("::ffff:9.9.9.200")));
        assert!(!rules.admit(Some(&other), ip("9.9.8.1")) && !rules.admit(None, ip("2620:fd::9")));
        assert!(rules.admit(Some(&name("example.org")), ip("1.1.1.1")));
        let everything = self::rules("", "", "0.0.0.0/0 ::/0");
        assert!(everything.admit(None, ip("1.1.1.1")) && everything.admit(None, ip("2620::1")));
    }

    #[test]
    fn ports_are_single_or_ranges() {
        let rules = rules("22 8000-8999", "", "");
        assert!(rules.admit_port(22) && rules.admit_port(8000) && rules.admit_port(8999));
        assert!(!rules.admit_port(80) && !rules.admit_port(9000));
    }

    #[test]
    fn rules_survive_being_written_down_and_say_what_they_are() {
        let rules = rules("22 8000-8999", "example.org *.example.net", "9.9.9.9 2620:fe::/48");
        let text = serde_json::to_string(&rules).unwrap();
        assert_eq!(serde_json::from_str::<Rules>(&text).unwrap(), rules);
        assert_eq!(
            rules.to_string(),
            "ports 22, 8000-8999 of example.org, *.example.net and in 9.9.9.9/32, 2620:fe::/48"
        );
        assert_eq!(Rules::default().to_string(), "ports 80, 443");
    }

    #[test]
    fn what_cannot_be_meant_is_an_error() {
        for wrong in ["0", "-", "9-8", "65536", "http", "1-2-3", ""] {
            assert!(wrong.parse::<Ports>().is_err(), "{wrong}");
        }
        for wrong in
            ["", "*", "*.", "localhost", "*.local", "a.onion", "*.x.ap", "10.0.0.1", "a b.com", "a.*.com"]
        {
            assert!(wrong.parse::<Names>().is_err(), "{wrong}");
        }
        for wrong in ["", "9.9.9.0/33", "::/129", "example.com", "9.9.9.9/", "/8"] {
            assert!(wrong.parse::<Prefix>().is_err(), "{wrong}");
        }
    }
}
