//! Drives the same load through any SOCKS5 proxy, so that Phantom and its peers are measured by one ruler.
//!
//! It speaks plain HTTP/1.1 to a site that serves `/bytes/N` and a WebSocket at `/echo` (the demo's site, or
//! `loadgen serve` behind any other network). Every command prints one line of JSON.

mod cpu;
mod http;
mod measure;
mod server;

use std::net::SocketAddr;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Load through a SOCKS5 proxy: throughput, echo times, processor time")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Download `/bytes/N` on some streams at once, and check every byte.
    Download {
        #[command(flatten)]
        target: Target,
        /// Bytes of each stream.
        #[arg(long)]
        bytes: u64,
        /// Streams at once.
        #[arg(long, default_value_t = 1)]
        streams: usize,
    },
    /// Measure how long a byte takes to the site and back.
    Echo {
        #[command(flatten)]
        target: Target,
        /// Round trips. With `--beside` it is as many as fit into the download.
        #[arg(long, default_value_t = 500, conflicts_with = "beside")]
        count: usize,
        /// Download this many bytes on another stream at the same time.
        #[arg(long)]
        beside: Option<u64>,
        /// On so many streams at once.
        #[arg(long, default_value_t = 1, requires = "beside")]
        streams: usize,
    },
    /// Serve the site itself, for networks that have none.
    Serve {
        /// Where to listen; port 0 picks one. The address is printed.
        #[arg(long)]
        listen: SocketAddr,
    },
}

/// What is measured.
#[derive(Args, Clone)]
pub struct Target {
    /// The proxy.
    #[arg(long)]
    pub socks: SocketAddr,
    /// `HOST` or `HOST:PORT` of the site.
    #[arg(long)]
    pub site: String,
    /// Processes whose processor time is summed up.
    #[arg(long, value_delimiter = ',')]
    pub pids: Vec<u32>,
}

fn main() -> Result<()> {
    let report = match Cli::parse().command {
        Command::Download { target, bytes, streams } => measure::download(&target, bytes, streams)?,
        Command::Echo { target, count, beside: None, .. } => measure::idle_echo(&target, count)?,
        Command::Echo { target, beside: Some(bytes), streams, .. } => {
            measure::loaded_echo(&target, bytes, streams)?
        }
        Command::Serve { listen } => return server::serve(listen),
    };
    println!("{report}");
    Ok(())
}
