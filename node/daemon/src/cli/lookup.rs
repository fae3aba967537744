//! `phantom lookup`: what is known of a name.

use std::net::Ipv6Addr;

use phantom_protocol::address::{ApAddress, ApName, BadName};
use serde::Serialize;

use super::{Negative, Whom, say::say_as, status::time};
use crate::doors::LookedUp;

/// Show the address of a .ap name, and whether its host can be reached now
///
/// The address is computed from the name. The node looks in what it knows of the network, so that nobody learns who was
/// looked for.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  phantom lookup NAME.ap
  phantom lookup NAME.ap --json | jq .expires_in

Exit codes: 0 found, 1 could not be looked for (no node is running, ...), 2 wrong usage (also a mistyped name), 3 not found now.")]
pub(super) struct Args {
    /// The full name: 56 characters and .ap
    #[arg(value_parser = name)]
    name: ApName,
    /// For programs: fields are added in later versions, never renamed
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    whom: Whom,
}

/// What programs learn.
#[derive(Serialize)]
struct Answer {
    name: String,
    address: Ipv6Addr,
    found: bool,
    #[serde(flatten)]
    looked_up: LookedUp,
}

pub(super) fn name(text: &str) -> Result<ApName, BadName> {
    text.parse()
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let looked_up = args.whom.connect().await?.look_up(&args.name).await?;
    let answer = Answer {
        name: args.name.to_string(),
        address: ApAddress::of(args.name.public()).into(),
        found: looked_up.expires_in.is_some(),
        looked_up,
    };
    say_as(args.json, &answer, render)?;
    if answer.found {
        return Ok(());
    }
    Err(Negative(
        "The network has no entry for this name now. Is its host running? A new one takes some seconds to spread, also to a \
         node that has just started"
            .into(),
    )
    .into())
}

fn render(answer: &Answer) -> String {
    let entry = match answer.looked_up.expires_in {
        Some(seconds) => format!("found, {} ways in, expires in {}", answer.looked_up.entries, time(seconds)),
        None => "not found".into(),
    };
    format!("name      {}\naddress   {}\nentry     {entry}\n", answer.name, answer.address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(looked_up: LookedUp) -> Answer {
        let found = looked_up.expires_in.is_some();
        Answer { name: "x.ap".into(), address: "fc00::1".parse().unwrap(), found, looked_up }
    }

    #[test]
    fn people_read_when_the_entry_expires() {
        let text = render(&answer(LookedUp { expires_in: Some(7_300), entries: 3 }));
        assert_eq!(
            text,
            "name      x.ap\naddress   fc00::1\nentry     found, 3 ways in, expires in 2 h 1 min\n"
        );
        assert!(render(&answer(LookedUp::default())).ends_with("entry     not found\n"));
    }

    #[test]
    fn the_names_of_the_json_fields_stand() {
        let json = serde_json::to_value(answer(LookedUp::default())).unwrap();
        for field in ["name", "address", "found", "expires_in", "entries"] {
            assert!(json.get(field).is_some(), "{field}");
        }
    }
}
