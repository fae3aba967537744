//! Links: the TLS connections between neighbouring nodes (PROTOCOL §2).
//!
//! There is one link per pair of nodes, and everything that the two say to each other goes through it in cells of one
//! size. [`Links`] opens and closes them, [`LinkEvents`] tells the driver what happens, and cells of tunnels go straight
//! from a link's task through the [`Switch`] into the queue of the next link, without passing the driver. The switch is
//! told here which links come and go; the driver must not tell it again.

mod connection;
mod dial;
mod events;
mod gate;
mod handshake;
mod hello;
mod listen;
mod loopback;
mod outlet;
mod rate;
pub mod record;
mod socket;
mod stranger;
mod table;
mod task;
#[cfg(test)]
mod tests;
pub mod tls;

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use phantom_protocol::{
    identity::{NodeId, NodeSecret},
    network::Network,
    tunnel::{OwnerTunnelId, QueueLimits, Switch},
    wire::{
        cell::{CELL, LinkId},
        contact::Contact,
        control::ControlMessage,
    },
};
use thiserror::Error;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub use self::{
    dial::DialError,
    events::{LinkEvent, LinkEvents},
    outlet::{Inbox, NetOutlet},
    rate::{LEAST_BURST, LEAST_RATE, RateLimit},
    task::LinkEnd,
    tls::{TlsError, TlsIdentity},
};
use self::{
    events::EventSender,
    gate::Gate,
    outlet::Inboxes,
    rate::Rates,
    table::{BeginDial, Ending, Table},
};
use crate::clock::Clock;

/// Dials under way at once.
const DIALS_AT_ONCE: usize = 64;

/// What links need to know. Make it with [`LinkConfig::new`] and change what differs.
#[derive(Debug)]
pub struct LinkConfig {
    /// Who we are.
    pub node: Arc<NodeSecret>,
    /// The network that we belong to; nodes of others are strangers.
    pub network: Network,
    /// What we show to diallers.
    pub tls: TlsIdentity,
    /// The node's clock.
    pub clock: Clock,
    /// Where to listen; `None` for a node that only dials.
    pub listen: Option<SocketAddr>,
    /// The port of `listen`, if it was opened before, by [`open_port`].
    pub opened: Option<TcpListener>,
    /// Which of this machine's addresses to dial from.
    pub source: Option<IpAddr>,
    /// Whether this node tells its neighbours from the start that it can be dialled.
    pub listed: bool,
    /// Diallers prove their identity in this time, or meet the web server.
    pub handshake_timeout: Duration,
    /// Connections that have not proved their identity.
    pub handshakes: usize,
    /// The same for each IPv4 /24 and IPv6 /48.
    pub handshakes_per_prefix: usize,
    /// Links to other nodes, beyond which diallers are turned away.
    pub links: usize,
    /// A peer that takes nothing for this long, though something waits for it, loses its link.
    pub stuck_after: Duration,
    /// The queue of each link.
    pub queue: QueueLimits,
    /// What all links together may carry in each direction.
    pub rate: Option<RateLimit>,
}

impl LinkConfig {
    /// A node that only dials.
    pub fn new(node: Arc<NodeSecret>, network: Network, tls: TlsIdentity, clock: Clock) -> LinkConfig {
        LinkConfig {
            node,
            network,
            tls,
            clock,
            listen: None,
            opened: None,
            source: None,
            listed: false,
            handshake_timeout: Duration::from_secs(10),
            handshakes: 512,
            handshakes_per_prefix: 128,
            links: 2048,
            stuck_after: Duration::from_secs(20),
            queue: QueueLimits::default(),
            rate: None,
        }
    }
}

/// Why links could not be started.
#[derive(Debug, Error)]
pub enum StartError {
    /// The port is taken or not ours to take.
    #[error("cannot listen on {address}: {error}{}", listen_hint(error))]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Opens the port for other nodes before the node starts: the right that opens it may be gone by then. Needs no runtime.
pub fn open_port(address: SocketAddr) -> Result<TcpListener, StartError> {
    listen::bind(address).map_err(|error| StartError::Listen { address, error })
}

fn listen_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => ". Another program has this port: choose another one with --listen",
        io::ErrorKind::PermissionDenied => {
            ". Ports below 1024 need a right: choose another one with --listen, or run \
             `sudo setcap cap_net_bind_service=+ep $(command -v phantom)`"
        }
        io::ErrorKind::AddrNotAvailable => ": give one that \"ip address\" shows",
        _ => ". Choose another address with --listen",
    }
}

/// The links of this node. Clones are handles of the same.
#[derive(Clone)]
pub struct Links {
    shared: Arc<Shared>,
    listening: Option<SocketAddr>,
}

/// What all tasks of this module share.
struct Shared {
    node: Arc<NodeSecret>,
    network: Network,
    clock: Clock,
    source: Option<IpAddr>,
    listed: AtomicBool,
    switch: Arc<Switch>,
    table: Table,
    inboxes: Inboxes,
    events: EventSender,
    dials: Semaphore,
    rates: Rates,
    handshake_timeout: Duration,
    stuck_after: Duration,
    stop: CancellationToken,
}

/// What [`Links::dial`] has found or done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dial {
    /// There is a link already. For our own id it is the loop.
    Up(LinkId),
    /// [`LinkEvent::Up`] or [`LinkEvent::DialFailed`] will follow.
    UnderWay,
}

/// What links have carried, those that have ended among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Cells received, of all kinds.
    pub cells_in: u64,
    /// Cells sent, of all kinds.
    pub cells_out: u64,
    /// Cells dropped because they had waited too long, or memory was at its limit.
    pub dropped: u64,
}

impl std::ops::AddAssign for Carried {
    fn add_assign(&mut self, more: Carried) {
        self.cells_in += more.cells_in;
        self.cells_out += more.cells_out;
        self.dropped += more.dropped;
    }
}

/// What one link has carried.
#[derive(Clone, Debug)]
pub struct LinkStats {
    /// The link.
    pub link: LinkId,
    /// Who is at its other end.
    pub peer: NodeId,
    /// Where.
    pub address: Option<SocketAddr>,
    /// Whether we dialled.
    pub dialled: bool,
    /// How long it has stood.
    pub age: Duration,
    /// One round trip, measured when the link was made; where the other has dialled, some computing is counted, too.
    pub round_trip: Option<Duration>,
    /// Cells received, of all kinds.
    pub cells_in: u64,
    /// Cells sent, of all kinds.
    pub cells_out: u64,
    /// Data cells of tunnels received.
    pub data_in: u64,
    /// Data cells of tunnels taken for sending.
    pub data_out: u64,
    /// Cells that wait to be sent.
    pub waiting: usize,
    /// Cells dropped because they had waited too long, or memory was at its limit.
    pub dropped: u64,
}

impl LinkStats {
    /// Bytes received, before TLS.
    pub fn bytes_in(&self) -> u64 {
        self.cells_in * CELL as u64
    }
}

impl Links {
    /// Starts listening, and the loop. Needs a tokio runtime.
    pub fn start(config: LinkConfig, switch: Arc<Switch>) -> Result<(Links, LinkEvents), StartError> {
        let tls = tls::server_config(&config.tls)?;
        let listener = match config.listen {
            None => None,
            Some(address) => {
                let failed = |error| StartError::Listen { address, error };
                let listener = config.opened.map_or_else(|| open_port(address), Ok)?;
                let listening = listener.local_addr().map_err(failed)?;
                let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;
                Some((listener, listening))
            }
        };
        let (events, receiver) = events::channel();
        let shared = Arc::new(Shared {
            table: Table::new(config.node.id(), Arc::clone(&switch), config.queue, config.links),
            node: config.node,
            network: config.network,
            clock: config.clock,
            source: config.source,
            listed: AtomicBool::new(config.listed),
            switch,
            inboxes: Inboxes::default(),
            events,
            handshake_timeout: config.handshake_timeout,
            stuck_after: config.stuck_after,
            rates: Rates::new(config.rate),
            dials: Semaphore::new(DIALS_AT_ONCE),
            stop: CancellationToken::new(),
        });
        tokio::spawn(loopback::LoopTask::new(&shared).run());
        let listening = listener.map(|(listener, listening)| {
            let gate = Gate::new(config.handshakes, config.handshakes_per_prefix);
            tokio::spawn(listen::run(Arc::clone(&shared), listener, tls, gate));
            listening
        });
        Ok((Links { shared, listening }, receiver))
    }

    /// Where this node listens.
    pub fn listening(&self) -> Option<SocketAddr> {
        self.listening
    }

    /// Makes sure that there is, or will be, a link to a node.
    pub fn dial(&self, contact: Contact) -> Dial {
        if contact.id == self.shared.node.id() {
            return Dial::Up(LinkId::LOOP_A);
        }
        match self.shared.table.begin_dial(contact.id) {
            BeginDial::Up(link) => Dial::Up(link),
            BeginDial::UnderWay => Dial::UnderWay,
            BeginDial::Go(stop) => {
                tokio::spawn(dial::run(Arc::clone(&self.shared), contact, stop));
                Dial::UnderWay
            }
        }
    }

    /// Looks whether a node is where it says, whatever links there are: [`LinkEvent::Knocked`] follows.
    pub fn knock(&self, contact: Contact) {
        tokio::spawn(dial::knock(Arc::clone(&self.shared), contact));
    }

    /// From now on this node tells new neighbours that it can be dialled, or that it cannot.
    pub fn set_listed(&self, listed: bool) {
        self.shared.listed.store(listed, Ordering::Relaxed);
    }

    /// Queues a message for a neighbour, before all cells of tunnels. `false` if there is no such link.
    pub fn send(&self, link: LinkId, message: &ControlMessage) -> bool {
        let Some(link) = self.shared.table.get(link) else { return false };
        link.push(self.shared.clock.moment(), &message.to_cells());
        link.waker.wake();
        true
    }

    /// Closes a link after what stands in its queue; [`LinkEvent::Down`] follows.
    pub fn close(&self, link: LinkId) {
        if let Some(link) = self.shared.table.get(link).filter(|link| link.id.0 >= LinkId::FIRST) {
            link.end(Ending::Orderly);
        }
    }

    /// The link to a node, if there is one.
    pub fn link_to(&self, node: &NodeId) -> Option<LinkId> {
        self.shared.table.link_to(node)
    }

    /// Where the cells go that somebody outside the link tasks makes with the switch: a session, or the driver. Cheap;
    /// dropping it, or [`NetOutlet::flush`], wakes whoever got something.
    pub fn outlet(&self) -> NetOutlet {
        NetOutlet::new(Arc::clone(&self.shared), None)
    }

    /// From now on `inbox` gets what comes out of a tunnel, beginning with what came before this call.
    pub fn register_inbox(&self, tunnel: OwnerTunnelId, inbox: Arc<dyn Inbox>) {
        self.shared.inboxes.register(tunnel, inbox);
    }

    /// The tunnel is closed.
    pub fn forget_inbox(&self, tunnel: OwnerTunnelId) {
        self.shared.inboxes.forget(tunnel);
    }

    /// What all links to other nodes have carried.
    pub fn stats(&self) -> Vec<LinkStats> {
        let now = self.shared.clock.moment();
        let mut all: Vec<_> = self.shared.table.all().iter().map(|link| stats_of(link, now)).collect();
        all.sort_by_key(|stats| stats.link);
        all
    }

    /// What all of them have carried since the start.
    pub fn carried(&self) -> Carried {
        self.shared.table.carried()
    }

    /// Stops listening and dialling, which dropping all handles does not, and closes all links, waiting for that at most `patience`.
    pub async fn shutdown(&self, patience: Duration) {
        self.shared.stop.cancel();
        for link in self.shared.table.all() {
            link.end(Ending::Orderly);
        }
        let _ = tokio::time::timeout(patience, self.shared.table.until_empty()).await;
        for id in [LinkId::LOOP_A, LinkId::LOOP_B] {
            if let Some(link) = self.shared.table.get(id) {
                link.end(Ending::Replaced);
            }
        }
    }
}

impl Shared {
    fn is_listed(&self) -> bool {
        self.listed.load(Ordering::Relaxed)
    }
}

fn stats_of(link: &table::Link, now: phantom_protocol::time::Moment) -> LinkStats {
    let counters = &link.counters;
    let (waiting, dropped) = link.waiting_and_dropped();
    LinkStats {
        link: link.id,
        peer: link.peer,
        address: link.address,
        dialled: link.dialled,
        age: now.since(link.since),
        round_trip: link.round_trip.get().copied(),
        cells_in: counters.cells_in.load(Ordering::Relaxed),
        cells_out: counters.cells_out.load(Ordering::Relaxed),
        data_in: counters.data_in.load(Ordering::Relaxed),
        data_out: counters.data_out.load(Ordering::Relaxed),
        waiting,
        dropped,
    }
}
