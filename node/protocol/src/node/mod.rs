//! A whole node, without the world: composition of the rooms, and dispatch between them (PROTOCOL §4, §5, §7).
//!
//! The driver owns a [`Node`] and calls `handle_*` with what happens, then [`Node::poll_output`] until it is empty, then
//! waits no longer than [`Node::next_timeout`] says. Cells never come here: link tasks take them to the shared
//! [`Switch`], and what the switch cannot decide alone comes back as [`SwitchEvent`]s. The `out` argument of several
//! calls is where the cells go that the node itself causes.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use rand::{SeedableRng, rngs::ChaCha20Rng};

use crate::{
    identity::{ApPublic, NodeId},
    limits::SWITCH_SWEEP,
    netdb::exchange::{Exchange, ExchangeOutput},
    path::{
        builds::{BuildId, Builds},
        hop::HopSetups,
        keys::PathKeys,
    },
    time::{Moment, Now, UnixTime},
    tunnel::{ExitTunnel, Outlet, OwnedPathId, Switch, SwitchEvent},
    wire::{
        cell::{LinkId, PathId},
        contact::Contact,
        control::ControlMessage,
        hello::VERSIONS,
        opener::Answer,
        record::NodeFacts,
        setup::{Round, SetupArray},
    },
};

mod builds;
mod config;
mod dials;
mod groups;
mod helping;
mod hosting;
mod idle;
mod knocks;
mod leaving;
mod neighbours;
mod opens;
mod output;
mod pool;
mod probes;
mod reachable;
mod spending;
#[cfg(test)]
mod tests;

use builds::Pending;
pub use builds::{BuildStats, TrialFailure};
pub use config::NodeConfig;
use dials::StrangersDials;
use hosting::Service;
use idle::IdleLinks;
use knocks::Knocks;
pub use knocks::{NewLink, Relaying};
use leaving::Deaths;
use neighbours::Neighbours;
use opens::WaitingOpen;
pub use opens::{OpenFailure, OpenRequest, Ticket};
pub use output::Output;
use pool::Pool;
pub use pool::{Purpose, ReadyPath};
use probes::Probes;
use reachable::Reachability;
pub use reachable::Relay;
use spending::Spending;
pub use spending::{CARRIED_EVERY, QuotaStatus};

/// Programs that share paths, look-ups and sessions; numbered by the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u64);

/// A hosted identity; numbered by the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceId(pub u64);

/// Who waits for a link.
#[derive(Debug)]
enum Waiter {
    /// Setups that we help with ask by themselves when a link comes up.
    Setups,
    /// So do our own circles.
    Builds,
    /// A tunnel whose exit we are.
    Exit(ExitTunnel),
    /// The exchange of records, with this node.
    Partner(NodeId),
}

/// How much a node remembers of what it does for itself and for others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    /// Other owners' circles that it helps with.
    pub setups: usize,
    /// Its own circles under way.
    pub circles: usize,
    /// Its own paths.
    pub paths: usize,
    /// Tunnels and paths whose early deaths are counted.
    pub deaths: usize,
    /// Of the paths, those that are tried now and then.
    pub probes: usize,
    /// Requests for tunnels that wait.
    pub opens: usize,
    /// Nodes that are dialled.
    pub awaited: usize,
}

/// One node of the network.
pub struct Node {
    config: NodeConfig,
    rng: ChaCha20Rng,
    switch: Arc<Switch>,
    neighbours: Neighbours<Waiter>,
    strangers_dials: StrangersDials,
    knocks: Knocks,
    reachability: Reachability,
    /// What the world was told last: whether this node can be dialled.
    relays: bool,
    spending: Spending,
    exchange: Exchange,
    path_keys: PathKeys,
    setups: HopSetups,
    builds: Builds,
    circles: BTreeMap<BuildId, Pending>,
    /// Building pauses until then.
    build_at: Moment,
    /// What could not be planned, and when to try again.
    replan_at: BTreeMap<Purpose, Moment>,
    trials: VecDeque<(Ticket, usize)>,
    stats: BuildStats,
    pool: Pool,
    probes: Probes,
    deaths: Deaths,
    idle_links: IdleLinks,
    services: BTreeMap<ServiceId, Service>,
    opens: Vec<WaitingOpen>,
    counter: u64,
    sweep_at: Moment,
    outputs: VecDeque<Output>,
}

impl Node {
    /// A node that knows nobody. `switch` is the one that its links use.
    pub fn new(now: Now, config: NodeConfig, switch: Arc<Switch>) -> Node {
        let mut rng = ChaCha20Rng::from_seed(config.seed);
        let own = config.secret.id();
        let knows_nobody = config.friends.is_empty() && config.remembered.is_empty();
        Node {
            knocks: Knocks::default(),
            reachability: Reachability::new(now.moment, knows_nobody),
            relays: false,
            spending: Spending::new(now.moment, config.quota, config.spending.as_deref()),
            neighbours: Neighbours::new(own),
            strangers_dials: StrangersDials::new(now.moment),
            exchange: Exchange::new(now.moment, config.network.clone(), own, config.friends.clone()),
            path_keys: PathKeys::new(now.unix, &mut rng),
            setups: HopSetups::new(own),
            builds: builds::restore(config.kept.as_deref()),
            circles: BTreeMap::new(),
            build_at: now.moment,
            replan_at: BTreeMap::new(),
            trials: VecDeque::new(),
            stats: BuildStats::default(),
            pool: Pool::default(),
            probes: Probes::default(),
            deaths: Deaths::default(),
            idle_links: IdleLinks::new(now.moment),
            services: BTreeMap::new(),
            opens: Vec::new(),
            counter: 0,
            sweep_at: now.moment,
            outputs: VecDeque::new(),
            switch,
            rng,
            config,
        }
    }

    /// Begins: announces itself if it relays, and builds what its pool wants.
    pub fn start(&mut self, now: Now, out: &mut impl Outlet) {
        for record in std::mem::take(&mut self.config.remembered) {
            self.exchange.handle_remembered(now, &record);
        }
        self.settle(now, out);
    }

    /// A link stands, whoever dialled it.
    pub fn handle_link_up(&mut self, now: Now, new: NewLink, out: &mut impl Outlet) {
        let NewLink { link, peer, .. } = new;
        self.note_link(now.moment, new);
        let waiters = self.neighbours.up(peer, link);
        self.strangers_dials.done(&peer);
        self.setups.handle_link(now, peer, Some(link));
        self.builds.handle_link(now, peer, Some(link), &mut self.rng);
        for waiter in waiters {
            self.answer_waiter(now, waiter, Some(link), out);
        }
        self.settle(now, out);
    }

    /// A link is gone.
    pub fn handle_link_down(&mut self, now: Now, link: LinkId, out: &mut impl Outlet) {
        self.neighbours.down(link);
        self.knocks.handle_link_down(link);
        let is_last = self.neighbours.links().next().is_none();
        self.reachability.handle_link_down(now.moment, link, is_last);
        self.setups.handle_link_down(link);
        self.exchange.handle_link_down(link);
        self.builds.handle_link_down(now, link, &mut self.rng);
        self.settle(now, out);
    }

    /// A node that was to be dialled does not answer, or is not the one.
    pub fn handle_dial_failed(&mut self, now: Now, node: NodeId, out: &mut impl Outlet) {
        self.strangers_dials.done(&node);
        if self.neighbours.link(&node).is_some() {
            // Both have dialled, and the other link stands: nothing that runs over it has failed.
            return;
        }
        self.setups.handle_link(now, node, None);
        self.builds.handle_link(now, node, None, &mut self.rng);
        if self.exchange.view().node(&node).is_some() {
            // It was dialled where it says that it is, whoever wanted that.
            self.builds.handle_unreachable(now.moment, node);
        }
        for waiter in self.neighbours.unreachable(&node) {
            self.answer_waiter(now, waiter, None, out);
        }
        self.settle(now, out);
    }

    /// The neighbour says something.
    pub fn handle_message(&mut self, now: Now, link: LinkId, message: ControlMessage, out: &mut impl Outlet) {
        let Some(peer) = self.neighbours.node(link) else {
            return;
        };
        match message {
            ControlMessage::Setup { round, connection, array } => {
                // Our own circles take what is theirs; the rest is somebody else's circle.
                let rest =
                    self.builds.handle_round(now, link, round, connection, array.into(), &mut self.rng);
                if let Some(array) = rest.filter(|_| self.helps(now.unix)) {
                    let keys = &mut self.path_keys;
                    self.setups.handle_round(now, link, peer, round, connection, array, keys);
                }
            }
            ControlMessage::Partner => self.exchange.handle_partner_up(now, link, peer, false),
            ControlMessage::Records(records) => {
                self.exchange.handle_records(now, link, &records);
                self.replan_soon(now.moment);
            }
            ControlMessage::Knock(contact) => self.knock(now, link, peer, contact),
            ControlMessage::Knocked(reached) => self.reachability.handle_answer(now.moment, link, reached),
        }
        self.settle(now, out);
    }

    /// The switch could not decide alone.
    pub fn handle_switch(&mut self, now: Now, event: SwitchEvent, out: &mut impl Outlet) {
        match event {
            SwitchEvent::Dial { exit, entry } => self.dial_for_exit(now, exit, entry, out),
            SwitchEvent::Incoming { path, tunnel } => self.handle_visitor(now, path, tunnel, out),
            SwitchEvent::Answered { tunnel, answer } => {
                match answer {
                    Answer::Joined => self.deaths.handle_joined(tunnel),
                    Answer::Unreachable | Answer::Unknown | Answer::Published => {
                        self.deaths.handle_refused(tunnel);
                    }
                }
                self.outputs.push_back(Output::Answered { tunnel, answer });
            }
            SwitchEvent::Echoed { path } => self.handle_echo(now, path),
            SwitchEvent::TunnelClosed { tunnel } => {
                self.outputs.push_back(Output::TunnelEnded { tunnel });
                self.note_death(now, tunnel, out);
            }
            SwitchEvent::OwnedPathEnded { path } => self.forget_path(now, path),
            SwitchEvent::Publish { link, entry } => {
                if let Some(peer) = self.neighbours.node(link) {
                    self.exchange.handle_published(now, link, peer, &entry);
                }
            }
            SwitchEvent::Misbehaved { link, what } if what.is_the_peers_own() => {
                self.outputs.push_back(Output::CloseLink(link));
            }
            // A hop's paths are kept by the switch alone; a fault has closed what it concerns.
            SwitchEvent::HopPathEnded { .. } | SwitchEvent::Misbehaved { .. } => {}
        }
        self.settle(now, out);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Now, out: &mut impl Outlet) {
        self.setups.handle_timeout(now, &mut self.path_keys);
        self.builds.handle_timeout(now, &mut self.rng);
        if self.path_keys.handle_timeout(now.unix, &mut self.rng) && self.relays {
            self.announce(now);
        }
        self.exchange.handle_timeout(now, &mut self.rng);
        if self.sweep_at <= now.moment {
            self.sweep_at = now.moment + SWITCH_SWEEP;
            self.switch.handle_timeout(now.moment, out);
            self.end_expired_paths(now, out);
            self.end_paths_of_others(now, out);
            self.drive_probes(now, out);
            self.release_idle_links(now.moment);
            self.deaths.handle_timeout(now.moment, |tunnel| self.switch.is_open(tunnel));
        }
        self.settle(now, out);
    }

    /// When to call [`Node::handle_timeout`] at the latest.
    pub fn next_timeout(&self, now: Now) -> Moment {
        let services = self.services.values().filter_map(Service::next_timeout);
        let others = [
            self.setups.next_timeout(),
            self.builds.next_timeout(),
            Some(self.exchange.next_timeout()),
            Some(self.reachability.next_timeout(now.moment)).filter(|_| self.seeks_proof()),
            self.next_build(now),
            self.next_open(),
        ];
        let next = others.into_iter().flatten().chain(services).min().unwrap_or(self.sweep_at);
        next.min(self.sweep_at).max(now.moment)
    }

    /// What to do next.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Who this is.
    pub fn id(&self) -> NodeId {
        self.config.secret.id()
    }

    /// The paths that stand.
    pub fn paths(&self) -> impl Iterator<Item = (OwnedPathId, &ReadyPath)> {
        self.pool.iter()
    }

    /// How building went since the start.
    pub fn build_stats(&self) -> &BuildStats {
        &self.stats
    }

    /// What it remembers, counted.
    pub fn holdings(&self) -> Holdings {
        Holdings {
            setups: self.setups.len(),
            circles: self.circles.len(),
            paths: self.pool.iter().count(),
            deaths: self.deaths.len(),
            probes: self.probes.len(),
            opens: self.opens.len(),
            awaited: self.neighbours.awaited(),
        }
    }

    /// X-nodes of its paths.
    pub fn hops(&self) -> usize {
        self.config.hops
    }

    /// Other nodes that it knows.
    pub fn known_nodes(&self) -> usize {
        let own = self.config.contact.id;
        self.exchange.view().nodes().filter(|node| node.record.id() != own).count()
    }

    /// Records of at most so many other nodes, to be remembered.
    pub fn records(&self, most: usize) -> Vec<Vec<u8>> {
        let own = self.config.contact.id;
        let others = self.exchange.view().nodes().filter(|node| node.record.id() != own);
        others.take(most).map(|node| node.record.bytes().to_vec()).collect()
    }

    /// Whether the network has told it how to reach this party.
    pub fn knows(&self, peer: &ApPublic, now: UnixTime) -> bool {
        self.exchange.view().look_up(peer, now).is_some()
    }

    /// When what the network has told it about this party expires, and how many ways in it names.
    pub fn entry_of(&self, peer: &ApPublic, now: UnixTime) -> Option<(UnixTime, usize)> {
        let entry = self.exchange.view().look_up(peer, now)?;
        Some((entry.expiry, entry.entry_nodes.len()))
    }

    /// A node as its owner's user may read it: its address if it is known.
    pub fn describe(&self, node: &NodeId) -> String {
        let address = self.exchange.view().node(node).and_then(|known| known.record.contact().address);
        address.map_or_else(|| node.to_string(), |address| address.to_string())
    }

    /// The links to other nodes.
    pub fn links(&self) -> impl Iterator<Item = (NodeId, LinkId)> {
        self.neighbours.links()
    }

    /// Everything that follows from a change: runs until nothing moves any more.
    fn settle(&mut self, now: Now, out: &mut impl Outlet) {
        self.drive_setups(now, out);
        self.drive_builds(now, out);
        self.publish_services(now, out);
        self.refill(now, out);
        self.serve_opens(now, out);
        self.drive_builds(now, out);
        self.drive_reachability(now);
        self.drive_exchange(now);
    }

    fn answer_waiter(&mut self, now: Now, waiter: Waiter, link: Option<LinkId>, out: &mut impl Outlet) {
        match waiter {
            Waiter::Setups | Waiter::Builds => {}
            Waiter::Partner(peer) => {
                if let Some(link) = link {
                    self.exchange.handle_partner_up(now, link, peer, true);
                }
            }
            Waiter::Exit(exit) => self.switch.exit_dialled(exit, link, out),
        }
    }

    fn want_link(&mut self, contact: Contact, waiter: Waiter) {
        if self.neighbours.wait(contact.id, waiter) {
            self.outputs.push_back(Output::Dial(contact));
        }
    }

    fn send_array(&mut self, link: LinkId, round: Round, connection: PathId, array: SetupArray) {
        let message = ControlMessage::Setup { round, connection, array: array.into() };
        self.outputs.push_back(Output::Send { link, message });
    }

    /// Learns who else there is.
    fn drive_exchange(&mut self, now: Now) {
        while let Some(output) = self.exchange.poll_output(now) {
            match output {
                ExchangeOutput::Send { link, message } => {
                    self.outputs.push_back(Output::Send { link, message })
                }
                ExchangeOutput::Dial(contact) => match self.neighbours.link(&contact.id) {
                    Some(link) => self.exchange.handle_partner_up(now, link, contact.id, true),
                    None => self.want_link(contact, Waiter::Partner(contact.id)),
                },
                ExchangeOutput::Misbehaved { link, .. } => self.outputs.push_back(Output::CloseLink(link)),
            }
        }
    }

    /// Signs a new record of this node and hands it to the exchange. Unlisted nodes have none.
    fn announce(&mut self, now: Now) {
        let Contact { address: Some(address), tls_keys, .. } = self.config.contact else {
            return;
        };
        let facts = NodeFacts {
            addresses: vec![address],
            tls_keys,
            path_keys: vec![self.path_keys.current().clone()],
            versions: VERSIONS.to_vec(),
            family: self.config.family,
        };
        // Facts that cannot be signed are a configuration that the driver has refused before.
        let _ = self.exchange.announce(now, Arc::clone(&self.config.secret), facts);
    }

    fn number(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }
}
