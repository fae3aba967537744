//! A service: the answering side of one AP identity (PROTOCOL §6). One QUIC endpoint takes all tunnels that come in
//! for it; each stream is dialled through to a local port.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use phantom_protocol::{
    crypto::datagram::SessionSecret,
    identity::{ApPublic, ApSecret},
    limits::UNCONFIRMED,
};
use quinn::{Connection, Endpoint, Incoming, ServerConfig, TokioRuntime, ValidationTokenConfig, VarInt};
use tokio::{net::TcpStream, time::timeout};

use super::{
    congestion::CongestionConfig,
    error::Refusal,
    socket_service::{ServiceSocket, tunnel_of},
    stream::{SessionStream, splice},
    tls,
    transport::{endpoint, transport},
    tunnel::Tunnel,
};

/// Sessions of one identity.
const SESSIONS: usize = 2_048;
/// Sessions of one peer with one identity: a peer needs one, and one more while the other dies.
const SESSIONS_PER_PEER: usize = 4;
/// A handshake takes no longer, or it is given up.
const HANDSHAKE: Duration = Duration::from_secs(20);
/// A client that opened a stream says what it wants within this.
const REQUEST: Duration = Duration::from_secs(10);
/// A local target answers within this.
const DIAL: Duration = Duration::from_secs(10);
/// A service that ends waits no longer until its clients know.
const FAREWELL: Duration = Duration::from_secs(1);
/// How often tunnels are looked through while something is open.
const LOOK: Duration = Duration::from_millis(100);
/// A tunnel that no session uses any more is kept so long: a migration may go back.
const UNUSED: Duration = Duration::from_secs(10);

/// Where the ports of a service lead.
pub trait Targets: Send + Sync {
    /// The local address behind `port`, for this client.
    fn target(&self, client: &ApPublic, port: u16) -> Result<SocketAddr, Refusal>;
}

impl Targets for BTreeMap<u16, SocketAddr> {
    fn target(&self, _client: &ApPublic, port: u16) -> Result<SocketAddr, Refusal> {
        self.get(&port).copied().ok_or(Refusal::Refused)
    }
}

/// A published identity. Dropping it ends its sessions.
pub struct Service {
    public: ApPublic,
    endpoint: Endpoint,
    socket: Arc<ServiceSocket>,
    sessions: Arc<Sessions>,
    tasks: Vec<tokio::task::AbortHandle>,
}

impl Service {
    /// Starts to answer for `own`. Needs a tokio runtime.
    pub fn new(
        own: Arc<ApSecret>,
        targets: Arc<dyn Targets>,
        congestion: &CongestionConfig,
    ) -> Result<Service, rustls::Error> {
        let public = own.public();
        let mut config = ServerConfig::with_crypto(Arc::new(tls::server(own)?));
        let mut tokens = ValidationTokenConfig::default();
        tokens.sent(0);
        config
            .validation_token_config(tokens)
            .transport_config(Arc::new(transport(congestion, Arc::new(AtomicU64::new(0)))));
        let socket = Arc::new(ServiceSocket::default());
        let quic = Endpoint::new_with_abstract_socket(
            endpoint(),
            Some(config),
            socket.clone(),
            Arc::new(TokioRuntime),
        )
        .map_err(|error| rustls::Error::General(error.to_string()))?;
        let sessions = Arc::new(Sessions::default());
        let answering = tokio::spawn(answer(quic.clone(), targets, sessions.clone()));
        let looking = tokio::spawn(look_after(socket.clone(), sessions.clone()));
        let tasks = vec![answering.abort_handle(), looking.abort_handle()];
        Ok(Service { public, endpoint: quic, socket, sessions, tasks })
    }

    /// Who answers.
    pub fn public(&self) -> ApPublic {
        self.public
    }

    /// The session secrets of all entries that may still be in use: of the last, this and the next epoch.
    pub fn set_secrets(&self, secrets: Vec<SessionSecret>) {
        self.socket.secrets.replace(secrets);
    }

    /// Takes a tunnel that has come in for this identity.
    pub fn accept_tunnel(&self, tunnel: Tunnel) {
        self.socket.add(tunnel);
    }

    /// Tunnels that are open.
    pub fn tunnels(&self) -> usize {
        self.socket.all().len()
    }

    /// Sessions that are open.
    pub fn sessions(&self) -> usize {
        self.endpoint.open_connections()
    }

    /// What each of the open sessions has carried.
    pub fn stats(&self) -> Vec<SessionStats> {
        let open = self.sessions.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.values().map(SessionStats::of).collect()
    }
}

/// What one session has carried towards its client.
#[derive(Clone, Copy, Debug)]
pub struct SessionStats {
    /// Packets sent.
    pub packets_sent: u64,
    /// Of these, taken for lost and repeated.
    pub packets_lost: u64,
    /// The smoothed round trip.
    pub round_trip: Duration,
    /// Bytes that may be on their way.
    pub window: u64,
}

impl SessionStats {
    fn of(connection: &Connection) -> SessionStats {
        let path = connection.stats().path;
        SessionStats {
            packets_sent: path.sent_packets,
            packets_lost: path.lost_packets,
            round_trip: path.rtt,
            window: path.cwnd,
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.endpoint.close(VarInt::from_u32(0), b"");
        self.tasks.iter().for_each(tokio::task::AbortHandle::abort);
        let (endpoint, socket) = (self.endpoint.clone(), self.socket.clone());
        let close_tunnels =
            move || socket.all().iter().for_each(|route| socket.remove(route.tunnel.id().get()));
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => {
                // Clients are told before their tunnels close.
                runtime.spawn(async move {
                    let _told_or_not = timeout(FAREWELL, endpoint.wait_idle()).await;
                    close_tunnels();
                });
            }
            Err(_) => close_tunnels(),
        }
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Service({:?}, {} sessions)", self.public, self.sessions())
    }
}

/// The sessions of a service.
#[derive(Default)]
struct Sessions {
    count: AtomicUsize,
    by_peer: Mutex<BTreeMap<ApPublic, usize>>,
    open: Mutex<HashMap<usize, Connection>>,
}

impl Sessions {
    fn tunnels_in_use(&self) -> BTreeSet<u64> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.values().filter_map(|connection| tunnel_of(connection.remote_address())).collect()
    }
}

/// A session's place in the counts.
struct Place {
    sessions: Arc<Sessions>,
    peer: ApPublic,
    id: usize,
}

impl Place {
    fn take(sessions: &Arc<Sessions>, peer: ApPublic, connection: &Connection) -> Option<Place> {
        let mut by_peer = sessions.by_peer.lock().unwrap_or_else(PoisonError::into_inner);
        let count = by_peer.entry(peer).or_default();
        if *count >= SESSIONS_PER_PEER {
            return None;
        }
        *count += 1;
        let id = connection.stable_id();
        sessions.open.lock().unwrap_or_else(PoisonError::into_inner).insert(id, connection.clone());
        Some(Place { sessions: sessions.clone(), peer, id })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut by_peer = self.sessions.by_peer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = by_peer.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                by_peer.remove(&self.peer);
            }
        }
        self.sessions.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

async fn answer(endpoint: Endpoint, targets: Arc<dyn Targets>, sessions: Arc<Sessions>) {
    while let Some(incoming) = endpoint.accept().await {
        if sessions.count.load(Ordering::Relaxed) >= SESSIONS {
            incoming.ignore();
            continue;
        }
        sessions.count.fetch_add(1, Ordering::Relaxed);
        let (targets, sessions) = (targets.clone(), sessions.clone());
        tokio::spawn(async move {
            serve(incoming, targets, &sessions).await;
            sessions.count.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

async fn serve(incoming: Incoming, targets: Arc<dyn Targets>, sessions: &Arc<Sessions>) {
    let Ok(Ok(connection)) = timeout(HANDSHAKE, incoming).await else { return };
    let Some(client) = tls::peer(connection.peer_identity()) else { return };
    let Some(_place) = Place::take(sessions, client, &connection) else {
        connection.close(VarInt::from_u32(u32::from(Refusal::Busy.code())), b"");
        return;
    };
    loop {
        let stream = tokio::select! {
            stream = connection.accept_bi() => stream,
            datagram = connection.read_datagram() => match datagram {
                Ok(_keep_alive) => continue,
                Err(_) => return,
            },
        };
        let Ok((send, recv)) = stream else { return };
        tokio::spawn(serve_stream(SessionStream::new(send, recv, None), client, targets.clone()));
    }
}

async fn serve_stream(mut stream: SessionStream, client: ApPublic, targets: Arc<dyn Targets>) {
    let Ok(request) = timeout(REQUEST, stream.read_request()).await else { return stream.reset() };
    let dialled = match request.and_then(|port| targets.target(&client, port)) {
        Ok(address) => dial(address).await,
        Err(refusal) => Err(refusal),
    };
    match dialled {
        Ok(tcp) => {
            if stream.answer(None).await.is_ok() {
                let _broken_or_not_both_ends_know = splice(tcp, stream).await;
            }
        }
        Err(refusal) => {
            let _client_has_gone = stream.answer(Some(refusal)).await;
        }
    }
}

async fn dial(address: SocketAddr) -> Result<TcpStream, Refusal> {
    let tcp = match timeout(DIAL, TcpStream::connect(address)).await {
        Ok(connected) => connected.map_err(|error| Refusal::of_dial(&error))?,
        Err(_) => return Err(Refusal::TimedOut),
    };
    let _only_slower_without = tcp.set_nodelay(true);
    Ok(tcp)
}

/// Confirms the tunnels that sessions use and closes those that none uses.
async fn look_after(socket: Arc<ServiceSocket>, sessions: Arc<Sessions>) {
    let mut unused_since = HashMap::new();
    loop {
        let routes = socket.all();
        if routes.is_empty() {
            socket.heard.notified().await;
        } else {
            let pause =
                if routes.iter().all(|route| route.confirmed.load(Ordering::Relaxed)) { 10 } else { 1 };
            let _heard_or_pause = timeout(LOOK * pause, socket.heard.notified()).await;
        }
        let (used, now) = (sessions.tunnels_in_use(), tokio::time::Instant::now());
        let routes = socket.all();
        for route in &routes {
            let number = route.tunnel.id().get();
            if used.contains(&number) {
                unused_since.remove(&number);
                if !route.confirmed.swap(true, Ordering::Relaxed) {
                    route.tunnel.confirm();
                }
                continue;
            }
            let unused = now.duration_since(*unused_since.entry(number).or_insert(now));
            let patience = if route.hears() { UNUSED } else { UNCONFIRMED };
            if unused > patience {
                socket.remove(number);
            }
        }
        let open: BTreeSet<u64> = routes.iter().map(|route| route.tunnel.id().get()).collect();
        unused_since.retain(|number, _| open.contains(number));
    }
}
