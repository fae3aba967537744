//! Requests of the proxy port become connections to peers (PROTOCOL §8).
//!
//! Only full `.ap` names lead anywhere, and the AP addresses of names that were asked for here before. Whatever else a
//! program asks for is refused as "not allowed" and resolved by nobody, so that nothing of it leaves the machine. The log
//! says why, and never which name.

use std::{io, net::IpAddr, sync::Arc};

use data_encoding::HEXLOWER;
use phantom_protocol::address::{ApName, BadName};
use phantom_proxy::{Datagrams, Dial, DialError, Host, Isolation, Request, ServiceError};
use sha2::{Digest, Sha256};
use tracing::{info, warn};

use super::{Names, NodeHandle, datagrams::Association};
use crate::session::{OpenError, Refusal};

/// The group of programs that gave no credentials.
pub const DEFAULT_GROUP: &str = "default";

/// The dialler behind a node's proxy port.
#[derive(Debug)]
pub struct SocksDoor<N> {
    node: Arc<N>,
    names: Arc<Names>,
}

impl<N: NodeHandle> SocksDoor<N> {
    /// A dialler into the network of this node.
    pub fn new(node: Arc<N>, names: Arc<Names>) -> SocksDoor<N> {
        SocksDoor { node, names }
    }
}

impl<N: NodeHandle> Dial for SocksDoor<N> {
    type Connection = N::Stream;

    async fn dial(&self, request: Request) -> Result<N::Stream, DialError> {
        let group = group(&request.isolation);
        let name = party(&request.host, &group, &self.names)?;
        let connected = self.node.connect(&group, *name.public(), request.port).await;
        connected.map_err(|error| {
            info!("a program was not connected: {error}");
            reason(&error)
        })
    }

    async fn resolve(&self, request: Request) -> Result<IpAddr, DialError> {
        let group = group(&request.isolation);
        let name = party(&request.host, &group, &self.names)?;
        Ok(self.names.remember(&group, name).into())
    }

    async fn reverse(&self, request: Request) -> Result<String, DialError> {
        Ok(party(&request.host, &group(&request.isolation), &self.names)?.to_string())
    }

    async fn associate(&self, isolation: Isolation) -> Result<Datagrams, DialError> {
        let (node, names, group) = (self.node.clone(), self.names.clone(), group(&isolation));
        Ok(Association { node, names, group }.start())
    }
}

/// Whom a destination names.
pub(super) fn party(host: &Host, group: &str, names: &Names) -> Result<ApName, DialError> {
    match host {
        Host::Name(name) => match name.parse::<ApName>() {
            Ok(name) => Ok(name),
            Err(BadName::NotAp(_)) => {
                warn!("a program asked for a name outside .ap: refused, this node leads nowhere else");
                Err(DialError::NotAllowed)
            }
            Err(_) => {
                warn!("a program asked for a name in .ap that is mistyped or cut off");
                Err(ServiceError::BadName.into())
            }
        },
        Host::Ip(IpAddr::V6(address)) if is_ap_address(&address.octets()) => {
            names.find(group, (*address).into()).ok_or_else(|| {
                warn!("a program asked for an AP address whose name its group has not asked for: use the full .ap name");
                ServiceError::NotFound.into()
            })
        }
        Host::Ip(_) => {
            warn!(
                "a program asked for an IP address: refused, this node leads nowhere else. Does it resolve names \
                 itself? (curl: --socks5-hostname)"
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
    let refusal = error.get_ref().and_then(|inner| inner.downcast_ref());
    match (refusal, error.kind()) {
        (Some(Refusal::NoTunnel(OpenError::NotFound)), _) => ServiceError::NotFound.into(),
        (Some(Refusal::NoTunnel(OpenError::Unreachable)), _) => ServiceError::IntroductionFailed.into(),
        (Some(Refusal::KnownOnly), _) => ServiceError::AuthorizationMissing.into(),
        (Some(Refusal::NotAllowed), _) => ServiceError::AuthorizationWrong.into(),
        (_, io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported) => DialError::Failed,
        (_, kind) => DialError::from(io::Error::from(kind)),
    }
}

#[cfg(test)]
mod tests {
    use phantom_protocol::identity::ApSecret;

    use super::*;

    fn pair(user: &[u8], password: &[u8]) -> Isolation {
        Isolation::Credentials { user: user.to_vec(), password: password.to_vec() }
    }

    fn asked_for(host: &str, names: &Names) -> Result<ApName, DialError> {
        party(&Host::parse(host).unwrap(), DEFAULT_GROUP, names)
    }

    #[test]
    fn what_is_not_ap_is_not_allowed() {
        for host in ["example.com", "localhost", "example.ap.com", "127.0.0.1", "::1", "fd00::1", "8.8.8.8"] {
            assert_eq!(asked_for(host, &Names::default()), Err(DialError::NotAllowed), "{host}");
        }
    }

    #[test]
    fn a_mistyped_ap_name_and_an_unknown_address_lead_to_no_service() {
        for host in ["short.ap", ".ap", "ap"] {
            assert_eq!(asked_for(host, &Names::default()), Err(ServiceError::BadName.into()), "{host}");
        }
        assert_eq!(asked_for("fc00::1", &Names::default()), Err(ServiceError::NotFound.into()));
    }

    #[test]
    fn an_address_leads_where_its_name_does_once_that_was_asked_for() {
        let (names, name) = (Names::default(), ApName::of(&ApSecret::from_bytes(&[7; 32]).public()));
        assert_eq!(asked_for(&format!("www.{name}"), &names), Ok(name));
        let address = names.remember(DEFAULT_GROUP, name).to_string();
        assert_eq!(asked_for(&address, &names), Ok(name));
    }

    #[test]
    fn what_is_known_about_a_service_is_told() {
        let told = |refusal: Refusal| reason(&refusal.into());
        assert_eq!(told(OpenError::NotFound.into()), ServiceError::NotFound.into());
        assert_eq!(told(OpenError::Unreachable.into()), ServiceError::IntroductionFailed.into());
        assert_eq!(told(Refusal::Refused), DialError::Refused);
        assert_eq!(told(Refusal::KnownOnly), ServiceError::AuthorizationMissing.into());
        assert_eq!(told(Refusal::NotAllowed), ServiceError::AuthorizationWrong.into());
        assert_eq!(told(Refusal::ProtocolUnknown), DialError::Failed);
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
