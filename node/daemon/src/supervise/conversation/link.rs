//! One connection to a node: frames go out, and answers find whoever asked.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    io::{self, ErrorKind, Write},
    net::{IpAddr, SocketAddr},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc::SyncSender,
    },
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use phantom_policy::{
    Errno as Told,
    frame::{FromNode, FromRun, LONGEST, PREFIX},
};

use super::{
    super::{lock, visits::Visit},
    Accepted, Addresses, AtEnd, AtFirst, AtVerdict, Reception,
};
use crate::frames::{Incoming, send};

/// A node that takes nothing for so long is as good as gone.
const PATIENCE: Duration = Duration::from_secs(5);
/// Visitors who wait at once.
const VISITS: usize = 256;

/// What a run asks for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ask<'a> {
    Open { circle: u64, to: SocketAddr },
    Flow { circle: u64, to: SocketAddr },
    Name(&'a str),
    Address(IpAddr),
}

/// Who waits for an answer.
pub(super) enum Waiter {
    Verdict(AtVerdict),
    Flow { at_first: Option<AtFirst>, at_end: AtEnd },
    Named(SyncSender<Option<Addresses>>),
    Addressed(SyncSender<Option<String>>),
}

/// One connection to the node.
pub(super) struct Link {
    stream: UnixStream,
    /// Where frames are written; who has it, speaks.
    voice: Mutex<Box<[u8]>>,
    late: Mutex<Late>,
    /// Nothing when it has ended.
    waiting: Mutex<Option<Waiting>>,
    ended: Condvar,
    reception: Arc<Reception>,
    /// Visitors who wait.
    visits: AtomicUsize,
}

/// What could not be handed over at once.
#[derive(Default)]
struct Late {
    handed: VecDeque<Handed>,
    is_being_said: bool,
}

/// The other end of a program's socket, or why there is none.
struct Handed {
    id: u32,
    to: Whom,
    end: Result<OwnedFd, Errno>,
}

/// Who has it.
#[derive(Clone, Copy)]
enum Whom {
    /// Who has accepted a connection.
    Party,
    Visitor,
}

#[derive(Default)]
struct Waiting {
    last: u32,
    by_id: HashMap<u32, Waiter>,
}

impl Link {
    pub(super) fn over(stream: UnixStream, reception: Arc<Reception>) -> io::Result<Arc<Link>> {
        stream.set_nonblocking(false)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let (voice, waiting) = (vec![0; PREFIX + LONGEST].into(), Some(Waiting::default()));
        let (voice, waiting) = (Mutex::new(voice), Mutex::new(waiting));
        let link = Arc::new(Link {
            stream,
            voice,
            late: Mutex::default(),
            waiting,
            ended: Condvar::new(),
            reception,
            visits: AtomicUsize::new(0),
        });
        let listening = link.clone();
        thread::Builder::new().name("node".to_owned()).spawn(move || {
            let _ended = listening.listen();
            listening.end();
        })?;
        Ok(link)
    }

    pub(super) fn stands(&self) -> bool {
        lock(&self.waiting).is_some()
    }

    pub(super) fn wait_until_ended(&self) {
        let waiting = lock(&self.waiting);
        let _ended = self.ended.wait_while(waiting, |waiting| waiting.is_some());
    }

    /// Asks, or gives the waiter back.
    pub(super) fn ask(
        &self,
        ask: Ask<'_>,
        with: Option<BorrowedFd<'_>>,
        waiter: Waiter,
    ) -> Result<u32, Waiter> {
        let id = {
            let mut waiting = lock(&self.waiting);
            let Some(waiting) = waiting.as_mut() else { return Err(waiter) };
            waiting.last = waiting.last.wrapping_add(1);
            waiting.by_id.insert(waiting.last, waiter);
            waiting.last
        };
        let frame = match ask {
            Ask::Open { circle, to } => FromRun::Open { id, circle, to },
            Ask::Flow { circle, to } => FromRun::Flow { id, circle, to },
            Ask::Name(name) => FromRun::Name { id, name },
            Ask::Address(address) => FromRun::Address { id, address },
        };
        let said = self.say(frame, with);
        if said.is_ok() {
            return Ok(id);
        }
        let unheard = lock(&self.waiting).as_mut().and_then(|waiting| waiting.by_id.remove(&id));
        // A part of a frame may have been written.
        self.end();
        // Without it the end has told the waiter already.
        unheard.map_or(Ok(id), Err)
    }

    pub(super) fn say(&self, frame: FromRun<'_>, with: Option<BorrowedFd<'_>>) -> io::Result<()> {
        self.utter(&mut lock(&self.voice), frame, with)
    }

    /// The other end of a socket whose connection a party has accepted, or that there is none.
    pub(super) fn join(self: &Arc<Link>, id: u32, end: Result<OwnedFd, Errno>) {
        self.hand_over(Handed { id, to: Whom::Party, end });
    }

    /// For who hears the node, and must not wait for it: it might wait for us to hear. What cannot be said at once is left to a
    /// thread, which ends when all of it is said.
    fn hand_over(self: &Arc<Link>, handed: Handed) {
        let mut late = lock(&self.late);
        if !late.is_being_said
            && let Ok(mut voice) = self.voice.try_lock()
            && wait_for(&self.stream, PollFlags::POLLOUT, PollTimeout::ZERO).unwrap_or(false)
        {
            drop(late);
            return self.utter_handed(&mut voice, &handed);
        }
        late.handed.push_back(handed);
        if late.is_being_said {
            return;
        }
        let link = self.clone();
        late.is_being_said =
            thread::Builder::new().name("late".to_owned()).spawn(move || link.hand_over_late()).is_ok();
        if !late.is_being_said {
            // Better to wait a moment than to end everything because there are no more threads.
            drop(late);
            self.hand_over_late();
        }
    }

    fn hand_over_late(&self) {
        loop {
            let mut late = lock(&self.late);
            let Some(handed) = late.handed.pop_front() else {
                late.is_being_said = false;
                return;
            };
            drop(late);
            self.utter_handed(&mut lock(&self.voice), &handed);
        }
    }

    fn utter_handed(&self, voice: &mut [u8], Handed { id, to, end }: &Handed) {
        let (id, outcome) = (*id, end.as_ref().map(drop).map_err(|errno| told(*errno)));
        let frame = match to {
            Whom::Party => FromRun::Joined { id, outcome },
            Whom::Visitor => FromRun::Visited { id, outcome },
        };
        if self.utter(voice, frame, end.as_ref().ok().map(AsFd::as_fd)).is_err() {
            self.end();
        }
    }

    /// An error may leave a part of a frame behind.
    fn utter(&self, voice: &mut [u8], frame: FromRun<'_>, with: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let bytes = frame.encode(voice).ok_or(ErrorKind::InvalidInput)?;
        let descriptors: Vec<_> = with.into_iter().collect();
        let sent = loop {
            match send(&self.stream, bytes, &descriptors) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                sent => break sent?,
            }
        };
        (&self.stream).write_all(bytes.get(sent..).unwrap_or_default())
    }

    /// Hears what the node says, until it has ended.
    fn listen(self: &Arc<Link>) -> io::Result<()> {
        let mut incoming = Incoming::new();
        loop {
            // Who waits by reading is woken by each frame that the node takes, too.
            wait_for(&self.stream, PollFlags::POLLIN, PollTimeout::NONE)?;
            match incoming.fill(self.stream.as_fd()) {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            while let Some((frame, _)) = incoming.next()? {
                self.hear(FromNode::decode(frame).ok_or(ErrorKind::InvalidData)?);
            }
        }
    }

    fn hear(self: &Arc<Link>, frame: FromNode<'_>) {
        let waiter = |id| lock(&self.waiting).as_mut().and_then(|waiting| waiting.by_id.remove(&id));
        match frame {
            FromNode::Verdict { id, outcome } => {
                let outcome = outcome.map_err(|Told(errno)| Errno::from_raw(errno.into()));
                match waiter(id) {
                    Some(Waiter::Verdict(at_verdict)) => {
                        at_verdict(outcome.map(|()| Accepted { link: self.clone(), id }));
                    }
                    Some(Waiter::Flow { at_end, .. }) if outcome.is_err() => at_end(outcome),
                    Some(Waiter::Flow { at_first, at_end }) => {
                        self.keep(id, Waiter::Flow { at_first: None, at_end });
                        at_first.into_iter().for_each(|at_first| at_first());
                    }
                    Some(waiter) => self.keep(id, waiter),
                    None => {}
                }
            }
            FromNode::Named { id, found } => {
                if let Some(Waiter::Named(answer)) = waiter(id) {
                    let _has_gone = answer.send(found);
                }
            }
            FromNode::Addressed { id, name } => {
                if let Some(Waiter::Addressed(answer)) = waiter(id) {
                    let _has_gone = answer.send(name.map(str::to_owned));
                }
            }
            FromNode::Visit { id, kind, port, address, alias } => {
                self.visit(id, Visit { kind, port, address, alias });
            }
            FromNode::Ended { id } => {
                if let Some(Waiter::Flow { at_end, .. }) = waiter(id) {
                    at_end(Ok(()));
                }
            }
        }
    }

    fn keep(&self, id: u32, waiter: Waiter) {
        if let Some(waiting) = lock(&self.waiting).as_mut() {
            waiting.by_id.insert(id, waiter);
        }
    }

    /// Somebody comes. A server may have many to accept before: each waits in a thread of its own.
    fn visit(self: &Arc<Link>, id: u32, visit: Visit) {
        let link = self.clone();
        let receiving = move || {
            let end = match link.reception.get() {
                Some(at_visit) => at_visit(visit),
                None => Err(Errno::ECONNREFUSED),
            };
            link.visits.fetch_sub(1, Ordering::Relaxed);
            link.utter_handed(&mut lock(&link.voice), &Handed { id, to: Whom::Visitor, end });
        };
        let has_room = self.visits.fetch_add(1, Ordering::Relaxed) < VISITS;
        if !has_room || thread::Builder::new().name("visit".to_owned()).spawn(receiving).is_err() {
            self.visits.fetch_sub(1, Ordering::Relaxed);
            self.hand_over(Handed { id, to: Whom::Visitor, end: Err(Errno::EAGAIN) });
        }
    }

    /// Nobody waits for it any more.
    fn end(&self) {
        let _has_ended = self.stream.shutdown(std::net::Shutdown::Both);
        let waiting = lock(&self.waiting).take();
        self.ended.notify_all();
        for waiter in waiting.map(|waiting| waiting.by_id).unwrap_or_default().into_values() {
            match waiter {
                Waiter::Verdict(at_verdict) => at_verdict(Err(Errno::ENETUNREACH)),
                Waiter::Flow { at_end, .. } => at_end(Err(Errno::ENETUNREACH)),
                Waiter::Named(_) | Waiter::Addressed(_) => {}
            }
        }
    }
}

fn wait_for(stream: &UnixStream, event: PollFlags, patience: PollTimeout) -> io::Result<bool> {
    match poll(&mut [PollFd::new(stream.as_fd(), event)], patience) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

fn told(errno: Errno) -> Told {
    u8::try_from(errno as i32).map_or(Told::ECONNREFUSED, Told)
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Link")
    }
}
