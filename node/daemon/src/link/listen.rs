//! The listener (PROTOCOL §2): whoever proves in time that he is a node and knows which node this is becomes a link;
//! everybody else meets a web server.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use phantom_protocol::wire::{
    cell::Cell,
    hello::{Binding, ProvenPeer, Role},
};
use socket2::{Domain, Protocol, Type};
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
    time::{Instant, sleep, sleep_until, timeout_at},
};
use tokio_rustls::{TlsAcceptor, TlsStream, server};

use super::{
    Shared,
    events::LinkEvent,
    gate::Gate,
    hello::{self, First},
    socket::Socket,
    stranger::answer_stranger,
    table::{Admission, HOLD, Link},
    task::LinkTask,
};

/// Connections that the kernel keeps ready for us.
const BACKLOG: i32 = 1024;
/// Pause when the system has no socket left.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// Opens the listening socket. An IPv6 wildcard takes IPv4 too.
pub(super) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Takes connections until the node stops.
pub(super) async fn run(shared: Arc<Shared>, listener: TcpListener, acceptor: TlsAcceptor, gate: Arc<Gate>) {
    loop {
        let accepted = tokio::select! {
            () = shared.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((tcp, from)) => {
                let ticket = gate.enter(from.ip());
                let (shared, acceptor) = (Arc::clone(&shared), acceptor.clone());
                tokio::spawn(async move {
                    let guest = tokio::select! {
                        () = ticket.evicted() => return,
                        () = shared.stop.cancelled() => return,
                        guest = receive(&shared, acceptor, tcp, from) => guest,
                    };
                    drop(ticket);
                    if let Some(guest) = guest {
                        guest.serve(shared).await;
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot take a connection");
                sleep(EXHAUSTED).await;
            }
        }
    }
}

/// A dialler that has proved its identity, and awaits our proof.
struct Guest {
    stream: server::TlsStream<Socket>,
    link: Arc<Link>,
    peer: ProvenPeer,
    from: SocketAddr,
    hello: Cell,
}

impl Guest {
    async fn serve(self, shared: Arc<Shared>) {
        let up = LinkEvent::Up { link: self.link.id, peer: self.peer, address: self.from, dialled: false };
        LinkTask::new(shared, self.link, TlsStream::Server(self.stream)).greet(&self.hello).run(up).await;
    }
}

async fn receive(
    shared: &Arc<Shared>,
    acceptor: TlsAcceptor,
    tcp: TcpStream,
    from: SocketAddr,
) -> Option<Guest> {
    let deadline = Instant::now() + shared.handshake_timeout;
    let socket = Socket::new(tcp).ok()?;
    // TLS takes memory only when there is something to read.
    timeout_at(deadline, socket.readable()).await.ok()?.ok()?;
    let mut stream = timeout_at(deadline, acceptor.accept(socket)).await.ok()?.ok()?;

    let mut first = First::new();
    let whole = matches!(timeout_at(deadline, first.read(&mut stream)).await, Ok(Ok(true)));
    let Some((peer, hello)) = whole.then(|| introduce(shared, &stream, &first)).flatten() else {
        answer_stranger(stream, first.seen()).await;
        return None;
    };
    let Some(link) = admit(shared, &mut stream, &peer, from).await else {
        answer_stranger(stream, first.seen()).await;
        return None;
    };
    Some(Guest { stream, link, peer, from, hello })
}

/// Checks the dialler's proof and makes ours.
fn introduce(
    shared: &Shared,
    stream: &server::TlsStream<Socket>,
    first: &First,
) -> Option<(ProvenPeer, Cell)> {
    let connection = stream.get_ref().1;
    if !super::tls::is_hybrid(connection.negotiated_key_exchange_group()) {
        return None;
    }
    let exporter = hello::exporter(connection).ok()?;
    let binding = Binding { network: &shared.network, exporter: &exporter };
    let peer = binding.check(Role::Dialler, first.cell(), shared.node.id(), None).ok()?;
    let hello = binding.hello(Role::Listener, &shared.node, peer.id(), shared.listed);
    Some((peer, hello))
}

/// Waits until it is decided whether this dial becomes the link. `None` if it does not.
async fn admit(
    shared: &Shared,
    stream: &mut server::TlsStream<Socket>,
    peer: &ProvenPeer,
    from: SocketAddr,
) -> Option<Arc<Link>> {
    let patience = Instant::now() + HOLD;
    loop {
        let patient = Instant::now() < patience;
        match shared.table.admit(peer.id(), from, patient, shared.clock.moment()) {
            Admission::Welcome(link) => return Some(link),
            Admission::Full => return None,
            Admission::Hold(change) => {
                let mut byte = [0];
                tokio::select! {
                    () = change => {}
                    () = sleep_until(patience) => {}
                    // Until it has our Hello, an honest dialler says nothing: it has hung up.
                    _ = stream.read(&mut byte) => return None,
                }
            }
        }
    }
}
