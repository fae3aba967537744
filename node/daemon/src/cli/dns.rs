//! What the user says about DNS: whether and where, with which answers, and what else names have.

use std::{net::SocketAddr, str::FromStr};

use phantom_protocol::address::ApName;
use phantom_resolver::Data;
use serde::{Deserialize, Deserializer, de::Error};

use super::{end_point, running::DNS};
use crate::doors::{DnsAnswers, DnsPort, PortError, Records};

/// A string of a TXT record has no more bytes.
const STRING: usize = 255;
/// A text has no more: with the rest of an answer it must fit into a message.
const TEXT: usize = 4_096;

/// Whether there is a DNS port, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DnsWish {
    Off,
    On,
    At(SocketAddr),
}

impl FromStr for DnsWish {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<DnsWish, &'static str> {
        match text {
            "off" => Ok(DnsWish::Off),
            "on" => Ok(DnsWish::On),
            _ => end_point(text).map(DnsWish::At).map_err(|_| "it is on, off, or looks like 127.0.0.1:9053"),
        }
    }
}

/// Opens the port as it was wished, or says why there is none. Who has wished nothing gets it where it usually is, if that can
/// be: nobody's node stays away for it.
pub(super) fn open(wish: Option<DnsWish>, answers: DnsAnswers) -> Result<Result<DnsPort, String>, PortError> {
    match wish {
        Some(DnsWish::Off) => Ok(Err("it is switched off".to_owned())),
        Some(DnsWish::On) => DnsPort::bind(DNS, answers).map(Ok),
        Some(DnsWish::At(address)) => DnsPort::bind(address, answers).map(Ok),
        None => Ok(DnsPort::bind(DNS, answers).map_err(|error| error.to_string())),
    }
}

/// Which addresses DNS answers with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kinds {
    pub(super) a: bool,
    pub(super) aaaa: bool,
}

impl Kinds {
    pub(super) const ALL: Kinds = Kinds { a: true, aaaa: true };
}

impl FromStr for Kinds {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Kinds, &'static str> {
        match text {
            "a" => Ok(Kinds { a: true, aaaa: false }),
            "aaaa" => Ok(Kinds { a: false, aaaa: true }),
            "a,aaaa" | "aaaa,a" => Ok(Kinds::ALL),
            _ => Err("it is a, aaaa, or a,aaaa"),
        }
    }
}

/// Records of one name, as `phantom.toml` declares them.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub(super) struct Declared {
    #[serde(deserialize_with = "text")]
    name: Host,
    #[serde(default, deserialize_with = "some_text")]
    srv: Option<Srv>,
    #[serde(default, deserialize_with = "some_text")]
    txt: Option<Txt>,
    #[serde(default, deserialize_with = "some_text")]
    https: Option<Https>,
}

impl Declared {
    /// Whether it declares anything.
    pub(super) fn is_empty(&self) -> bool {
        self.srv.is_none() && self.txt.is_none() && self.https.is_none()
    }

    pub(super) fn add_to(&self, records: &mut Records) {
        let Host(name) = &self.name;
        if let Some(Srv { service, priority, weight, port, target }) = &self.srv {
            let target = target.as_ref().map_or(name, |Host(target)| target).clone();
            let data = Data::Srv { priority: *priority, weight: *weight, port: *port, target };
            records.declare(format!("{service}.{name}"), data);
        }
        if let Some(Txt(strings)) = &self.txt {
            records.declare(name.clone(), Data::Txt(strings.clone()));
        }
        if let Some(Https { priority, target, alpn, port }) = &self.https {
            let target = target.as_ref().map(|Host(target)| target.clone());
            let data = Data::Https { priority: *priority, target, alpn: alpn.clone(), port: *port };
            records.declare(name.clone(), data);
        }
    }
}

/// A full name with labels in front, in lower case and without a dot at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Host(String);

impl FromStr for Host {
    type Err = String;

    fn from_str(text: &str) -> Result<Host, String> {
        text.parse::<ApName>().map_err(|error| error.to_string())?;
        let host = text.trim_end_matches('.').to_ascii_lowercase();
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        // With a service in front and its dots it must fit into 253.
        if host.len() > 200 || !host.split('.').all(is_label) {
            return Err("the labels in front of a name consist of letters, digits, - and _".to_owned());
        }
        Ok(Host(host))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Srv {
    service: String,
    priority: u16,
    weight: u16,
    port: u16,
    target: Option<Host>,
}

impl FromStr for Srv {
    type Err = String;

    fn from_str(text: &str) -> Result<Srv, String> {
        let wrong = || "it looks like _http._tcp 10 5 80: service, priority, weight, port".to_owned();
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let (service, numbers, target) = match words[..] {
            [service, priority, weight, port] => (service, [priority, weight, port], None),
            [service, priority, weight, port, target] => (service, [priority, weight, port], Some(target)),
            _ => return Err(wrong()),
        };
        let is_service = service.len() <= 40
            && service.split('.').count() == 2
            && service.split('.').all(|label| {
                label.len() > 1
                    && label.starts_with('_')
                    && label.bytes().skip(1).all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            });
        let [Ok(priority), Ok(weight), Ok(port)] = numbers.map(str::parse) else { return Err(wrong()) };
        if !is_service {
            return Err(wrong());
        }
        let target = target.map(str::parse).transpose()?;
        Ok(Srv { service: service.to_ascii_lowercase(), priority, weight, port, target })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Txt(Vec<String>);

impl FromStr for Txt {
    type Err = String;

    fn from_str(text: &str) -> Result<Txt, String> {
        if text.is_empty() || text.len() > TEXT || !text.is_ascii() {
            return Err(format!("it is a text of 1 to {TEXT} characters of ASCII"));
        }
        // ASCII, so no piece ends within a character.
        let pieces = text.as_bytes().chunks(STRING).map(|piece| String::from_utf8_lossy(piece).into_owned());
        Ok(Txt(pieces.collect()))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Https {
    priority: u16,
    target: Option<Host>,
    alpn: Vec<String>,
    port: Option<u16>,
}

impl FromStr for Https {
    type Err = String;

    fn from_str(text: &str) -> Result<Https, String> {
        let wrong = || {
            "it looks like 1 . alpn=h2,http/1.1 port=8443: priority, target (. is the name itself)".to_owned()
        };
        let mut words = text.split_ascii_whitespace();
        let priority = words.next().and_then(|word| word.parse().ok()).ok_or_else(wrong)?;
        let target = match words.next().ok_or_else(wrong)? {
            "." => None,
            target => Some(target.parse()?),
        };
        let mut https = Https { priority, target, alpn: Vec::new(), port: None };
        for word in words {
            match word.split_once('=') {
                Some(("alpn", list)) if https.alpn.is_empty() && is_alpn(list) => {
                    https.alpn = list.split(',').map(str::to_owned).collect();
                }
                Some(("port", port)) if https.port.is_none() => {
                    https.port = Some(port.parse().map_err(|_| wrong())?);
                }
                _ => return Err(wrong()),
            }
        }
        // An alias of another name has no parameters, and is of another name (RFC 9460 §2.4.2).
        let is_alias = https.priority == 0;
        if is_alias && (https.target.is_none() || !https.alpn.is_empty() || https.port.is_some()) {
            return Err(
                "with priority 0 it is an alias: it has another name as its target, and nothing else"
                    .to_owned(),
            );
        }
        Ok(https)
    }
}

fn is_alpn(list: &str) -> bool {
    list.len() <= 200
        && list
            .split(',')
            .all(|id| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\'))
}

fn text<'de, D: Deserializer<'de>, T: FromStr<Err = String>>(value: D) -> Result<T, D::Error> {
    String::deserialize(value)?.parse().map_err(D::Error::custom)
}

fn some_text<'de, D: Deserializer<'de>, T: FromStr<Err = String>>(value: D) -> Result<Option<T>, D::Error> {
    text(value).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dns_is_on_off_or_somewhere() {
        assert_eq!("on".parse(), Ok(DnsWish::On));
        assert_eq!("off".parse(), Ok(DnsWish::Off));
        assert_eq!("[::1]:53".parse(), Ok(DnsWish::At("[::1]:53".parse().unwrap())));
        assert!("yes".parse::<DnsWish>().is_err() && "53".parse::<DnsWish>().is_err());
    }

    #[test]
    fn a_port_that_nobody_has_asked_for_may_be_taken() {
        let _taken_by_us_or_others = DnsPort::bind(DNS, DnsAnswers::default());
        let why = open(None, DnsAnswers::default()).unwrap().unwrap_err();
        assert!(why.contains("is in use"), "{why}");
        assert!(open(Some(DnsWish::On), DnsAnswers::default()).is_err());
    }

    #[test]
    fn what_no_record_can_be_is_refused() {
        for wrong in [
            "",
            "_http 1 2 3",
            "http._tcp 1 2 3",
            "_http._tcp 1 2",
            "_http._tcp 1 2 65536",
            "_._tcp 1 2 3",
            "_a._tcp 1 2 3 example.com",
        ] {
            assert!(wrong.parse::<Srv>().is_err(), "{wrong}");
        }
        for wrong in [
            "",
            "1",
            ". 1",
            "1 . h2",
            "1 . port=x",
            "1 . alpn=",
            "1 . alpn=a,,b",
            "1 . key=value",
            "0 .",
            "1 example.com",
        ] {
            assert!(wrong.parse::<Https>().is_err(), "{wrong}");
        }
        assert!(
            "".parse::<Txt>().is_err()
                && "\u{e4}".parse::<Txt>().is_err()
                && "a".repeat(TEXT + 1).parse::<Txt>().is_err()
        );
        assert!("short.ap".parse::<Host>().is_err() && "example.com".parse::<Host>().is_err());
    }

    #[test]
    fn long_texts_are_cut_into_strings() {
        let Txt(pieces) = "a".repeat(600).parse().unwrap();
        assert_eq!(pieces.iter().map(String::len).collect::<Vec<_>>(), [255, 255, 90]);
    }
}
