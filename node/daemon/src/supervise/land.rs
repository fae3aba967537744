//! Where the sockets of a run live: in a network namespace of the run's own, or, where the system gives none, on this
//! machine's loopback interface.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    os::fd::{AsFd, OwnedFd},
};

use nix::{errno::Errno, sys::stat::fstat};
use phantom_policy::socket::Kind;

use super::{
    errno,
    families::Families,
    flows::Captured,
    inspection::{Home, Inspector},
    island::{Begun, Island},
    listeners,
    meeting::{Meeting, of_family},
    quiet::{self, Parts, Quiet},
    raw,
};
use crate::doors::has_no_ipv6;

/// All that depends on where sockets live.
#[derive(Debug)]
pub struct Land {
    kind: LandKind,
    home: Home,
    meeting: Meeting,
    quiet: Quiet,
    /// Who answers for names over TCP.
    names: Families<SocketAddr>,
    /// Who does over UDP, by the kernel's numbers of the sockets.
    name_servers: Vec<u64>,
    /// Where datagrams to parties can be had.
    captured: Vec<Captured>,
}

#[derive(Debug)]
enum LandKind {
    /// In which the run has this address.
    Island(Island, Ipv6Addr),
    Loopback,
}

/// Sockets on which somebody has to answer for names.
#[derive(Debug)]
pub struct NameServers {
    /// Over TCP.
    pub tcp: Vec<TcpListener>,
    /// Over UDP, where there is UDP.
    pub udp: Vec<OwnedFd>,
}

impl Land {
    /// A namespace of the run's own, in which it has this address.
    pub fn island(begun: Begun, own: Ipv6Addr) -> io::Result<(Land, NameServers)> {
        let (island, ports) = Island::new(begun, own)?;
        let kind = LandKind::Island(island, own);
        let (mut land, servers) = Land::new(kind, ports.meeting, ports.quiet, ports.names, ports.datagrams)?;
        land.captured = ports.captured;
        Ok((land, servers))
    }

    /// This machine's loopback interface, on which there are others, too.
    pub fn loopback() -> io::Result<(Land, NameServers)> {
        let pair = || -> io::Result<_> {
            let v4 = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let v6 = match TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) {
                Err(error) if has_no_ipv6(&error) => None,
                bound => Some(bound?),
            };
            Ok(Families { v4, v6 })
        };
        let quiet = |ip: IpAddr| -> io::Result<_> {
            Ok(Parts { listener: quiet::listener((ip, 0).into())?, packets: None })
        };
        let meeting = pair()?;
        let v6 = meeting.v6.is_some().then(|| quiet(Ipv6Addr::LOCALHOST.into())).transpose()?;
        let quiet = Families { v4: quiet(Ipv4Addr::LOCALHOST.into())?, v6 };
        Land::new(LandKind::Loopback, meeting, quiet, pair()?, Vec::new())
    }

    fn new(
        kind: LandKind,
        meeting: Families<TcpListener>,
        quiet: Families<Parts>,
        names: Families<TcpListener>,
        udp: Vec<OwnedFd>,
    ) -> io::Result<(Land, NameServers)> {
        let home = match &kind {
            LandKind::Island(..) => Home::of(&meeting.v4)?,
            LandKind::Loopback => Home::Loopback,
        };
        let meeting = Meeting::at(meeting)?;
        let quiet = Quiet::new(quiet, |family| kind.socket(family, Kind::Stream))?;
        let v6 = names.v6.as_ref().map(TcpListener::local_addr).transpose()?;
        let (names, tcp) = (Families { v4: names.v4.local_addr()?, v6 }, names.into_vec());
        let name_servers = udp.iter().map(|socket| Ok(fstat(socket)?.st_ino));
        let name_servers = name_servers.collect::<Result<_, Errno>>()?;
        Ok((
            Land { kind, home, meeting, quiet, names, name_servers, captured: Vec::new() },
            NameServers { tcp, udp },
        ))
    }

    pub(super) fn captured(&self) -> &[Captured] {
        &self.captured
    }

    pub(super) fn is_island(&self) -> bool {
        matches!(self.kind, LandKind::Island(..))
    }

    /// Whether a program's socket lives here. One that somebody else has handed over does not.
    pub(super) fn holds(&self, socket: &OwnedFd) -> Result<bool, Errno> {
        self.home.holds(socket)
    }

    /// Looks at what processes of the run hold.
    pub fn inspector(&self) -> Inspector {
        Inspector { home: self.home, helper: self.helper() }
    }

    /// The process that lives where the run's sockets do, and is not of the run.
    pub fn helper(&self) -> Option<u32> {
        match &self.kind {
            LandKind::Island(island, _) => Some(island.helper()),
            LandKind::Loopback => None,
        }
    }

    /// A socket of the Internet.
    pub(super) fn socket(&self, family: i32, kind: Kind) -> Result<OwnedFd, Errno> {
        self.kind.socket(family, kind)
    }

    /// A socket that is a party to the run: it has the party's address.
    pub(super) fn of_party(&self, party: SocketAddr, kind: Kind) -> Result<OwnedFd, Errno> {
        let family = if party.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let made = self.socket(family, kind)?;
        raw::detach_filter(made.as_fd());
        let socket = socket2::SockRef::from(&made);
        let prepared = if party.is_ipv6() { socket.set_freebind_v6(true) } else { Ok(()) };
        prepared.and_then(|()| socket.bind(&party.into())).map_err(|error| errno(&error))?;
        Ok(made)
    }

    /// A socket that asks the kernel about the network: about the run's own, if it has one.
    pub(super) fn netlink(&self, kind: i32, protocol: i32) -> Result<OwnedFd, Errno> {
        match &self.kind {
            LandKind::Island(island, _) => island.socket(libc::AF_NETLINK, kind, protocol),
            LandKind::Loopback => {
                let made = socket2::Socket::new(libc::AF_NETLINK.into(), kind.into(), Some(protocol.into()));
                made.map(OwnedFd::from).map_err(|error| errno(&error))
            }
        }
    }

    /// Where programs' sockets lead that are to reach services of this machine.
    pub(super) fn meeting(&self) -> &Meeting {
        &self.meeting
    }

    /// Where programs' sockets wait for their parties.
    pub(super) fn quiet(&self) -> &Quiet {
        &self.quiet
    }

    /// The other end of a program's socket, which was on its way until now.
    pub(super) fn join(&self, program: &OwnedFd, own: SocketAddr) -> Result<OwnedFd, Errno> {
        self.quiet.join(program, own, |family| self.socket(family, Kind::Stream))
    }

    /// Makes ready for the next one.
    pub(super) fn prepare_to_join(&self, own: SocketAddr) {
        self.quiet.prepare(own, |family| self.socket(family, Kind::Stream));
    }

    /// Whether somebody of ours listens there, whom no program is to meet.
    pub(super) fn is_ours(&self, place: SocketAddr) -> bool {
        self.meeting.is_at(place) || self.quiet.is_at(place)
    }

    /// Whether somebody of ours listens there, whom nobody but the program is to meet.
    pub(super) fn is_not_for_visitors(&self, place: SocketAddr) -> bool {
        self.is_ours(place) || self.names.iter().any(|own| *own == place)
    }

    /// Who answers for names, for sockets of this family.
    pub(super) fn names(&self, family: i32) -> SocketAddr {
        let Families { v4, v6 } = self.names;
        v6.filter(|_| family == libc::AF_INET6).unwrap_or(of_family(v4, family))
    }

    /// Who listens at a place where programs of the run connect to.
    pub(super) fn listeners_at(&self, place: SocketAddr) -> io::Result<Vec<listeners::Listener>> {
        match &self.kind {
            LandKind::Island(island, _) => listeners::at(place, &island.helper().to_string()),
            LandKind::Loopback => listeners::at(place, "self"),
        }
    }

    /// The run's own address, where it has one.
    pub(super) fn own_address(&self) -> Option<Ipv6Addr> {
        match self.kind {
            LandKind::Island(_, own) => Some(own),
            LandKind::Loopback => None,
        }
    }

    /// Whether a socket of a program takes datagrams there.
    pub(super) fn takes_datagrams(&self, place: SocketAddr) -> bool {
        let LandKind::Island(island, _) = &self.kind else { return false };
        let found = listeners::of_datagrams(place, &island.helper().to_string()).unwrap_or_default();
        found.iter().any(|taker| !self.name_servers.contains(&taker.inode))
    }
}

impl LandKind {
    fn socket(&self, family: i32, kind: Kind) -> Result<OwnedFd, Errno> {
        match (self, kind) {
            (LandKind::Island(island, _), Kind::Stream) => island.socket(family, libc::SOCK_STREAM, 0),
            (LandKind::Island(island, _), Kind::Datagram) => island.socket(family, libc::SOCK_DGRAM, 0),
            (LandKind::Loopback, Kind::Stream) => bound_socket(family),
            (LandKind::Loopback, Kind::Datagram) => Err(Errno::EPROTONOSUPPORT),
        }
    }
}

/// A stream socket that reaches the loopback interface and nothing else, for as long as it lives.
fn bound_socket(family: i32) -> Result<OwnedFd, Errno> {
    let made = socket2::Socket::new(family.into(), socket2::Type::STREAM, None);
    let made = made.map_err(|error| errno(&error))?;
    made.bind_device(Some(b"lo")).map_err(|error| errno(&error))?;
    Ok(made.into())
}

#[cfg(test)]
mod tests {
    use super::{
        super::meeting::{canonical, local_address},
        *,
    };
    use std::net::TcpStream;

    #[test]
    fn whom_we_accept_is_whom_we_have_connected() {
        let (land, _names) = Land::loopback().unwrap();
        // Somebody else comes first.
        let _stranger = TcpStream::connect(land.meeting.place()).unwrap();
        for (family, to) in [(libc::AF_INET, "127.192.0.1:80"), (libc::AF_INET6, "[::ffff:127.192.0.1]:80")] {
            let program = land.socket(family, Kind::Stream).unwrap();
            let (far, _) = land.meeting.far_end(&program, family, to.parse().unwrap()).unwrap();
            assert_eq!(canonical(far.peer_addr().unwrap()), local_address(&program).unwrap());
        }
    }
}
