//! How a proxy behaves. The default is right for the programs of one machine.

use std::{fmt, time::Duration};

use subtle::ConstantTimeEq;

use crate::{Isolation, Pac};

/// What a proxy does and for whom.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// How much at once, and for how long.
    pub limits: Limits,
    /// Who may use it.
    pub access: Access,
    /// SOCKS5 clients get Tor's codes F0 to F7 for hidden services. Others than those made for Tor may not know them.
    pub extended_errors: bool,
    /// What `GET /proxy.pac` answers, if anything.
    pub pac: Option<Pac>,
}

/// How many clients a proxy serves and how long it waits for them.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Clients that are connected or being connected. One more is refused.
    pub clients: usize,
    /// Those of one isolation group. One more is refused.
    pub group: usize,
    /// Clients that have not finished their handshake. One more takes the place of the oldest.
    pub handshakes: usize,
    /// The time for a whole handshake.
    pub handshake: Duration,
    /// The time for dialling, if the dialler itself does not give up.
    pub dial: Duration,
    /// The time for somebody to come, if the dialler itself does not give up (BIND).
    pub accept: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            clients: 8192,
            group: 4096,
            handshakes: 512,
            handshake: Duration::from_secs(10),
            dial: Duration::from_secs(120),
            accept: Duration::from_secs(600),
        }
    }
}

/// Who may use a proxy.
#[derive(Clone, Debug, Default)]
pub enum Access {
    /// The programs of this machine: only a loopback address is listened on. Every pair of user and password is welcome
    /// and names an isolation group.
    #[default]
    Local,
    /// Whoever reaches the port and knows the password; the user name alone is the group. Nothing is encrypted. SOCKS4,
    /// which has no password, is refused.
    Remote(Password),
}

/// The password of a proxy for other machines.
#[derive(Clone)]
pub struct Password(Vec<u8>);

impl Password {
    /// Nothing if it is shorter than 8 bytes, or longer than the 255 that SOCKS5 can carry.
    pub fn new(password: impl Into<Vec<u8>>) -> Option<Password> {
        let password = password.into();
        (8..=255).contains(&password.len()).then_some(Password(password))
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(hidden)")
    }
}

/// User and password, as a client gave them.
pub(crate) struct Pair {
    pub(crate) user: Vec<u8>,
    pub(crate) password: Vec<u8>,
}

impl Access {
    /// The group of a client; nothing if it may not come in.
    pub(crate) fn admit(&self, pair: Option<Pair>) -> Option<Isolation> {
        match (self, pair) {
            (Access::Local, None) => Some(Isolation::Default),
            (Access::Local, Some(Pair { user, password })) => Some(Isolation::Credentials { user, password }),
            (Access::Remote(_), None) => None,
            (Access::Remote(Password(wanted)), Some(Pair { user, password })) => {
                let known = bool::from(wanted.ct_eq(&password));
                known.then_some(Isolation::Credentials { user, password: Vec::new() })
            }
        }
    }
}
