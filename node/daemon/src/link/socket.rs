//! The TCP socket below TLS: its options, and what has come from it and waits.
//!
//! Reads are small, so that thousands of strangers cost little; once a connection has become a link they are large.

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

use super::record::RECORD;

/// Bytes read at once on a link.
const READ: usize = 64 * 1024;
/// Bytes read at once of somebody who is none yet.
const SMALL_READ: usize = 4 * 1024;
/// A peer that does not acknowledge for this long is gone.
const DEAD_PEER: Duration = Duration::from_secs(20);
/// The kernel holds at most this much that has not left yet: queues stand where they are managed, in the link's
/// FairQueue.
const NOT_SENT: u32 = 128 * 1024;

/// A TCP connection, and what has come from it.
pub(super) struct Socket {
    tcp: TcpStream,
    /// What waits is in the middle: from `start` to `end`.
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
    pub(super) fn read_much(&mut self) {
        self.buffer.resize(self.buffer.len().max(READ), 0);
    }

    /// Resolves when something can be read, without a buffer for it.
    pub(super) async fn readable(&self) -> io::Result<()> {
        self.tcp.readable().await
    }

    /// What has come and was not yet taken.
    pub(super) fn waiting(&mut self) -> &mut [u8] {
        self.buffer.get_mut(self.start..self.end).unwrap_or_default()
    }

    /// The first bytes that wait are done with.
    pub(super) fn done_with(&mut self, bytes: usize) {
        self.start = (self.start + bytes).min(self.end);
    }

    /// Reads more behind what waits, which must be less than a record. `false` at the end.
    pub(super) fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        if self.end == self.buffer.len() {
            self.buffer.resize((self.end + SMALL_READ).min(self.buffer.len().max(RECORD)), 0);
        }
        let mut room = ReadBuf::new(self.buffer.get_mut(self.end..).unwrap_or_default());
        ready!(Pin::new(&mut self.tcp).poll_read(cx, &mut room))?;
        let length = room.filled().len();
        self.end += length;
        Poll::Ready(Ok(length > 0))
    }

    /// Writes some of `bytes`; how much.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match ready!(Pin::new(&mut self.tcp).poll_write(cx, bytes))? {
            0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            length => Poll::Ready(Ok(length)),
        }
    }

    /// Closes our direction.
    pub(super) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::{io::AsyncWriteExt, net::TcpListener};

    use super::*;

    #[tokio::test]
    async fn what_waits_is_kept_while_more_comes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut near = Socket::new(listener.accept().await.unwrap().0).unwrap();

        let sent: Vec<u8> = (0..RECORD - 1).map(|number| number as u8).collect();
        far.write_all(&sent).await.unwrap();
        while near.waiting().len() < sent.len() {
            assert!(poll_fn(|cx| near.poll_more(cx)).await.unwrap());
        }
        near.done_with(1_000);
        far.write_all(b"more").await.unwrap();
        while near.waiting().len() < sent.len() - 1_000 + 4 {
            assert!(poll_fn(|cx| near.poll_more(cx)).await.unwrap());
        }
        assert_eq!(*near.waiting(), [&sent[1_000..], b"more"].concat());
        assert_eq!(near.buffer.len(), RECORD);

        drop(far);
        assert!(!poll_fn(|cx| near.poll_more(cx)).await.unwrap());
    }
}
