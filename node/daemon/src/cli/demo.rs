//! `phantom demo`: a whole network in one process, and a page to fetch through it.

use std::{net::SocketAddr, path::PathBuf};

use phantom_protocol::limits::DEFAULT_HOPS;
use serde::Serialize;

use super::{
    HOPS, Usage, end_point, number,
    progress::Progress,
    running::{SOCKS, asked_to_end, end, open, raise_limits},
};
use crate::{
    demo::{Demo, fewest_nodes},
    doors::{BindError, Doors, bind_sockets, bind_socks, local_socket::demo_places},
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

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let (nodes, hops) = (usize::from(args.nodes), usize::from(args.hops));
    let fewest = fewest_nodes(hops);
    if nodes < fewest {
        return Err(Usage(format!(
            "Paths of {hops} relays need at least {fewest} nodes, not {nodes}: type --nodes {fewest}, or a smaller --hops."
        ))
        .into());
    }
    raise_limits();
    let socks = bind_socks(args.socks).await?;
    // It may be left over from another run, and somebody may be waiting for a new one.
    if let Some(file) = &args.ready_file {
        ready_file::remove(file)?;
    }
    let mut progress = Progress::new();
    let started = tokio::select! {
        demo = Demo::start(nodes, hops, |what| progress.say(what)) => demo?,
        ended = asked_to_end() => return Ok(ended?),
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
    let doors = open(&started.client, Doors { socks: Some(socks), dns: None, sockets });
    print(&started, address, hops).await;
    if let Some(file) = &args.ready_file {
        let (site, invitation) = (started.url.as_str(), started.invitation.as_str());
        let ready = Ready {
            socks: address,
            site,
            pid: std::process::id(),
            hops,
            invitation,
            nodes: &started.addresses,
        };
        ready_file::write(file, &ready)?;
    }
    let result = asked_to_end().await;
    doors.abort();
    end(&started.nodes).await;
    if let Some(file) = &args.ready_file {
        ready_file::remove(file)?;
    }
    Ok(result?)
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

mod ready_file {
    use std::{fs, io::ErrorKind, path::Path};

    use anyhow::Context;
    use serde::Serialize;

    /// Whoever finds the file finds it whole.
    pub(super) fn write(file: &Path, content: &impl Serialize) -> anyhow::Result<()> {
        let mut unfinished = file.as_os_str().to_owned();
        unfinished.push(".unfinished");
        let mut text = serde_json::to_vec_pretty(content)?;
        text.push(b'\n');
        fs::write(&unfinished, text)
            .and_then(|()| fs::rename(&unfinished, file))
            .with_context(|| format!("The ready file {} cannot be written", file.display()))
    }

    pub(super) fn remove(file: &Path) -> anyhow::Result<()> {
        match fs::remove_file(file) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("The ready file {} cannot be replaced", file.display()))
            }
            _ => Ok(()),
        }
    }
}
