//! What becomes of a program's call, whichever way we are told of it.

use std::{
    collections::BTreeSet,
    fs, io,
    net::{Ipv4Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
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
    capture::Ends,
    connections::{Connections, disconnect},
    conversation::{Accepted, Conversation},
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

/// Longer than a socket is on its way before its kernel gives up.
const LONGEST_PATIENCE: Duration = Duration::from_secs(3_600);
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
        let flows = Flows::start(&run, guests.clone())?;
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

    /// Has the node carry a connection to a party, if the program's socket can set out. Whoever waits for it is told when there
    /// is a verdict.
    fn open(&self, program: &Arc<OwnedFd>, family: i32, circle: u64, to: SocketAddr, reply: Reply) {
        if let Some(errno) = self.connections.failure(program) {
            disconnect(program);
            return reply.answer(Err(errno));
        }
        let (waits, said) = match self.run.land.set_out(program, family, to) {
            Ok(said) => said,
            Err(errno) => return reply.answer(Err(errno)),
        };
        match said {
            Err(Errno::EINPROGRESS) => self.begin(program, family, circle, to, waits, reply),
            // It was interrupted, or another thread waits for it, too.
            Err(Errno::EALREADY) if waits => match self.connections.wait(program, reply) {
                Ok(()) => {
                    self.connections.watch();
                    self.limit(program);
                }
                Err(reply) => reply.answer(self.outcome(program, family, to)),
            },
            Err(errno) => reply.answer(Err(self.connections.why(program, errno))),
            Ok(()) => reply.answer(Ok(Answer::Done)),
        }
    }

    /// What came of a connection a moment ago.
    fn outcome(&self, program: &OwnedFd, family: i32, to: SocketAddr) -> Outcome {
        match self.run.land.set_out(program, family, to)? {
            // Somebody else has heard that it stands.
            (_, Ok(()) | Err(Errno::EISCONN)) => Ok(Answer::Done),
            (_, Err(errno)) => Err(self.connections.why(program, errno)),
        }
    }

    fn begin(
        &self,
        program: &Arc<OwnedFd>,
        family: i32,
        circle: u64,
        to: SocketAddr,
        waits: bool,
        reply: Reply,
    ) {
        let (waiting, told) = if waits { (Some(reply), None) } else { (None, Some(reply)) };
        let ends = self.run.land.ends(program, family, to);
        let begun = match ends.and_then(|ends| self.peers.remember(program, ends, to).map(|()| ends)) {
            Ok((own, _)) => self.connections.begin(program.clone(), own, waiting),
            Err(errno) => Err((errno, waiting)),
        };
        let attempt = match begun {
            Ok(attempt) => attempt,
            Err((errno, waiting)) => {
                self.run.account.note(Deed::Connects(Kind::Stream, to), Err(errno));
                disconnect(program);
                return waiting.into_iter().chain(told).for_each(|reply| reply.answer(Err(errno)));
            }
        };
        let (connections, land) = (self.connections.clone(), self.run.land.clone());
        let account = self.run.account.clone();
        let at_verdict = Box::new(move |verdict: Result<Accepted, Errno>| {
            account
                .note(Deed::Connects(Kind::Stream, to), verdict.as_ref().map(drop).map_err(|errno| *errno));
            match verdict {
                Ok(accepted) => accepted.joined(&connections.join(attempt, &land)),
                Err(errno) => connections.refuse(attempt, errno, &land),
            }
        });
        if let Err(errno) = self.run.conversation.open(circle, to, at_verdict) {
            self.run.account.note(Deed::Connects(Kind::Stream, to), Err(errno));
            self.connections.refuse(attempt, errno, &self.run.land);
        }
        match told {
            Some(reply) => reply.answer(Err(Errno::EINPROGRESS)),
            None => {
                self.connections.watch();
                self.limit(program);
            }
        }
    }

    /// A socket may have a time-out of its own for a connect that waits (`SO_SNDTIMEO`).
    fn limit(&self, program: &OwnedFd) {
        let patience = socket2::SockRef::from(program).write_timeout().ok().flatten();
        // The kernel itself is not so patient as some would be.
        let patience = patience.filter(|patience| *patience < LONGEST_PATIENCE);
        if let (Some(patience), Some(attempt)) = (patience, self.connections.attempt(program)) {
            let connections = self.connections.clone();
            self.deadlines.after(patience, move || connections.run_out(attempt));
        }
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
                let ends = Ends { program: local_address(program)?, party };
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
                connect(self.run.land.names(family).ok_or(Errno::ENETUNREACH)?)?;
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
        let (far, ends) = self.run.land.far_end(program, family, to)?;
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

#[cfg(test)]
mod tests {
    use std::{
        io::Read,
        net::{Ipv4Addr, TcpListener, TcpStream},
        os::unix::net::UnixStream,
        path::PathBuf,
        sync::mpsc::{Receiver, Sender, channel},
        thread,
        time::Duration,
    };

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use phantom_policy::{
        Errno as Told,
        connect::Rules,
        frame::{FromNode, FromRun},
    };
    use socket2::SockRef;

    use super::*;
    use crate::{
        frames::Incoming,
        supervise::{Conversation, Land, call::Caller},
    };

    /// A run of which the test is the node: what it is asked to open.
    struct World {
        engine: Arc<Engine>,
        opened: Receiver<u32>,
        /// The other ends of programs' sockets.
        joined: Receiver<Option<TcpStream>>,
        node: UnixStream,
        _runtime: tokio::runtime::Runtime,
    }

    fn world(allow_local: bool) -> World {
        let (run, node) = UnixStream::pair().unwrap();
        let (land, _names) = Land::loopback().unwrap();
        let again = Box::new(|| Err(io::ErrorKind::ConnectionRefused.into()));
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let run = Run {
            land: Arc::new(land),
            conversation: Arc::new(Conversation::new(run, again).unwrap()),
            rules: Rules { allow_local },
            open: crate::supervise::Open::These(std::collections::BTreeMap::new()),
            commands: Vec::<PathBuf>::new(),
            runtime: runtime.handle().clone(),
            circles: Arc::default(),
            account: Arc::default(),
        };
        let engine = Engine::new(run, Peers::known());
        let ((tell, opened), (tell_joined, joined)) = (channel(), channel());
        let hears = node.try_clone().unwrap();
        thread::spawn(move || {
            let mut incoming = Incoming::new();
            while incoming.fill(&hears).unwrap_or(false) {
                while let Some((frame, descriptors)) = incoming.next().unwrap() {
                    match FromRun::decode(frame).unwrap() {
                        FromRun::Open { id, .. } => _ = tell.send(id),
                        FromRun::Joined { outcome, .. } => {
                            let far =
                                outcome.is_ok().then(|| TcpStream::from(descriptors.pop_front().unwrap()));
                            let _test_has_ended = tell_joined.send(far);
                        }
                        other => panic!("{other:?}"),
                    }
                }
            }
        });
        World { engine: Arc::new(engine.unwrap()), opened, joined, node, _runtime: runtime }
    }

    impl World {
        /// What the party is asked for next.
        fn opened(&self) -> u32 {
            self.opened.recv_timeout(Duration::from_secs(5)).unwrap()
        }

        /// The party accepts the next connection. Returns the node's end of it.
        fn accept(&self) -> TcpStream {
            self.accept_one(self.opened()).unwrap()
        }

        fn accept_one(&self, id: u32) -> Option<TcpStream> {
            self.say(FromNode::Verdict { id, outcome: Ok(()) });
            self.joined.recv_timeout(Duration::from_secs(5)).unwrap()
        }

        fn refuse(&self) {
            let id = self.opened();
            self.say(FromNode::Verdict { id, outcome: Err(Told::ECONNREFUSED) });
        }

        fn say(&self, frame: FromNode<'_>) {
            use std::io::Write;
            (&self.node).write_all(frame.encode(&mut [0; 256]).unwrap()).unwrap();
        }

        /// Makes a call that may wait.
        fn call(&self, call: Call) -> Returned {
            let (told, outcome) = channel();
            let waits = Arc::new(AtomicBool::new(true));
            self.engine.handle(call, Reply::to(Waiting(told, waits.clone())));
            Returned(outcome, waits)
        }

        fn connect(&self, socket: &OwnedFd, to: &str) -> Returned {
            let (socket, to) = (socket.try_clone().unwrap(), Given::Internet(to.parse().unwrap()));
            self.call(Call::Connect { socket, to, thread: 0 })
        }

        fn error(&self, socket: &OwnedFd) -> i32 {
            let socket = socket.try_clone().unwrap();
            match self.call(Call::Error { socket }).outcome() {
                Ok(Answer::Bytes(bytes)) => i32::from_ne_bytes(bytes.try_into().unwrap()),
                other => panic!("{other:?}"),
            }
        }

        fn peer(&self, socket: &OwnedFd) -> Result<SocketAddr, Errno> {
            let socket = socket.try_clone().unwrap();
            self.call(Call::PeerName { socket }).outcome().map(|answer| match answer {
                Answer::Bytes(bytes) => match Given::parse(&bytes) {
                    Some(Given::Internet(peer)) => peer,
                    other => panic!("{other:?}"),
                },
                other => panic!("{other:?}"),
            })
        }

        fn socket(&self, kind: i32) -> OwnedFd {
            match self.call(Call::Socket { family: libc::AF_INET, kind, protocol: 0 }).outcome() {
                Ok(Answer::Socket { descriptor, .. }) => descriptor,
                other => panic!("{other:?}"),
            }
        }
    }

    struct Waiting(Sender<Outcome>, Arc<AtomicBool>);

    impl Caller for Waiting {
        fn waits(&self) -> bool {
            self.1.load(Ordering::Relaxed)
        }

        fn answer(self: Box<Self>, outcome: Outcome) {
            let _nobody_asks = self.0.send(outcome);
        }
    }

    /// Waits until a signal comes.
    struct Signalled(Sender<Outcome>, Arc<AtomicBool>);

    impl Caller for Signalled {
        fn waits(&self) -> bool {
            true
        }

        fn is_ours_to_interrupt(&self) -> bool {
            true
        }

        fn is_interrupted(&self) -> bool {
            self.1.load(Ordering::Relaxed)
        }

        fn answer(self: Box<Self>, outcome: Outcome) {
            let _nobody_asks = self.0.send(outcome);
        }
    }

    struct Returned(Receiver<Outcome>, Arc<AtomicBool>);

    impl Returned {
        fn outcome(&self) -> Outcome {
            self.0.recv_timeout(Duration::from_secs(5)).unwrap()
        }

        fn errno(&self) -> Option<Errno> {
            self.outcome().map(drop).err()
        }
    }

    /// Whether a socket is ready so soon; a socket with an error is.
    fn is_writable(socket: &OwnedFd, patience: PollTimeout) -> bool {
        poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)], patience).unwrap() > 0
    }

    const SOON: u16 = 5_000;
    const PARTY: &str = "127.192.0.7:80";

    #[test]
    fn a_connect_that_waits_returns_when_the_party_has_accepted_or_refused() {
        let world = world(false);
        let socket = world.socket(libc::SOCK_STREAM);
        let returned = world.connect(&socket, PARTY);
        world.refuse();
        assert_eq!(returned.errno(), Some(Errno::ECONNREFUSED));
        assert_eq!(world.error(&socket), 0, "it has been told");
        let returned = world.connect(&socket, PARTY);
        let mut far = world.accept();
        assert_eq!(returned.errno(), None);
        assert_eq!(world.peer(&socket), Ok(PARTY.parse().unwrap()));
        assert_eq!(world.connect(&socket, PARTY).errno(), Some(Errno::EISCONN));
        nix::unistd::write(&socket, b"said").unwrap();
        let mut heard = [0; 4];
        far.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"said");
    }

    #[test]
    fn a_connect_that_does_not_wait_looks_as_it_is_at_any_time() {
        let world = world(false);
        let socket = world.socket(libc::SOCK_STREAM | libc::SOCK_NONBLOCK);
        assert_eq!(world.connect(&socket, PARTY).errno(), Some(Errno::EINPROGRESS));
        assert_eq!(world.connect(&socket, PARTY).errno(), Some(Errno::EALREADY));
        assert!(!is_writable(&socket, PollTimeout::ZERO));
        assert_eq!((world.error(&socket), world.peer(&socket)), (0, Err(Errno::ENOTCONN)));
        let _far = world.accept();
        assert!(is_writable(&socket, SOON.into()));
        assert_eq!((world.error(&socket), world.peer(&socket)), (0, Ok(PARTY.parse().unwrap())));
        assert_eq!(world.connect(&socket, PARTY).errno(), None, "once");
        assert_eq!(world.connect(&socket, PARTY).errno(), Some(Errno::EISCONN));
    }

    #[test]
    fn why_a_connect_failed_that_nobody_waited_for_is_told_once_by_the_socket_or_the_next_connect() {
        let world = world(false);
        for by_connect in [false, true] {
            let socket = world.socket(libc::SOCK_STREAM | libc::SOCK_NONBLOCK);
            assert_eq!(world.connect(&socket, PARTY).errno(), Some(Errno::EINPROGRESS));
            world.refuse();
            assert!(is_writable(&socket, SOON.into()));
            if by_connect {
                assert_eq!(world.connect(&socket, PARTY).errno(), Some(Errno::ECONNREFUSED));
            } else {
                assert_eq!(world.error(&socket), Errno::ECONNREFUSED as i32);
            }
            assert_eq!(world.error(&socket), 0);
            assert_eq!(world.peer(&socket), Err(Errno::ENOTCONN));
        }
    }

    #[test]
    fn a_connect_that_was_interrupted_or_timed_out_goes_on() {
        let world = world(false);
        let socket = world.socket(libc::SOCK_STREAM);
        let interrupted = world.connect(&socket, PARTY);
        interrupted.1.store(false, Ordering::Relaxed);
        let again = world.connect(&socket, PARTY);
        let _far = world.accept();
        assert_eq!(again.errno(), None);
        // Nobody begins it again: then the socket tells.
        let socket = world.socket(libc::SOCK_STREAM);
        world.connect(&socket, PARTY).1.store(false, Ordering::Relaxed);
        world.refuse();
        assert!(is_writable(&socket, SOON.into()));
        assert_eq!(world.error(&socket), Errno::ECONNREFUSED as i32);
        let socket = world.socket(libc::SOCK_STREAM);
        SockRef::from(&socket).set_write_timeout(Some(Duration::from_millis(20))).unwrap();
        assert_eq!(world.connect(&socket, PARTY).errno(), Some(Errno::EINPROGRESS));
        assert!(!is_writable(&socket, PollTimeout::ZERO));
        let _far = world.accept();
        assert!(is_writable(&socket, SOON.into()));
        assert_eq!(world.connect(&socket, PARTY).errno(), None);
    }

    #[test]
    fn whom_a_signal_interrupts_leaves_a_socket_that_tells_the_truth() {
        let world = world(false);
        for accepts in [true, false] {
            let socket = world.socket(libc::SOCK_STREAM);
            let (told, outcome) = channel();
            let ours = socket.try_clone().unwrap();
            let call = Call::Connect { socket: ours, to: Given::Internet(PARTY.parse().unwrap()), thread: 0 };
            let signal = Arc::new(AtomicBool::new(false));
            world.engine.handle(call, Reply::to(Signalled(told, signal.clone())));
            let id = world.opened();
            assert_eq!(world.peer(&socket), Err(Errno::ENOTCONN));
            signal.store(true, Ordering::Relaxed);
            assert!(matches!(outcome.recv_timeout(Duration::from_secs(5)).unwrap(), Ok(Answer::Interrupted)));
            assert!(!is_writable(&socket, PollTimeout::ZERO));
            assert_eq!((world.error(&socket), world.peer(&socket)), (0, Err(Errno::ENOTCONN)));
            if accepts {
                let _far = world.accept_one(id).unwrap();
                assert!(is_writable(&socket, SOON.into()));
                assert_eq!(world.error(&socket), 0);
            } else {
                world.say(FromNode::Verdict { id, outcome: Err(Told::ETIMEDOUT) });
                assert!(is_writable(&socket, SOON.into()));
                assert_eq!(world.error(&socket), Errno::ETIMEDOUT as i32);
            }
        }
    }

    #[test]
    fn whoever_waits_for_one_socket_is_told_the_same() {
        let world = world(false);
        let socket = world.socket(libc::SOCK_STREAM);
        let first = world.connect(&socket, PARTY);
        let id = world.opened();
        let second = world.connect(&socket, PARTY);
        let _far = world.accept_one(id).unwrap();
        assert_eq!((first.errno(), second.errno()), (None, None));
        assert!(!is_nonblocking(&socket).unwrap());
    }

    #[test]
    fn a_party_that_accepts_what_was_given_up_meets_no_later_connection_of_the_socket() {
        let world = world(false);
        let socket = world.socket(libc::SOCK_STREAM | libc::SOCK_NONBLOCK);
        SockRef::from(&socket).bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        for by_shutdown in [true, false] {
            assert_eq!(world.connect(&socket, PARTY).errno(), Some(Errno::EINPROGRESS));
            let given_up = world.opened();
            if by_shutdown {
                nix::sys::socket::shutdown(socket.as_raw_fd(), nix::sys::socket::Shutdown::Both).unwrap();
            } else {
                let undo =
                    Call::Connect { socket: socket.try_clone().unwrap(), to: Given::Nothing, thread: 0 };
                assert_eq!(world.call(undo).errno(), None);
            }
            assert_eq!(world.error(&socket), Errno::ECONNRESET as i32);
            assert_eq!(world.connect(&socket, "127.192.0.8:81").errno(), Some(Errno::EINPROGRESS));
            assert!(world.accept_one(given_up).is_none());
            assert!(!is_writable(&socket, PollTimeout::ZERO));
            let _far = world.accept();
            assert_eq!(world.peer(&socket), Ok("127.192.0.8:81".parse().unwrap()));
            raw::disconnect(socket.as_fd()).unwrap();
        }
    }

    #[test]
    fn a_socket_that_is_disconnected_forgets_where_it_led() {
        let world = world(false);
        let socket = world.socket(libc::SOCK_STREAM);
        let waiting = world.connect(&socket, PARTY);
        let undo = || Call::Connect { socket: socket.try_clone().unwrap(), to: Given::Nothing, thread: 0 };
        assert_eq!(world.call(undo()).errno(), None);
        assert_eq!(waiting.errno(), Some(Errno::ECONNABORTED));
        let _given_up = world.opened();
        let returned = world.connect(&socket, "127.192.0.8:81");
        let _far = world.accept();
        assert_eq!(returned.errno(), None);
        assert_eq!(world.peer(&socket), Ok("127.192.0.8:81".parse().unwrap()));
        assert_eq!(world.call(undo()).errno(), None);
        assert_eq!(world.peer(&socket), Err(Errno::ENOTCONN));
    }

    #[test]
    fn beside_others_a_run_reaches_its_own_servers_and_theirs_if_it_may() {
        let theirs = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let their_place = theirs.local_addr().unwrap().to_string();
        for may in [false, true] {
            let world = world(may);
            let refused = world.connect(&world.socket(libc::SOCK_STREAM), &their_place).errno();
            assert_eq!(refused, (!may).then_some(Errno::ECONNREFUSED));
            let own = world.socket(libc::SOCK_STREAM);
            SockRef::from(&own).bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
            let place = local_address(&own).unwrap().to_string();
            assert_eq!(world.call(Call::Listen { socket: own, backlog: 5 }).errno(), None);
            let own = world.socket(libc::SOCK_STREAM);
            // The listener has been closed with its last descriptor.
            assert_eq!(world.connect(&own, &place).errno(), Some(Errno::ECONNREFUSED));
        }
        let world = world(false);
        let own = world.socket(libc::SOCK_STREAM);
        SockRef::from(&own).bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        let place = local_address(&own).unwrap().to_string();
        let listening = Call::Listen { socket: own.try_clone().unwrap(), backlog: 5 };
        assert_eq!(world.call(listening).errno(), None);
        assert_eq!(world.connect(&world.socket(libc::SOCK_STREAM), &place).errno(), None);
        for nowhere in ["93.184.216.34:80", "10.0.0.1:80"] {
            let refused = world.connect(&world.socket(libc::SOCK_STREAM), nowhere).errno();
            assert_eq!(refused, Some(Errno::ENETUNREACH));
        }
    }
}
