//! The one task that owns the pure node: everything else sends it messages.
//!
//! It feeds links' news and handles' commands to the node, carries out what the node asks for, and sleeps until the
//! node's next time-out. Cells of tunnels never come here.

mod status;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use phantom_protocol::{
    identity::{ApPublic, ApSecret, NodeId},
    node::{CARRIED_EVERY, NewLink, Node, OpenFailure, OpenRequest, Output, Purpose, ServiceId, Ticket},
    time::{Moment, UnixTime},
    tunnel::{OwnedPathId, OwnerTunnelId},
    wire::{cell::CELL, opener::Answer},
};
use tokio::sync::{mpsc, oneshot};

pub(super) use self::status::DriverStatus;
use super::{
    groups::Groups,
    memory,
    scribe::Scribe,
    tunnels::{Delivery, Sender},
};
use crate::{
    clock::Clock,
    doors::Tally,
    link::{Carried, Dial, LinkEvent, LinkEvents, Links, NetOutlet},
    session::{self, Group, OpenError, OpenedTunnel, Service, Tunnel, TunnelRequest},
    store::Notes,
};

/// News handled before commands and time-outs get a turn again.
const BATCH: usize = 256;

/// Known nodes are written down this often, and for the first time this soon.
const REMEMBER: Duration = Duration::from_secs(600);
const REMEMBER_FIRST: Duration = Duration::from_secs(30);

/// What handles ask of the driver.
pub(super) enum Command {
    /// A tunnel.
    Open { request: TunnelRequest, answer: oneshot::Sender<Result<OpenedTunnel, OpenError>> },
    /// Ways in to an identity.
    Host { secret: Arc<ApSecret>, hops: usize, service: Arc<Service>, answer: oneshot::Sender<ServiceId> },
    /// No more of them.
    Unhost { id: ServiceId, answer: oneshot::Sender<()> },
    /// To be told when an identity's entry is out.
    Published { id: ServiceId, answer: oneshot::Sender<()> },
    /// To be told when the pool has so many paths.
    PathsReady { count: usize, answer: oneshot::Sender<()> },
    /// One path, for measuring.
    TryPath { hops: usize, answer: oneshot::Sender<anyhow::Result<Duration>> },
    /// When the entry of a party expires, and how many ways in it names.
    LookUp { peer: ApPublic, answer: oneshot::Sender<Option<(UnixTime, usize)>> },
    /// The relay next to us in the path that a group's newest tunnel to a peer runs in.
    FirstRelay { group: Group, peer: ApPublic, answer: oneshot::Sender<Option<NodeId>> },
    /// No more of them: new ones begin with new paths. Says which there were, and how many paths they had.
    NewGroups { answer: oneshot::Sender<(Vec<Group>, usize)> },
    /// How things are.
    Status { answer: oneshot::Sender<DriverStatus> },
    /// The end.
    Stop,
}

/// Closed tunnels are not worth sorting out below this number.
const TIDY: usize = 64;

/// Somebody waits for a tunnel.
struct Asked {
    request: TunnelRequest,
    answer: oneshot::Sender<Result<OpenedTunnel, OpenError>>,
}

/// A tunnel that a session uses, or waits for.
struct Open {
    inbox: Arc<session::Inbox>,
    /// Who gets the tunnel when its entry has answered.
    unproven: Option<(OpenedTunnel, oneshot::Sender<Result<OpenedTunnel, OpenError>>)>,
}

pub(super) struct Driver {
    node: Node,
    links: Links,
    clock: Clock,
    sender: Arc<Sender>,
    scribe: Option<Scribe>,
    tickets: BTreeMap<Ticket, Asked>,
    tunnels: BTreeMap<OwnerTunnelId, Open>,
    groups: Groups,
    services: BTreeMap<ServiceId, Arc<Service>>,
    published: BTreeMap<ServiceId, usize>,
    waiting_published: Vec<(ServiceId, oneshot::Sender<()>)>,
    waiting_paths: Vec<(usize, oneshot::Sender<()>)>,
    trials: BTreeMap<Ticket, oneshot::Sender<anyhow::Result<Duration>>>,
    /// By reason.
    links_ended: Tally,
    dials_failed: Tally,
    counter: u64,
    /// Tunnels at which the closed ones are sorted out.
    tidy_at: usize,
    remember_at: Moment,
    /// What links had carried when it was counted last, and when that is done again.
    carried: u64,
    count_at: Moment,
}

impl Driver {
    pub(super) fn new(
        node: Node,
        links: Links,
        clock: Clock,
        sender: Arc<Sender>,
        scribe: Option<Scribe>,
    ) -> Driver {
        Driver {
            node,
            links,
            clock,
            sender,
            scribe,
            tickets: BTreeMap::new(),
            tunnels: BTreeMap::new(),
            groups: Groups::default(),
            services: BTreeMap::new(),
            published: BTreeMap::new(),
            waiting_published: Vec::new(),
            waiting_paths: Vec::new(),
            trials: BTreeMap::new(),
            links_ended: Tally::new(),
            dials_failed: Tally::new(),
            counter: 0,
            tidy_at: TIDY,
            remember_at: clock.moment() + REMEMBER_FIRST,
            carried: 0,
            count_at: clock.moment() + CARRIED_EVERY,
        }
    }

    /// Runs until it is told to stop.
    pub(super) async fn run(mut self, events: LinkEvents, commands: mpsc::UnboundedReceiver<Command>) {
        self.drive(events, commands).await;
        self.remember_nodes();
        self.count_carried();
        if let Some(spending) = self.node.spending() {
            self.write(Notes::Spending, spending);
        }
        if let Some(scribe) = self.scribe.take() {
            scribe.finish().await;
        }
    }

    async fn drive(&mut self, mut events: LinkEvents, mut commands: mpsc::UnboundedReceiver<Command>) {
        let mut outlet = self.links.outlet();
        self.node.start(self.clock.now(), &mut outlet);
        loop {
            self.carry_out(&mut outlet);
            outlet.flush();
            let wait = self.node.next_timeout(self.clock.now()).since(self.clock.moment());
            tokio::select! {
                event = events.recv() => {
                    let Some(event) = event else { return };
                    self.handle_event(event, &mut outlet);
                    for _ in 0..BATCH {
                        let Some(event) = events.try_recv() else { break };
                        self.handle_event(event, &mut outlet);
                    }
                }
                command = commands.recv() => match command {
                    None | Some(Command::Stop) => return,
                    Some(command) => self.handle_command(command, &mut outlet),
                },
                () = tokio::time::sleep(wait) => self.node.handle_timeout(self.clock.now(), &mut outlet),
            }
            if self.count_at <= self.clock.moment() {
                self.count_carried();
            }
            if self.remember_at <= self.clock.moment() {
                self.remember_nodes();
            }
        }
    }

    fn handle_event(&mut self, event: LinkEvent, out: &mut NetOutlet) {
        let now = self.clock.now();
        match event {
            LinkEvent::Up { link, peer, address, dialled } => {
                let new = NewLink { link, peer: peer.id(), address: Some(address.ip()), dialled };
                self.node.handle_link_up(now, new, out);
            }
            LinkEvent::Knocked { node, reached } => self.node.handle_knocked(now, node, reached, out),
            LinkEvent::Down { link, why, .. } => {
                *self.links_ended.entry(why.kind()).or_default() += 1;
                self.node.handle_link_down(now, link, out);
            }
            LinkEvent::Message { link, message } => self.node.handle_message(now, link, message, out),
            LinkEvent::DialFailed { node, why } => {
                *self.dials_failed.entry(why.kind()).or_default() += 1;
                self.node.handle_dial_failed(now, node, out);
            }
            LinkEvent::Switch(event) => self.node.handle_switch(now, event, out),
        }
    }

    fn handle_command(&mut self, command: Command, out: &mut NetOutlet) {
        let now = self.clock.now();
        match command {
            Command::Open { request, answer } => self.open(request, answer, out),
            Command::Host { secret, hops, service, answer } => {
                let id = self.node.handle_host(now, ApSecret::from_bytes(&secret.to_bytes()), hops, out);
                self.services.insert(id, service);
                // Who has gone could never take it offline.
                if answer.send(id).is_err() {
                    self.unhost(id, out);
                }
            }
            Command::Unhost { id, answer } => {
                self.unhost(id, out);
                let _ = answer.send(());
            }
            Command::Published { id, answer } => {
                if self.published.contains_key(&id) {
                    let _ = answer.send(());
                } else {
                    self.waiting_published.push((id, answer));
                }
            }
            Command::PathsReady { count, answer } => self.waiting_paths.push((count, answer)),
            Command::TryPath { hops, answer } => {
                let ticket = self.ticket();
                self.trials.insert(ticket, answer);
                self.node.handle_trial(now, ticket, hops, out);
            }
            Command::LookUp { peer, answer } => {
                let _ = answer.send(self.node.entry_of(&peer, now.unix));
            }
            Command::FirstRelay { group, peer, answer } => {
                let _ = answer.send(self.first_relay(&group, peer));
            }
            Command::NewGroups { answer } => {
                let groups = self.groups.end();
                let _ = answer.send((groups, self.node.handle_new_groups(now, out)));
            }
            Command::Status { answer } => {
                let _ = answer.send(self.status());
            }
            Command::Stop => {}
        }
    }

    fn unhost(&mut self, id: ServiceId, out: &mut NetOutlet) {
        self.services.remove(&id);
        self.published.remove(&id);
        self.node.handle_unhost(self.clock.now(), id, out);
    }

    fn open(
        &mut self,
        request: TunnelRequest,
        answer: oneshot::Sender<Result<OpenedTunnel, OpenError>>,
        out: &mut NetOutlet,
    ) {
        let group = self.groups.id(&request.group);
        let ticket = self.ticket();
        // A tunnel that replaces another one runs in another path too: nobody has told us which side has failed.
        if !request.proven {
            self.groups.forget_recent(&request.group, &request.peer);
        }
        let avoid_paths = self.groups.recent(&request.group, &request.peer).to_vec();
        let wanted = OpenRequest {
            ticket,
            group,
            peer: request.peer,
            avoid_entries: request.avoid.clone(),
            avoid_paths,
        };
        self.tickets.insert(ticket, Asked { request, answer });
        self.node.handle_open(self.clock.now(), wanted, out);
    }

    fn first_relay(&self, group: &Group, peer: ApPublic) -> Option<NodeId> {
        let newest = self.groups.recent(group, &peer).last()?;
        let (_, path) = self.node.paths().find(|(id, _)| id == newest)?;
        path.relays.first().copied()
    }

    /// Does what the node asks for, until it asks for nothing more.
    fn carry_out(&mut self, out: &mut NetOutlet) {
        while let Some(output) = self.node.poll_output() {
            match output {
                Output::Dial(contact) => {
                    if let Dial::Up(link) = self.links.dial(contact) {
                        let new = NewLink { link, peer: contact.id, address: None, dialled: true };
                        self.node.handle_link_up(self.clock.now(), new, out);
                    }
                }
                Output::Send { link, message } => {
                    // A link that is gone is reported by itself.
                    self.links.send(link, &message);
                }
                Output::Knock(contact) => self.links.knock(contact),
                Output::Relaying(relays) => self.links.set_listed(relays),
                Output::CloseLink(link) | Output::ReleaseLink(link) => self.links.close(link),
                Output::Opened { ticket, tunnel, secret, entry, path } => {
                    self.opened(ticket, tunnel, path, |tunnel| OpenedTunnel { tunnel, secret, entry });
                }
                Output::OpenFailed { ticket, why } => self.refused(ticket, &why),
                Output::Answered { tunnel, answer } => self.answered(tunnel, answer),
                Output::Incoming { service, tunnel, secrets } => self.incoming(service, tunnel, secrets),
                Output::TunnelEnded { tunnel } => self.tunnel_ended(tunnel),
                Output::Published { service, entries } => self.note_published(service, entries),
                Output::Trial { ticket, outcome } => {
                    if let Some(answer) = self.trials.remove(&ticket) {
                        let _ = answer.send(outcome.map_err(anyhow::Error::from));
                    }
                }
                Output::KeepSpending(bytes) => self.write(Notes::Spending, bytes),
                Output::Persist(bytes) => self.write(Notes::Building, bytes),
            }
        }
        self.tell_ready_paths();
    }

    fn opened(
        &mut self,
        ticket: Ticket,
        id: OwnerTunnelId,
        path: OwnedPathId,
        make: impl FnOnce(Tunnel) -> OpenedTunnel,
    ) {
        let (tunnel, inbox) = self.tunnel(id);
        let Some(Asked { request, answer }) = self.tickets.remove(&ticket) else {
            return;
        };
        self.groups.note(&request.group, request.peer, path);
        let opened = make(tunnel);
        if request.proven {
            self.tunnels.insert(id, Open { inbox, unproven: Some((opened, answer)) });
        } else {
            self.tunnels.insert(id, Open { inbox, unproven: None });
            let _ = answer.send(Ok(opened));
        }
    }

    fn refused(&mut self, ticket: Ticket, why: &OpenFailure) {
        if let Some(Asked { answer, .. }) = self.tickets.remove(&ticket) {
            let error = match why {
                OpenFailure::UnknownPeer => OpenError::NotFound,
                OpenFailure::NoPath(_) | OpenFailure::TooMany => OpenError::NoPath,
            };
            let _ = answer.send(Err(error));
        }
    }

    fn answered(&mut self, id: OwnerTunnelId, answer: Answer) {
        let Some(open) = self.tunnels.get_mut(&id) else {
            return;
        };
        let waiting = open.unproven.take();
        match (answer, waiting) {
            (Answer::Joined, Some((opened, waiting))) => {
                let _ = waiting.send(Ok(opened));
            }
            (Answer::Unreachable | Answer::Unknown, waiting) => {
                open.inbox.close();
                if let Some((_, waiting)) = waiting {
                    let _ = waiting.send(Err(OpenError::Unreachable));
                }
            }
            _ => {}
        }
    }

    fn incoming(
        &mut self,
        service: ServiceId,
        id: OwnerTunnelId,
        secrets: Vec<phantom_protocol::crypto::datagram::SessionSecret>,
    ) {
        let Some(service) = self.services.get(&service).cloned() else {
            return;
        };
        service.set_secrets(secrets);
        let (tunnel, inbox) = self.tunnel(id);
        self.tunnels.insert(id, Open { inbox, unproven: None });
        service.accept_tunnel(tunnel);
    }

    fn tunnel_ended(&mut self, id: OwnerTunnelId) {
        self.links.forget_inbox(id);
        if let Some(open) = self.tunnels.remove(&id) {
            open.inbox.close();
            if let Some((_, waiting)) = open.unproven {
                let _ = waiting.send(Err(OpenError::Unreachable));
            }
        }
    }

    /// A tunnel for a session, with its inbox where links find it.
    fn tunnel(&mut self, id: OwnerTunnelId) -> (Tunnel, Arc<session::Inbox>) {
        if self.tunnels.len() >= self.tidy_at {
            // Sessions close tunnels without telling us.
            self.tunnels.retain(|_, open| !open.inbox.is_closed());
            self.tidy_at = 2 * self.tunnels.len() + TIDY;
        }
        let (tunnel, inbox) = Tunnel::new(id, self.sender.clone());
        self.links.register_inbox(id, Arc::new(Delivery(Arc::clone(&inbox))));
        (tunnel, inbox)
    }

    fn note_published(&mut self, service: ServiceId, entries: usize) {
        self.published.insert(service, entries);
        for (waiting, answer) in std::mem::take(&mut self.waiting_published) {
            if waiting == service {
                let _ = answer.send(());
            } else {
                self.waiting_published.push((waiting, answer));
            }
        }
    }

    fn tell_ready_paths(&mut self) {
        if self.waiting_paths.is_empty() {
            return;
        }
        let ready =
            self.node.paths().filter(|(_, path)| !matches!(path.purpose, Purpose::Service(_))).count();
        let on_demand = self.node.hops() == 0;
        for (count, answer) in std::mem::take(&mut self.waiting_paths) {
            if on_demand || ready >= count {
                let _ = answer.send(());
            } else if !answer.is_closed() {
                self.waiting_paths.push((count, answer));
            }
        }
    }

    /// Tells the node what its links have carried.
    fn count_carried(&mut self) {
        self.count_at = self.clock.moment() + CARRIED_EVERY;
        let Carried { cells_in, cells_out, .. } = self.links.carried();
        let carried = (cells_in + cells_out) * CELL as u64;
        let news = carried.saturating_sub(std::mem::replace(&mut self.carried, carried));
        self.node.handle_carried(self.clock.now(), news, &mut self.links.outlet());
    }

    /// Writes down who else there is, so that a restart needs no invitation.
    fn remember_nodes(&mut self) {
        self.remember_at = self.clock.moment() + REMEMBER;
        let records = self.node.records(memory::REMEMBERED);
        if !records.is_empty() {
            self.write(Notes::Nodes, memory::join(&records));
        }
    }

    fn write(&self, notes: Notes, bytes: Vec<u8>) {
        if let Some(scribe) = &self.scribe {
            scribe.write(notes, bytes);
        }
    }

    fn ticket(&mut self) -> Ticket {
        self.counter += 1;
        Ticket(self.counter)
    }
}
