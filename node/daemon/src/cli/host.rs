//! `phantom host`: publish a local port.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    str::FromStr,
    time::Duration,
};

use anyhow::Context;
use tokio::{net::TcpStream, time::timeout};

use super::{Usage, Whom, number, progress::Progress, say};
use crate::{
    doors::{AccessList, HostRequest, Hosted, LABEL_RULE, Visitor, is_label},
    outward::{Names, Ports, Prefix, Rules},
    session::Protocol,
};

/// Longer than a node takes before it gives up and says why.
const PATIENCE: Duration = Duration::from_secs(180);
/// The identity of those who name none.
pub(super) const LABEL: &str = "default";

/// Publish a local port under a .ap name
///
/// Others reach it by the name that is printed. Neither they nor any relay learn where this machine is. The name belongs
/// to an identity that the node keeps: the same --as gives the same name. The port stays published whenever the node runs,
/// also after a restart, until `phantom unhost`. Hosted again, a port leads to the new place.
///
/// A server on 127.0.0.0/8 sees each visitor under an address of its own in 127.224.0.0/11, the same as long as the visitor
/// keeps its identity: logs, limits and bans work. A server that lets nobody in but 127.0.0.1 must allow that network.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  python3 -m http.server 8000 --bind 127.0.0.1 &
  phantom host 8000                      http://NAME.ap:8000/
  phantom host 80 --to 127.0.0.1:8000    http://NAME.ap/
  phantom host 22 --as shell             another identity, another name
  phantom host 22 --allow NAME.ap        only for whom this name is, see `phantom visit`
  phantom host --out-proxy --as way      a way to the Internet, for web pages
  phantom host 53 --udp --to 5353        datagrams, for programs that use UDP ASSOCIATE of the proxy port")]
pub(super) struct Args {
    /// The port that others connect to
    #[arg(value_parser = number(1..=u16::MAX), required_unless_present = "out_proxy")]
    port: Option<u16>,
    /// Where their connections go: an address, a port of this machine, or both [default: 127.0.0.1:PORT]
    #[arg(long, value_name = "ADDR")]
    to: Option<Target>,
    /// The port speaks UDP, not TCP; for both, publish it twice
    #[arg(long)]
    udp: bool,
    /// Tell your server who comes, by a line of the PROXY protocol (version 1) before each connection; nginx, HAProxy and
    /// others read it where they are told to. The visitor's address in it is its AP address
    #[arg(long, conflicts_with = "udp")]
    proxy_protocol: bool,
    #[arg(
        long = "as",
        value_name = "LABEL",
        default_value = LABEL,
        value_parser = label,
        help = format!("The identity: {LABEL_RULE}; it is made when it is first used")
    )]
    label: String,
    /// Who may come in: a .ap name or an AP address; give it again for each. Without it, everybody who knows the name. A visitor
    /// chooses its identity with `phantom visit`
    #[arg(long, value_name = "NAME.ap")]
    allow: Vec<Visitor>,
    /// No port: a way out. Visitors reach the ordinary Internet by this machine, which answers for what they do there. Names are
    /// resolved here; private and other special addresses, and this machine itself, are never reached
    #[arg(long, conflicts_with_all = ["port", "to", "udp", "proxy_protocol"])]
    out_proxy: bool,
    /// The ports that the way out leads to, as 443 or 8000-8999 [default: 80,443]
    #[arg(
        long,
        value_name = "PORTS",
        value_delimiter = ',',
        requires = "out_proxy",
        conflicts_with = "port"
    )]
    allow_ports: Vec<Ports>,
    /// The names that it leads to, as example.org or '*.example.org' for all below it [default: all]
    #[arg(
        long,
        value_name = "NAMES",
        value_delimiter = ',',
        requires = "out_proxy",
        conflicts_with = "port"
    )]
    allow_names: Vec<Names>,
    /// The networks that it leads to besides these names, as 2001:db8::/32 [default: all, if there are no names]
    #[arg(
        long,
        value_name = "NETWORKS",
        value_delimiter = ',',
        requires = "out_proxy",
        conflicts_with = "port"
    )]
    allow_networks: Vec<Prefix>,
    #[command(flatten)]
    whom: Whom,
}

impl Args {
    fn request(self) -> anyhow::Result<HostRequest> {
        let allow =
            AccessList::of(self.allow).map_err(|error| Usage(format!("{error}. Leave out some --allow")))?;
        let request = match self.port {
            None => {
                let (ports, names, networks) = (self.allow_ports, self.allow_names, self.allow_networks);
                HostRequest::way_out(Rules { ports, names, networks }, &self.label)
            }
            Some(port) => {
                let to = self.to.unwrap_or_default().complete(port);
                let plain = HostRequest::new(port, to, &self.label);
                HostRequest { protocol: protocol(self.udp), proxy_protocol: self.proxy_protocol, ..plain }
            }
        };
        Ok(HostRequest { allow, ..request })
    }
}

pub(super) fn label(text: &str) -> Result<String, String> {
    if is_label(text) { Ok(text.to_owned()) } else { Err(format!("a label consists of {LABEL_RULE}")) }
}

pub(super) fn protocol(udp: bool) -> Protocol {
    if udp { Protocol::Udp } else { Protocol::Tcp }
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let mut client = args.whom.connect().await?;
    let request = args.request()?;
    let mut progress = Progress::new();
    progress.say("Publishing: building paths to the entry nodes ...");
    let hosted = timeout(PATIENCE, client.host(request)).await.context(
        "The node has not said within 3 minutes that the port is published. It goes on trying: see `phantom status`",
    )??;
    drop(progress);
    let to = hosted.to;
    let is_tcp = hosted.protocol == Protocol::Tcp;
    say(&told(hosted))?;
    if is_tcp && !matches!(timeout(Duration::from_secs(2), TcpStream::connect(to)).await, Ok(Ok(_))) {
        eprintln!("Nothing listens on {to} yet: visitors are refused until you start your server there.");
    }
    Ok(())
}

fn told(Hosted { name, port, to, protocol, outward, .. }: Hosted) -> String {
    let shown = if port == 80 && protocol == Protocol::Tcp { String::new() } else { format!(":{port}") };
    match (protocol, outward) {
        (Protocol::Outward, rules) => format!(
            "{name}\nleads to the Internet: {}. Others go out with: phantom up --out-proxy {name}\n",
            rules.unwrap_or_default()
        ),
        (Protocol::Udp, _) => format!("{name}{shown}\nleads to UDP {to} of this machine.\n"),
        (Protocol::Tcp, _) => {
            format!(
                "{name}{shown}\nleads to {to} of this machine. If it is a website: http://{name}{shown}/\n"
            )
        }
    }
}

/// Where connections go, as far as somebody has said it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Target {
    ip: Option<IpAddr>,
    port: Option<u16>,
}

impl Target {
    /// This machine, and the port that others connect to, unless something else was said.
    pub(super) fn complete(self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip.unwrap_or(Ipv4Addr::LOCALHOST.into()), self.port.unwrap_or(port))
    }
}

impl FromStr for Target {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Target, &'static str> {
        let whole = text.parse::<SocketAddr>().map(|it| (Some(it.ip()), Some(it.port())));
        let ip = || text.parse().map(|ip| (Some(ip), None));
        let port = || text.parse().map(|port| (None, Some(port)));
        match whole.or_else(|_| ip()).or_else(|_| port()) {
            Ok((ip, port)) if port != Some(0) => Ok(Target { ip, port }),
            _ => Err("it looks like 127.0.0.1:8000, [::1]:8000, or 8000"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_target_leaves_out_is_filled_in() {
        for (to, expected) in [
            (None, "127.0.0.1:80"),
            (Some("8000"), "127.0.0.1:8000"),
            (Some("192.168.1.7"), "192.168.1.7:80"),
            (Some("192.168.1.7:8000"), "192.168.1.7:8000"),
            (Some("[::1]:8000"), "[::1]:8000"),
            (Some("::1"), "[::1]:80"),
        ] {
            let target = to.map_or_else(Target::default, |to| to.parse().unwrap());
            assert_eq!(target.complete(80), expected.parse().unwrap(), "{to:?}");
        }
        for wrong in ["", "localhost", "0", "127.0.0.1:0", "127.0.0.1:99999"] {
            assert!(wrong.parse::<Target>().is_err(), "{wrong}");
        }
    }
}
