//! Calls that the kernel tells of, as the engine knows them.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use nix::errno::Errno;

use super::{
    call::{Answer, Call, Caller, Outcome, Reply},
    engine::Engine,
    errno,
    notify::{Listener, Process, Told},
    program::Memory,
};

/// Processes that are remembered.
const PROCESSES: usize = 512;

/// Answers all calls until no process of the run is left. Blocks.
pub(super) fn answer_all(listener: Listener, engine: &Arc<Engine>) -> io::Result<()> {
    let mut calls = Calls { listener: Arc::new(listener), processes: HashMap::new() };
    while let Some(told) = calls.listener.next()? {
        let (call, reserved) = match calls.understand(&told) {
            Ok(understood) => understood,
            Err(errno) => {
                calls.listener.answer(&told, Err(errno as i32));
                continue;
            }
        };
        engine.handle(call, Reply::to(Waiting { listener: calls.listener.clone(), told, reserved }));
    }
    Ok(())
}

struct Calls {
    listener: Arc<Listener>,
    processes: HashMap<i32, Process>,
}

/// Where a program has reserved room for an answer: the place, and where its length stands.
#[derive(Clone, Copy)]
enum Reserved {
    Nothing,
    Address(u64, u64),
    Value(u64, u64),
}

impl Calls {
    fn understand(&mut self, told: &Told) -> Result<(Call, Reserved), Errno> {
        let [first, second, third, fourth, fifth, _] = told.arguments;
        if told.number == libc::SYS_socket {
            let [family, kind, protocol] = [first, second, third].map(|argument| argument as i32);
            return Ok((Call::Socket { family, kind, protocol }, Reserved::Nothing));
        }
        let socket = self.descriptor(told, first as i32)?;
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
    fn descriptor(&mut self, told: &Told, theirs: i32) -> Result<OwnedFd, Errno> {
        let known = self.processes.get(&told.thread);
        if let Some(descriptor) = known.and_then(|process| process.descriptor(theirs).ok()) {
            return Ok(descriptor);
        }
        let process = Process::of(told.thread).map_err(|error| errno(&error))?;
        // The number of a thread that has ended may be another one's by now.
        if !self.listener.still_waits(told) {
            return Err(Errno::EINTR);
        }
        let descriptor = process.descriptor(theirs).map_err(|error| errno(&error))?;
        if self.processes.len() >= PROCESSES {
            self.processes.clear();
        }
        self.processes.insert(told.thread, process);
        Ok(descriptor)
    }
}

/// A call that has not returned.
struct Waiting {
    listener: Arc<Listener>,
    told: Told,
    reserved: Reserved,
}

impl Caller for Waiting {
    fn waits(&self) -> bool {
        self.listener.still_waits(&self.told)
    }

    fn answer(self: Box<Self>, outcome: Outcome) {
        let Waiting { listener, told, reserved } = *self;
        let returned = match (outcome, reserved) {
            (Ok(Answer::Done), _) => Ok(0),
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
                match listener.hand_over(&told, descriptor.as_fd(), close_on_exec) {
                    Ok(()) => return,
                    Err(error) => Err(errno(&error) as i32),
                }
            }
            (Err(errno), _) => Err(errno as i32),
        };
        listener.answer(&told, returned);
    }
}
