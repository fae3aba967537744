//! Watches one session of a client (PROTOCOL §6): keeps it alive while streams are open, finds out when its tunnel is
//! dead, and moves it to another tunnel. Only clients replace tunnels.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use phantom_protocol::identity::NodeId;
use quinn::{Connection, Endpoint, FrameStats, VarInt};
use tokio::time::{Instant, sleep, timeout};

use super::{
    OpenTunnel, OpenedTunnel, TunnelRequest,
    socket_client::{ClientSocket, Shared},
    stream::Streams,
    transport::KEEP_ALIVE,
    tunnel::Inbox,
};

/// How often a session with open streams is looked at, and one without.
const LOOK: Duration = Duration::from_millis(100);
const LOOK_IDLE: Duration = Duration::from_secs(1);
/// Nothing counts as unanswered before this.
const LEAST_PATIENCE: Duration = Duration::from_secs(1);
/// The longest pause between two tunnels.
const MOST_PATIENCE: Duration = Duration::from_secs(10);
/// The layer below finds a tunnel within this, or has failed.
pub(super) const OPENING: Duration = Duration::from_secs(20);
/// Moves without a word from the service after which the spare connection ids are used up.
const SILENT_MOVES: u32 = 4;
/// So many datagrams between two looks are a transfer; when one falls silent the client asks sooner than otherwise.
const BUSY: u64 = 32;
const KEEP_ALIVE_BUSY: Duration = Duration::from_secs(1);
/// A datagram that asks for nothing but an acknowledgement.
const KEEP_ALIVE_DATAGRAM: &[u8] = &[0];

/// Everything that moving a session needs.
pub(super) struct Watch {
    pub(super) connection: Connection,
    pub(super) endpoint: Endpoint,
    pub(super) streams: Streams,
    pub(super) opener: Arc<dyn OpenTunnel>,
    pub(super) request: TunnelRequest,
    pub(super) shared: Arc<Shared>,
    /// Counts moves, for congestion control.
    pub(super) route: Arc<AtomicU64>,
    /// The tunnel in use.
    pub(super) inbox: Arc<Inbox>,
    pub(super) entry: NodeId,
}

enum Woken {
    Ended,
    TunnelClosed,
    Look,
}

impl Watch {
    /// Runs until the session has ended.
    pub(super) async fn run(mut self) {
        let mut pulse = Pulse::new(&self.connection);
        loop {
            match self.wait().await {
                Woken::Ended => return,
                // Tunnels may die faster than looks come: what came through this one counts.
                Woken::TunnelClosed => pulse.look(&self.connection),
                Woken::Look => {
                    pulse.look(&self.connection);
                    self.keep_alive(&mut pulse);
                    if !pulse.gives_up(&self.connection) {
                        continue;
                    }
                }
            }
            if self.streams.open() == 0 || pulse.silent_moves >= SILENT_MOVES {
                self.connection.close(VarInt::from_u32(0), b""); // nobody would notice, or nothing is left to try
                return;
            }
            if !self.move_on(&mut pulse).await {
                return;
            }
        }
    }

    async fn wait(&self) -> Woken {
        let pause = if self.streams.open() > 0 { LOOK } else { LOOK_IDLE };
        tokio::select! {
            _ = self.connection.closed() => Woken::Ended,
            () = self.inbox.closed() => Woken::TunnelClosed,
            () = sleep(pause) => Woken::Look,
        }
    }

    fn keep_alive(&self, pulse: &mut Pulse) {
        let patience = if pulse.busy { KEEP_ALIVE_BUSY } else { KEEP_ALIVE };
        if self.streams.open() > 0 && pulse.quiet_since.elapsed() >= patience {
            pulse.quiet_since = Instant::now();
            pulse.busy = false;
            let _closed_or_sent = self.connection.send_datagram(Bytes::from_static(KEEP_ALIVE_DATAGRAM));
        }
    }

    /// Moves to another tunnel: another entry first, then a fresh look-up. False if the session ended meanwhile.
    async fn move_on(&mut self, pulse: &mut Pulse) -> bool {
        self.request.proven = true;
        self.request.avoid.push(self.entry);
        let mut pause = LEAST_PATIENCE / 4;
        loop {
            self.request.fresh = self.request.avoid.len() > 1;
            let opened = tokio::select! {
                _ = self.connection.closed() => return false,
                opened = timeout(OPENING, self.opener.open(self.request.clone())) => opened,
            };
            match opened {
                Ok(Ok(opened)) => {
                    self.rebind(opened);
                    pulse.moved(&self.connection);
                    return true;
                }
                Ok(Err(error)) => tracing::debug!(%error, "no tunnel for a session that needs another"),
                Err(_) => tracing::debug!("no tunnel in time for a session that needs another"),
            }
            self.request.avoid.push(self.entry);
            tokio::select! {
                _ = self.connection.closed() => return false,
                () = sleep(pause) => pause = (pause * 2).min(MOST_PATIENCE),
            }
        }
    }

    fn rebind(&mut self, opened: OpenedTunnel) {
        let socket = ClientSocket::new(opened.tunnel, opened.secret, self.shared.clone());
        self.inbox = socket.inbox();
        self.entry = opened.entry;
        self.route.fetch_add(1, Ordering::Relaxed);
        let _only_local_addr_could_fail = self.endpoint.rebind_abstract(socket);
        if self.request.avoid.len() > 8 {
            self.request.avoid.remove(0);
        }
    }
}

/// What the session's counters say about its tunnel.
struct Pulse {
    looked: Instant,
    /// When something last came in, or a keep-alive last went out.
    quiet_since: Instant,
    /// Whether much came in before that.
    busy: bool,
    received: u64,
    acks: u64,
    asked: u64,
    /// Since when something that asks for an answer has had none.
    unanswered_since: Option<Instant>,
    silent_moves: u32,
}

impl Pulse {
    fn new(connection: &Connection) -> Pulse {
        let (stats, now) = (connection.stats(), Instant::now());
        Pulse {
            looked: now,
            quiet_since: now,
            busy: false,
            received: stats.udp_rx.datagrams,
            acks: stats.frame_rx.acks,
            asked: asking(&stats.frame_tx),
            unanswered_since: None,
            silent_moves: 0,
        }
    }

    fn look(&mut self, connection: &Connection) {
        let (stats, now) = (connection.stats(), Instant::now());
        if now.duration_since(self.looked) > 5 * LOOK_IDLE.min(5 * LOOK) {
            // The machine slept, or had no time for us: the silence was ours.
            self.unanswered_since = self.unanswered_since.map(|_| now);
        }
        self.looked = now;
        if stats.udp_rx.datagrams != self.received {
            self.busy |= stats.udp_rx.datagrams >= self.received + BUSY;
            self.received = stats.udp_rx.datagrams;
            self.quiet_since = now;
        }
        let asked = asking(&stats.frame_tx);
        if stats.frame_rx.acks != self.acks {
            self.acks = stats.frame_rx.acks;
            self.unanswered_since = None;
            self.silent_moves = 0;
        } else if asked != self.asked && self.unanswered_since.is_none() {
            self.unanswered_since = Some(now);
        }
        self.asked = asked;
    }

    /// Whether the tunnel is to be taken for dead.
    fn gives_up(&self, connection: &Connection) -> bool {
        let three_ptos = 9 * connection.rtt() + Duration::from_millis(75);
        let patience = (three_ptos.max(LEAST_PATIENCE) * (1 << self.silent_moves.min(8))).min(MOST_PATIENCE);
        self.unanswered_since.is_some_and(|since| since.elapsed() >= patience)
    }

    /// A move asks at once; what is unanswered from now on is so on the new tunnel.
    fn moved(&mut self, connection: &Connection) {
        let silent_moves = self.silent_moves + 1;
        *self = Pulse { silent_moves, unanswered_since: Some(Instant::now()), ..Pulse::new(connection) };
    }
}

/// Frames that a peer acknowledges without delay worth mentioning.
fn asking(sent: &FrameStats) -> u64 {
    [
        sent.crypto,
        sent.data_blocked,
        sent.datagram,
        sent.max_data,
        sent.max_stream_data,
        sent.max_streams_bidi,
        sent.new_connection_id,
        sent.path_response,
        sent.ping,
        sent.reset_stream,
        sent.retire_connection_id,
        sent.stop_sending,
        sent.stream,
        sent.stream_data_blocked,
        sent.streams_blocked_bidi,
    ]
    .iter()
    .sum()
}
