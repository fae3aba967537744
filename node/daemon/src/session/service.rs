//! A service: the answering side of one AP identity (PROTOCOL §6). One QUIC endpoint takes all tunnels that come in
//! for it; what visitors ask for is dialled through to local ports (`visit`).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use phantom_protocol::{
    crypto::datagram::SessionSecret,
    identity::{ApPublic, ApSecret},
    limits::UNCONFIRMED,
    wire::outward::Outside,
};
use quinn::{Connection, Endpoint, Incoming, ServerConfig, TokioRuntime, ValidationTokenConfig, VarInt};
use tokio::{net::TcpStream, time::timeout};

use super::{
    Protocol,
    congestion::CongestionConfig,
    error::Refusal,
    flow::Flows,
    memory,
    quota::Quotas,
    serve::Serve,
    socket_service::{ServiceSocket, tunnel_of},
    stream::SessionStream,
    tls,
    transport::{FAREWELL, endpoint, transport},
    tunnel::Tunnel,
    visit::Visit,
    visitors::Visitors,
};

/// Sessions of one identity.
const SESSIONS: usize = 2_048;
/// A handshake takes no longer, or it is given up.
const HANDSHAKE: Duration = Duration::from_secs(20);
/// How often tunnels are looked through while something is open.
const LOOK: Duration = Duration::from_millis(100);
/// A tunnel that no session uses any more is kept so long: a migration may go back.
const UNUSED: Duration = Duration::from_secs(10);

/// Where a port of a service leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The local address behind it.
    pub address: SocketAddr,
    /// Each TCP connection begins with a line of the PROXY protocol.
    pub introduces: bool,
}

impl Target {
    /// The same place in its plainest form: IPv4 that is written as IPv6, and "any address", are loopback addresses like others,
    /// and a visitor comes to them from an address of its own.
    pub(super) fn plain(self) -> Target {
        let ip = match self.address.ip().to_canonical() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        Target { address: SocketAddr::new(ip, self.address.port()), ..self }
    }
}

/// Takes a stream that is for no local program, and whom it comes from.
pub type Take = Box<dyn FnOnce(SessionStream, ApPublic) + Send>;

/// A way out of the network.
pub trait GoOut: Send + Sync {
    /// A connection to the ordinary Internet.
    fn connect(&self, to: Outside, port: u16) -> BoxFuture<'_, Result<TcpStream, Refusal>>;
}

/// Where the ports of a service lead.
pub trait Targets: Send + Sync {
    /// Where a port leads for this client.
    fn target(&self, client: &ApPublic, protocol: Protocol, port: u16) -> Result<Target, Refusal>;

    /// Who takes a stream to this port in the place of a local program; nothing if nobody does.
    fn taker(&self, _client: &ApPublic, _port: u16) -> Result<Option<Take>, Refusal> {
        Ok(None)
    }

    /// Who reaches the servers of all ports, in the place of this process; nothing if it does so itself.
    fn server(&self) -> Option<Arc<dyn Serve>> {
        None
    }

    /// The way out for this client.
    fn way_out(&self, _client: &ApPublic) -> Result<Arc<dyn GoOut>, Refusal> {
        Err(Refusal::ProtocolUnknown)
    }

    /// Whether anything here is for this client. For whom nothing is, there is no session.
    fn admits(&self, _client: &ApPublic) -> bool {
        true
    }
}

impl Targets for BTreeMap<(Protocol, u16), SocketAddr> {
    fn target(&self, _client: &ApPublic, protocol: Protocol, port: u16) -> Result<Target, Refusal> {
        let plain = |address: &SocketAddr| Target { address: *address, introduces: false };
        self.get(&(protocol, port)).map(plain).ok_or(Refusal::Refused)
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
        let (public, visitors) = (own.public(), Arc::new(Visitors::new(&own)));
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
        let sessions = Arc::new(Sessions {
            own: public,
            count: AtomicUsize::new(0),
            quotas: Quotas::default(),
            visitors,
            open: Mutex::default(),
        });
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

    /// Waits until no visitor has a connection open and all have what was said to them.
    pub async fn idle(&self) {
        self.sessions.quotas.connections.none_open().await;
    }

    /// UDP flows that are open.
    pub fn flows(&self) -> usize {
        self.sessions.quotas.flows.open()
    }

    /// What visitors may have open.
    #[cfg(test)]
    pub(super) fn quotas(&self) -> &Quotas {
        &self.sessions.quotas
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
struct Sessions {
    own: ApPublic,
    count: AtomicUsize,
    quotas: Quotas,
    visitors: Arc<Visitors>,
    open: Mutex<HashMap<usize, Connection>>,
}

impl Sessions {
    fn tunnels_in_use(&self) -> BTreeSet<u64> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.values().filter_map(|connection| tunnel_of(connection.remote_address())).collect()
    }
}

/// A session's place among the open ones.
struct Place<'a> {
    sessions: &'a Sessions,
    id: usize,
}

impl Place<'_> {
    fn take<'a>(sessions: &'a Sessions, connection: &Connection) -> Place<'a> {
        let id = connection.stable_id();
        sessions.open.lock().unwrap_or_else(PoisonError::into_inner).insert(id, connection.clone());
        Place { sessions, id }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
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
    let turn_away = |why: Refusal| connection.close(VarInt::from_u32(u32::from(why.code())), b"");
    if !targets.admits(&client) {
        return turn_away(Refusal::NotAllowed); // PROTOCOL §6.6
    }
    let Some(visiting) = sessions.visitors.enter(client) else { return turn_away(Refusal::Busy) };
    let _place = Place::take(sessions, &connection);
    let _share = memory::enter(&connection);
    let quotas = sessions.quotas.clone();
    Arc::new(Visit {
        connection,
        visitor: visiting.visitor(),
        own: sessions.own,
        targets,
        flows: Flows::default(),
        quotas,
    })
    .run()
    .await;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_on_this_machine_is_dialled_as_such_however_it_is_written() {
        for (written, plain) in [
            ("[::ffff:127.0.0.1]:80", "127.0.0.1:80"),
            ("0.0.0.0:80", "127.0.0.1:80"),
            ("[::]:80", "[::1]:80"),
            ("[::ffff:192.168.1.7]:80", "192.168.1.7:80"),
            ("[fd00::1]:80", "[fd00::1]:80"),
        ] {
            let target = Target { address: written.parse().unwrap(), introduces: true };
            assert_eq!(target.plain(), Target { address: plain.parse().unwrap(), introduces: true });
        }
    }
}
