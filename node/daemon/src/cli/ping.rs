//! `phantom ping`: how long it takes to a party and back, end to end.

use std::{net::Ipv6Addr, time::Duration};

use phantom_protocol::address::{ApAddress, ApName};
use serde::Serialize;
use tokio::time::{MissedTickBehavior, interval};

use super::{
    Negative, Whom,
    lookup::name,
    number,
    progress::Progress,
    running::Asked,
    say,
    say::{is_heard, say_as},
    status::short,
};
use crate::doors::{FirstLink, LocalClient};

/// A session is opened in this time, or not at all.
const OPENING: Duration = Duration::from_secs(60);
/// An answer that takes longer is none.
const PATIENCE: Duration = Duration::from_secs(10);

/// Measure how long it takes to a .ap name and back
///
/// The way goes through all relays of both sides, over a session of its own. Its opening is not counted. The host's programs
/// notice nothing: their node answers. Of the link to the first relay one round trip is shown, measured when the link was made.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  phantom ping NAME.ap
  phantom ping -c 5 --json NAME.ap | jq .avg_ms

Exit codes: 0 at least one answer came, 1 could not be tried (no node is running, ...), 2 wrong usage (also a mistyped name),
3 no answer came.")]
pub(super) struct Args {
    /// The full name: 56 characters and .ap
    #[arg(value_parser = name)]
    name: ApName,
    /// Stop after so many; without it, at Ctrl-C
    #[arg(short = 'c', long, value_name = "N", value_parser = number(1..=1_000_000_u32))]
    count: Option<u32>,
    /// Seconds from one to the next
    #[arg(short, long, value_name = "SECONDS", default_value_t = 1.0, value_parser = number(0.2..=3600.0_f64))]
    interval: f64,
    /// One report at the end, for programs: fields are added in later versions, never renamed
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    whom: Whom,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Report {
    name: String,
    address: Ipv6Addr,
    /// What the opening of the session took.
    session_ms: Option<f64>,
    first_link: Option<FirstLink>,
    sent: u32,
    answered: usize,
    round_trips_ms: Vec<f64>,
    min_ms: Option<f64>,
    avg_ms: Option<f64>,
    max_ms: Option<f64>,
    /// The standard deviation.
    mdev_ms: Option<f64>,
    /// Why the last answer that is missing is missing.
    error: Option<String>,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let mut client = args.whom.connect().await?;
    let mut report = Report::new(&args.name);
    let mut asked = Asked::new()?;
    tokio::select! {
        () = asked.until_end() => {}
        result = measure(&mut client, &args, &mut report) => result?,
    }
    report.sum_up();
    say_as(args.json, &report, Report::statistics)?;
    if report.answered > 0 {
        return Ok(());
    }
    Err(Negative(report.error.unwrap_or_else(|| "no answer came".into())).into())
}

/// Fills the report, until so many were sent or this is dropped.
async fn measure(client: &mut LocalClient, args: &Args, report: &mut Report) -> anyhow::Result<()> {
    let mut progress = Progress::new();
    progress.say("Opening a session ...");
    let opened = client.ping(&args.name, OPENING).await?;
    drop(progress);
    report.session_ms = opened.micros.map(milliseconds);
    report.first_link = opened.first_link;
    report.error = opened.why;
    if opened.micros.is_none() {
        return Ok(());
    }
    if !args.json {
        say(&report.headline())?;
    }
    let mut turns = interval(Duration::from_secs_f64(args.interval));
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while args.count.is_none_or(|count| report.sent < count) {
        turns.tick().await;
        report.sent += 1;
        let pinged = client.ping(&args.name, PATIENCE).await?;
        // It may have moved to another path.
        report.first_link = pinged.first_link.or(report.first_link.take());
        let line = match pinged.micros.map(milliseconds) {
            Some(time) => {
                report.round_trips_ms.push(time);
                format!("answer {}: {time:.1} ms\n", report.sent)
            }
            None => {
                report.error = pinged.why;
                format!("no answer {}: {}\n", report.sent, report.error.as_deref().unwrap_or("unknown"))
            }
        };
        if !args.json && !is_heard(&line)? {
            break;
        }
    }
    Ok(())
}

impl Report {
    fn new(name: &ApName) -> Report {
        Report {
            name: name.to_string(),
            address: ApAddress::of(name.public()).into(),
            session_ms: None,
            first_link: None,
            sent: 0,
            answered: 0,
            round_trips_ms: Vec::new(),
            min_ms: None,
            avg_ms: None,
            max_ms: None,
            mdev_ms: None,
            error: None,
        }
    }

    fn sum_up(&mut self) {
        let times = &self.round_trips_ms;
        self.answered = times.len();
        if times.is_empty() {
            return;
        }
        let count = times.len() as f64;
        let average = times.iter().sum::<f64>() / count;
        let variance = times.iter().map(|time| (time - average).powi(2)).sum::<f64>() / count;
        self.min_ms = times.iter().copied().reduce(f64::min);
        self.max_ms = times.iter().copied().reduce(f64::max);
        self.avg_ms = Some(average);
        self.mdev_ms = Some(variance.sqrt());
    }

    fn headline(&self) -> String {
        let first = self.first_link.as_ref().map_or_else(String::new, |link| {
            let relay =
                link.address.map_or_else(|| short(&link.node).to_owned(), |address| address.to_string());
            let time = link.round_trip_micros.map(milliseconds);
            let time = time.map_or_else(|| "unknown".into(), |time| format!("{time:.1} ms"));
            format!("; first link {relay}: {time}")
        });
        let session = self.session_ms.unwrap_or_default();
        format!("PING {} ({}): session opened in {session:.0} ms{first}\n", self.name, self.address)
    }

    fn statistics(&self) -> String {
        let lost = 100.0 * (1.0 - self.answered as f64 / f64::from(self.sent.max(1)));
        let mut text = format!(
            "--- {} ---\n{} sent, {} answered, {lost:.0}% lost\n",
            self.name, self.sent, self.answered
        );
        if let (Some(min), Some(avg), Some(max), Some(mdev)) =
            (self.min_ms, self.avg_ms, self.max_ms, self.mdev_ms)
        {
            text += &format!("round trip min/avg/max/mdev {min:.1}/{avg:.1}/{max:.1}/{mdev:.1} ms\n");
        }
        text
    }
}

fn milliseconds(micros: u64) -> f64 {
    micros as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use phantom_protocol::identity::ApSecret;

    use super::*;

    fn report(sent: u32, times: &[f64]) -> Report {
        let mut report = Report::new(&ApName::of(&ApSecret::from_bytes(&[7; 32]).public()));
        report.sent = sent;
        report.round_trips_ms = times.to_vec();
        report.sum_up();
        report
    }

    #[test]
    fn the_statistics_are_those_of_ping() {
        let text = report(4, &[1.0, 2.0, 6.0]).statistics();
        assert!(text.contains("4 sent, 3 answered, 25% lost\n"), "{text}");
        assert!(text.ends_with("round trip min/avg/max/mdev 1.0/3.0/6.0/2.2 ms\n"), "{text}");
    }

    #[test]
    fn without_an_answer_there_are_no_times() {
        let text = report(2, &[]).statistics();
        assert!(text.ends_with("2 sent, 0 answered, 100% lost\n"), "{text}");
        assert!(report(0, &[]).statistics().ends_with("0 sent, 0 answered, 100% lost\n"));
    }

    #[test]
    fn the_first_link_is_named_with_what_is_known_of_it() {
        let mut report = report(0, &[]);
        report.session_ms = Some(812.4);
        assert!(report.headline().ends_with("session opened in 812 ms\n"));
        let address = Some("127.17.0.1:4000".parse().unwrap());
        report.first_link = Some(FirstLink { node: "ab".repeat(32), address, round_trip_micros: Some(210) });
        assert!(
            report.headline().ends_with("; first link 127.17.0.1:4000: 0.2 ms\n"),
            "{}",
            report.headline()
        );
        report.first_link = Some(FirstLink { node: "ab".repeat(32), ..FirstLink::default() });
        assert!(report.headline().ends_with("; first link abababab: unknown\n"));
    }

    #[test]
    fn the_names_of_the_json_fields_stand() {
        let json = serde_json::to_value(report(1, &[1.0])).unwrap();
        for field in [
            "name",
            "address",
            "session_ms",
            "first_link",
            "sent",
            "answered",
            "round_trips_ms",
            "min_ms",
            "avg_ms",
            "max_ms",
            "mdev_ms",
            "error",
        ] {
            assert!(json.get(field).is_some(), "{field}");
        }
    }
}
