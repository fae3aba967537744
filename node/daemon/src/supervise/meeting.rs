//! Where programs' sockets are connected to that lead to services of this machine, so that we get their far ends.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::Mutex,
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{SockaddrStorage, connect},
};
use phantom_policy::socket;

use super::{errno, families::Families, lock, peers::Ends};

/// A connection on this machine stands at once.
const AT_ONCE: Duration = Duration::from_secs(5);

/// Listeners of our own.
#[derive(Debug)]
pub(super) struct Meeting(Families<Place>);

#[derive(Debug)]
struct Place {
    listener: Mutex<TcpListener>,
    address: SocketAddr,
}

impl Meeting {
    pub(super) fn at(listeners: Families<TcpListener>) -> io::Result<Meeting> {
        listeners.map(Place::at).map(Meeting)
    }

    #[cfg(test)]
    pub(super) fn place(&self) -> SocketAddr {
        self.0.v4.address
    }

    /// Whether this is one of our listeners.
    pub(super) fn is_at(&self, place: SocketAddr) -> bool {
        self.0.iter().any(|own| own.address == place)
    }

    /// Connects a program's socket that is to lead to `to`. Returns the connection from its other end.
    pub(super) fn far_end(
        &self,
        program: &OwnedFd,
        family: i32,
        to: SocketAddr,
    ) -> Result<(TcpStream, Ends), Errno> {
        let place = self.0.led_to(family, to);
        // One at a time: whom we accept is whom we have connected.
        let listener = lock(&place.listener);
        match connect(program.as_raw_fd(), &SockaddrStorage::from(of_family(place.address, family))) {
            Ok(()) | Err(Errno::EINPROGRESS) => {}
            Err(Errno::ECONNREFUSED) => return Err(Errno::ENETUNREACH),
            Err(errno) => return Err(errno),
        }
        let own = local_address(program)?;
        loop {
            match listener.accept() {
                Ok((far, from)) if canonical(from) == own => return Ok((far, (own, place.address))),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    wait_for(&*listener, PollFlags::POLLIN)?
                }
                Err(error) if error.kind() != ErrorKind::ConnectionAborted => return Err(errno(&error)),
                // Somebody else, or somebody who has gone.
                Ok(_) | Err(_) => {}
            }
        }
    }
}

impl Place {
    fn at(listener: TcpListener) -> io::Result<Place> {
        let address = listener.local_addr()?;
        // Who has been connected is there already.
        listener.set_nonblocking(true)?;
        Ok(Place { listener: Mutex::new(listener), address })
    }
}

/// An address, so that a socket of this family takes it.
pub(super) fn of_family(place: SocketAddr, family: i32) -> SocketAddr {
    match place.ip() {
        IpAddr::V4(v4) if family == socket::INET6 => {
            SocketAddr::new(v4.to_ipv6_mapped().into(), place.port())
        }
        _ => place,
    }
}

pub(super) fn canonical(place: SocketAddr) -> SocketAddr {
    SocketAddr::new(place.ip().to_canonical(), place.port())
}

pub(super) fn local_address(socket: &OwnedFd) -> Result<SocketAddr, Errno> {
    let address = socket2::SockRef::from(socket).local_addr().map_err(|error| errno(&error))?;
    address.as_socket().map(canonical).ok_or(Errno::EAFNOSUPPORT)
}

pub(super) fn wait_for(socket: &impl AsFd, event: PollFlags) -> Result<(), Errno> {
    wait_until(socket, event, AT_ONCE)
}

pub(super) fn wait_until(socket: &impl AsFd, event: PollFlags, patience: Duration) -> Result<(), Errno> {
    let patience = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
    loop {
        match poll(&mut [PollFd::new(socket.as_fd(), event)], patience) {
            Err(Errno::EINTR) => {}
            Ok(0) => return Err(Errno::ENETUNREACH),
            Ok(_) => return Ok(()),
            Err(errno) => return Err(errno),
        }
    }
}
