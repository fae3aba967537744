//! What a program did, as JSON: the names of its fields stand.

use std::{io, net::IpAddr};

use phantom_policy::socket::Kind;
use serde::Serialize;

use super::{Tier, checked::Checked, words::told};
use crate::supervise::{Deed, Kept};

#[derive(Serialize)]
struct Explained<'k> {
    seconds: f64,
    tier: Tier,
    deeds: Vec<ExplainedDeed<'k>>,
    /// For which there was no room.
    further: u64,
    /// Made for the program.
    sockets: u64,
    checked: &'k Checked,
}

#[derive(Serialize)]
struct ExplainedDeed<'k> {
    deed: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'k str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    times: u64,
    outcomes: Vec<ExplainedOutcome>,
}

#[derive(Serialize)]
struct ExplainedOutcome {
    /// 0 if it went well.
    errno: i32,
    says: String,
    times: u64,
}

/// All that is known, as JSON.
pub(super) fn json(kept: &Kept, tier: Tier, checked: &Checked, seconds: f64) -> io::Result<String> {
    let deeds = kept.deeds.iter().map(|(deed, tally)| {
        let (kind, place, port, name) = match deed {
            Deed::Connects(kind, to) | Deed::ConnectsHere(kind, to) => {
                (Some(*kind), Some(to.ip()), Some(to.port()), kept.names.get(&to.ip()))
            }
            Deed::Resolves(name) => (None, None, None, Some(name)),
            Deed::Listens(kind, port) | Deed::Receives(kind, port) => (Some(*kind), None, Some(*port), None),
            Deed::IsRefused(_, to) => (None, to.map(|to| to.ip()), to.map(|to| to.port()), None),
        };
        let outcomes = tally.outcomes.iter().map(|(outcome, times)| ExplainedOutcome {
            errno: *outcome,
            says: told(deed, *outcome),
            times: *times,
        });
        ExplainedDeed {
            deed: match deed {
                Deed::Connects(..) => "connects",
                Deed::ConnectsHere(..) => "connects-here",
                Deed::Resolves(_) => "resolves",
                Deed::Listens(..) => "listens",
                Deed::Receives(..) => "receives",
                Deed::IsRefused(..) => "refused",
            },
            protocol: kind.map(|kind| match kind {
                Kind::Stream => "tcp",
                Kind::Datagram => "udp",
            }),
            name: name.map(String::as_str),
            address: place,
            port,
            times: tally.times(),
            outcomes: outcomes.collect(),
        }
    });
    let told = Explained {
        seconds,
        tier,
        deeds: deeds.collect(),
        further: kept.further,
        sockets: kept.sockets,
        checked,
    };
    Ok(serde_json::to_string_pretty(&told)? + "\n")
}

#[cfg(test)]
mod tests {
    use super::{
        super::{checked::tests::checked, words::tests::account},
        *,
    };

    #[test]
    fn the_names_of_the_json_fields_stand() {
        let told: serde_json::Value =
            serde_json::from_str(&json(&account(), Tier::Library, &checked(), 1.5).unwrap()).unwrap();
        assert_eq!(told["seconds"], 1.5);
        assert_eq!((&told["tier"], &told["checked"]["packets_outside"]), (&"library".into(), &0.into()));
        assert_eq!(told["checked"]["foreign"], 0);
        assert_eq!(told["checked"]["interfaces"], serde_json::json!(["lo"]));
        let refused = &told["deeds"][4];
        assert_eq!((&refused["deed"], &refused["port"]), (&"refused".into(), &443.into()));
        let connects = &told["deeds"][0];
        assert_eq!((&connects["name"], &connects["protocol"]), (&"x.ap".into(), &"tcp".into()));
        assert_eq!(connects["outcomes"][1]["errno"], 111);
    }
}
