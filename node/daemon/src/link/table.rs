//! The links of this node, and who may become one (PROTOCOL §2).
//!
//! There is one link per pair of nodes. Of two crossing dials the one of the smaller NodeId stays, and that is settled
//! before either is used. The listener's Hello is what makes a link, so the listener decides:
//!
//! - The larger NodeId takes a dial of the smaller at once. It gives up its own dial, and if it still has an older link
//!   to that peer, the peer has lost it, for it does not dial over a link that stands.
//! - The smaller NodeId, while it dials or has a link that it dialled, leaves the other's dial without an answer: if the
//!   two have crossed, the larger hangs up by itself. If it still waits after [`HOLD`], it knows nothing of our link,
//!   and its dial is taken instead.
//!
//! When all places are taken, one more dialler still gets in: of the links that we have not dialled one gives way that
//! carries nothing, the oldest of the most crowded /16 or /32; or, if that holds more than its share, one that does.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use dashmap::DashMap;
use futures_util::task::AtomicWaker;
use phantom_protocol::{
    identity::NodeId,
    netdb::view::Subnet,
    time::Moment,
    tunnel::{FairQueue, QueueLimits, Switch},
    wire::cell::{Cell, Command, LinkId},
};
use tokio::sync::{Notify, futures::OwnedNotified};
use tokio_util::sync::CancellationToken;

use super::Carried;

/// How long a dial of the larger NodeId is left without an answer while ours stands or is under way.
pub(super) const HOLD: Duration = Duration::from_secs(3);
/// A link reads nothing more while the driver has this many bytes of it before it.
const BACKLOG: usize = 1 << 20;

/// Cells that wait for all links of a node together: 365 MB.
const CELLS: usize = 262_144;
/// A link may hold one in this many of the places that are free.
const CELL_SHARES: usize = 4;
/// Of all places for links, one network may keep this part against diallers from elsewhere.
const SHARE_OF_A_NETWORK: usize = 8;
/// But always so many, however full the others are.
const CELLS_OF_EVERY_LINK: usize = 512;

/// What waits at all links. Peers that do not read, together, must not fill the memory that one alone may use.
#[derive(Default)]
pub(super) struct Waiting(AtomicUsize);

impl Waiting {
    fn share(&self) -> usize {
        (CELLS.saturating_sub(self.0.load(Ordering::Relaxed)) / CELL_SHARES).max(CELLS_OF_EVERY_LINK)
    }

    fn changed(&self, before: usize, after: usize) {
        self.0.fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
    }
}

/// One link: what other tasks see of it.
pub(super) struct Link {
    pub(super) id: LinkId,
    pub(super) peer: NodeId,
    pub(super) address: Option<SocketAddr>,
    pub(super) dialled: bool,
    pub(super) since: Moment,
    /// One round trip, when the link was made: TCP's where we have dialled, else that of the TLS handshake, computing included.
    pub(super) round_trip: OnceLock<Duration>,
    pub(super) counters: Counters,
    /// Wakes the link's task.
    pub(super) waker: AtomicWaker,
    queue: Mutex<FairQueue>,
    most_cells: usize,
    waiting: Arc<Waiting>,
    ending: AtomicU8,
    backlog: AtomicUsize,
}

/// What a link has carried. Cells include padding and control; data cells are those of tunnels.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) cells_in: AtomicU64,
    pub(super) cells_out: AtomicU64,
    pub(super) data_in: AtomicU64,
    pub(super) data_out: AtomicU64,
}

/// How a link is asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ending {
    /// Not at all.
    No = 0,
    /// After what stands in its queue has left.
    Orderly = 1,
    /// At once: the peer has another.
    Replaced = 2,
    /// At once: what must not be dropped does not drain.
    Stuck = 3,
}

impl Link {
    pub(super) fn new(
        id: LinkId,
        peer: NodeId,
        address: Option<SocketAddr>,
        dialled: bool,
        limits: QueueLimits,
        waiting: Arc<Waiting>,
        since: Moment,
    ) -> Link {
        Link {
            id,
            peer,
            address,
            dialled,
            since,
            round_trip: OnceLock::new(),
            counters: Counters::default(),
            waker: AtomicWaker::new(),
            queue: Mutex::new(FairQueue::new(limits)),
            most_cells: limits.cells,
            waiting,
            ending: AtomicU8::new(Ending::No as u8),
            backlog: AtomicUsize::new(0),
        }
    }

    /// Puts cells into the link's queue, and nobody's between them; the caller wakes the task afterwards.
    pub(super) fn push(&self, now: Moment, cells: &[Cell]) {
        let data = cells.iter().filter(|cell| cell.command() == Ok(Command::Data)).count();
        self.counters.data_out.fetch_add(data as u64, Ordering::Relaxed);
        let mut queue = self.queue();
        let before = queue.len();
        queue.limit_cells(self.waiting.share().min(self.most_cells));
        let is_stuck = cells.iter().any(|cell| queue.push(now, cell).is_err());
        self.waiting.changed(before, queue.len());
        if is_stuck {
            self.end(Ending::Stuck);
        }
    }

    fn carried(&self) -> Carried {
        Carried {
            cells_in: self.counters.cells_in.load(Ordering::Relaxed),
            cells_out: self.counters.cells_out.load(Ordering::Relaxed),
            dropped: self.waiting_and_dropped().1,
        }
    }

    /// Cells that wait.
    pub(super) fn waiting(&self) -> usize {
        self.queue().len()
    }

    /// Cells that wait, and cells that were dropped.
    pub(super) fn waiting_and_dropped(&self) -> (usize, u64) {
        let queue = self.queue();
        (queue.len(), queue.dropped())
    }

    /// Takes up to `most` cells for the wire.
    pub(super) fn pop(&self, now: Moment, out: &mut Vec<u8>, most: usize) -> usize {
        let mut queue = self.queue();
        let before = queue.len();
        let cells = queue.pop_into(now, out, most);
        self.waiting.changed(before, queue.len());
        drop(queue);
        self.counters.cells_out.fetch_add(cells as u64, Ordering::Relaxed);
        cells
    }

    fn queue(&self) -> MutexGuard<'_, FairQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn end(&self, how: Ending) {
        self.ending.fetch_max(how as u8, Ordering::AcqRel);
        self.waker.wake();
    }

    pub(super) fn ending(&self) -> Ending {
        match self.ending.load(Ordering::Acquire) {
            0 => Ending::No,
            1 => Ending::Orderly,
            2 => Ending::Replaced,
            _ => Ending::Stuck,
        }
    }

    /// Whether the driver must catch up before this link may bring more.
    pub(super) fn must_pause(&self) -> bool {
        self.backlog.load(Ordering::SeqCst) > BACKLOG
    }

    pub(super) fn backlog_grows(&self, weight: usize) {
        self.backlog.fetch_add(weight, Ordering::SeqCst);
    }

    pub(super) fn backlog_shrinks(&self, weight: usize) {
        let before = self.backlog.fetch_sub(weight, Ordering::SeqCst);
        if before > BACKLOG && before - weight <= BACKLOG {
            self.waker.wake();
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let left = self.queue().len();
        self.waiting.changed(left, 0);
    }
}

/// All links of a node.
pub(super) struct Table {
    own: NodeId,
    switch: Arc<Switch>,
    limits: QueueLimits,
    waiting: Arc<Waiting>,
    most: usize,
    links: DashMap<LinkId, Arc<Link>>,
    peers: Mutex<Peers>,
    /// Of links that have ended.
    carried: Mutex<Carried>,
    changed: Arc<Notify>,
}

struct Peers {
    next: u64,
    links: HashMap<NodeId, Arc<Link>>,
    dials: HashMap<NodeId, CancellationToken>,
}

/// What [`Table::begin_dial`] found.
pub(super) enum BeginDial {
    /// Dial; stop when the token is cancelled.
    Go(CancellationToken),
    /// Somebody does already.
    UnderWay,
    /// There is a link.
    Up(LinkId),
}

/// What the listener does with a peer that has proved its identity.
pub(super) enum Admission {
    /// This is the pair's link.
    Welcome(Arc<Link>),
    /// Not before this resolves, or [`HOLD`] is over.
    Hold(OwnedNotified),
    /// There are too many links, and all of use.
    Full,
}

impl Table {
    pub(super) fn new(own: NodeId, switch: Arc<Switch>, limits: QueueLimits, most: usize) -> Table {
        let peers = Peers { next: LinkId::FIRST, links: HashMap::new(), dials: HashMap::new() };
        Table {
            own,
            switch,
            limits,
            waiting: Arc::default(),
            most,
            links: DashMap::new(),
            peers: Mutex::new(peers),
            carried: Mutex::default(),
            changed: Arc::new(Notify::new()),
        }
    }

    /// Adds a link that has no peer: the node's link to itself.
    pub(super) fn add_loop(&self, id: LinkId, now: Moment) -> Arc<Link> {
        let link = Arc::new(Link::new(
            id,
            self.own,
            None,
            id == LinkId::LOOP_A,
            self.limits,
            Arc::clone(&self.waiting),
            now,
        ));
        self.links.insert(id, Arc::clone(&link));
        link
    }

    pub(super) fn get(&self, id: LinkId) -> Option<Arc<Link>> {
        self.links.get(&id).map(|link| Arc::clone(&link))
    }

    pub(super) fn link_to(&self, node: &NodeId) -> Option<LinkId> {
        self.peers().links.get(node).map(|link| link.id)
    }

    /// All links to other nodes.
    pub(super) fn all(&self) -> Vec<Arc<Link>> {
        self.peers().links.values().cloned().collect()
    }

    pub(super) fn begin_dial(&self, node: NodeId) -> BeginDial {
        let mut peers = self.peers();
        if let Some(link) = peers.links.get(&node) {
            return BeginDial::Up(link.id);
        }
        if peers.dials.contains_key(&node) {
            return BeginDial::UnderWay;
        }
        let stop = CancellationToken::new();
        peers.dials.insert(node, stop.clone());
        BeginDial::Go(stop)
    }

    /// A dial has led nowhere. Whether it still counted: a dial that was given up for another link did not.
    pub(super) fn dial_failed(&self, node: NodeId, stop: &CancellationToken) -> bool {
        let mut peers = self.peers();
        let counted = !stop.is_cancelled();
        if counted {
            peers.dials.remove(&node);
            self.changed.notify_waiters();
        }
        counted
    }

    /// The listener's Hello has come: the dial has become a link, unless it was given up meanwhile.
    pub(super) fn dial_done(
        &self,
        node: NodeId,
        stop: &CancellationToken,
        address: SocketAddr,
        now: Moment,
    ) -> Option<Arc<Link>> {
        let mut peers = self.peers();
        if stop.is_cancelled() {
            return None;
        }
        peers.dials.remove(&node);
        Some(self.insert(&mut peers, node, address, true, now))
    }

    /// Decides about a peer that has dialled us. `patient` is false when [`HOLD`] is over.
    pub(super) fn admit(&self, peer: NodeId, address: SocketAddr, patient: bool, now: Moment) -> Admission {
        let mut peers = self.peers();
        let ours = peers.dials.contains_key(&peer) || peers.links.get(&peer).is_some_and(|link| link.dialled);
        if ours && self.own < peer && patient {
            // Made while the lock is held: it misses no change.
            return Admission::Hold(Arc::clone(&self.changed).notified_owned());
        }
        if peers.links.len() >= self.most && !peers.links.contains_key(&peer) {
            let Some(victim) = self.least_needed(&peers, Subnet::of(address.ip())) else {
                return Admission::Full;
            };
            // What it still has to say may take a while: its place is free now.
            peers.links.remove(&victim.peer);
            victim.end(Ending::Orderly);
        }
        if let Some(dial) = peers.dials.remove(&peer) {
            dial.cancel();
        }
        Admission::Welcome(self.insert(&mut peers, peer, address, false, now))
    }

    /// The link that gives way to one more: the oldest idle one of the network that has most links. Paths do not protect
    /// a crowd: a network that holds more than its share loses its newest link to a dialler from elsewhere.
    fn least_needed(&self, peers: &Peers, newcomer: Subnet) -> Option<Arc<Link>> {
        let idle: HashSet<LinkId> = self.switch.idle_links().into_iter().collect();
        let mut networks: HashMap<Subnet, Vec<&Arc<Link>>> = HashMap::new();
        for link in peers.links.values().filter(|link| !link.dialled) {
            if let Some(address) = link.address {
                networks.entry(Subnet::of(address.ip())).or_default().push(link);
            }
        }
        let mut networks: Vec<_> = networks.into_iter().collect();
        networks.sort_by_key(|(_, links)| Reverse(links.len()));
        networks.into_iter().find_map(|(network, links)| {
            let oldest_idle = links.iter().filter(|link| idle.contains(&link.id)).min_by_key(|link| link.id);
            let is_crowd = links.len() > self.most / SHARE_OF_A_NETWORK && network != newcomer;
            let newest = links.iter().max_by_key(|link| link.id).filter(|_| is_crowd);
            oldest_idle.or(newest).map(|link| Arc::clone(link))
        })
    }

    /// The link's task is done.
    pub(super) fn remove(&self, link: &Link) {
        let mut peers = self.peers();
        if peers.links.get(&link.peer).is_some_and(|current| current.id == link.id) {
            peers.links.remove(&link.peer);
        }
        {
            // Under the lock, so that nobody counts the link twice or not at all.
            let mut carried = self.carried.lock().unwrap_or_else(PoisonError::into_inner);
            if self.links.remove(&link.id).is_some() {
                *carried += link.carried();
            }
        }
        self.changed.notify_waiters();
    }

    /// What all links to other nodes have carried since the start.
    pub(super) fn carried(&self) -> Carried {
        let ended = self.carried.lock().unwrap_or_else(PoisonError::into_inner);
        let mut carried = *ended;
        for link in self.links.iter().filter(|link| link.address.is_some()) {
            carried += link.carried();
        }
        carried
    }

    /// Resolves when there is no link to any other node.
    pub(super) async fn until_empty(&self) {
        loop {
            let change = self.changed.notified();
            if self.peers().links.is_empty() {
                return;
            }
            change.await;
        }
    }

    fn insert(
        &self,
        peers: &mut Peers,
        peer: NodeId,
        address: SocketAddr,
        dialled: bool,
        now: Moment,
    ) -> Arc<Link> {
        let id = LinkId(peers.next);
        peers.next += 1;
        let link = Arc::new(Link::new(
            id,
            peer,
            Some(address),
            dialled,
            self.limits,
            Arc::clone(&self.waiting),
            now,
        ));
        // Whoever finds the link can use it.
        self.switch.link_up(id, peer, dialled);
        self.links.insert(id, Arc::clone(&link));
        if let Some(stale) = peers.links.insert(peer, Arc::clone(&link)) {
            stale.end(Ending::Replaced);
        }
        self.changed.notify_waiters();
        link
    }

    fn peers(&self) -> MutexGuard<'_, Peers> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use phantom_protocol::{
        crypto::Key,
        tunnel::HopInstall,
        wire::cell::{PathId, TunnelId},
    };

    use super::*;

    const PLACES: usize = 2_048;

    fn id(number: u32) -> NodeId {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        NodeId::from_bytes(bytes)
    }

    fn table() -> Table {
        let own = id(u32::MAX);
        Table::new(own, Arc::new(Switch::new([1; 32], own)), QueueLimits::default(), PLACES)
    }

    fn admit(table: &Table, number: u32, address: &str) -> Option<Arc<Link>> {
        match table.admit(id(number), address.parse().unwrap(), false, Moment(0)) {
            Admission::Welcome(link) => Some(link),
            Admission::Hold(_) => panic!("nobody is dialled"),
            Admission::Full => None,
        }
    }

    fn carry_a_path(table: &Table, link: &Link) {
        let install = HopInstall {
            neighbours: [Some((link.id, PathId::new(1))), None],
            secret: Key::from_bytes([1; 32]),
            route_keys: vec![],
            expires: Moment(u64::MAX),
            idle: Duration::from_secs(1_000),
        };
        assert!(table.switch.install_hop(Moment(0), install));
    }

    #[test]
    fn thousands_of_idle_links_of_one_network_keep_no_other_out() {
        let table = table();
        let dialled = match table.begin_dial(id(0)) {
            BeginDial::Go(stop) => table.dial_done(id(0), &stop, "10.9.0.1:1".parse().unwrap(), Moment(0)),
            _ => None,
        };
        let quiet = admit(&table, 1, "10.1.0.1:1").unwrap();
        let busy = admit(&table, 2, "10.2.0.1:1").unwrap();
        carry_a_path(&table, &busy);
        let mut flood: Vec<_> =
            (10..5_010).map(|number| admit(&table, number, "10.2.0.1:1").unwrap()).collect();
        let honest = admit(&table, 3, "10.3.0.1:1").unwrap();
        flood.extend((6_000..9_000).map(|number| admit(&table, number, "10.2.0.1:1").unwrap()));
        for link in [&dialled.unwrap(), &quiet, &busy, &honest] {
            assert_eq!(link.ending(), Ending::No, "{:?}", link.address);
            assert_eq!(table.link_to(&link.peer), Some(link.id));
        }
        assert_eq!(table.all().len(), PLACES);
        let left: Vec<bool> = flood.iter().map(|link| link.ending() == Ending::Orderly).collect();
        assert!(left.is_sorted_by(|older, newer| older >= newer), "the oldest leave first");
    }

    #[test]
    fn a_crowd_gives_way_to_a_dialler_from_elsewhere_though_all_of_it_carries_paths() {
        let table = table();
        let honest = admit(&table, 1, "10.1.0.1:1").unwrap();
        carry_a_path(&table, &honest);
        for number in 10..10 + PLACES as u32 - 1 {
            carry_a_path(&table, &admit(&table, number, "10.2.0.1:1").unwrap());
        }
        assert!(admit(&table, 5_000, "10.2.0.1:1").is_none(), "not to one of its own");
        carry_a_path(&table, &admit(&table, 5_001, "10.3.0.1:1").unwrap());
        assert_eq!(honest.ending(), Ending::No);
        assert!(table.link_to(&id(10)).is_some(), "the newest leaves first");
        assert!(table.link_to(&id(10 + PLACES as u32 - 2)).is_none());
        assert_eq!(table.all().len(), PLACES);
    }

    #[test]
    fn links_that_carry_paths_of_many_networks_give_way_to_nobody() {
        let table = table();
        for number in 0..PLACES as u32 {
            let link = admit(&table, number, &format!("10.{}.0.1:1", number % 16)).unwrap();
            carry_a_path(&table, &link);
        }
        assert!(admit(&table, u32::MAX - 1, "10.99.0.1:1").is_none());
    }

    #[test]
    fn peers_that_do_not_read_share_the_memory_and_others_keep_some() {
        let waiting = Arc::new(Waiting::default());
        let link = |number: u64| {
            let (id, peer) = (LinkId(number), NodeId::from_bytes([1; 32]));
            Link::new(id, peer, None, true, QueueLimits::default(), Arc::clone(&waiting), Moment(0))
        };
        let fill = |link: &Link| {
            for number in 0..20_000u64 {
                link.push(Moment(0), &[Cell::new(Command::Data, TunnelId::new(1 + number % 8))]);
            }
            link.waiting_and_dropped().0
        };
        let links: Vec<Link> = (0..60).map(link).collect();
        let held: usize = links.iter().map(fill).sum();
        assert!(held <= CELLS + 60 * CELLS_OF_EVERY_LINK, "{held} cells");
        assert_eq!(held, waiting.0.load(Ordering::Relaxed));
        assert!(fill(&link(100)) >= CELLS_OF_EVERY_LINK);
        drop(links);
        assert_eq!(waiting.0.load(Ordering::Relaxed), 0);
    }
}
