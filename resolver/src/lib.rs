//! The `.ap` zone as a DNS server that cannot forward (PROTOCOL §8).
//!
//! It answers for `.ap` and for the reverse zones of the addresses that `.ap` names have, and refuses all else. There is no
//! resolver, no upstream and no socket of its own in this crate: a question that it cannot answer ends here, so no name
//! can leak through it. Where the answers come from is the caller's affair, behind [`Lookup`].

mod handler;
mod zone;

use std::{
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use hickory_server::Server;
use tokio::net::{TcpListener, UdpSocket};

/// Where answers come from.
pub trait Lookup: Send + Sync + Unpin + 'static {
    /// The addresses of a host: lower case, with `.ap` at its end and no dot behind it.
    fn lookup(&self, host: &str) -> impl Future<Output = Result<Addresses, NoAnswer>> + Send;

    /// The full name of the party that has this address, which is an alias or an AP address.
    fn reverse(&self, address: IpAddr) -> impl Future<Output = Result<String, NoAnswer>> + Send;
}

/// The addresses of a party. A name without any is a name all the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// For programs that know IPv4 only; has a meaning on this machine alone.
    pub alias: Option<Ipv4Addr>,
    /// The AP address.
    pub address: Option<Ipv6Addr>,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    /// Nobody has this name or address.
    #[error("there is no such name")]
    NoSuchName,
    /// It cannot be told now.
    #[error("the node cannot answer at the moment")]
    Failed,
}

/// A client that says nothing over TCP for this long is left alone.
const TCP_PATIENCE: Duration = Duration::from_secs(5);
/// Answers that may wait for one TCP client.
const TCP_ANSWERS: usize = 32;

/// Serves both transports until the future is dropped, or until one of the sockets fails.
pub async fn serve(udp: UdpSocket, tcp: TcpListener, lookup: impl Lookup) -> io::Result<()> {
    let mut server = Server::new(handler::Zone::new(lookup));
    server.register_socket(udp);
    server.register_listener(tcp, TCP_PATIENCE, TCP_ANSWERS);
    server.block_until_done().await.map_err(io::Error::other)
}
