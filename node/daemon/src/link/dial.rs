//! Dialling a node (PROTOCOL §2): the TLS key is compared before anything is sent, then both sides prove who they are.

use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use phantom_protocol::wire::{
    contact::Contact,
    hello::{BadHello, Binding, ProvenPeer, Role},
};
use thiserror::Error;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsConnector, TlsStream, client};
use tokio_util::sync::CancellationToken;

use super::{
    Shared,
    events::LinkEvent,
    hello::{self, First},
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
            if shared.table.dial_failed(contact.id, &stop) {
                shared.events.send(LinkEvent::DialFailed { node: contact.id, why });
            }
        }
    }
}

struct Dialled {
    stream: client::TlsStream<Socket>,
    peer: ProvenPeer,
    address: SocketAddr,
}

async fn serve(shared: Arc<Shared>, contact: Contact, stop: CancellationToken, dialled: Dialled) {
    let Dialled { stream, peer, address } = dialled;
    let Some(link) = shared.table.dial_done(contact.id, &stop, address, shared.clock.moment()) else {
        return;
    };
    let up = LinkEvent::Up { link: link.id, peer, address, dialled: true };
    LinkTask::new(shared, link, TlsStream::Client(stream)).run(up).await;
}

async fn dial(shared: &Shared, contact: &Contact) -> Result<Dialled, DialError> {
    let address = contact.address.ok_or(DialError::Unlisted)?;
    if !shared.network.private_addresses && !is_public(address.ip()) {
        return Err(DialError::NotPublic(address.ip()));
    }
    let name = tls::server_name(&contact.tls_keys).ok_or(DialError::Unlisted)?;
    let config = tls::client_config(contact.tls_keys).map_err(io::Error::other)?;

    // Exits dial for strangers: that must not use up all sockets.
    let _turn = shared.dials.acquire().await.map_err(io::Error::other)?;
    let tcp = connect(address, shared.source).await.map_err(|error| DialError::Connect { address, error })?;
    let socket = Socket::new(tcp)?;
    let mut stream = TlsConnector::from(config).connect(name, socket).await.map_err(tls_error)?;
    if !tls::is_hybrid(stream.get_ref().1.negotiated_key_exchange_group()) {
        return Err(DialError::NotANode);
    }

    let exporter = hello::exporter(stream.get_ref().1).map_err(io::Error::other)?;
    let binding = Binding { network: &shared.network, exporter: &exporter };
    let hello = binding.hello(Role::Dialler, &shared.node, contact.id, shared.listed);
    stream.write_all(&hello.0).await?;
    stream.flush().await?;
    let mut first = First::new();
    if !first.read(&mut stream).await? {
        return Err(DialError::NotANode);
    }
    let peer = binding.check(Role::Listener, first.cell(), shared.node.id(), Some(contact.id))?;
    Ok(Dialled { stream, peer, address })
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

/// Whether an address belongs to the Internet at large. Dialling others for strangers would open local networks to
/// them.
fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            let shared = a == 100 && (64..128).contains(&b);
            let protocols = (a, b, c) == (192, 0, 0);
            let benchmarks = a == 198 && (b == 18 || b == 19);
            !(a == 0
                || a >= 224
                || ip.is_loopback()
                || ip.is_private()
                || ip.is_link_local()
                || ip.is_documentation()
                || shared
                || protocols
                || benchmarks)
        }
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    // 2000::/3 is all that has been given out. Of it, 2001:db8::/32 and 3fff::/20 are for documents; 2001::/23 and
    // 2002::/16 hold tunnels whose far end would be an IPv4 address of the stranger's choice.
    let [a, b, ..] = ip.segments();
    let global = a & 0xe000 == 0x2000;
    let documents = (a == 0x2001 && b == 0x0db8) || (a == 0x3fff && b < 0x1000);
    let tunnels = (a == 0x2001 && b < 0x0200) || a == 0x2002;
    global && !documents && !tunnels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_internet_is_public() {
        for private in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.1.1",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "198.18.0.1",
            "192.0.2.1",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "ff02::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "64:ff9b::7f00:1",
            "::ffff:127.0.0.1",
            "2001::1",
        ] {
            assert!(!is_public(private.parse().unwrap()), "{private}");
        }
        for public in ["1.1.1.1", "100.128.0.1", "172.32.0.1", "2606:4700::1111", "2a00:1450::1"] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
    }
}
