//! The `.ap` zone as a DNS server that cannot forward (PROTOCOL §8).
//!
//! It answers for `.ap` and for the reverse zones of the addresses that `.ap` names have, and refuses all else. There is no
//! resolver, no upstream and no socket of its own in this crate: a question that it cannot answer ends here, so no name
//! can leak through it. Where the answers come from is the caller's affair, behind [`Lookup`], which does not wait: whoever
//! would have to ask somebody cannot be asked here.

mod answer;
mod message;
mod tcp;
mod udp;
mod zone;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use tokio::{
    net::{TcpListener, UdpSocket},
    task::JoinSet,
};

pub use answer::{Answers, Transport};

/// Where answers come from.
pub trait Lookup: Send + Sync + 'static {
    /// What a host has of this kind; nothing of it is an answer, too. The host is in lower case, with `.ap` at its end and no
    /// dot behind it, and has whatever labels the question had in front.
    fn lookup(&self, host: &str, wanted: Wanted) -> Result<Vec<Data>, NoAnswer>;

    /// The full name of the party that has this address, which is an alias or an AP address.
    fn reverse(&self, address: IpAddr) -> Result<String, NoAnswer>;

    /// What is said about a name of other zones, of which these are the labels, as they were asked for.
    fn elsewhere(&self, _labels: &[&[u8]]) -> Elsewhere {
        Elsewhere::Refused
    }
}

/// What is said about names that are not of our zones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elsewhere {
    /// They may exist, but are not asked for here: REFUSED. So a resolver that asks several servers goes on to the next.
    Refused,
    /// There are no other zones for who asks here: NXDOMAIN. Who has no other server takes REFUSED for a failure, and asks again
    /// for seconds.
    Nothing,
}

/// What is asked about a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The alias.
    A,
    /// The AP address.
    Aaaa,
    /// Where a service is.
    Srv,
    /// Text.
    Txt,
    /// How a web server is reached.
    Https,
    /// Something that no host has, or only whether the host is there.
    Other,
}

/// One record of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// For programs that know IPv4 only; has a meaning on this machine alone.
    A(Ipv4Addr),
    /// The AP address.
    Aaaa(Ipv6Addr),
    /// RFC 2782.
    Srv {
        /// The lowest is tried first.
        priority: u16,
        /// Among equals.
        weight: u16,
        /// Where the service is.
        port: u16,
        /// And at which host.
        target: String,
    },
    /// Strings of 255 bytes at most.
    Txt(Vec<String>),
    /// RFC 9460.
    Https {
        /// 0 is an alias of the target.
        priority: u16,
        /// The host; none is the one that was asked for.
        target: Option<String>,
        /// Protocols.
        alpn: Vec<String>,
        /// Where, if not at the usual port.
        port: Option<u16>,
    },
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

/// Serves both transports until the future is dropped, or until one of the sockets fails.
pub async fn serve(udp: UdpSocket, tcp: TcpListener, lookup: impl Lookup) -> io::Result<()> {
    let answers = Arc::new(Answers::new(lookup));
    // Tasks of their own: who asks very much shares the processor with others.
    let mut transports = JoinSet::new();
    transports.spawn(udp::serve(udp, answers.clone()));
    transports.spawn(tcp::serve(tcp, answers));
    match transports.join_next().await {
        Some(Ok(error)) => Err(error),
        Some(Err(error)) => Err(io::Error::other(error)),
        None => Ok(()),
    }
}

/// Serves TCP until the future is dropped. Whoever has datagrams of his own answers them by [`Answers::respond`].
pub async fn serve_tcp<L: Lookup>(tcp: TcpListener, answers: Arc<Answers<L>>) -> io::Error {
    tcp::serve(tcp, answers).await
}

/// For tests and fuzzing: what a message is answered with, by UDP or by TCP. Nothing if it is no question at all.
#[doc(hidden)]
pub fn respond(lookup: impl Lookup, message: &[u8], by_udp: bool) -> Option<Vec<u8>> {
    let transport = if by_udp { Transport::Udp } else { Transport::Tcp };
    Answers::new(lookup).respond(message, transport)
}
