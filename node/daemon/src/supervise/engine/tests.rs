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
                        let far = outcome.is_ok().then(|| TcpStream::from(descriptors.pop_front().unwrap()));
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
fn whose_socket_is_shut_down_waits_no_longer() {
    let world = world(false);
    let socket = world.socket(libc::SOCK_STREAM);
    let returned = world.connect(&socket, PARTY);
    let opened = world.opened();
    nix::sys::socket::shutdown(socket.as_raw_fd(), nix::sys::socket::Shutdown::Both).unwrap();
    assert_eq!(returned.errno(), Some(Errno::ECONNRESET), "as without the seal");
    assert!(world.accept_one(opened).is_none());
}

#[test]
fn whose_kernel_has_no_more_patience_waits_no_longer_and_may_try_again() {
    let world = world(false);
    let socket = world.socket(libc::SOCK_STREAM);
    SockRef::from(&socket).set_tcp_user_timeout(Some(Duration::from_millis(1))).unwrap();
    let returned = world.connect(&socket, PARTY);
    let given_up = world.opened();
    assert_eq!(returned.errno(), Some(Errno::ETIMEDOUT));
    SockRef::from(&socket).set_tcp_user_timeout(None).unwrap();
    let returned = world.connect(&socket, "127.192.0.8:81");
    let opened = world.opened();
    world.say(FromNode::Verdict { id: given_up, outcome: Err(Told::ECONNREFUSED) });
    let _far = world.accept_one(opened).unwrap();
    assert_eq!(returned.errno(), None);
    assert_eq!(world.peer(&socket), Ok("127.192.0.8:81".parse().unwrap()));
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
            let undo = Call::Connect { socket: socket.try_clone().unwrap(), to: Given::Nothing, thread: 0 };
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
