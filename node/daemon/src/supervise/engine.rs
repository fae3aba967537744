//! What becomes of a program's call, whichever way we are told of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::socket::{Backlog, SockaddrStorage, connect, getpeername, listen},
    sys::stat::fstat,
};
use phantom_policy::{
    connect::{Way, way},
    errno::{Refusal, Why},
    mark::{self, Instruction, Mark},
    socket::{self, Kind},
};

use super::{
    Run,
    call::{Answer, Call, Given, Outcome, Reply, address_bytes},
    connections::{Connections, State, cookie, disconnect},
    conversation::Conversation,
    errno, lock,
    meeting::{local_address, of_family},
    raw, relay, unix,
    visits::{self, Guests, Visit},
};

/// Calls of a run that wait for something at once.
const WAITING: usize = 512;
/// The isolation circle of a run that is not parted.
const CIRCLE: u64 = 0;

/// Answers for one run.
#[derive(Debug)]
pub(super) struct Engine {
    run: Run,
    connections: Arc<Connections>,
    /// Sockets by which the run itself listens where others do, too, by the kernel's numbers. They are looked for among those
    /// that listen at the time, so one that is closed counts no more.
    own_listeners: Mutex<BTreeSet<u64>>,
    refused: Mutex<BTreeMap<Why, u64>>,
    waiting: AtomicUsize,
    guests: Mutex<Guests>,
    /// The user knows that servers are private.
    has_told: AtomicBool,
}

impl Engine {
    pub(super) fn new(run: Run) -> Engine {
        Engine {
            run,
            connections: Arc::default(),
            own_listeners: Mutex::default(),
            refused: Mutex::default(),
            waiting: AtomicUsize::new(0),
            guests: Mutex::default(),
            has_told: AtomicBool::new(false),
        }
    }

    /// With the node.
    pub(super) fn conversation(&self) -> &Conversation {
        &self.run.conversation
    }

    /// From now on others can come in, where the user says so.
    pub(super) fn receive_visitors(engine: &Arc<Engine>) {
        let receiving = Arc::downgrade(engine);
        engine.run.conversation.receive_visitors(Box::new(move |visit| {
            let engine = receiving.upgrade().ok_or(Errno::ECONNREFUSED)?;
            engine.visit(visit)
        }));
    }

    /// A socket for a visitor. Blocks if the program's server has many to accept.
    fn visit(&self, visit: Visit) -> Result<OwnedFd, Errno> {
        let Run { land, open, .. } = &self.run;
        if !land.is_island() {
            let local = open.local(visit.kind, visit.port).ok_or(Errno::ECONNREFUSED)?;
            let place = (Ipv4Addr::LOCALHOST, local).into();
            let is_own = || self.listens_itself(place);
            // Whoever was connected to meanwhile has it still.
            let connected = is_own().then(|| visits::socket(land, open, visit));
            return connected.filter(|_| is_own()).unwrap_or(Err(Errno::ECONNREFUSED));
        }
        let socket = visits::socket(land, open, visit)?;
        if visit.kind == Kind::Datagram {
            lock(&self.guests).enter(local_address(&socket)?);
        }
        Ok(socket)
    }

    /// Lets a call return, now or later. Never waits for another program or the network.
    pub(super) fn handle(self: &Arc<Engine>, call: Call, reply: Reply) {
        match call {
            Call::Connect { socket, to, thread } => self.connect(socket, to, thread, reply),
            Call::Socket { family, kind, protocol } => reply.answer(self.socket(family, kind, protocol)),
            Call::Listen { socket, backlog } => reply.answer(self.listen(&socket, backlog)),
            Call::PeerName { socket } => reply.answer(self.peer_name(&socket)),
            Call::Error { socket } => reply.answer(self.error(&socket)),
        }
    }

    /// What may wait, waits in a thread of its own.
    fn apart(
        self: &Arc<Engine>,
        reply: Reply,
        wait: impl FnOnce(&Engine) -> Result<(), Errno> + Send + 'static,
    ) {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= WAITING {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return reply.answer(Err(Errno::EAGAIN));
        }
        let engine = self.clone();
        let apart = thread::Builder::new().spawn(move || {
            let outcome = wait(&engine);
            reply.answer(outcome.map(|()| Answer::Done));
            engine.waiting.fetch_sub(1, Ordering::Relaxed);
        });
        // Without a thread the reply has been dropped, which answers it.
        if apart.is_err() {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn socket(&self, family: i32, kind: i32, protocol: i32) -> Outcome {
        let (nonblocking, close_on_exec) = (kind & libc::SOCK_NONBLOCK != 0, kind & libc::SOCK_CLOEXEC != 0);
        let land = &self.run.land;
        let descriptor = if family == socket::NETLINK {
            land.netlink(kind & !(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC), protocol)?
        } else {
            let kind = socket::internet(kind, protocol).map_err(|refusal| self.refuse(refusal))?;
            land.socket(family, kind)?
        };
        if nonblocking {
            socket2::SockRef::from(&descriptor).set_nonblocking(true).map_err(|error| errno(&error))?;
        }
        Ok(Answer::Socket { descriptor, close_on_exec })
    }

    fn connect(self: &Arc<Engine>, program: OwnedFd, to: Given, thread: i32, reply: Reply) {
        let to = match to {
            Given::Internet(to) => to,
            Given::Nothing => return reply.answer(self.disconnect(&program)),
            Given::Other(address) => {
                return self.apart(reply, move |engine| {
                    unix::connect(thread, &program, &address, &engine.run.commands)
                });
            }
        };
        match self.way_of(&program, to) {
            Ok((family, waits, Way::Party(party), _)) => self.open(program, family, waits, party, reply),
            Ok((family, waits, way, here)) => {
                let connect = move |engine: &Engine| engine.connect_here(&program, family, way, to, here);
                if waits {
                    self.apart(reply, connect);
                } else {
                    reply.answer(connect(self).map(|()| Answer::Done));
                }
            }
            Err(Known::UnderWay(true)) => {
                // It was interrupted, or another thread waits for it, too.
                if let Err(reply) = self.connections.wait(&program, reply) {
                    self.connect(program, Given::Internet(to), thread, reply);
                }
            }
            Err(Known::UnderWay(false)) => reply.answer(Err(Errno::EALREADY)),
            Err(Known::Told(outcome)) => reply.answer(outcome.map(|()| Answer::Done)),
        }
    }

    /// Where a connect leads: the family of its socket, whether it waits, the way, and whether the run itself listens there.
    fn way_of(&self, program: &OwnedFd, to: SocketAddr) -> Result<(i32, bool, Way, bool), Known> {
        let (family, kind) = kind_of(program)?;
        let waits = !is_nonblocking(program)?;
        if kind == Kind::Datagram && lock(&self.guests).has(to) {
            return Ok((family, false, Way::Local, true));
        }
        if kind == Kind::Datagram {
            let way = self.way(to, true)?;
            // The network carries datagrams, but this program's do not find in yet.
            return match way {
                Way::Party(_) => Err(Errno::ENETUNREACH.into()),
                // Where they live, whoever is asked is ours.
                _ => Ok((family, false, Way::Local, true)),
            };
        }
        match self.connections.state(program) {
            State::UnderWay => return Err(Known::UnderWay(waits)),
            State::Ended(outcome) => {
                self.connections.heard(program);
                if outcome.is_err() {
                    disconnect(program);
                }
                return Err(Known::Told(outcome));
            }
            State::New => {}
        }
        if getpeername::<SockaddrStorage>(program.as_raw_fd()).is_ok() && read_mark(program).is_some() {
            return Err(Errno::EISCONN.into());
        }
        if self.run.land.is_ours(to) {
            return Err(Errno::ECONNREFUSED.into());
        }
        let here = self.listens_itself(to);
        Ok((family, waits, self.way(to, here)?, here))
    }

    /// Hands a connection over to the node. Whoever waits for it is told when there is a verdict.
    fn open(&self, program: OwnedFd, family: i32, waits: bool, to: SocketAddr, reply: Reply) {
        let (waiting, told) = if waits { (Some(reply), None) } else { (None, Some(reply)) };
        match (self.begin(&program, family, to, waiting), told) {
            (Ok(()), Some(reply)) => reply.answer(Err(Errno::EINPROGRESS)),
            (Ok(()), None) => {}
            (Err((errno, waiting)), told) => {
                // Whose connection stands already, keeps it.
                if errno != Errno::EISCONN {
                    disconnect(&program);
                }
                waiting.into_iter().chain(told).for_each(|reply| reply.answer(Err(errno)));
            }
        }
    }

    fn begin(
        &self,
        program: &OwnedFd,
        family: i32,
        to: SocketAddr,
        waiting: Option<Reply>,
    ) -> Result<(), (Errno, Vec<Reply>)> {
        let prepared = (|| {
            let far = self.run.land.far_end(program, family, to)?;
            write_mark(program, to)?;
            let of_node = far.try_clone().map_err(|error| errno(&error))?;
            let kept = program.try_clone().map_err(|error| errno(&error))?;
            Ok((cookie(program)?, of_node, far, kept))
        })();
        let (cookie, of_node, far, kept) = match prepared {
            Ok(prepared) => prepared,
            Err(errno) => return Err((errno, waiting.into_iter().collect())),
        };
        let padding = self.connections.begin(kept, far, waiting)?;
        let connections = self.connections.clone();
        let at_verdict = Box::new(move |outcome| connections.end(cookie, outcome));
        let opened = self.run.conversation.open(CIRCLE, to, padding, of_node.as_fd(), at_verdict);
        opened.map_err(|errno| (errno, self.connections.give_up(cookie)))
    }

    /// Connects to what the kernel leads to by itself, or to a service of this machine.
    fn connect_here(
        &self,
        program: &OwnedFd,
        family: i32,
        way: Way,
        to: SocketAddr,
        is_own: bool,
    ) -> Result<(), Errno> {
        let to = match way {
            Way::Names => {
                let names = self.run.land.names(family).ok_or(Errno::ENETUNREACH)?;
                write_mark(program, to)?;
                names
            }
            _ if self.run.land.is_island() && !is_own => return self.connect_to_machine(program, family, to),
            _ => to,
        };
        connect(program.as_raw_fd(), &SockaddrStorage::from(of_family(to, family)))
    }

    fn connect_to_machine(&self, program: &OwnedFd, family: i32, to: SocketAddr) -> Result<(), Errno> {
        let service = relay::connect(to).map_err(|error| errno(&error))?;
        let far = self.run.land.far_end(program, family, to)?;
        write_mark(program, to)?;
        relay::carry(&self.run.runtime, far, service).map_err(|error| errno(&error))
    }

    fn disconnect(&self, program: &OwnedFd) -> Outcome {
        self.connections.forget(program);
        raw::disconnect(program.as_fd())?;
        Ok(Answer::Done)
    }

    fn listen(&self, program: &OwnedFd, backlog: i32) -> Outcome {
        if !self.run.land.is_island() && kind_of(program).is_ok() {
            // An address with a scope takes a socket to the interface that it names.
            let device = socket2::SockRef::from(program).device().map_err(|error| errno(&error))?;
            if device.as_deref().map(<[u8]>::trim_ascii_end) != Some(b"lo") {
                return Err(Errno::EADDRNOTAVAIL);
            }
            lock(&self.own_listeners).insert(fstat(program)?.st_ino);
        }
        listen(program, Backlog::new(backlog.clamp(0, libc::SOMAXCONN)).unwrap_or(Backlog::MAXCONN))?;
        self.tell_of_listener(program);
        Ok(Answer::Done)
    }

    /// The user may wonder why nobody comes.
    fn tell_of_listener(&self, program: &OwnedFd) {
        let is_internet = matches!(kind_of(program), Ok((_, Kind::Stream)));
        let Some(port) = is_internet.then(|| local_address(program).ok()).flatten().map(|own| own.port())
        else {
            return;
        };
        if !self.run.open.has(Kind::Stream, port) && !self.has_told.swap(true, Ordering::Relaxed) {
            eprintln!(
                "phantom: port {port} of the program is its own; others can come to it with: phantom run --publish {port}"
            );
        }
    }

    fn peer_name(&self, program: &OwnedFd) -> Outcome {
        let real: SockaddrStorage = getpeername(program.as_raw_fd())?;
        Ok(Answer::Bytes(match read_mark(program) {
            Some(_) if self.connections.state(program) == State::UnderWay => return Err(Errno::ENOTCONN),
            Some(mark) => address_bytes(kind_of(program)?.0, mark.peer),
            None => raw::address_bytes(&real),
        }))
    }

    fn error(&self, program: &OwnedFd) -> Outcome {
        Ok(Answer::Bytes(self.connections.error(program)?.to_ne_bytes().to_vec()))
    }

    fn way(&self, to: SocketAddr, is_own: bool) -> Result<Way, Errno> {
        way(to, self.run.rules, is_own).map_err(|refusal| self.refuse(refusal))
    }

    /// Whether whoever listens there is of the run.
    fn listens_itself(&self, to: SocketAddr) -> bool {
        if self.run.land.is_island() && !self.run.rules.allow_local {
            // Nobody else is there.
            return true;
        }
        let Ok(found) = self.run.land.listeners_at(to) else { return false };
        let own = lock(&self.own_listeners);
        let is_own = |listener: &super::listeners::Listener| own.contains(&listener.inode);
        !found.is_empty() && (self.run.land.is_island() || found.iter().all(is_own))
    }

    fn refuse(&self, refusal: Refusal) -> Errno {
        *lock(&self.refused).entry(refusal.why).or_default() += 1;
        Errno::from_raw(refusal.errno.0.into())
    }
}

/// Why a connect does not begin.
enum Known {
    /// It has begun; whether its socket waits.
    UnderWay(bool),
    /// It is told this.
    Told(Result<(), Errno>),
}

impl From<Errno> for Known {
    fn from(errno: Errno) -> Known {
        Known::Told(Err(errno))
    }
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

fn is_nonblocking(socket: &OwnedFd) -> Result<bool, Errno> {
    let flags = fcntl(socket, FcntlArg::F_GETFL)?;
    Ok(OFlag::from_bits_truncate(flags).contains(OFlag::O_NONBLOCK))
}

/// Who a socket's peer is, as its program said.
fn read_mark(socket: &OwnedFd) -> Option<Mark> {
    let mut program = [Instruction::default(); mark::LENGTH];
    raw::read_filter(socket.as_fd(), &mut program).then(|| Mark::decode(&program))?
}

/// Some kernels let nobody but root attach filters to sockets of the machine's own network. Without a mark, the program is told
/// of our end as its peer.
fn write_mark(socket: &OwnedFd, peer: SocketAddr) -> Result<(), Errno> {
    let peer = super::meeting::canonical(peer);
    match raw::attach_filter(socket.as_fd(), &Mark { peer }.encode()) {
        Err(Errno::EPERM) => Ok(()),
        attached => attached,
    }
}
