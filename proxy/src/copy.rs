//! The bytes after the handshake, both ways, with the endings of TCP.
//!
//! An end of one side is passed on while the other direction goes on (half-close). A reset is passed on as a reset, after
//! the bytes that came before it; so is one that answers what a side has sent after its end. A side that no longer takes bytes may finish what it has to say, for a short while.
//! After 64 KiB in one turn the task yields, or an interactive client would wait behind a bulk one.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::sleep,
};

use crate::Connection;

/// Bytes in one turn, and the largest buffer of a direction.
const TURN: usize = 64 * 1024;
/// The buffer of a direction that never had more to carry at once, and how much larger one gets that was full.
const SMALL: usize = 1024;
const GROWTH: usize = 8;
/// After the first failure the rest may take this long.
const GRACE: Duration = Duration::from_secs(5);

/// Copies until both directions have ended, or one was reset. `ahead` is what the client has sent already.
pub(crate) async fn copy_both_ways<P: Connection, C: Connection>(client: P, ahead: Vec<u8>, far: C) {
    let mut copy = Copy { client, far, up: Pipe::new(ahead), down: Pipe::new(Vec::new()) };
    let clean = copy.run().await;
    if !clean {
        copy.far.reset();
        copy.client.reset();
    }
}

/// Carries bytes between a program and the far side until both directions have ended, or one was reset.
pub async fn carry<P: Connection, C: Connection>(program: P, far: C) {
    copy_both_ways(program, Vec::new(), far).await;
}

struct Copy<P, C> {
    client: P,
    far: C,
    /// From the client to the far side.
    up: Pipe,
    /// From the far side to the client.
    down: Pipe,
}

/// What a turn has led to.
enum Turn {
    /// Both directions can go on: it is the turn of others.
    Yield,
    /// One direction has failed, the other may go on until the grace ends.
    Failing,
    Finished,
    Reset,
}

impl<P: Connection, C: Connection> Copy<P, C> {
    /// True if both directions came to their end.
    async fn run(&mut self) -> bool {
        let mut failing = false;
        let grace = sleep(GRACE);
        tokio::pin!(grace);
        loop {
            let turn = tokio::select! {
                biased;
                turn = std::future::poll_fn(|cx| self.poll_turn(cx, failing)) => turn,
                () = &mut grace, if failing => return false,
            };
            match turn {
                Turn::Yield => tokio::task::yield_now().await,
                Turn::Failing => {
                    failing = true;
                    grace.as_mut().reset(tokio::time::Instant::now() + GRACE);
                }
                Turn::Finished => return true,
                Turn::Reset => return false,
            }
        }
    }

    fn poll_turn(&mut self, cx: &mut Context<'_>, failing: bool) -> Poll<Turn> {
        let up = self.up.poll_turn(cx, &mut self.client, &mut self.far);
        let down = self.down.poll_turn(cx, &mut self.far, &mut self.client);
        let is_heard_out = matches!((&self.up.state, &self.down.state), (State::Open, State::Ended));
        if is_heard_out && self.far.poll_gone(cx).is_ready() {
            self.up.state = State::Stuck;
        }
        let ended = |pipe: &Pipe| matches!(pipe.state, State::Ended | State::Stuck);
        let broken = |pipe: &Pipe| matches!(pipe.state, State::Broken);
        if broken(&self.up) || broken(&self.down) {
            return Poll::Ready(Turn::Reset);
        }
        if ended(&self.up) && ended(&self.down) {
            let clean = matches!((&self.up.state, &self.down.state), (State::Ended, State::Ended));
            return Poll::Ready(if clean { Turn::Finished } else { Turn::Reset });
        }
        if !failing && (self.up.is_failing() || self.down.is_failing()) {
            return Poll::Ready(Turn::Failing);
        }
        if up.is_ready() || down.is_ready() { Poll::Ready(Turn::Yield) } else { Poll::Pending }
    }
}

/// One direction.
struct Pipe {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    state: State,
}

enum State {
    Open,
    /// The reader has ended: what is buffered goes out, then the end is passed on.
    Ending,
    /// The reader was reset: what is buffered goes out, then this direction is broken.
    Breaking,
    /// Ended in order.
    Ended,
    /// The writer takes no more.
    Stuck,
    /// Everything before the reset has gone out.
    Broken,
}

impl Pipe {
    fn new(mut buffer: Vec<u8>) -> Pipe {
        let end = buffer.len();
        buffer.resize(SMALL.max(end), 0);
        Pipe { buffer, start: 0, end, state: State::Open }
    }

    fn is_failing(&self) -> bool {
        matches!(self.state, State::Breaking | State::Stuck | State::Broken)
    }

    /// Ready when a turn's worth of bytes has moved and more may come; pending when only a wake-up or nothing can help.
    fn poll_turn(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut (impl AsyncRead + Unpin),
        writer: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<()> {
        let mut moved = 0;
        while moved < TURN {
            match self.state {
                State::Open if self.start == self.end => ready!(self.poll_fill(cx, reader, writer)),
                State::Open => moved += ready!(self.poll_drain(cx, writer)),
                State::Ending | State::Breaking if self.start < self.end => {
                    moved += ready!(self.poll_drain(cx, writer))
                }
                State::Ending => {
                    let result = ready!(Pin::new(&mut *writer).poll_shutdown(cx));
                    self.state = if result.is_ok() { State::Ended } else { State::Stuck };
                }
                State::Breaking => self.state = State::Broken,
                State::Ended | State::Stuck | State::Broken => return Poll::Pending,
            }
        }
        Poll::Ready(())
    }

    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut (impl AsyncRead + Unpin),
        writer: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<()> {
        let mut room = ReadBuf::new(&mut self.buffer);
        let result = match Pin::new(reader).poll_read(cx, &mut room) {
            Poll::Ready(result) => result,
            Poll::Pending => {
                // Nothing more to come at once: what a writer holds back should go now.
                if let Poll::Ready(Err(_)) = Pin::new(writer).poll_flush(cx) {
                    self.state = State::Stuck;
                }
                return Poll::Pending;
            }
        };
        let read = room.filled().len();
        (self.start, self.end) = (0, read);
        match result {
            Err(_) => self.state = State::Breaking,
            Ok(()) if read == 0 => self.state = State::Ending,
            Ok(()) => {}
        }
        Poll::Ready(())
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>, writer: &mut (impl AsyncWrite + Unpin)) -> Poll<usize> {
        let bytes = self.buffer.get(self.start..self.end).unwrap_or_default();
        let written = match ready!(Pin::new(writer).poll_write(cx, bytes)) {
            Ok(0) | Err(_) => {
                self.state = State::Stuck;
                return Poll::Ready(0);
            }
            Ok(written) => written,
        };
        self.start += written;
        if self.start == self.end && self.end == self.buffer.len() && self.buffer.len() < TURN {
            // A full buffer: more is to come. Idle clients, of which there may be thousands, stay small.
            self.buffer = vec![0; (self.buffer.len() * GROWTH).min(TURN)];
            (self.start, self.end) = (0, 0);
        }
        Poll::Ready(written)
    }
}
