//! `phantom demo`: a whole network in one process, and a page to fetch through it.

use std::{
    net::{SocketAddr, TcpListener},
    path::PathBuf,
};

use phantom_protocol::limits::DEFAULT_HOPS;
use serde::Serialize;

use super::{
    HOPS, Usage, confined, end_point, number,
    progress::Progress,
    ready_file::{ReadyFile, Unfinished},
    running::{Asked, SOCKS, end, open, raise_limits},
};
use crate::{
    confinement::{Extent, Files, Report},
    demo::{Demo, fewest_nodes},
    doors::{
        BindError, Doors, bind_sockets, bind_socks,
        local_socket::{demo_places, make_folders},
    },
};

/// Start a whole network on this machine and a page to fetch through it
///
/// Complete nodes, each on a loopback address of its own, share nothing but sockets. One hosts a website, one has a proxy port
/// for programs. Nothing leaves this machine. Ctrl-C ends everything.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  phantom demo                    then paste the curl line that it prints
  phantom demo --hops 1           shorter paths: faster, and less hidden
  phantom demo --nodes 30 --ready-file /tmp/ready.json")]
pub(super) struct Args {
    /// How many nodes
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = number(2..=200_u8))]
    nodes: u8,
    /// Relays on each side, 0 to 8
    #[arg(long, value_name = "K", default_value_t = DEFAULT_HOPS as u8, value_parser = number(HOPS))]
    hops: u8,
    /// The proxy port for programs: SOCKS5, SOCKS4a, HTTP CONNECT
    #[arg(long, value_name = "ADDR", default_value_t = SOCKS, value_parser = end_point)]
    socks: SocketAddr,
    /// A file that is written when everything stands: JSON with socks, site, pid, hops, invitation, nodes
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// Keep the files, system calls and rights that the demonstration would give up; for debugging
    #[arg(long)]
    no_confinement: bool,
}

/// A demonstration that has its port and nothing that it does not need.
pub(super) struct Prepared {
    nodes: usize,
    hops: usize,
    socks: TcpListener,
    ready_file: ReadyFile,
    unfinished: Unfinished,
    confinement: Report,
}

#[derive(Serialize)]
struct Ready<'a> {
    socks: SocketAddr,
    site: &'a str,
    pid: u32,
    hops: usize,
    invitation: &'a str,
    nodes: &'a [SocketAddr],
}

pub(super) fn prepare(args: Args) -> anyhow::Result<Prepared> {
    let (nodes, hops) = (usize::from(args.nodes), usize::from(args.hops));
    let fewest = fewest_nodes(hops);
    if nodes < fewest {
        return Err(Usage(format!(
            "Paths of {hops} relays need at least {fewest} nodes, not {nodes}: type --nodes {fewest}, or a smaller --hops."
        ))
        .into());
    }
    raise_limits();
    let socks = bind_socks(args.socks)?;
    let ready_file = ReadyFile::at(args.ready_file.as_deref())?;
    let unfinished = ready_file.begin()?;
    let mut files = Files::default();
    for folder in make_folders(&demo_places()) {
        files = files.own(&folder);
    }
    if let Some(place) = ready_file.place() {
        files = files.comes_and_goes(place);
    }
    let confinement = confined(&files, if args.no_confinement { Extent::Off } else { Extent::Usual })?;
    Ok(Prepared { nodes, hops, socks, ready_file, unfinished, confinement })
}

impl Prepared {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let Prepared { nodes, hops, socks, ready_file, unfinished, confinement } = self;
        let mut asked = Asked::new()?;
        let mut progress = Progress::new();
        let started = tokio::select! {
            demo = Demo::start(nodes, hops, |what| progress.say(what)) => demo?,
            () = asked.until_end() => return Ok(()),
        };
        drop(progress);
        let sockets = bind_sockets(&demo_places()).await.unwrap_or_else(|error| {
        match error {
            BindError::Taken(place) => eprintln!(
                "Another node answers at {}: `phantom status` and `phantom host` speak to that one, not to this demo. End \
                 it first if you want to ask the demo.",
                place.display()
            ),
            error => eprintln!("`phantom status` and `phantom host` cannot speak to this demo. {error}"),
        }
        Vec::new()
    });
        let address = socks.local_addr()?;
        let doors =
            open(&started.client, Doors { socks: Some(socks), sockets, ..Doors::default() }, confinement);
        print(&started, address, hops).await;
        let (site, invitation) = (started.url.as_str(), started.invitation.as_str());
        let pid = std::process::id();
        ready_file.write(
            unfinished,
            &Ready { socks: address, site, pid, hops, invitation, nodes: &started.addresses },
        )?;
        asked.until_end().await;
        doors.abort();
        end(&started.nodes, &mut asked).await;
        ready_file.remove()
    }
}

async fn print(demo: &Demo, socks: SocketAddr, hops: usize) {
    println!("{} nodes stand. Fetch the page, through {hops} + {hops} relays:\n", demo.nodes.len());
    println!("    curl -q --noproxy '' --socks5-hostname {socks} {}\n", demo.url);
    println!(
        "More to try there: bytes/1000000000, sha256/1000000000, echo (POST, WebSocket). A browser works, too: set the"
    );
    println!("SOCKS v5 host {socks} and let it resolve names.\n");
    println!("Relays in use:");
    for (whose, relays) in demo.relays_in_use().await {
        println!(
            "    {whose:<12} {}",
            if relays.is_empty() { "none".to_owned() } else { relays.join(" > ") }
        );
    }
    let other = SocketAddr::new(socks.ip(), socks.port().checked_add(1).unwrap_or(socks.port() - 1));
    println!("\nAnother node joins with:\n");
    println!("    phantom up --socks {other} --join {}\n", demo.invitation);
    println!("Ctrl-C ends everything.");
}
