//! Calls that the kernel tells of, as the engine knows them.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use nix::errno::Errno;

use super::{
    call::{Answer, Call, Caller, Outcome, Reply},
    engine::Engine,
    errno, lock,
    notify::{Listener, Notification, Process},
    program::{Memory, Pending, pending_signals},
};

/// Threads that answer in turn. One is told of a call while another one answers: until we have been told, a signal makes the
/// kernel give up on a call, even on one that no signal ever interrupts elsewhere. But a turn costs more than most answers, and
/// as long as a single thread makes calls, there is no other one while it waits: then whoever has the turn keeps it.
const THREADS: usize = 3;

/// Answers all calls from the first one on, until no process of the run is left. Blocks.
pub(super) fn answer_all(listener: Listener, first: Notification, engine: &Arc<Engine>) -> io::Result<()> {
    let calls = Calls { listener: Arc::new(listener), turn: Mutex::default() };
    calls.handle(first, &mut None, engine);
    thread::scope(|scope| {
        let others: Vec<_> = (1..THREADS).map(|_| scope.spawn(|| answer(&calls, engine))).collect();
        let own = answer(&calls, engine);
        others.into_iter().fold(own, |ended, other| ended.and(other.join().unwrap_or(Ok(()))))
    })
}

fn answer(calls: &Calls, engine: &Arc<Engine>) -> io::Result<()> {
    let mut latest = None;
    loop {
        let mut turn = lock(&calls.turn);
        let told = loop {
            let Some(told) = calls.listener.next()? else { return Ok(()) };
            if turn.is_anothers(told.thread) {
                break told;
            }
            calls.handle(told, &mut latest, engine);
        };
        drop(turn);
        calls.handle(told, &mut latest, engine);
    }
}

/// Who made the latest calls.
#[derive(Default)]
struct Turn {
    last: i32,
    /// So many were made since it was another thread.
    alone: u32,
}

/// So many calls of one thread, and the next one will be its, too.
const ALONE: u32 = 8;

impl Turn {
    /// Whether somebody else may make a call while this one waits.
    fn is_anothers(&mut self, thread: i32) -> bool {
        self.alone = if self.last == thread { self.alone.saturating_add(1) } else { 0 };
        self.last = thread;
        self.alone < ALONE
    }
}

struct Calls {
    listener: Arc<Listener>,
    /// Whose it is to be told of the next call.
    turn: Mutex<Turn>,
}

/// Who made the latest call, and by which its process is known.
type Latest = Option<(i32, Process)>;

/// Where a program has reserved room for an answer: the place, and where its length stands.
#[derive(Clone, Copy)]
enum Reserved {
    Nothing,
    Address(u64, u64),
    Value(u64, u64),
}

impl Calls {
    fn handle(&self, told: Notification, latest: &mut Latest, engine: &Arc<Engine>) {
        let (call, reserved) = match self.understand(&told, latest) {
            Ok(understood) => understood,
            Err(errno) => {
                let errno = if errno == Errno::EPERM { engine.refuse_hidden(told.thread) } else { errno };
                return self.listener.answer(&told, Err(errno as i32));
            }
        };
        let (listener, is_signalled) = (self.listener.clone(), AtomicBool::new(false));
        engine.handle(call, Reply::to(Waiting { listener, told, reserved, is_signalled }));
    }

    fn understand(&self, told: &Notification, latest: &mut Latest) -> Result<(Call, Reserved), Errno> {
        let [first, second, third, fourth, fifth, _] = told.arguments;
        if told.number == libc::SYS_socket {
            let [family, kind, protocol] = [first, second, third].map(|argument| argument as i32);
            return Ok((Call::Socket { family, kind, protocol }, Reserved::Nothing));
        }
        let socket = self.descriptor(told, first as i32, latest)?;
        let call = match told.number {
            libc::SYS_connect => {
                let to = Memory::of(told.thread).address(second, third).map_err(|error| errno(&error))?;
                (Call::Connect { socket, to, thread: told.thread }, Reserved::Nothing)
            }
            libc::SYS_listen => (Call::Listen { socket, backlog: second as i32 }, Reserved::Nothing),
            libc::SYS_getpeername => (Call::PeerName { socket }, Reserved::Address(second, third)),
            libc::SYS_getsockopt => (Call::Error { socket }, Reserved::Value(fourth, fifth)),
            _ => return Err(Errno::ENOSYS),
        };
        Ok(call)
    }

    /// What a call's descriptor stands for.
    fn descriptor(&self, told: &Notification, theirs: i32, latest: &mut Latest) -> Result<OwnedFd, Errno> {
        if let Some((thread, process)) = latest
            && *thread == told.thread
        {
            match process.descriptor(theirs).map_err(|error| errno(&error)) {
                // It was another thread of this number.
                Err(Errno::ESRCH) => {}
                found => return found,
            }
        }
        let known = Process::by_thread(told.thread);
        let is_lasting = known.is_ok();
        let process = known.or_else(|_| Process::of(told.thread)).map_err(|error| errno(&error))?;
        // The number of a thread that has ended may be another one's by now.
        if !self.listener.still_waits(told) {
            return Err(Errno::EINTR);
        }
        let found = process.descriptor(theirs).map_err(|error| errno(&error));
        *latest = is_lasting.then_some((told.thread, process));
        found
    }
}

/// A call that has not returned.
struct Waiting {
    listener: Arc<Listener>,
    told: Notification,
    reserved: Reserved,
    /// A signal was seen that would interrupt it.
    is_signalled: AtomicBool,
}

/// `ERESTARTSYS`: the kernel makes `EINTR` of it, or begins the call again.
const RESTART: i32 = 512;

impl Caller for Waiting {
    fn waits(&self) -> bool {
        self.listener.still_waits(&self.told)
    }

    /// A signal for the whole process may be another thread's, which takes it at once: so it counts when it is still there the
    /// next time.
    fn is_interrupted(&self) -> bool {
        if !self.listener.is_killable() {
            return false;
        }
        match pending_signals(self.told.thread) {
            Some(Pending::OfThread) => true,
            Some(Pending::OfProcess) => self.is_signalled.swap(true, Ordering::Relaxed),
            None => {
                self.is_signalled.store(false, Ordering::Relaxed);
                false
            }
        }
    }

    fn answer(self: Box<Self>, outcome: Outcome) {
        let Waiting { listener, told, reserved, .. } = *self;
        let returned = match (outcome, reserved) {
            (Ok(Answer::Done), _) => Ok(0),
            (Ok(Answer::Interrupted), _) => Err(RESTART),
            (Ok(Answer::Bytes(bytes)), reserved) => {
                let memory = Memory::of(told.thread);
                let written = match reserved {
                    Reserved::Address(to, length_at) => memory.return_address(to, length_at, &bytes),
                    Reserved::Value(to, length_at) => memory.return_value(to, length_at, &bytes),
                    Reserved::Nothing => Ok(()),
                };
                written.map(|()| 0).map_err(|error| errno(&error) as i32)
            }
            (Ok(Answer::Socket { descriptor, close_on_exec }), _) => {
                match listener.hand_over(&told, descriptor, close_on_exec) {
                    Ok(()) => return,
                    Err(error) => Err(errno(&error) as i32),
                }
            }
            (Err(errno), _) => Err(errno as i32),
        };
        listener.answer(&told, returned);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_turn_is_kept_as_long_as_one_thread_makes_calls() {
        let mut turn = Turn::default();
        assert!((0..ALONE).all(|_| turn.is_anothers(7)));
        assert!(!turn.is_anothers(7));
        assert!(turn.is_anothers(8), "another one");
        assert!(turn.is_anothers(7));
        assert!((2..=ALONE).all(|_| turn.is_anothers(7)));
        assert!(!turn.is_anothers(7));
    }
}
