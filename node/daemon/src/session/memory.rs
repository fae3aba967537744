//! The memory that all sessions of the process share (PROTOCOL §6.2, §6.9): the more are open, the less one more may hold.
//!
//! Windows are promises: what a session may have received and not yet handed on, or sent and not yet had acknowledged.
//! QUIC cannot take back what was promised to a peer, so a session begins with what it needs to get on at all, and gets
//! a part of what is free in [`RECEIVED`] and [`SENT`]. It keeps that until it ends; then those that have less get more.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, LazyLock, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use quinn::{Connection, VarInt};

use super::transport::{SEND_WINDOW, SESSION_WINDOW};

/// What a session always has of each, also before it is known whose it is.
pub(super) const LEAST: u64 = 128 << 10;
/// What all sessions may have received and not handed on beyond that.
const RECEIVED: u64 = 1 << 30;
/// What all may have sent and not had acknowledged beyond that.
const SENT: u64 = 512 << 20;
/// A session may hold one in so many of the bytes that are free.
const SHARES: u64 = 40;

/// Unfinished datagrams of all UDP flows.
const ASSEMBLIES: usize = 64 << 20;
/// One flow may hold one in this many of the bytes that are free,
const ASSEMBLY_SHARES: usize = 64;
/// but always so many: what fits into one piece.
const ASSEMBLY_LEAST: usize = 2 << 10;

/// However many nodes run in the process, its memory is one.
static SESSIONS: LazyLock<Arc<Memory<Connection>>> = LazyLock::new(Arc::default);
static ASSEMBLING: AtomicUsize = AtomicUsize::new(0);

/// Counts a session until what is returned is dropped, and gives it the windows that it may have now.
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
    /// From now on it promises so much, which is never less than before.
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
    sessions: BTreeMap<u64, Session<W>>,
    next: u64,
    received: Budget,
    sent: Budget,
}

/// A session, and its windows.
struct Session<W> {
    session: W,
    receive: u64,
    send: u64,
}

impl<W> Default for Memory<W> {
    fn default() -> Memory<W> {
        Memory(Mutex::new(Open {
            sessions: BTreeMap::new(),
            next: 0,
            received: Budget { free: RECEIVED, widest: u64::from(SESSION_WINDOW) },
            sent: Budget { free: SENT, widest: SEND_WINDOW },
        }))
    }
}

impl<W: Windows> Memory<W> {
    fn enter(self: &Arc<Self>, session: W) -> Share<W> {
        let mut open = self.open();
        let (receive, send) = (open.received.widen(LEAST), open.sent.widen(LEAST));
        session.set(receive, send);
        let number = open.next;
        open.next += 1;
        open.sessions.insert(number, Session { session, receive, send });
        Share { memory: Arc::clone(self), number }
    }
}

impl<W> Memory<W> {
    fn open(&self) -> MutexGuard<'_, Open<W>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<W: Windows> Open<W> {
    fn leave(&mut self, number: u64) -> Option<Session<W>> {
        let left = self.sessions.remove(&number)?;
        self.received.give_back(left.receive);
        self.sent.give_back(left.send);
        for Session { session, receive, send } in self.sessions.values_mut() {
            let (wider_receive, wider_send) = (self.received.widen(*receive), self.sent.widen(*send));
            if (wider_receive, wider_send) != (*receive, *send) {
                (*receive, *send) = (wider_receive, wider_send);
                session.set(*receive, *send);
            }
        }
        Some(left)
    }
}

/// What may be promised yet, and what one window has at most.
struct Budget {
    free: u64,
    widest: u64,
}

impl Budget {
    /// What a window that is so wide may be now. It grows to twice its size at least, or to the widest: a session that
    /// comes or goes mostly concerns no other.
    fn widen(&mut self, window: u64) -> u64 {
        let wider = (LEAST + self.free / SHARES).min(self.widest);
        if wider <= window || wider < self.widest.min(2 * window) {
            return window;
        }
        self.free -= wider - window;
        wider
    }

    /// A window of this size is no more.
    fn give_back(&mut self, window: u64) {
        self.free += window - LEAST;
    }
}

/// The place of one session.
pub(super) struct Share<W: Windows> {
    memory: Arc<Memory<W>>,
    number: u64,
}

impl<W: Windows> Drop for Share<W> {
    fn drop(&mut self) {
        let mut open = self.memory.open();
        let left = open.leave(self.number);
        drop(open);
        drop(left); // which may be the last handle of a connection, and do more than forget
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;
    use phantom_protocol::identity::ApSecret;
    use quinn::{ClientConfig, Endpoint, ServerConfig, TokioRuntime};
    use tokio::time::timeout;

    use super::{
        super::{
            CongestionConfig, tls,
            transport::{endpoint, transport},
        },
        *,
    };

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
    fn one_session_has_the_full_windows_and_dozens_have_more_than_a_stream_needs() {
        let memory = Arc::<Memory<Fake>>::default();
        let sessions: Vec<Fake> = (0..64).map(|_| Fake::default()).collect();
        let _shares: Vec<_> = sessions.iter().map(|session| memory.enter(session.clone())).collect();
        assert_eq!(sessions[0].now(), (u64::from(SESSION_WINDOW), SEND_WINDOW, 1));
        assert!(sessions[63].now().0 > 4 << 20, "{:?}", sessions[63].now());
    }

    #[test]
    fn however_many_come_and_go_they_promise_no_more_than_there_is() {
        let memory = Arc::<Memory<Fake>>::default();
        let mut open: Vec<(Fake, Share<Fake>)> = Vec::new();
        let promised = |open: &[(Fake, Share<Fake>)]| {
            open.iter().fold((0, 0), |(receive, send), (session, _)| {
                let now = session.now();
                assert!(now.0 >= LEAST && now.1 >= LEAST);
                (receive + now.0 - LEAST, send + now.1 - LEAST)
            })
        };
        for count in 0..6_000 {
            let session = Fake::default();
            let share = memory.enter(session.clone());
            open.push((session, share));
            if count % 3 == 0 {
                open.swap_remove(count * 7 % open.len());
            }
            if count % 100 == 0 {
                let (received, sent) = promised(&open);
                assert!(received <= RECEIVED && sent <= SENT, "{count}: {received}, {sent}");
            }
        }
        let (received, sent) = promised(&open);
        assert!(received > RECEIVED / 10 * 9 && sent > SENT / 10 * 9, "{received}, {sent}");
        let most = open.iter().map(|(session, _)| session.now().2).max().unwrap();
        assert!(most <= 20, "windows were set {most} times");
        drop(open);
        let all = memory.open();
        assert_eq!((all.received.free, all.sent.free, all.sessions.len()), (RECEIVED, SENT, 0));
    }

    #[test]
    fn who_is_left_gets_what_the_others_had() {
        let memory = Arc::<Memory<Fake>>::default();
        let others: Vec<_> = (0..1_000).map(|_| memory.enter(Fake::default())).collect();
        let last = Fake::default();
        let _share = memory.enter(last.clone());
        assert!(last.now().0 < 2 * LEAST);
        drop(others);
        assert_eq!((last.now().0, last.now().1), (u64::from(SESSION_WINDOW), SEND_WINDOW));
    }

    #[tokio::test]
    async fn a_handshake_promises_the_least_and_a_place_among_the_sessions_more() {
        let own = Arc::new(ApSecret::from_bytes(&[1; 32]));
        let transport = || Arc::new(transport(&CongestionConfig::default(), Arc::default()));
        let socket = || std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut server = ServerConfig::with_crypto(Arc::new(tls::server(own.clone()).unwrap()));
        server.transport_config(transport());
        let tls = tls::client(Arc::new(ApSecret::from_bytes(&[2; 32])), own.public()).unwrap();
        let mut client = ClientConfig::new(Arc::new(tls));
        client.transport_config(transport());
        let runtime = || Arc::new(TokioRuntime);
        let server = Endpoint::new(endpoint(), Some(server), socket(), runtime()).unwrap();
        let here = Endpoint::new(endpoint(), None, socket(), runtime()).unwrap();
        let connecting = here.connect_with(client, server.local_addr().unwrap(), tls::NAME).unwrap();
        let (visitor, service) = tokio::join!(connecting, async { server.accept().await.unwrap().await });
        let (visitor, service) = (visitor.unwrap(), service.unwrap());

        let (mut stream, _) = visitor.open_bi().await.unwrap();
        let (mut written, piece) = (0, vec![0; 16 << 10]);
        while let Some(more) = stream.write(&piece).now_or_never() {
            written += more.unwrap() as u64;
        }
        assert_eq!(written, LEAST);
        let _share = enter(&service);
        let more = stream.write_all(&piece);
        timeout(Duration::from_secs(20), more).await.expect("there is room").unwrap();
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
