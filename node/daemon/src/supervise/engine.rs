//! What becomes of a program's call, whichever way we are told of it.

mod parties;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    fs, io,
    net::{Ipv4Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::socket::{Backlog, SockaddrStorage, connect, listen},
    sys::stat::fstat,
};
use phantom_policy::{
    connect::{Way, way},
    errno::Refusal,
    socket::{self, Kind},
};

use super::{
    Addresses, Deed, Run,
    call::{Answer, Call, Given, Outcome, Reply, address_bytes},
    capture::FlowEnds,
    connections::{Connections, disconnect},
    conversation::Conversation,
    deadlines::Deadlines,
    errno,
    flows::Flows,
    lock,
    meeting::{local_address, of_family},
    peers::{self, Peers},
    pool::Pool,
    raw, relay, unix,
    visits::{self, Guests, Visit},
};

/// The bits of a socket's type that are no flags.
const KIND: i32 = 0xf;

/// Answers for one run.
#[derive(Debug)]
pub(super) struct Engine {
    run: Run,
    connections: Arc<Connections>,
    flows: Arc<Flows>,
    deadlines: Arc<Deadlines>,
    peers: Peers,
    /// Sockets by which the run itself listens where others do, too, by the kernel's numbers. They are looked for among those
    /// that listen at the time, so one that is closed counts no more.
    own_listeners: Mutex<BTreeSet<u64>>,
    pool: Arc<Pool>,
    guests: Arc<Mutex<Guests>>,
    /// The user knows that servers are private.
    has_told: AtomicBool,
    /// The user knows that there is a program into which we may not look.
    has_told_of_hidden: AtomicBool,
}

impl Engine {
    pub(super) fn new(run: Run, peers: Peers) -> io::Result<Engine> {
        let guests = Arc::<Mutex<Guests>>::default();
        let flows = Flows::new(&run, guests.clone())?;
        Ok(Engine {
            run,
            connections: Arc::default(),
            flows,
            deadlines: Arc::default(),
            peers,
            own_listeners: Mutex::default(),
            pool: Arc::default(),
            guests,
            has_told: AtomicBool::new(false),
            has_told_of_hidden: AtomicBool::new(false),
        })
    }

    /// With the node.
    pub(super) fn conversation(&self) -> &Conversation {
        &self.run.conversation
    }

    /// The addresses of a name, which the program learns.
    pub(super) fn addresses_of(&self, host: &str) -> Result<Option<Addresses>, Errno> {
        let Run { conversation, account, circles, .. } = &self.run;
        let found = conversation.addresses_of(host);
        account.resolved(host, found);
        if let Ok(Some((address, alias))) = found {
            circles.learn(address, alias);
        }
        found
    }

    /// From now on others can come in, where the user says so.
    pub(super) fn receive_visitors(engine: &Arc<Engine>) {
        let receiving = Arc::downgrade(engine);
        engine.run.conversation.receive_visitors(Box::new(move |visit| {
            let engine = receiving.upgrade().ok_or(Errno::ECONNREFUSED)?;
            let received = engine.visit(visit);
            let outcome = received.as_ref().map(drop).map_err(|errno| *errno);
            engine.run.account.note(Deed::Receives(visit.kind, visit.port), outcome);
            received
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
            Call::Listen { socket, backlog } => {
                answer_without(reply, socket, |socket| self.listen(socket, backlog))
            }
            Call::PeerName { socket } => answer_without(reply, socket, |socket| self.peer_name(socket)),
            Call::Error { socket } => answer_without(reply, socket, |socket| self.error(socket)),
        }
    }

    /// What may wait, waits in a thread of its own. Without one the reply is dropped, which answers it.
    fn apart(
        self: &Arc<Engine>,
        reply: Reply,
        wait: impl FnOnce(&Engine) -> Result<(), Errno> + Send + 'static,
    ) {
        let engine = self.clone();
        self.pool.run(move || {
            let outcome = wait(&engine);
            reply.answer(outcome.map(|()| Answer::Done));
        });
    }

    fn socket(&self, family: i32, kind: i32, protocol: i32) -> Outcome {
        let (nonblocking, close_on_exec) = (kind & libc::SOCK_NONBLOCK != 0, kind & libc::SOCK_CLOEXEC != 0);
        if kind & !(KIND | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) != 0 {
            return Err(Errno::EINVAL);
        }
        let land = &self.run.land;
        let descriptor = if family == socket::NETLINK {
            land.netlink(kind & !(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC), protocol)?
        } else {
            let kind = socket::internet(kind, protocol).map_err(|refusal| self.refuse(refusal, None))?;
            if kind == Kind::Datagram {
                self.flows.start()?;
            }
            land.socket(family, kind)?
        };
        if nonblocking {
            socket2::SockRef::from(&descriptor).set_nonblocking(true).map_err(|error| errno(&error))?;
        }
        self.run.account.made_socket();
        Ok(Answer::Socket { descriptor, close_on_exec })
    }

    fn connect(self: &Arc<Engine>, program: OwnedFd, to: Given, thread: i32, reply: Reply) {
        let to = match to {
            Given::Internet(to) => to,
            Given::Nothing => return reply.answer(self.disconnect(&program)),
            // Its kernel knows what is wrong with it.
            Given::Other(address) if kind_of(&program).is_ok() => {
                let connected = raw::connect_to(program.as_fd(), &address);
                return reply.answer(connected.map(|()| Answer::Done));
            }
            Given::Other(address) => {
                return self.apart(reply, move |engine| {
                    unix::connect(thread, &program, &address, &engine.run.commands)
                });
            }
        };
        let (family, kind) =
            match kind_of(&program).and_then(|known| self.is_of_run(&program, Some(to)).map(|()| known)) {
                Ok(known) => known,
                Err(errno) => return reply.answer(Err(errno)),
            };
        if kind == Kind::Datagram && !lock(&self.guests).has(to) {
            let connected = self.connect_datagrams(&program, family, to, thread);
            return reply.answer(connected.map(|()| Answer::Done));
        }
        match self.way_of(family, kind, to) {
            Ok((Way::Party(party), _)) => {
                let circle = self.run.circles.of(thread, party);
                self.open(&Arc::new(program), family, circle, party, reply);
            }
            // Who has chosen a place of ours meets nobody else there.
            Ok(_) if local_address(&program).is_ok_and(|own| self.run.land.is_ours(own)) => {
                reply.answer(Err(Errno::EADDRINUSE));
            }
            Ok((way, here)) => {
                let waits = kind == Kind::Stream && is_nonblocking(&program) == Ok(false);
                let connect = move |engine: &Engine| {
                    let outcome = engine.connect_here(&program, family, way, to, here);
                    engine.note_here(&program, way, to, outcome);
                    outcome
                };
                if waits {
                    self.apart(reply, connect);
                } else {
                    reply.answer(connect(self).map(|()| Answer::Done));
                }
            }
            Err(errno) => reply.answer(Err(errno)),
        }
    }

    /// Where a connect leads, and whether the run itself listens there.
    fn way_of(&self, family: i32, kind: Kind, to: SocketAddr) -> Result<(Way, bool), Errno> {
        if kind == Kind::Datagram {
            // A guest's.
            return Ok((Way::Local, true));
        }
        // An address of the other family is too short, or one that its kernel does not know.
        match (family, to.is_ipv4()) {
            (socket::INET, false) => return Err(Errno::EAFNOSUPPORT),
            (socket::INET6, true) => return Err(Errno::EINVAL),
            _ => {}
        }
        if self.run.land.is_ours(to) {
            return Err(Errno::ECONNREFUSED);
        }
        let here = self.listens_itself(to);
        Ok((self.way(to, here)?, here))
    }

    /// Datagrams lead to where they are sent, in the island. A party's have to be there for it.
    fn connect_datagrams(
        &self,
        program: &OwnedFd,
        family: i32,
        to: SocketAddr,
        thread: i32,
    ) -> Result<(), Errno> {
        let way = self.way(to, true)?;
        connect_with_own_port(program, of_family(to, family))?;
        match way {
            Way::Party(party) => {
                let ends = FlowEnds { program: local_address(program)?, party };
                let circle = self.run.circles.of(thread, party);
                self.flows.open(ends, circle).inspect_err(|_| disconnect(program))
            }
            Way::Names | Way::Local => Ok(()),
        }
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
        let connect = |to| connect(program.as_raw_fd(), &SockaddrStorage::from(of_family(to, family)));
        match way {
            Way::Names => {
                connect(self.run.land.names(family))?;
                self.peers.remember(program, peers::ends(program)?, to)
            }
            _ if self.run.land.is_island() && !is_own => self.connect_to_machine(program, family, to),
            _ => {
                self.peers.forget(program);
                connect(to)
            }
        }
    }

    /// Names are told of by themselves.
    fn note_here(&self, program: &OwnedFd, way: Way, to: SocketAddr, outcome: Result<(), Errno>) {
        if let (Ok((_, kind)), Way::Local) = (kind_of(program), way) {
            self.run.account.note(Deed::ConnectsHere(kind, to), outcome);
        }
    }

    fn connect_to_machine(&self, program: &OwnedFd, family: i32, to: SocketAddr) -> Result<(), Errno> {
        let service = relay::connect(to).map_err(|error| errno(&error))?;
        let (far, ends) = self.run.land.meeting().far_end(program, family, to)?;
        self.peers.remember(program, ends, to)?;
        relay::carry(&self.run.runtime, far, service).map_err(|error| errno(&error))
    }

    fn disconnect(&self, program: &OwnedFd) -> Outcome {
        self.connections.forget(program);
        raw::disconnect(program.as_fd())?;
        Ok(Answer::Done)
    }

    fn listen(&self, program: &OwnedFd, backlog: i32) -> Outcome {
        self.is_of_run(program, None)?;
        if kind_of(program).is_ok() && self.run.land.is_ours(local_address(program)?) {
            return Err(Errno::EADDRINUSE);
        }
        if !self.run.land.is_island() && kind_of(program).is_ok() {
            // An address with a scope takes a socket to the interface that it names.
            let device = socket2::SockRef::from(program).device().map_err(|error| errno(&error))?;
            if device.as_deref().map(<[u8]>::trim_ascii_end) != Some(b"lo") {
                return Err(Errno::EADDRNOTAVAIL);
            }
            lock(&self.own_listeners).insert(fstat(program)?.st_ino);
        }
        let listens =
            listen(program, Backlog::new(backlog.clamp(0, libc::SOMAXCONN)).unwrap_or(Backlog::MAXCONN));
        if let Ok((_, kind)) = kind_of(program)
            && let Ok(place) = local_address(program)
        {
            self.run.account.note(Deed::Listens(kind, place.port()), listens);
        }
        listens?;
        // It may have been bound while it began to listen.
        if kind_of(program).is_ok() && self.run.land.is_ours(local_address(program)?) {
            disconnect(program);
            return Err(Errno::EADDRINUSE);
        }
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
        let real = raw::peer_name(program.as_fd())?;
        Ok(Answer::Bytes(match self.peers.of(program) {
            Some(peer) => address_bytes(kind_of(program)?.0, peer),
            None => real,
        }))
    }

    fn error(&self, program: &OwnedFd) -> Outcome {
        Ok(Answer::Bytes(self.connections.error(program)?.to_ne_bytes().to_vec()))
    }

    fn way(&self, to: SocketAddr, is_own: bool) -> Result<Way, Errno> {
        way(to, self.run.rules, is_own).map_err(|refusal| self.refuse(refusal, Some(to)))
    }

    /// A socket that somebody else has handed over could lead anywhere.
    fn is_of_run(&self, socket: &OwnedFd, to: Option<SocketAddr>) -> Result<(), Errno> {
        if self.run.land.holds(socket)? { Ok(()) } else { Err(self.refuse(Refusal::HANDED_OVER, to)) }
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

    /// Refuses a call of a thread whose descriptors and memory the kernel does not let us see.
    pub(super) fn refuse_hidden(&self, thread: i32) -> Errno {
        if !self.has_told_of_hidden.swap(true, Ordering::Relaxed) {
            let name = fs::read_to_string(format!("/proc/{thread}/comm")).unwrap_or_default();
            eprintln!(
                "phantom: {} lets no other program of its user look into it (by PR_SET_DUMPABLE, or as its file may not be read), \
                 so what it connects and serves is refused. Without the seal it can be held: phantom run --preload-only -- ...",
                name.trim_end().escape_default()
            );
        }
        self.refuse(Refusal::HIDDEN, None)
    }

    fn refuse(&self, refusal: Refusal, to: Option<SocketAddr>) -> Errno {
        let errno = Errno::from_raw(refusal.errno.0.into());
        self.run.account.note(Deed::IsRefused(refusal.why, to), Err(errno));
        errno
    }
}

/// Lets a call return when our descriptor of its socket is gone: what the program closes then, it closes for good.
fn answer_without(reply: Reply, socket: OwnedFd, outcome: impl FnOnce(&OwnedFd) -> Outcome) {
    let outcome = outcome(&socket);
    drop(socket);
    reply.answer(outcome);
}

/// Connects datagrams. A port that the kernel chooses for it now is to be nobody else's, though the socket has leave to share one
/// with a party's end.
fn connect_with_own_port(program: &OwnedFd, to: SocketAddr) -> Result<(), Errno> {
    let to = SockaddrStorage::from(to);
    if local_address(program)?.port() != 0 {
        return connect(program.as_raw_fd(), &to);
    }
    let known = socket2::SockRef::from(program);
    known.set_reuse_address(false).map_err(|error| errno(&error))?;
    let connected = connect(program.as_raw_fd(), &to);
    known.set_reuse_address(true).map_err(|error| errno(&error))?;
    connected
}

/// Family and kind of a socket; anything else is of no concern to us, and no socket of the Internet.
fn kind_of(program: &OwnedFd) -> Result<(i32, Kind), Errno> {
    let socket = socket2::SockRef::from(program);
    let domain = socket.domain().map_err(|error| errno(&error))?;
    let kind = socket.r#type().map_err(|error| errno(&error))?;
    match (i32::from(domain), kind) {
        (family @ (socket::INET | socket::INET6), socket2::Type::STREAM) => Ok((family, Kind::Stream)),
        (family @ (socket::INET | socket::INET6), socket2::Type::DGRAM) => Ok((family, Kind::Datagram)),
        _ => Err(Errno::EINVAL),
    }
}

fn is_nonblocking(socket: &OwnedFd) -> Result<bool, Errno> {
    let flags = fcntl(socket, FcntlArg::F_GETFL)?;
    Ok(OFlag::from_bits_truncate(flags).contains(OFlag::O_NONBLOCK))
}
