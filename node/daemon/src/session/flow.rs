//! UDP in a session (PROTOCOL §6.9): one flow for each conversation, opened by a stream, carried by QUIC datagrams.
//!
//! The stream asks for the port as one for TCP does, and then stays silent: when it ends, the flow has ended. So a flow
//! is answered, counted and kept alive over a change of tunnels like any stream. What comes for a flow is given to whoever
//! opened it, at once or never: nothing waits here.

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use phantom_protocol::wire::flow::{Assembly, Part, cut};
use quinn::{Connection, RecvStream, SendStream, StreamId};
use tokio::time::{Instant, sleep_until};

use super::{memory, stream::OpenStream};
use crate::program::ProgramDatagrams;

/// Flows of one session.
const FLOWS: usize = 128;
/// A flow that carried nothing for this long has ended, at both ends.
const IDLE: Duration = Duration::from_secs(180);
/// Datagrams that one flow reads from its local socket before others have their turn.
const TURN: usize = 32;

/// Takes what comes for a flow. It must not wait: what it cannot take is lost, as datagrams may be.
pub type Deliver = Box<dyn Fn(Vec<u8>) + Send + Sync>;

/// The flows of one session, by the number of the stream that opened them.
#[derive(Clone, Default)]
pub(super) struct Flows(Arc<Mutex<BTreeMap<u32, Incoming>>>);

/// What comes for one flow.
struct Incoming {
    assembly: Assembly,
    /// What is counted of it.
    held: usize,
    deliver: Deliver,
    activity: Arc<Activity>,
}

impl Incoming {
    /// The datagram that this part completes. What would take more memory than a flow may have is lost.
    fn assemble(&mut self, part: &Part<'_>) -> Option<Vec<u8>> {
        if part.parts == 1 {
            return self.assembly.push(part).inspect(|_| self.note());
        }
        let allowed = part.part == 0 || memory::may_assemble(self.assembly.held() + part.data.len());
        let whole = if allowed { self.assembly.push(part) } else { None };
        if !allowed {
            self.assembly.clear();
        }
        self.note();
        whole
    }

    fn note(&mut self) {
        let before = std::mem::replace(&mut self.held, self.assembly.held());
        memory::assembling(before, self.held);
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        memory::assembling(self.held, 0);
    }
}

impl Flows {
    /// Gives what came in a QUIC datagram to its flow. Keep-alives, and what belongs to none, are dropped.
    pub(super) fn take(&self, datagram: &[u8]) {
        let Ok(part) = Part::decode(datagram) else { return };
        let mut flows = self.lock();
        let Some(flow) = flows.get_mut(&part.flow) else { return };
        flow.activity.note();
        if let Some(whole) = flow.assemble(&part) {
            (flow.deliver)(whole);
        }
    }

    /// One more, until what is returned is dropped. Nothing if there are too many.
    pub(super) fn enter(&self, stream: StreamId, deliver: Deliver) -> Option<FlowPlace> {
        let number = u32::try_from(stream.index()).ok()?;
        let activity = Arc::<Activity>::default();
        let mut flows = self.lock();
        if flows.len() >= FLOWS {
            return None;
        }
        flows.insert(
            number,
            Incoming { assembly: Assembly::default(), held: 0, deliver, activity: activity.clone() },
        );
        Some(FlowPlace { flows: self.clone(), number, activity })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Incoming>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of one flow among those of its session.
pub(super) struct FlowPlace {
    flows: Flows,
    number: u32,
    activity: Arc<Activity>,
}

impl Drop for FlowPlace {
    fn drop(&mut self) {
        let _dropped_outside_the_lock = self.flows.lock().remove(&self.number);
    }
}

/// When a flow last carried something.
struct Activity {
    since: Instant,
    /// Milliseconds after `since`.
    last: AtomicU64,
}

impl Default for Activity {
    fn default() -> Activity {
        Activity { since: Instant::now(), last: AtomicU64::new(0) }
    }
}

impl Activity {
    fn note(&self) {
        self.note_at(Instant::now());
    }

    fn note_at(&self, now: Instant) {
        self.last.store((now - self.since).as_millis() as u64, Ordering::Relaxed);
    }

    /// When it will have been so long, if nothing more comes.
    fn due(&self, idle: Duration) -> Instant {
        self.since + Duration::from_millis(self.last.load(Ordering::Relaxed)) + idle
    }

    /// Ends when nothing was noted for so long.
    async fn ceased(&self, idle: Duration) {
        loop {
            let due = self.due(idle);
            if Instant::now() >= due {
                return;
            }
            sleep_until(due).await;
        }
    }
}

/// One end of a flow. Dropping it ends the flow.
pub struct Flow {
    connection: Connection,
    place: FlowPlace,
    /// Counts what was sent.
    sent: u16,
    /// Ends the flow for the peer when it is dropped.
    _send: SendStream,
    recv: RecvStream,
    _open: Option<OpenStream>,
}

impl Flow {
    pub(super) fn new(
        connection: Connection,
        place: FlowPlace,
        (send, recv): (SendStream, RecvStream),
        open: Option<OpenStream>,
    ) -> Flow {
        Flow { connection, place, sent: 0, _send: send, recv, _open: open }
    }

    /// Sends a datagram, which may get lost on its way; one that is larger than allowed does.
    pub fn send(&mut self, data: &[u8]) {
        self.place.activity.note();
        let room = self.connection.max_datagram_size().unwrap_or(0);
        self.sent = self.sent.wrapping_add(1);
        for part in cut(self.place.number, self.sent, data, room).into_iter().flatten() {
            let _lost_or_the_session_has_ended = self.connection.send_datagram(part.encode().into());
        }
    }

    /// Ends when the flow has: at the other end, with its session, or because it carried nothing for long.
    pub async fn ended(&mut self) {
        tokio::select! {
            // The peer has nothing to say on the stream but its end.
            _ = self.recv.read_chunk(1, true) => {}
            () = self.place.activity.ceased(IDLE) => {}
        }
    }
}

impl fmt::Debug for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flow").finish_non_exhaustive()
    }
}

/// Carries what a local socket receives into a flow, until that ends.
pub(super) async fn carry(mut flow: Flow, socket: &ProgramDatagrams) {
    loop {
        tokio::select! {
            () = flow.ended() => return,
            ready = socket.readable() => {
                if ready.is_err() || !read_turn(socket, &mut flow) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        }
    }
}

/// Whether the socket still lives.
fn read_turn(socket: &ProgramDatagrams, flow: &mut Flow) -> bool {
    use std::io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable, WouldBlock};
    for _ in 0..TURN {
        match socket.try_receive(|datagram| flow.send(datagram)) {
            Ok(()) => {}
            Err(error) => match error.kind() {
                WouldBlock => return true,
                // An earlier datagram did not arrive; a later one may.
                ConnectionRefused | HostUnreachable | NetworkUnreachable => {}
                _ => return false,
            },
        }
    }
    true
}
