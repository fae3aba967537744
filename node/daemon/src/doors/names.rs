//! The names that local programs have asked for, by address.
//!
//! An AP address is a hash: nobody can find the party behind it. But a program that let somebody resolve a name knows only
//! the address from then on, so the node remembers whose it is, for the isolation group that has asked: another one must
//! not find out. Kept in memory alone, and no more than so many.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
};

use phantom_protocol::address::{ApAddress, ApName};

/// How many names are remembered, of all groups. One more takes the place of the oldest of the group that has most, so
/// that a group which asks for very many loses its own.
const MOST: usize = 4096;

/// Shared by all doors of a node.
#[derive(Debug, Default)]
pub struct Names(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    groups: BTreeMap<String, Group>,
    /// Names of all groups.
    count: usize,
    /// Counts every question.
    clock: u64,
}

#[derive(Debug, Default)]
struct Group {
    by_address: BTreeMap<ApAddress, Entry>,
    by_age: BTreeMap<u64, ApAddress>,
}

#[derive(Debug)]
struct Entry {
    name: ApName,
    /// When it was last asked for.
    asked: u64,
}

impl Names {
    /// Remembers a name for a group, and says its address.
    pub fn remember(&self, group: &str, name: ApName) -> Ipv6Addr {
        let address = ApAddress::of(name.public());
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(group, address, name);
        address.into()
    }

    /// The name of an address, if this group has asked for it.
    pub fn find(&self, group: &str, address: IpAddr) -> Option<ApName> {
        let IpAddr::V6(address) = address else { return None };
        let address = ApAddress::try_from(address).ok()?;
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.groups.get(group)?.by_address.get(&address).map(|entry| entry.name)
    }
}

impl Known {
    fn insert(&mut self, group: &str, address: ApAddress, name: ApName) {
        self.clock += 1;
        let group = self.groups.entry(group.to_owned()).or_default();
        let before = group.by_address.insert(address, Entry { name, asked: self.clock });
        group.by_age.insert(self.clock, address);
        match before {
            Some(before) => _ = group.by_age.remove(&before.asked),
            None => self.count += 1,
        }
        if self.count > MOST {
            self.forget_one();
        }
    }

    fn forget_one(&mut self) {
        let Some((name, group)) = self.groups.iter_mut().max_by_key(|(_, group)| group.by_age.len()) else {
            return;
        };
        if let Some((_, address)) = group.by_age.pop_first() {
            group.by_address.remove(&address);
            self.count -= 1;
        }
        if group.by_age.is_empty() {
            let name = name.clone();
            self.groups.remove(&name);
        }
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
        let first = names.remember("a", name(0));
        let second = names.remember("a", name(1));
        assert_eq!(names.find("a", first.into()), Some(name(0)));
        assert_eq!(names.find("a", "fc00::1".parse().unwrap()), None);
        for number in 2..=MOST as u64 {
            names.remember("a", name(1));
            names.remember("a", name(number));
        }
        assert_eq!(names.find("a", first.into()), None);
        assert_eq!(names.find("a", second.into()), Some(name(1)), "it was asked for again and again");
    }

    #[test]
    fn no_group_finds_out_what_another_has_asked_for() {
        let names = Names::default();
        let address = names.remember("a", name(0)).into();
        assert_eq!(names.find("b", address), None);
        names.remember("b", name(0));
        assert_eq!(names.find("b", address), Some(name(0)));
    }

    #[test]
    fn a_group_that_asks_for_very_many_loses_its_own() {
        let names = Names::default();
        let kept = names.remember("a", name(0)).into();
        for number in 0..2 * MOST as u64 {
            names.remember("b", name(number));
        }
        assert_eq!(names.find("a", kept), Some(name(0)));
        assert_eq!(names.0.lock().unwrap().count, MOST);
    }

    #[test]
    fn groups_of_one_name_each_are_bounded_too() {
        let names = Names::default();
        for number in 0..2 * MOST as u64 {
            names.remember(&number.to_string(), name(0));
        }
        assert_eq!(names.0.lock().unwrap().groups.len(), MOST);
    }
}
