//! Connections of a run to parties, from a program's `connect` until it knows what came of it.
//!
//! A program's socket stands as soon as it is connected to us. So it is filled with padding: it becomes writable, which is
//! how a program learns that its connection stands, when the node has read the padding, and that it does when the party has
//! accepted. So a connect may be asynchronous, be interrupted, or end by its own time-out, and the socket tells the truth.

use std::{
    collections::{HashMap, VecDeque},
    net::TcpStream,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::Mutex,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, getsockopt, send, sockopt},
};

use super::{
    call::{Answer, Reply},
    errno, lock, raw,
};

/// Connections under way, and outcomes that programs have not asked for; the oldest of those make room.
const MOST: usize = 4_096;
/// What is sent so that a socket is not writable.
static PADDING: [u8; 1 << 16] = [0; 1 << 16];

/// By the kernel's number of a socket, which no other one ever has.
#[derive(Debug, Default)]
pub(super) struct Connections(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    under_way: HashMap<u64, UnderWay>,
    /// What came of those that nobody waited for.
    ended: HashMap<u64, Result<(), Errno>>,
    by_age: VecDeque<u64>,
}

/// A connection whose party has not accepted yet.
#[derive(Debug)]
struct UnderWay {
    program: OwnedFd,
    /// Beside the node's: what becomes of the program's socket is for us to say.
    far: TcpStream,
    /// As the program wants it.
    low_water: u32,
    /// Calls that wait for the outcome.
    replies: Vec<Reply>,
    /// The program has seen it before we have.
    is_heard: bool,
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
    /// Fills a program's socket, and remembers it. Returns how much padding there is.
    pub(super) fn begin(
        &self,
        program: OwnedFd,
        far: TcpStream,
        reply: Option<Reply>,
    ) -> Result<u64, (Errno, Vec<Reply>)> {
        let replies = reply.into_iter().collect();
        let prepared = (|| {
            let low_water =
                socket2::SockRef::from(&program).tcp_notsent_lowat().map_err(|error| errno(&error))?;
            only_when_all_has_left(&program)?;
            Ok((cookie(&program)?, low_water, fill(&program)?))
        })();
        let (cookie, low_water, padding) = match prepared {
            Ok(prepared) => prepared,
            Err(errno) => return Err((errno, replies)),
        };
        let mut known = lock(&self.0);
        if known.under_way.len() >= MOST {
            return Err((Errno::EAGAIN, replies));
        }
        known.under_way.insert(cookie, UnderWay { program, far, low_water, replies, is_heard: false });
        Ok(padding)
    }

    /// Nothing comes of a connection. Returns who waits for it.
    pub(super) fn give_up(&self, cookie: u64) -> Vec<Reply> {
        let given_up = lock(&self.0).under_way.remove(&cookie);
        let Some(UnderWay { program, low_water, replies, .. }) = given_up else { return Vec::new() };
        restore(&program, low_water);
        replies
    }

    /// What is known of a socket.
    pub(super) fn state(&self, program: &OwnedFd) -> State {
        let Ok(cookie) = cookie(program) else { return State::New };
        let known = lock(&self.0);
        if let Some(under_way) = known.under_way.get(&cookie) {
            return match (is_writable(program), under_way.is_heard) {
                (false, _) => State::UnderWay,
                // The node reads the padding first, and tells us after that.
                (true, false) => State::Ended(Ok(())),
                (true, true) => State::New,
            };
        }
        known.ended.get(&cookie).map_or(State::New, |outcome| State::Ended(*outcome))
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

    /// Nobody waits any longer: the connection goes on, and its socket tells what comes of it.
    pub(super) fn stop_waiting(&self, cookie: u64) {
        let mut known = lock(&self.0);
        let waiting =
            known.under_way.get_mut(&cookie).map(|under_way| std::mem::take(&mut under_way.replies));
        drop(known);
        waiting.into_iter().flatten().for_each(|reply| reply.answer(Err(Errno::EINPROGRESS)));
    }

    /// The program has heard what came of a connection, or does not want it any more.
    pub(super) fn forget(&self, program: &OwnedFd) {
        let Ok(cookie) = cookie(program) else { return };
        let mut known = lock(&self.0);
        known.forget_outcome(cookie);
        drop(known);
        self.give_up(cookie).into_iter().for_each(|reply| reply.answer(Err(Errno::ECONNABORTED)));
    }

    /// The program has heard of the outcome, though maybe not everybody who waits.
    pub(super) fn heard(&self, program: &OwnedFd) {
        let Ok(cookie) = cookie(program) else { return };
        let mut known = lock(&self.0);
        known.forget_outcome(cookie);
        if let Some(under_way) = known.under_way.get_mut(&cookie) {
            under_way.is_heard = true;
        }
    }

    /// The party has accepted, or not.
    pub(super) fn end(&self, cookie: u64, outcome: Result<(), Errno>) {
        let mut known = lock(&self.0);
        let Some(ended) = known.under_way.remove(&cookie) else { return };
        let UnderWay { program, far, low_water, mut replies, is_heard } = ended;
        replies.retain(Reply::waits);
        if replies.is_empty() && !is_heard {
            known.remember_outcome(cookie, outcome);
        }
        drop(known);
        match outcome {
            Ok(()) => {}
            // The program looks at its socket: it finds an error there, and asks us which.
            Err(_) if replies.is_empty() => {
                let _it_sees_an_end_else =
                    socket2::SockRef::from(&far).set_linger(Some(std::time::Duration::ZERO));
            }
            Err(_) => disconnect(&program),
        }
        // Before the socket may be writable: else it would look as if it stood.
        drop(far);
        restore(&program, low_water);
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

impl Known {
    fn remember_outcome(&mut self, cookie: u64, outcome: Result<(), Errno>) {
        self.by_age.push_back(cookie);
        self.ended.insert(cookie, outcome);
        while self.by_age.len() > MOST {
            let oldest = self.by_age.pop_front();
            oldest.and_then(|oldest| self.ended.remove(&oldest));
        }
    }

    fn forget_outcome(&mut self, cookie: u64) {
        if self.ended.remove(&cookie).is_some() {
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

/// A socket is writable only when everything has left for the other side.
fn only_when_all_has_left(socket: &OwnedFd) -> Result<(), Errno> {
    socket2::SockRef::from(socket).set_tcp_notsent_lowat(1).map_err(|error| errno(&error))
}

/// A socket is writable as its program wants it.
fn restore(socket: &OwnedFd, low_water: u32) {
    let _only_slower_else = socket2::SockRef::from(socket).set_tcp_notsent_lowat(low_water);
}

fn fill(socket: &OwnedFd) -> Result<u64, Errno> {
    let mut padding = 0;
    loop {
        match send(socket.as_raw_fd(), &PADDING, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
            Ok(sent) => padding += sent as u64,
            Err(Errno::EAGAIN) => return Ok(padding),
            Err(Errno::EINTR) => {}
            Err(_) => return Err(Errno::ENETUNREACH),
        }
    }
}

fn is_writable(socket: &OwnedFd) -> bool {
    let mut asked = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
    poll(&mut asked, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}
