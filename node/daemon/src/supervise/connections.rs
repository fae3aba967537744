//! Connections of a run to parties, from a program's `connect` until it knows what came of it.
//!
//! A program's socket stands as soon as it is connected to us. So it is filled with padding: it becomes writable, which is
//! how a program learns that its connection stands, when the node has read the padding, and that it does when the party has
//! accepted. While a thread waits for its connect nobody looks at the socket, so it is filled only when that thread leaves
//! early: interrupted by a signal, or by the socket's own time-out. Before, the node is asked to hold the connection; if it
//! has a verdict already, the thread is told that one. So a connect may be asynchronous, be interrupted, or end by its own
//! time-out, and the socket tells the truth.

use std::{
    collections::{HashMap, VecDeque},
    net::TcpStream,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, getsockopt, send, sockopt},
};

use super::{
    call::{Answer, Outcome, Reply},
    conversation::OpenLink,
    errno, lock, raw,
};

/// Connections under way, and outcomes that programs have not asked for; the oldest of those make room.
const MOST: usize = 4_096;
/// What is sent so that a socket is not writable.
static PADDING: [u8; 1 << 16] = [0; 1 << 16];
/// So much more than the other side has room for: it may find a little more room as it looks at what has come.
const SPARE: u32 = 1 << 17;
/// How often threads that wait are asked whether a signal interrupts them, if that takes no more than a part of the time:
/// there may be thousands.
const LOOK: Duration = Duration::from_millis(10);
const PART: u32 = 20;
/// A node that is asked to hold a connection, and says nothing for so long, is as good as gone.
const PATIENCE: Duration = Duration::from_secs(2);

/// By the kernel's number of a socket, which no other one ever has.
#[derive(Debug, Default)]
pub(super) struct Connections(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    under_way: HashMap<u64, UnderWay>,
    /// What came of those that nobody waited for.
    ended: HashMap<u64, Ended>,
    by_age: VecDeque<u64>,
    /// Somebody looks for signals.
    is_watched: bool,
}

#[derive(Clone, Copy, Debug)]
struct Ended {
    outcome: Result<(), Errno>,
    /// Where the low-water mark is not yet as the program wants it: setting it wakes whoever looks at the socket.
    low_water: Option<u32>,
}

/// A connection whose party has not accepted yet.
#[derive(Debug)]
struct UnderWay {
    program: Arc<OwnedFd>,
    /// Beside the node's: what becomes of the program's socket is for us to say.
    far: TcpStream,
    /// There is padding in it, and this is its low-water mark as the program wants it.
    padded: Option<u32>,
    /// The node's.
    link: Option<OpenLink>,
    /// Calls that wait for the outcome.
    replies: Vec<Reply>,
    /// Those that leave before, as soon as there is padding.
    leaving: Vec<(Reply, Leave)>,
    /// When the node was asked to hold it.
    asked: Option<Instant>,
    /// The program has seen it before we have.
    is_heard: bool,
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

/// What is known of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Nothing.
    New,
    /// The party has not accepted yet.
    UnderWay,
    /// This came of it, and the program has not heard of it.
    Ended(Result<(), Errno>),
}

impl Connections {
    /// Remembers a program's socket, which is filled unless somebody waits for its outcome of whom we know when he leaves.
    /// Returns how much padding there is, if any.
    pub(super) fn begin(
        &self,
        cookie: u64,
        program: Arc<OwnedFd>,
        far: TcpStream,
        reply: Option<Reply>,
    ) -> Result<Option<u64>, (Errno, Vec<Reply>)> {
        let fills = !reply.as_ref().is_some_and(Reply::is_ours_to_interrupt);
        let replies = reply.into_iter().collect();
        let filled = match fills.then(|| fill(&program)).transpose() {
            Ok(filled) => filled,
            Err(errno) => return Err((errno, replies)),
        };
        let mut known = lock(&self.0);
        let padded = filled.map(|(_, low_water)| low_water);
        if known.under_way.len() >= MOST {
            restore(&program, padded);
            return Err((Errno::EAGAIN, replies));
        }
        let (link, leaving, asked, is_heard) = (None, Vec::new(), None, false);
        let under_way = UnderWay { program, far, padded, link, replies, leaving, asked, is_heard };
        known.under_way.insert(cookie, under_way);
        Ok(filled.map(|(padding, _)| padding))
    }

    /// The node has it now.
    pub(super) fn handed_over(&self, cookie: u64, link: OpenLink) {
        let mut known = lock(&self.0);
        let Some(under_way) = known.under_way.get_mut(&cookie) else { return };
        under_way.link = Some(link);
        let to_hold = under_way.ask_to_hold();
        drop(known);
        to_hold.into_iter().for_each(|link| link.hold());
    }

    /// Looks for signals as long as somebody waits whom they are to interrupt, and for nodes that say nothing.
    pub(super) fn watch(self: &Arc<Connections>) {
        let mut known = lock(&self.0);
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
                for (cookie, is_given_up) in waiting {
                    if is_given_up {
                        watching.end(cookie, Err(Errno::ENETUNREACH));
                    } else {
                        watching.leave(cookie, Leave::Interrupted, Reply::is_interrupted);
                    }
                }
                pause = LOOK.max(begun.elapsed() * PART);
            }
        });
        known.is_watched = started.is_ok();
    }

    /// Connections that are waited for, and whether their node has been silent for too long. None: they are watched no more.
    fn whom_to_watch(&self) -> Vec<(u64, bool)> {
        let mut known = lock(&self.0);
        let watched = known.under_way.iter().filter(|(_, it)| it.is_watched());
        let waiting: Vec<_> = watched.map(|(cookie, it)| (*cookie, it.is_given_up())).collect();
        known.is_watched = !waiting.is_empty();
        waiting
    }

    /// Some wait no longer: the connection goes on, and its socket tells what comes of it.
    pub(super) fn leave(&self, cookie: u64, why: Leave, who: impl Fn(&Reply) -> bool) {
        let mut known = lock(&self.0);
        let Some(under_way) = known.under_way.get_mut(&cookie) else { return };
        let (leaving, waiting): (Vec<_>, _) =
            std::mem::take(&mut under_way.replies).into_iter().partition(|reply| who(reply));
        under_way.replies = waiting;
        under_way.leaving.extend(leaving.into_iter().map(|reply| (reply, why)));
        let leaving =
            if under_way.padded.is_some() { std::mem::take(&mut under_way.leaving) } else { Vec::new() };
        let to_hold = under_way.ask_to_hold();
        drop(known);
        leaving.into_iter().for_each(|(reply, why)| reply.answer(why.outcome()));
        to_hold.into_iter().for_each(|link| link.hold());
    }

    /// The node holds it: whoever leaves may do so.
    pub(super) fn held(&self, cookie: u64) {
        let mut known = lock(&self.0);
        let Some(under_way) = known.under_way.get_mut(&cookie) else { return };
        // A socket that cannot be filled is broken, and tells so by itself.
        let (padding, low_water) = fill(&under_way.program).unwrap_or_default();
        under_way.padded = Some(low_water);
        let (link, leaving) = (under_way.link.clone(), std::mem::take(&mut under_way.leaving));
        drop(known);
        link.into_iter().for_each(|link| link.padded(padding));
        leaving.into_iter().for_each(|(reply, why)| reply.answer(why.outcome()));
    }

    /// Nothing comes of a connection. Returns who waits for it.
    pub(super) fn give_up(&self, cookie: u64) -> Vec<Reply> {
        let given_up = lock(&self.0).under_way.remove(&cookie);
        let Some(UnderWay { program, padded, mut replies, leaving, .. }) = given_up else {
            return Vec::new();
        };
        restore(&program, padded);
        replies.extend(leaving.into_iter().map(|(reply, _)| reply));
        replies
    }

    /// What is known of a socket.
    pub(super) fn state(&self, program: &OwnedFd) -> State {
        let Ok(cookie) = cookie(program) else { return State::New };
        let known = lock(&self.0);
        if let Some(under_way) = known.under_way.get(&cookie) {
            let looks_ready = under_way.padded.is_some() && is_writable(program);
            return match (looks_ready, under_way.is_heard) {
                (false, _) => State::UnderWay,
                // The node reads the padding first, and tells us after that.
                (true, false) => State::Ended(Ok(())),
                (true, true) => State::New,
            };
        }
        known.ended.get(&cookie).map_or(State::New, |ended| State::Ended(ended.outcome))
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

    /// The program has heard what came of a connection, or does not want it any more.
    pub(super) fn forget(&self, program: &OwnedFd) {
        let Ok(cookie) = cookie(program) else { return };
        lock(&self.0).forget_outcome(cookie, program);
        self.give_up(cookie).into_iter().for_each(|reply| reply.answer(Err(Errno::ECONNABORTED)));
    }

    /// The program has heard of the outcome, though maybe not everybody who waits.
    pub(super) fn heard(&self, program: &OwnedFd) {
        let Ok(cookie) = cookie(program) else { return };
        let mut known = lock(&self.0);
        known.forget_outcome(cookie, program);
        if let Some(under_way) = known.under_way.get_mut(&cookie) {
            under_way.is_heard = true;
            restore(&under_way.program, under_way.padded);
        }
    }

    /// The party has accepted, or not.
    pub(super) fn end(&self, cookie: u64, outcome: Result<(), Errno>) {
        let mut known = lock(&self.0);
        let Some(ended) = known.under_way.remove(&cookie) else { return };
        let UnderWay { program, far, padded, mut replies, leaving, is_heard, .. } = ended;
        replies.extend(leaving.into_iter().map(|(reply, _)| reply));
        replies.retain(Reply::waits);
        let is_asked_for = !replies.is_empty() || is_heard;
        let low_water = padded.filter(|_| outcome.is_err() && !is_asked_for);
        if !is_asked_for {
            known.remember(cookie, Ended { outcome, low_water });
        }
        drop(known);
        match outcome {
            Ok(()) => {}
            // The program looks at its socket: it finds an error there, and asks us which.
            Err(_) if replies.is_empty() => {
                let _it_sees_an_end_else = socket2::SockRef::from(&far).set_linger(Some(Duration::ZERO));
            }
            Err(_) => disconnect(&program),
        }
        // Before the socket may be writable: else it would look as if it stood.
        drop(far);
        restore(&program, padded.filter(|_| low_water.is_none()));
        drop(program);
        for reply in replies {
            reply.answer(outcome.map(|()| Answer::Done));
        }
    }

    /// A socket's error, as a program is to see it that asks for it, and which is forgotten by that.
    pub(super) fn error(&self, program: &OwnedFd) -> Result<i32, Errno> {
        let error = getsockopt(program, sockopt::SocketError)?;
        Ok(match self.state(program) {
            State::Ended(Err(errno)) => {
                self.heard(program);
                errno as i32
            }
            _ => error,
        })
    }
}

impl UnderWay {
    /// What is to be said to the node, if somebody leaves.
    fn ask_to_hold(&mut self) -> Option<OpenLink> {
        let link = self.link.clone().filter(|_| !self.leaving.is_empty() && self.asked.is_none())?;
        self.asked = Some(Instant::now());
        Some(link)
    }

    fn is_watched(&self) -> bool {
        !self.leaving.is_empty() || self.replies.iter().any(Reply::is_ours_to_interrupt)
    }

    /// Whether the node was asked to hold it, and says nothing.
    fn is_given_up(&self) -> bool {
        self.padded.is_none() && self.asked.is_some_and(|asked| asked.elapsed() >= PATIENCE)
    }
}

impl Known {
    fn remember(&mut self, cookie: u64, ended: Ended) {
        self.by_age.push_back(cookie);
        self.ended.insert(cookie, ended);
        while self.by_age.len() > MOST {
            let oldest = self.by_age.pop_front();
            oldest.and_then(|oldest| self.ended.remove(&oldest));
        }
    }

    fn forget_outcome(&mut self, cookie: u64, program: &OwnedFd) {
        if let Some(ended) = self.ended.remove(&cookie) {
            restore(program, ended.low_water);
            self.by_age.retain(|other| *other != cookie);
        }
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

/// A socket is writable as its program wants it.
fn restore(socket: &OwnedFd, low_water: Option<u32>) {
    if let Some(low_water) = low_water {
        let _only_slower_else = socket2::SockRef::from(socket).set_tcp_notsent_lowat(low_water);
    }
}

/// Fills a socket, which is writable from now on only when everything has left for the other side. Returns how much it took,
/// and the low-water mark as the program wants it.
fn fill(program: &OwnedFd) -> Result<(u64, u32), Errno> {
    let socket = socket2::SockRef::from(program);
    let low_water = socket.tcp_notsent_lowat().map_err(|error| errno(&error))?;
    socket.set_tcp_notsent_lowat(SPARE).map_err(|error| errno(&error))?;
    let mut padding = 0;
    loop {
        match send(program.as_raw_fd(), &PADDING, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
            Ok(sent) => padding += sent as u64,
            Err(Errno::EAGAIN) => break,
            Err(Errno::EINTR) => {}
            Err(_) => return Err(Errno::ENETUNREACH),
        }
    }
    socket.set_tcp_notsent_lowat(1).map_err(|error| errno(&error))?;
    Ok((padding, low_water))
}

fn is_writable(socket: &OwnedFd) -> bool {
    let mut asked = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
    poll(&mut asked, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}
