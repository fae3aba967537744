//! Dialling a node (PROTOCOL §2): the TLS key is compared before anything is sent, then both sides prove who they are.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use phantom_protocol::wire::{
    contact::Contact,
    hello::{BadHello, Binding, ProvenPeer, Role},
};
use thiserror::Error;
use tokio::{
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::hidden::Hidden;

use super::{
    Shared,
    connection::Connection,
    events::LinkEvent,
    handshake::{self, Shaken},
    hello::First,
    socket::Socket,
    task::LinkTask,
    tls,
};

/// A dial is over after this, whatever it waits for.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// Why there is no link to a node.
#[derive(Debug, Error)]
pub enum DialError {
    /// The node has no public address: only it can dial.
    #[error("the node has no public address, so it cannot be dialled")]
    Unlisted,
    /// Only public addresses are dialled in this network.
    #[error("{0} is not a public address, and this network has no others")]
    NotPublic(IpAddr),
    /// No TCP connection.
    #[error("cannot connect to {address}: {error}")]
    Connect {
        /// Where to.
        address: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
    /// No TLS connection, or it broke before the link stood.
    #[error("the connection broke before the other node had proved its identity: {0}")]
    Broken(#[from] io::Error),
    /// Somebody else answers at the node's address, or the contact is out of date.
    #[error("the server there shows another TLS key than the node's record names")]
    WrongTlsKey,
    /// The server does not talk as nodes do.
    #[error("the server there does not talk as a node of this network does")]
    NotANode,
    /// It is a node, but not one that we can have a link with, or not the one that we dialled.
    #[error("the node there did not prove its identity: {0}")]
    BadHello(#[from] BadHello),
    /// It took too long.
    #[error("no answer within {} seconds", DIAL_TIMEOUT.as_secs())]
    TimedOut,
}

impl DialError {
    /// One word for it.
    pub fn kind(&self) -> &'static str {
        match self {
            DialError::Unlisted => "unlisted",
            DialError::NotPublic(_) => "not_public",
            DialError::Connect { .. } => "not_connected",
            DialError::Broken(_) => "broken",
            DialError::WrongTlsKey => "wrong_tls_key",
            DialError::NotANode => "not_a_node",
            DialError::BadHello(_) => "bad_hello",
            DialError::TimedOut => "timed_out",
        }
    }
}

/// Dials until there is a link or an error, and serves the link.
pub(super) async fn run(shared: Arc<Shared>, contact: Contact, stop: CancellationToken) {
    let dialled = tokio::select! {
        () = stop.cancelled() => return, // The node's own dial to us has become the link.
        () = shared.stop.cancelled() => return,
        dialled = timeout(DIAL_TIMEOUT, dial(&shared, &contact)) => dialled,
    };
    match dialled.unwrap_or(Err(DialError::TimedOut)) {
        Ok(dialled) => serve(shared, contact, stop, dialled).await,
        Err(why) => {
            tracing::debug!(node = %Hidden(contact.id), kind = why.kind(), why = %Hidden(&why), "no link");
            if shared.table.dial_failed(contact.id, &stop) {
                shared.events.send(LinkEvent::DialFailed { node: contact.id, why });
            }
        }
    }
}

/// Goes as far as anybody could who does not belong to the network, and says whether the node was there.
pub(super) async fn knock(shared: Arc<Shared>, contact: Contact) {
    let knocked = tokio::select! {
        () = shared.stop.cancelled() => return,
        knocked = timeout(DIAL_TIMEOUT, async {
            let Met { mut shaken, .. } = meet(&shared, &contact).await?;
            let is_node = shaken.is_hybrid;
            // As a browser that has opened one connection too many.
            shaken.connection.close().await?;
            Ok::<bool, DialError>(is_node)
        }) => knocked,
    };
    let reached = matches!(knocked, Ok(Ok(true)));
    shared.events.send(LinkEvent::Knocked { node: contact.id, reached });
}

struct Dialled {
    connection: Connection,
    peer: ProvenPeer,
    address: SocketAddr,
    round_trip: Duration,
}

async fn serve(shared: Arc<Shared>, contact: Contact, stop: CancellationToken, dialled: Dialled) {
    let Dialled { connection, peer, address, round_trip } = dialled;
    let Some(link) = shared.table.dial_done(contact.id, &stop, address, shared.clock.moment()) else {
        return;
    };
    let _first_time = link.round_trip.set(round_trip);
    let up = LinkEvent::Up { link: link.id, peer, address, dialled: true };
    LinkTask::new(shared, link, connection).run(up, None).await;
}

/// A server that has shown the right TLS key.
struct Met {
    shaken: Shaken,
    address: SocketAddr,
    round_trip: Duration,
}

async fn meet(shared: &Shared, contact: &Contact) -> Result<Met, DialError> {
    let address = contact.address.ok_or(DialError::Unlisted)?;
    if !shared.network.admits(address) {
        return Err(DialError::NotPublic(address.ip()));
    }
    let name = tls::server_name(&contact.tls_keys).ok_or(DialError::Unlisted)?;
    let config = tls::client_config(contact.tls_keys).map_err(io::Error::other)?;

    // Exits dial for strangers: that must not use up all sockets.
    let _turn = shared.dials.acquire().await.map_err(io::Error::other)?;
    let asked = shared.clock.moment();
    let tcp = connect(address, shared.source).await.map_err(|error| DialError::Connect { address, error })?;
    let round_trip = shared.clock.moment().since(asked);
    let socket = Socket::new(tcp)?;
    let shaken = handshake::dial(config, name, socket).await.map_err(tls_error)?;
    Ok(Met { shaken, address, round_trip })
}

async fn dial(shared: &Shared, contact: &Contact) -> Result<Dialled, DialError> {
    let Met { mut shaken, address, round_trip } = meet(shared, contact).await?;
    if !shaken.is_hybrid {
        return Err(DialError::NotANode);
    }

    let binding = Binding { network: &shared.network, exporter: &shaken.exporter };
    let hello = binding.hello(Role::Dialler, &shared.node, contact.id, shared.is_listed());
    shaken.connection.write_all(&hello.0).await?;
    let mut first = First::new();
    if !first.read(&mut shaken.connection).await? {
        return Err(DialError::NotANode);
    }
    let peer = binding.check(Role::Listener, first.cell(), shared.node.id(), Some(contact.id))?;
    Ok(Dialled { connection: shaken.connection, peer, address, round_trip })
}

async fn connect(address: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(source) = source.filter(|source| source.is_ipv4() == address.is_ipv4()) {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    socket.connect(address).await
}

fn tls_error(error: io::Error) -> DialError {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    match cause {
        Some(rustls::Error::InvalidCertificate(_)) => DialError::WrongTlsKey,
        Some(_) => DialError::NotANode,
        None => DialError::Broken(error),
    }
}
