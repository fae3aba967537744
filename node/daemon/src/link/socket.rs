//! The TCP socket below TLS: its options, and large reads.
//!
//! rustls asks for 4 KiB at a time. Once a connection has become a link, 64 KiB are read ahead of it; before that a
//! connection costs no buffer, so that thousands of strangers cost little.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// Bytes read ahead on a link.
const READ_AHEAD: usize = 64 * 1024;
/// A peer that does not acknowledge for this long is gone.
const DEAD_PEER: Duration = Duration::from_secs(20);
/// The kernel holds at most this much that has not left yet: queues stand where they are managed, in the link's
/// FairQueue.
const NOT_SENT: u32 = 128 * 1024;

/// A TCP connection, as TLS sees it.
pub(super) struct Socket {
    tcp: TcpStream,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Socket {
    pub(super) fn new(tcp: TcpStream) -> io::Result<Socket> {
        let options = SockRef::from(&tcp);
        options.set_tcp_nodelay(true)?;
        options.set_tcp_notsent_lowat(NOT_SENT)?;
        options.set_tcp_user_timeout(Some(DEAD_PEER))?;
        options.set_tcp_keepalive(
            &TcpKeepalive::new().with_time(DEAD_PEER / 2).with_interval(DEAD_PEER / 4).with_retries(2),
        )?;
        Ok(Socket { tcp, buffer: Vec::new(), start: 0, end: 0 })
    }

    /// From now on reads are large.
    pub(super) fn read_ahead(&mut self) {
        if self.buffer.is_empty() {
            self.buffer = vec![0; READ_AHEAD];
        }
    }

    /// Resolves when something can be read, without a buffer for it.
    pub(super) async fn readable(&self) -> io::Result<()> {
        self.tcp.readable().await
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.start == this.end {
            if out.remaining() >= this.buffer.len() {
                return Pin::new(&mut this.tcp).poll_read(cx, out);
            }
            let mut ahead = ReadBuf::new(&mut this.buffer);
            ready!(Pin::new(&mut this.tcp).poll_read(cx, &mut ahead))?;
            (this.start, this.end) = (0, ahead.filled().len());
        }
        let waiting = this.buffer.get(this.start..this.end).unwrap_or_default();
        let taken = waiting.len().min(out.remaining());
        out.put_slice(waiting.get(..taken).unwrap_or_default());
        this.start += taken;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
