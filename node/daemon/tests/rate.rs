//! A relay whose owner gives so much and no more: bulk through it stays below the limit and near it, and an echo beside
//! the bulk stays usable.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use phantom_node::{
    daemon::{Config, Daemon},
    doors::HostRequest,
    link::RateLimit,
    session::Group,
};
use phantom_protocol::{address::ApName, identity::ApPublic, network::Network, node::Relay};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::timeout,
};

const PATIENCE: Duration = Duration::from_secs(60);
const LIMIT: RateLimit = RateLimit { rate: 2_000_000, burst: 200_000 };
const BULK: usize = 8_000_000;
const CELL: u64 = 1_392;
/// Others may need the machine, too.
const CHANCES: usize = 5;

/// Relays that give little, a host, and a client.
async fn network() -> Vec<Daemon> {
    let mut nodes: Vec<Daemon> = Vec::new();
    for number in 0..7u8 {
        let ip = format!("127.{}.0.1", 150 + number);
        let is_relay = number < 5;
        let config = Config {
            listen: Some(format!("{ip}:0").parse().unwrap()),
            source: Some(ip.parse().unwrap()),
            relay: if is_relay { Relay::Always } else { Relay::Never },
            rate: Some(LIMIT).filter(|_| is_relay),
            friends: nodes.first().map(|first| first.invitation().unwrap().contact()).into_iter().collect(),
            hops: 1,
            pool: if is_relay { 0 } else { 1 },
            ..Config::new(Network::private("rate"))
        };
        nodes.push(Daemon::start(config).await.unwrap());
    }
    nodes
}

/// Port 1 sends bulk, port 2 answers each byte.
async fn host(daemon: &Daemon) -> ApName {
    let mut name = None;
    for (port, is_bulk) in [(1, true), (2, false)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut tcp, _)) = listener.accept().await {
                tokio::spawn(async move {
                    if is_bulk {
                        let _ = tcp.write_all(&vec![7; BULK]).await;
                    } else {
                        let (mut read, mut write) = tcp.split();
                        let _ = tokio::io::copy(&mut read, &mut write).await;
                    }
                });
            }
        });
        let request = HostRequest::new(port, to, "site");
        name = Some(timeout(PATIENCE, daemon.host(request, 1)).await.unwrap().unwrap().name);
    }
    name.unwrap().parse().unwrap()
}

fn sent(relays: &[Daemon]) -> Vec<u64> {
    let of = |relay: &Daemon| relay.link_stats().iter().map(|link| link.cells_out * CELL).sum();
    relays.iter().map(of).collect()
}

/// What came of one download.
struct Outcome {
    /// What the busiest relay has sent, as a part of the limit.
    carried: f64,
    /// What it may have sent at once, as a part of that.
    burst: f64,
    /// How long an echo beside it took.
    median: Duration,
}

/// Downloads once, with echoes beside it.
async fn measure(relays: &[Daemon], client: &Daemon, peer: ApPublic) -> Outcome {
    let group = Group::default();
    let mut echo = timeout(PATIENCE, client.connect(&group, peer, 2)).await.unwrap().unwrap();
    let mut bulk = timeout(PATIENCE, client.connect(&group, peer, 1)).await.unwrap().unwrap();
    // The clock runs before the first look and after the last one: so never too much is taken for the rate.
    let began = Instant::now();
    let before = sent(relays);
    let reading = tokio::spawn(async move {
        let mut read = 0;
        let mut buffer = vec![0; 64 << 10];
        while read < BULK {
            read += bulk.read(&mut buffer).await.unwrap();
        }
        began.elapsed()
    });
    let mut echoes = Vec::new();
    while !reading.is_finished() {
        let asked = Instant::now();
        echo.write_all(&[1]).await.unwrap();
        echo.read_exact(&mut [0]).await.unwrap();
        echoes.push(asked.elapsed());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let busiest = sent(relays).iter().zip(before).map(|(after, before)| after - before).max().unwrap();
    let all = began.elapsed().as_secs_f64() * LIMIT.rate as f64;
    let goodput = BULK as f64 / (reading.await.unwrap().as_secs_f64() * LIMIT.rate as f64);
    echoes.sort();
    let (median, worst) = (echoes[echoes.len() / 2], echoes[echoes.len() - 1]);
    let (carried, burst) = (busiest as f64 / all, LIMIT.burst as f64 / all);
    println!("carried {carried:.3} and goodput {goodput:.3} of the limit; echo {median:?}, worst {worst:?}");
    Outcome { carried, burst, median }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_through_a_limited_relay_stays_near_the_limit_and_an_echo_beside_it_is_usable() {
    let nodes = network().await;
    let [relays @ .., server, client] = nodes.as_slice() else { panic!() };
    let name = host(server).await;
    timeout(PATIENCE, client.paths_ready(1)).await.unwrap().unwrap();
    // No machine is so slow that more than the limit is carried. It may well be so busy that less is, but seldom always.
    for _ in 0..CHANCES {
        let Outcome { carried, burst, median } = measure(relays, client, *name.public()).await;
        assert!(carried <= 1.01 + burst, "{carried}");
        if carried >= 0.9 && median < Duration::from_millis(200) {
            return;
        }
    }
    panic!("{CHANCES} times far below the limit, or slow echoes");
}
