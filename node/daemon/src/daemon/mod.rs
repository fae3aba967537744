//! A running node: the pure core, its links, its sessions, and handles for the doors.
//!
//! [`Daemon::start`] is the one way to start a node; `phantom up` and every node of `phantom demo` go through it.

mod driver;
mod groups;
mod handle;
mod hosting;
mod meeting;
mod memory;
mod online;
mod reach;
mod relaying;
mod scribe;
mod serving;
mod tunnels;
mod visiting;

use std::{
    net::{IpAddr, SocketAddr, TcpListener},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, bail};
use futures_util::future::join_all;
use phantom_protocol::{
    identity::{ApPublic, NodeId, NodeSecret},
    limits::{DEFAULT_HOPS, MAX_HOPS, POOL},
    network::Network,
    node::{Node, NodeConfig, Relay},
    time::{Moment, UnixTime},
    tunnel::Switch,
    wire::{
        contact::{Contact, TlsKeys},
        invitation::Invitation,
        outward::Outside,
    },
};
use rand::{
    RngExt, SeedableRng,
    rngs::{ChaCha20Rng, SysRng},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use crate::{
    clock::Clock,
    link::{LinkConfig, LinkStats, Links, RateLimit, TlsIdentity},
    outward::Prefix,
    session::{CongestionConfig, Deliver, Flow, Group, Refusal, SessionPool, SessionStream},
    store::{Notes, Store},
};
use driver::{Command, Driver, DriverStatus};
use hosting::{Hosting, PortList};
use meeting::Meetings;
use scribe::Scribe;
use serving::Serving;
use tunnels::{DriverOpener, Sender};
use visiting::{VisitList, Visiting};

/// How long a stopping node waits for its links.
const FAREWELL: Duration = Duration::from_secs(2);
/// How long it waits until a slow disk has its last notes.
const LAST_NOTES: Duration = Duration::from_secs(10);

/// What a node is to be.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it keeps its keys and guards; `None` for a node that forgets itself.
    pub state: Option<PathBuf>,
    /// The network that it belongs to.
    pub network: Network,
    /// Nodes to begin with.
    pub friends: Vec<Contact>,
    /// Where it listens for other nodes; `None` for a node that only dials and so serves nobody.
    pub listen: Option<SocketAddr>,
    /// Whether it serves in the paths of others, if it listens.
    pub relay: Relay,
    /// The port of `listen`, if it was opened before, by [`open_port`](crate::link::open_port).
    pub opened: Option<Arc<TcpListener>>,
    /// Bytes that its links may carry in a month before it ceases to relay.
    pub quota: Option<u64>,
    /// What its links may carry together.
    pub rate: Option<RateLimit>,
    /// Which of this machine's addresses it dials from.
    pub source: Option<IpAddr>,
    /// X-nodes of its paths.
    pub hops: usize,
    /// Ready paths that it keeps.
    pub pool: usize,
    /// Who leads its programs to the ordinary Internet; `None` if nobody is to.
    pub out_proxy: Option<ApPublic>,
    /// The networks of this machine, to which a way out does not lead.
    pub near: Vec<Prefix>,
}

impl Config {
    /// A node of this network that only dials and forgets itself.
    pub fn new(network: Network) -> Config {
        Config {
            state: None,
            network,
            friends: Vec::new(),
            listen: None,
            relay: Relay::default(),
            opened: None,
            quota: None,
            rate: None,
            source: None,
            hops: DEFAULT_HOPS,
            pool: POOL,
            out_proxy: None,
            near: Vec::new(),
        }
    }
}

/// A running node. Clones are handles of the same; [`Daemon::stop`] ends it.
#[derive(Clone)]
pub struct Daemon(Arc<Inner>);

struct Inner {
    config: Config,
    secret: Arc<NodeSecret>,
    contact: Contact,
    links: Links,
    switch: Arc<Switch>,
    commands: mpsc::UnboundedSender<Command>,
    sessions: SessionPool,
    hosting: Hosting,
    visiting: Visiting,
    meetings: Meetings,
    serving: Serving,
    started: Moment,
    clock: Clock,
    store: Option<Arc<Store>>,
    driver: Mutex<Option<JoinHandle<()>>>,
}

impl Daemon {
    /// Starts a node.
    pub async fn start(mut config: Config) -> anyhow::Result<Daemon> {
        if config.hops > MAX_HOPS {
            bail!(
                "a path has 0 to {MAX_HOPS} relays, not {}. Choose a number in that range with --hops",
                config.hops
            );
        }
        let mut rng = fresh_rng()?;
        let clock = Clock::new();
        let Keys { store, secret, tls, kept, spending, remembered, services, visits } =
            Keys::of(&config, clock.unix(), &mut rng)?;
        let tls_keys = TlsKeys::one(tls.key_hash());
        let switch = Arc::new(Switch::new(rng.random(), secret.id()));

        let mut link_config = LinkConfig::new(Arc::clone(&secret), config.network.clone(), tls, clock);
        link_config.listen = config.listen;
        link_config.opened = config.opened.take().map(|opened| opened.try_clone()).transpose()?;
        link_config.source = config.source;
        link_config.rate = config.rate;
        let (links, events) = Links::start(link_config, Arc::clone(&switch))?;
        let contact = own_contact(&config, links.listening(), secret.id(), tls_keys)?;

        let node_config = NodeConfig {
            secret: Arc::clone(&secret),
            contact,
            relay: config.relay,
            quota: config.quota,
            spending,
            network: config.network.clone(),
            family: None,
            hops: config.hops,
            pool: config.pool,
            friends: config.friends.clone(),
            remembered,
            kept,
            seed: rng.random(),
        };
        let node = Node::new(clock.now(), node_config, Arc::clone(&switch));
        let (commands, receiver) = mpsc::unbounded_channel();
        let sender: Arc<Sender> = Arc::new(Sender::new(links.clone(), Arc::clone(&switch)));
        let driver =
            Driver::new(node, links.clone(), clock, Arc::clone(&sender), store.clone().map(Scribe::new));
        let driver = tokio::spawn(driver.run(events, receiver));
        let opener = Arc::new(DriverOpener::new(commands.clone()));
        let daemon = Daemon(Arc::new(Inner {
            sessions: SessionPool::new(opener, CongestionConfig::default()),
            hosting: Hosting::default(),
            visiting: Visiting::default(),
            meetings: Meetings::default(),
            serving: Serving::default(),
            driver: Mutex::new(Some(driver)),
            started: clock.moment(),
            clock,
            config,
            secret,
            contact,
            links,
            switch,
            commands,
            store,
        }));
        daemon.visit_again(visits).await;
        daemon.host_again(services).await;
        Ok(daemon)
    }

    /// Who this node is.
    pub fn id(&self) -> NodeId {
        self.0.secret.id()
    }

    /// Where other nodes reach it, if they can.
    pub fn listening(&self) -> Option<SocketAddr> {
        self.0.contact.address
    }

    /// What it was started with.
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// What another node needs to join through this one; `None` if it cannot be dialled.
    pub fn invitation(&self) -> Option<Invitation> {
        Invitation::new(self.0.config.network.id(), &self.0.contact)
    }

    /// Connects to a port of a peer, as whoever visits it.
    pub async fn connect(&self, group: &Group, peer: ApPublic, port: u16) -> Result<SessionStream, Refusal> {
        let speak_as = self.speak_as(&peer);
        let connected = self.0.sessions.connect(group, &speak_as, peer, port).await;
        connected.map_err(|refusal| refusal.told_to(&speak_as))
    }

    /// Opens a UDP flow to a port of a peer; what comes back goes to `deliver`.
    pub async fn flow(
        &self,
        group: &Group,
        peer: ApPublic,
        port: u16,
        deliver: Deliver,
    ) -> Result<Flow, Refusal> {
        let speak_as = self.speak_as(&peer);
        let opened = self.0.sessions.flow(group, &speak_as, peer, port, deliver).await;
        opened.map_err(|refusal| refusal.told_to(&speak_as))
    }

    /// Connects to somebody outside the network, by the out-proxy.
    pub async fn go_out(&self, group: &Group, to: Outside, port: u16) -> Result<SessionStream, Refusal> {
        let Some(peer) = self.0.config.out_proxy else { return Err(Refusal::NotAllowed) };
        self.0.sessions.go_out(group, &self.speak_as(&peer), peer, to, port).await
    }

    /// Waits until so many paths are ready for clients. Paths of length 0 are made when they are needed.
    pub async fn paths_ready(&self, count: usize) -> anyhow::Result<()> {
        self.ask(|answer| Command::PathsReady { count, answer }).await
    }

    /// Builds one path of this length and ends it again; says how long it took. For tests and benches.
    pub async fn try_path(&self, hops: usize) -> anyhow::Result<Duration> {
        self.ask(|answer| Command::TryPath { hops, answer }).await?
    }

    /// What its links have carried.
    pub fn link_stats(&self) -> Vec<LinkStats> {
        self.0.links.stats()
    }

    /// Tunnels that it has closed because too much of them was missing.
    pub fn tunnels_broken(&self) -> u64 {
        self.0.switch.closed_by_gap_rule()
    }

    /// Ends sessions, whose other ends are told; then the node and its links. Handles that are left over get errors.
    pub async fn stop(&self) {
        let hosted = std::mem::take(&mut *lock(&self.0.hosting.online));
        let services = join_all(hosted.values().map(|identity| identity.service.end()));
        let serving = self.0.serving.services();
        let serving = join_all(serving.iter().map(|service| service.end()));
        tokio::join!(services, serving, self.0.sessions.end());
        let driver = lock(&self.0.driver).take();
        if let Some(driver) = driver {
            let _ = self.0.commands.send(Command::Stop);
            let _ = tokio::time::timeout(LAST_NOTES, driver).await;
        }
        self.0.links.shutdown(FAREWELL).await;
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> anyhow::Result<T> {
        let (answer, receiver) = oneshot::channel();
        let _ = self.0.commands.send(command(answer));
        receiver.await.context("this node has been stopped")
    }
}

/// What a node keeps over restarts, or draws anew where there is no state folder.
struct Keys {
    store: Option<Arc<Store>>,
    secret: Arc<NodeSecret>,
    tls: TlsIdentity,
    kept: Option<Vec<u8>>,
    spending: Option<Vec<u8>>,
    remembered: Vec<Vec<u8>>,
    services: PortList,
    visits: VisitList,
}

impl Keys {
    fn of(config: &Config, now: UnixTime, rng: &mut ChaCha20Rng) -> anyhow::Result<Keys> {
        let Some(folder) = &config.state else {
            let secret = Arc::new(NodeSecret::generate_with_work(rng, config.network.work));
            let tls = TlsIdentity::generate(now)?;
            return Ok(Keys {
                store: None,
                secret,
                tls,
                kept: None,
                spending: None,
                remembered: Vec::new(),
                services: PortList::default(),
                visits: VisitList::new(),
            });
        };
        let store = Store::open(folder, &config.network)?;
        Ok(Keys {
            secret: Arc::new(store.node_secret(rng)?),
            tls: store.tls_identity(now)?,
            kept: store.read_notes(Notes::Building)?.map(|bytes| bytes.to_vec()),
            spending: store.read_notes(Notes::Spending)?.map(|bytes| bytes.to_vec()),
            remembered: store.read_notes(Notes::Nodes)?.map_or_else(Vec::new, |bytes| memory::split(&bytes)),
            services: PortList::read(&store)?,
            visits: visiting::read(&store)?,
            store: Some(Arc::new(store)),
        })
    }
}

/// What others learn of this node: its address only if it listens.
fn own_contact(
    config: &Config,
    listening: Option<SocketAddr>,
    id: NodeId,
    tls_keys: TlsKeys,
) -> anyhow::Result<Contact> {
    match listening {
        Some(address) if !config.network.admits(address) => bail!(
            "other nodes could not reach this one at {address}: it is not a public address. \
             Give one that they can reach with --listen"
        ),
        Some(address) => Ok(Contact::listed(id, address, tls_keys)),
        None => Ok(Contact::unlisted(id)),
    }
}

/// Randomness for keys, from the system.
pub(crate) fn fresh_rng() -> anyhow::Result<ChaCha20Rng> {
    ChaCha20Rng::try_from_rng(&mut SysRng).context("the system gives no randomness")
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
