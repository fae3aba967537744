//! The helper of an island: a process that lives in the namespace, prepares it, and makes sockets there.
//!
//! Every party's address is the island's own, so that programs' sockets get on their way without an error; so is port 53 of
//! every other address, where the run's name server is. All else is unreachable, as the kernel itself says.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    process::exit,
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, unshare},
    sys::socket::{setsockopt, sockopt},
    unistd::{Pid, dup2_stderr, dup2_stdin, dup2_stdout, getgid, getppid, getuid, setpgid},
};
use socket2::{Domain, Socket, Type};

use super::{
    capture, close_all_but_standard,
    netlink::{Kernel, LOOPBACK, LOOPBACK_TABLE, NAMES_TABLE},
    notify::Process,
    presence, quiet, raw,
};
use crate::frames::send;

/// What stands for the run's own address in IPv4.
pub(super) const OWN_ALIAS: Ipv4Addr = Ipv4Addr::new(127, 224, 0, 1);

/// Where names are asked for.
const DNS: u16 = 53;
/// Ports of ours, at the run's own addresses.
const MEETING: u16 = 65_535;
const NAMES: u16 = 65_534;
const QUIET: u16 = 65_533;
/// So many see packets, for each family.
const SEEING: usize = 2;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 4_096;

/// What the helper is asked for: so many sockets of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) family: i32,
    pub(super) kind: i32,
    pub(super) protocol: i32,
    pub(super) count: u8,
}

impl Request {
    const LENGTH: usize = 13;

    pub(super) fn encode(&self) -> [u8; Request::LENGTH] {
        let mut bytes = [self.count; Request::LENGTH];
        for (number, place) in [self.family, self.kind, self.protocol].iter().zip(bytes.chunks_exact_mut(4)) {
            place.copy_from_slice(&number.to_ne_bytes());
        }
        bytes
    }

    fn decode(bytes: &[u8; Request::LENGTH]) -> Option<Request> {
        let (family, rest) = bytes.split_first_chunk()?;
        let (kind, rest) = rest.split_first_chunk()?;
        let (protocol, rest) = rest.split_first_chunk()?;
        let [family, kind, protocol] = [family, kind, protocol].map(|number| i32::from_ne_bytes(*number));
        rest.first().map(|count| Request { family, kind, protocol, count: *count })
    }
}

/// The helper's life, in a process of its own.
pub(super) fn help(run: UnixStream) -> ! {
    exit(live(run).is_err().into())
}

fn live(run: UnixStream) -> io::Result<()> {
    let mut run = leave_all_behind(run)?;
    let parent = Process::of(getppid().as_raw())?;
    let (kernel, v4) = match settle() {
        Ok(settled) => settled,
        Err(error) => return answer(&run, Err(error)).map(drop),
    };
    answer(&run, Ok(Vec::new()))?;
    let v4 = answer(&run, Ok(v4))?;
    let mut own = [0; 16];
    run.read_exact(&mut own)?;
    let own: Ipv6Addr = own.into();
    let v6 = answer(&run, prepare_v6(&kernel, own))?;
    // The kernel takes many milliseconds to close what sees packets. Nobody who waits for the run waits for that, if it is the
    // last one's affair. All else is the run's alone.
    let seeing = |mut sockets: Vec<OwnedFd>| sockets.split_off(sockets.len().saturating_sub(SEEING));
    let _closed_at_last = [v4, v6].map(seeing);
    let _programs_may_see_the_truth = presence::show(&kernel);
    drop(kernel);
    // What programs get from now on was made by somebody who may do nothing to this namespace.
    caps::clear(None, caps::CapSet::Effective).map_err(io::Error::other)?;
    caps::clear(None, caps::CapSet::Permitted).map_err(io::Error::other)?;
    let mut request = [0; Request::LENGTH];
    while run.read_exact(&mut request).is_ok() {
        let request = Request::decode(&request).ok_or(io::ErrorKind::InvalidData)?;
        drop(answer(&run, made(request, own))?);
        run.write_all(&[0])?;
    }
    poll(&mut [PollFd::new(parent.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE)?;
    Ok(())
}

/// What the run was given is not held open by its helper. In a group of its own: what a terminal says to the program (Ctrl-C) is
/// not said to the helper.
fn leave_all_behind(run: UnixStream) -> io::Result<UnixStream> {
    setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
    dup2_stdin(&run)?;
    drop(run);
    let nothing = File::options().write(true).open("/dev/null")?;
    dup2_stdout(&nothing)?;
    dup2_stderr(&nothing)?;
    drop(nothing);
    close_all_but_standard(0)?;
    Ok(UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?))
}

/// Moves into a namespace that nobody else is in, and sees whether it can be prepared: if not, the run does without.
fn settle() -> io::Result<(Kernel, Vec<OwnedFd>)> {
    let (user, group) = (getuid(), getgid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1"))?;
    let kernel = Kernel::new()?;
    kernel.raise(LOOPBACK)?;
    let v4 = prepare_v4(&kernel)?;
    Ok((kernel, v4))
}

/// Returns what was sent.
fn answer(run: &UnixStream, made: io::Result<Vec<OwnedFd>>) -> io::Result<Vec<OwnedFd>> {
    let (error, sockets) = match made {
        Ok(sockets) => (0, sockets),
        Err(error) => {
            (error.raw_os_error().and_then(|error| u8::try_from(error).ok()).unwrap_or(EIO), Vec::new())
        }
    };
    let lent: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
    send(run, &[error], &lent)?;
    Ok(sockets)
}

const EIO: u8 = libc::EIO as u8;

fn made(request: Request, own: Ipv6Addr) -> io::Result<Vec<OwnedFd>> {
    let Request { family, kind, protocol, count } = request;
    let own_only = capture::own_only(OWN_ALIAS, own);
    let one = || -> io::Result<OwnedFd> {
        let protocol = (protocol != 0).then(|| protocol.into());
        let made = Socket::new(family.into(), kind.into(), protocol)?;
        if kind == libc::SOCK_DGRAM && family != libc::AF_NETLINK {
            // A party's end of a flow may have the same port as a program's own.
            made.set_reuse_address(true)?;
            raw::attach_filter(made.as_fd(), &own_only)?;
        }
        Ok(made.into())
    };
    (0..count).map(|_| one()).collect()
}

fn prepare_v4(kernel: &Kernel) -> io::Result<Vec<OwnedFd>> {
    // Where they cannot be written, the kernel decides as it does elsewhere.
    let _all_ports_are_the_programs = fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
    // A party may take longer than the kernel would wait for an answer.
    let _is_patient = fs::write("/proc/sys/net/ipv4/tcp_syn_retries", "10");
    let _all_connect_first = fs::write("/proc/sys/net/ipv4/tcp_fastopen", "0");
    let (own, anywhere) = (IpAddr::V4(OWN_ALIAS), IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    kernel.add_address(own, LOOPBACK)?;
    kernel.add_local_route(LOOPBACK_TABLE, (Ipv4Addr::new(127, 192, 0, 0).into(), 10), own)?;
    kernel.add_local_route(NAMES_TABLE, (anywhere, 0), own)?;
    kernel.add_rule(libc::AF_INET, DNS, NAMES_TABLE)?;
    ports(own, anywhere)
}

fn prepare_v6(kernel: &Kernel, own: Ipv6Addr) -> io::Result<Vec<OwnedFd>> {
    let _is_mostly_so = fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "0");
    let (own, anywhere) = (IpAddr::V6(own), IpAddr::V6(Ipv6Addr::UNSPECIFIED));
    kernel.add_address(own, LOOPBACK)?;
    kernel.add_local_route(LOOPBACK_TABLE, (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0).into(), 8), own)?;
    kernel.add_local_route(NAMES_TABLE, (anywhere, 0), own)?;
    kernel.add_rule(libc::AF_INET6, DNS, NAMES_TABLE)?;
    ports(own, anywhere)
}

/// Where programs are met, the name servers over TCP and UDP, where programs' sockets wait for their parties, what writes
/// packets, and at last those that are to see packets ([`SEEING`]): for those sockets, and for datagrams.
fn ports(own: IpAddr, anywhere: IpAddr) -> io::Result<Vec<OwnedFd>> {
    let listener = |port| -> io::Result<OwnedFd> {
        let made = Socket::new(Domain::for_address((own, port).into()), Type::STREAM, None)?;
        made.bind(&SocketAddr::new(own, port).into())?;
        made.listen(BACKLOG)?;
        Ok(made.into())
    };
    let names = Socket::new(Domain::for_address((anywhere, DNS).into()), Type::DGRAM, None)?;
    names.set_reuse_address(true)?;
    if anywhere.is_ipv6() {
        names.set_only_v6(true)?;
        setsockopt(&names, sockopt::Ipv6RecvPacketInfo, &true)?;
        // It answers from whichever address was asked.
        names.set_ip_transparent_v6(true)?;
    } else {
        setsockopt(&names, sockopt::Ipv4PacketInfo, &true)?;
        names.set_ip_transparent_v4(true)?;
    }
    names.bind(&SocketAddr::new(anywhere, DNS).into())?;
    // They see none yet.
    let seeing = || Socket::new(Domain::PACKET, Type::DGRAM, None).map(OwnedFd::from);
    let written =
        Socket::new(Domain::for_address((own, 0).into()), Type::RAW, Some(libc::IPPROTO_RAW.into()))?;
    let quiet = quiet::listener((own, QUIET).into())?;
    let (meeting, tcp_names) = (listener(MEETING)?, listener(NAMES)?);
    let seeing = [seeing()?, seeing()?];
    Ok([meeting, tcp_names, names.into(), quiet.into(), written.into()].into_iter().chain(seeing).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_as_it_was_written() {
        let request = Request { family: 16, kind: 3, protocol: -1, count: 7 };
        assert_eq!(Request::decode(&request.encode()), Some(request));
    }
}
