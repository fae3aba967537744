//! Why there is no stream: one enum from the far program to the look-up, each with a sentence for the user.

use std::io;

use quinn::ConnectionError;

use super::SpeakAs;

/// Why a tunnel could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Nobody has published this name.
    #[error("nobody in the network answers to this name; is it spelled right, and is its host running?")]
    NotFound,
    /// No routing path of ours is ready.
    #[error("no routing path is ready yet; try again in a moment")]
    NoPath,
    /// They were reached, and no host answered behind them in time.
    #[error("the entry nodes of this name were reached, but its host did not answer in time")]
    Silent,
    /// Entries are known and none could be reached.
    #[error("the entry nodes of this name cannot be reached")]
    Unreachable,
}

/// Why a stream was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nothing listens on that port there (ECONNREFUSED).
    #[error("the host is there, but nothing listens on this port")]
    Refused,
    /// The host's own target cannot be reached (EHOSTUNREACH).
    #[error("the host is there, but cannot reach the program behind this port")]
    HostUnreachable,
    /// The host's own target, or the host, did not answer in time (ETIMEDOUT).
    #[error("no answer in time")]
    TimedOut,
    /// The host does not let this client in (EACCES).
    #[error("the host does not let you in under this identity, or not to this")]
    NotAllowed,
    /// The host lets in only whom it knows, and the client showed nobody (EACCES).
    #[error(
        "the host serves only visitors that it knows. If it knows an identity of yours: phantom visit NAME.ap --as LABEL"
    )]
    KnownOnly,
    /// The host serves too many already (EAGAIN).
    #[error("the host is busy; try again later")]
    Busy,
    /// The host does not know this protocol (EPROTONOSUPPORT).
    #[error("the host does not serve this protocol")]
    ProtocolUnknown,
    /// The host failed in another way (EIO).
    #[error("the host has failed")]
    Failed,
    /// The host's own target has accepted, and reset at once. The stream is reset instead of answered.
    #[error("the program behind this port has reset the connection")]
    Reset,
    /// Who answered does not hold the key of this name.
    #[error("who answered is not the owner of this name")]
    NotAuthentic,
    /// The session ended while the stream was being opened.
    #[error("the connection to the host was lost")]
    SessionLost,
    /// There was no tunnel to the host.
    #[error(transparent)]
    NoTunnel(#[from] OpenError),
}

impl Refusal {
    /// The byte that answers an open request; 0 is "accepted".
    pub(super) fn code(self) -> u8 {
        match self {
            Refusal::Refused => 1,
            Refusal::HostUnreachable => 2,
            Refusal::TimedOut => 3,
            Refusal::NotAllowed | Refusal::KnownOnly => 4,
            Refusal::Busy => 5,
            Refusal::ProtocolUnknown => 6,
            Refusal::Failed
            | Refusal::Reset
            | Refusal::NotAuthentic
            | Refusal::SessionLost
            | Refusal::NoTunnel(_) => 7,
        }
    }

    /// The reason that an answer names; `None` is "accepted".
    pub(super) fn from_code(code: u8) -> Option<Refusal> {
        match code {
            0 => None,
            1 => Some(Refusal::Refused),
            2 => Some(Refusal::HostUnreachable),
            3 => Some(Refusal::TimedOut),
            4 => Some(Refusal::NotAllowed),
            5 => Some(Refusal::Busy),
            6 => Some(Refusal::ProtocolUnknown),
            _ => Some(Refusal::Failed),
        }
    }

    /// What a session that has ended says about why.
    pub(super) fn of_ended(why: Option<ConnectionError>) -> Refusal {
        let code = match why {
            Some(ConnectionError::ApplicationClosed(close)) => close.error_code.into_inner(),
            _ => 0,
        };
        let turned_away = [Refusal::NotAllowed, Refusal::Busy];
        let named = turned_away.into_iter().find(|refusal| u64::from(refusal.code()) == code);
        named.unwrap_or(Refusal::SessionLost)
    }

    /// What a host that does not let somebody in means to who speaks so.
    pub(crate) fn told_to(self, speaker: &SpeakAs) -> Refusal {
        match (self, speaker) {
            (Refusal::NotAllowed, SpeakAs::OneTime) => Refusal::KnownOnly,
            (refusal, _) => refusal,
        }
    }

    /// What a failed dial of a local target means to the client.
    pub(crate) fn of_dial(error: &io::Error) -> Refusal {
        match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => Refusal::Refused,
            io::ErrorKind::TimedOut => Refusal::TimedOut,
            io::ErrorKind::PermissionDenied => Refusal::NotAllowed,
            io::ErrorKind::WouldBlock => Refusal::Busy,
            io::ErrorKind::ConnectionReset => Refusal::Reset,
            io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::AddrNotAvailable => Refusal::HostUnreachable,
            _ => Refusal::Failed,
        }
    }
}

impl From<Refusal> for io::Error {
    fn from(refusal: Refusal) -> io::Error {
        let kind = match refusal {
            Refusal::Refused => io::ErrorKind::ConnectionRefused,
            Refusal::HostUnreachable | Refusal::NoTunnel(_) => io::ErrorKind::HostUnreachable,
            Refusal::TimedOut => io::ErrorKind::TimedOut,
            Refusal::NotAllowed | Refusal::KnownOnly | Refusal::NotAuthentic => {
                io::ErrorKind::PermissionDenied
            }
            Refusal::Busy => io::ErrorKind::WouldBlock,
            Refusal::ProtocolUnknown => io::ErrorKind::Unsupported,
            Refusal::Failed => io::ErrorKind::Other,
            Refusal::Reset | Refusal::SessionLost => io::ErrorKind::ConnectionReset,
        };
        io::Error::new(kind, refusal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_of_a_host_survives_the_wire() {
        for code in 0..=255 {
            let read = Refusal::from_code(code);
            assert_eq!(read.is_none(), code == 0);
            if let Some(refusal) = read {
                assert_eq!(Refusal::from_code(refusal.code()), Some(refusal));
            }
        }
    }
}
