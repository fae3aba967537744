//! The proxy beside others, each a process of its own: bulk, processor time, connections. `cargo bench -p phantom-proxy`.
//!
//! Beside it run a plain TCP forwarder, which understands no protocol, and microsocks and dante if they are installed. All
//! processes end with the run. Everybody has a turn in each round, so that whatever else the machine does hits all alike;
//! what is shown is the median of the rounds. `--quick` carries less. With `--judge` the run fails if microsocks or dante is missing, or if the
//! proxy is slower than one of them: if the median over the rounds of its figure, divided by the other's of the same
//! round, is below 0.95. The rest is left to noise.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use phantom_proxy::{Dial, DialError, Host, Proxy, Request};

const ROUNDS: usize = 5;
const BLOCK: usize = 256 * 1024;
const CONNECTORS: usize = 8;
/// Clock ticks of `/proc/*/stat` in a second.
const TICKS: f64 = 100.0;
/// As fast as the others, as far as can be measured.
const LEAST: f64 = 0.95;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("proxy") => serve(arguments[2].parse().unwrap(), None),
        Some("forward") => serve(arguments[2].parse().unwrap(), Some(arguments[3].parse().unwrap())),
        _ => {
            let wants = |option| arguments.iter().any(|argument| argument == option);
            compare(if wants("--quick") { QUICK } else { WHOLE }, wants("--judge"));
        }
    }
}

/// One turn of one contender.
#[derive(Clone, Copy)]
struct Workload {
    bulk: u64,
    connecting: Duration,
}

const WHOLE: Workload = Workload { bulk: 1 << 30, connecting: Duration::from_secs(1) };
const QUICK: Workload = Workload { bulk: 128 << 20, connecting: Duration::from_millis(250) };

fn compare(workload: Workload, judge: bool) {
    let far = far_side();
    let candidates: [(&str, bool, Start); 4] = [
        ("proxy", true, |here, _| own(&["proxy", &here.to_string()])),
        ("forwarder", false, |here, far| own(&["forward", &here.to_string(), &far.to_string()])),
        ("microsocks", true, |here, _| {
            let mut command = Command::new("microsocks");
            command.args(["-i", "127.0.0.1", "-p", &here.port().to_string()]);
            command
        }),
        ("dante", true, |here, _| {
            let mut command = Command::new("danted");
            command.arg("-f").arg(dante(here));
            command
        }),
    ];
    let mut contenders = Vec::new();
    for (name, speaks_socks, start) in candidates {
        let here = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        match Contender::start(start(here, far), here) {
            Some(process) => {
                contenders.push(Measured { name, here, speaks_socks, process, rounds: Vec::new() })
            }
            None if judge => panic!("{name} is not installed, or does not come up"),
            None => println!("{name:<12} is not installed, or does not come up"),
        }
    }
    for _ in 0..ROUNDS {
        for contender in &mut contenders {
            contender.have_a_turn(far, workload);
        }
    }
    let _ = fs::remove_file(dante_configuration());
    show(&contenders, judge);
}

/// Figures of one turn.
struct Round {
    megabytes_per_second: f64,
    processor_seconds_a_gigabyte: f64,
    connections_per_second: f64,
}

struct Measured {
    name: &'static str,
    here: SocketAddr,
    speaks_socks: bool,
    process: Contender,
    rounds: Vec<Round>,
}

impl Measured {
    fn have_a_turn(&mut self, far: SocketAddr, Workload { bulk, connecting }: Workload) {
        let target = self.speaks_socks.then_some(far);
        let (before, begun) = (self.process.processor(), Instant::now());
        fetch(self.here, target, bulk);
        self.rounds.push(Round {
            megabytes_per_second: bulk as f64 / begun.elapsed().as_secs_f64() / 1e6,
            processor_seconds_a_gigabyte: (self.process.processor() - before) / (bulk as f64 / 1e9),
            connections_per_second: connections_per_second(self.here, target, connecting),
        });
    }

    fn median(&self, figure: impl Fn(&Round) -> f64) -> f64 {
        median(self.rounds.iter().map(figure).collect())
    }
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// The table, and whether the proxy holds its own.
fn show(contenders: &[Measured], judge: bool) {
    println!("{:<12} {:>9} {:>12} {:>14}", "", "MB/s", "CPU-s a GB", "connections/s");
    for contender in contenders {
        println!(
            "{:<12} {:>9.0} {:>12.2} {:>14.0}",
            contender.name,
            contender.median(|round| round.megabytes_per_second),
            contender.median(|round| round.processor_seconds_a_gigabyte),
            contender.median(|round| round.connections_per_second),
        );
    }
    let (ours, others) = contenders.split_first().expect("the proxy itself");
    for other in others.iter().filter(|other| other.speaks_socks) {
        let ratio = |figure: fn(&Round) -> f64| {
            median(
                ours.rounds.iter().zip(&other.rounds).map(|(ours, its)| figure(ours) / figure(its)).collect(),
            )
        };
        let (bulk, connections) =
            (ratio(|round| round.megabytes_per_second), ratio(|round| round.connections_per_second));
        println!("proxy / {}: {bulk:.2} in bulk, {connections:.2} in connections", other.name);
        assert!(!judge || bulk.min(connections) >= LEAST, "slower than {}", other.name);
    }
}

type Start = fn(SocketAddr, SocketAddr) -> Command;

/// This program again, in another role.
fn own(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(arguments);
    command
}

fn dante_configuration() -> PathBuf {
    std::env::temp_dir().join("phantom-proxy-beside-dante.conf")
}

fn dante(here: SocketAddr) -> PathBuf {
    let place = dante_configuration();
    let rule = "pass { from: 0.0.0.0/0 to: 0.0.0.0/0 }";
    let port = here.port();
    let text = format!(
        "internal: 127.0.0.1 port = {port}\nexternal: 127.0.0.1\nclientmethod: none\nsocksmethod: none\n\
         user.privileged: root\nuser.unprivileged: root\nclient {rule}\nsocks {rule}\n"
    );
    fs::write(&place, text).unwrap();
    place
}

/// A process, with those that it starts.
struct Contender(Child);

impl Contender {
    /// Nothing if there is no such program, or if it does not come up.
    fn start(mut command: Command, here: SocketAddr) -> Option<Contender> {
        let child = command.process_group(0).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
        let contender = Contender(child);
        let until = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(here).is_err() {
            if Instant::now() > until {
                return None;
            }
            thread::sleep(Duration::from_millis(20));
        }
        Some(contender)
    }

    /// Processor time of the whole group, in seconds.
    fn processor(&self) -> f64 {
        let group = self.0.id().to_string();
        let mut ticks = 0;
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
            let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
            if fields[2] == group {
                ticks += fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
            }
        }
        ticks as f64 / TICKS
    }
}

impl Drop for Contender {
    fn drop(&mut self) {
        let kill = |signal: &str, whom: String| {
            Command::new("kill").args([signal, "--", &whom]).stderr(Stdio::null()).status()
        };
        // First politely, so that it ends its own children.
        let _ = kill("-TERM", self.0.id().to_string());
        let until = Instant::now() + Duration::from_secs(3);
        while matches!(self.0.try_wait(), Ok(None)) && Instant::now() < until {
            thread::sleep(Duration::from_millis(20));
        }
        let _ = kill("-KILL", format!("-{}", self.0.id()));
        let _ = self.0.wait();
    }
}

fn connections_per_second(here: SocketAddr, target: Option<SocketAddr>, connecting: Duration) -> f64 {
    let (done, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let connectors: Vec<_> = (0..CONNECTORS)
        .map(|_| {
            let (done, stop) = (done.clone(), stop.clone());
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    fetch(here, target, 1);
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    thread::sleep(connecting);
    stop.store(true, Ordering::Relaxed);
    let done = done.load(Ordering::Relaxed);
    connectors.into_iter().for_each(|connector| connector.join().unwrap());
    done as f64 / connecting.as_secs_f64()
}

/// Fetches so many bytes, through SOCKS5 if there is a target.
fn fetch(here: SocketAddr, target: Option<SocketAddr>, bytes: u64) {
    let mut stream = TcpStream::connect(here).unwrap();
    stream.set_nodelay(true).unwrap();
    if let Some(target) = target {
        let [high, low] = target.port().to_be_bytes();
        stream.write_all(&[5, 1, 0]).unwrap();
        stream.read_exact(&mut [0; 2]).unwrap();
        stream.write_all(&[5, 1, 0, 1, 127, 0, 0, 1, high, low]).unwrap();
        let mut reply = [0; 10];
        stream.read_exact(&mut reply).unwrap();
        assert_eq!(reply[1], 0);
    }
    stream.write_all(&bytes.to_be_bytes()).unwrap();
    let mut block = vec![0; BLOCK.min(bytes as usize)];
    let mut got = 0;
    while got < bytes {
        let read = stream.read(&mut block).unwrap();
        assert!(read > 0, "it broke off");
        got += read as u64;
    }
}

/// Sends as many bytes as it is asked for.
fn far_side() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let here = listener.local_addr().unwrap();
    let answer = |mut stream: TcpStream| {
        let mut wanted = [0; 8];
        // Whoever only looks whether somebody listens asks for nothing.
        if stream.read_exact(&mut wanted).is_err() {
            return;
        }
        let mut left = u64::from_be_bytes(wanted);
        let block = vec![7; BLOCK.min(left as usize)];
        while left > 0 {
            let Ok(sent) = stream.write(&block[..block.len().min(left as usize)]) else { return };
            left -= sent as u64;
        }
    };
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            thread::spawn(move || answer(stream));
        }
    });
    here
}

struct PlainTcp;

impl Dial for PlainTcp {
    type Connection = tokio::net::TcpStream;

    async fn dial(&self, request: Request) -> Result<Self::Connection, DialError> {
        let Host::Ip(address) = request.host else { return Err(DialError::NotAllowed) };
        Ok(tokio::net::TcpStream::connect((address, request.port)).await?)
    }
}

#[tokio::main]
async fn serve(here: SocketAddr, forward_to: Option<SocketAddr>) {
    let listener = tokio::net::TcpListener::bind(here).await.unwrap();
    let Some(far) = forward_to else {
        let Err(error) = Proxy::default().serve(listener, Arc::new(PlainTcp)).await;
        panic!("{error}");
    };
    loop {
        let (mut client, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            let mut far = tokio::net::TcpStream::connect(far).await.unwrap();
            client.set_nodelay(true).unwrap();
            let _ = tokio::io::copy_bidirectional(&mut client, &mut far).await;
        });
    }
}
