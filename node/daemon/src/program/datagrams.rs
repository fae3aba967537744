//! A socket of datagrams that is connected to a local program's.

use std::{io, os::fd::AsRawFd};

use nix::sys::socket::{MsgFlags, recv, send};
use tokio::{io::Interest, net::UdpSocket};

use super::RECEIVED;

/// Datagrams that may lie in a socket's queue.
const QUEUE: usize = 65_536;

/// A socket that is connected to a local program's. Neither reading nor writing waits, whatever others who have it do to it; and
/// nothing waits for the end of datagrams when it is closed.
#[derive(Debug)]
pub struct ProgramDatagrams(UdpSocket);

impl From<UdpSocket> for ProgramDatagrams {
    fn from(socket: UdpSocket) -> ProgramDatagrams {
        ProgramDatagrams(socket)
    }
}

impl ProgramDatagrams {
    /// Ends when there may be something to receive, or an error.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.0.readable().await
    }

    /// Receives a datagram, if there is one.
    pub(crate) fn try_receive(&self, take: impl FnOnce(&[u8])) -> io::Result<()> {
        RECEIVED.with_borrow_mut(|room| {
            let received = self
                .0
                .try_io(Interest::READABLE, || Ok(recv(self.0.as_raw_fd(), room, MsgFlags::MSG_DONTWAIT)?))?;
            take(room.get(..received).unwrap_or_default());
            Ok(())
        })
    }

    /// Sends a datagram. It is lost if that is not possible at once.
    pub(crate) fn send(&self, datagram: &[u8]) {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let _lost = self.0.try_io(Interest::WRITABLE, || Ok(send(self.0.as_raw_fd(), datagram, flags)?));
    }

    /// From now on it has to do with its peer alone: until it was connected, anybody could put something into its queue.
    pub(crate) async fn of_its_peer_alone(self) -> io::Result<ProgramDatagrams> {
        let mut none = [0; 1];
        for _ in 0..QUEUE {
            if recv(self.0.as_raw_fd(), &mut none, MsgFlags::MSG_DONTWAIT).is_err() {
                break;
            }
        }
        self.0.writable().await?; // before that, nothing is taken without waiting
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::{
        super::testing::{handed, without_waiting},
        *,
    };

    #[tokio::test]
    async fn reading_waits_for_nobody_where_others_have_made_the_socket_wait() {
        let kept = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let peer = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        kept.connect(peer.local_addr().unwrap()).unwrap();
        let socket = handed(kept.try_clone().unwrap()).into_datagrams().unwrap();
        kept.set_nonblocking(false).unwrap();
        peer.send_to(b"x", kept.local_addr().unwrap()).unwrap();
        socket.readable().await.unwrap();
        kept.recv(&mut [0]).unwrap();
        without_waiting(move || {
            let nothing = socket.try_receive(|_| panic!("it was read"));
            assert_eq!(nothing.unwrap_err().kind(), io::ErrorKind::WouldBlock);
        });
    }

    #[tokio::test]
    async fn a_socket_that_waits_is_emptied_all_the_same() {
        let kept = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        kept.connect("127.0.0.1:9").unwrap();
        let socket = handed(kept.try_clone().unwrap()).into_datagrams().unwrap();
        kept.set_nonblocking(false).unwrap();
        socket.0.writable().await.unwrap();
        without_waiting(move || drop(socket.of_its_peer_alone().now_or_never().unwrap().unwrap()));
    }
}
