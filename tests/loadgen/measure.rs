//! The measurements: downloads that are checked, and echoes with and without a download beside them.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, bail, ensure};
use phantom_node::demo::site::sequence;
use serde_json::{Value, json};

use crate::{Target, cpu, http::Connection};

/// Echoes that come before those that count.
const WARM_UP: usize = 20;
/// Beside a download an echo begins at most this often: at any rate they can, most of them would fall into the fast
/// phases, and slow ones would count for little.
const EVERY: Duration = Duration::from_millis(25);

/// `streams` downloads of `bytes` each, at once, all checked.
pub fn download(target: &Target, bytes: u64, streams: usize) -> Result<Value> {
    let own = std::process::id();
    let (cpu_before, own_before) = (cpu::seconds(&target.pids)?, cpu::seconds(&[own])?);
    let (busy_before, start) = (cpu::of_the_machine()?, Instant::now());
    thread::scope(|scope| {
        let workers: Vec<_> = (0..streams).map(|_| scope.spawn(|| checked_download(target, bytes))).collect();
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| anyhow!("a stream panicked"))?)
    })?;
    let seconds = start.elapsed().as_secs_f64();
    let cpu_seconds = cpu::seconds(&target.pids)? - cpu_before;
    let busy = cpu::of_the_machine()? - busy_before;
    // What others took away: speed is only worth judging when that is little.
    let foreign = (busy - cpu_seconds - (cpu::seconds(&[own])? - own_before)).max(0.0);
    let total = bytes as f64 * streams as f64;
    Ok(json!({
        "streams": streams,
        "bytes": bytes,
        "seconds": seconds,
        "megabytes_per_second": total / 1e6 / seconds,
        "cpu_seconds": cpu_seconds,
        "foreign_cores": foreign / seconds,
        "cpu_seconds_per_gigabyte": cpu_seconds / (total / 1e9),
    }))
}

/// `count` echoes on a connection that carries nothing else.
pub fn idle_echo(target: &Target, count: usize) -> Result<Value> {
    let mut echo = Connection::open(target.socks, &target.site)?.into_echo()?;
    let mut times = Vec::with_capacity(count);
    for round in 0..WARM_UP + count {
        let start = Instant::now();
        echo.round_trip(round as u8)?;
        if round >= WARM_UP {
            times.push(start.elapsed());
        }
    }
    summary(times)
}

/// Echoes for as long as `streams` downloads of `bytes` each run beside them.
pub fn loaded_echo(target: &Target, bytes: u64, streams: usize) -> Result<Value> {
    let mut echo = Connection::open(target.socks, &target.site)?.into_echo()?;
    for round in 0..WARM_UP {
        echo.round_trip(round as u8)?;
    }
    let running = AtomicUsize::new(streams);
    let (times, start) = (&mut Vec::new(), Instant::now());
    thread::scope(|scope| {
        let workers: Vec<_> = (0..streams)
            .map(|_| {
                scope.spawn(|| {
                    let result = checked_download(target, bytes);
                    running.fetch_sub(1, Ordering::Relaxed);
                    result
                })
            })
            .collect();
        while running.load(Ordering::Relaxed) > 0 {
            let start = Instant::now();
            echo.round_trip(times.len() as u8)?;
            times.push(start.elapsed());
            thread::sleep(EVERY.saturating_sub(start.elapsed()));
        }
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| anyhow!("a stream panicked"))?)
    })?;
    let seconds = start.elapsed().as_secs_f64();
    let mut report = summary(std::mem::take(times))?;
    report["megabytes_per_second"] = json!(bytes as f64 * streams as f64 / 1e6 / seconds);
    Ok(report)
}

/// Every byte is compared with the sequence that it must be: as strict as a hash, and a tenth of its processor time,
/// which on a machine that also carries the network would be missing there.
fn checked_download(target: &Target, bytes: u64) -> Result<()> {
    let mut connection = Connection::open(target.socks, &target.site)?;
    let length = connection.get(&format!("/bytes/{bytes}"))?;
    ensure!(length == bytes, "asked for {bytes} bytes, offered {length}");
    let (mut place, mut wrong) = (0, None);
    let mut expected = vec![0; sequence::CHUNK];
    connection.read_body(length, |read| {
        for piece in read.chunks(expected.len()) {
            let (expected, _) = expected.split_at_mut(piece.len());
            sequence::fill(place, expected);
            if expected != piece && wrong.is_none() {
                wrong = Some(place);
            }
            place += piece.len() as u64;
        }
    })?;
    match wrong {
        None => Ok(()),
        Some(place) => {
            bail!("the download arrived with other bytes than were sent, from about byte {place} on")
        }
    }
}

fn summary(mut times: Vec<Duration>) -> Result<Value> {
    ensure!(!times.is_empty(), "the download was over before the first echo");
    times.sort_unstable();
    let at = |share: f64| {
        let place = ((times.len() - 1) as f64 * share).round() as usize;
        times.get(place).map(|time| time.as_secs_f64() * 1e3)
    };
    Ok(
        json!({ "echoes": times.len(), "p50_ms": at(0.5), "p90_ms": at(0.9), "p99_ms": at(0.99), "max_ms": at(1.0) }),
    )
}
