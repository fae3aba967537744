//! `phantom.toml`: the options of `phantom up`, and services, in a file. What the command line says goes before it.
//!
//! Nothing in it is passed over: an unknown key or a wrong value is an error that names file, line and what is allowed.

mod values;

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, ErrorKind, Read},
    net::SocketAddr,
    ops::Range,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use phantom_protocol::{address::ApName, node::Relay, wire::invitation::Invitation};
use serde::Deserialize;
use toml::Spanned;

use self::values::{
    address, burst, confinement, dns, hops, invitation, kinds, label, log, out_proxy, party, path, port,
    ports, quota, rate, relay, target, user, usual_label,
};
use super::{
    dns::{Declared, DnsWish, Kinds},
    host::{self, Target},
};
use crate::{
    confinement::Extent,
    doors::{AccessList, HostRequest, Records},
    folders,
    outward::{Names, Ports, Prefix, Rules},
};

/// No configuration is longer, in bytes.
const LONGEST: u64 = 1 << 20;

/// What a configuration says.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct Configuration {
    #[serde(deserialize_with = "invitation")]
    pub(super) join: Option<Invitation>,
    #[serde(deserialize_with = "address")]
    pub(super) listen: Option<SocketAddr>,
    #[serde(deserialize_with = "relay")]
    pub(super) relay: Option<Relay>,
    #[serde(deserialize_with = "rate")]
    pub(super) rate: Option<u64>,
    #[serde(deserialize_with = "burst")]
    pub(super) burst: Option<u64>,
    #[serde(deserialize_with = "quota")]
    pub(super) quota: Option<u64>,
    #[serde(deserialize_with = "address")]
    pub(super) socks: Option<SocketAddr>,
    #[serde(deserialize_with = "dns")]
    pub(super) dns: Option<DnsWish>,
    #[serde(deserialize_with = "kinds")]
    pub(super) dns_records: Option<Kinds>,
    #[serde(deserialize_with = "address")]
    pub(super) transparent: Option<SocketAddr>,
    #[serde(deserialize_with = "address")]
    pub(super) metrics: Option<SocketAddr>,
    #[serde(deserialize_with = "path")]
    pub(super) state: Option<PathBuf>,
    #[serde(deserialize_with = "hops")]
    pub(super) hops: Option<u8>,
    #[serde(deserialize_with = "path")]
    pub(super) ready_file: Option<PathBuf>,
    #[serde(deserialize_with = "user")]
    pub(super) user: Option<String>,
    #[serde(deserialize_with = "confinement")]
    pub(super) confinement: Option<Extent>,
    #[serde(deserialize_with = "log")]
    pub(super) log: Option<String>,
    #[serde(deserialize_with = "out_proxy")]
    pub(super) out_proxy: Option<ApName>,
    pub(super) extended_errors: bool,
    pub(super) unsafe_logs: bool,
    host: Vec<Spanned<Service>>,
    visit: Vec<Spanned<Visit>>,
    record: Vec<Spanned<Declared>>,
}

/// A service that is published as long as the configuration has it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Service {
    #[serde(default, deserialize_with = "port")]
    port: Option<u16>,
    #[serde(default, deserialize_with = "target")]
    to: Option<Target>,
    #[serde(default)]
    udp: bool,
    #[serde(default = "usual_label", rename = "as", deserialize_with = "label")]
    label: String,
    #[serde(default)]
    proxy_protocol: bool,
    #[serde(default)]
    allow: AccessList,
    #[serde(default)]
    out_proxy: bool,
    #[serde(default, deserialize_with = "ports")]
    allow_ports: Vec<Ports>,
    #[serde(default)]
    allow_names: Vec<Names>,
    #[serde(default)]
    allow_networks: Vec<Prefix>,
}

/// A party that is visited under a kept identity as long as the configuration has it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Visit {
    #[serde(deserialize_with = "party")]
    to: ApName,
    #[serde(rename = "as", deserialize_with = "label")]
    label: String,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConfigurationError {
    /// Something in it is wrong.
    #[error("{file}, line {line}: {what}", file = file.display())]
    Wrong {
        /// Which.
        file: PathBuf,
        /// The first is 1.
        line: usize,
        /// A sentence.
        what: String,
    },
    /// Who writes it decides what is published, and whom the node trusts first.
    #[error(
        "{file} can be changed by other users of this machine. If nobody has, run: chmod go-w '{file}'",
        file = .0.display()
    )]
    Open(PathBuf),
    /// The same.
    #[error(
        "{file} belongs to another user (uid {owner}). If what it says is right, run: sudo chown root '{file}'",
        file = file.display()
    )]
    OtherOwner {
        /// Which.
        file: PathBuf,
        /// Whose.
        owner: u32,
    },
    /// It cannot be meant.
    #[error(
        "{file} is longer than {LONGEST} bytes, as no configuration is. Name another one with --config FILE",
        file = .0.display()
    )]
    TooLong(PathBuf),
    /// It cannot be read.
    #[error("The configuration {file} cannot be read: {1}. Name another one with --config FILE", file = .0.display())]
    Unreadable(PathBuf, #[source] io::Error),
}

impl Configuration {
    /// The file that `--config` names, or the one at the usual place if there is one; and where it was.
    pub(super) fn find(named: Option<&Path>) -> Result<(Configuration, Option<PathBuf>), ConfigurationError> {
        let Some(file) = Configuration::place(named) else {
            return Ok(Default::default());
        };
        match Configuration::read(&file) {
            Err(ConfigurationError::Unreadable(_, error))
                if named.is_none() && error.kind() == ErrorKind::NotFound =>
            {
                Ok(Default::default())
            }
            read => Ok((read?, Some(file))),
        }
    }

    /// Where [`Configuration::find`] looks.
    pub(super) fn place(named: Option<&Path>) -> Option<PathBuf> {
        named.map(Path::to_owned).or_else(usual_place)
    }

    /// The state folder that the file at the usual place names, if it can be read: commands look there for a node.
    pub(super) fn usual_state() -> Option<PathBuf> {
        Configuration::find(None).ok()?.0.state
    }

    /// Reads a file.
    pub(super) fn read(file: &Path) -> Result<Configuration, ConfigurationError> {
        let unreadable = |error| ConfigurationError::Unreadable(file.to_owned(), error);
        let opened = File::open(file).map_err(unreadable)?;
        let metadata = opened.metadata().map_err(unreadable)?;
        // Nobody can put anything into /dev/null.
        if !metadata.file_type().is_char_device() {
            check_trusted(file, metadata.uid(), metadata.mode())?;
        }
        let mut bytes = Vec::new();
        let length = opened.take(LONGEST + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if length as u64 > LONGEST {
            return Err(ConfigurationError::TooLong(file.to_owned()));
        }
        let text = String::from_utf8(bytes)
            .map_err(|error| unreadable(io::Error::new(ErrorKind::InvalidData, error)))?;
        parse(&text).map_err(|Fault { line, what }| ConfigurationError::Wrong {
            file: file.to_owned(),
            line,
            what,
        })
    }

    /// The keys that a running node cannot follow, as far as they are not the same.
    pub(super) fn differences(&self, other: &Configuration) -> Vec<&'static str> {
        let Configuration {
            join,
            listen,
            relay,
            rate,
            burst,
            quota,
            socks,
            dns,
            metrics,
            dns_records,
            transparent,
            state,
            hops,
            ready_file,
            out_proxy,
            extended_errors,
            user,
            confinement,
            record: _,
            log: _,
            unsafe_logs,
            host: _,
            visit: _,
        } = self;
        let keys = [
            ("join", *join != other.join),
            ("listen", *listen != other.listen),
            ("relay", *relay != other.relay),
            ("rate", *rate != other.rate),
            ("burst", *burst != other.burst),
            ("quota", *quota != other.quota),
            ("socks", *socks != other.socks),
            ("dns", *dns != other.dns),
            ("dns-records", *dns_records != other.dns_records),
            ("transparent", *transparent != other.transparent),
            ("metrics", *metrics != other.metrics),
            ("state", *state != other.state),
            ("hops", *hops != other.hops),
            ("ready-file", *ready_file != other.ready_file),
            ("out-proxy", *out_proxy != other.out_proxy),
            ("extended-errors", *extended_errors != other.extended_errors),
            ("user", *user != other.user),
            ("confinement", *confinement != other.confinement),
            ("unsafe-logs", *unsafe_logs != other.unsafe_logs),
            ("record", self.records() != other.records()),
        ];
        keys.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
    }

    /// What DNS is to tell of names beside their addresses.
    pub(super) fn records(&self) -> Records {
        let mut records = Records::default();
        self.record.iter().for_each(|declared| declared.get_ref().add_to(&mut records));
        records
    }

    /// The services, as `phantom host` would ask for them.
    pub(super) fn services(&self) -> Vec<HostRequest> {
        self.host.iter().map(|service| service.get_ref().request()).collect()
    }

    /// Who is to be visited under which identity.
    pub(super) fn visits(&self) -> Vec<(ApName, String)> {
        self.visit.iter().map(|visit| (visit.get_ref().to, visit.get_ref().label.clone())).collect()
    }
}

impl Service {
    fn request(&self) -> HostRequest {
        let plain = match self.port {
            Some(port) => HostRequest::new(port, self.to.unwrap_or_default().complete(port), &self.label),
            None => HostRequest::way_out(self.rules(), &self.label),
        };
        let protocol = if self.out_proxy { plain.protocol } else { host::protocol(self.udp) };
        HostRequest { protocol, proxy_protocol: self.proxy_protocol, allow: self.allow.clone(), ..plain }
    }

    fn rules(&self) -> Rules {
        let (ports, names, networks) = (&self.allow_ports, &self.allow_names, &self.allow_networks);
        Rules { ports: ports.clone(), names: names.clone(), networks: networks.clone() }
    }

    /// What does not go together.
    fn fault(&self) -> Option<&'static str> {
        match self.port {
            None if !self.out_proxy => Some("missing key `port`"),
            _ if self.out_proxy
                && (self.port.is_some() || self.to.is_some() || self.udp || self.proxy_protocol) =>
            {
                Some(
                    "out-proxy = true stands in the place of port, to, udp and proxy-protocol. Leave these out",
                )
            }
            _ if !self.out_proxy && self.rules() != Rules::default() => {
                Some("allow-ports, allow-names and allow-networks need out-proxy = true")
            }
            _ if self.udp && self.proxy_protocol => {
                Some("a service with udp = true cannot have proxy-protocol = true, which is for TCP")
            }
            _ => None,
        }
    }
}

/// Only root and whoever runs the node may write it.
fn check_trusted(file: &Path, owner: u32, mode: u32) -> Result<(), ConfigurationError> {
    if owner != 0 && owner != nix::unistd::geteuid().as_raw() {
        return Err(ConfigurationError::OtherOwner { file: file.to_owned(), owner });
    }
    if mode & 0o022 != 0 {
        return Err(ConfigurationError::Open(file.to_owned()));
    }
    Ok(())
}

fn usual_place() -> Option<PathBuf> {
    folders::configuration().map(|folder| folder.join("phantom/phantom.toml"))
}

/// What is wrong, and where.
#[derive(Debug)]
struct Fault {
    line: usize,
    what: String,
}

impl Fault {
    fn new(text: &str, span: Option<Range<usize>>, what: String) -> Fault {
        let before = text.get(..span.unwrap_or_default().start).unwrap_or_default();
        Fault { line: 1 + before.matches('\n').count(), what }
    }
}

fn parse(text: &str) -> Result<Configuration, Fault> {
    // What is no TOML at all mostly lacks quotes.
    toml::from_str::<toml::Table>(text).map_err(|error| {
        let what =
            format!("{}. Write one key on a line, and text in quotes: key = \"value\"", error.message());
        Fault::new(text, error.span(), what)
    })?;
    let read: Configuration = toml::from_str(text)
        .map_err(|error| Fault::new(text, error.span(), explained(text, error.message(), error.span())))?;
    let mut seen = BTreeSet::new();
    for service in &read.host {
        if let Some(what) = service.get_ref().fault() {
            return Err(Fault::new(text, Some(service.span()), what.to_owned()));
        }
        let HostRequest { port, label, protocol, .. } = service.get_ref().request();
        if !seen.insert((port, protocol, label.clone())) {
            let what = format!("port {port} of {label:?} is published above already. Remove one of the two");
            return Err(Fault::new(text, Some(service.span()), what));
        }
    }
    let mut visited = BTreeSet::new();
    for visit in &read.visit {
        if !visited.insert(visit.get_ref().to) {
            let what = "this name is visited above already. Remove one of the two";
            return Err(Fault::new(text, Some(visit.span()), what.to_owned()));
        }
    }
    for record in &read.record {
        if record.get_ref().is_empty() {
            let what = "a record has srv, txt or https beside its name";
            return Err(Fault::new(text, Some(record.span()), what.to_owned()));
        }
    }
    Ok(read)
}

/// The sentence of a wrong value with its key before it; a key that is unknown or missing is named in its sentence.
fn explained(text: &str, message: &str, span: Option<Range<usize>>) -> String {
    let message = message.replace("unknown field", "unknown key").replace("missing field", "missing key");
    if message.starts_with("unknown key") || message.starts_with("missing key") {
        return message;
    }
    let before = text.get(..span.unwrap_or_default().start).unwrap_or_default();
    let key = before.rsplit('\n').next().and_then(|line| line.split_once('=')).map(|(key, _)| key.trim());
    match key {
        Some("visit") => "visit: each begins with a line of its own, [[visit]]".to_owned(),
        Some("record") => "record: each record begins with a line of its own, [[record]]".to_owned(),
        Some(key) if key != "host" => format!("{key}: {message}"),
        _ => "host: each service begins with a line of its own, [[host]]".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use phantom_protocol::{
        identity::{ApSecret, NodeId},
        limits::DEFAULT_HOPS,
        network::Network,
        wire::contact::{Contact, TlsKeys},
    };
    use phantom_resolver::Data;

    use super::{
        super::{
            Cli,
            running::{DNS, SOCKS},
        },
        *,
    };

    const EXAMPLE: &str = include_str!("../../../../examples/phantom.toml");

    /// The example as it is when everything in it is wanted.
    fn example_in_full() -> String {
        let network = Network::public().id();
        let contact = Contact::listed(
            NodeId::from_bytes([1; 32]),
            "198.51.100.7:443".parse().unwrap(),
            TlsKeys::one([2; 32]),
        );
        let invitation = Invitation::new(network, &contact).unwrap().to_string();
        let wanted =
            |line: &str| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).map(String::from);
        let lines: Vec<String> =
            EXAMPLE.lines().map(|line| wanted(line).unwrap_or(line.to_owned())).collect();
        lines.join("\n").replace("phantom-invitation-1:...", &invitation).replace("NAME.ap", &name())
    }

    #[test]
    fn the_example_says_nothing_until_somebody_wants_it_and_then_everything() {
        let untouched = parse(EXAMPLE).unwrap();
        assert_eq!(format!("{untouched:?}"), format!("{:?}", Configuration::default()));
        let Configuration {
            join,
            listen,
            relay,
            rate,
            burst,
            quota,
            socks,
            dns,
            metrics,
            dns_records,
            transparent,
            state,
            hops,
            ready_file,
            user,
            confinement,
            log,
            out_proxy,
            extended_errors,
            unsafe_logs,
            host,
            visit,
            record,
        } = parse(&example_in_full()).unwrap();
        assert!(
            join.is_some()
                && listen.is_some()
                && relay == Some(Relay::default())
                && transparent.is_some()
                && (rate, burst, quota) == (Some(5_000_000), Some(50_000_000), Some(500_000_000_000))
                && metrics.is_some()
                && unsafe_logs
                && state.is_some()
                && ready_file.is_some()
                && user.is_some()
                && log.is_some()
                && out_proxy.is_some()
                && extended_errors
        );
        assert_eq!((socks, hops.map(usize::from)), (Some(SOCKS), Some(DEFAULT_HOPS)), "defaults");
        assert_eq!(confinement, Some(Extent::Usual), "default");
        assert_eq!((dns, dns_records), (Some(DnsWish::At(DNS)), Some(Kinds::ALL)), "defaults");
        assert_eq!((host.len(), visit.len(), record.len()), (2, 1, 1));
    }

    #[test]
    fn the_example_and_the_file_have_every_option_of_up() {
        let command = Cli::command();
        let up = command.find_subcommand("up").unwrap();
        let in_full = example_in_full();
        for option in up.get_arguments().filter_map(clap::Arg::get_long) {
            if option == "config" {
                continue;
            }
            // A switch that takes something away is a key that is false.
            let key = option.strip_prefix("no-").unwrap_or(option);
            assert!(in_full.lines().any(|line| line.starts_with(&format!("{key} = "))), "{option}");
        }
        let of_tables = [
            "port = ",
            "to = ",
            "udp = ",
            "as = ",
            "proxy-protocol = ",
            "allow = ",
            "out-proxy = true",
            "allow-ports = ",
            "allow-names = ",
            "allow-networks = ",
        ];
        for key in of_tables.into_iter().chain(["name = ", "srv = ", "txt = ", "https = "]) {
            assert!(in_full.lines().any(|line| line.starts_with(key)), "{key}");
        }
    }

    fn name() -> String {
        ApSecret::from_bytes(&[7; 32]).public().name().to_string()
    }

    fn fault(text: &str) -> String {
        let Fault { line, what } = parse(&text.replace("NAME", &name())).unwrap_err();
        format!("{line}: {what}")
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line_and_what_is_allowed() {
        for (text, expected) in [
            ("hops = 3\nsock = 1", "2: unknown key `sock`, expected one of `join`, `listen`, `relay`"),
            ("\nhops = 9", "2: hops: it is a number from 0 to 8"),
            ("hops = true", "1: hops: it is a number from 0 to 8"),
            ("relay = \"yes\"", "1: relay: it is auto, always or never"),
            ("dns = 53", "1: dns: it is on, off, or looks like 127.0.0.1:9053"),
            ("dns-records = \"mx\"", "1: dns-records: it is a, aaaa, or a,aaaa"),
            ("transparent = 9040", "1: transparent: it looks like 127.0.0.1:9070"),
            ("[[record]]\ntxt = \"a\"", "1: missing key `name`"),
            ("\n[[record]]\nname = \"NAME\"", "2: a record has srv, txt or https beside its name"),
            ("[[record]]\nname = \"short.ap\"\ntxt = \"a\"", "2: name: a full name has 56 characters"),
            (
                "[[record]]\nname = \"NAME\"\nsrv = \"_http._tcp 80\"",
                "3: srv: it looks like _http._tcp 10 5 80",
            ),
            ("[[record]]\nname = \"NAME\"\nhttps = \"1 . h2\"", "3: https: it looks like 1 . alpn=h2"),
            (
                "[[record]]\nname = \"NAME\"\nmx = \"10 a\"",
                "3: unknown key `mx`, expected one of `name`, `srv`, `txt`",
            ),
            ("record = 1", "1: record: each record begins with a line of its own, [[record]]"),
            ("rate = 5", "1: rate: it looks like 5 MB/s: a number and one of kB/s, MB/s"),
            ("burst = \"5\"", "1: burst: it looks like 50 MB: a number and one of kB, MB"),
            ("listen = \"here\"", "1: listen: it looks like"),
            ("join = \"hello\"", "1: join: this is not an invitation"),
            ("state = \"~/phantom\"", "1: state: it is a whole path, from the first /"),
            ("socks = 127.0.0.1:9070", "1: invalid float"),
            ("socks = here", "1: string values must be quoted"),
            ("hops = 1\nhops = 2", "2: duplicate key"),
            ("confinement = \"yes\"", "1: confinement: it is true, false or \"required\""),
            ("user = \"\"", "1: user: it is the name of a user"),
            ("log = \"loud\"", "1: log: it looks like debug, or phantom_node=debug"),
            ("[[host]]\nto = 1", "1: missing key `port`"),
            ("[[host]]\nport = 80\nat = 1", "3: unknown key `at`, expected one of `port`, `to`, `udp`, `as`"),
            ("[[host]]\nport = 0", "2: port: it is a number from 1 to 65535"),
            ("[[host]]\nport = 80\nto = \"localhost\"", "3: to: it looks like 127.0.0.1:8000"),
            ("[[host]]\nport = 80\nudp = 1", "3: udp: invalid type: integer `1`, expected a boolean"),
            ("[[host]]\nport = 80\nudp = true\nproxy-protocol = true", "1: a service with udp = true cannot"),
            ("[[host]]\nport = 80\nas = \"A/B\"", "3: as: a label consists of"),
            ("[[host]]\nport = 80\nallow = []", "3: allow: it is a list of .ap names"),
            ("[[host]]\nport = 80\nallow = [\"::1\"]", "3: allow: ::1 is not an AP address"),
            ("[[visit]]\nto = \"short.ap\"\nas = \"a\"", "2: to: a full name has 56"),
            ("visit = 1", "1: visit: each begins with a line of its own, [[visit]]"),
            ("[[host]]\nout-proxy = true\nport = 80", "1: out-proxy = true stands in the place of port"),
            ("[[host]]\nport = 80\nallow-ports = [1]", "1: allow-ports, allow-names and allow-networks need"),
            ("[[host]]\nout-proxy = true\nallow-ports = [0]", "3: allow-ports: it looks like 443"),
            (
                "[[host]]\nout-proxy = true\nallow-names = [\"x\"]",
                "3: allow-names: it looks like example.org",
            ),
            ("out-proxy = \"example.com\"", "1: out-proxy: `example.com` does not end in .ap"),
            ("host = 8000", "1: host: each service begins with a line of its own, [[host]]"),
            ("[host]\nport = 8000", "1: host: each service begins with a line of its own, [[host]]"),
            ("[[host]]\nport = 1\n[[host]]\nport = 1", "3: port 1 of \"default\" is published above already"),
        ] {
            let fault = fault(text);
            assert!(fault.starts_with(expected), "{text:?}: {fault}");
        }
        assert!(fault("socks = here").ends_with("text in quotes: key = \"value\""));
    }

    #[test]
    fn services_are_what_phantom_host_would_ask_for() {
        let text = "[[host]]\nport = 53\nto = 8000\n[[host]]\nport = 53\nudp = true\n[[host]]\nport = 22\nas = \"shell\"\nproxy-protocol = true";
        let request = |port, to: &str, label: &str, udp| HostRequest {
            port,
            to: to.parse().unwrap(),
            label: label.to_owned(),
            protocol: host::protocol(udp),
            proxy_protocol: label == "shell",
            allow: AccessList::default(),
            outward: None,
        };
        assert_eq!(
            parse(text).unwrap().services(),
            [
                request(53, "127.0.0.1:8000", "default", false),
                request(53, "127.0.0.1:53", "default", true),
                request(22, "127.0.0.1:22", "shell", false)
            ]
        );
    }

    #[test]
    fn what_is_declared_of_a_name_is_what_dns_tells() {
        let text = "[[record]]\nname = \"WWW.NAME\"\nsrv = \"_HTTP._tcp 1 2 3\"\ntxt = \"a\"\n\
            [[record]]\nname = \"NAME\"\nhttps = \"1 . alpn=h2,http/1.1 port=8443\"";
        let (name, mut expected) = (name(), Records::default());
        let target = format!("www.{name}");
        expected.declare(target.clone(), Data::Txt(vec!["a".into()]));
        let srv = Data::Srv { priority: 1, weight: 2, port: 3, target: target.clone() };
        expected.declare(format!("_http._tcp.{target}"), srv);
        let alpn = vec!["h2".to_owned(), "http/1.1".to_owned()];
        expected.declare(name.clone(), Data::Https { priority: 1, target: None, alpn, port: Some(8443) });
        assert_eq!(parse(&text.replace("NAME", &name)).unwrap().records(), expected);
    }

    #[test]
    fn what_a_running_node_cannot_follow_is_named() {
        let (empty, full) = (Configuration::default(), parse(&example_in_full()).unwrap());
        let all = [
            "join",
            "listen",
            "relay",
            "rate",
            "burst",
            "quota",
            "socks",
            "dns",
            "dns-records",
            "transparent",
            "metrics",
            "state",
            "hops",
            "ready-file",
            "out-proxy",
            "extended-errors",
            "user",
            "confinement",
            "unsafe-logs",
            "record",
        ];
        assert_eq!(empty.differences(&full), all);
        assert!(full.differences(&full).is_empty());
    }

    #[test]
    fn a_file_that_others_may_change_or_nobody_can_read_is_refused() {
        use std::{fs, os::unix::fs::PermissionsExt};
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("phantom.toml");
        let error = Configuration::find(Some(&file)).unwrap_err().to_string();
        assert!(error.contains("cannot be read") && error.contains("--config"), "{error}");
        fs::write(&file, "hops = 2").unwrap();
        for mode in [0o646, 0o664] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            let error = Configuration::find(Some(&file)).unwrap_err().to_string();
            assert!(error.contains("chmod go-w "), "{mode:o}: {error}");
        }
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(Configuration::find(Some(&file)).unwrap().0.hops, Some(2));
        let own = nix::unistd::geteuid().as_raw();
        assert!(check_trusted(&file, own, 0o600).is_ok() && check_trusted(&file, 0, 0o644).is_ok());
        let error = check_trusted(&file, own + 1, 0o644).unwrap_err().to_string();
        assert!(error.contains("chown root "), "{error}");
    }

    #[test]
    fn an_endless_file_is_not_read_to_its_end() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "#".repeat(1 << 20)).unwrap();
        assert!(Configuration::read(file.path()).is_ok());
        std::fs::write(file.path(), "#".repeat((1 << 20) + 1)).unwrap();
        for too_long in [file.path(), Path::new("/dev/zero")] {
            let error = Configuration::read(too_long).unwrap_err().to_string();
            assert!(error.contains("longer than 1048576"), "{error}");
        }
    }
}
