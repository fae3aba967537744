//! A connection that was asked for by its alias: as long as it lasts, the alias stands for nobody else.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use phantom_proxy::Connection;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::names::Hold;

/// A connection, and what it keeps.
#[derive(Debug)]
pub struct Held<S> {
    stream: S,
    _hold: Hold,
}

impl<S> Held<S> {
    pub(super) fn new(stream: S, hold: Hold) -> Held<S> {
        Held { stream, _hold: hold }
    }
}

impl<S: Connection> Connection for Held<S> {
    fn reset(self) {
        self.stream.reset();
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.stream.poll_gone(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Held<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Held<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
