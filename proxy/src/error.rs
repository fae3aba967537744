//! Why a dialler says no. How each protocol says it stands with the protocol.

use std::io;

/// Why there is no connection, or no answer.
///
/// The SOCKS5 code stands behind each. HTTP says 403 for codes 2, 404 for 4, 501 for 7, 504 for 6, and 502 for all others;
/// SOCKS4 has one code for all.
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
    /// Code 7: what a dialler answers that does not serve this command.
    #[error("this command is not supported")]
    CommandNotSupported,
    /// Code 8.
    #[error("this kind of address is not supported")]
    AddressNotSupported,
    /// Of a hidden service: a code of its own for clients that know those, see [`crate::Config::extended_errors`].
    #[error(transparent)]
    Service(#[from] ServiceError),
}

/// Why a hidden service cannot be reached: Tor's extended errors, which browsers made for Tor explain to their users.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServiceError {
    /// Code F0; otherwise 4.
    #[error("nobody answers to this name")]
    NotFound,
    /// Code F1; otherwise 4.
    #[error("what is published under this name is not valid")]
    Invalid,
    /// Code F2; otherwise 4.
    #[error("the ways in to the service do not work")]
    IntroductionFailed,
    /// Code F3; otherwise 4.
    #[error("the service could not be met")]
    RendezvousFailed,
    /// Code F4; otherwise 2.
    #[error("the service serves only those whom it knows")]
    AuthorizationMissing,
    /// Code F5; otherwise 2.
    #[error("the service does not accept these credentials")]
    AuthorizationWrong,
    /// Code F6; otherwise 4.
    #[error("the name is mistyped or cut off")]
    BadName,
    /// Code F7; otherwise 6.
    #[error("the ways in to the service did not answer in time")]
    IntroductionTimedOut,
}

impl DialError {
    /// The error that every client knows.
    pub(crate) fn plain(self) -> DialError {
        match self {
            DialError::Service(error) => match error {
                ServiceError::AuthorizationMissing | ServiceError::AuthorizationWrong => {
                    DialError::NotAllowed
                }
                ServiceError::IntroductionTimedOut => DialError::TimedOut,
                _ => DialError::HostUnreachable,
            },
            plain => plain,
        }
    }
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
