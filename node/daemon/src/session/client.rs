//! The sessions of this node's clients: one per isolation group, speaker and peer (PROTOCOL §6). A second connection
//! to the same peer costs one more stream.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use phantom_protocol::{
    identity::{ApPublic, ApSecret},
    wire::outward::Outside,
};
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, TokioRuntime, VarInt};
use rand::{rand_core::UnwrapErr, rngs::SysRng};
use tokio::{
    sync::Mutex as AsyncMutex,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    Deliver, Flow, Group, OpenError, OpenTunnel, OpenedTunnel, Protocol, SpeakAs, TunnelRequest,
    congestion::CongestionConfig,
    error::Refusal,
    flow::Flows,
    memory,
    socket_client::{ClientSocket, PEER, Shared},
    stream::{SessionStream, Streams, Wish},
    tls,
    transport::{FAREWELL, endpoint, transport},
    watch::{OPENING, Watch},
};

/// A program that connects waits no longer.
const CONNECT: Duration = Duration::from_secs(60);
/// A handshake is given so long on the first tunnel, twice as long on the next.
const FIRST_HANDSHAKE: Duration = Duration::from_secs(4);
const LONGEST_HANDSHAKE: Duration = Duration::from_secs(16);
/// Pauses between tunnels that could not be opened.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// All sessions of this node's clients.
#[derive(Clone)]
pub struct SessionPool(Arc<Pool>);

struct Pool {
    opener: Arc<dyn OpenTunnel>,
    congestion: CongestionConfig,
    slots: Mutex<BTreeMap<Key, Arc<Slot>>>,
    /// Tells slots of the same key apart.
    serial: AtomicU64,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    group: Group,
    speaker: Option<ApPublic>,
    peer: ApPublic,
}

/// The place of one session, and the identity that it speaks as.
struct Slot {
    serial: u64,
    identity: Arc<ApSecret>,
    /// Nobody opens anything here any more, not even who is just about to: the group has ended, or this slot is spent.
    ended: CancellationToken,
    session: AsyncMutex<Attempt>,
}

#[derive(Default)]
enum Attempt {
    #[default]
    None,
    Session(Session),
    /// Those who began to wait before this share the refusal.
    Refused(Instant, Refusal),
}

impl Slot {
    /// Closes the session, if there is one; its peer has yet to learn of it.
    fn close(&self) -> Option<Endpoint> {
        let attempt = self.session.try_lock().ok()?;
        let Attempt::Session(session) = &*attempt else { return None };
        session.connection.close(VarInt::from_u32(0), b"");
        Some(session.endpoint.clone())
    }
}

/// Forgets a slot whose session was not made, also when the program that waited for it has gone.
struct ForgetSlot<'a> {
    pool: &'a Pool,
    key: &'a Key,
    serial: u64,
    armed: bool,
}

impl Drop for ForgetSlot<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.pool.forget(self.key, self.serial);
        }
    }
}

/// One session: cheap to clone.
#[derive(Clone)]
struct Session {
    connection: Connection,
    endpoint: Endpoint,
    streams: Streams,
    flows: Flows,
}

impl Session {
    /// A stream that nobody has asked for anything yet.
    async fn open_stream(&self) -> Result<SessionStream, Refusal> {
        let open = self.streams.enter();
        let (send, recv) = self.connection.open_bi().await.map_err(|error| Refusal::of_ended(Some(error)))?;
        Ok(SessionStream::new(send, recv, Some(open)))
    }

    /// What kept a stream from being opened: a service may have turned the whole session away.
    fn refusal(&self, refusal: Refusal) -> Refusal {
        match refusal {
            Refusal::SessionLost => Refusal::of_ended(self.connection.close_reason()),
            refusal => refusal,
        }
    }
}

impl SessionPool {
    /// No sessions yet. Needs a tokio runtime from the first connection on.
    pub fn new(opener: Arc<dyn OpenTunnel>, congestion: CongestionConfig) -> SessionPool {
        SessionPool(Arc::new(Pool { opener, congestion, slots: Mutex::default(), serial: AtomicU64::new(0) }))
    }

    /// Connects to a port of `peer`, or says exactly why not.
    pub async fn connect(
        &self,
        group: &Group,
        speak_as: &SpeakAs,
        peer: ApPublic,
        port: u16,
    ) -> Result<SessionStream, Refusal> {
        let wish = Wish::Port(Protocol::Tcp, port);
        twice(|| self.connect_once(group, speak_as, peer, &wish)).await
    }

    /// Connects to somebody outside the network, by the way out that `peer` offers, or says exactly why not.
    pub async fn go_out(
        &self,
        group: &Group,
        speak_as: &SpeakAs,
        peer: ApPublic,
        to: Outside,
        port: u16,
    ) -> Result<SessionStream, Refusal> {
        let wish = Wish::Outside(to, port);
        twice(|| self.connect_once(group, speak_as, peer, &wish)).await
    }

    /// Opens a UDP flow to a port of `peer`, or says exactly why not. What comes back goes to `deliver`.
    pub async fn flow(
        &self,
        group: &Group,
        speak_as: &SpeakAs,
        peer: ApPublic,
        port: u16,
        deliver: Deliver,
    ) -> Result<Flow, Refusal> {
        let deliver: Arc<Deliver> = Arc::new(deliver);
        twice(|| self.flow_once(group, speak_as, peer, port, deliver.clone())).await
    }

    /// Sessions that are open or being opened.
    pub fn sessions(&self) -> usize {
        self.0.slots().len()
    }

    /// The groups that have sessions, open or being opened.
    pub fn groups(&self) -> BTreeSet<Group> {
        self.0.slots().keys().map(|key| key.group.clone()).collect()
    }

    /// Ends all sessions of a group; its streams are lost. What is just being opened begins anew, as somebody else.
    pub fn end_group(&self, group: &Group) {
        let ended: Vec<_> = {
            let mut slots = self.0.slots();
            let keys: Vec<_> = slots.keys().filter(|key| key.group == *group).cloned().collect();
            let ended = keys.iter().filter_map(|key| slots.remove(key));
            ended.inspect(|slot| slot.ended.cancel()).collect()
        };
        ended.iter().for_each(|slot| drop(slot.close()));
    }

    /// Ends all sessions; returns when their peers know, or could not be told in time.
    pub async fn end(&self) {
        let ended = {
            let mut slots = self.0.slots();
            slots.values().for_each(|slot| slot.ended.cancel());
            std::mem::take(&mut *slots)
        };
        let endpoints: Vec<Endpoint> = ended.values().filter_map(|slot| slot.close()).collect();
        let _told_or_not = timeout(FAREWELL, join_all(endpoints.iter().map(Endpoint::wait_idle))).await;
    }

    async fn connect_once(
        &self,
        group: &Group,
        speak_as: &SpeakAs,
        peer: ApPublic,
        wish: &Wish,
    ) -> Result<SessionStream, Refusal> {
        let session = self.session(group, speak_as, peer).await?;
        let mut stream = session.open_stream().await?;
        stream.request(wish).await.map_err(|refusal| session.refusal(refusal))?;
        Ok(stream)
    }

    async fn flow_once(
        &self,
        group: &Group,
        speak_as: &SpeakAs,
        peer: ApPublic,
        port: u16,
        deliver: Arc<Deliver>,
    ) -> Result<Flow, Refusal> {
        let session = self.session(group, speak_as, peer).await?;
        let mut stream = session.open_stream().await?;
        // The first answer may overtake the word that the flow is open.
        let place = session.flows.enter(stream.id(), Box::new(move |data| deliver(data)));
        let place = place.ok_or(Refusal::Busy)?;
        stream.request(&Wish::Port(Protocol::Udp, port)).await.map_err(|refusal| session.refusal(refusal))?;
        let (stream, open) = stream.into_parts();
        Ok(Flow::new(session.connection, place, stream, open))
    }

    async fn session(&self, group: &Group, speak_as: &SpeakAs, peer: ApPublic) -> Result<Session, Refusal> {
        let speaker = match speak_as {
            SpeakAs::OneTime => None,
            SpeakAs::Kept(secret) => Some(secret.public()),
        };
        let key = Key { group: group.clone(), speaker, peer };
        loop {
            let slot = self.0.slot(&key, speak_as);
            let made = self.0.session(&key, &slot).await;
            if made.is_ok() || !slot.ended.is_cancelled() {
                return made;
            }
        }
    }
}

/// Tries, and tries again if a session was lost: it may have died of old age just then, and a new one decides.
async fn twice<T, A: Future<Output = Result<T, Refusal>>>(attempt: impl Fn() -> A) -> Result<T, Refusal> {
    let attempts = async {
        match attempt().await {
            Err(Refusal::SessionLost) => attempt().await,
            decided => decided,
        }
    };
    timeout(CONNECT, attempts).await.unwrap_or(Err(Refusal::TimedOut))
}

impl Pool {
    fn slots(&self) -> std::sync::MutexGuard<'_, BTreeMap<Key, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(&self, key: &Key, speak_as: &SpeakAs) -> Arc<Slot> {
        let new = || {
            let identity = match speak_as {
                SpeakAs::OneTime => Arc::new(ApSecret::generate(&mut UnwrapErr(SysRng))),
                SpeakAs::Kept(secret) => secret.clone(),
            };
            let serial = self.serial.fetch_add(1, Ordering::Relaxed);
            let ended = CancellationToken::new();
            Arc::new(Slot { serial, identity, ended, session: AsyncMutex::default() })
        };
        self.slots().entry(key.clone()).or_insert_with(new).clone()
    }

    /// Whether this very slot is the one of its key: who gave up may have taken it out while others waited for it.
    fn keep(&self, key: &Key, slot: &Arc<Slot>) -> bool {
        let mut slots = self.slots();
        let ended = slot.ended.is_cancelled();
        !ended && slots.entry(key.clone()).or_insert_with(|| slot.clone()).serial == slot.serial
    }

    fn forget(&self, key: &Key, serial: u64) {
        let mut slots = self.slots();
        if slots.get(key).is_some_and(|slot| slot.serial == serial) {
            slots.remove(key);
        }
    }

    /// The session of a slot; the first who asks makes it, the others wait.
    async fn session(self: &Arc<Self>, key: &Key, slot: &Arc<Slot>) -> Result<Session, Refusal> {
        let asked = Instant::now();
        let mut attempt = slot.session.lock().await;
        match &*attempt {
            Attempt::Session(session) if session.connection.close_reason().is_none() => {
                return Ok(session.clone());
            }
            Attempt::Refused(when, refusal) if *when >= asked => return Err(*refusal),
            _ => {}
        }
        // The watch of a session that was lost takes its slot away at any moment, whatever has begun in it.
        if matches!(*attempt, Attempt::Session(_)) || !self.keep(key, slot) {
            slot.ended.cancel();
            self.forget(key, slot.serial);
            return Err(Refusal::SessionLost);
        }
        let mut unless_done = ForgetSlot { pool: self, key, serial: slot.serial, armed: true };
        let established = tokio::select! {
            established = self.establish(key, slot) => established,
            () = slot.ended.cancelled() => Err(Refusal::SessionLost),
        };
        match established {
            Ok(session) => {
                unless_done.armed = false; // from now on the watch forgets it
                *attempt = Attempt::Session(session.clone());
                Ok(session)
            }
            Err(refusal) => {
                *attempt = Attempt::Refused(Instant::now(), refusal);
                Err(refusal)
            }
        }
    }

    async fn establish(self: &Arc<Self>, key: &Key, slot: &Slot) -> Result<Session, Refusal> {
        let deadline = Instant::now() + CONNECT / 2;
        let (mut patience, mut pause) = (FIRST_HANDSHAKE, FIRST_PAUSE);
        let mut request = TunnelRequest {
            group: key.group.clone(),
            peer: key.peer,
            avoid: Vec::new(),
            fresh: false,
            proven: false,
        };
        loop {
            let opening =
                timeout_at(deadline.min(Instant::now() + OPENING), self.opener.open(request.clone()));
            let failed = match opening.await.unwrap_or(Err(OpenError::Unreachable)) {
                Err(OpenError::NotFound) => return Err(OpenError::NotFound.into()),
                Err(error) => {
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    error.into()
                }
                Ok(opened) => {
                    let entry = opened.entry;
                    match self.handshake(opened, request.clone(), slot, patience).await {
                        Ok(watch) => return Ok(self.start(watch, key, slot)),
                        Err(Refusal::NotAuthentic) => return Err(Refusal::NotAuthentic),
                        Err(refusal) => {
                            request.avoid.push(entry);
                            request.fresh = request.avoid.len() > 1;
                            patience = (patience * 2).min(LONGEST_HANDSHAKE);
                            refusal
                        }
                    }
                }
            };
            if Instant::now() >= deadline {
                return Err(failed);
            }
        }
    }

    /// One handshake over one tunnel.
    async fn handshake(
        &self,
        opened: OpenedTunnel,
        request: TunnelRequest,
        slot: &Slot,
        patience: Duration,
    ) -> Result<Watch, Refusal> {
        let (shared, route, entry) = (Arc::<Shared>::default(), Arc::<AtomicU64>::default(), opened.entry);
        let socket = ClientSocket::new(opened.tunnel, opened.secret, shared.clone());
        let inbox = socket.inbox();
        let quic = Endpoint::new_with_abstract_socket(endpoint(), None, socket, Arc::new(TokioRuntime))
            .map_err(|_| Refusal::Failed)?;
        let tls = tls::client(slot.identity.clone(), request.peer).map_err(|_| Refusal::Failed)?;
        let mut config = ClientConfig::new(Arc::new(tls));
        config.transport_config(Arc::new(transport(&self.congestion, route.clone())));
        let connecting = quic.connect_with(config, PEER, tls::NAME).map_err(|_| Refusal::Failed)?;
        let connection = tokio::select! {
            connected = timeout(patience, connecting) => match connected {
                Ok(Ok(connection)) => connection,
                Ok(Err(ConnectionError::TransportError(error))) if is_wrong_key(&error) => {
                    return Err(Refusal::NotAuthentic);
                }
                Ok(Err(_)) => return Err(Refusal::SessionLost),
                Err(_) => return Err(OpenError::Silent.into()),
            },
            () = inbox.closed() => return Err(OpenError::Unreachable.into()),
        };
        let (opener, streams) = (self.opener.clone(), Streams::default());
        Ok(Watch { connection, endpoint: quic, streams, opener, request, shared, route, inbox, entry })
    }

    fn start(self: &Arc<Self>, watch: Watch, key: &Key, slot: &Slot) -> Session {
        let (connection, flows) = (watch.connection.clone(), Flows::default());
        let session = Session {
            connection: connection.clone(),
            endpoint: watch.endpoint.clone(),
            streams: watch.streams.clone(),
            flows: flows.clone(),
        };
        tokio::spawn(async move {
            while let Ok(datagram) = connection.read_datagram().await {
                flows.take(&datagram);
            }
        });
        let (pool, key, serial): (Weak<Pool>, _, _) = (Arc::downgrade(self), key.clone(), slot.serial);
        let (ended, connection) = (slot.ended.clone(), session.connection.clone());
        let share = memory::enter(&connection);
        tokio::spawn(async move {
            tokio::select! {
                () = watch.run() => {}
                () = ended.cancelled() => connection.close(VarInt::from_u32(0), b""), // also if it was just made
            }
            drop(share);
            if let Some(pool) = pool.upgrade() {
                pool.forget(&key, serial);
            }
        });
        session
    }
}

/// The alert that `tls` raises for a key that is not the peer's.
fn is_wrong_key(error: &quinn_proto::TransportError) -> bool {
    let alerts = [
        rustls::AlertDescription::AccessDenied,
        rustls::AlertDescription::BadCertificate,
        rustls::AlertDescription::DecryptError,
    ];
    alerts.iter().any(|alert| error.code == quinn::TransportErrorCode::crypto(u8::from(*alert)))
}

impl fmt::Debug for SessionPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionPool({} sessions)", self.sessions())
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Target, Targets, testing::World},
        *,
    };

    const PORT: u16 = 80;

    /// Notes who comes, and has nothing for them.
    #[derive(Clone, Default)]
    struct Guests(Arc<Mutex<Vec<ApPublic>>>);

    impl Targets for Guests {
        fn target(&self, client: &ApPublic, _: Protocol, _: u16) -> Result<Target, Refusal> {
            self.0.lock().unwrap().push(*client);
            Err(Refusal::Refused)
        }
    }

    fn key(world: &World) -> Key {
        Key { group: Group::default(), speaker: None, peer: world.peer }
    }

    fn slot(world: &World) -> Arc<Slot> {
        world.pool.0.slot(&key(world), &SpeakAs::OneTime)
    }

    async fn wait_until(condition: impl Fn() -> bool) {
        let met = async {
            while !condition() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(10), met).await.expect("in time");
    }

    #[tokio::test]
    async fn what_was_being_opened_when_its_group_ended_comes_as_somebody_else() {
        let guests = Guests::default();
        let world = Arc::new(World::new(guests.clone()));
        *world.net.refuse.lock().unwrap() = Some(OpenError::NoPath);
        let connecting = tokio::spawn({
            let world = world.clone();
            async move { world.connect(PORT).await }
        });
        wait_until(|| !world.net.requests.lock().unwrap().is_empty()).await;
        let before = slot(&world).identity.public();
        world.pool.end_group(&Group::default());
        *world.net.refuse.lock().unwrap() = None;
        assert_eq!(connecting.await.unwrap().unwrap_err(), Refusal::Refused);
        let after = slot(&world).identity.public();
        assert_ne!(before, after);
        assert_eq!(*guests.0.lock().unwrap(), [after]);
        assert_eq!(world.pool.sessions(), 1);
    }

    #[tokio::test]
    async fn a_session_that_was_just_made_when_its_group_ended_is_closed() {
        let world = World::new(Guests::default());
        let slot = slot(&world);
        let session = world.pool.0.session(&key(&world), &slot).await.unwrap();
        {
            let _still_held_by_who_made_it = slot.session.lock().await;
            world.pool.end_group(&Group::default());
        }
        timeout(Duration::from_secs(10), session.connection.closed()).await.unwrap();
        wait_until(|| world.service().sessions() == 0).await;
    }

    #[tokio::test]
    async fn nobody_opens_a_session_in_a_slot_that_has_ended() {
        let world = World::new(Guests::default());
        let slot = slot(&world);
        world.pool.end_group(&Group::default());
        assert_eq!(world.pool.0.session(&key(&world), &slot).await.err(), Some(Refusal::SessionLost));
        assert_eq!((world.net.opened(), world.pool.sessions()), (0, 0));
    }

    #[tokio::test]
    async fn a_slot_has_one_session_only() {
        let world = World::new(Guests::default());
        let slot = slot(&world);
        let session = world.pool.0.session(&key(&world), &slot).await.unwrap();
        session.connection.close(VarInt::from_u32(0), b"");
        assert_eq!(world.pool.0.session(&key(&world), &slot).await.err(), Some(Refusal::SessionLost));
        assert_eq!(world.connect(PORT).await.unwrap_err(), Refusal::Refused, "there is another slot now");
        assert_eq!(world.net.opened(), 2);
    }

    #[tokio::test]
    async fn who_opens_a_session_after_another_gave_up_can_be_told_to_end_it() {
        let world = World::new(Guests::default());
        let slot = slot(&world);
        world.pool.0.forget(&key(&world), slot.serial);
        let session = world.pool.0.session(&key(&world), &slot).await.unwrap();
        world.pool.end_group(&Group::default());
        assert!(session.connection.close_reason().is_some());
    }
}
