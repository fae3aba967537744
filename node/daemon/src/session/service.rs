//! A service: the answering side of one AP identity (PROTOCOL §6). One QUIC endpoint takes all tunnels that come in
//! for it; each stream is dialled through to a local port.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
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
use tokio::{
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use super::{
    Flow, Protocol,
    congestion::CongestionConfig,
    error::Refusal,
    flow::{self, FlowPlace, Flows},
    socket_service::{ServiceSocket, tunnel_of},
    stream::{SessionStream, splice},
    tls,
    transport::{FAREWELL, endpoint, transport},
    tunnel::Tunnel,
};

/// Sessions of one identity.
const SESSIONS: usize = 2_048;
/// Sessions of one peer with one identity: a peer needs one, and one more while the other dies.
const SESSIONS_PER_PEER: usize = 4;
/// UDP flows of one identity. Each has a socket of its own.
const FLOWS: usize = 1_024;
/// A handshake takes no longer, or it is given up.
const HANDSHAKE: Duration = Duration::from_secs(20);
/// A client that opened a stream says what it wants within this.
const REQUEST: Duration = Duration::from_secs(10);
/// A local target answers within this.
const DIAL: Duration = Duration::from_secs(10);
/// How often tunnels are looked through while something is open.
const LOOK: Duration = Duration::from_millis(100);
/// A tunnel that no session uses any more is kept so long: a migration may go back.
const UNUSED: Duration = Duration::from_secs(10);

/// Where the ports of a service lead.
pub trait Targets: Send + Sync {
    /// The local address behind a port, for this client.
    fn target(&self, client: &ApPublic, protocol: Protocol, port: u16) -> Result<SocketAddr, Refusal>;
}

impl Targets for BTreeMap<(Protocol, u16), SocketAddr> {
    fn target(&self, _client: &ApPublic, protocol: Protocol, port: u16) -> Result<SocketAddr, Refusal> {
        self.get(&(protocol, port)).copied().ok_or(Refusal::Refused)
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

    /// Ends all sessions; returns when the clients know, or could not be told in time.
    pub async fn end(&self) {
        self.endpoint.close(VarInt::from_u32(0), b"");
        let _told_or_not = timeout(FAREWELL, self.endpoint.wait_idle()).await;
    }

    /// Tunnels that are open.
    pub fn tunnels(&self) -> usize {
        self.socket.all().len()
    }

    /// Sessions that are open.
    pub fn sessions(&self) -> usize {
        self.endpoint.open_connections()
    }

    /// UDP flows that are open.
    pub fn flows(&self) -> usize {
        self.sessions.flows.load(Ordering::Relaxed)
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
    flows: AtomicUsize,
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
    let visit =
        Arc::new(Visit { connection, client, targets, sessions: sessions.clone(), flows: Flows::default() });
    loop {
        let stream = tokio::select! {
            stream = visit.connection.accept_bi() => stream,
            datagram = visit.connection.read_datagram() => match datagram {
                Ok(datagram) => {
                    visit.flows.take(&datagram);
                    continue;
                }
                Err(_) => return,
            },
        };
        let Ok((send, recv)) = stream else { return };
        tokio::spawn(visit.clone().serve(SessionStream::new(send, recv, None)));
    }
}

/// One client in one session.
struct Visit {
    connection: Connection,
    client: ApPublic,
    targets: Arc<dyn Targets>,
    sessions: Arc<Sessions>,
    flows: Flows,
}

impl Visit {
    async fn serve(self: Arc<Self>, mut stream: SessionStream) {
        let Ok(request) = timeout(REQUEST, stream.read_request()).await else { return stream.reset() };
        let target = request
            .and_then(|(protocol, port)| Ok((protocol, self.targets.target(&self.client, protocol, port)?)));
        let refusal = match target {
            Ok((Protocol::Tcp, address)) => match dial(address).await {
                Ok(tcp) => return accept(tcp, stream).await,
                Err(refusal) => refusal,
            },
            Ok((Protocol::Udp, address)) => match self.open_flow(&stream, address).await {
                Ok(opened) => return self.accept_flow(stream, opened).await,
                Err(refusal) => refusal,
            },
            Err(refusal) => refusal,
        };
        let _client_has_gone = stream.answer(Some(refusal)).await;
    }

    /// A socket of its own, so that answers find back.
    async fn open_flow(&self, stream: &SessionStream, address: SocketAddr) -> Result<OpenedFlow, Refusal> {
        let count = FlowCount::take(&self.sessions).ok_or(Refusal::Busy)?;
        let here: SocketAddr = match address {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let of_socket = |error: io::Error| Refusal::of_dial(&error);
        let socket = Arc::new(UdpSocket::bind(here).await.map_err(of_socket)?);
        socket.connect(address).await.map_err(of_socket)?;
        socket.writable().await.map_err(of_socket)?; // before that, nothing is taken without waiting
        let to_target = socket.clone();
        let deliver = move |data: Vec<u8>| {
            let _lost = to_target.try_send(&data);
        };
        let place = self.flows.enter(stream.id(), Box::new(deliver)).ok_or(Refusal::Busy)?;
        Ok(OpenedFlow { socket, place, count })
    }

    async fn accept_flow(&self, mut stream: SessionStream, opened: OpenedFlow) {
        let OpenedFlow { socket, place, count: _until_the_end } = opened;
        if stream.answer(None).await.is_ok() {
            let (stream, open) = stream.into_parts();
            flow::carry(Flow::new(self.connection.clone(), place, stream, open), &socket).await;
        }
    }
}

/// A flow whose client does not know yet that it is open.
struct OpenedFlow {
    socket: Arc<UdpSocket>,
    place: FlowPlace,
    count: FlowCount,
}

/// A flow's place among all of its service.
struct FlowCount(Arc<Sessions>);

impl FlowCount {
    fn take(sessions: &Arc<Sessions>) -> Option<FlowCount> {
        let counted = FlowCount(sessions.clone());
        (sessions.flows.fetch_add(1, Ordering::Relaxed) < FLOWS).then_some(counted)
    }
}

impl Drop for FlowCount {
    fn drop(&mut self) {
        self.0.flows.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn accept(tcp: TcpStream, mut stream: SessionStream) {
    if stream.answer(None).await.is_ok() {
        let _broken_or_not_both_ends_know = splice(tcp, stream).await;
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
