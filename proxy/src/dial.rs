//! What the proxy asks for, and the answers it understands.

use std::{fmt, future::Future, io, net::IpAddr};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

/// Opens connections for the clients of a proxy.
pub trait Dial: Send + Sync + 'static {
    /// A connection to the far side.
    type Connection: Connection;

    /// Connects to where the request says. Dropped when the client goes away while it waits.
    fn dial(&self, request: Request) -> impl Future<Output = Result<Self::Connection, DialError>> + Send;
}

/// A byte stream to the far side, with the endings of TCP: `shutdown` ends our direction only, a failing read or write
/// means that the far side reset.
pub trait Connection: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Ends both directions at once; the far side is to see a reset, not an end.
    fn reset(self);
}

impl Connection for TcpStream {
    fn reset(self) {
        // Without it the far side would see an orderly end. If it fails, the socket is dead already.
        let _ = self.set_zero_linger();
    }
}

/// One CONNECT of one client.
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
    /// Clients that gave this pair. Nothing is checked: the pair itself is the group.
    Credentials {
        /// Up to 255 bytes, of any kind.
        user: Vec<u8>,
        /// Up to 255 bytes, of any kind.
        password: Vec<u8>,
    },
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("host", &self.host)
            .field("isolation", &self.isolation)
            .finish_non_exhaustive()
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

/// Why there is no connection. The client learns the reply code that stands behind each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// Code 1.
    #[error("the connection failed")]
    Failed,
    /// Code 2.
    #[error("the rules do not allow this destination")]
    NotAllowed,
    /// Code 3.
    #[error("the network is unreachable")]
    NetworkUnreachable,
    /// Code 4.
    #[error("the host is unreachable")]
    HostUnreachable,
    /// Code 5.
    #[error("the destination refused")]
    Refused,
    /// Code 6, whose name is "TTL expired"; clients show it as a time-out.
    #[error("the destination did not answer in time")]
    TimedOut,
    /// Code 8.
    #[error("this kind of address is not supported")]
    AddressNotSupported,
}

impl From<io::Error> for DialError {
    fn from(error: io::Error) -> DialError {
        match error.kind() {
            io::ErrorKind::PermissionDenied => DialError::NotAllowed,
            io::ErrorKind::NetworkUnreachable | io::ErrorKind::NetworkDown => DialError::NetworkUnreachable,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NotFound => DialError::HostUnreachable,
            io::ErrorKind::ConnectionRefused => DialError::Refused,
            io::ErrorKind::TimedOut => DialError::TimedOut,
            io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported => DialError::AddressNotSupported,
            _ => DialError::Failed,
        }
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
