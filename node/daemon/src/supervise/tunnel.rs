//! A program's own socket is connected to the node's door, and the true peer is written into it.

use std::{
    collections::HashMap,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use super::listeners;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, SockaddrStorage, connect, recv, send, sockopt},
};
use phantom_policy::{
    door::{Ask, Opening, TOKEN, WORD, Word},
    mark::{self, Instruction, Mark},
};

/// Where a run comes in to the node.
#[derive(Clone, Copy, Debug)]
pub struct Door {
    /// Where it is, over IPv4; over IPv6 it has the same port of `::1`.
    pub address: SocketAddr,
    /// What admits the run.
    pub token: [u8; TOKEN],
    /// As whom the node runs. When it has ended, somebody else may listen there.
    pub user: u32,
}

/// The node takes a connection on this machine at once, if it lives.
const AT_ONCE: Duration = Duration::from_secs(5);
/// Outcomes that are remembered for programs to ask for.
const WAITING: usize = 4_096;
/// What is sent so that a socket is not writable.
static PADDING: [u8; 1 << 16] = [0; 1 << 16];

/// The tunnelled sockets of a run, and the way to ask the node about them.
#[derive(Debug)]
pub(super) struct Tunnels {
    door: Door,
    control: Mutex<Option<TcpStream>>,
    /// By the kernel's number of the socket: where the node sees it come from. Those whose outcome the program has not seen.
    waiting: Mutex<HashMap<u64, SocketAddr>>,
}

impl Tunnels {
    pub(super) fn new(door: Door) -> Tunnels {
        Tunnels { door, control: Mutex::default(), waiting: Mutex::default() }
    }

    /// Connects a program's socket to a party. Returns when the party has accepted or not; for a socket that does not wait,
    /// when it has begun, with `EINPROGRESS`.
    pub(super) fn connect(&self, program: &OwnedFd, family: i32, to: SocketAddr) -> Result<(), Errno> {
        let waits = !is_nonblocking(program)?;
        self.reach_door(program, family)?;
        let connected = if waits { self.open(program, to) } else { self.open_padded(program, to) };
        match connected {
            Ok(()) | Err(Errno::EINPROGRESS) => {
                write_mark(program, Mark { peer: to })?;
                connected
            }
            Err(errno) => {
                disconnect(program);
                Err(errno)
            }
        }
    }

    fn reach_door(&self, program: &OwnedFd, family: i32) -> Result<(), Errno> {
        let door = match family {
            libc::AF_INET => self.door.address,
            _ => SocketAddr::new(std::net::Ipv6Addr::LOCALHOST.into(), self.door.address.port()),
        };
        match connect(program.as_raw_fd(), &SockaddrStorage::from(door)) {
            Ok(()) => {}
            Err(Errno::EINPROGRESS) => {
                wait_for(program, PollFlags::POLLOUT)?;
                if error_of(program)? != 0 {
                    return Err(Errno::ENETUNREACH);
                }
            }
            // The node is gone: there is no network any more.
            Err(Errno::ECONNREFUSED) => return Err(Errno::ENETUNREACH),
            Err(errno) => return Err(errno),
        }
        if is_of(self.door.user, door) { Ok(()) } else { Err(Errno::ENETUNREACH) }
    }

    fn open(&self, program: &OwnedFd, to: SocketAddr) -> Result<(), Errno> {
        self.introduce(program, Ask::Carry(to))?;
        let mut verdict = [0];
        loop {
            wait_forever(program, PollFlags::POLLIN)?;
            match recv(program.as_raw_fd(), &mut verdict, MsgFlags::MSG_DONTWAIT) {
                Ok(1) if verdict == [0] => return Ok(()),
                Ok(1) => return Err(Errno::from_raw(verdict[0].into())),
                Ok(_) | Err(Errno::ECONNRESET) => return Err(Errno::ENETUNREACH),
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Fills the socket, so that it becomes writable only when the node reads on.
    fn open_padded(&self, program: &OwnedFd, to: SocketAddr) -> Result<(), Errno> {
        only_when_all_has_left(program, true)?;
        self.introduce(program, Ask::CarryPadded(to))?;
        let mut padding = 0;
        loop {
            match send(program.as_raw_fd(), &PADDING, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
                Ok(sent) => padding += sent as u64,
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => {}
                Err(_) => return Err(Errno::ENETUNREACH),
            }
        }
        let from = local_address(program)?;
        let mut waiting = self.lock_waiting();
        if waiting.len() >= WAITING {
            // Of programs that never ask for an outcome; whoever still does gets the kernel's answer.
            waiting.clear();
        }
        waiting.insert(cookie(program)?, from);
        drop(waiting);
        match self.say(Word::Padded(from, padding)) {
            Ok(0) => Err(Errno::EINPROGRESS),
            Ok(errno) => Err(Errno::from_raw(errno.into())),
            Err(_) => Err(Errno::ENETUNREACH),
        }
    }

    fn introduce(&self, program: &OwnedFd, ask: Ask) -> Result<(), Errno> {
        let opening = Opening { token: self.door.token, ask }.encode();
        let sent = send(program.as_raw_fd(), &opening, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
        if sent == Ok(opening.len()) { Ok(()) } else { Err(Errno::ENETUNREACH) }
    }

    /// What a socket's error is really, if the kernel says `error`.
    pub(super) fn true_error(&self, program: &OwnedFd, error: i32) -> i32 {
        let Ok(cookie) = cookie(program) else { return error };
        let from = self.lock_waiting().get(&cookie).copied();
        let Some(from) = from else { return error };
        if error == 0 {
            if is_writable(program) {
                self.lock_waiting().remove(&cookie);
                let _only_slower_else = only_when_all_has_left(program, false);
            }
            return 0;
        }
        self.lock_waiting().remove(&cookie);
        match self.say(Word::Why(from)) {
            Ok(0) | Err(_) => error,
            Ok(errno) => errno.into(),
        }
    }

    /// Whether a connect that does not wait is still under way.
    pub(super) fn is_under_way(&self, program: &OwnedFd) -> bool {
        let waiting = cookie(program).is_ok_and(|cookie| self.lock_waiting().contains_key(&cookie));
        waiting && !is_writable(program)
    }

    /// Says a word on the control connection, which is made when it is needed, and again if it was lost.
    fn say(&self, word: Word) -> io::Result<u8> {
        let mut control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answer) = control.as_mut().and_then(|control| say(control, word).ok()) {
            return Ok(answer);
        }
        let fresh = TcpStream::connect_timeout(&self.door.address, AT_ONCE)?;
        if !is_of(self.door.user, self.door.address) {
            return Err(io::Error::from(io::ErrorKind::ConnectionRefused));
        }
        fresh.set_nodelay(true)?;
        fresh.set_read_timeout(Some(AT_ONCE))?;
        let control = control.insert(fresh);
        control.write_all(&Opening { token: self.door.token, ask: Ask::Control }.encode())?;
        say(control, word)
    }

    fn lock_waiting(&self) -> std::sync::MutexGuard<'_, HashMap<u64, SocketAddr>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether nobody but this user listens there. Asked when a connection stands, so that it is who has taken it.
fn is_of(user: u32, door: SocketAddr) -> bool {
    let found = listeners::at(door).unwrap_or_default();
    !found.is_empty() && found.iter().all(|listener| listener.user == user)
}

fn say(control: &mut TcpStream, word: Word) -> io::Result<u8> {
    let bytes: [u8; WORD] = word.encode();
    control.write_all(&bytes)?;
    let mut answer = [0];
    control.read_exact(&mut answer)?;
    Ok(answer[0])
}

fn is_nonblocking(socket: &OwnedFd) -> Result<bool, Errno> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = fcntl(socket, FcntlArg::F_GETFL)?;
    Ok(OFlag::from_bits_truncate(flags).contains(OFlag::O_NONBLOCK))
}

/// Whether the socket is writable only when everything has left for the other side.
fn only_when_all_has_left(socket: &OwnedFd, so: bool) -> Result<(), Errno> {
    let set = socket2::SockRef::from(socket).set_tcp_notsent_lowat(so.into());
    set.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EBADF)))
}

fn is_writable(socket: &OwnedFd) -> bool {
    let mut asked = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
    poll(&mut asked, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

fn wait_for(socket: &OwnedFd, event: PollFlags) -> Result<(), Errno> {
    let patience = PollTimeout::try_from(AT_ONCE).unwrap_or(PollTimeout::MAX);
    match wait(socket.as_fd(), event, patience) {
        Ok(0) => Err(Errno::ENETUNREACH),
        Ok(_) => Ok(()),
        Err(errno) => Err(errno),
    }
}

fn wait_forever(socket: &OwnedFd, event: PollFlags) -> Result<(), Errno> {
    wait(socket.as_fd(), event, PollTimeout::NONE).map(drop)
}

fn wait(socket: BorrowedFd<'_>, event: PollFlags, patience: PollTimeout) -> Result<i32, Errno> {
    loop {
        match poll(&mut [PollFd::new(socket, event)], patience) {
            Err(Errno::EINTR) => {}
            decided => return decided,
        }
    }
}

/// The kernel's error of a socket, which is forgotten by that.
pub(super) fn error_of(socket: &OwnedFd) -> Result<i32, Errno> {
    nix::sys::socket::getsockopt(socket, sockopt::SocketError)
}

fn local_address(socket: &OwnedFd) -> Result<SocketAddr, Errno> {
    let socket = socket2::SockRef::from(socket);
    let address = socket.local_addr().ok().and_then(|address| address.as_socket());
    address
        .map(|address| SocketAddr::new(address.ip().to_canonical(), address.port()))
        .ok_or(Errno::ENETUNREACH)
}

/// The kernel's number of a socket, which no other one ever has.
fn cookie(socket: &OwnedFd) -> Result<u64, Errno> {
    socket2::SockRef::from(socket)
        .cookie()
        .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EBADF)))
}

/// Makes it as if it had not been connected.
fn disconnect(socket: &OwnedFd) {
    let _as_good_as = super::raw::disconnect(socket.as_fd());
    let _forgotten = error_of(socket);
}

/// Who a socket's peer is, as its program said.
pub(super) fn read_mark(socket: &OwnedFd) -> Option<Mark> {
    let mut program = [Instruction::default(); mark::LENGTH];
    super::raw::read_filter(socket.as_fd(), &mut program).then(|| Mark::decode(&program))?
}

pub(super) fn write_mark(socket: &OwnedFd, mark: Mark) -> Result<(), Errno> {
    super::raw::attach_filter(socket.as_fd(), &mark.encode())
}
