//! Processor time of other processes, from `/proc/PID/stat` (in ticks of 1/100 s).

use anyhow::{Context, Result};

const TICKS_PER_SECOND: f64 = 100.0;

/// User and system seconds of all `pids`, their threads and their reaped children not counted twice.
pub fn seconds(pids: &[u32]) -> Result<f64> {
    pids.iter().map(|&pid| of_one(pid)).sum()
}

/// Seconds of all processors together in which anything at all was run, by anybody.
pub fn of_the_machine() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let fields: Vec<f64> = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    // user, nice, system, idle, iowait, irq, softirq, steal; the guests' time after these is contained in user.
    let busy = fields.iter().take(8).enumerate().filter(|(at, _)| ![3, 4].contains(at));
    Ok(busy.map(|(_, ticks)| ticks).sum::<f64>() / TICKS_PER_SECOND)
}

fn of_one(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("process {pid} is gone"))?;
    // The second field is the command's name in brackets and may hold anything; utime and stime are fields 14 and 15.
    let (_, after_name) = stat.rsplit_once(')').context("a stat line without a name")?;
    let ticks: Vec<f64> =
        after_name.split_whitespace().skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
    Ok(ticks.iter().sum::<f64>() / TICKS_PER_SECOND)
}
