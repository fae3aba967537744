//! The client's socket: one tunnel, one constant peer (PROTOCOL §6). A session that moves to a new tunnel makes a new
//! socket and rebinds its endpoint; the bindings and salts go from socket to socket.

use std::{
    fmt, io,
    io::IoSliceMut,
    iter,
    net::{Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use futures_util::task::AtomicWaker;
use phantom_protocol::crypto::datagram::SessionSecret;
use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit},
};

use super::{
    bindings::Bindings,
    datagram::{ClientEnd, Salts},
    tunnel::{After, Inbox, Ready, Tunnel},
};

/// Datagrams that quinn may hand over at once.
pub(super) const SEGMENTS: usize = 10;
/// The peer, whatever tunnel leads to it.
pub(super) const PEER: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V6(Ipv6Addr::new(0xfd, 0, 0, 0, 0, 0, 0, 1)), 1);
/// Ourselves.
pub(super) const SELF: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V6(Ipv6Addr::new(0xfd, 0, 0, 0, 0, 0, 0, 2)), 2);

/// What the sockets of one session share.
#[derive(Default)]
pub(super) struct Shared {
    bindings: Bindings,
    salts: Salts,
}

/// A UDP socket made of one tunnel.
pub(super) struct ClientSocket {
    tunnel: Tunnel,
    end: ClientEnd,
    shared: Arc<Shared>,
    waker: Arc<Waker>,
    scratch: Mutex<Vec<u8>>,
}

#[derive(Default)]
struct Waker(AtomicWaker);

impl Ready for Waker {
    fn ready(&self) {
        self.0.wake();
    }
}

impl ClientSocket {
    pub(super) fn new(tunnel: Tunnel, secret: SessionSecret, shared: Arc<Shared>) -> Arc<ClientSocket> {
        let waker = Arc::new(Waker::default());
        tunnel.inbox().set_reader(waker.clone());
        let end = ClientEnd::new(tunnel.id().get(), secret);
        Arc::new(ClientSocket { tunnel, end, shared, waker, scratch: Mutex::default() })
    }

    /// Says when the tunnel has ended.
    pub(super) fn inbox(&self) -> Arc<Inbox> {
        self.tunnel.inbox().clone()
    }

    /// Fills the buffers with what waits; returns how many.
    fn receive(&self, bufs: &mut [IoSliceMut<'_>], metas: &mut [RecvMeta]) -> usize {
        let mut opened = Vec::new();
        let mut slots = Slots::new(bufs, metas);
        self.tunnel.inbox().drain(slots.room(), |kind, payload| {
            if let Some(datagram) = self.end.unwrap(&self.shared.salts, kind, payload, &mut opened) {
                slots.fill(PEER, datagram);
            }
        });
        slots.filled
    }
}

/// The buffers of quinn that one call fills, from the front.
pub(super) struct Slots<'a, 'b, 'c> {
    bufs: &'a mut [IoSliceMut<'b>],
    metas: &'c mut [RecvMeta],
    pub(super) filled: usize,
}

impl<'a, 'b, 'c> Slots<'a, 'b, 'c> {
    pub(super) fn new(bufs: &'a mut [IoSliceMut<'b>], metas: &'c mut [RecvMeta]) -> Self {
        Slots { bufs, metas, filled: 0 }
    }

    /// Buffers that are left.
    pub(super) fn room(&self) -> usize {
        self.bufs.len().min(self.metas.len()).saturating_sub(self.filled)
    }

    /// Puts one datagram into the next buffer; one that does not fit, which no honest peer sends, is dropped.
    pub(super) fn fill(&mut self, from: SocketAddr, datagram: &[u8]) {
        let (Some(buf), Some(meta)) = (self.bufs.get_mut(self.filled), self.metas.get_mut(self.filled))
        else {
            return;
        };
        let Some(room) = buf.get_mut(..datagram.len()) else { return };
        room.copy_from_slice(datagram);
        *meta = RecvMeta { addr: from, len: datagram.len(), stride: datagram.len(), ecn: None, dst_ip: None };
        self.filled += 1;
    }
}

impl AsyncUdpSocket for ClientSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let mut scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        let tunnel = self.tunnel.id().get();
        let allowed = segments(transmit).filter(|datagram| self.shared.bindings.may_carry(tunnel, datagram));
        for (datagram, after) in with_after(allowed) {
            let (kind, payload) = self.end.wrap(datagram, &mut scratch);
            self.tunnel.send(kind, payload, after);
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            let filled = self.receive(bufs, metas);
            if filled > 0 {
                return Poll::Ready(Ok(filled));
            }
            self.waker.0.register(cx.waker());
            if self.tunnel.inbox().is_empty() {
                return Poll::Pending; // also when the tunnel has ended: an error would end the endpoint
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

impl fmt::Debug for ClientSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientSocket({:?})", self.tunnel)
    }
}

/// The datagrams of one transmit.
pub(super) fn segments<'a>(transmit: &Transmit<'a>) -> impl Iterator<Item = &'a [u8]> {
    transmit.contents.chunks(transmit.segment_size.unwrap_or(transmit.contents.len()).max(1))
}

/// Each item with what comes after it.
pub(super) fn with_after<T>(items: impl Iterator<Item = T>) -> impl Iterator<Item = (T, After)> {
    let mut items = items.peekable();
    iter::from_fn(move || {
        let item = items.next()?;
        Some((item, if items.peek().is_some() { After::More } else { After::Nothing }))
    })
}

/// Tunnels never block: what their queues cannot hold is lost, and congestion control learns from it.
#[derive(Debug)]
pub(super) struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
