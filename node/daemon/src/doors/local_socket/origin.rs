//! Whence a client comes: a node takes commands from its own network namespace alone.
//!
//! A program under `phantom run` may connect to every UNIX socket that its user may, so to any node's; but its sockets of the
//! Internet are of its run's own network, or are bound to the loopback interface. So who begins a conversation shows one, and
//! the kernel tells whose it is. Nobody has to be asked who is connected, nor anything be known of who runs what.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use nix::errno::Errno;
use socket2::{Domain, SockRef, Socket, Type};
use tokio::{io::Interest, net::UnixStream};

use crate::{
    frames::{receive, send},
    program::Handed,
    supervise::namespace,
};

/// Read at once at first.
const AT_FIRST: usize = 256;

/// What a socket says of where it is.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    namespace: u64,
    device: Option<Vec<u8>>,
}

impl Place {
    /// Nothing on kernels that do not tell (before Linux 5.14).
    fn of(socket: &impl AsFd) -> io::Result<Option<Place>> {
        let seen = SockRef::from(socket);
        if ![Domain::IPV4, Domain::IPV6].contains(&seen.domain()?) {
            return Err(ErrorKind::InvalidInput.into());
        }
        match namespace(socket.as_fd()) {
            Ok(namespace) => Ok(Some(Place { namespace, device: seen.device()? })),
            Err(Errno::ENOPROTOOPT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// What a client has to show.
pub(super) fn proof() -> io::Result<OwnedFd> {
    let made = Socket::new(Domain::IPV4, Type::DGRAM, None);
    made.or_else(|_| Socket::new(Domain::IPV6, Type::DGRAM, None)).map(OwnedFd::from)
}

/// Says the beginning of a conversation, and shows what there is to show. Says how many bytes were taken.
pub(super) async fn show(to: &UnixStream, bytes: &[u8], proof: Option<&OwnedFd>) -> io::Result<usize> {
    let shown: Vec<_> = proof.into_iter().map(AsFd::as_fd).collect();
    loop {
        to.writable().await?;
        match to.try_io(Interest::WRITABLE, || send(to, bytes, &shown)) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            sent => return sent,
        }
    }
}

/// The first bytes of a conversation, and whether its client is where this node is. Nothing at the end.
pub(super) async fn look(from: &UnixStream) -> io::Result<Option<(Vec<u8>, bool)>> {
    loop {
        from.readable().await?;
        match from.try_io(Interest::READABLE, || look_once(from)) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            looked => return looked,
        }
    }
}

/// The same, if they have come already: an error of its own kind if not.
pub(super) fn look_once(from: &UnixStream) -> io::Result<Option<(Vec<u8>, bool)>> {
    let (mut bytes, mut shown) = (vec![0; AT_FIRST], VecDeque::<Handed>::new());
    let length = receive(from, &mut bytes, &mut shown)?;
    bytes.truncate(length);
    let shown = shown.front().map(Handed::look).transpose()?;
    Ok((length > 0).then(|| (bytes, is_here(shown).unwrap_or(false))))
}

fn is_here(shown: Option<BorrowedFd<'_>>) -> io::Result<bool> {
    let Some(here) = Place::of(&proof()?)? else { return Ok(true) };
    Ok(shown.map(|shown| Place::of(&shown)).transpose()?.flatten() == Some(here))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_shows_a_socket_of_here_is_here_and_nobody_else() {
        assert!(is_here(Some(proof().unwrap().as_fd())).unwrap());
        assert!(!is_here(None).unwrap());
        let (unix, _) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(is_here(Some(unix.as_fd())).is_err());
        assert!(is_here(Some(tempfile::tempfile().unwrap().as_fd())).is_err());
        let bound = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        bound.bind_device(Some(b"lo")).unwrap();
        assert!(!is_here(Some(bound.as_fd())).unwrap(), "as those of runs are where there are no namespaces");
    }
}
