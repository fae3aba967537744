//! Where cells go that the switch has turned: into queues of links, to sessions, or as news to the driver.
//!
//! An outlet belongs to whoever calls the switch: each link task has one, a session makes one when it sends. Nothing is
//! woken for a single cell: links and inboxes are remembered and woken once, when the batch is over.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use dashmap::DashMap;
use phantom_protocol::{
    time::Moment,
    tunnel::{Outlet, OwnerTunnelId, SwitchEvent},
    wire::{
        body::Kind,
        cell::{Cell, LinkId},
    },
};

use super::{Shared, events::LinkEvent, table::Link};

/// Where a session takes what its tunnel brings. Called by link tasks: it must not block.
pub trait Inbox: Send + Sync {
    /// One payload. It must be copied, and may be dropped if there is no room.
    fn push(&self, kind: Kind, payload: &[u8]);
    /// The batch is over: wake whoever reads.
    fn wake(&self);
}

/// The [`Outlet`] of the daemon. Dropping it ends the batch.
pub struct NetOutlet {
    shared: Arc<Shared>,
    /// The link whose cells are being handled: its peer answers for the news that they cause.
    source: Option<Arc<Link>>,
    links: Vec<Arc<Link>>,
    inboxes: Vec<(OwnerTunnelId, Arc<dyn Inbox>)>,
    /// When the batch has begun to leave.
    now: Option<Moment>,
}

impl NetOutlet {
    pub(super) fn new(shared: Arc<Shared>, source: Option<Arc<Link>>) -> NetOutlet {
        NetOutlet { shared, source, links: Vec::new(), inboxes: Vec::new(), now: None }
    }

    /// Ends the batch: wakes each link and each inbox that got something, once.
    pub fn flush(&mut self) {
        self.now = None;
        for link in self.links.drain(..) {
            link.waker.wake();
        }
        for (_, inbox) in self.inboxes.drain(..) {
            inbox.wake();
        }
    }

    /// Ends it without waking anybody: the caller has more for the same links and will wake them then.
    pub fn leave(mut self) {
        self.links.clear();
        self.inboxes.clear();
    }
}

impl Outlet for NetOutlet {
    fn forward(&mut self, link: LinkId, cell: &Cell) {
        self.forward_all(link, std::slice::from_ref(cell));
    }

    fn forward_all(&mut self, link: LinkId, cells: &[Cell]) {
        let now = *self.now.get_or_insert_with(|| self.shared.clock.moment());
        // A batch touches few links, and mostly the same one again.
        if let Some(known) = self.links.iter().rev().find(|known| known.id == link) {
            known.push(now, cells);
        } else if let Some(found) = self.shared.table.get(link) {
            found.push(now, cells);
            self.links.push(found);
        }
    }

    fn deliver(&mut self, tunnel: OwnerTunnelId, kind: Kind, payload: &[u8]) {
        if let Some((_, known)) = self.inboxes.iter().rev().find(|(id, _)| *id == tunnel) {
            known.push(kind, payload);
        } else if let Some(inbox) = self.shared.inboxes.deliver(tunnel, kind, payload) {
            self.inboxes.push((tunnel, inbox));
        }
    }

    fn report(&mut self, event: SwitchEvent) {
        let event = LinkEvent::Switch(event);
        match &self.source {
            Some(source) => self.shared.events.send_from(source, 0, event),
            None => self.shared.events.send(event),
        }
    }
}

impl Drop for NetOutlet {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Payloads kept of a tunnel that has no inbox yet: a QUIC client's first flight.
const EARLY_PAYLOADS: usize = 16;
/// Tunnels for which they are kept.
const EARLY_TUNNELS: usize = 256;

/// The inboxes of all tunnels. What arrives between a tunnel's opening and the registration of its inbox waits.
#[derive(Default)]
pub(super) struct Inboxes {
    registered: DashMap<OwnerTunnelId, Arc<dyn Inbox>>,
    early: Mutex<Early>,
}

type Early = BTreeMap<OwnerTunnelId, Vec<(Kind, Vec<u8>)>>;

impl Inboxes {
    pub(super) fn register(&self, tunnel: OwnerTunnelId, inbox: Arc<dyn Inbox>) {
        let mut early = self.early();
        self.registered.insert(tunnel, Arc::clone(&inbox));
        for (kind, payload) in early.remove(&tunnel).unwrap_or_default() {
            inbox.push(kind, &payload);
        }
        drop(early);
        inbox.wake();
    }

    pub(super) fn forget(&self, tunnel: OwnerTunnelId) {
        self.registered.remove(&tunnel);
        self.early().remove(&tunnel);
    }

    /// The inbox that got the payload, if there is one.
    fn deliver(&self, tunnel: OwnerTunnelId, kind: Kind, payload: &[u8]) -> Option<Arc<dyn Inbox>> {
        let inbox = self.find(tunnel).or_else(|| self.keep(tunnel, kind, payload))?;
        inbox.push(kind, payload);
        Some(inbox)
    }

    fn find(&self, tunnel: OwnerTunnelId) -> Option<Arc<dyn Inbox>> {
        self.registered.get(&tunnel).map(|inbox| Arc::clone(&inbox))
    }

    /// Keeps the payload, unless an inbox has come in the meantime.
    fn keep(&self, tunnel: OwnerTunnelId, kind: Kind, payload: &[u8]) -> Option<Arc<dyn Inbox>> {
        let mut early = self.early();
        if let Some(inbox) = self.find(tunnel) {
            return Some(inbox);
        }
        let kept = early.entry(tunnel).or_default();
        if kept.len() < EARLY_PAYLOADS {
            kept.push((kind, payload.to_vec()));
        }
        if early.len() > EARLY_TUNNELS {
            // Tunnels count up: the first is the oldest.
            early.pop_first();
        }
        None
    }

    fn early(&self) -> MutexGuard<'_, Early> {
        self.early.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
