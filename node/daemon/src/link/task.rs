//! The task of one link (PROTOCOL §2): both directions in one poll, so that a peer that does not read never keeps us
//! from reading.
//!
//! Reading gathers a batch of cells, lets the switch turn each in place and wakes what the batch has touched. Writing
//! takes whole TLS records from the link's queue and takes no more until they have left for the kernel: what waits,
//! waits in the queue, where it is fair. No cell costs an allocation.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};

use phantom_protocol::{
    time::Moment,
    wire::{
        cell::{CELL, Cell, Command, HEADER, TunnelId},
        control::Reassembler,
    },
};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Interval, MissedTickBehavior, interval_at},
};
use tokio_rustls::TlsStream;

use super::{
    Shared,
    events::LinkEvent,
    outlet::NetOutlet,
    socket::Socket,
    table::{Ending, Link},
    tls::CELLS_PER_RECORD,
};

/// Cells handled before the links that they went to are woken.
const READ_BATCH: usize = 64;
/// Cells written at once: four full records, one system call.
const WRITE_BATCH: usize = 4 * CELLS_PER_RECORD;
/// Rounds of reading and writing before other tasks get their turn.
const ROUNDS: usize = 4;
/// How often the clock is looked at.
const TICK: Duration = Duration::from_secs(2);
/// A link that has sent nothing for this long sends a dummy.
const KEEP_ALIVE: Duration = Duration::from_secs(8);
/// A link that has heard nothing for this long is dead: its peer has missed two keep-alives.
const SILENCE: Duration = Duration::from_secs(20);
/// What is left to say at the end must be said in this time.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Why a link has ended.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LinkEnd {
    /// This node has closed it.
    #[error("closed by this node")]
    Closed,
    /// The peer has opened another link, so it had lost this one.
    #[error("replaced by a newer link to the same node")]
    Replaced,
    /// Too much waits for it that must not be dropped.
    #[error("the other node takes nothing")]
    Stuck,
    /// The peer has closed it.
    #[error("closed by the other node")]
    PeerClosed,
    /// The connection broke.
    #[error("the connection broke ({0})")]
    Broken(io::ErrorKind),
    /// Nothing came for too long.
    #[error("the other node fell silent")]
    Silent,
    /// A cell that no honest node sends.
    #[error("the other node broke the protocol: {0}")]
    Misbehaved(&'static str),
}

/// Takes cells of one link apart: tunnels to the switch, messages to the driver.
pub(super) struct Intake {
    shared: Arc<Shared>,
    link: Arc<Link>,
    outlet: NetOutlet,
    messages: Reassembler,
    /// Bytes of the message under way.
    pending: usize,
}

impl Intake {
    pub(super) fn new(shared: Arc<Shared>, link: Arc<Link>) -> Intake {
        let outlet = NetOutlet::new(Arc::clone(&shared), Some(Arc::clone(&link)));
        Intake { shared, link, outlet, messages: Reassembler::new(), pending: 0 }
    }

    /// One cell of the peer.
    pub(super) fn handle_cell(&mut self, now: Moment, cell: &mut Cell) -> Result<(), LinkEnd> {
        self.link.counters.cells_in.fetch_add(1, Ordering::Relaxed);
        let command = cell.command().map_err(|_| LinkEnd::Misbehaved("a cell with a bad header"))?;
        match command {
            Command::Dummy => Ok(()),
            Command::Hello => Err(LinkEnd::Misbehaved("a second proof of identity")),
            Command::Control => self.handle_control(cell),
            Command::Data => {
                self.link.counters.data_in.fetch_add(1, Ordering::Relaxed);
                self.switch_cell(now, cell);
                Ok(())
            }
            _ => {
                self.switch_cell(now, cell);
                Ok(())
            }
        }
    }

    /// The batch is over.
    pub(super) fn flush(&mut self) {
        self.outlet.flush();
    }

    /// Whether the driver must catch up first; its link's task is woken then.
    pub(super) fn is_paused(&self) -> bool {
        self.link.must_pause()
    }

    fn switch_cell(&mut self, now: Moment, cell: &mut Cell) {
        self.shared.switch.handle_cell(now, self.link.id, cell, &mut self.outlet);
    }

    fn handle_control(&mut self, cell: &Cell) -> Result<(), LinkEnd> {
        self.pending += CELL - HEADER;
        let message = self.messages.push(cell);
        let message = message.map_err(|_| LinkEnd::Misbehaved("a malformed control message"))?;
        if let Some(message) = message {
            let bytes = std::mem::take(&mut self.pending);
            let event = LinkEvent::Message { link: self.link.id, message };
            self.shared.events.send_from(&self.link, bytes, event);
        }
        Ok(())
    }
}

/// The task of a link over TLS.
pub(super) struct LinkTask {
    shared: Arc<Shared>,
    link: Arc<Link>,
    stream: TlsStream<Socket>,
    intake: Intake,
    /// The cell being read, and how much of it is there.
    cell: Box<Cell>,
    filled: usize,
    /// What is being written, and how much of it TLS has taken.
    batch: Vec<u8>,
    written: usize,
    /// When it was taken from the queue.
    taken: Instant,
    tick: Interval,
    last_read: Instant,
    last_write: Instant,
    /// Set when the link ends in order: until then the peer may hear the rest.
    deadline: Option<Instant>,
    shut: bool,
}

/// What one look at a direction has brought.
#[derive(PartialEq, Eq)]
enum Progress {
    Some,
    None,
}

impl LinkTask {
    pub(super) fn new(shared: Arc<Shared>, link: Arc<Link>, mut stream: TlsStream<Socket>) -> LinkTask {
        match &mut stream {
            TlsStream::Client(stream) => stream.get_mut().0.read_ahead(),
            TlsStream::Server(stream) => stream.get_mut().0.read_ahead(),
        }
        let now = Instant::now();
        let mut tick = interval_at(now + TICK, TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        LinkTask {
            intake: Intake::new(Arc::clone(&shared), Arc::clone(&link)),
            shared,
            link,
            stream,
            cell: Box::new(Cell::new(Command::Dummy, TunnelId::new(0))),
            filled: 0,
            batch: Vec::with_capacity(WRITE_BATCH * CELL),
            written: 0,
            taken: now,
            tick,
            last_read: now,
            last_write: now,
            deadline: None,
            shut: false,
        }
    }

    /// Sends a cell before all others: the listener's proof of identity, which makes the link.
    pub(super) fn greet(mut self, hello: &Cell) -> LinkTask {
        self.batch.extend_from_slice(&hello.0);
        self
    }

    /// Serves the link to its end, between its `Up` and its `Down`.
    pub(super) async fn run(mut self, up: LinkEvent) {
        let (link, peer) = (self.link.id, self.link.peer);
        self.shared.events.send(up);
        let Err(why) = poll_fn(|cx| self.poll(cx)).await;
        tracing::debug!(link = link.0, ?peer, %why, "link down");
        self.shared.table.remove(&self.link);
        self.shared.switch.link_down(link, &mut self.intake.outlet);
        self.intake.flush();
        self.shared.events.send(LinkEvent::Down { link, peer, why });
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<std::convert::Infallible, LinkEnd>> {
        // Registered before the queue and the backlog are looked at, so that no wake-up is missed.
        self.link.waker.register(cx.waker());
        for _ in 0..ROUNDS {
            match self.poll_round(cx) {
                Ok(Progress::Some) => {}
                Ok(Progress::None) => return Poll::Pending,
                Err(why) => return Poll::Ready(Err(why)),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_round(&mut self, cx: &mut Context<'_>) -> Result<Progress, LinkEnd> {
        self.look_at_ending()?;
        self.look_at_clock(cx)?;
        let read = self.poll_read_batch(cx)?;
        let written = self.poll_write_batch(cx)?;
        Ok(if read == Progress::Some { read } else { written })
    }

    fn look_at_ending(&mut self) -> Result<(), LinkEnd> {
        match self.link.ending() {
            Ending::No => {}
            Ending::Replaced => return Err(LinkEnd::Replaced),
            Ending::Stuck => return Err(LinkEnd::Stuck),
            Ending::Orderly if self.deadline.is_none() => {
                self.deadline = Some(Instant::now() + LAST_WORDS);
                self.tick = interval_at(Instant::now() + LAST_WORDS, LAST_WORDS);
            }
            Ending::Orderly => {}
        }
        Ok(())
    }

    fn look_at_clock(&mut self, cx: &mut Context<'_>) -> Result<(), LinkEnd> {
        while self.tick.poll_tick(cx).is_ready() {
            let now = Instant::now();
            if self.deadline.is_some_and(|deadline| deadline <= now) {
                return Err(LinkEnd::Closed);
            }
            if self.link.must_pause() {
                // We do not listen, so we cannot say that it is silent.
                self.last_read = now;
            }
            if now.duration_since(self.last_read) > SILENCE {
                return Err(LinkEnd::Silent);
            }
            if !self.batch.is_empty() && now.duration_since(self.taken) > self.shared.stuck_after {
                return Err(LinkEnd::Stuck);
            }
            let idle = self.batch.is_empty() && now.duration_since(self.last_write) > KEEP_ALIVE;
            if idle && self.deadline.is_none() {
                self.batch.extend_from_slice(&Cell::new(Command::Dummy, TunnelId::new(0)).0);
                self.written = 0;
                self.taken = now;
            }
        }
        Ok(())
    }

    fn poll_read_batch(&mut self, cx: &mut Context<'_>) -> Result<Progress, LinkEnd> {
        if self.link.must_pause() {
            return Ok(Progress::None);
        }
        let now = self.shared.clock.moment();
        let mut cells = 0;
        while cells < READ_BATCH && self.poll_read_cell(cx)? {
            cells += 1;
            self.intake.handle_cell(now, &mut self.cell)?;
        }
        if cells == 0 {
            return Ok(Progress::None);
        }
        self.last_read = Instant::now();
        self.intake.flush();
        Ok(Progress::Some)
    }

    /// Whether `self.cell` has become whole.
    fn poll_read_cell(&mut self, cx: &mut Context<'_>) -> Result<bool, LinkEnd> {
        loop {
            let mut room = ReadBuf::new(self.cell.0.get_mut(self.filled..).unwrap_or_default());
            match Pin::new(&mut self.stream).poll_read(cx, &mut room) {
                Poll::Pending => return Ok(false),
                Poll::Ready(Err(error)) => return Err(self.broken(&error)),
                Poll::Ready(Ok(())) if room.filled().is_empty() => return Err(self.peer_closed()),
                Poll::Ready(Ok(())) => self.filled += room.filled().len(),
            }
            if self.filled == CELL {
                self.filled = 0;
                return Ok(true);
            }
        }
    }

    fn poll_write_batch(&mut self, cx: &mut Context<'_>) -> Result<Progress, LinkEnd> {
        if self.shut || !self.poll_written(cx)? {
            return Ok(Progress::None);
        }
        if self.link.pop(self.shared.clock.moment(), &mut self.batch, WRITE_BATCH) == 0 {
            return self.poll_last_words(cx);
        }
        self.taken = Instant::now();
        self.poll_written(cx)?;
        Ok(Progress::Some)
    }

    /// Whether everything that was taken from the queue has left for the kernel.
    fn poll_written(&mut self, cx: &mut Context<'_>) -> Result<bool, LinkEnd> {
        if self.batch.is_empty() {
            return Ok(true);
        }
        while let Some(rest) = self.batch.get(self.written..).filter(|rest| !rest.is_empty()) {
            match Pin::new(&mut self.stream).poll_write(cx, rest) {
                Poll::Pending => return Ok(false),
                Poll::Ready(Err(error)) => return Err(self.broken(&error)),
                Poll::Ready(Ok(length)) => self.written += length,
            }
        }
        match Pin::new(&mut self.stream).poll_flush(cx) {
            Poll::Pending => return Ok(false),
            Poll::Ready(Err(error)) => return Err(self.broken(&error)),
            Poll::Ready(Ok(())) => {}
        }
        self.batch.clear();
        self.written = 0;
        self.last_write = Instant::now();
        Ok(true)
    }

    /// With an empty queue and the end in sight, says goodbye as TLS does; the peer's goodbye ends the task.
    fn poll_last_words(&mut self, cx: &mut Context<'_>) -> Result<Progress, LinkEnd> {
        if self.deadline.is_some() {
            match Pin::new(&mut self.stream).poll_shutdown(cx) {
                Poll::Pending => {}
                Poll::Ready(Err(error)) => return Err(self.broken(&error)),
                Poll::Ready(Ok(())) => self.shut = true,
            }
        }
        Ok(Progress::None)
    }

    fn peer_closed(&self) -> LinkEnd {
        if self.deadline.is_some() { LinkEnd::Closed } else { LinkEnd::PeerClosed }
    }

    fn broken(&self, error: &io::Error) -> LinkEnd {
        match error.kind() {
            _ if self.deadline.is_some() => LinkEnd::Closed,
            io::ErrorKind::UnexpectedEof => LinkEnd::PeerClosed,
            kind => LinkEnd::Broken(kind),
        }
    }
}
