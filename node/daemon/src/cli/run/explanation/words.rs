//! What a program did, in words.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use nix::errno::Errno;
use phantom_policy::socket::Kind;

use super::{Tier, checked::Checked};
use crate::supervise::{Deed, Kept, News, number};

/// One line of what happens.
pub(super) fn line(news: &News, names: &HashMap<IpAddr, String>) -> String {
    let (deed, outcome) = news;
    let outcome = told(deed, number(*outcome));
    format!("phantom: {} {}: {outcome}\n", what(deed), object(deed, names))
}

/// All that is known, for people.
pub(super) fn table(kept: &Kept, tier: Tier, checked: &Checked) -> String {
    let rows: Vec<(&str, String, String)> = kept
        .deeds
        .iter()
        .map(|(deed, tally)| {
            let outcomes = tally.outcomes.iter().map(|(outcome, times)| match tally.outcomes.len() {
                1 => told(deed, *outcome),
                _ => format!("{} {times}", told(deed, *outcome)),
            });
            let times = tally.times();
            let outcomes = outcomes.collect::<Vec<_>>().join(", ");
            let often = if times == 1 { "once".to_owned() } else { format!("{times} times") };
            (what(deed), object(deed, &kept.names), format!("{often}: {outcomes}"))
        })
        .collect();
    let widest = |of: fn(&(&str, String, String)) -> usize| rows.iter().map(of).max().unwrap_or(0);
    let (first, second) = (widest(|row| row.0.len()), widest(|row| row.1.len()));
    let mut text = "phantom: what the program did:\n".to_owned();
    for (what, object, outcome) in &rows {
        text += &format!("  {what:first$}  {object:second$}  {outcome}\n");
    }
    if rows.is_empty() {
        text += "  nothing with the network\n";
    }
    if kept.further > 0 {
        text += &format!("  and {} times something else, for which there was no room\n", kept.further);
    }
    text + &format!("  held by {}\n  checked: {}\n", tier.sentence(), checked.sentences(kept.sockets))
}

fn what(deed: &Deed) -> &'static str {
    match deed {
        Deed::Connects(..) => "connected to",
        Deed::ConnectsHere(..) => "connected here to",
        Deed::Resolves(_) => "asked for",
        Deed::Listens(..) => "listened at",
        Deed::Receives(..) => "was visited at",
        Deed::IsRefused(..) => "was refused",
    }
}

fn object(deed: &Deed, names: &HashMap<IpAddr, String>) -> String {
    let place = |place: &SocketAddr| match names.get(&place.ip()) {
        Some(name) => format!("{}:{}", printable(name), place.port()),
        None => place.to_string(),
    };
    match deed {
        Deed::Connects(kind, to) | Deed::ConnectsHere(kind, to) => {
            format!("{}{}", place(to), protocol(*kind))
        }
        Deed::Resolves(name) => printable(name),
        Deed::Listens(kind, port) | Deed::Receives(kind, port) => format!("port {port}{}", protocol(*kind)),
        Deed::IsRefused(_, Some(to)) => place(to),
        Deed::IsRefused(_, None) => "a socket".to_owned(),
    }
}

fn protocol(kind: Kind) -> &'static str {
    match kind {
        Kind::Stream => "",
        Kind::Datagram => "/udp",
    }
}

/// A program may ask for anything. What it asks for is not to command a terminal.
fn printable(name: &str) -> String {
    name.chars().flat_map(char::escape_default).collect()
}

pub(super) fn told(deed: &Deed, outcome: i32) -> String {
    match (deed, outcome) {
        (Deed::IsRefused(why, _), _) => why.sentence().to_owned(),
        (Deed::Resolves(_), libc::ENOENT) => "no such name".to_owned(),
        (_, 0) => "ok".to_owned(),
        (_, errno) => Errno::from_raw(errno).desc().to_lowercase(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use phantom_policy::errno::Why;

    use super::{super::checked::tests::checked, *};
    use crate::supervise::Account;

    pub(in super::super) fn account() -> Kept {
        let account = Account::open(None);
        let alias: SocketAddr = "127.192.0.1:80".parse().unwrap();
        account.resolved("x.ap", Ok(Some(("fc00::1".parse().unwrap(), Some([127, 192, 0, 1].into())))));
        account.note(Deed::Connects(Kind::Stream, alias), Ok(()));
        account.note(Deed::Connects(Kind::Stream, alias), Ok(()));
        account.note(Deed::Connects(Kind::Stream, alias), Err(Errno::ECONNREFUSED));
        account.note(Deed::Connects(Kind::Datagram, "[fc00::2]:53".parse().unwrap()), Ok(()));
        account.note(Deed::Resolves("\u{1b}[2J.com".to_owned()), Err(Errno::ENOENT));
        account.note(
            Deed::IsRefused(Why::Outside, Some("8.8.8.8:443".parse().unwrap())),
            Err(Errno::ENETUNREACH),
        );
        account.kept().unwrap()
    }

    #[test]
    fn people_see_a_table_of_what_was_done_and_how_often() {
        let table = table(&account(), Tier::Seal, &checked());
        for line in [
            "  connected to  x.ap:80           3 times: ok 2, connection refused 1",
            "  connected to  [fc00::2]:53/udp  once: ok",
            "  held by the seal: the kernel stops each call that could lead out",
            r"  asked for     \u{1b}[2J.com     once: no such name",
            "  was refused   8.8.8.8:443       once: not of the network: only names in .ap lead anywhere",
        ] {
            assert!(table.lines().any(|found| found == line), "{line}\n{table}");
        }
        assert!(table.ends_with("2 looks at its processes (the most at a time: 2 with 7 sockets) found 0 that could lead elsewhere.\n"));
    }
}
