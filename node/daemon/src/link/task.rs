//! The task of one link (PROTOCOL §2): both directions in one poll, so that a peer that does not read never keeps us
//! from reading.
//!
//! Reading opens records, lets the switch turn the cells where they lie and wakes what a batch of them has touched. Writing
//! moves cells from the link's queue straight into TLS records and takes no more until these have left for the kernel:
//! what waits, waits in the queue, where it is fair. No cell costs an allocation.

use std::{
    future::poll_fn,
    io,
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
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use crate::hidden::Hidden;

use super::{
    Shared,
    connection::Connection,
    events::LinkEvent,
    outlet::NetOutlet,
    rate::Turns,
    record::Fault,
    table::{Ending, Link},
    tls::CELLS_PER_RECORD,
};

/// Cells handled before the links that they went to are woken.
const READ_BATCH: usize = 64;
/// Looks at what has come in such a batch: a peer that sends records of a byte gets no longer turn than others.
const LOOKS: usize = 4 * READ_BATCH;
/// Cells written at once, by one system call: four records.
const CELLS_AT_ONCE: usize = 4 * CELLS_PER_RECORD;
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

impl LinkEnd {
    /// One word for it.
    pub fn kind(&self) -> &'static str {
        match self {
            LinkEnd::Closed => "closed",
            LinkEnd::Replaced => "replaced",
            LinkEnd::Stuck => "stuck",
            LinkEnd::PeerClosed => "peer_closed",
            LinkEnd::Broken(_) => "broken",
            LinkEnd::Silent => "silent",
            LinkEnd::Misbehaved(_) => "misbehaved",
        }
    }
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

    /// Cells of the peer, in their order.
    pub(super) fn handle_cells(&mut self, now: Moment, cells: &mut [Cell]) -> Result<(), LinkEnd> {
        self.link.counters.cells_in.fetch_add(cells.len() as u64, Ordering::Relaxed);
        for row in cells.chunk_by_mut(|one, next| is_data(one) == is_data(next)) {
            if row.first().is_some_and(is_data) {
                self.link.counters.data_in.fetch_add(row.len() as u64, Ordering::Relaxed);
                self.shared.switch.handle_cells(now, self.link.id, row, &mut self.outlet);
            } else {
                row.iter_mut().try_for_each(|cell| self.handle_other(now, cell))?;
            }
        }
        Ok(())
    }

    fn handle_other(&mut self, now: Moment, cell: &mut Cell) -> Result<(), LinkEnd> {
        match cell.command().map_err(|_| LinkEnd::Misbehaved("a cell with a bad header"))? {
            Command::Dummy => Ok(()),
            Command::Hello => Err(LinkEnd::Misbehaved("a second proof of identity")),
            Command::Control => self.handle_control(cell),
            _ => {
                self.shared.switch.handle_cell(now, self.link.id, cell, &mut self.outlet);
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

fn is_data(cell: &Cell) -> bool {
    cell.command() == Ok(Command::Data)
}

/// The task of a link over TLS.
pub(super) struct LinkTask {
    shared: Arc<Shared>,
    link: Arc<Link>,
    connection: Connection,
    intake: Intake,
    sending: Turns,
    receiving: Turns,
    /// A cell that comes in several records, and how much of it is there.
    cell: Box<Cell>,
    filled: usize,
    /// When what is being written was taken from the queue.
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
    pub(super) fn new(shared: Arc<Shared>, link: Arc<Link>, mut connection: Connection) -> LinkTask {
        connection.read_much();
        let now = Instant::now();
        let mut tick = interval_at(now + TICK, TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        LinkTask {
            intake: Intake::new(Arc::clone(&shared), Arc::clone(&link)),
            sending: Turns::new(shared.rates.sending.clone()),
            receiving: Turns::new(shared.rates.receiving.clone()),
            shared,
            link,
            connection,
            cell: Box::new(Cell::new(Command::Dummy, TunnelId::new(0))),
            filled: 0,
            taken: now,
            tick,
            last_read: now,
            last_write: now,
            deadline: None,
            shut: false,
        }
    }

    /// Serves the link to its end, between its `Up` and its `Down`. The listener's proof of identity, which makes the
    /// link, goes before all other cells.
    pub(super) async fn run(mut self, up: LinkEvent, hello: Option<&Cell>) {
        let (link, peer) = (self.link.id, self.link.peer);
        let address = self.link.address.map(|address| address.to_string()).unwrap_or_default();
        tracing::debug!(link = link.0, peer = %Hidden(peer), address = %Hidden(address), "link up");
        self.shared.events.send(up);
        let Err(why) = match hello.map_or(Ok(()), |hello| self.seal_cell(hello)) {
            Ok(()) => poll_fn(|cx| self.poll(cx)).await,
            Err(why) => Err(why),
        };
        tracing::debug!(link = link.0, peer = %Hidden(peer), %why, "link down");
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
            if self.link.must_pause() || self.receiving.rests() {
                // We do not listen, so we cannot say that it is silent.
                self.last_read = now;
            }
            if now.duration_since(self.last_read) > SILENCE {
                return Err(LinkEnd::Silent);
            }
            if self.connection.is_sending() && now.duration_since(self.taken) > self.shared.stuck_after {
                return Err(LinkEnd::Stuck);
            }
            let idle = !self.connection.is_sending() && now.duration_since(self.last_write) > KEEP_ALIVE;
            if idle && self.deadline.is_none() {
                self.seal_cell(&Cell::new(Command::Dummy, TunnelId::new(0)))?;
            }
        }
        Ok(())
    }

    fn poll_read_batch(&mut self, cx: &mut Context<'_>) -> Result<Progress, LinkEnd> {
        if self.link.must_pause() || self.receiving.poll_rest(cx).is_pending() {
            return Ok(Progress::None);
        }
        let most = self.receiving.batch(READ_BATCH);
        let now = self.shared.clock.moment();
        let (mut cells, mut looks) = (0, 0);
        while cells < most && looks < LOOKS {
            match self.connection.poll_data(cx) {
                Poll::Pending => break,
                Poll::Ready(Err(error)) => return Err(self.broken(&error)),
                Poll::Ready(Ok(false)) => return Err(self.peer_closed()),
                Poll::Ready(Ok(true)) => cells += self.handle_data(now)?,
            }
            looks += 1;
        }
        if cells == 0 {
            return Ok(if looks == LOOKS { Progress::Some } else { Progress::None });
        }
        self.last_read = Instant::now();
        self.receiving.charge(self.last_read, cells);
        self.intake.flush();
        Ok(Progress::Some)
    }

    /// Handles cells of a record where they lie, one that is split in a buffer of its own; how many have become whole.
    fn handle_data(&mut self, now: Moment) -> Result<usize, LinkEnd> {
        if self.filled == 0 {
            let cells = Cell::all_of(self.connection.data());
            let whole = cells.len();
            if whole > 0 {
                self.intake.handle_cells(now, cells)?;
                self.connection.skip(whole * CELL);
                return Ok(whole);
            }
        }
        let room = self.cell.0.get_mut(self.filled..).unwrap_or_default();
        self.filled += self.connection.take_data(room);
        if self.filled < CELL {
            return Ok(0);
        }
        self.filled = 0;
        self.intake.handle_cells(now, std::slice::from_mut(&mut self.cell))?;
        Ok(1)
    }

    fn poll_write_batch(&mut self, cx: &mut Context<'_>) -> Result<Progress, LinkEnd> {
        if self.shut || !self.poll_written(cx)? {
            return Ok(Progress::None);
        }
        if self.connection.has_closed() {
            return self.poll_last_words(cx);
        }
        let Poll::Ready(turn) = self.poll_turn(cx) else { return Ok(Progress::None) };
        let sealed = self.seal_batch(turn)?;
        self.sending.used(sealed);
        if sealed == 0 {
            return self.poll_last_words(cx);
        }
        self.poll_written(cx)?;
        Ok(Progress::Some)
    }

    /// How many cells may be taken from the queue now.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        if !self.sending.is_limited() {
            return Poll::Ready(CELLS_AT_ONCE);
        }
        match self.link.waiting().min(CELLS_AT_ONCE) {
            0 => Poll::Ready(0),
            waiting => self.sending.poll_turn(cx, Instant::now(), waiting),
        }
    }

    /// Moves at most `most` cells from the queue into records; how many.
    fn seal_batch(&mut self, most: usize) -> Result<usize, LinkEnd> {
        let now = self.shared.clock.moment();
        let mut cells = 0;
        while cells < most {
            let next = CELLS_PER_RECORD.min(most - cells);
            let sealed = self.connection.seal(|record| self.link.pop(now, record, next));
            let sealed = sealed.map_err(|error| self.broken(&error))?;
            cells += sealed;
            if sealed < CELLS_PER_RECORD {
                break;
            }
        }
        if cells > 0 {
            self.taken = Instant::now();
        }
        Ok(cells)
    }

    fn seal_cell(&mut self, cell: &Cell) -> Result<(), LinkEnd> {
        self.taken = Instant::now();
        self.sending.book_one(self.taken);
        self.connection.seal(|record| record.extend_from_slice(&cell.0)).map_err(|error| self.broken(&error))
    }

    /// Whether everything that was taken from the queue has left for the kernel.
    fn poll_written(&mut self, cx: &mut Context<'_>) -> Result<bool, LinkEnd> {
        let was_sending = self.connection.is_sending();
        match self.connection.poll_flush(cx) {
            Poll::Pending => return Ok(false),
            Poll::Ready(Err(error)) => return Err(self.broken(&error)),
            Poll::Ready(Ok(())) => {}
        }
        if was_sending {
            self.last_write = Instant::now();
        }
        Ok(true)
    }

    /// With an empty queue and the end in sight, says goodbye as TLS does; the peer's goodbye ends the task.
    fn poll_last_words(&mut self, cx: &mut Context<'_>) -> Result<Progress, LinkEnd> {
        if self.deadline.is_some() {
            match self.connection.poll_close(cx) {
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
        let fault = error.get_ref().and_then(|cause| cause.downcast_ref::<Fault>());
        match error.kind() {
            _ if self.deadline.is_some() => LinkEnd::Closed,
            _ if fault.is_some_and(|fault| fault.is_proven()) => LinkEnd::Misbehaved("a breach of TLS"),
            io::ErrorKind::UnexpectedEof => LinkEnd::PeerClosed,
            kind => LinkEnd::Broken(kind),
        }
    }
}
