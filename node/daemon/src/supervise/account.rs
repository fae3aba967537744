//! What a program did, for its user, who has asked for it (`--explain`). Nothing of it is kept otherwise.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Mutex,
};

use nix::errno::Errno;
use phantom_policy::{errno::Why, socket::Kind};
use tokio::sync::mpsc::UnboundedSender;

use super::{Addresses, lock};

/// Deeds of different kinds; more are only counted.
const DEEDS: usize = 1_024;
/// Addresses whose names are kept.
const NAMES: usize = 4_096;

/// What a program does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deed {
    /// It connects to a party of the network, or sends there.
    Connects(Kind, SocketAddr),
    /// It connects to itself, or to a service of this machine.
    ConnectsHere(Kind, SocketAddr),
    /// It asks for a name.
    Resolves(String),
    /// It listens at a port, for itself or for others.
    Listens(Kind, u16),
    /// Somebody of the network comes to this port of the run's name.
    Receives(Kind, u16),
    /// What is not carried out: where it would have led, if somewhere.
    IsRefused(Why, Option<SocketAddr>),
}

/// How often, and what came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// By the number of the error, 0 if there was none.
    pub outcomes: BTreeMap<i32, u64>,
}

impl Tally {
    /// Of all outcomes.
    pub fn times(&self) -> u64 {
        self.outcomes.values().sum()
    }
}

/// A deed with an outcome that it had not had before.
pub type News = (Deed, Result<(), Errno>);

/// All of a run.
#[derive(Debug, Default)]
pub struct Account {
    kept: Mutex<Option<Kept>>,
    /// Is told of what is new. That is bounded as what is kept.
    news: Option<UnboundedSender<News>>,
}

/// What an account knows at a time.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// What was done, in the order of its kinds.
    pub deeds: BTreeMap<Deed, Tally>,
    /// What was done besides, for which there was no room.
    pub further: u64,
    /// The names of addresses, as the program has learnt them.
    pub names: HashMap<IpAddr, String>,
    /// Sockets that were made for the program.
    pub sockets: u64,
}

impl Account {
    /// One that keeps what it is told.
    pub fn open(news: Option<UnboundedSender<News>>) -> Account {
        Account { kept: Mutex::new(Some(Kept::default())), news }
    }

    /// What came of a deed.
    pub fn note(&self, deed: Deed, outcome: Result<(), Errno>) {
        let mut kept = lock(&self.kept);
        let Some(kept) = kept.as_mut() else { return };
        if kept.deeds.len() >= DEEDS && !kept.deeds.contains_key(&deed) {
            kept.further += 1;
            return;
        }
        let times = kept.deeds.entry(deed.clone()).or_default().outcomes.entry(number(outcome)).or_default();
        *times += 1;
        if let (Some(news), 1) = (&self.news, *times) {
            let _nobody_listens_any_more = news.send((deed, outcome));
        }
    }

    /// The program has asked for the addresses of a name.
    pub fn resolved(&self, host: &str, found: Result<Option<Addresses>, Errno>) {
        let outcome = found.map_err(|_| Errno::EAGAIN).and_then(|found| found.map(drop).ok_or(Errno::ENOENT));
        self.note(Deed::Resolves(host.to_owned()), outcome);
        if let Ok(Some((address, alias))) = found {
            self.name(address.into(), host);
            if let Some(alias) = alias {
                self.name(alias.into(), host);
            }
        }
    }

    /// The program has learnt an address of a name.
    fn name(&self, address: IpAddr, name: &str) {
        if let Some(kept) = lock(&self.kept).as_mut()
            && kept.names.len() < NAMES
        {
            kept.names.insert(address, name.to_owned());
        }
    }

    /// A socket was made for the program.
    pub fn made_socket(&self) {
        if let Some(kept) = lock(&self.kept).as_mut() {
            kept.sockets += 1;
        }
    }

    /// The names of addresses, as far as they are known.
    pub fn names(&self) -> HashMap<IpAddr, String> {
        lock(&self.kept).as_ref().map(|kept| kept.names.clone()).unwrap_or_default()
    }

    /// What is known by now. Nothing if nobody has asked for it.
    pub fn kept(&self) -> Option<Kept> {
        lock(&self.kept).clone()
    }
}

/// As programs are told.
pub fn number(outcome: Result<(), Errno>) -> i32 {
    outcome.map_or_else(|errno| errno as i32, |()| 0)
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::unbounded_channel;

    use super::*;

    fn connects(port: u16) -> Deed {
        Deed::Connects(Kind::Stream, SocketAddr::new([127, 192, 0, 1].into(), port))
    }

    #[test]
    fn outcomes_are_counted_for_each_deed() {
        let (news, mut told) = unbounded_channel();
        let account = Account::open(Some(news));
        account.note(connects(1), Ok(()));
        account.note(connects(1), Ok(()));
        account.note(connects(1), Err(Errno::ECONNREFUSED));
        account.note(connects(2), Err(Errno::ECONNREFUSED));
        let kept = account.kept().unwrap();
        let tally = kept.deeds.get(&connects(1)).unwrap();
        assert_eq!((tally.times(), tally.outcomes.get(&0)), (3, Some(&2)));
        assert_eq!(kept.deeds.len(), 2);
        assert_eq!(told.try_recv(), Ok((connects(1), Ok(()))));
        assert_eq!(told.try_recv(), Ok((connects(1), Err(Errno::ECONNREFUSED))));
        assert_eq!(told.try_recv(), Ok((connects(2), Err(Errno::ECONNREFUSED))));
        assert!(told.try_recv().is_err());
    }

    #[test]
    fn a_program_that_does_ever_other_things_fills_no_memory() {
        let account = Account::open(None);
        for port in 0..=u16::MAX {
            account.note(connects(port), Ok(()));
            account.name(IpAddr::from(u32::from(port).to_be_bytes()), "x.ap");
        }
        let kept = account.kept().unwrap();
        assert_eq!((kept.deeds.len(), kept.names.len()), (DEEDS, NAMES));
        assert_eq!(kept.further, u64::from(u16::MAX) + 1 - DEEDS as u64);
    }

    #[test]
    fn nothing_is_kept_unless_it_was_asked_for() {
        let account = Account::default();
        account.note(connects(1), Ok(()));
        account.name(IpAddr::from([127, 192, 0, 1]), "x.ap");
        account.made_socket();
        assert!(account.kept().is_none());
    }
}
