//! One routing tunnel as a session sees it (PROTOCOL §5, §6): datagrams out through [`TunnelSend`], datagrams in
//! through an [`Inbox`] that the readers of links fill. Whoever drops the [`Tunnel`] closes the routing tunnel.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use phantom_protocol::{
    tunnel::OwnerTunnelId,
    wire::body::{Kind, MAX_PAYLOAD},
};
use tokio::sync::Notify;

/// Bytes that wait in one inbox at most; what comes then is lost, and QUIC repairs it.
const INBOX_BYTES: usize = 4 << 20;
/// An empty inbox keeps no more than this ...
const INBOX_KEPT: usize = 512 << 10;
/// ... and, once only little has come since it was empty before, half of what it had, down to this.
const INBOX_RESTING: usize = 64 << 10;
/// Length 2, kind 1.
const RECORD_HEADER: usize = 3;

/// What carries the payloads of this node's own tunnels.
pub trait TunnelSend: Send + Sync {
    /// Sends one payload. False if the tunnel is gone.
    fn send(&self, tunnel: OwnerTunnelId, kind: Kind, payload: &[u8], after: After) -> bool;
    /// Closes the tunnel; without effect on one that is gone.
    fn close(&self, tunnel: OwnerTunnelId);
    /// Tells the entry node that this incoming tunnel is wanted.
    fn confirm(&self, tunnel: OwnerTunnelId);
}

/// What comes after a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// Another one, at once: this one need not be hurried on.
    More,
    /// Nothing for now.
    Nothing,
}

/// One end of a routing tunnel, owned by a session.
pub struct Tunnel {
    id: OwnerTunnelId,
    sender: Arc<dyn TunnelSend>,
    inbox: Arc<Inbox>,
}

impl Tunnel {
    /// A tunnel, and the inbox to put what comes out of it into.
    pub fn new(id: OwnerTunnelId, sender: Arc<dyn TunnelSend>) -> (Tunnel, Arc<Inbox>) {
        let inbox = Arc::new(Inbox::default());
        (Tunnel { id, sender, inbox: inbox.clone() }, inbox)
    }

    /// The tunnel's number on this node.
    pub fn id(&self) -> OwnerTunnelId {
        self.id
    }

    /// Where its datagrams wait.
    pub fn inbox(&self) -> &Arc<Inbox> {
        &self.inbox
    }

    /// Tells the entry node that this incoming tunnel is wanted.
    pub fn confirm(&self) {
        self.sender.confirm(self.id);
    }

    /// Sends one payload; on a closed tunnel it is lost.
    pub fn send(&self, kind: Kind, payload: &[u8], after: After) {
        if !self.inbox.is_closed() && !self.sender.send(self.id, kind, payload, after) {
            self.inbox.close();
        }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.inbox.close();
        self.sender.close(self.id);
    }
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tunnel({})", self.id.get())
    }
}

/// Learns that an inbox is no longer empty, or closed.
pub(super) trait Ready: Send + Sync {
    /// Called without any lock of the inbox held.
    fn ready(&self);
}

/// The datagrams that have come out of a tunnel and were not yet read: bounded, in order.
#[derive(Default)]
pub struct Inbox {
    ring: Mutex<Ring>,
    closed: AtomicBool,
    closing: Notify,
}

#[derive(Default)]
struct Ring {
    /// Records: length, kind, payload.
    bytes: VecDeque<u8>,
    /// The most that waited since the ring was empty.
    peak: usize,
    reader: Option<Arc<dyn Ready>>,
}

impl Inbox {
    /// Takes a payload that came out of the tunnel. Lost if the inbox is full or closed. The reader learns of it with
    /// the next [`Inbox::wake`].
    pub fn push(&self, kind: Kind, payload: &[u8]) {
        if payload.len() > MAX_PAYLOAD || self.is_closed() {
            return;
        }
        let mut ring = self.lock();
        if ring.bytes.len() + RECORD_HEADER + payload.len() > INBOX_BYTES {
            return;
        }
        let [high, low] = (payload.len() as u16).to_be_bytes();
        ring.bytes.extend([high, low, kind as u8]);
        ring.bytes.extend(payload);
        ring.peak = ring.peak.max(ring.bytes.len());
    }

    /// Tells the reader that something waits, if it does: once for all that was pushed together.
    pub fn wake(&self) {
        let reader = {
            let ring = self.lock();
            if ring.bytes.is_empty() { None } else { ring.reader.clone() }
        };
        if let Some(reader) = reader {
            reader.ready();
        }
    }

    /// The tunnel has ended. What waits can still be read.
    pub fn close(&self) {
        if !self.closed.swap(true, Ordering::AcqRel) {
            self.closing.notify_waiters();
            let reader = self.lock().reader.clone();
            if let Some(reader) = reader {
                reader.ready();
            }
        }
    }

    /// Whether the tunnel has ended.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Waits until the tunnel has ended.
    pub async fn closed(&self) {
        let closing = self.closing.notified();
        if !self.is_closed() {
            closing.await;
        }
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().bytes.is_empty()
    }

    /// Who is told from now on; called at once if something already waits.
    pub(super) fn set_reader(&self, reader: Arc<dyn Ready>) {
        let waiting = {
            let mut ring = self.lock();
            ring.reader = Some(reader.clone());
            !ring.bytes.is_empty()
        };
        if waiting || self.is_closed() {
            reader.ready();
        }
    }

    /// Hands out up to `most` records; `take` gets the kind and the payload. Returns whether more is waiting.
    pub(super) fn drain(&self, most: usize, mut take: impl FnMut(Kind, &[u8])) -> bool {
        let mut ring = self.lock();
        let mut payload = [0; MAX_PAYLOAD];
        for _ in 0..most {
            let Some((kind, length)) = ring.pop_header() else { break };
            let (payload, _) = payload.split_at_mut(length.min(MAX_PAYLOAD));
            ring.pop(payload);
            take(kind, payload);
        }
        ring.rest();
        !ring.bytes.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    /// Gives memory back when nothing waits. Not all at once: a bulk stream empties its inbox all the time, and would
    /// let it grow anew each time.
    fn rest(&mut self) {
        if !self.bytes.is_empty() {
            return;
        }
        let capacity = self.bytes.capacity();
        if capacity > INBOX_KEPT {
            self.bytes.shrink_to(INBOX_KEPT);
        } else if capacity > INBOX_RESTING && self.peak < capacity / 4 {
            self.bytes.shrink_to((capacity / 2).max(INBOX_RESTING));
        }
        self.peak = 0;
    }

    fn pop_header(&mut self) -> Option<(Kind, usize)> {
        let mut header = [0; RECORD_HEADER];
        if self.bytes.len() < RECORD_HEADER {
            return None;
        }
        self.pop(&mut header);
        let [high, low, kind] = header;
        let kind = if kind == Kind::Sealed as u8 { Kind::Sealed } else { Kind::Plain };
        Some((kind, usize::from(u16::from_be_bytes([high, low]))))
    }

    /// Fills `out` from the front, as far as there is something.
    fn pop(&mut self, out: &mut [u8]) {
        let (front, back) = self.bytes.as_slices();
        let from_front = front.len().min(out.len());
        let (first, second) = out.split_at_mut(from_front);
        first.copy_from_slice(front.split_at(from_front).0);
        let from_back = back.len().min(second.len());
        second.split_at_mut(from_back).0.copy_from_slice(back.split_at(from_back).0);
        self.bytes.drain(..from_front + from_back);
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Inbox({} bytes, closed: {})", self.lock().bytes.len(), self.is_closed())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    fn all(inbox: &Inbox) -> Vec<(Kind, Vec<u8>)> {
        let mut seen = Vec::new();
        while inbox.drain(2, |kind, payload| seen.push((kind, payload.to_vec()))) {}
        seen
    }

    #[test]
    fn payloads_come_out_in_order_and_whole() {
        let inbox = Inbox::default();
        let sent: Vec<_> = (0..2_000usize).map(|n| vec![n as u8; n % (MAX_PAYLOAD + 1)]).collect();
        for (n, payload) in sent.iter().enumerate() {
            inbox.push(if n % 2 == 0 { Kind::Sealed } else { Kind::Plain }, payload);
        }
        let seen = all(&inbox);
        assert_eq!(seen.len(), sent.len());
        for (n, (kind, payload)) in seen.into_iter().enumerate() {
            assert_eq!(kind, if n % 2 == 0 { Kind::Sealed } else { Kind::Plain });
            assert_eq!(payload, sent[n]);
        }
    }

    #[test]
    fn a_full_inbox_loses_the_newest_and_keeps_its_bound() {
        let inbox = Inbox::default();
        for n in 0..10_000u32 {
            let mut payload = [0; 1_000];
            payload[..4].copy_from_slice(&n.to_be_bytes());
            inbox.push(Kind::Plain, &payload);
        }
        let seen = all(&inbox);
        assert_eq!(seen.len(), INBOX_BYTES / (RECORD_HEADER + 1_000));
        assert!(seen.iter().enumerate().all(|(n, (_, payload))| payload[..4] == (n as u32).to_be_bytes()));
        assert!(inbox.lock().bytes.capacity() <= INBOX_KEPT);
    }

    #[test]
    fn an_inbox_gives_back_what_it_does_not_need_any_more() {
        let inbox = Inbox::default();
        let capacity_after = |payloads: usize| {
            (0..payloads).for_each(|_| inbox.push(Kind::Plain, &[0; 1_000]));
            all(&inbox);
            inbox.lock().bytes.capacity()
        };
        let needed = 300;
        capacity_after(needed);
        let while_needed = capacity_after(needed);
        assert!(while_needed > needed * 1_000, "it grows anew each time");
        let later = (0..10).map(|_| capacity_after(1)).min();
        assert!(later.is_some_and(|capacity| capacity <= INBOX_RESTING));
    }

    #[test]
    fn what_is_pushed_together_wakes_once() {
        #[derive(Default)]
        struct Counter(AtomicUsize);
        impl Ready for Counter {
            fn ready(&self) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let (inbox, counter) = (Inbox::default(), Arc::new(Counter::default()));
        inbox.set_reader(counter.clone());
        inbox.wake();
        assert_eq!(counter.0.load(Ordering::Relaxed), 0, "nothing waits");
        (0..10).for_each(|n| inbox.push(Kind::Plain, &[n]));
        inbox.wake();
        assert_eq!(counter.0.load(Ordering::Relaxed), 1);
        assert_eq!(all(&inbox).len(), 10);
    }

    #[tokio::test]
    async fn closing_wakes_and_takes_nothing_more() {
        let inbox = Arc::new(Inbox::default());
        let waiter = tokio::spawn({
            let inbox = inbox.clone();
            async move { inbox.closed().await }
        });
        tokio::task::yield_now().await;
        inbox.push(Kind::Plain, b"before");
        inbox.close();
        inbox.push(Kind::Plain, b"after");
        waiter.await.unwrap();
        assert_eq!(all(&inbox), vec![(Kind::Plain, b"before".to_vec())]);
    }
}
