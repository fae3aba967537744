//! The listener (PROTOCOL §2): whoever proves in time that he is a node and knows which node this is becomes a link;
//! everybody else meets a web server.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use phantom_protocol::wire::{
    cell::Cell,
    hello::{Binding, ProvenPeer, Role},
};
use rustls::ServerConfig;
use socket2::{Domain, Protocol, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{Instant, sleep, sleep_until, timeout_at},
};

use super::{
    Shared,
    connection::Connection,
    events::LinkEvent,
    gate::Gate,
    handshake::{self, Shaken},
    hello::First,
    socket::Socket,
    stranger::answer_stranger,
    table::{Admission, HOLD, Link},
    task::LinkTask,
};

/// Connections that the kernel keeps ready for us.
const BACKLOG: i32 = 1024;
/// Pause when the system has no socket left.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// Opens the listening socket; needs no runtime. An IPv6 wildcard takes IPv4 too.
pub(super) fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Takes connections until the node stops.
pub(super) async fn run(shared: Arc<Shared>, listener: TcpListener, tls: Arc<ServerConfig>, gate: Arc<Gate>) {
    loop {
        let accepted = tokio::select! {
            () = shared.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((tcp, from)) => {
                let ticket = gate.enter(from.ip());
                let (shared, tls) = (Arc::clone(&shared), Arc::clone(&tls));
                tokio::spawn(async move {
                    let guest = tokio::select! {
                        () = ticket.evicted() => return,
                        () = shared.stop.cancelled() => return,
                        guest = receive(&shared, &tls, tcp, from) => guest,
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
    connection: Connection,
    link: Arc<Link>,
    peer: ProvenPeer,
    from: SocketAddr,
    hello: Cell,
}

impl Guest {
    async fn serve(self, shared: Arc<Shared>) {
        let up = LinkEvent::Up { link: self.link.id, peer: self.peer, address: self.from, dialled: false };
        LinkTask::new(shared, self.link, self.connection).run(up, Some(&self.hello)).await;
    }
}

async fn receive(
    shared: &Arc<Shared>,
    tls: &ServerConfig,
    tcp: TcpStream,
    from: SocketAddr,
) -> Option<Guest> {
    let deadline = Instant::now() + shared.handshake_timeout;
    let socket = Socket::new(tcp).ok()?;
    // TLS takes memory only when there is something to read.
    timeout_at(deadline, socket.readable()).await.ok()?.ok()?;
    let asked = shared.clock.moment();
    let mut shaken = timeout_at(deadline, handshake::accept(tls, socket)).await.ok()?.ok()?;
    let round_trip = shared.clock.moment().since(asked);

    let mut first = First::new();
    let whole = matches!(timeout_at(deadline, first.read(&mut shaken.connection)).await, Ok(Ok(true)));
    let introduced = whole.then(|| introduce(shared, &shaken, &first)).flatten();
    let mut connection = shaken.connection;
    let Some((peer, hello)) = introduced else {
        answer_stranger(connection, first.seen()).await;
        return None;
    };
    let Some(link) = admit(shared, &mut connection, &peer, from).await else {
        answer_stranger(connection, first.seen()).await;
        return None;
    };
    let _first_time = link.round_trip.set(round_trip);
    Some(Guest { connection, link, peer, from, hello })
}

/// Checks the dialler's proof and makes ours.
fn introduce(shared: &Shared, shaken: &Shaken, first: &First) -> Option<(ProvenPeer, Cell)> {
    if !shaken.is_hybrid {
        return None;
    }
    let binding = Binding { network: &shared.network, exporter: &shaken.exporter };
    let peer = binding.check(Role::Dialler, first.cell(), shared.node.id(), None).ok()?;
    let hello = binding.hello(Role::Listener, &shared.node, peer.id(), shared.is_listed());
    Some((peer, hello))
}

/// Waits until it is decided whether this dial becomes the link. `None` if it does not.
async fn admit(
    shared: &Shared,
    connection: &mut Connection,
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
                    _ = connection.read(&mut byte) => return None,
                }
            }
        }
    }
}
