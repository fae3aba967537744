//! Requests of the proxy port become connections to peers (PROTOCOL §8).
//!
//! Full `.ap` names lead somewhere, and the AP addresses and aliases of names that were asked for here before. What is outside
//! goes to the out-proxy that the user names, in sessions like all others; without one it is refused as "not allowed". Nothing
//! is resolved here, and nothing goes out past the network. The log says why, and never which name.

use std::{io, net::IpAddr, sync::Arc};

use data_encoding::HEXLOWER;
use phantom_protocol::{
    address::{ApName, BadName},
    wire::outward::{NotOutside, Outside},
};
use phantom_proxy::{
    Accepted, Datagrams, Dial, DialError, Host, Isolation, Listening, Request, ServiceError,
};
use sha2::{Digest, Sha256};
use tracing::{info, warn};

use super::{
    Awaited, NodeHandle,
    datagrams::Association,
    held::Held,
    names::{Found, Hold, Names, is_of_names},
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

impl<N: NodeHandle> SocksDoor<N> {
    /// What goes out by the out-proxy; nothing if there is none, or it is for [`party`] to say.
    fn outside(&self, host: &Host) -> Result<Option<Outside>, DialError> {
        if self.node.out_proxy().is_none() {
            return Ok(None);
        }
        outside(host).map_err(|why| {
            warn!("a program asked for something that no out-proxy leads to: {why}");
            DialError::NotAllowed
        })
    }
}

impl<N: NodeHandle> Dial for SocksDoor<N> {
    type Connection = Held<N::Stream>;

    async fn dial(&self, request: Request) -> Result<Held<N::Stream>, DialError> {
        let group = group(&request.isolation);
        if let Some(outside) = self.outside(&request.host)? {
            return match self.node.go_out(&group, outside, request.port).await {
                Ok(stream) => Ok(Held::new(stream, Hold::default())),
                Err(error) => {
                    info!("a program was not connected to the Internet: {error}");
                    Err(reason_outside(&error))
                }
            };
        }
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
        if self.outside(&request.host)?.is_some() {
            info!(
                "a program asked for the address of a name outside .ap: the out-proxy resolves it when it connects"
            );
            return Err(DialError::CommandNotSupported);
        }
        let group = group(&request.isolation);
        let Found { name, .. } = party(&request.host, &group, &self.names)?;
        let alias = self.names.alias(&group, name).map(IpAddr::V4);
        Ok(alias.unwrap_or_else(|| self.names.remember(&group, name).into()))
    }

    async fn reverse(&self, request: Request) -> Result<String, DialError> {
        Ok(party(&request.host, &group(&request.isolation), &self.names)?.name.to_string())
    }

    /// What is answered is a name, for nobody finds a party by its address alone; who asked with an IPv6 address gets
    /// addresses, whose names its group may ask for.
    async fn listen(&self, request: Request) -> Result<Listening<Self::Connection>, DialError> {
        let group = group(&request.isolation);
        let from = match request.host {
            Host::Ip(address) if address.is_unspecified() => None,
            ref host => Some(party(host, &group, &self.names)?.name.public().address()),
        };
        let waiting = self.node.meet(&group, from, request.port).await;
        let Awaited { name, port, came } = waiting.map_err(|error| {
            info!("no visitor is awaited for a program: {error}");
            reason(&error)
        })?;
        let names = self.names.clone();
        let shown = move |name: ApName| match request.host {
            Host::Ip(IpAddr::V6(_)) => Host::Ip(names.remember(&group, name).into()),
            _ => Host::Name(name.to_string()),
        };
        let host = shown(name);
        let accepted = Box::pin(async move {
            let (stream, visitor) = came.await.map_err(|error| reason(&error))?;
            Ok(Accepted { connection: Held::new(stream, Hold::default()), host: shown(visitor), port: 0 })
        });
        Ok(Listening { host, port, accepted })
    }

    async fn associate(&self, isolation: Isolation) -> Result<Datagrams, DialError> {
        let (node, names, group) = (self.node.clone(), self.names.clone(), group(&isolation));
        Ok(Association { node, names, group }.start())
    }
}

/// Where a destination is outside the network; nothing if it is inside, or no public address.
fn outside(host: &Host) -> Result<Option<Outside>, NotOutside> {
    match host {
        Host::Name(name) if ApName::is_ap(name) => Ok(None),
        Host::Name(name) => Outside::name(name).map(Some),
        Host::Ip(address) => Ok(Outside::address(*address).ok()),
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
pub(super) fn group(isolation: &Isolation) -> String {
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

/// Why a service was not reached. A connection that ended while it was opened, or a busy host, is a failure like any other.
pub(super) fn reason(error: &io::Error) -> DialError {
    let Some(refusal) = refusal(error) else { return io::Error::from(error.kind()).into() };
    match refusal {
        Refusal::Refused => DialError::Refused,
        Refusal::HostUnreachable => DialError::HostUnreachable,
        Refusal::TimedOut => DialError::TimedOut,
        Refusal::NotAllowed => ServiceError::AuthorizationWrong.into(),
        Refusal::KnownOnly => ServiceError::AuthorizationMissing.into(),
        Refusal::NotAuthentic => ServiceError::RendezvousFailed.into(),
        Refusal::NoTunnel(OpenError::NotFound) => ServiceError::NotFound.into(),
        Refusal::NoTunnel(OpenError::Unreachable) => ServiceError::IntroductionFailed.into(),
        Refusal::NoTunnel(OpenError::Silent) => ServiceError::IntroductionTimedOut.into(),
        // The fault is on this side: no host is to blame.
        Refusal::NoTunnel(OpenError::NoPath) => DialError::NetworkUnreachable,
        Refusal::Busy
        | Refusal::ProtocolUnknown
        | Refusal::Failed
        | Refusal::Reset
        | Refusal::SessionLost => DialError::Failed,
    }
}

/// Why somebody outside the network was not reached. What is wrong with the out-proxy is wrong with the way there.
fn reason_outside(error: &io::Error) -> DialError {
    match refusal(error) {
        Some(Refusal::NotAllowed) => DialError::NotAllowed,
        Some(Refusal::ProtocolUnknown | Refusal::NotAuthentic | Refusal::NoTunnel(_)) => {
            DialError::NetworkUnreachable
        }
        _ => reason(error),
    }
}

fn refusal(error: &io::Error) -> Option<&Refusal> {
    error.get_ref()?.downcast_ref()
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
        assert_eq!(told(OpenError::Silent.into()), ServiceError::IntroductionTimedOut.into());
        assert_eq!(told(OpenError::NoPath.into()), DialError::NetworkUnreachable);
    }

    #[test]
    fn who_goes_out_is_told_about_the_way_and_the_far_end_and_nothing_about_services() {
        let told = |refusal: Refusal| reason_outside(&refusal.into());
        for broken in [
            OpenError::NotFound.into(),
            OpenError::Silent.into(),
            Refusal::ProtocolUnknown,
            Refusal::NotAuthentic,
        ] {
            assert_eq!(told(broken), DialError::NetworkUnreachable, "{broken}");
        }
        assert_eq!(told(Refusal::NotAllowed), DialError::NotAllowed);
        assert_eq!(told(Refusal::Refused), DialError::Refused);
        assert_eq!(told(Refusal::HostUnreachable), DialError::HostUnreachable);
        assert_eq!(told(Refusal::TimedOut), DialError::TimedOut);
    }

    #[test]
    fn what_is_in_the_network_or_near_never_goes_out() {
        let name = ApName::of(&ApSecret::from_bytes(&[7; 32]).public()).to_string();
        let out = |host: &str| outside(&Host::parse(host).unwrap());
        for host in ["example.com", "EXAMPLE.com.", "9.9.9.9", "::ffff:9.9.9.9", "[2620:fe::fe]"] {
            assert!(matches!(out(host), Ok(Some(_))), "{host}");
        }
        for host in [
            &name,
            "short.ap",
            "x.AP.",
            "fc00::1",
            "127.200.3.4",
            "127.0.0.1",
            "10.0.0.1",
            "::1",
            "::ffff:10.0.0.1",
        ] {
            assert_eq!(out(host), Ok(None), "{host}");
        }
        for host in ["localhost", "printer", "a.local", "x.onion", "x.i2p", "127.1", "a..com"] {
            assert!(out(host).is_err(), "{host}");
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
