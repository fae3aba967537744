//! A running node: the pure core, its links, its sessions, and handles for the doors.
//!
//! [`Daemon::start`] is the one way to start a node; `phantom up` and every node of `phantom demo` go through it.

mod driver;
mod handle;
mod memory;
mod scribe;
mod tunnels;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, bail};
use phantom_protocol::{
    identity::{ApPublic, ApSecret, NodeId, NodeSecret},
    limits::{DEFAULT_HOPS, MAX_HOPS, POOL},
    network::Network,
    node::{Node, NodeConfig, ServiceId},
    time::{Moment, UnixTime},
    tunnel::Switch,
    wire::{
        contact::{Contact, TlsKeys},
        invitation::Invitation,
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
    doors::{HostRequest, Hosted},
    link::{LinkConfig, LinkStats, Links, TlsIdentity},
    session::{CongestionConfig, Group, Refusal, Service, SessionPool, SessionStats, SessionStream, SpeakAs},
    store::{Notes, Store},
};
use driver::{Command, Driver, DriverStatus};
use scribe::Scribe;
use tunnels::{DriverOpener, Sender};

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
    /// The address that it tells others, if that is not the one it listens on.
    pub advertise: Option<SocketAddr>,
    /// Which of this machine's addresses it dials from.
    pub source: Option<IpAddr>,
    /// X-nodes of its paths.
    pub hops: usize,
    /// Ready paths that it keeps.
    pub pool: usize,
}

impl Config {
    /// A node of this network that only dials and forgets itself.
    pub fn new(network: Network) -> Config {
        Config {
            state: None,
            network,
            friends: Vec::new(),
            listen: None,
            advertise: None,
            source: None,
            hops: DEFAULT_HOPS,
            pool: POOL,
        }
    }
}

/// One hosted identity.
struct HostedIdentity {
    id: ServiceId,
    public: ApPublic,
    service: Arc<Service>,
    targets: Arc<Mutex<BTreeMap<u16, SocketAddr>>>,
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
    /// By label.
    hosted: Mutex<BTreeMap<String, HostedIdentity>>,
    started: Moment,
    clock: Clock,
    store: Option<Arc<Store>>,
    driver: Mutex<Option<JoinHandle<()>>>,
}

impl Daemon {
    /// Starts a node.
    pub async fn start(config: Config) -> anyhow::Result<Daemon> {
        if config.hops > MAX_HOPS {
            bail!(
                "a path has 0 to {MAX_HOPS} relays, not {}. Choose a number in that range with --hops",
                config.hops
            );
        }
        let mut rng = fresh_rng()?;
        let clock = Clock::new();
        let Keys { store, secret, tls, kept, remembered } = Keys::of(&config, clock.unix(), &mut rng)?;
        let tls_keys = TlsKeys::one(tls.key_hash());
        let switch = Arc::new(Switch::new(rng.random(), secret.id()));

        let mut link_config = LinkConfig::new(Arc::clone(&secret), config.network.clone(), tls, clock);
        link_config.listen = config.listen;
        link_config.source = config.source;
        link_config.listed = config.listen.is_some();
        let (links, events) = Links::start(link_config, Arc::clone(&switch))?;
        let contact = own_contact(&config, links.listening(), secret.id(), tls_keys)?;

        let node_config = NodeConfig {
            secret: Arc::clone(&secret),
            contact,
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
        Ok(Daemon(Arc::new(Inner {
            sessions: SessionPool::new(opener, CongestionConfig::default()),
            hosted: Mutex::default(),
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
        })))
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

    /// Connects to a port of a peer.
    pub async fn connect(&self, group: &Group, peer: ApPublic, port: u16) -> Result<SessionStream, Refusal> {
        self.0.sessions.connect(group, &SpeakAs::OneTime, peer, port).await
    }

    /// Publishes a local port under a kept identity, over paths of `hops` relays; returns when its entry is out.
    pub async fn host(&self, request: HostRequest, hops: usize) -> anyhow::Result<Hosted> {
        let HostRequest { port, to, label } = request;
        let (id, public) = match self.add_port(&label, port, to) {
            Some(known) => known,
            None => self.host_identity(&label, port, to, hops).await?,
        };
        self.ask(|answer| Command::Published { id, answer }).await?;
        Ok(hosted(label, &public, port, to))
    }

    /// The label's identity if it is online already; it has one more port then.
    fn add_port(&self, label: &str, port: u16, to: SocketAddr) -> Option<(ServiceId, ApPublic)> {
        let identities = lock(&self.0.hosted);
        let identity = identities.get(label)?;
        lock(&identity.targets).insert(port, to);
        Some((identity.id, identity.public))
    }

    async fn host_identity(
        &self,
        label: &str,
        port: u16,
        to: SocketAddr,
        hops: usize,
    ) -> anyhow::Result<(ServiceId, ApPublic)> {
        let secret = Arc::new(self.identity(label)?);
        let public = secret.public();
        let targets = Arc::new(Mutex::new(BTreeMap::from([(port, to)])));
        let ports = Arc::new(tunnels::Ports(Arc::clone(&targets)));
        let service = Arc::new(Service::new(Arc::clone(&secret), ports, &CongestionConfig::default())?);
        let answering = Arc::clone(&service);
        let id = self.ask(|answer| Command::Host { secret, hops, service: answering, answer }).await?;
        let identity = HostedIdentity { id, public, service, targets };
        lock(&self.0.hosted).insert(label.into(), identity);
        Ok((id, public))
    }

    /// Takes an identity offline. False if it was not hosted.
    pub async fn unhost(&self, label: &str) -> anyhow::Result<bool> {
        let gone = lock(&self.0.hosted).remove(label);
        let Some(HostedIdentity { id, .. }) = gone else {
            return Ok(false);
        };
        self.ask(|answer| Command::Unhost { id, answer }).await?;
        Ok(true)
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

    /// What the sessions of its hosted identities have carried.
    pub fn hosted_sessions(&self) -> Vec<SessionStats> {
        lock(&self.0.hosted).values().flat_map(|identity| identity.service.stats()).collect()
    }

    /// Tunnels that it has closed because too much of them was missing.
    pub fn tunnels_broken(&self) -> u64 {
        self.0.switch.closed_by_gap_rule()
    }

    /// Ends sessions, links and the node. Handles that are left over get errors.
    pub async fn stop(&self) {
        lock(&self.0.hosted).clear();
        let driver = lock(&self.0.driver).take();
        if let Some(driver) = driver {
            let _ = self.0.commands.send(Command::Stop);
            let _ = tokio::time::timeout(LAST_NOTES, driver).await;
        }
        self.0.links.shutdown(FAREWELL).await;
    }

    fn identity(&self, name: &str) -> anyhow::Result<ApSecret> {
        let mut rng = fresh_rng()?;
        match &self.0.store {
            Some(store) => Ok(store.identity_or_new(name, &mut rng)?),
            None => Ok(ApSecret::generate(&mut rng)),
        }
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> anyhow::Result<T> {
        let (answer, receiver) = oneshot::channel();
        let _ = self.0.commands.send(command(answer));
        receiver.await.context("this node has been stopped")
    }
}

fn hosted(label: String, public: &ApPublic, port: u16, to: SocketAddr) -> Hosted {
    let address = public.address().into();
    Hosted { label, name: public.name().to_string(), address, port, to }
}

/// What a node keeps over restarts, or draws anew where there is no state folder.
struct Keys {
    store: Option<Arc<Store>>,
    secret: Arc<NodeSecret>,
    tls: TlsIdentity,
    kept: Option<Vec<u8>>,
    remembered: Vec<Vec<u8>>,
}

impl Keys {
    fn of(config: &Config, now: UnixTime, rng: &mut ChaCha20Rng) -> anyhow::Result<Keys> {
        let Some(folder) = &config.state else {
            let secret = Arc::new(NodeSecret::generate_with_work(rng, config.network.work));
            let tls = TlsIdentity::generate(now)?;
            return Ok(Keys { store: None, secret, tls, kept: None, remembered: Vec::new() });
        };
        let store = Store::open(folder, &config.network)?;
        Ok(Keys {
            secret: Arc::new(store.node_secret(rng)?),
            tls: store.tls_identity(now)?,
            kept: store.read_notes(Notes::Building)?.map(|bytes| bytes.to_vec()),
            remembered: store.read_notes(Notes::Nodes)?.map_or_else(Vec::new, |bytes| memory::split(&bytes)),
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
    match config.advertise.or(listening) {
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
