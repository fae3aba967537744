//! `phantom peers`: the links to other nodes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::Serialize;

use super::{
    Whom,
    say::say_as,
    status::{short, time},
};
use crate::doors::Link;

/// Show the links to other nodes
///
/// A guard is a node that may see this one's address at an end of its paths; there are few of them, and they are kept long.
/// No two nodes of one path are of one network: /16 of IPv4, /32 of IPv6.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  phantom peers
  phantom peers --json | jq '.[] | select(.guard) | .address'

Exit codes: 0 done, 1 could not be done (no node is running, ...), 2 wrong usage.")]
pub(super) struct Args {
    /// For programs: fields are added in later versions, never renamed
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    whom: Whom,
}

/// A link, with what follows from its address.
#[derive(Serialize)]
struct Peer {
    #[serde(flatten)]
    link: Link,
    network: Option<String>,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let status = args.whom.connect().await?.status().await?;
    let mut peers: Vec<Peer> = status.links.into_iter().map(Peer::of).collect();
    // Guards first, then those that have stood longest.
    peers.sort_by_key(|peer| (!peer.link.guard, u64::MAX - peer.link.since_seconds));
    say_as(args.json, &peers, |peers| render(peers))
}

impl Peer {
    fn of(link: Link) -> Peer {
        Peer { network: link.address.map(network), link }
    }
}

/// The part of an address by which nodes of one path differ.
fn network(address: SocketAddr) -> String {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            format!("{}/16", Ipv4Addr::new(a, b, 0, 0))
        }
        IpAddr::V6(ip) => {
            let [a, b, ..] = ip.segments();
            format!("{}/32", Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0))
        }
    }
}

fn render(peers: &[Peer]) -> String {
    let mut rows =
        vec![["ADDRESS", "NETWORK", "SINCE", "CELLS IN", "CELLS OUT", "DIALLED", "GUARD"].map(str::to_owned)];
    for Peer { link, network } in peers {
        rows.push([
            link.address.map_or_else(|| short(&link.node).to_owned(), |address| address.to_string()),
            network.clone().unwrap_or_else(|| "-".into()),
            time(link.since_seconds),
            link.cells_in.to_string(),
            link.cells_out.to_string(),
            if link.dialled { "by us" } else { "by it" }.into(),
            if link.guard { "guard" } else { "" }.into(),
        ]);
    }
    table(&rows)
}

/// Columns as wide as their widest cell.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        widths.iter_mut().zip(row).for_each(|(width, cell)| *width = (*width).max(cell.len()));
    }
    let line = |row: &[String; N]| {
        let cells: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(address: &str, guard: bool) -> Peer {
        Peer::of(Link {
            address: Some(address.parse().unwrap()),
            guard,
            dialled: guard,
            since_seconds: 60,
            ..Link::default()
        })
    }

    #[test]
    fn the_network_is_what_paths_differ_in() {
        for (address, expected) in [
            ("127.17.3.4:443", "127.17.0.0/16"),
            ("[2001:db8:1:2::3]:443", "2001:db8::/32"),
            ("[::ffff:198.51.100.7]:443", "198.51.0.0/16"),
        ] {
            assert_eq!(network(address.parse().unwrap()), expected);
        }
    }

    #[test]
    fn people_see_a_table() {
        let text = render(&[peer("127.17.0.1:4000", true), peer("127.18.0.1:400", false)]);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("ADDRESS          NETWORK        SINCE"), "{text}");
        assert_eq!(lines[1], "127.17.0.1:4000  127.17.0.0/16  1 min  0         0          by us    guard");
        assert_eq!(lines[2], "127.18.0.1:400   127.18.0.0/16  1 min  0         0          by it");
    }

    #[test]
    fn the_names_of_the_json_fields_stand() {
        let json = serde_json::to_value(peer("127.17.0.1:4000", true)).unwrap();
        for field in [
            "node",
            "address",
            "network",
            "dialled",
            "guard",
            "since_seconds",
            "round_trip_micros",
            "cells_in",
            "cells_out",
        ] {
            assert!(json.get(field).is_some(), "{field}");
        }
    }
}
