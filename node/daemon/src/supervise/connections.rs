//! Connections of a run to parties, from a program's `connect` until it knows what came of it.
//!
//! Until then the program's socket is on its way ([`quiet`](super::quiet)), as its own kernel has it. So a connect may be
//! asynchronous, be interrupted, or end by its own time-out, and the socket tells the truth.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::socket::{getsockopt, sockopt},
};

use super::{
    call::{Answer, Outcome, Reply},
    errno,
    land::Land,
    lock, raw,
};

/// Connections under way, and errors that programs have not asked for; the oldest of those make room.
const MOST: usize = 4_096;
/// How often threads that wait are asked whether a signal interrupts them, if that takes no more than a part of the time:
/// there may be thousands.
const LOOK: Duration = Duration::from_millis(10);
const PART: u32 = 20;

/// By the kernel's number of a socket, which no other one ever has.
#[derive(Debug, Default)]
pub(super) struct Connections(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    under_way: HashMap<u64, UnderWay>,
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
        let mut known = lock(&self.0);
        if known.under_way.len() >= MOST {
            return Err((Errno::EAGAIN, reply));
        }
        known.forget_failure(cookie);
        known.last += 1;
        let number = known.last;
        let replies = reply.into_iter().collect();
        let under_way = UnderWay { program, family, own, attempt: number, replies };
        let before = known.under_way.insert(cookie, under_way);
        drop(known);
        before.into_iter().for_each(UnderWay::abort);
        Ok(Attempt { cookie, number })
    }

    /// Looks for what ends a call before its verdict, as long as somebody waits: signals, and what becomes of the socket.
    pub(super) fn watch(self: &Arc<Connections>, land: &Arc<Land>) {
        let mut known = lock(&self.0);
        if known.is_watched {
            return;
        }
        let (watching, land) = (self.clone(), land.clone());
        let started = thread::Builder::new().name("signals".to_owned()).spawn(move || {
            let mut pause = LOOK;
            loop {
                thread::sleep(pause);
                let begun = Instant::now();
                let waiting = watching.whom_to_watch();
                if waiting.is_empty() {
                    return;
                }
                for attempt in waiting {
                    watching.notice_end(attempt);
                    watching.leave(attempt, Leave::Interrupted, Reply::is_interrupted, &land);
                }
                pause = LOOK.max(begun.elapsed() * PART);
            }
        });
        known.is_watched = started.is_ok();
    }

    /// Connections that are waited for. None: they are watched no more.
    fn whom_to_watch(&self) -> Vec<Attempt> {
        let mut known = lock(&self.0);
        let watched = known.under_way.iter().filter(|(_, it)| !it.replies.is_empty());
        let waiting: Vec<_> =
            watched.map(|(cookie, it)| Attempt { cookie: *cookie, number: it.attempt }).collect();
        known.is_watched = !waiting.is_empty();
        waiting
    }

    /// A socket that is waited for may be on its way no more and never come to its party: somebody has shut it down, or its
    /// kernel has no more patience. As with a connect of the kernel's own, whoever waits is told, and it can be connected anew.
    fn notice_end(&self, attempt: Attempt) {
        let mut known = lock(&self.0);
        let waited_for = known.of(attempt).filter(|it| !it.replies.is_empty());
        let Some(why) = waited_for.and_then(|it| ended(&it.program)) else { return };
        let Some(ended) = known.take(attempt) else { return };
        disconnect(&ended.program);
        drop(known);
        ended.answer(Err(why));
    }

    /// Some wait no longer: the connection goes on, and its socket tells what comes of it.
    fn leave(&self, attempt: Attempt, why: Leave, who: impl Fn(&Reply) -> bool, land: &Land) {
        let mut known = lock(&self.0);
        let Some(under_way) = known.of_mut(attempt) else { return };
        let (leaving, waiting): (Vec<_>, _) =
            std::mem::take(&mut under_way.replies).into_iter().partition(|reply| who(reply));
        under_way.replies = waiting;
        if leaving.is_empty() {
            return;
        }
        let own = under_way.own;
        drop(known);
        // A refusal that nobody waits for is a packet, which is written as an answer to one that was seen.
        let _else_it_is_disconnected = land.quiet().watch(own);
        leaving.into_iter().for_each(|reply| reply.answer(why.outcome()));
    }

    /// The connect of a socket that is under way.
    pub(super) fn attempt(&self, program: &OwnedFd) -> Option<Attempt> {
        let cookie = cookie(program).ok()?;
        lock(&self.0).under_way.get(&cookie).map(|it| Attempt { cookie, number: it.attempt })
    }

    /// The patience of a connect's own socket has come to its end.
    pub(super) fn run_out(&self, attempt: Attempt, land: &Land) {
        self.leave(attempt, Leave::TimedOut, |_| true, land);
    }

    /// One more waits for the outcome. Gives the reply back if there is nothing to wait for any more.
    pub(super) fn wait(&self, program: &OwnedFd, reply: Reply) -> Result<(), Reply> {
        let mut known = lock(&self.0);
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

    /// A connection that has ended without a call that we were told of is not to be taken for the socket's next one.
    pub(super) fn forget_ended(&self, program: &OwnedFd) {
        if lock(&self.0).under_way.is_empty() {
            return;
        }
        let Ok(cookie) = cookie(program) else { return };
        let mut known = lock(&self.0);
        let has_ended = |it: &mut UnderWay| raw::is_closed(it.program.as_fd()) == Ok(true);
        if known.under_way.get_mut(&cookie).is_some_and(has_ended) {
            let ended = known.under_way.remove(&cookie);
            drop(known);
            ended.into_iter().for_each(UnderWay::abort);
        }
    }

    /// The program does not want a connection any more.
    pub(super) fn forget(&self, program: &OwnedFd) {
        let Ok(cookie) = cookie(program) else { return };
        let mut known = lock(&self.0);
        known.forget_failure(cookie);
        let forgotten = known.under_way.remove(&cookie);
        drop(known);
        forgotten.into_iter().for_each(UnderWay::abort);
    }

    /// The party has accepted: the program's socket stands. Returns its other end.
    pub(super) fn join(&self, attempt: Attempt, land: &Land) -> Result<OwnedFd, Errno> {
        let known = lock(&self.0).of(attempt).map(|it| (it.program.clone(), it.own));
        let (program, own) = known.ok_or(Errno::ECONNABORTED)?;
        let end = land.join(&program, own).inspect_err(|errno| self.refuse(attempt, *errno, land))?;
        // Who came to wait meanwhile, waits no more.
        let mut joined = lock(&self.0).take(attempt).ok_or(Errno::ECONNABORTED)?;
        joined.replies.retain(Reply::waits);
        if !joined.replies.is_empty() {
            land.quiet().finish(&program, joined.family);
        }
        drop(program);
        joined.answer(Ok(()));
        Ok(end)
    }

    /// Nothing comes of a connection.
    pub(super) fn refuse(&self, attempt: Attempt, why: Errno, land: &Land) {
        let mut known = lock(&self.0);
        let Some(mut refused) = known.take(attempt) else { return };
        refused.replies.retain(Reply::waits);
        if refused.replies.is_empty() {
            // Else the program has seen to it by itself.
            if raw::is_on_its_way(refused.program.as_fd()) == Ok(true) {
                // First: a program that the reset wakes asks at once.
                known.remember(attempt.cookie, why);
                drop(known);
                if !land.quiet().refuse(&refused.program, refused.own) {
                    lock(&self.0)
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
        refused.answer(Err(why));
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
        let mut known = lock(&self.0);
        known.failed.get(&cookie).filter(|failed| !failed.kernel_tells)?;
        known.forget_failure(cookie)
    }

    /// Why a socket failed, if its program has not heard of it. Now it has.
    pub(super) fn failure(&self, program: &OwnedFd) -> Option<Errno> {
        if lock(&self.0).failed.is_empty() {
            return None;
        }
        let cookie = cookie(program).ok()?;
        lock(&self.0).failed.get(&cookie)?;
        self.error(program).ok().filter(|error| *error != 0).map(Errno::from_raw)
    }

    /// Why a socket failed, of which the kernel says this.
    pub(super) fn why(&self, program: &OwnedFd, error: Errno) -> Errno {
        let is_of_failure = matches!(error, Errno::ECONNREFUSED | Errno::ECONNRESET);
        let known = || lock(&self.0).forget_failure(cookie(program).ok()?);
        is_of_failure.then(known).flatten().unwrap_or(error)
    }
}

impl UnderWay {
    fn abort(self) {
        self.answer(Err(Errno::ECONNABORTED));
    }

    /// What the program closes then, it closes for good.
    fn answer(self, outcome: Result<(), Errno>) {
        drop(self.program);
        self.replies.into_iter().for_each(|reply| reply.answer(outcome.map(|()| Answer::Done)));
    }
}

impl Known {
    fn of(&self, attempt: Attempt) -> Option<&UnderWay> {
        self.under_way.get(&attempt.cookie).filter(|it| it.attempt == attempt.number)
    }

    fn of_mut(&mut self, attempt: Attempt) -> Option<&mut UnderWay> {
        self.under_way.get_mut(&attempt.cookie).filter(|it| it.attempt == attempt.number)
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

/// Why a socket that was on its way is so no more, if it does not stand either, as its kernel says it to whoever waits.
fn ended(program: &OwnedFd) -> Option<Errno> {
    if raw::is_closed(program.as_fd()) != Ok(true) {
        return None;
    }
    match getsockopt(program, sockopt::SocketError) {
        Ok(0) | Err(_) => Some(Errno::ECONNABORTED),
        Ok(error) => Some(Errno::from_raw(error)),
    }
}

/// Makes it as if it had not been connected.
pub(super) fn disconnect(socket: &OwnedFd) {
    let _as_good_as = raw::disconnect(socket.as_fd());
    let _forgotten = getsockopt(socket, sockopt::SocketError);
}
