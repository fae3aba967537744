//! `phantom status`: how the running node is.

use std::{fmt::Write, io::IsTerminal, time::Duration};

use super::{
    Whom,
    running::Asked,
    say::{is_heard, say_as},
};
use crate::doors::{LocalClient, PublishedRun, Status};

/// How often `--watch` looks.
const TURN: Duration = Duration::from_secs(1);
/// Empties a terminal and begins at its top.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// Show how the running node is
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  phantom status
  phantom status --watch
  phantom status --json | jq .paths.ready")]
pub(super) struct Args {
    /// For programs: fields are added in later versions, never renamed
    #[arg(long)]
    json: bool,
    /// Show it anew every second, until Ctrl-C; with --json, one line each
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    whom: Whom,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let mut client = args.whom.connect().await?;
    if args.watch {
        return watch(&mut client, args.json).await;
    }
    let status = client.status().await?;
    say_as(args.json, &status, render)
}

async fn watch(client: &mut LocalClient, json: bool) -> anyhow::Result<()> {
    let is_terminal = std::io::stdout().is_terminal();
    let mut asked = Asked::new()?;
    let mut turns = tokio::time::interval(TURN);
    loop {
        tokio::select! {
            () = asked.until_end() => return Ok(()),
            _ = turns.tick() => {}
        }
        let status = client.status().await?;
        let text = match (json, is_terminal) {
            (true, _) => serde_json::to_string(&status)? + "\n",
            (false, true) => format!("{CLEAR}{}", render(&status)),
            (false, false) => render(&status) + "\n",
        };
        if !is_heard(&text)? {
            return Ok(());
        }
    }
}

/// For people. Ids are cut to what tells them apart.
fn render(status: &Status) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write_into(&mut text, status);
    text
}

fn write_into(text: &mut String, status: &Status) -> std::fmt::Result {
    let or_none = |address: Option<std::net::SocketAddr>| address.map_or("-".to_owned(), |it| it.to_string());
    writeln!(
        text,
        "node      {} (phantom {}), up {}",
        short(&status.node),
        status.version,
        time(status.uptime_seconds)
    )?;
    writeln!(text, "confined  {}", status.confinement)?;
    writeln!(text, "listens   {}", or_none(status.listen))?;
    let why = status.relaying_why.as_ref().map_or(String::new(), |why| format!(": {why}"));
    writeln!(text, "relaying  {}{why}", status.relaying)?;
    if let Some(quota) = &status.quota {
        let (used, bytes) = (gigabytes(quota.used), gigabytes(quota.bytes));
        writeln!(text, "quota     {used} of {bytes} GB used, anew on {}", quota.renewed)?;
    }
    writeln!(text, "socks     {}", or_none(status.socks))?;
    writeln!(text, "dns       {}", or_none(status.dns))?;
    if status.transparent.is_some() {
        writeln!(text, "redirect  {}", or_none(status.transparent))?;
    }
    if let Some(metrics) = status.metrics {
        writeln!(text, "metrics   http://{metrics}/metrics")?;
    }
    writeln!(text, "network   {} other nodes known, {} links", status.known_nodes, status.links.len())?;
    if !status.guards.is_empty() {
        let guards: Vec<&str> = status.guards.iter().map(|guard| short(guard)).collect();
        writeln!(text, "guards    {}", guards.join(", "))?;
    }
    let paths = &status.paths;
    let took = paths.build_ms.map_or(String::new(), |ms| format!(", {ms} ms each"));
    let (ready, hops, failed) = (paths.ready.len(), paths.hops, paths.failed);
    writeln!(
        text,
        "paths     {ready} ready, of {hops} relays; {} built{took}, {failed} failed",
        paths.built
    )?;
    for path in &paths.ready {
        let relays: Vec<&str> = path.relays.iter().map(|relay| short(relay)).collect();
        writeln!(
            text,
            "          {:<8} {} ({} left)",
            path.purpose,
            relays.join(" > "),
            time(path.expires_in)
        )?;
    }
    writeln!(text, "sessions  {}", status.sessions)?;
    if let Some(out_proxy) = &status.out_proxy {
        writeln!(text, "out by    {out_proxy}")?;
    }
    for visit in &status.visits {
        writeln!(text, "visiting  {visit}")?;
    }
    for service in &status.services {
        writeln!(text, "hosting   {}", service.hosted)?;
        writeln!(text, "          {} entry paths, {} visitors", service.entries, service.sessions)?;
    }
    for PublishedRun { name, label, entries, sessions, .. } in &status.published_runs {
        let label = label.as_ref().map_or(String::new(), |label| format!(" (as {label})"));
        writeln!(text, "serving   {name} -> a program under phantom run{label}")?;
        writeln!(text, "          {entries} entry paths, {sessions} visitors")?;
    }
    for sentence in [&status.obstacle, &status.notice].into_iter().flatten() {
        writeln!(text, "note      {sentence}")?;
    }
    if let Some(invitation) = &status.invitation {
        writeln!(text, "join with phantom up --join {invitation}")?;
    }
    Ok(())
}

/// With three decimals.
fn gigabytes(bytes: u64) -> String {
    format!("{}.{:03}", bytes / 1_000_000_000, bytes / 1_000_000 % 1_000)
}

/// An address as it is, an id by its first characters.
pub(super) fn short(relay: &str) -> &str {
    let is_id = relay.len() == 64 && relay.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_id { relay.get(..8).unwrap_or(relay) } else { relay }
}

pub(super) fn time(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doors::{Quota, ReadyPath};
    use phantom_protocol::identity::ApSecret;

    #[test]
    fn people_see_short_ids_and_whole_sentences() {
        let mut status =
            Status { node: "ab".repeat(32), obstacle: Some("Too few nodes.".into()), ..Status::default() };
        let relays = vec!["127.17.0.1:4000".to_owned(), "cd".repeat(32)];
        status.guards = vec!["127.18.0.1:4000".into(), "ef".repeat(32)];
        status.dns = Some("127.0.0.1:9053".parse().unwrap());
        status.metrics = Some("127.0.0.1:9079".parse().unwrap());
        status.relaying = "no".into();
        status.quota =
            Some(Quota { bytes: 500_000_000_000, used: 1_234_567_890, renewed: "2026-12-01".into() });
        status.relaying_why = Some("nobody could reach it".into());
        status.published_runs.push(PublishedRun {
            name: "x.ap".into(),
            address: ApSecret::from_bytes(&[1; 32]).public().address().into(),
            label: Some("shop".into()),
            entries: 3,
            sessions: 2,
        });
        status.paths.ready.push(ReadyPath { relays, purpose: "client".into(), expires_in: 4000 });
        let text = render(&status);
        for part in [
            "abababab (",
            "dns       127.0.0.1:9053\n",
            "metrics   http://127.0.0.1:9079/metrics\n",
            "relaying  no: nobody could reach it\n",
            "quota     1.234 of 500.000 GB used, anew on 2026-12-01\n",
            "guards    127.18.0.1:4000, efefefef\n",
            "127.17.0.1:4000 > cdcdcdcd (1 h 6 min left)",
            "Too few nodes.",
            "serving   x.ap -> a program under phantom run (as shop)\n          3 entry paths, 2 visitors\n",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }

    #[test]
    fn the_names_of_the_json_fields_stand() {
        let json = serde_json::to_value(Status::default()).unwrap();
        for field in [
            "version",
            "node",
            "state",
            "confinement",
            "listen",
            "socks",
            "dns",
            "transparent",
            "metrics",
            "invitation",
            "known_nodes",
            "links",
            "guards",
            "paths",
            "relays_in_use",
            "services",
            "published_runs",
            "visits",
            "out_proxy",
            "sessions",
            "obstacle",
            "notice",
            "relaying",
            "relaying_why",
            "quota",
            "uptime_seconds",
        ] {
            assert!(json.get(field).is_some(), "{field}");
        }
    }
}
