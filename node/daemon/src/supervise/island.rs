//! Where a program's datagram sockets live: a network namespace of the run's own, in which nothing is but a loopback device
//! that takes every address for its own.
//!
//! Binding a socket to the loopback interface keeps TCP on this machine, but not UDP over IPv4: a message may name another
//! interface (`IP_PKTINFO`), and the kernel believes it. A filter cannot see into messages. So these sockets are made where
//! there is no other interface. Whichever name server a program asks, it asks ours: all addresses are there.
//!
//! The namespace belongs to a helper, which makes a socket there whenever it is asked, and hands it over. It needs no
//! privileges where the system lets users make namespaces; where it does not, programs get no datagram sockets.
#![allow(unsafe_code)] // a child between fork and exec, and one call without a wrapper; each says why it is sound

use std::{
    fs,
    io::{self, Read, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError},
};

use nix::{
    sched::{CloneFlags, unshare},
    sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, send, socket},
    unistd::{getgid, getuid},
};
use phantom_policy::socket::{INET, INET6};

use super::{receive, send_descriptor};

/// The hidden subcommand that is the helper.
pub const HELPER: &str = "run-island";

/// Where names are asked for.
const DNS: u16 = 53;

/// A namespace with its helper, which ends with this.
#[derive(Debug)]
pub struct Island {
    helper: Mutex<UnixStream>,
    child: Child,
}

impl Island {
    /// Makes one. Also returns its name server's sockets, of both families, which listen at every address.
    pub fn new() -> io::Result<(Island, [OwnedFd; 2])> {
        let (run, theirs) = UnixStream::pair()?;
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
        let names = [receive(&run), receive(&run)];
        // From now on the helper is not forgotten, whatever went wrong.
        let island = Island { helper: Mutex::new(run), child };
        let [v4, v6] = names;
        Ok((island, [v4?, v6?]))
    }

    /// A datagram socket of this family.
    pub(super) fn socket(&self, family: i32) -> io::Result<OwnedFd> {
        let mut helper = self.lock();
        helper.write_all(&[family as u8])?;
        receive(&helper)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, UnixStream> {
        self.helper.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Island {
    fn drop(&mut self) {
        let _has_ended = self.child.kill();
        let _has_ended = self.child.wait();
    }
}

/// The helper: in its namespace already, its standard input is the conversation with the run.
pub fn help() -> io::Result<()> {
    raise_loopback()?;
    every_address_is_here()?;
    let mut run = UnixStream::from(OwnedFd::try_clone_from_stdin()?);
    for everywhere in [(Ipv4Addr::UNSPECIFIED, DNS).into(), SocketAddr::from((Ipv6Addr::UNSPECIFIED, DNS))] {
        send_descriptor(&run, &name_server(everywhere)?)?;
    }
    let mut family = [0];
    while run.read_exact(&mut family).is_ok() {
        let family = if i32::from(family[0]) == INET { INET } else { INET6 };
        let made = socket2::Socket::new(family.into(), socket2::Type::DGRAM, None)?;
        send_descriptor(&run, &made.into())?;
    }
    Ok(())
}

trait FromStdin: Sized {
    fn try_clone_from_stdin() -> io::Result<Self>;
}

impl FromStdin for OwnedFd {
    fn try_clone_from_stdin() -> io::Result<OwnedFd> {
        use std::os::fd::AsFd;
        io::stdin().as_fd().try_clone_to_owned()
    }
}

fn name_server(everywhere: SocketAddr) -> io::Result<OwnedFd> {
    let made = socket2::Socket::new(socket2::Domain::for_address(everywhere), socket2::Type::DGRAM, None)?;
    if everywhere.is_ipv6() {
        made.set_only_v6(true)?;
    }
    made.set_nonblocking(true)?;
    made.bind(&everywhere.into())?;
    Ok(made.into())
}

fn raise_loopback() -> io::Result<()> {
    let any = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
    let mut name = [0; libc::IFNAMSIZ];
    name.iter_mut().zip(b"lo").for_each(|(to, from)| *to = *from as libc::c_char);
    let request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: (libc::IFF_UP | libc::IFF_RUNNING) as i16 },
    };
    // SAFETY: the kernel reads one structure of this kind.
    let done = unsafe { libc::ioctl(any.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Routes every address of both families to the loopback device, as one of this namespace's own.
fn every_address_is_here() -> io::Result<()> {
    let kernel =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    for family in [INET, INET6] {
        send(kernel.as_raw_fd(), &local_route(family), MsgFlags::empty())?;
        let mut answer = [0; 64];
        let length = nix::sys::socket::recv(kernel.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        // After the header of 16 bytes, an acknowledgement has an error number, 0 for none.
        let error = answer.get(16..20).filter(|_| length >= 20).and_then(|error| error.try_into().ok());
        match error.map(i32::from_ne_bytes) {
            Some(0) => {}
            Some(error) => return Err(io::Error::from_raw_os_error(-error)),
            None => return Err(io::Error::from(io::ErrorKind::InvalidData)),
        }
    }
    Ok(())
}

/// `RTM_NEWROUTE` for 0.0.0.0/0 or ::/0: a `nlmsghdr`, a `rtmsg` and one attribute.
fn local_route(family: i32) -> Vec<u8> {
    const LOOPBACK: u32 = 1;
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE) as u16;
    let mut message = Vec::new();
    message.extend(36_u32.to_ne_bytes());
    message.extend(libc::RTM_NEWROUTE.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]);
    let (table, protocol, scope, kind) =
        (libc::RT_TABLE_LOCAL, libc::RTPROT_STATIC, libc::RT_SCOPE_HOST, libc::RTN_LOCAL);
    message.extend([family as u8, 0, 0, 0, table, protocol, scope, kind]);
    message.extend([0; 4]);
    message.extend(8_u16.to_ne_bytes());
    message.extend(libc::RTA_OIF.to_ne_bytes());
    message.extend(LOOPBACK.to_ne_bytes());
    message
}
