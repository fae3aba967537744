//! A network namespace of the run's own, in which nothing is but a loopback device. Whatever a program does with a socket
//! that was made there, nothing of it leaves: there is no other interface, and no filter has to see into messages.
//!
//! The program itself stays where it is, with its files, its user and its UNIX sockets; its sockets come from there. The
//! namespace belongs to a [`helper`](super::helper), which makes them. It needs no privileges where the system lets users
//! make namespaces.
#![allow(unsafe_code)] // a child between fork and exec, which says why it is sound

use std::{
    collections::{HashMap, VecDeque},
    fs,
    io::{self, ErrorKind, Write},
    net::{Ipv6Addr, TcpListener},
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::CommandExt},
    },
    process::{Child, Command, Stdio},
    sync::Mutex,
};

use nix::{
    errno::Errno,
    sched::{CloneFlags, unshare},
    unistd::{getgid, getuid},
};

use super::{
    errno,
    flows::Captured,
    helper::{HELPER, OWN_ALIAS, Request},
    lock,
    quiet::Parts,
};
use crate::frames::receive;

/// Sockets that are made at once, so that few programs have to wait for the helper.
const BATCH: u8 = 16;

/// A namespace with its helper, which ends with this.
#[derive(Debug)]
pub(super) struct Island {
    helper: Mutex<Helper>,
    child: Child,
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
    pub(super) meeting: (TcpListener, Option<TcpListener>),
    pub(super) quiet: (Parts, Option<Parts>),
    /// Name servers, over TCP.
    pub(super) names: (TcpListener, Option<TcpListener>),
    /// Name servers, over UDP.
    pub(super) datagrams: Vec<OwnedFd>,
    /// What sees all packets.
    pub(super) captured: Vec<Captured>,
}

impl Island {
    /// Makes one, in which the run has this address.
    pub(super) fn new(own: Ipv6Addr) -> io::Result<(Island, Ports)> {
        let (mut run, theirs) = UnixStream::pair()?;
        let mut command = Command::new("/proc/self/exe");
        // In a group of its own: what a terminal says to the program (Ctrl-C) is not said to the helper.
        command.arg(HELPER).stdin(Stdio::from(OwnedFd::from(theirs))).process_group(0);
        let maps = [
            ("/proc/self/setgroups", "deny".to_owned()),
            ("/proc/self/uid_map", format!("0 {} 1", getuid())),
            ("/proc/self/gid_map", format!("0 {} 1", getgid())),
        ];
        let move_out = move || {
            unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)?;
            maps.iter().try_for_each(|(file, map)| fs::write(file, map))
        };
        // SAFETY: between fork and exec the closure makes system calls on what was prepared before; paths are short enough to
        // be handed to the kernel without an allocation.
        unsafe { command.pre_exec(move_out) };
        let child = command.spawn()?;
        drop(command);
        let prepared = run.write_all(&own.octets()).and_then(|()| ports(&run, own));
        let helper = Mutex::new(Helper { conversation: run, ready: HashMap::new() });
        // From now on the helper is not forgotten, whatever went wrong.
        let island = Island { helper, child };
        Ok((island, prepared?))
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
        self.child.id()
    }
}

impl Helper {
    fn ask(&mut self, request: Request) -> io::Result<VecDeque<OwnedFd>> {
        self.conversation.write_all(&request.encode())?;
        answer(&self.conversation)
    }
}

/// An error number, 0 for none, and the sockets.
fn answer(helper: &UnixStream) -> io::Result<VecDeque<OwnedFd>> {
    let (mut error, mut sockets) = ([0], VecDeque::new());
    match (receive(helper, &mut error, &mut sockets)?, error) {
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
        let (datagrams, packets) = (next()?, next()?);
        let quiet = Parts { listener: TcpListener::from(next()?), packets: Some(next()?) };
        Ok((meeting, names, datagrams, packets, quiet))
    };
    let (meeting, names, datagrams, packets, quiet) = of_one_family()?;
    let mut ports = Ports {
        meeting: (meeting, None),
        quiet: (quiet, None),
        names: (names, None),
        datagrams: vec![datagrams],
        captured: vec![Captured { packets, own: OWN_ALIAS.into() }],
    };
    match of_one_family() {
        Ok((meeting, names, datagrams, packets, quiet)) => {
            ports.meeting.1 = Some(meeting);
            ports.quiet.1 = Some(quiet);
            ports.names.1 = Some(names);
            ports.datagrams.push(datagrams);
            ports.captured.push(Captured { packets, own: own.into() });
        }
        // This machine has no IPv6.
        Err(error) if error.raw_os_error().is_some() => {}
        Err(error) => return Err(error),
    }
    Ok(ports)
}

impl Drop for Island {
    fn drop(&mut self) {
        let _has_ended = self.child.kill();
        let _has_ended = self.child.wait();
    }
}
