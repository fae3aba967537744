//! Visitors of a run's program: for each connection the run is asked for a socket, which it makes where its program serves.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::{FutureExt, future::BoxFuture};
use phantom_policy::{Errno, socket::Kind};
use tokio::sync::{mpsc, oneshot};

use crate::{
    program::Handed,
    session::{Caller, Protocol, Refusal, Serve},
};

/// Questions that a run has not answered yet. They come faster than it answers only if somebody wants to be in the way.
const OPEN: usize = 256;

/// Somebody wants to come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Visit {
    /// Names it in the answer.
    pub(super) id: u32,
    /// By what.
    pub(super) kind: Kind,
    /// Where it wants to come in.
    pub(super) port: u16,
    /// Who comes.
    pub(super) address: Ipv6Addr,
    /// The same, where there is only IPv4.
    pub(super) alias: Ipv4Addr,
}

/// Those who want to come in to one run.
#[derive(Debug)]
pub(super) struct Visitors {
    ask: mpsc::Sender<Visit>,
    open: Mutex<Open>,
}

type Answer = Result<Handed, Refusal>;

#[derive(Debug, Default)]
struct Open {
    last: u32,
    waiting: BTreeMap<u32, oneshot::Sender<Answer>>,
}

/// The run's end of it. Dropping it turns everybody away.
#[derive(Debug)]
pub(super) struct Visits {
    visitors: Arc<Visitors>,
    asked: mpsc::Receiver<Visit>,
}

impl Visitors {
    /// Nobody yet.
    pub(super) fn new() -> (Arc<Visitors>, Visits) {
        let (ask, asked) = mpsc::channel(OPEN);
        let visitors = Arc::new(Visitors { ask, open: Mutex::default() });
        (visitors.clone(), Visits { visitors, asked })
    }

    /// What the run says to a visit: a socket, or the error number of its attempt. Who waits no longer is forgotten.
    pub(super) fn answer(&self, id: u32, said: Result<Handed, Errno>) {
        let waiting = self.lock().waiting.remove(&id);
        let answer =
            said.map_err(|Errno(errno)| Refusal::of_dial(&io::Error::from_raw_os_error(errno.into())));
        if let Some(waiting) = waiting {
            let _waits_no_longer = waiting.send(answer);
        }
    }

    fn enter(self: &Arc<Self>) -> Result<(Waiting, oneshot::Receiver<Answer>), Refusal> {
        let mut open = self.lock();
        if open.waiting.len() >= OPEN {
            return Err(Refusal::Busy);
        }
        let (answer, answered) = oneshot::channel();
        open.last = open.last.wrapping_add(1);
        let id = open.last;
        open.waiting.insert(id, answer);
        Ok((Waiting { visitors: self.clone(), id }, answered))
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A question without an answer.
struct Waiting {
    visitors: Arc<Visitors>,
    id: u32,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _answered_or_not = self.visitors.lock().waiting.remove(&self.id);
    }
}

impl Serve for Arc<Visitors> {
    fn socket(&self, caller: Caller, protocol: Protocol, port: u16) -> BoxFuture<'_, Answer> {
        async move {
            let (waiting, answered) = self.enter()?;
            let Caller { party, alias } = caller;
            let address = party.address().into();
            let kind = if protocol == Protocol::Udp { Kind::Datagram } else { Kind::Stream };
            let asked = self.ask.try_send(Visit { id: waiting.id, kind, port, address, alias });
            asked.map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => Refusal::Busy,
                mpsc::error::TrySendError::Closed(_) => Refusal::Refused,
            })?;
            answered.await.unwrap_or(Err(Refusal::Refused))
        }
        .boxed()
    }
}

impl Visits {
    /// To whom answers go.
    pub(super) fn visitors(&self) -> Arc<Visitors> {
        self.visitors.clone()
    }

    /// Who comes next.
    pub(super) async fn next(&mut self) -> Option<Visit> {
        self.asked.recv().await
    }
}

impl Drop for Visits {
    fn drop(&mut self) {
        self.asked.close();
        self.visitors.lock().waiting.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use phantom_protocol::identity::ApSecret;

    use super::*;
    use crate::program::testing::handed;

    fn caller() -> Caller {
        let party = ApSecret::from_bytes(&[7; 32]).public();
        Caller { party, alias: Ipv4Addr::new(127, 224, 0, 1) }
    }

    fn come(visitors: &Arc<Visitors>, port: u16) -> tokio::task::JoinHandle<Answer> {
        let visitors = visitors.clone();
        tokio::spawn(async move { visitors.socket(caller(), Protocol::Tcp, port).await })
    }

    #[tokio::test]
    async fn each_is_answered_for_itself() {
        let (visitors, mut visits) = Visitors::new();
        let (one, two, three) = (come(&visitors, 1), come(&visitors, 2), come(&visitors, 3));
        let asked = [visits.next().await, visits.next().await, visits.next().await].map(Option::unwrap);
        assert_ne!(asked[0].id, asked[1].id);
        for Visit { id, kind, port, address, alias } in asked {
            assert_eq!((kind, alias), (Kind::Stream, caller().alias));
            assert_eq!(address, Ipv6Addr::from(caller().party.address()));
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            let answer = match port {
                1 => Ok(handed(socket)),
                2 => Err(Errno::ECONNREFUSED),
                _ => Err(Errno(libc::EAGAIN as u8)),
            };
            visitors.answer(id, answer);
            visitors.answer(id, Err(Errno::EACCES));
        }
        assert!(one.await.unwrap().is_ok());
        assert_eq!(two.await.unwrap().err(), Some(Refusal::Refused));
        assert_eq!(three.await.unwrap().err(), Some(Refusal::Busy), "the run has too many visitors");
        assert!(visitors.lock().waiting.is_empty());
    }

    #[tokio::test]
    async fn who_waits_no_longer_is_forgotten_and_too_many_are_told_so() {
        let (visitors, mut visits) = Visitors::new();
        let mut all: Vec<_> = (0..OPEN).map(|_| come(&visitors, 1)).collect();
        while visitors.lock().waiting.len() < OPEN {
            tokio::task::yield_now().await;
        }
        assert_eq!(come(&visitors, 1).await.unwrap().err(), Some(Refusal::Busy));
        let gone = visits.next().await.unwrap();
        all.iter().for_each(tokio::task::JoinHandle::abort);
        for waiting in all.drain(..) {
            assert!(waiting.await.unwrap_err().is_cancelled());
        }
        assert!(visitors.lock().waiting.is_empty());
        visitors.answer(gone.id, Err(Errno::EACCES));
        let next = come(&visitors, 2);
        while visits.next().await.unwrap().port != 2 {}
        next.abort();
    }

    #[tokio::test]
    async fn when_the_run_is_over_everybody_is_turned_away() {
        let (visitors, mut visits) = Visitors::new();
        let waiting = come(&visitors, 1);
        visits.next().await.unwrap();
        drop(visits);
        assert_eq!(waiting.await.unwrap().err(), Some(Refusal::Refused));
        assert_eq!(come(&visitors, 1).await.unwrap().err(), Some(Refusal::Refused));
    }
}
