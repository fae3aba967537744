//! What tests need of sockets that others have, too.

use std::{
    io::{ErrorKind, Write},
    net::{TcpListener, TcpStream},
    os::fd::OwnedFd,
    sync::mpsc::channel,
    thread,
    time::Duration,
};

use super::Handed;

/// What somebody has handed over.
pub(crate) fn handed(descriptor: impl Into<OwnedFd>) -> Handed {
    Handed::from(descriptor.into())
}

/// Two ends of a connection.
pub(crate) fn connected() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (near, listener.accept().unwrap().0)
}

/// Says something to the other end.
pub(crate) fn unread(mut peer: &TcpStream, said: &[u8]) {
    peer.write_all(said).unwrap();
}

/// A socket whose closing takes two minutes as long as the other end is there.
pub(crate) fn lingering() -> (TcpStream, TcpStream) {
    let (mut near, far) = connected();
    near.set_nonblocking(true).unwrap();
    let full = loop {
        if let Err(error) = near.write(&[0; 65_536]) {
            break error.kind();
        }
    };
    assert_eq!(full, ErrorKind::WouldBlock);
    near.set_nonblocking(false).unwrap();
    socket2::SockRef::from(&near).set_linger(Some(Duration::from_secs(120))).unwrap();
    (near, far)
}

/// Does something that must not wait for anything.
pub(crate) fn without_waiting(work: impl FnOnce() + Send + 'static) {
    let (done, is_done) = channel();
    thread::spawn(move || {
        work();
        done.send(()).unwrap();
    });
    is_done.recv_timeout(Duration::from_secs(20)).expect("it waits");
}
