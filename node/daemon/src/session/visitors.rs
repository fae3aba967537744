//! The visitors of a service, and from which local address each of them comes (PROTOCOL §8).
//!
//! A visitor shows nothing but the key that it speaks as. For local servers that becomes an address of 127.224.0.0/11,
//! the same for all that comes from one key, so that their logs, limits and bans can tell visitors apart. It depends on
//! a secret of the service: nobody can choose a key that takes another's address, and two services do not see the same.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use phantom_protocol::{
    crypto::Key,
    identity::{ApPublic, ApSecret},
};

use super::Caller;

/// Sessions of one visitor with one identity: it needs one for each isolation group that comes under a kept identity, and
/// one more while another dies.
const SESSIONS_PER_PEER: usize = 16;
/// 127.224.0.0/11. The other half of 127.192.0.0/10 is for the aliases of names, so no address means two parties.
const NET: u32 = 0x7fe0_0000;
const HOST_BITS: u32 = 0x001f_ffff;

/// Who is there.
pub(super) struct Visitors {
    key: Key,
    present: Mutex<Present>,
}

#[derive(Default)]
struct Present {
    by_key: BTreeMap<ApPublic, Known>,
    aliases: BTreeSet<Ipv4Addr>,
}

struct Known {
    sessions: usize,
    alias: Ipv4Addr,
}

impl Visitors {
    /// Of the service that answers for `own`.
    pub(super) fn new(own: &ApSecret) -> Visitors {
        let key = Key::copy_of(&own.to_bytes()).derive(&[b"visitor alias"]);
        Visitors { key, present: Mutex::default() }
    }

    /// One more session of this visitor, until what is returned is dropped. Nothing if it has too many.
    pub(super) fn enter(self: &Arc<Self>, client: ApPublic) -> Option<Visiting> {
        let mut present = self.present();
        let Present { by_key, aliases } = &mut *present;
        let visitor = by_key.entry(client).or_insert_with(|| {
            let alias = self.free_alias(&client, aliases);
            aliases.insert(alias);
            Known { sessions: 0, alias }
        });
        if visitor.sessions >= SESSIONS_PER_PEER {
            return None;
        }
        visitor.sessions += 1;
        Some(Visiting { visitors: self.clone(), visitor: Visitor { client, alias: visitor.alias } })
    }

    /// The first of this visitor's addresses that nobody else has now: it is nearly always the first.
    fn free_alias(&self, client: &ApPublic, taken: &BTreeSet<Ipv4Addr>) -> Ipv4Addr {
        let aliases = (0_u32..).map(|attempt| self.alias(client, attempt));
        // There are a thousand times as many addresses as visitors, so one is found.
        aliases.flatten().find(|alias| !taken.contains(alias)).unwrap_or(Ipv4Addr::LOCALHOST)
    }

    /// Some programs take the first and the last address of a network for no host's.
    fn alias(&self, client: &ApPublic, attempt: u32) -> Option<Ipv4Addr> {
        let derived = self.key.derive(&[client.as_bytes(), &attempt.to_be_bytes()]);
        let [a, b, c, d, ..] = *derived.as_bytes();
        let alias = Ipv4Addr::from(NET | (u32::from_be_bytes([a, b, c, d]) & HOST_BITS));
        (!matches!(alias.octets(), [.., 0 | 255])).then_some(alias)
    }

    fn present(&self) -> MutexGuard<'_, Present> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One session of a visitor.
pub(super) struct Visiting {
    visitors: Arc<Visitors>,
    visitor: Visitor,
}

impl Visiting {
    /// Whose it is.
    pub(super) fn visitor(&self) -> Visitor {
        self.visitor
    }
}

impl Drop for Visiting {
    fn drop(&mut self) {
        let mut present = self.visitors.present();
        let Some(known) = present.by_key.get_mut(&self.visitor.client) else { return };
        known.sessions -= 1;
        if known.sessions == 0 {
            present.by_key.remove(&self.visitor.client);
            present.aliases.remove(&self.visitor.alias);
        }
    }
}

/// Who has come.
#[derive(Clone, Copy)]
pub(super) struct Visitor {
    client: ApPublic,
    alias: Ipv4Addr,
}

impl Visitor {
    /// The key that it speaks as.
    pub(super) fn client(&self) -> &ApPublic {
        &self.client
    }

    /// Who it is to a server.
    pub(super) fn caller(&self) -> Caller {
        Caller { party: self.client, alias: self.alias }
    }

    /// Where connections to `target` come from, if this machine can choose that: only its own loopback network has
    /// addresses for everybody.
    pub(super) fn source(&self, target: SocketAddr) -> Option<SocketAddr> {
        match target.ip() {
            IpAddr::V4(address) if address.is_loopback() => Some((self.alias, 0).into()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(number: u8) -> Arc<Visitors> {
        Arc::new(Visitors::new(&ApSecret::from_bytes(&[number; 32])))
    }

    fn client(number: u64) -> ApPublic {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&number.to_be_bytes());
        ApSecret::from_bytes(&seed).public()
    }

    #[test]
    fn a_visitor_comes_from_one_address_whenever_it_comes() {
        let of = |service: &Arc<Visitors>, number| service.enter(client(number)).unwrap().visitor.alias;
        let visitors = service(1);
        let first = of(&visitors, 1);
        let _another = visitors.enter(client(2)).unwrap();
        assert_eq!(of(&visitors, 1), first);
        assert_eq!(of(&service(1), 1), first, "also after a restart");
        assert_ne!(of(&visitors, 2), first);
        assert_ne!(of(&service(2), 1), first, "another service sees another address");
    }

    #[test]
    fn no_two_visitors_have_the_same_address_at_once() {
        let visitors = service(1);
        let all: Vec<_> = (0..2_048).map(|number| visitors.enter(client(number)).unwrap()).collect();
        let aliases: BTreeSet<_> = all.iter().map(|visiting| visiting.visitor.alias).collect();
        assert_eq!(aliases.len(), all.len());
        for alias in aliases {
            let [a, b, _, d] = alias.octets();
            assert!(a == 127 && b >= 224 && d != 0 && d != 255, "{alias}");
        }
    }

    #[test]
    fn an_address_that_is_taken_is_left_to_who_has_it() {
        let visitors = service(1);
        let wanted = visitors.enter(client(1)).unwrap().visitor.alias;
        visitors.present().aliases.insert(wanted);
        assert_ne!(visitors.enter(client(1)).unwrap().visitor.alias, wanted);
    }

    #[test]
    fn one_visitor_has_few_sessions_and_who_has_left_leaves_nothing() {
        let visitors = service(1);
        let all: Vec<_> = (0..SESSIONS_PER_PEER).map(|_| visitors.enter(client(1)).unwrap()).collect();
        assert!(visitors.enter(client(1)).is_none());
        assert!(all.iter().all(|visiting| visiting.visitor.alias == all[0].visitor.alias));
        drop(all);
        let present = visitors.present();
        assert!(present.by_key.is_empty() && present.aliases.is_empty());
    }

    #[test]
    fn only_targets_of_the_loopback_network_are_reached_from_an_alias() {
        let visiting = service(1).enter(client(1)).unwrap();
        let source = |target: &str| visiting.visitor.source(target.parse().unwrap());
        for near in ["127.0.0.1:80", "127.3.2.1:80"] {
            assert_eq!(source(near), Some((visiting.visitor.alias, 0).into()), "{near}");
        }
        for other in ["192.168.1.7:80", "[::1]:80", "[fd00::1]:80", "[::ffff:192.168.1.7]:80"] {
            assert_eq!(source(other), None, "{other}");
        }
    }
}
