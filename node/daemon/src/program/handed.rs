//! A descriptor that somebody else has handed over.
//!
//! Closing it may take as long as its maker likes: a socket that lingers, a file of a file system that does not answer, a UNIX
//! socket in whose queue such things lie. What is not taken is closed by a thread that has nothing else to do.

use std::{
    io::{self, ErrorKind},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        OnceLock,
        mpsc::{Sender, channel},
    },
    thread,
};

use socket2::{Domain, SockRef, Type};

use super::{ProgramDatagrams, ProgramStream};

/// A descriptor of which nothing is known. Dropping it never waits.
#[derive(Debug)]
pub struct Handed(Option<OwnedFd>);

impl From<OwnedFd> for Handed {
    fn from(descriptor: OwnedFd) -> Handed {
        Handed(Some(descriptor))
    }
}

impl Handed {
    /// To look at.
    pub(crate) fn look(&self) -> io::Result<BorrowedFd<'_>> {
        self.0.as_ref().map(AsFd::as_fd).ok_or_else(|| ErrorKind::InvalidData.into())
    }

    /// Takes it for a connection, or says that it is none of the Internet's.
    pub(crate) fn into_stream(mut self) -> io::Result<ProgramStream> {
        self.prepare(Type::STREAM)?;
        SockRef::from(&self.look()?).set_tcp_nodelay(true)?;
        tokio::net::TcpStream::from_std(self.take()?.into()).map(ProgramStream::from)
    }

    /// Takes it for a socket of datagrams, or says that it is none of the Internet's.
    pub(crate) fn into_datagrams(mut self) -> io::Result<ProgramDatagrams> {
        self.prepare(Type::DGRAM)?;
        tokio::net::UdpSocket::from_std(self.take()?.into()).map(ProgramDatagrams::from)
    }

    /// What fails here has not been taken yet.
    fn prepare(&self, kind: Type) -> io::Result<()> {
        let socket = self.look()?;
        if !is_of_internet(socket, kind)? {
            return Err(ErrorKind::InvalidData.into());
        }
        SockRef::from(&socket).set_nonblocking(true)
    }

    fn take(&mut self) -> io::Result<OwnedFd> {
        self.0.take().ok_or_else(|| ErrorKind::InvalidData.into())
    }
}

impl Drop for Handed {
    fn drop(&mut self) {
        let Some(descriptor) = self.0.take() else { return };
        // What a command shows: nothing waits for the end of datagrams.
        if is_of_internet(descriptor.as_fd(), Type::DGRAM).unwrap_or(false) {
            return;
        }
        let _it_never_ends = closer().map(|closer| closer.send(descriptor));
    }
}

fn is_of_internet(descriptor: BorrowedFd<'_>, kind: Type) -> io::Result<bool> {
    let socket = SockRef::from(&descriptor);
    Ok([Domain::IPV4, Domain::IPV6].contains(&socket.domain()?) && socket.r#type()? == kind)
}

/// Closes what it is sent. Nothing if there can be no such thread.
fn closer() -> Option<&'static Sender<OwnedFd>> {
    static CLOSER: OnceLock<Option<Sender<OwnedFd>>> = OnceLock::new();
    let started = CLOSER.get_or_init(|| {
        let (closer, unwanted) = channel::<OwnedFd>();
        let closing = move || {
            for descriptor in unwanted {
                // One that lingers would keep others waiting.
                let _is_no_socket = SockRef::from(&descriptor).set_linger(None);
            }
        };
        thread::Builder::new().name("closing".to_owned()).spawn(closing).ok()?;
        Some(closer)
    });
    started.as_ref()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::{
        super::testing::{handed, lingering, without_waiting},
        *,
    };
    use crate::frames::send;

    #[test]
    fn what_is_not_taken_is_closed_elsewhere() {
        let (socket, _peer) = lingering();
        without_waiting(move || drop(handed(socket)));
        // Hidden in another's queue, where nobody sees it.
        let (socket, _peer) = lingering();
        let (bearer, other) = UnixStream::pair().unwrap();
        send(&other, b"x", &[socket.as_fd()]).unwrap();
        drop((socket, other));
        without_waiting(move || drop(handed(bearer)));
    }

    #[tokio::test]
    async fn what_was_handed_over_is_what_it_is_said_to_be() {
        let (socket, _peer) = lingering();
        let udp = || handed(std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
        assert!(handed(socket.try_clone().unwrap()).into_datagrams().is_err());
        assert!(handed(socket).into_stream().is_ok());
        assert!(udp().into_stream().is_err());
        assert!(udp().into_datagrams().is_ok());
        assert!(handed(UnixStream::pair().unwrap().0).into_stream().is_err());
        assert!(handed(tempfile::tempfile().unwrap()).into_stream().is_err());
    }
}
