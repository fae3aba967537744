//! SOCKS requests become connections to peers (PROTOCOL §8).
//!
//! Only full `.ap` names lead anywhere. Whatever else a program asks for is refused here with code 2 and resolved by
//! nobody, so that nothing of it leaves the machine. The log says why, and never which name.

use std::{io, net::IpAddr, sync::Arc};

use data_encoding::HEXLOWER;
use phantom_protocol::address::{ApName, BadName};
use phantom_protocol::identity::ApPublic;
use phantom_proxy::{Dial, DialError, Host, Isolation, Request};
use sha2::{Digest, Sha256};
use tracing::{info, warn};

use super::NodeHandle;

/// The group of programs that gave no credentials.
pub const DEFAULT_GROUP: &str = "default";

/// The dialler behind a node's SOCKS port.
#[derive(Debug)]
pub struct SocksDoor<N>(Arc<N>);

impl<N: NodeHandle> SocksDoor<N> {
    /// A dialler into the network of this node.
    pub fn new(node: Arc<N>) -> SocksDoor<N> {
        SocksDoor(node)
    }
}

impl<N: NodeHandle> Dial for SocksDoor<N> {
    type Connection = N::Stream;

    async fn dial(&self, request: Request) -> Result<N::Stream, DialError> {
        let peer = peer(&request.host)?;
        let connected = self.0.connect(&group(&request.isolation), peer, request.port).await;
        connected.map_err(|error| {
            info!("a SOCKS client was not connected: {error}");
            reason(&error)
        })
    }
}

/// The key that a destination names.
fn peer(host: &Host) -> Result<ApPublic, DialError> {
    match host {
        Host::Name(name) => match name.parse::<ApName>() {
            Ok(name) => Ok(*name.public()),
            Err(BadName::NotAp(_)) => {
                warn!("a SOCKS client asked for a name outside .ap: refused, this node leads nowhere else");
                Err(DialError::NotAllowed)
            }
            Err(_) => {
                warn!("a SOCKS client asked for a name in .ap that is mistyped or cut off");
                Err(DialError::HostUnreachable)
            }
        },
        Host::Ip(IpAddr::V6(address)) if is_ap_address(&address.octets()) => {
            warn!(
                "a SOCKS client asked for an AP address: use its full .ap name, an address cannot be looked up yet"
            );
            Err(DialError::HostUnreachable)
        }
        Host::Ip(_) => {
            warn!(
                "a SOCKS client asked for an IP address: refused, this node leads nowhere else. Does the client resolve \
                 names itself? (curl: --socks5-hostname)"
            );
            Err(DialError::NotAllowed)
        }
    }
}

fn is_ap_address(octets: &[u8; 16]) -> bool {
    matches!(octets, [0xfc, ..])
}

/// Names a group without holding its password.
fn group(isolation: &Isolation) -> String {
    match isolation {
        Isolation::Default => DEFAULT_GROUP.to_owned(),
        Isolation::Credentials { user, password } => {
            let mut hash = Sha256::new_with_prefix(b"phantom-socks-group");
            // With its length in front, no part of a name can be taken for a part of a password.
            hash.update((user.len() as u64).to_be_bytes());
            hash.update(user);
            hash.update(password);
            format!("socks:{}", HEXLOWER.encode(&hash.finalize()))
        }
    }
}

/// A connection that ended while it was opened, or a busy host, is a failure like any other.
fn reason(error: &io::Error) -> DialError {
    match error.kind() {
        io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported => DialError::Failed,
        _ => DialError::from(io::Error::from(error.kind())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(user: &[u8], password: &[u8]) -> Isolation {
        Isolation::Credentials { user: user.to_vec(), password: password.to_vec() }
    }

    #[test]
    fn what_is_not_ap_is_not_allowed() {
        for host in ["example.com", "localhost", "example.ap.com", "127.0.0.1", "::1", "fd00::1", "8.8.8.8"] {
            assert_eq!(peer(&Host::parse(host).unwrap()).err(), Some(DialError::NotAllowed), "{host}");
        }
    }

    #[test]
    fn a_mistyped_ap_name_is_an_unreachable_host() {
        for host in ["short.ap", ".ap", "ap", "fc00::1"] {
            assert_eq!(peer(&Host::parse(host).unwrap()).err(), Some(DialError::HostUnreachable), "{host}");
        }
    }

    #[test]
    fn every_pair_is_a_group_of_its_own() {
        let groups = [
            group(&Isolation::Default),
            group(&pair(b"", b"")),
            group(&pair(b"default", b"")),
            group(&pair(b"ab", b"c")),
            group(&pair(b"a", b"bc")),
        ];
        let different: std::collections::BTreeSet<_> = groups.iter().collect();
        assert_eq!(different.len(), groups.len());
        assert_eq!(group(&pair(b"ab", b"c")), groups[3]);
    }
}
