//! The whole chain in one process: daemons on loopback, a hosted port, and a client that downloads and echoes.
//!
//! `tests/bench` drives the finished program from outside; this looks inside as well: packets lost, cells dropped,
//! tunnels closed by the gap rule. `cargo bench -p phantom-tests --bench chain -- --help`

#[allow(dead_code)] // the load generator needs more of it
#[path = "../../loadgen/cpu.rs"]
mod cpu;
mod load;
mod network;

use std::{sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use clap::Parser;

use load::Times;
use network::Chain;

const MIB: u64 = 1 << 20;

#[derive(Parser)]
#[command(about = "Throughput, processor time and echo times of a chain of daemons in this process")]
struct Cli {
    /// Relays per side, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "0,1,2,3,4")]
    hops: Vec<usize>,
    /// MiB of the single stream; of each of the ten streams a fifth.
    #[arg(long, default_value_t = 1024)]
    mib: u64,
    /// Threads of the runtime.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// `cargo bench` says this.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What was measured of one chain: a label and a value for each row, the same rows for all chains.
type Column = Vec<(&'static str, String)>;

fn main() -> Result<()> {
    let cli = Cli::parse();
    let mut columns = Vec::new();
    for hops in &cli.hops {
        // A runtime of its own: what the last chain left behind must not be measured with this one.
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(cli.threads).enable_all().build()?;
        let column = runtime.block_on(async { tokio::spawn(measure(*hops, cli.mib)).await })??;
        runtime.shutdown_timeout(Duration::from_secs(5));
        eprintln!("{hops} + {hops} relays measured, load {}", system_load());
        columns.push((format!("{hops} + {hops}"), column));
    }
    print_table(&columns)
}

async fn measure(hops: usize, mib: u64) -> Result<Column> {
    let chain = Arc::new(Chain::start(hops).await?);
    let mut stream = chain.connect("a").await?;
    load::download(&mut stream, mib * MIB / 16).await?; // windows open
    let mut column = Column::new();

    let (before, counted) = (Usage::now(), chain.counts());
    load::download(&mut stream, mib * MIB).await?;
    column.extend(Usage::now().since(&before).rows(mib * MIB, ["one stream, MB/s", "  CPU-s a GB"]));
    column.extend(chain.counts().since(&counted).rows(["  packets lost, %", "  cells dropped"]));

    let (before, counted) = (Usage::now(), chain.counts());
    let each = mib * MIB / 5;
    load::ten_downloads(&chain, each).await?;
    column.extend(Usage::now().since(&before).rows(10 * each, ["ten streams, MB/s", "  CPU-s a GB"]));
    column.extend(chain.counts().since(&counted).rows(["  packets lost, %", "  cells dropped"]));

    let idle = load::echoes(&mut stream, 2_000).await?;
    column.extend(idle.rows(["echo idle, p50 ms", "  p99 ms"]));
    for (group, labels) in [
        ("a", ["echo beside a stream, p50 ms", "  p99 ms", "  stream, MB/s"]),
        ("b", ["of another group, p50 ms", "  p99 ms", "  stream, MB/s"]),
    ] {
        let mut echo = chain.connect(group).await?;
        let (times, rate) = load::echoes_beside(chain.connect("a").await?, mib * MIB / 2, &mut echo).await?;
        let [p50, p99, stream] = labels;
        column.extend(times.rows([p50, p99]));
        column.push((stream, format!("{rate:.1}")));
    }
    let times = load::echoes_beside_ten(&chain, each / 2).await?;
    column.extend(times.rows(["echo beside ten, p50 ms", "  p99 ms"]));
    column.push(("tunnels closed by the gap rule", chain.counts().broken.to_string()));
    chain.stop().await;
    Ok(column)
}

/// Clock and processor time of this process.
struct Usage {
    clock: std::time::Instant,
    cpu: f64,
}

struct Used {
    seconds: f64,
    cpu_seconds: f64,
}

impl Usage {
    fn now() -> Usage {
        let cpu = cpu::seconds(&[std::process::id()]).unwrap_or(f64::NAN);
        Usage { clock: std::time::Instant::now(), cpu }
    }

    fn since(&self, before: &Usage) -> Used {
        let seconds = self.clock.duration_since(before.clock).as_secs_f64();
        Used { seconds, cpu_seconds: self.cpu - before.cpu }
    }
}

impl Used {
    fn rows(&self, bytes: u64, [rate, cpu]: [&'static str; 2]) -> Column {
        let bytes = bytes as f64;
        vec![
            (rate, format!("{:.1}", bytes / 1e6 / self.seconds)),
            (cpu, format!("{:.1}", self.cpu_seconds / (bytes / 1e9))),
        ]
    }
}

impl Times {
    fn rows(&self, [p50, p99]: [&'static str; 2]) -> Column {
        vec![(p50, format!("{:.2}", self.at(0.5))), (p99, format!("{:.2}", self.at(0.99)))]
    }
}

fn print_table(columns: &[(String, Column)]) -> Result<()> {
    let Some((_, first)) = columns.first() else { return Ok(()) };
    ensure!(columns.iter().all(|(_, column)| column.len() == first.len()), "columns of different length");
    let line = |label: &str, values: Vec<&str>| {
        let values: String = values.iter().map(|value| format!("{value:>12}")).collect();
        println!("{label:32}{values}");
    };
    line("", columns.iter().map(|(name, _)| name.as_str()).collect());
    for (row, (label, _)) in first.iter().enumerate() {
        line(
            label,
            columns.iter().filter_map(|(_, column)| column.get(row)).map(|(_, v)| v.as_str()).collect(),
        );
    }
    Ok(())
}

/// Other work on the machine falsifies rates; whoever reads the table should know of it.
fn system_load() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split_whitespace().next().unwrap_or("unknown").to_owned()
}
