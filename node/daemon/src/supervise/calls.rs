//! What becomes of each call that the filter asks for.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use nix::{
    errno::Errno,
    sys::socket::{Backlog, MsgFlags, SockaddrStorage, connect, getpeername, listen, sendto},
    sys::stat::fstat,
};
use phantom_policy::{
    connect::{Way, way},
    errno::{Refusal, Why},
    mark::Mark,
    socket::{self, Kind},
};

use super::{
    Run, listeners,
    notify::{Call, Listener, Process},
    program::{Given, Memory, address_bytes},
    raw,
    tunnel::{self, Tunnels},
    unix,
};

/// Calls of a run that wait for something at once.
const WAITING: usize = 512;
/// The longest datagram.
const LONGEST: u64 = 65_507;

/// Answers for one run.
pub(super) struct Supervisor {
    pub(super) listener: Listener,
    run: Run,
    tunnels: Tunnels,
    processes: Mutex<HashMap<i32, Arc<Process>>>,
    /// Sockets by which the run itself listens, by the kernel's numbers. They are looked for among those that listen at the
    /// time, so one that is closed counts no more.
    own_listeners: Mutex<BTreeSet<u64>>,
    /// Blocking connects that have not returned, by socket. A signal makes the kernel give up on one, and begin it again.
    connecting: Mutex<HashMap<u64, Arc<Connecting>>>,
    refused: Mutex<BTreeMap<Why, u64>>,
    waiting: AtomicUsize,
}

type Outcome = Result<i64, Errno>;

impl Supervisor {
    pub(super) fn new(listener: Listener, run: Run) -> Supervisor {
        Supervisor {
            listener,
            tunnels: Tunnels::new(run.door),
            run,
            processes: Mutex::default(),
            own_listeners: Mutex::default(),
            connecting: Mutex::default(),
            refused: Mutex::default(),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Lets a call return, now or later.
    pub(super) fn handle(this: &Arc<Supervisor>, call: Call) {
        match call.number {
            libc::SYS_socket => this.socket(&call),
            libc::SYS_connect => Supervisor::handle_apart(this, call),
            _ => {
                let outcome = this.outcome(&call);
                this.answer(&call, outcome);
            }
        }
    }

    /// What may wait, waits in a thread of its own.
    fn handle_apart(this: &Arc<Supervisor>, call: Call) {
        if this.waiting.fetch_add(1, Ordering::Relaxed) >= WAITING {
            this.waiting.fetch_sub(1, Ordering::Relaxed);
            return this.answer(&call, Err(Errno::EAGAIN));
        }
        let supervisor = this.clone();
        let apart = thread::Builder::new().spawn(move || {
            let outcome = supervisor.outcome(&call);
            supervisor.answer(&call, outcome);
            supervisor.waiting.fetch_sub(1, Ordering::Relaxed);
        });
        if apart.is_err() {
            this.waiting.fetch_sub(1, Ordering::Relaxed);
            this.answer(&call, Err(Errno::EAGAIN));
        }
    }

    fn answer(&self, call: &Call, outcome: Outcome) {
        self.listener.answer(call, outcome.map_err(|errno| errno as i32));
    }

    fn outcome(&self, call: &Call) -> Outcome {
        let [descriptor, first, second, ..] = call.arguments;
        let memory = Memory::of(call.thread);
        let program = self.descriptor(call, descriptor as i32)?;
        match call.number {
            libc::SYS_connect => self.connect(call, &program, memory, first, second),
            libc::SYS_listen => self.listen(&program, first as i32),
            libc::SYS_sendto => self.send_to(call, &program, memory),
            libc::SYS_getpeername => self.peer_name(&program, memory, first, second),
            libc::SYS_getsockopt => {
                let [_, _, _, value, length, _] = call.arguments;
                self.socket_error(&program, memory, value, length)
            }
            _ => Err(Errno::ENOSYS),
        }
    }

    /// A socket of the Internet, which the program gets when it is bound to the loopback interface.
    fn socket(&self, call: &Call) {
        let [family, kind, protocol, ..] = call.arguments.map(|argument| argument as i32);
        let nonblocking = kind & libc::SOCK_NONBLOCK != 0;
        let made = match socket::internet(kind, protocol) {
            Ok(Kind::Stream) => bound_socket(family, nonblocking),
            Ok(Kind::Datagram) => self.island_socket(family, nonblocking),
            Err(refusal) => Err(self.refuse(refusal)),
        };
        let handed_over = made.and_then(|made| {
            let close_on_exec = kind & libc::SOCK_CLOEXEC != 0;
            self.listener.hand_over(call, made.as_fd(), close_on_exec).map_err(|error| errno(&error))
        });
        if let Err(errno) = handed_over {
            self.answer(call, Err(errno));
        }
    }

    fn island_socket(&self, family: i32, nonblocking: bool) -> Result<OwnedFd, Errno> {
        let island = self.run.island.as_ref().ok_or(Errno::EPROTONOSUPPORT)?;
        let made = island.socket(family).map_err(|error| errno(&error))?;
        socket2::SockRef::from(&made).set_nonblocking(nonblocking).map_err(|error| errno(&error))?;
        Ok(made)
    }

    fn connect(&self, call: &Call, program: &OwnedFd, memory: Memory, at: u64, length: u64) -> Outcome {
        let to = match memory.address(at, length).map_err(|error| errno(&error))? {
            Given::Internet(to) => to,
            Given::Nothing => {
                raw::disconnect(program.as_fd())?;
                return Ok(0);
            }
            Given::Other(address) => {
                let commands = &self.run.commands;
                return unix::connect(call.thread, program, &address, commands).map(|()| 0);
            }
        };
        let (family, kind) = kind_of(program)?;
        if let Some(begun) = self.begun(program) {
            return begun.outcome();
        }
        if kind == Kind::Stream && getpeername::<SockaddrStorage>(program.as_raw_fd()).is_ok() {
            return Err(if self.tunnels.is_under_way(program) { Errno::EALREADY } else { Errno::EISCONN });
        }
        let to = match self.way(to, kind)? {
            Way::Party(party) if kind == Kind::Stream => {
                return self.connect_once(program, || self.tunnels.connect(program, family, party));
            }
            // The network carries datagrams, but this program's do not find in yet.
            Way::Party(_) => return Err(Errno::ENETUNREACH),
            // Where they live, whoever is asked is ours.
            Way::Names | Way::Local if kind == Kind::Datagram => to,
            Way::Names => {
                let names = of_family(self.run.names, family);
                tunnel::write_mark(
                    program,
                    Mark { peer: SocketAddr::new(to.ip().to_canonical(), to.port()) },
                )?;
                names
            }
            Way::Local => to,
        };
        connect(program.as_raw_fd(), &SockaddrStorage::from(to))?;
        Ok(0)
    }

    /// Connects, unless the same socket is being connected already: then that one's outcome is this one's.
    fn connect_once(&self, program: &OwnedFd, connect: impl FnOnce() -> Result<(), Errno>) -> Outcome {
        let socket = socket2::SockRef::from(program).cookie().map_err(|error| errno(&error))?;
        let connecting = Arc::<Connecting>::default();
        lock(&self.connecting).insert(socket, connecting.clone());
        let outcome = connect().map(|()| 0);
        lock(&self.connecting).remove(&socket);
        connecting.end(outcome);
        outcome
    }

    fn begun(&self, program: &OwnedFd) -> Option<Arc<Connecting>> {
        let socket = socket2::SockRef::from(program).cookie().ok()?;
        lock(&self.connecting).get(&socket).cloned()
    }

    fn listen(&self, program: &OwnedFd, backlog: i32) -> Outcome {
        if kind_of(program).is_ok() {
            // An address with a scope takes a socket to the interface that it names.
            let device = socket2::SockRef::from(program).device().map_err(|error| errno(&error))?;
            if device.as_deref().map(<[u8]>::trim_ascii_end) != Some(b"lo") {
                return Err(Errno::EADDRNOTAVAIL);
            }
            lock(&self.own_listeners).insert(fstat(program)?.st_ino);
        }
        listen(program, Backlog::new(backlog.clamp(0, libc::SOMAXCONN)).unwrap_or(Backlog::MAXCONN))?;
        Ok(0)
    }

    /// A datagram to somewhere.
    fn send_to(&self, call: &Call, program: &OwnedFd, memory: Memory) -> Outcome {
        let [_, data, length, flags, at, address_length] = call.arguments;
        let to = match memory.address(at, address_length).map_err(|error| errno(&error))? {
            Given::Internet(to) => to,
            Given::Nothing => return Err(Errno::EAFNOSUPPORT),
            Given::Other(_) => return Err(Errno::EOPNOTSUPP),
        };
        let (_, kind) = kind_of(program)?;
        if kind == Kind::Stream {
            // Without it, programs connect first.
            return Err(Errno::EOPNOTSUPP);
        }
        if let Way::Party(_) = self.way(to, kind)? {
            return Err(Errno::ENETUNREACH);
        }
        if length > LONGEST {
            return Err(Errno::EMSGSIZE);
        }
        let data = memory.read(data, length as usize).map_err(|error| errno(&error))?;
        let flags =
            MsgFlags::from_bits_truncate(flags as i32) | MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let sent = sendto(program.as_raw_fd(), &data, &SockaddrStorage::from(to), flags)?;
        Ok(sent as i64)
    }

    fn peer_name(&self, program: &OwnedFd, memory: Memory, at: u64, length_at: u64) -> Outcome {
        let real: SockaddrStorage = getpeername(program.as_raw_fd())?;
        let address = match tunnel::read_mark(program) {
            Some(_) if self.tunnels.is_under_way(program) => return Err(Errno::ENOTCONN),
            Some(mark) => address_bytes(kind_of(program)?.0, mark.peer),
            None => raw::address_bytes(&real),
        };
        memory.return_address(at, length_at, &address).map_err(|error| errno(&error))?;
        Ok(0)
    }

    fn socket_error(&self, program: &OwnedFd, memory: Memory, at: u64, length_at: u64) -> Outcome {
        let error = self.tunnels.true_error(program, tunnel::error_of(program)?);
        memory.return_address(at, length_at, &error.to_ne_bytes()).map_err(|error| errno(&error))?;
        Ok(0)
    }

    fn way(&self, to: SocketAddr, kind: Kind) -> Result<Way, Errno> {
        // Datagrams reach nothing but the run itself.
        let is_own = kind == Kind::Datagram || self.listens_itself(to);
        way(to, self.run.rules, is_own).map_err(|refusal| self.refuse(refusal))
    }

    /// Whether whoever listens there is of the run.
    fn listens_itself(&self, to: SocketAddr) -> bool {
        let own = lock(&self.own_listeners);
        let Ok(found) = listeners::at(to) else { return false };
        !found.is_empty() && found.iter().all(|listener| own.contains(&listener.inode))
    }

    fn refuse(&self, refusal: Refusal) -> Errno {
        *lock(&self.refused).entry(refusal.why).or_default() += 1;
        Errno::from_raw(refusal.errno.0.into())
    }

    /// What a call's descriptor stands for.
    fn descriptor(&self, call: &Call, theirs: i32) -> Result<OwnedFd, Errno> {
        let known = lock(&self.processes).get(&call.thread).cloned();
        if let Some(descriptor) = known.and_then(|process| process.descriptor(theirs).ok()) {
            return Ok(descriptor);
        }
        let process = Process::of(call.thread).map_err(|error| errno(&error))?;
        // The number of a thread that has ended may be another one's by now.
        if !self.listener.still_waits(call) {
            return Err(Errno::EINTR);
        }
        let descriptor = process.descriptor(theirs).map_err(|error| errno(&error))?;
        let mut processes = lock(&self.processes);
        if processes.len() >= WAITING {
            processes.clear();
        }
        processes.insert(call.thread, Arc::new(process));
        Ok(descriptor)
    }
}

/// A blocking connect whose outcome others may wait for.
#[derive(Default)]
struct Connecting {
    outcome: Mutex<Option<Outcome>>,
    ended: Condvar,
}

impl Connecting {
    fn end(&self, outcome: Outcome) {
        *lock(&self.outcome) = Some(outcome);
        self.ended.notify_all();
    }

    fn outcome(&self) -> Outcome {
        let waiting = self.ended.wait_while(lock(&self.outcome), |outcome| outcome.is_none());
        waiting.unwrap_or_else(PoisonError::into_inner).unwrap_or(Err(Errno::EINTR))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A stream socket that reaches the loopback interface and nothing else, for as long as it lives.
fn bound_socket(family: i32, nonblocking: bool) -> Result<OwnedFd, Errno> {
    let made =
        socket2::Socket::new(family.into(), socket2::Type::STREAM, None).map_err(|error| errno(&error))?;
    made.bind_device(Some(b"lo")).map_err(|error| errno(&error))?;
    made.set_nonblocking(nonblocking).map_err(|error| errno(&error))?;
    Ok(made.into())
}

/// Family and kind of a socket; anything else is of no concern to us, and no socket of the Internet.
fn kind_of(program: &OwnedFd) -> Result<(i32, Kind), Errno> {
    let socket = socket2::SockRef::from(program);
    let domain = socket.domain().map_err(|error| errno(&error))?;
    let kind = socket.r#type().map_err(|error| errno(&error))?;
    match (i32::from(domain), kind) {
        (family @ (socket::INET | socket::INET6), socket2::Type::STREAM) => Ok((family, Kind::Stream)),
        (family @ (socket::INET | socket::INET6), socket2::Type::DGRAM) => Ok((family, Kind::Datagram)),
        _ => Err(Errno::EAFNOSUPPORT),
    }
}

/// The same place for a socket of this family.
fn of_family(place: SocketAddr, family: i32) -> SocketAddr {
    match family {
        socket::INET => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), place.port()),
        _ => SocketAddr::new(Ipv6Addr::LOCALHOST.into(), place.port()),
    }
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}
