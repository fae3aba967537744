//! The names that local programs have asked for, by address.
//!
//! An AP address is a hash: nobody can find the party behind it. But a program that let somebody resolve a name knows only
//! the address from then on, so the node remembers whose it is. Kept in memory alone, and no more than so many.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
};

use phantom_protocol::address::{ApAddress, ApName};

/// How many names are remembered. One more takes the place of the oldest.
const MOST: usize = 4096;

/// Shared by all doors of a node.
#[derive(Debug, Default)]
pub struct Names(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    by_address: BTreeMap<ApAddress, ApName>,
    oldest_first: VecDeque<ApAddress>,
}

impl Names {
    /// Remembers a name, and says its address.
    pub fn remember(&self, name: ApName) -> Ipv6Addr {
        let address = ApAddress::of(name.public());
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.by_address.insert(address, name).is_none() {
            known.oldest_first.push_back(address);
        }
        if known.oldest_first.len() > MOST {
            let oldest = known.oldest_first.pop_front();
            oldest.map(|oldest| known.by_address.remove(&oldest));
        }
        address.into()
    }

    /// The name of an address, if it was asked for here.
    pub fn find(&self, address: IpAddr) -> Option<ApName> {
        let IpAddr::V6(address) = address else { return None };
        let address = ApAddress::try_from(address).ok()?;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).by_address.get(&address).copied()
    }
}

#[cfg(test)]
mod tests {
    use phantom_protocol::identity::ApSecret;

    use super::*;

    fn name(number: u64) -> ApName {
        let mut seed = [7; 32];
        seed[..8].copy_from_slice(&number.to_be_bytes());
        ApName::of(&ApSecret::from_bytes(&seed).public())
    }

    #[test]
    fn an_address_leads_back_to_its_name_until_too_many_came_after() {
        let names = Names::default();
        let first = names.remember(name(0));
        let second = names.remember(name(1));
        assert_eq!(names.find(first.into()), Some(name(0)));
        assert_eq!(names.find("fc00::1".parse().unwrap()), None);
        for number in 2..=MOST as u64 {
            names.remember(name(1));
            names.remember(name(number));
        }
        assert_eq!(names.find(first.into()), None);
        assert_eq!(names.find(second.into()), Some(name(1)));
    }
}
