//! Requests of the proxy port become connections to peers (PROTOCOL §8).
//!
//! Only full `.ap` names lead anywhere, and the AP addresses and aliases of names that were asked for here before. Whatever else a
//! program asks for is refused as "not allowed" and resolved by nobody, so that nothing of it leaves the machine. The log
//! says why, and never which name.

use std::{io, net::IpAddr, sync::Arc};

use data_encoding::HEXLOWER;
use phantom_protocol::address::{ApName, BadName};
use phantom_proxy::{Datagrams, Dial, DialError, Host, Isolation, Request, ServiceError};
use sha2::{Digest, Sha256};
use tracing::{info, warn};

use super::{
    NodeHandle,
    datagrams::Association,
    held::Held,
    names::{Found, Names, is_of_names},
};
use crate::{
    hidden::Hidden,
    session::{OpenError, Refusal},
};

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
    type Connection = Held<N::Stream>;

    async fn dial(&self, request: Request) -> Result<Held<N::Stream>, DialError> {
        let group = group(&request.isolation);
        let Found { name, hold } = party(&request.host, &group, &self.names)?;
        match self.node.connect(&group, *name.public(), request.port).await {
            Ok(stream) => Ok(Held::new(stream, hold)),
            Err(error) => {
                info!("a program was not connected to {}: {error}", Hidden(&name));
                Err(reason(&error))
            }
        }
    }

    /// The alias, as every program that knows this command understands IPv4; without one, the AP address.
    async fn resolve(&self, request: Request) -> Result<IpAddr, DialError> {
        let group = group(&request.isolation);
        let Found { name, .. } = party(&request.host, &group, &self.names)?;
        let alias = self.names.alias(&group, name).map(IpAddr::V4);
        Ok(alias.unwrap_or_else(|| self.names.remember(&group, name).into()))
    }

    async fn reverse(&self, request: Request) -> Result<String, DialError> {
        Ok(party(&request.host, &group(&request.isolation), &self.names)?.name.to_string())
    }

    async fn associate(&self, isolation: Isolation) -> Result<Datagrams, DialError> {
        let (node, names, group) = (self.node.clone(), self.names.clone(), group(&isolation));
        Ok(Association { node, names, group }.start())
    }
}

/// Whom a destination names.
pub(super) fn party(host: &Host, group: &str, names: &Names) -> Result<Found, DialError> {
    match host {
        Host::Name(name) => match name.parse::<ApName>() {
            Ok(name) => Ok(name.into()),
            Err(BadName::NotAp(_)) => {
                let name = Hidden(name);
                warn!(
                    "a program asked for a name outside .ap ({name}): refused, this node leads nowhere else"
                );
                Err(DialError::NotAllowed)
            }
            Err(_) => {
                warn!("a program asked for a name in .ap that is mistyped or cut off: {}", Hidden(name));
                Err(ServiceError::BadName.into())
            }
        },
        Host::Ip(address) if is_of_names(*address) => names.find(group, *address).ok_or_else(|| {
            warn!(
                "a program asked for an address whose name its group has not asked for: use the full .ap name"
            );
            ServiceError::NotFound.into()
        }),
        Host::Ip(_) => {
            warn!(
                "a program asked for an IP address: refused, this node leads nowhere else. Does it resolve names \
                 itself? (curl: --socks5-hostname)"
            );
            Err(DialError::NotAllowed)
        }
    }
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
        party(&Host::parse(host).unwrap(), DEFAULT_GROUP, names).map(|found| found.name)
    }

    #[test]
    fn what_is_not_ap_is_not_allowed() {
        for host in [
            "example.com",
            "localhost",
            "example.ap.com",
            "127.0.0.1",
            "127.191.255.254",
            "::ffff:127.0.0.1",
            "::1",
            "fd00::1",
            "8.8.8.8",
            "::ffff:8.8.8.8",
        ] {
            assert_eq!(asked_for(host, &Names::default()), Err(DialError::NotAllowed), "{host}");
        }
    }

    #[test]
    fn a_mistyped_ap_name_and_an_unknown_address_lead_to_no_service() {
        for host in ["short.ap", ".ap", "ap"] {
            assert_eq!(asked_for(host, &Names::default()), Err(ServiceError::BadName.into()), "{host}");
        }
        for address in ["fc00::1", "127.192.3.4", "127.255.3.4", "::ffff:127.200.3.4"] {
            assert_eq!(
                asked_for(address, &Names::default()),
                Err(ServiceError::NotFound.into()),
                "{address}"
            );
        }
    }

    #[test]
    fn an_address_leads_where_its_name_does_once_that_was_asked_for() {
        let (names, name) = (Names::default(), ApName::of(&ApSecret::from_bytes(&[7; 32]).public()));
        assert_eq!(asked_for(&format!("www.{name}"), &names), Ok(name));
        let address = names.remember(DEFAULT_GROUP, name).to_string();
        assert_eq!(asked_for(&address, &names), Ok(name));
        let alias = names.alias(DEFAULT_GROUP, name).unwrap();
        assert_eq!(asked_for(&alias.to_string(), &names), Ok(name));
        assert_eq!(asked_for(&alias.to_ipv6_mapped().to_string(), &names), Ok(name));
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
