//! What the proxy asks for.

use std::{
    fmt,
    future::{Future, ready},
    net::{IpAddr, Ipv4Addr},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::mpsc,
};

use crate::DialError;

/// Does what the clients of a proxy ask for.
///
/// Every future is dropped when its client goes away. A method that the implementation leaves out answers "not
/// supported".
pub trait Dial: Send + Sync + 'static {
    /// A connection to the far side.
    type Connection: Connection;

    /// Connects to where the request says.
    fn dial(&self, request: Request) -> impl Future<Output = Result<Self::Connection, DialError>> + Send;

    /// The address of a name (Tor's RESOLVE). The port says nothing.
    fn resolve(&self, _request: Request) -> impl Future<Output = Result<IpAddr, DialError>> + Send {
        ready(Err(DialError::CommandNotSupported))
    }

    /// The name of an address (Tor's RESOLVE_PTR). The port says nothing.
    fn reverse(&self, _request: Request) -> impl Future<Output = Result<String, DialError>> + Send {
        ready(Err(DialError::CommandNotSupported))
    }

    /// Opens the way for datagrams of one client (UDP ASSOCIATE).
    fn associate(&self, _group: Isolation) -> impl Future<Output = Result<Datagrams, DialError>> + Send {
        ready(Err(DialError::CommandNotSupported))
    }

    /// Waits at the far side for one connection of whom the request names (BIND).
    fn listen(
        &self,
        _request: Request,
    ) -> impl Future<Output = Result<Listening<Self::Connection>, DialError>> + Send {
        ready(Err(DialError::CommandNotSupported))
    }
}

/// A byte stream to the far side, with the endings of TCP: `shutdown` ends our direction only, a failing read or write
/// means that the far side reset.
pub trait Connection: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Ends both directions at once; the far side is to see a reset, not an end.
    fn reset(self);

    /// Ready when the far side is gone: it was sent what it does not take. Asked only after it has said all that it had to say.
    fn poll_gone(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

impl Connection for TcpStream {
    fn reset(self) {
        // Without it the far side would see an orderly end. If it fails, the socket is dead already.
        let _ = self.set_zero_linger();
    }
}

/// One wish of one client.
#[derive(Clone, PartialEq, Eq)]
pub struct Request {
    /// Where to.
    pub host: Host,
    /// And to which port there.
    pub port: u16,
    /// Whom it must not be linked with.
    pub isolation: Isolation,
}

/// The destination as the client wrote it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// A name, not resolved: 1 to 255 visible ASCII characters that are no IP address.
    Name(String),
    /// An address; also one that the client sent in the place of a name.
    Ip(IpAddr),
}

impl Host {
    /// Stands where a client is told nothing.
    pub(crate) const NONE: Host = Host::Ip(IpAddr::V4(Ipv4Addr::UNSPECIFIED));

    /// Takes what stands in the place of a name. Internationalised names come in their ASCII form, as in DNS.
    pub fn parse(text: &str) -> Option<Host> {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        if let Ok(address) = bare.parse() {
            return Some(Host::Ip(address));
        }
        let acceptable = (1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        acceptable.then(|| Host::Name(text.to_owned()))
    }
}

/// Requests of different groups are to share nothing that a stranger could link.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isolation {
    /// Clients without credentials.
    #[default]
    Default,
    /// Clients that gave this pair, which is the group. On a local port nothing of it is checked; with
    /// [`Access::Remote`](crate::Access::Remote) the password was, and is empty here.
    Credentials {
        /// Up to 255 bytes, of any kind.
        user: Vec<u8>,
        /// Up to 255 bytes, of any kind.
        password: Vec<u8>,
    },
}

/// A place at the far side that waits for one connection.
pub struct Listening<C> {
    /// Where it waits, as the client is told first.
    pub host: Host,
    /// And at which port.
    pub port: u16,
    /// Ends when somebody has come. Dropping it ends the waiting.
    pub accepted: Pin<Box<dyn Future<Output = Result<Accepted<C>, DialError>> + Send>>,
}

/// Somebody has come.
pub struct Accepted<C> {
    /// The connection.
    pub connection: C,
    /// Who it is, as the client is told then.
    pub host: Host,
    /// And from which port.
    pub port: u16,
}

/// A datagram with its far end: where it goes, or where it came from.
#[derive(Clone, PartialEq, Eq)]
pub struct Datagram {
    /// The far end.
    pub host: Host,
    /// The port there.
    pub port: u16,
    /// What it carries.
    pub data: Vec<u8>,
}

/// One end of a way for datagrams. Both queues are bounded; what finds its queue full is lost, as datagrams may be.
/// When one end is dropped, the other ends.
#[derive(Debug)]
pub struct Datagrams {
    /// To the other end.
    pub outgoing: mpsc::Sender<Datagram>,
    /// From the other end.
    pub incoming: mpsc::Receiver<Datagram>,
}

impl Datagrams {
    /// Both ends of a way that holds so many datagrams in each direction, at least one.
    pub fn pair(queue: usize) -> (Datagrams, Datagrams) {
        let (near, from_near) = mpsc::channel(queue.max(1));
        let (far, from_far) = mpsc::channel(queue.max(1));
        let near = Datagrams { outgoing: near, incoming: from_far };
        (near, Datagrams { outgoing: far, incoming: from_near })
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("host", &self.host)
            .field("isolation", &self.isolation)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Datagram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Datagram").finish_non_exhaustive()
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Host::Name(_) => "Name(hidden)",
            Host::Ip(_) => "Ip(hidden)",
        })
    }
}

impl fmt::Debug for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Isolation::Default => "Default",
            Isolation::Credentials { .. } => "Credentials(hidden)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_in_the_place_of_a_name_is_an_address() {
        for text in ["::1", "[::1]"] {
            assert!(matches!(Host::parse(text), Some(Host::Ip(IpAddr::V6(_)))), "{text}");
        }
        assert!(matches!(Host::parse("127.0.0.1"), Some(Host::Ip(IpAddr::V4(_)))));
        assert!(matches!(Host::parse("127.0.0.1.ap"), Some(Host::Name(_))));
    }

    #[test]
    fn a_name_that_no_host_can_have_is_refused() {
        for text in ["", "a b", "a\0b", "a\nb", "höst"] {
            assert_eq!(Host::parse(text), None, "{text:?}");
        }
        assert_eq!(Host::parse(&"a".repeat(256)), None);
    }

    #[test]
    fn a_request_hides_its_secrets_when_printed() {
        let request = Request {
            host: Host::Name("secret.example".into()),
            port: 4242,
            isolation: Isolation::Credentials { user: b"alice".to_vec(), password: b"hunter2".to_vec() },
        };
        let printed = format!("{request:?}");
        for word in ["secret", "4242", "alice", "hunter2", "97, 108"] {
            assert!(!printed.contains(word), "{printed}");
        }
    }
}
