//! A TLS connection after its handshake: a socket, and the records on it.

use std::{
    future::poll_fn,
    io,
    ops::Range,
    task::{Context, Poll, ready},
};

use super::{
    record::{Fault, Opened, Records},
    socket::Socket,
    tls::RECORD_OF_CELLS,
};

/// One connection. Reading and writing do not wait for each other.
pub(super) struct Connection {
    socket: Socket,
    records: Records,
    /// The length of the record that is open at the front of what waits in the socket, and where its rest lies in it.
    record: usize,
    opened: Range<usize>,
    /// Nothing more comes.
    ended: Option<Ended>,
    /// Sealed, and how much of it has left.
    outgoing: Vec<u8>,
    sent: usize,
    has_closed: bool,
}

#[derive(Clone, Copy)]
enum Ended {
    InOrder,
    Faulty(Fault),
}

impl Connection {
    /// What is left of the handshake: nothing waits to be sent, and all that waits in the socket is under `records`.
    pub(super) fn new(socket: Socket, records: Records) -> Connection {
        Connection {
            socket,
            records,
            record: 0,
            opened: 0..0,
            ended: None,
            outgoing: Vec::new(),
            sent: 0,
            has_closed: false,
        }
    }

    /// From now on much is read at once.
    pub(super) fn read_much(&mut self) {
        self.socket.read_much();
    }

    /// Waits for data of the peer; `false` when it has closed in order.
    pub(super) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        while self.opened.is_empty() {
            match self.ended {
                Some(Ended::InOrder) => return Poll::Ready(Ok(false)),
                Some(Ended::Faulty(fault)) => return Poll::Ready(Err(invalid(fault))),
                None => {}
            }
            self.socket.done_with(std::mem::take(&mut self.record));
            match self.records.open(self.socket.waiting()) {
                Ok(Opened::Record(length, data)) => (self.record, self.opened) = (length, data),
                Ok(Opened::Closed) => self.ended = Some(Ended::InOrder),
                Ok(Opened::Part) => {
                    if !ready!(self.socket.poll_more(cx))? {
                        return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                    }
                }
                Err(fault) => {
                    self.ended = Some(Ended::Faulty(fault));
                    let told = self.records.seal_fault(fault, &mut self.outgoing);
                    // The peer is told if there is room for it now; the connection is over either way.
                    if told.is_ok() {
                        let _ = self.poll_sent(cx);
                    }
                }
            }
        }
        Poll::Ready(Ok(true))
    }

    /// Data that has come: the rest of one record.
    pub(super) fn data(&mut self) -> &mut [u8] {
        self.socket.waiting().get_mut(self.opened.clone()).unwrap_or_default()
    }

    /// So much of it is done with.
    pub(super) fn skip(&mut self, bytes: usize) {
        self.opened.start = (self.opened.start + bytes).min(self.opened.end);
    }

    /// Copies data that has come; how much.
    pub(super) fn take_data(&mut self, out: &mut [u8]) -> usize {
        let data = self.data();
        let taken = data.len().min(out.len());
        if let (Some(data), Some(out)) = (data.get(..taken), out.get_mut(..taken)) {
            out.copy_from_slice(data);
        }
        self.skip(taken);
        taken
    }

    /// Seals what `fill` appends as one record, at most [`RECORD_OF_CELLS`] bytes.
    pub(super) fn seal<T>(&mut self, fill: impl FnOnce(&mut Vec<u8>) -> T) -> io::Result<T> {
        self.records.seal(&mut self.outgoing, fill).map_err(invalid)
    }

    /// Whether something is sealed that has not left.
    pub(super) fn is_sending(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Waits until everything has left for the kernel: what was sealed, and what the peer has asked for.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // One answer at a time: a peer that takes nothing must not make answers pile up.
        if self.outgoing.is_empty() && self.records.owes_update() {
            self.records.seal_update_if_due(&mut self.outgoing).map_err(invalid)?;
        }
        self.poll_sent(cx)
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.outgoing.get(self.sent..).filter(|rest| !rest.is_empty()) {
            self.sent += ready!(self.socket.poll_write(cx, rest))?;
        }
        self.outgoing.clear();
        self.sent = 0;
        Poll::Ready(Ok(()))
    }

    /// Whether it has been said that nothing more comes.
    pub(super) fn has_closed(&self) -> bool {
        self.has_closed
    }

    /// Says that nothing more comes, and closes our direction.
    pub(super) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.has_closed {
            self.has_closed = true;
            self.records.seal_close(&mut self.outgoing).map_err(invalid)?;
        }
        ready!(self.poll_sent(cx))?;
        self.socket.poll_close(cx)
    }

    /// Reads what there is, at least a byte; 0 when the peer has closed in order.
    pub(super) async fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let more = poll_fn(|cx| self.poll_data(cx)).await?;
        Ok(if more { self.take_data(out) } else { 0 })
    }

    /// Writes all of it.
    pub(super) async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        for data in bytes.chunks(RECORD_OF_CELLS) {
            self.seal(|out| out.extend_from_slice(data))?;
            poll_fn(|cx| self.poll_flush(cx)).await?;
        }
        Ok(())
    }

    /// Closes our direction.
    pub(super) async fn close(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_close(cx)).await
    }
}

fn invalid(fault: Fault) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, fault)
}
