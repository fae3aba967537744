//! Connections of a run to parties, from a program's `connect` until it knows what came of it.
//!
//! Until then the program's socket is on its way ([`quiet`](super::quiet)), as its own kernel has it. So a connect may be
//! asynchronous, be interrupted, or end by its own time-out, and the socket tells the truth.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::socket::{getsockopt, sockopt},
};

use super::{
    call::{Answer, Outcome, Reply},
    conversation::Opened,
    errno,
    land::Land,
    lock,
    meeting::local_address,
    raw,
};

/// Connections under way, and errors that programs have not asked for; the oldest of those make room.
const MOST: usize = 4_096;
/// How often threads that wait are asked whether a signal interrupts them, if that takes no more than a part of the time:
/// there may be thousands.
const LOOK: Duration = Duration::from_millis(10);
const PART: u32 = 20;

/// A node comes to its verdict at once on what is abandoned.
const AT_ONCE: Duration = Duration::from_millis(200);

/// By the kernel's number of a socket, which no other one ever has.
#[derive(Debug, Default)]
pub(super) struct Connections {
    known: Mutex<Known>,
    /// There is a verdict on what was given up.
    settled: Condvar,
}

#[derive(Debug, Default)]
struct Known {
    under_way: HashMap<u64, UnderWay>,
    /// Attempts that were given up before there was a verdict, and where their sockets were: whoever is there next might be met
    /// by the wrong party.
    given_up: HashMap<u64, SocketAddr>,
    last: u64,
    /// Those that nobody waited for.
    failed: HashMap<u64, Failed>,
    by_age: VecDeque<u64>,
    /// Somebody looks for signals.
    is_watched: bool,
}

/// A connection whose party has not accepted yet.
#[derive(Debug)]
struct UnderWay {
    program: Arc<OwnedFd>,
    family: i32,
    /// Where it is.
    own: SocketAddr,
    attempt: u64,
    /// At the node, as soon as it was asked.
    opened: Option<Opened>,
    /// Calls that wait for the outcome.
    replies: Vec<Reply>,
}

/// A connection of which nothing came.
#[derive(Clone, Copy, Debug)]
struct Failed {
    why: Errno,
    /// Asked for its error, its kernel has one; why, only we know.
    kernel_tells: bool,
}

/// One connect of a socket, which may be disconnected and connected again before its party says anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attempt {
    cookie: u64,
    number: u64,
}

/// Why a call does not wait for the outcome any longer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Leave {
    /// A signal interrupts it.
    Interrupted,
    /// Its socket has no more patience.
    TimedOut,
}

impl Leave {
    fn outcome(self) -> Outcome {
        match self {
            Leave::Interrupted => Ok(Answer::Interrupted),
            Leave::TimedOut => Err(Errno::EINPROGRESS),
        }
    }
}

impl Connections {
    /// Remembers a program's socket that is on its way from now on, and who waits for it.
    pub(super) fn begin(
        &self,
        program: Arc<OwnedFd>,
        family: i32,
        own: SocketAddr,
        reply: Option<Reply>,
    ) -> Result<Attempt, (Errno, Option<Reply>)> {
        let cookie = match cookie(&program) {
            Ok(cookie) => cookie,
            Err(errno) => return Err((errno, reply)),
        };
        let mut known = lock(&self.known);
        if known.under_way.len() >= MOST {
            return Err((Errno::EAGAIN, reply));
        }
        known.forget_failure(cookie);
        known.last += 1;
        let number = known.last;
        let replies = reply.into_iter().collect();
        let under_way = UnderWay { program, family, own, attempt: number, opened: None, replies };
        let before = known.under_way.insert(cookie, under_way).map(|before| known.give_up(before));
        drop(known);
        before.into_iter().for_each(UnderWay::abort);
        Ok(Attempt { cookie, number })
    }

    /// The node was asked for it.
    pub(super) fn opened(&self, attempt: Attempt, opened: Opened) {
        let mut known = lock(&self.known);
        if let Some(under_way) = known.under_way.get_mut(&attempt.cookie).filter(|it| it.is(attempt)) {
            under_way.opened = Some(opened);
        } else if known.given_up.contains_key(&attempt.number) {
            drop(known);
            opened.abandon();
        }
    }

    /// Nobody but the party of the next connect meets a program's socket: if it goes where an earlier one was that was given up
    /// (that takes a port that the program has chosen), the node forgets that first.
    pub(super) fn make_way(&self, program: &OwnedFd) -> Result<(), Errno> {
        if lock(&self.known).is_at_rest() {
            return Ok(());
        }
        let own = local_address(program)?;
        if own.port() == 0 {
            return Ok(());
        }
        let mut known = lock(&self.known);
        let has_left = |it: &UnderWay| it.own == own && raw::is_on_its_way(it.program.as_fd()) != Ok(true);
        let left: Vec<_> = known.under_way.extract_if(|_, it| has_left(it)).map(|(_, it)| it).collect();
        let left: Vec<_> = left.into_iter().map(|it| known.give_up(it)).collect();
        drop(known);
        left.into_iter().for_each(UnderWay::abort);
        let is_taken = |known: &mut Known| known.given_up.values().any(|taken| *taken == own);
        let waited = self.settled.wait_timeout_while(lock(&self.known), AT_ONCE, is_taken);
        let (known, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        drop(known);
        if waited.timed_out() { Err(Errno::EADDRNOTAVAIL) } else { Ok(()) }
    }

    /// Looks for signals as long as somebody waits whom they are to interrupt.
    pub(super) fn watch(self: &Arc<Connections>) {
        let mut known = lock(&self.known);
        if known.is_watched {
            return;
        }
        let watching = self.clone();
        let started = thread::Builder::new().name("signals".to_owned()).spawn(move || {
            let mut pause = LOOK;
            loop {
                thread::sleep(pause);
                let begun = Instant::now();
                let waiting = watching.whom_to_watch();
                if waiting.is_empty() {
                    return;
                }
                for cookie in waiting {
                    watching.leave(cookie, Leave::Interrupted, Reply::is_interrupted);
                }
                pause = LOOK.max(begun.elapsed() * PART);
            }
        });
        known.is_watched = started.is_ok();
    }

    /// Connections that are waited for. None: they are watched no more.
    fn whom_to_watch(&self) -> Vec<u64> {
        let mut known = lock(&self.known);
        let watched =
            known.under_way.iter().filter(|(_, it)| it.replies.iter().any(Reply::is_ours_to_interrupt));
        let waiting: Vec<_> = watched.map(|(cookie, _)| *cookie).collect();
        known.is_watched = !waiting.is_empty();
        waiting
    }

    /// Some wait no longer: the connection goes on, and its socket tells what comes of it.
    pub(super) fn leave(&self, cookie: u64, why: Leave, who: impl Fn(&Reply) -> bool) {
        let mut known = lock(&self.known);
        let Some(under_way) = known.under_way.get_mut(&cookie) else { return };
        let (leaving, waiting): (Vec<_>, _) =
            std::mem::take(&mut under_way.replies).into_iter().partition(|reply| who(reply));
        under_way.replies = waiting;
        drop(known);
        leaving.into_iter().for_each(|reply| reply.answer(why.outcome()));
    }

    /// The connect of a socket that is under way.
    pub(super) fn attempt(&self, program: &OwnedFd) -> Option<Attempt> {
        let cookie = cookie(program).ok()?;
        lock(&self.known).under_way.get(&cookie).map(|it| Attempt { cookie, number: it.attempt })
    }

    /// The patience of a connect's own socket has come to its end.
    pub(super) fn run_out(&self, attempt: Attempt) {
        if lock(&self.known).of(attempt).is_some() {
            self.leave(attempt.cookie, Leave::TimedOut, |_| true);
        }
    }

    /// One more waits for the outcome. Gives the reply back if there is nothing to wait for any more.
    pub(super) fn wait(&self, program: &OwnedFd, reply: Reply) -> Result<(), Reply> {
        let mut known = lock(&self.known);
        let under_way = cookie(program).ok().and_then(|cookie| known.under_way.get_mut(&cookie));
        match under_way {
            Some(under_way) => {
                under_way.replies.retain(Reply::waits);
                under_way.replies.push(reply);
                Ok(())
            }
            None => Err(reply),
        }
    }

    /// The program does not want a connection any more.
    pub(super) fn forget(&self, program: &OwnedFd) {
        let Ok(cookie) = cookie(program) else { return };
        let mut known = lock(&self.known);
        known.forget_failure(cookie);
        let forgotten = known.under_way.remove(&cookie).map(|it| known.give_up(it));
        drop(known);
        forgotten.into_iter().for_each(UnderWay::abort);
    }

    /// The party has accepted, and the node has connected the program's socket.
    pub(super) fn join(&self, attempt: Attempt, land: &Land) {
        let Some(mut joined) = self.settle(&mut lock(&self.known), attempt) else { return };
        joined.replies.retain(Reply::waits);
        if !joined.replies.is_empty() {
            land.quiet().finish(&joined.program, joined.family);
        }
        // What the program closes from now on, it closes for good.
        let UnderWay { program, own, replies, .. } = joined;
        drop(program);
        replies.into_iter().for_each(|reply| reply.answer(Ok(Answer::Done)));
        land.prepare_end(own);
    }

    /// Nothing comes of a connection.
    pub(super) fn refuse(&self, attempt: Attempt, why: Errno, land: &Land) {
        let mut known = lock(&self.known);
        let Some(mut refused) = self.settle(&mut known, attempt) else { return };
        refused.replies.retain(Reply::waits);
        if refused.replies.is_empty() {
            // Else the program has seen to it by itself.
            if raw::is_on_its_way(refused.program.as_fd()) == Ok(true) {
                // First: a program that the reset wakes asks at once.
                known.remember(attempt.cookie, why);
                drop(known);
                if !land.quiet().refuse(&refused.program, refused.own) {
                    lock(&self.known)
                        .failed
                        .entry(attempt.cookie)
                        .and_modify(|failed| failed.kernel_tells = false);
                    let _as_good_as = raw::disconnect(refused.program.as_fd());
                }
            }
            return;
        }
        drop(known);
        disconnect(&refused.program);
        let replies = refused.replies;
        drop(refused.program);
        replies.into_iter().for_each(|reply| reply.answer(Err(why)));
    }

    /// The verdict has come: of something that is under way still, which it is no more.
    fn settle(&self, known: &mut Known, attempt: Attempt) -> Option<UnderWay> {
        if known.given_up.remove(&attempt.number).is_some() {
            self.settled.notify_all();
        }
        known.take(attempt)
    }

    /// A socket's error, as a program is to see it that asks for it, and which is forgotten by that.
    pub(super) fn error(&self, program: &OwnedFd) -> Result<i32, Errno> {
        match getsockopt(program, sockopt::SocketError)? {
            0 => Ok(self.unknown_failure(program).map_or(0, |why| why as i32)),
            error => Ok(self.why(program, Errno::from_raw(error)) as i32),
        }
    }

    /// Why a socket failed of which its kernel does not know that it did.
    fn unknown_failure(&self, program: &OwnedFd) -> Option<Errno> {
        let cookie = cookie(program).ok()?;
        let mut known = lock(&self.known);
        known.failed.get(&cookie).filter(|failed| !failed.kernel_tells)?;
        known.forget_failure(cookie)
    }

    /// Why a socket failed, if its program has not heard of it. Now it has.
    pub(super) fn failure(&self, program: &OwnedFd) -> Option<Errno> {
        if lock(&self.known).failed.is_empty() {
            return None;
        }
        let cookie = cookie(program).ok()?;
        lock(&self.known).failed.get(&cookie)?;
        self.error(program).ok().filter(|error| *error != 0).map(Errno::from_raw)
    }

    /// Why a socket failed, of which the kernel says this.
    pub(super) fn why(&self, program: &OwnedFd, error: Errno) -> Errno {
        let is_of_failure = matches!(error, Errno::ECONNREFUSED | Errno::ECONNRESET);
        let known = || lock(&self.known).forget_failure(cookie(program).ok()?);
        is_of_failure.then(known).flatten().unwrap_or(error)
    }
}

impl UnderWay {
    fn is(&self, attempt: Attempt) -> bool {
        self.attempt == attempt.number
    }

    fn abort(self) {
        self.opened.iter().for_each(Opened::abandon);
        self.replies.into_iter().for_each(|reply| reply.answer(Err(Errno::ECONNABORTED)));
    }
}

impl Known {
    /// Nothing is at the node.
    fn is_at_rest(&self) -> bool {
        self.under_way.is_empty() && self.given_up.is_empty()
    }

    fn of(&self, attempt: Attempt) -> Option<&UnderWay> {
        self.under_way.get(&attempt.cookie).filter(|it| it.is(attempt))
    }

    /// Its socket is no more on the way to its party, but the node does not know.
    fn give_up(&mut self, left: UnderWay) -> UnderWay {
        self.given_up.insert(left.attempt, left.own);
        left
    }

    fn take(&mut self, attempt: Attempt) -> Option<UnderWay> {
        self.of(attempt)?;
        self.under_way.remove(&attempt.cookie)
    }

    fn remember(&mut self, cookie: u64, why: Errno) {
        self.by_age.push_back(cookie);
        self.failed.insert(cookie, Failed { why, kernel_tells: true });
        while self.by_age.len() > MOST {
            let oldest = self.by_age.pop_front();
            oldest.and_then(|oldest| self.failed.remove(&oldest));
        }
    }

    fn forget_failure(&mut self, cookie: u64) -> Option<Errno> {
        let failure = self.failed.remove(&cookie)?;
        self.by_age.retain(|other| *other != cookie);
        Some(failure.why)
    }
}

/// The kernel's number of a socket.
pub(super) fn cookie(socket: &OwnedFd) -> Result<u64, Errno> {
    socket2::SockRef::from(socket).cookie().map_err(|error| errno(&error))
}

/// Makes it as if it had not been connected.
pub(super) fn disconnect(socket: &OwnedFd) {
    let _as_good_as = raw::disconnect(socket.as_fd());
    let _forgotten = getsockopt(socket, sockopt::SocketError);
}
