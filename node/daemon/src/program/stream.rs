//! A connection to a local program.

use std::{
    io::{self, ErrorKind, IoSlice},
    net::Shutdown,
    os::fd::{AsRawFd, RawFd},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use nix::sys::socket::{MsgFlags, recv, sendmsg};
use phantom_proxy::Connection;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};

use super::RECEIVED;

/// A connection to a local program. Neither reading nor writing nor closing it waits, whatever others who have it do to it.
#[derive(Debug)]
pub struct ProgramStream {
    tcp: TcpStream,
    is_reset: bool,
}

impl From<TcpStream> for ProgramStream {
    fn from(tcp: TcpStream) -> ProgramStream {
        ProgramStream { tcp, is_reset: false }
    }
}

impl ProgramStream {
    /// What has come; nothing at the end.
    pub(crate) fn poll_take(&self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        RECEIVED.with_borrow_mut(|room| {
            let received = ready!(self.poll_receive(cx, room))?;
            Poll::Ready(Ok(Bytes::copy_from_slice(room.get(..received).unwrap_or_default())))
        })
    }

    fn poll_receive(&self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.tcp.poll_read_ready(cx))?;
            let most = into.len();
            let done = self.once(Interest::READABLE, most, |tcp| recv(tcp, into, MsgFlags::MSG_DONTWAIT));
            if let Some(done) = done {
                return Poll::Ready(done);
            }
        }
    }

    /// Says what is in the slices, and how many bytes of it were taken.
    pub(crate) fn poll_send(&self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        loop {
            ready!(self.tcp.poll_write_ready(cx))?;
            let all = slices.iter().map(|slice| slice.len()).sum();
            let send = |tcp| sendmsg::<()>(tcp, slices, &[], flags, None);
            if let Some(done) = self.once(Interest::WRITABLE, all, send) {
                return Poll::Ready(done);
            }
        }
    }

    /// What a call that does not wait has done. Nothing if it would have waited.
    fn once(
        &self,
        interest: Interest,
        most: usize,
        call: impl FnOnce(RawFd) -> nix::Result<usize>,
    ) -> Option<io::Result<usize>> {
        let mut done = None;
        let tried = self.tcp.try_io(interest, || {
            let moved = call(self.tcp.as_raw_fd())?;
            done = Some(moved);
            // Less than there was room for: the next call would wait, so it need not be made to see that.
            if 0 < moved && moved < most { Err(ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        match (done, tried) {
            (Some(moved), _) => Some(Ok(moved)),
            (None, Err(error)) if error.kind() != ErrorKind::WouldBlock => Some(Err(error)),
            (None, _) => None,
        }
    }

    /// Says no more.
    pub(crate) fn end(&self) -> io::Result<()> {
        SockRef::from(&self.tcp).shutdown(Shutdown::Write)
    }

    /// Ends when the program's kernel has answered with a reset.
    pub(crate) async fn failed(&self) {
        let _or_cannot_be_known = self.tcp.ready(Interest::ERROR).await;
    }
}

impl Connection for ProgramStream {
    fn reset(mut self) {
        // Without it the program would see an orderly end. If it fails, the socket is dead already.
        let _best_effort = SockRef::from(&self.tcp).set_linger(Some(Duration::ZERO));
        self.is_reset = true;
    }
}

impl Drop for ProgramStream {
    fn drop(&mut self) {
        if !self.is_reset {
            let _best_effort = SockRef::from(&self.tcp).set_linger(None);
        }
    }
}

impl AsyncRead for ProgramStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let received = ready!(self.poll_receive(cx, buf.initialize_unfilled()))?;
        buf.advance(received);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ProgramStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_send(cx, &[IoSlice::new(buf)])
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.end())
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, io::Read};

    use super::{
        super::testing::{connected, handed, lingering, unread, without_waiting},
        *,
    };

    #[tokio::test]
    async fn writing_waits_for_nobody_where_others_have_made_the_socket_wait() {
        let (kept, _peer) = connected();
        let stream = handed(kept.try_clone().unwrap()).into_stream().unwrap();
        kept.set_nonblocking(false).unwrap();
        stream.tcp.writable().await.unwrap();
        without_waiting(move || {
            let mut cx = Context::from_waker(std::task::Waker::noop());
            let much = vec![0; 1 << 20];
            while stream.poll_send(&mut cx, &[IoSlice::new(&much)]).is_ready() {}
        });
    }

    #[tokio::test]
    async fn reading_waits_for_nobody_where_others_have_read_what_there_was() {
        let (mut kept, peer) = connected();
        let stream = handed(kept.try_clone().unwrap()).into_stream().unwrap();
        unread(&peer, b"x");
        stream.tcp.readable().await.unwrap();
        kept.set_nonblocking(false).unwrap();
        kept.read_exact(&mut [0]).unwrap();
        without_waiting(move || {
            let mut cx = Context::from_waker(std::task::Waker::noop());
            assert!(stream.poll_take(&mut cx).is_pending());
        });
    }

    #[tokio::test]
    async fn what_comes_after_a_part_was_read_is_not_missed() {
        let (kept, peer) = connected();
        let stream = handed(kept).into_stream().unwrap();
        for said in [&b"one"[..], b"more", b"last"] {
            unread(&peer, said);
            assert_eq!(poll_fn(|cx| stream.poll_take(cx)).await.unwrap(), said);
        }
        drop(peer);
        assert!(poll_fn(|cx| stream.poll_take(cx)).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn closing_waits_for_nobody_where_others_have_let_it_linger() {
        for is_reset in [false, true] {
            let (socket, _peer) = lingering();
            let stream = handed(socket).into_stream().unwrap();
            without_waiting(move || if is_reset { stream.reset() } else { drop(stream) });
        }
    }

    #[tokio::test]
    async fn an_end_is_an_end_and_a_reset_a_reset() {
        for is_reset in [false, true] {
            let (socket, mut peer) = connected();
            let stream = handed(socket).into_stream().unwrap();
            if is_reset {
                stream.reset();
            } else {
                drop(stream);
            }
            let heard = peer.read(&mut [0]);
            let expected = if is_reset { Err(ErrorKind::ConnectionReset) } else { Ok(0) };
            assert_eq!(heard.map_err(|error| error.kind()), expected);
        }
    }
}
