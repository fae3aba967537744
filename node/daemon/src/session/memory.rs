//! The memory that all sessions of the process share (PROTOCOL §6.2, §6.9): the more are open, the less each may hold.
//!
//! Windows are promises: what a session may have received and not yet handed on, or sent and not yet had acknowledged.
//! One session, or some dozens, have the full windows. With more the windows shrink in steps of two, so that together
//! they promise no more than [`RECEIVED`] and [`SENT`], down to what a session needs to get on at all.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, LazyLock, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use quinn::{Connection, VarInt};

use super::transport::{SEND_WINDOW, SESSION_WINDOW};

/// What all sessions may have received and not handed on.
const RECEIVED: u64 = 1 << 30;
/// What all may have sent and not had acknowledged.
const SENT: u64 = 512 << 20;
/// What a session always has of each.
const LEAST: u64 = 128 << 10;

/// Unfinished datagrams of all UDP flows.
const ASSEMBLIES: usize = 64 << 20;
/// One flow may hold one in this many of the bytes that are free,
const ASSEMBLY_SHARES: usize = 64;
/// but always so many: what fits into one piece.
const ASSEMBLY_LEAST: usize = 2 << 10;

/// However many nodes run in the process, its memory is one.
static SESSIONS: LazyLock<Arc<Memory<Connection>>> = LazyLock::new(Arc::default);
static ASSEMBLING: AtomicUsize = AtomicUsize::new(0);

/// Counts a session until what is returned is dropped, and gives all of them the windows that they may have now.
pub(super) fn enter(connection: &Connection) -> Share<Connection> {
    SESSIONS.enter(connection.clone())
}

/// Whether an unfinished datagram may grow to so many bytes.
pub(super) fn may_assemble(bytes: usize) -> bool {
    let free = ASSEMBLIES.saturating_sub(ASSEMBLING.load(Ordering::Relaxed));
    bytes <= (free / ASSEMBLY_SHARES).max(ASSEMBLY_LEAST)
}

/// An unfinished datagram has grown or shrunk.
pub(super) fn assembling(before: usize, after: usize) {
    ASSEMBLING.fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
}

/// What has windows.
pub(super) trait Windows {
    /// From now on it promises no more than this.
    fn set(&self, receive: u64, send: u64);
}

impl Windows for Connection {
    fn set(&self, receive: u64, send: u64) {
        self.set_receive_window(VarInt::from_u64(receive).unwrap_or(VarInt::MAX));
        self.set_send_window(send);
    }
}

pub(super) struct Memory<W>(Mutex<Open<W>>);

struct Open<W> {
    sessions: BTreeMap<u64, W>,
    next: u64,
    /// One in so many of all there is: a power of two.
    parts: u64,
}

impl<W> Default for Memory<W> {
    fn default() -> Memory<W> {
        Memory(Mutex::new(Open { sessions: BTreeMap::new(), next: 0, parts: 1 }))
    }
}

impl<W: Windows> Memory<W> {
    fn enter(self: &Arc<Self>, session: W) -> Share<W> {
        let mut open = self.open();
        let (receive, send) = windows(open.parts);
        session.set(receive, send);
        let number = open.next;
        open.next += 1;
        open.sessions.insert(number, session);
        open.adjust();
        Share { memory: Arc::clone(self), number }
    }
}

impl<W> Memory<W> {
    fn open(&self) -> MutexGuard<'_, Open<W>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<W: Windows> Open<W> {
    /// In steps, so that a session that comes or goes mostly concerns no other.
    fn adjust(&mut self) {
        let count = self.sessions.len() as u64;
        // Not back at once: those that come and go around a step would change all windows each time.
        if count > self.parts || count < self.parts / 4 {
            self.parts = count.next_power_of_two();
            let (receive, send) = windows(self.parts);
            self.sessions.values().for_each(|session| session.set(receive, send));
        }
    }
}

/// What one of so many sessions may hold: received, and sent.
fn windows(parts: u64) -> (u64, u64) {
    let receive = (RECEIVED / parts.max(1)).clamp(LEAST, u64::from(SESSION_WINDOW));
    let send = (SENT / parts.max(1)).clamp(LEAST, SEND_WINDOW);
    (receive, send)
}

/// The place of one session.
pub(super) struct Share<W: Windows> {
    memory: Arc<Memory<W>>,
    number: u64,
}

impl<W: Windows> Drop for Share<W> {
    fn drop(&mut self) {
        let mut open = self.memory.open();
        let left = open.sessions.remove(&self.number);
        open.adjust();
        drop(open);
        drop(left); // which may be the last handle of a connection, and do more than forget
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Fake(Arc<Mutex<(u64, u64, usize)>>);

    impl Windows for Fake {
        fn set(&self, receive: u64, send: u64) {
            let mut now = self.0.lock().unwrap();
            *now = (receive, send, now.2 + 1);
        }
    }

    impl Fake {
        fn now(&self) -> (u64, u64, usize) {
            *self.0.lock().unwrap()
        }
    }

    #[test]
    fn a_few_sessions_have_the_full_windows() {
        let memory = Arc::<Memory<Fake>>::default();
        let sessions: Vec<Fake> = (0..32).map(|_| Fake::default()).collect();
        let _shares: Vec<_> = sessions.iter().map(|session| memory.enter(session.clone())).collect();
        for session in &sessions {
            let (receive, send, _) = session.now();
            assert_eq!((receive, send), (u64::from(SESSION_WINDOW), SEND_WINDOW));
        }
    }

    #[test]
    fn however_many_there_are_they_promise_no_more_than_there_is() {
        let memory = Arc::<Memory<Fake>>::default();
        let mut sessions = Vec::new();
        let mut shares = Vec::new();
        for count in 1..=4_000_u64 {
            let session = Fake::default();
            shares.push(memory.enter(session.clone()));
            sessions.push(session);
            if count % 500 == 0 {
                let promised: u64 = sessions.iter().map(|session| session.now().0).sum();
                assert!(promised <= RECEIVED, "{count}: {promised}");
                let sent: u64 = sessions.iter().map(|session| session.now().1).sum();
                assert!(sent <= SENT, "{count}: {sent}");
            }
        }
        let most = sessions.iter().map(|session| session.now().2).max().unwrap();
        assert!(most <= 20, "windows were set {most} times");
    }

    #[test]
    fn who_is_left_gets_back_what_the_others_had_and_nothing_is_left_behind() {
        let memory = Arc::<Memory<Fake>>::default();
        let last = Fake::default();
        let share = memory.enter(last.clone());
        let others: Vec<_> = (0..1_000).map(|_| memory.enter(Fake::default())).collect();
        assert!(last.now().0 < 2 << 20);
        drop(others);
        assert_eq!((last.now().0, last.now().1), (u64::from(SESSION_WINDOW), SEND_WINDOW));
        drop(share);
        assert!(memory.open().sessions.is_empty());
    }

    #[test]
    fn unfinished_datagrams_share_what_is_free_and_each_may_be_small() {
        assert!(may_assemble(60_000));
        assembling(0, ASSEMBLIES);
        assert!(may_assemble(ASSEMBLY_LEAST) && !may_assemble(ASSEMBLY_LEAST + 1));
        assembling(ASSEMBLIES, 0);
        assert!(may_assemble(60_000));
    }
}
