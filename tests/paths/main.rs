//! Routing paths of every length, built in a row between real nodes: how many tries each took, and how long.
//!
//! `cargo test --release -p phantom-tests --test paths -- --nocapture` builds some of each length and prints the table,
//! with `--include-ignored` a thousand of each.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test fails by panicking

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use phantom_node::daemon::{Config, Daemon};
use phantom_protocol::{limits::MAX_HOPS, network::Network, node::Relay};

/// The longest circle needs 23 nodes besides its owner, each in a network of its own.
const NODES: u8 = 26;
/// The network knows itself within this.
const MEETING: Duration = Duration::from_secs(60);

#[test]
fn paths_of_every_length_stand_at_the_first_or_second_try() {
    run(12);
}

#[test]
#[ignore = "takes a quarter of an hour"]
fn a_thousand_paths_of_every_length_stand_at_the_first_or_second_try() {
    run(1_000);
}

fn run(paths: usize) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let nodes = network().await;
        let mut late = 0;
        for hops in 1..=MAX_HOPS {
            late += measure(&nodes, hops, paths).await;
        }
        let all = MAX_HOPS * paths;
        // 99.9% of all, and never fewer than all of a short run.
        assert!(late <= all / 1_000, "{late} of {all} paths needed more than two tries");
        for node in &nodes {
            node.stop().await;
        }
    });
}

/// Builds so many paths of one length, each for another owner, and prints a row. Says how many took three tries.
async fn measure(nodes: &[Daemon], hops: usize, paths: usize) -> usize {
    let (mut times, mut second, mut late) = (Vec::with_capacity(paths), 0, 0);
    for (_, owner) in (0..paths).zip(nodes.iter().cycle()) {
        let mut tries = 0;
        let time = loop {
            tries += 1;
            match owner.try_path(hops).await {
                Ok(time) => break time,
                Err(error) => println!("  a try failed: {error}"),
            }
            assert!(tries < 10, "no path of {hops} hops could be built");
        };
        times.push(time);
        second += usize::from(tries == 2);
        late += usize::from(tries > 2);
    }
    times.sort_unstable();
    println!(
        "{hops} hops: {paths} paths, {second} at the second try, {late} later; p50 {:.1} ms, p99 {:.1} ms",
        milliseconds(times[times.len() / 2]),
        milliseconds(times[times.len() * 99 / 100]),
    );
    late
}

/// Complete nodes on loopback, which all know each other.
async fn network() -> Vec<Daemon> {
    let mut nodes: Vec<Daemon> = Vec::new();
    for n in 0..NODES {
        let ip = IpAddr::V4(Ipv4Addr::new(127, 90 + n, 0, 1));
        let mut config = Config::new(Network::private("paths"));
        config.listen = Some(SocketAddr::new(ip, 0));
        config.source = Some(ip);
        config.relay = Relay::Always;
        config.pool = 0;
        config.friends =
            nodes.first().and_then(Daemon::invitation).iter().map(|first| first.contact()).collect();
        nodes.push(Daemon::start(config).await.unwrap());
    }
    let met = async {
        for node in &nodes {
            // There is no event for this: nodes learn of each other by and by.
            while node.status().await.known_nodes + 1 < nodes.len() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    tokio::time::timeout(MEETING, met).await.expect("the nodes do not learn of each other");
    nodes
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
