//! `--explain`: what a program did, in words or as JSON, for who asks for it.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::{self, Write, stderr},
    net::{IpAddr, SocketAddr},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::ValueEnum;
use nix::errno::Errno;
use phantom_policy::socket::Kind;
use serde::Serialize;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{
        mpsc::{UnboundedReceiver, unbounded_channel},
        oneshot,
    },
    task::{JoinHandle, block_in_place},
    time::sleep,
};

use crate::supervise::{Account, Deed, Findings, Inspector, Kept, News, number};

/// How often a run's processes are looked at, and how soon again at first.
const LOOK: Duration = Duration::from_secs(1);
const FIRST_LOOK: Duration = Duration::from_millis(100);

/// What is asked for on the command line.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Wish {
    /// Tell at the end what the program did: where it went, what it was refused and why. With =live also as it happens. SIGUSR1
    /// asks for it at any time
    #[arg(long, value_name = "WHEN", num_args = 0..=1, require_equals = true, default_missing_value = "end")]
    explain: Option<When>,
    /// Tell it to this file, not to standard error
    #[arg(long, value_name = "FILE")]
    explain_file: Option<PathBuf>,
    /// Tell it as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum When {
    End,
    Live,
}

/// What holds a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Tier {
    /// The kernel.
    Seal,
    /// A library before libc.
    Library,
}

impl Tier {
    fn sentence(self) -> &'static str {
        match self {
            Tier::Seal => "the seal: the kernel stops each call that could lead out",
            Tier::Library => {
                "the library: all of this went through libc, and system calls of the program's own would not be seen"
            }
        }
    }
}

/// Where it is told.
#[derive(Debug)]
pub(super) struct Explanation {
    tier: Tier,
    file: Option<File>,
    is_json: bool,
    /// As it happens, too.
    is_live: bool,
    begun: Instant,
}

impl Wish {
    /// Nothing if nobody asks.
    pub(super) fn begin(&self, tier: Tier) -> anyhow::Result<Option<Explanation>> {
        if self.explain.is_none() && self.explain_file.is_none() {
            anyhow::ensure!(!self.json, super::super::Usage("--json needs --explain".to_owned()));
            return Ok(None);
        }
        let open = |place: &PathBuf| {
            let opened = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(place);
            opened.with_context(|| format!("{} cannot be written (--explain-file)", place.display()))
        };
        let file = self.explain_file.as_ref().map(open).transpose()?;
        let is_live = self.explain == Some(When::Live);
        Ok(Some(Explanation { tier, file, is_json: self.json, is_live, begun: Instant::now() }))
    }
}

/// A run that is followed for who has asked for it.
#[derive(Debug)]
pub(super) struct Followed {
    ends: oneshot::Sender<()>,
    following: JoinHandle<io::Result<()>>,
}

impl Explanation {
    /// What keeps the run's account, and what is told as it happens.
    pub(super) fn account(&self) -> (Account, Option<UnboundedReceiver<News>>) {
        if !self.is_live {
            return (Account::open(None), None);
        }
        let (news, told) = unbounded_channel();
        (Account::open(Some(news)), Some(told))
    }

    /// Looks at the run's processes now, soon again, as many do not live long, and then every second.
    pub(super) fn follow(
        mut self,
        account: Arc<Account>,
        inspector: Inspector,
        news: Option<UnboundedReceiver<News>>,
    ) -> io::Result<Followed> {
        let mut asked = signal(SignalKind::user_defined1())?;
        let (ends, mut has_ended) = oneshot::channel();
        let following = tokio::spawn(async move {
            let mut checked = Checked::default();
            let mut pause = FIRST_LOOK;
            let mut look = Box::pin(sleep(Duration::ZERO));
            let mut news = news;
            loop {
                let next = async { news.as_mut()?.recv().await };
                tokio::select! {
                    Some(news) = next => self.say(&line(&news, &account.names()))?,
                    () = &mut look => {
                        checked.look_by(&inspector);
                        look.as_mut().reset(tokio::time::Instant::now() + pause);
                        pause = LOOK.min(pause * 2);
                    }
                    Some(()) = asked.recv() => {
                        checked.look_by(&inspector);
                        self.tell(&account, &checked)?;
                    }
                    _ = &mut has_ended => break,
                }
            }
            // Its children may go on.
            checked.look_by(&inspector);
            while let Some(news) = news.as_mut().and_then(|news| news.try_recv().ok()) {
                self.say(&line(&news, &account.names()))?;
            }
            self.tell(&account, &checked)
        });
        Ok(Followed { ends, following })
    }
}

impl Followed {
    /// The program has ended: tells everything.
    pub(super) async fn end(self) -> anyhow::Result<()> {
        let _has_ended_already = self.ends.send(());
        self.following.await?.context("What the program did cannot be told")
    }
}

/// What has been looked at, for what is said to be true.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Checked {
    /// The interfaces of the run's own network; nothing if it has none, and its sockets are bound to the loopback interface.
    pub(super) interfaces: Option<Vec<String>>,
    /// Looks at its processes.
    pub(super) looks: u64,
    /// The most at a time.
    pub(super) processes: u64,
    /// The most at a time.
    pub(super) sockets: u64,
    /// Those that were not of the run's network.
    pub(super) foreign: u64,
    /// Those that could not be looked at.
    pub(super) hidden: u64,
    /// Processes that could not be looked at.
    pub(super) hidden_processes: u64,
    /// Packets that went out by other interfaces of the run's own network than the loopback one; nothing if it has none.
    pub(super) packets_outside: Option<u64>,
}

impl Checked {
    /// The run's network is prepared while the program is on its way already.
    fn look_by(&mut self, inspector: &Inspector) {
        self.interfaces = inspector.interfaces().or(self.interfaces.take());
        self.look(block_in_place(|| inspector.look()));
    }

    pub(super) fn look(&mut self, found: Findings) {
        self.looks += 1;
        let Findings { processes, sockets, foreign, hidden, hidden_processes, packets_outside } = found;
        self.processes = self.processes.max(processes);
        self.sockets = self.sockets.max(sockets);
        self.foreign = self.foreign.max(foreign);
        self.hidden = self.hidden.max(hidden);
        self.hidden_processes = self.hidden_processes.max(hidden_processes);
        self.packets_outside = self.packets_outside.max(packets_outside);
    }

    fn sentences(&self, made: u64) -> String {
        let where_made = match &self.interfaces {
            Some(interfaces) => {
                format!(
                    "in a network of its own, of which no interface leads out ({})",
                    interfaces.join(", ")
                )
            }
            None => "bound to the loopback interface".to_owned(),
        };
        let mut said = format!("{made} sockets were made for it, {where_made}.");
        if let Some(packets) = self.packets_outside {
            said += &format!(" {packets} packets went elsewhere than to the loopback interface.");
        }
        if self.looks == 0 {
            return said + " It ended before its processes could be looked at.";
        }
        said += &format!(
            " {} looks at its processes (the most at a time: {} with {} sockets) found {} that could lead elsewhere.",
            self.looks, self.processes, self.sockets, self.foreign
        );
        if self.foreign > 0 {
            said += " Somebody who is not sealed has handed those over.";
        }
        if self.hidden > 0 {
            said += &format!(" {} could not be looked at.", self.hidden);
        }
        if self.hidden_processes > 0 {
            said += &format!(" Into {} of the processes nobody may look.", self.hidden_processes);
        }
        said
    }
}

impl Explanation {
    /// All that is known by now.
    fn tell(&mut self, account: &Account, checked: &Checked) -> io::Result<()> {
        let Some(kept) = account.kept() else { return Ok(()) };
        let text = if self.is_json {
            json(&kept, self.tier, checked, self.begun.elapsed().as_secs_f64())?
        } else {
            table(&kept, self.tier, checked)
        };
        self.say(&text)
    }

    fn say(&mut self, text: &str) -> io::Result<()> {
        match &mut self.file {
            Some(file) => file.write_all(text.as_bytes()),
            None => stderr().lock().write_all(text.as_bytes()),
        }
    }
}

/// One line of what happens.
pub(super) fn line(news: &News, names: &HashMap<IpAddr, String>) -> String {
    let (deed, outcome) = news;
    let outcome = told(deed, number(*outcome));
    format!("phantom: {} {}: {outcome}\n", what(deed), object(deed, names))
}

fn table(kept: &Kept, tier: Tier, checked: &Checked) -> String {
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

fn told(deed: &Deed, outcome: i32) -> String {
    match (deed, outcome) {
        (Deed::IsRefused(why, _), _) => why.sentence().to_owned(),
        (Deed::Resolves(_), libc::ENOENT) => "no such name".to_owned(),
        (_, 0) => "ok".to_owned(),
        (_, errno) => Errno::from_raw(errno).desc().to_lowercase(),
    }
}

#[derive(Serialize)]
struct Told<'k> {
    seconds: f64,
    tier: Tier,
    deeds: Vec<ToldDeed<'k>>,
    /// For which there was no room.
    further: u64,
    /// Made for the program.
    sockets: u64,
    checked: &'k Checked,
}

#[derive(Serialize)]
struct ToldDeed<'k> {
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
    outcomes: Vec<ToldOutcome>,
}

#[derive(Serialize)]
struct ToldOutcome {
    /// 0 if it went well.
    errno: i32,
    says: String,
    times: u64,
}

fn json(kept: &Kept, tier: Tier, checked: &Checked, seconds: f64) -> io::Result<String> {
    let deeds = kept.deeds.iter().map(|(deed, tally)| {
        let (kind, place, port, name) = match deed {
            Deed::Connects(kind, to) | Deed::ConnectsHere(kind, to) => {
                (Some(*kind), Some(to.ip()), Some(to.port()), kept.names.get(&to.ip()))
            }
            Deed::Resolves(name) => (None, None, None, Some(name)),
            Deed::Listens(kind, port) | Deed::Receives(kind, port) => (Some(*kind), None, Some(*port), None),
            Deed::IsRefused(_, to) => (None, to.map(|to| to.ip()), to.map(|to| to.port()), None),
        };
        let outcomes = tally.outcomes.iter().map(|(outcome, times)| ToldOutcome {
            errno: *outcome,
            says: told(deed, *outcome),
            times: *times,
        });
        ToldDeed {
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
    let told =
        Told { seconds, tier, deeds: deeds.collect(), further: kept.further, sockets: kept.sockets, checked };
    Ok(serde_json::to_string_pretty(&told)? + "\n")
}

#[cfg(test)]
mod tests {
    use phantom_policy::errno::Why;

    use super::*;

    fn account() -> Kept {
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

    fn checked() -> Checked {
        let mut checked = Checked { interfaces: Some(vec!["lo".to_owned()]), ..Checked::default() };
        let found = Findings { packets_outside: Some(0), ..Findings::default() };
        checked.look(Findings { processes: 2, sockets: 4, ..found });
        checked.look(Findings { processes: 1, sockets: 7, ..found });
        checked
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

    #[test]
    fn only_what_was_checked_is_said() {
        let unseen = Checked { interfaces: None, ..Checked::default() };
        let said = unseen.sentences(1);
        assert!(
            said.contains("bound to the loopback interface") && said.contains("before its processes could"),
            "{said}"
        );
        let mut found = checked();
        found.look(Findings {
            processes: 1,
            sockets: 1,
            foreign: 1,
            hidden: 2,
            hidden_processes: 3,
            packets_outside: Some(3),
        });
        let said = found.sentences(1);
        assert!(
            said.contains("found 1 that could lead")
                && said.contains("not sealed")
                && said.contains("2 could not")
                && said.contains("Into 3 of the processes")
                && said.contains("3 packets went elsewhere"),
            "{said}"
        );
    }

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

    #[test]
    fn nothing_is_told_unless_it_is_asked_for() {
        assert!(Wish::default().begin(Tier::Seal).unwrap().is_none());
        let json_of_nothing = Wish { json: true, ..Wish::default() };
        assert!(json_of_nothing.begin(Tier::Seal).unwrap_err().is::<super::super::super::Usage>());
    }
}
