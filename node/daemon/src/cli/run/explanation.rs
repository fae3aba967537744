//! `--explain`: what a program did, in words or as JSON, for who asks for it.

mod checked;
mod json;
mod words;

use std::{
    fs::{File, OpenOptions},
    io::{self, Write, stderr},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::ValueEnum;
use serde::Serialize;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{
        mpsc::{UnboundedReceiver, unbounded_channel},
        oneshot,
    },
    task::JoinHandle,
    time::sleep,
};

use self::{
    checked::Checked,
    json::json,
    words::{line, table},
};
use crate::supervise::{Account, Inspector, News};

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_told_unless_it_is_asked_for() {
        assert!(Wish::default().begin(Tier::Seal).unwrap().is_none());
        let json_of_nothing = Wish { json: true, ..Wish::default() };
        assert!(json_of_nothing.begin(Tier::Seal).unwrap_err().is::<super::super::super::Usage>());
    }
}
