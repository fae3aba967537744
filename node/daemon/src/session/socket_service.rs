//! The service's socket: all tunnels that lead to one identity (PROTOCOL §6). Each tunnel is an IPv6 address of its
//! own to quinn, so that a client that moves to a new tunnel is a client that migrates. Tunnels take turns.

use std::{
    collections::{HashMap, VecDeque},
    fmt, io,
    io::IoSliceMut,
    net::{Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use futures_util::task::AtomicWaker;
use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit},
};
use tokio::sync::Notify;

use super::{
    bindings::Bindings,
    datagram::{Salts, Secrets, ServiceEnd},
    socket_client::{AlwaysWritable, SEGMENTS, SELF, Slots, segments, with_after},
    tunnel::{Ready, Tunnel},
};

/// The first 64 bits of the addresses that stand for tunnels.
const PREFIX: u64 = 0xfd01 << 48;
const PORT: u16 = 1;
/// Datagrams of one tunnel before it is another's turn.
const TURN: usize = 32;

/// The address that stands for a tunnel.
pub(super) fn address_of(tunnel: u64) -> SocketAddr {
    SocketAddr::new(Ipv6Addr::from(u128::from(PREFIX) << 64 | u128::from(tunnel)).into(), PORT)
}

/// The tunnel that an address stands for.
pub(super) fn tunnel_of(address: SocketAddr) -> Option<u64> {
    match address {
        SocketAddr::V6(v6) => Some((u128::from(*v6.ip()) & u128::from(u64::MAX)) as u64),
        SocketAddr::V4(_) => None,
    }
}

/// One tunnel of a service.
pub(super) struct Route {
    pub(super) tunnel: Tunnel,
    end: ServiceEnd,
    /// Whether the entry node was told that this tunnel is wanted.
    pub(super) confirmed: AtomicBool,
    turn: Arc<Turn>,
}

impl Route {
    /// Whether something sealed for this service has come through it.
    pub(super) fn hears(&self) -> bool {
        self.end.hears()
    }
}

/// A tunnel's place among those that have something to read.
struct Turn {
    tunnel: u64,
    queued: AtomicBool,
    queue: Arc<Queue>,
}

#[derive(Default)]
struct Queue {
    tunnels: Mutex<VecDeque<Arc<Turn>>>,
    waker: AtomicWaker,
}

impl Turn {
    /// Queues the tunnel if it is not; returns whether it was not.
    fn queue(self: &Arc<Self>) -> bool {
        let new = !self.queued.swap(true, Ordering::AcqRel);
        if new {
            self.queue.lock().push_back(self.clone());
        }
        new
    }
}

/// What an inbox holds: `Ready` needs the `Arc` to queue itself.
struct Bell(Arc<Turn>);

impl Ready for Bell {
    fn ready(&self) {
        if self.0.queue() {
            self.0.queue.waker.wake();
        }
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<Turn>>> {
        self.tunnels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A UDP socket made of all tunnels of one identity.
#[derive(Default)]
pub(super) struct ServiceSocket {
    routes: Mutex<HashMap<u64, Arc<Route>>>,
    queue: Arc<Queue>,
    /// The session secrets that open a tunnel.
    pub(super) secrets: Secrets,
    bindings: Bindings,
    salts: Salts,
    /// Rung when a tunnel has ceased to be deaf.
    pub(super) heard: Notify,
    scratch: Mutex<Vec<u8>>,
}

impl ServiceSocket {
    /// Takes a tunnel that has come in.
    pub(super) fn add(&self, tunnel: Tunnel) {
        let number = tunnel.id().get();
        let turn =
            Arc::new(Turn { tunnel: number, queued: AtomicBool::new(false), queue: self.queue.clone() });
        let inbox = tunnel.inbox().clone();
        let route = Route {
            tunnel,
            end: ServiceEnd::new(number),
            confirmed: AtomicBool::new(false),
            turn: turn.clone(),
        };
        self.routes().insert(number, Arc::new(route));
        inbox.set_reader(Arc::new(Bell(turn)));
    }

    /// Closes a tunnel.
    pub(super) fn remove(&self, tunnel: u64) {
        let removed = self.routes().remove(&tunnel);
        drop(removed); // after the lock: closing reaches into the layer below
    }

    /// The tunnels that there are.
    pub(super) fn all(&self) -> Vec<Arc<Route>> {
        self.routes().values().cloned().collect()
    }

    /// One tunnel.
    pub(super) fn route(&self, tunnel: u64) -> Option<Arc<Route>> {
        self.routes().get(&tunnel).cloned()
    }

    /// Fills the buffers from the tunnels in turn; returns whether any was waiting.
    fn receive(&self, slots: &mut Slots<'_, '_, '_>) -> bool {
        let Some(turn) = self.queue.lock().pop_front() else { return false };
        turn.queued.store(false, Ordering::Release);
        let Some(route) = self.route(turn.tunnel) else { return true };
        let (deaf, mut opened) = (!route.end.hears(), Vec::new());
        let from = address_of(turn.tunnel);
        let more = route.tunnel.inbox().drain(slots.room().min(TURN), |kind, payload| {
            let datagram = route.end.unwrap(&self.salts, &self.secrets, kind, payload, &mut opened);
            if let Some(datagram) = datagram {
                slots.fill(from, datagram);
            }
        });
        if more {
            route.turn.queue();
        } else if route.tunnel.inbox().is_closed() {
            self.remove(turn.tunnel);
        }
        if deaf && route.end.hears() {
            self.heard.notify_one();
        }
        true
    }

    fn routes(&self) -> MutexGuard<'_, HashMap<u64, Arc<Route>>> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsyncUdpSocket for ServiceSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let Some(route) = tunnel_of(transmit.destination).and_then(|tunnel| self.route(tunnel)) else {
            return Ok(()); // the tunnel has gone; the client will open another
        };
        let mut scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        let tunnel = route.tunnel.id().get();
        let allowed = segments(transmit).filter(|datagram| self.bindings.may_carry(tunnel, datagram));
        for (datagram, after) in with_after(allowed) {
            if let Some((kind, payload)) = route.end.wrap(datagram, &mut scratch) {
                route.tunnel.send(kind, payload, after);
            }
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut slots = Slots::new(bufs, metas);
        loop {
            while slots.room() > 0 && self.receive(&mut slots) {}
            if slots.filled > 0 {
                return Poll::Ready(Ok(slots.filled));
            }
            self.queue.waker.register(cx.waker());
            if self.queue.lock().is_empty() {
                return Poll::Pending;
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(SELF)
    }

    fn max_transmit_segments(&self) -> usize {
        SEGMENTS
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

impl fmt::Debug for ServiceSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServiceSocket({} tunnels)", self.routes().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tunnel_and_its_address_are_one_to_one() {
        for tunnel in [0, 1, 77, u64::MAX] {
            assert_eq!(tunnel_of(address_of(tunnel)), Some(tunnel));
        }
        assert_ne!(address_of(1), address_of(2));
    }
}
