//! A network namespace of the run's own, from which no interface leads out: a loopback device and, where the kernel makes them,
//! a pair of interfaces that lead to each other alone ([`presence`](super::presence)). Whatever a program does with a socket
//! that was made there, nothing of it leaves, and no filter has to see into messages.
//!
//! The program itself stays where it is, with its files, its user and its UNIX sockets; its sockets come from there. The
//! namespace belongs to a [`helper`](super::helper), which makes them. It needs no privileges where the system lets users
//! make namespaces.
#![allow(unsafe_code)] // a fork, which says why it is sound

use std::{
    collections::{HashMap, VecDeque},
    fs,
    io::{self, ErrorKind, Read, Write},
    net::{Ipv6Addr, TcpListener},
    os::{fd::OwnedFd, unix::net::UnixStream},
    sync::Mutex,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::{
        signal::{Signal, kill},
        wait::waitpid,
    },
    unistd::{ForkResult, Pid, fork},
};

use super::{
    errno,
    families::Families,
    flows::Captured,
    helper::{OWN_ALIAS, Request, help},
    lock,
    quiet::{Packets, Parts},
};
use crate::frames::receive;

/// A helper that says nothing for so long is as good as gone.
const PATIENCE: Duration = Duration::from_secs(10);
/// Sockets that are made at once, so that few programs have to wait for the helper.
const BATCH: u8 = 16;

/// An island that is being prepared, by a process of its own.
#[derive(Debug)]
pub struct Begun {
    conversation: UnixStream,
    process: HelperProcess,
}

/// A namespace with its helper, which ends with this.
#[derive(Debug)]
pub(super) struct Island {
    helper: Mutex<Helper>,
    process: HelperProcess,
}

#[derive(Debug)]
struct Helper {
    conversation: UnixStream,
    /// Sockets that nobody has asked for yet, by family, kind and protocol.
    ready: HashMap<(i32, i32, i32), VecDeque<OwnedFd>>,
}

/// Sockets of ours in there.
#[derive(Debug)]
pub(super) struct Ports {
    pub(super) meeting: Families<TcpListener>,
    pub(super) quiet: Families<Parts>,
    /// Name servers, over TCP.
    pub(super) names: Families<TcpListener>,
    /// Name servers, over UDP.
    pub(super) datagrams: Vec<OwnedFd>,
    /// What sees all packets.
    pub(super) captured: Vec<Captured>,
}

impl Begun {
    /// Begins, while there is one thread only: the helper is a copy of this process, which takes a fraction of the time that a
    /// program takes to start.
    pub fn fork() -> io::Result<Begun> {
        if fs::read_dir("/proc/self/task")?.count() != 1 {
            return Err(io::Error::other("there are threads already"));
        }
        let (conversation, theirs) = UnixStream::pair()?;
        conversation.set_read_timeout(Some(PATIENCE))?;
        // SAFETY: there is no other thread, which could hold a lock, so the copy may do whatever this process may.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => Ok(Begun { conversation, process: HelperProcess(child) }),
            ForkResult::Child => {
                drop(conversation);
                help(theirs)
            }
        }
    }

    /// The process that lives there.
    pub fn helper(&self) -> Pid {
        self.process.0
    }

    /// Waits until the namespace is there.
    pub fn settled(self) -> io::Result<Begun> {
        answer(&self.conversation)?;
        Ok(self)
    }
}

impl Island {
    /// Waits until it is prepared. In it, the run has this address.
    pub(super) fn new(begun: Begun, own: Ipv6Addr) -> io::Result<(Island, Ports)> {
        let Begun { mut conversation, process } = begun;
        conversation.write_all(&own.octets())?;
        let ports = ports(&conversation, own)?;
        let helper = Mutex::new(Helper { conversation, ready: HashMap::new() });
        Ok((Island { helper, process }, ports))
    }

    /// A socket that was made there.
    pub(super) fn socket(&self, family: i32, kind: i32, protocol: i32) -> Result<OwnedFd, Errno> {
        let mut helper = lock(&self.helper);
        let ready = helper.ready.get_mut(&(family, kind, protocol));
        if let Some(socket) = ready.and_then(VecDeque::pop_front) {
            return Ok(socket);
        }
        // Those of other kinds are seldom asked for.
        let count = if family == libc::AF_NETLINK { 1 } else { BATCH };
        let mut made =
            helper.ask(Request { family, kind, protocol, count }).map_err(|error| errno(&error))?;
        let socket = made.pop_front().ok_or(Errno::ENETDOWN)?;
        helper.ready.insert((family, kind, protocol), made);
        Ok(socket)
    }

    /// A process that lives there.
    pub(super) fn helper(&self) -> u32 {
        self.process.0.as_raw().cast_unsigned()
    }
}

impl Helper {
    fn ask(&mut self, request: Request) -> io::Result<VecDeque<OwnedFd>> {
        self.conversation.write_all(&request.encode())?;
        let made = answer(&self.conversation);
        // Then the helper has closed its own: what the program closes, it closes for good.
        self.conversation.read_exact(&mut [0])?;
        made
    }
}

/// An error number, 0 for none, and the sockets.
fn answer(helper: &UnixStream) -> io::Result<VecDeque<OwnedFd>> {
    let (mut error, mut sockets) = ([0], VecDeque::new());
    // The program may end meanwhile, which is told by a signal.
    let received = loop {
        match receive(helper, &mut error, &mut sockets) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            received => break received?,
        }
    };
    match (received, error) {
        (0, _) => Err(ErrorKind::UnexpectedEof.into()),
        (_, [0]) => Ok(sockets),
        (_, [error]) => Err(io::Error::from_raw_os_error(error.into())),
    }
}

fn ports(helper: &UnixStream, own: Ipv6Addr) -> io::Result<Ports> {
    let missing = || io::Error::from(ErrorKind::UnexpectedEof);
    let of_one_family = || -> io::Result<_> {
        let mut sockets = answer(helper)?;
        let mut next = || sockets.pop_front().ok_or_else(missing);
        let (meeting, names) = (TcpListener::from(next()?), TcpListener::from(next()?));
        let datagrams = next()?;
        let (listener, written, seen) = (TcpListener::from(next()?), next()?, next()?);
        let quiet = Parts { listener, packets: Some(Packets { seen, written }) };
        Ok((meeting, names, datagrams, next()?, quiet))
    };
    let (meeting, names, datagrams, packets, quiet) = of_one_family()?;
    let mut ports = Ports {
        meeting: Families { v4: meeting, v6: None },
        quiet: Families { v4: quiet, v6: None },
        names: Families { v4: names, v6: None },
        datagrams: vec![datagrams],
        captured: vec![Captured { packets, own: OWN_ALIAS.into() }],
    };
    match of_one_family() {
        Ok((meeting, names, datagrams, packets, quiet)) => {
            ports.meeting.v6 = Some(meeting);
            ports.quiet.v6 = Some(quiet);
            ports.names.v6 = Some(names);
            ports.datagrams.push(datagrams);
            ports.captured.push(Captured { packets, own: own.into() });
        }
        // This machine has no IPv6.
        Err(error) if error.raw_os_error().is_some() => {}
        Err(error) => return Err(error),
    }
    Ok(ports)
}

/// The helper's.
#[derive(Debug)]
struct HelperProcess(Pid);

impl Drop for HelperProcess {
    fn drop(&mut self) {
        let _has_ended = kill(self.0, Signal::SIGKILL);
        let _has_ended = waitpid(self.0, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_no_copy_of_a_process_that_has_threads() {
        let refused = std::thread::spawn(|| Begun::fork().map(drop)).join().unwrap();
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Other);
    }
}
