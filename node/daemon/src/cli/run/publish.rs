//! `--publish` and `--as` of `phantom run`: which servers of a program others find, and under which name.

use std::{
    collections::BTreeMap,
    fmt,
    str::FromStr,
    sync::{Mutex, PoisonError},
};

use phantom_policy::socket::Kind;

use crate::{
    cli::{Usage, host::label},
    doors::{LABEL_RULE, local_socket::Publish},
    supervise::Open,
};

/// Which servers others find.
#[derive(Debug, clap::Args)]
pub(super) struct Serving {
    /// Others can come to this port of the program, as 80, or 80:8080 if it listens on 8080; 53/udp for UDP. Several with
    /// commas between them. The run ends with the program: a server must not go to the background
    #[arg(long, value_name = "PORT[:LOCAL][/udp]", value_delimiter = ',')]
    publish: Vec<Port>,
    #[arg(
        long = "as",
        value_name = "LABEL",
        value_parser = label,
        help = format!(
            "Others can come under the name of this identity, the same each time: {LABEL_RULE}; it is made when it is first \
             used. Without --publish they can come to every port. Without this, a run that publishes has a name of its own"
        )
    )]
    label: Option<String>,
}

impl Serving {
    /// How the node is asked for it; nothing if nobody is to come.
    pub(super) fn publish(&self) -> Option<Publish> {
        (self.label.is_some() || !self.publish.is_empty()).then(|| Publish { label: self.label.clone() })
    }

    /// Which ports are open.
    pub(super) fn open(&self) -> anyhow::Result<Open> {
        match (&self.label, self.publish.as_slice()) {
            (None, []) => Ok(Open::These(BTreeMap::new())),
            (Some(_), []) => Ok(Open::All),
            (_, ports) => {
                let mut open = BTreeMap::new();
                for port in ports {
                    let twice = open.insert((port.kind, port.port), port.local).is_some();
                    anyhow::ensure!(
                        !twice,
                        Usage(format!("--publish: port {port} stands twice. Leave one out"))
                    );
                }
                Ok(Open::These(open))
            }
        }
    }

    /// Tells the user where others come to.
    pub(super) fn told(&self, name: Option<String>) -> Told {
        let ports: Vec<String> = self.publish.iter().map(Port::to_string).collect();
        let ports = match ports.as_slice() {
            [] => "every port".to_owned(),
            [port] => format!("port {port}"),
            ports => format!("ports {}", ports.join(", ")),
        };
        let told = Told { ports, name: Mutex::default() };
        told.tell(name);
        told
    }
}

/// Where others come to, as the user knows it.
#[derive(Debug)]
pub(super) struct Told {
    ports: String,
    name: Mutex<Option<String>>,
}

impl Told {
    /// Says it, if it is news: a name of the run's own is another one when the node has been started again.
    pub(super) fn tell(&self, name: Option<String>) {
        let mut known = self.name.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(name) = name.as_ref().filter(|name| known.as_ref() != Some(*name)) {
            eprintln!("phantom: what the program serves is at {name} ({}).", self.ports);
        }
        *known = name;
    }
}

/// One port that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Port {
    kind: Kind,
    port: u16,
    /// Where the program listens.
    local: u16,
}

impl fmt::Display for Port {
    /// As others see it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Stream => write!(f, "{}", self.port),
            Kind::Datagram => write!(f, "{}/udp", self.port),
        }
    }
}

impl FromStr for Port {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Port, &'static str> {
        let (ports, kind) = match text.split_once('/') {
            None | Some((_, "tcp")) => (text.trim_end_matches("/tcp"), Kind::Stream),
            Some((ports, "udp")) => (ports, Kind::Datagram),
            Some(_) => return Err(LOOKS),
        };
        let (port, local) = ports.split_once(':').unwrap_or((ports, ports));
        let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0).ok_or(LOOKS);
        Ok(Port { kind, port: number(port)?, local: number(local)? })
    }
}

const LOOKS: &str = "a port to publish looks like 80, 80:8080 or 53/udp; several with commas between them";

#[cfg(test)]
mod tests {
    use super::*;

    fn serving(ports: &[&str], label: Option<&str>) -> Serving {
        Serving {
            publish: ports.iter().map(|port| port.parse().unwrap()).collect(),
            label: label.map(str::to_owned),
        }
    }

    #[test]
    fn a_port_is_written_in_four_ways() {
        for (text, kind, port, local) in [
            ("80", Kind::Stream, 80, 80),
            ("80/tcp", Kind::Stream, 80, 80),
            ("80:8080", Kind::Stream, 80, 8080),
            ("53:5353/udp", Kind::Datagram, 53, 5353),
        ] {
            assert_eq!(text.parse(), Ok(Port { kind, port, local }));
        }
        for wrong in ["", "0", "80:", ":80", "80:0", "80/sctp", "/udp", "80:1:2", "70000", "-1", "80/udp/tcp"]
        {
            assert_eq!(wrong.parse::<Port>(), Err(LOOKS), "{wrong}");
        }
    }

    #[test]
    fn a_label_alone_opens_every_port_and_ports_those_alone() {
        assert!(matches!(serving(&[], Some("shop")).open(), Ok(Open::All)));
        let Ok(Open::These(open)) = serving(&["80:8080", "80/udp"], Some("shop")).open() else { panic!() };
        assert_eq!(open, [((Kind::Stream, 80), 8080), ((Kind::Datagram, 80), 80)].into());
        assert!(serving(&["80", "80:8080"], None).open().is_err());
        assert_eq!(serving(&[], None).publish(), None);
        assert_eq!(serving(&["80"], None).publish(), Some(Publish { label: None }));
    }
}
