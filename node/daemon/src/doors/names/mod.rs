//! The names that local programs have asked for, by address.
//!
//! An AP address is a hash, and a local alias is drawn at random: nobody can find the party behind either. But a program that
//! let somebody resolve a name knows only an address from then on, so the node remembers whose it is, for the isolation group
//! that has asked: another one must not find out. Kept in memory alone, and no more than so many.

mod aliases;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use phantom_protocol::address::{ApAddress, ApName, BadName};

use aliases::{Alias, Aliases};

/// How many names are remembered, of all groups. One more takes the place of the oldest of the group that has most, so
/// that a group which asks for very many loses its own.
const MOST: usize = 4096;

/// Shared by all doors of a node.
#[derive(Debug, Default)]
pub struct Names {
    known: Mutex<Known>,
    aliases: Arc<Aliases>,
}

#[derive(Debug, Default)]
struct Known {
    /// Labels that are names, as they were last read.
    by_label: HashMap<String, ApName>,
    groups: BTreeMap<String, Group>,
    /// Names of all groups.
    count: usize,
    /// Counts every question.
    clock: u64,
}

#[derive(Debug, Default)]
struct Group {
    by_address: BTreeMap<ApAddress, Entry>,
    by_alias: BTreeMap<Ipv4Addr, ApAddress>,
    by_age: BTreeMap<u64, ApAddress>,
}

#[derive(Debug)]
struct Entry {
    name: ApName,
    /// Given when somebody first wants it.
    alias: Option<Arc<Alias>>,
    /// When it was last asked for, or used.
    asked: u64,
}

/// Whose an address is.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its name.
    pub name: ApName,
    /// As long as this is kept, the alias stands for nobody else.
    pub hold: Hold,
}

/// Keeps an alias from being given to another party while a connection uses it.
#[derive(Clone, Debug, Default)]
pub struct Hold {
    _alias: Option<Arc<Alias>>,
}

/// Whether an address can be that of a name: an AP address, or in 127.192.0.0/10, which holds the aliases. No router knows
/// either.
pub(super) fn is_of_names(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => matches!(address.octets(), [127, second, _, _] if second >= 192),
        IpAddr::V6(address) => matches!(address.octets(), [0xfc, ..]),
    }
}

impl From<ApName> for Found {
    fn from(name: ApName) -> Found {
        Found { name, hold: Hold::default() }
    }
}

impl Names {
    /// Reads a host name in lower case. To find out whether a key is one costs more than all else about a question, so it is
    /// found out once.
    pub fn read(&self, host: &str) -> Result<ApName, BadName> {
        let label = host.strip_suffix(".ap").and_then(|labels| labels.rsplit('.').next());
        let known = label.and_then(|label| self.known().by_label.get(label).copied());
        if let Some(name) = known {
            return Ok(name);
        }
        let name = host.parse()?;
        if let Some(label) = label {
            let by_label = &mut self.known().by_label;
            if by_label.len() >= MOST {
                by_label.clear();
            }
            by_label.insert(label.to_owned(), name);
        }
        Ok(name)
    }

    /// Remembers a name for a group, and says its AP address.
    pub fn remember(&self, group: &str, name: ApName) -> Ipv6Addr {
        let address = ApAddress::of(name.public());
        self.known().insert(group, address, name);
        address.into()
    }

    /// Remembers a name for a group, and says its local alias: the same as long as it is remembered. Nothing if all aliases
    /// are taken.
    pub fn alias(&self, group: &str, name: ApName) -> Option<Ipv4Addr> {
        let address = ApAddress::of(name.public());
        let mut known = self.known();
        known.insert(group, address, name);
        let group = known.groups.get_mut(group)?;
        let entry = group.by_address.get_mut(&address)?;
        if let Some(alias) = &entry.alias {
            return Some(alias.address());
        }
        let alias = self.aliases.take()?;
        let given = alias.address();
        entry.alias = Some(Arc::new(alias));
        group.by_alias.insert(given, address);
        Some(given)
    }

    /// Whose an AP address or an alias is, if this group has asked for it.
    pub fn find(&self, group: &str, address: IpAddr) -> Option<Found> {
        let mut known = self.known();
        let of_group = known.groups.get(group)?;
        let address = match address.to_canonical() {
            IpAddr::V6(address) => ApAddress::try_from(address).ok()?,
            IpAddr::V4(alias) => *of_group.by_alias.get(&alias)?,
        };
        let entry = of_group.by_address.get(&address)?;
        let found = Found { name: entry.name, hold: Hold { _alias: entry.alias.clone() } };
        known.insert(group, address, found.name);
        Some(found)
    }

    /// Forgets the names of all groups: what is asked for again gets other aliases.
    pub fn forget(&self) {
        *self.known() = Known::default();
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Also what is there already becomes the youngest.
    fn insert(&mut self, group: &str, address: ApAddress, name: ApName) {
        self.clock += 1;
        let asked = self.clock;
        if !self.groups.contains_key(group) {
            self.groups.insert(group.to_owned(), Group::default());
        }
        let Some(group) = self.groups.get_mut(group) else { return };
        group.by_age.insert(asked, address);
        match group.by_address.get_mut(&address) {
            Some(entry) => {
                group.by_age.remove(&entry.asked);
                entry.asked = asked;
            }
            None => {
                group.by_address.insert(address, Entry { name, alias: None, asked });
                self.count += 1;
            }
        }
        if self.count > MOST {
            self.forget_one();
        }
    }

    fn forget_one(&mut self) {
        let oldest = |group: &Group| group.by_age.first_key_value().map(|(asked, _)| Reverse(*asked));
        let fullest = self.groups.iter_mut().max_by_key(|(_, group)| (group.by_age.len(), oldest(group)));
        let Some((name, group)) = fullest else { return };
        if let Some((_, address)) = group.by_age.pop_first() {
            let alias = group.by_address.remove(&address).and_then(|entry| entry.alias);
            if let Some(alias) = alias {
                group.by_alias.remove(&alias.address());
            }
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
    use std::collections::BTreeSet;

    use phantom_protocol::identity::ApSecret;

    use super::*;

    fn name(number: u64) -> ApName {
        let mut seed = [7; 32];
        seed[..8].copy_from_slice(&number.to_be_bytes());
        ApName::of(&ApSecret::from_bytes(&seed).public())
    }

    fn found(names: &Names, group: &str, address: impl Into<IpAddr>) -> Option<ApName> {
        names.find(group, address.into()).map(|found| found.name)
    }

    #[test]
    fn an_address_leads_back_to_its_name_until_too_many_came_after() {
        let names = Names::default();
        let first = names.remember("a", name(0));
        let second = names.remember("a", name(1));
        assert_eq!(found(&names, "a", first), Some(name(0)));
        assert_eq!(found(&names, "a", "fc00::1".parse::<Ipv6Addr>().unwrap()), None);
        for number in 2..=MOST as u64 {
            names.remember("a", name(1));
            names.remember("a", name(number));
        }
        assert_eq!(found(&names, "a", first), None);
        assert_eq!(found(&names, "a", second), Some(name(1)), "it was asked for again and again");
    }

    #[test]
    fn a_name_is_read_the_same_again_and_again() {
        let names = Names::default();
        for number in 0..=MOST as u64 {
            let text = name(number).to_string();
            for host in [text.clone(), format!("www.{text}")] {
                assert_eq!(names.read(&host), Ok(name(number)));
            }
        }
        assert!(names.known().by_label.len() <= MOST);
        let text = name(0).to_string();
        for wrong in [
            text.replace(".ap", ".app"),
            text.replace(".ap", ""),
            format!("{text}.ap"),
            "ap".into(),
            ".ap".into(),
        ] {
            assert!(names.read(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_alias_stays_with_its_name_and_leads_back_to_it_in_both_spellings() {
        let names = Names::default();
        let (first, second) = (names.alias("a", name(0)).unwrap(), names.alias("a", name(1)).unwrap());
        assert_ne!(first, second);
        assert_eq!(names.alias("a", name(0)), Some(first));
        assert_eq!(found(&names, "a", first), Some(name(0)));
        assert_eq!(found(&names, "a", first.to_ipv6_mapped()), Some(name(0)));
        assert_eq!(found(&names, "a", Ipv4Addr::LOCALHOST), None);
    }

    #[test]
    fn no_group_finds_out_what_another_has_asked_for() {
        let names = Names::default();
        let (address, alias) = (names.remember("a", name(0)), names.alias("a", name(0)).unwrap());
        assert_eq!(found(&names, "b", address), None);
        let other = names.alias("b", name(0)).unwrap();
        assert_eq!(found(&names, "b", address), Some(name(0)));
        assert_ne!(other, alias, "one party, two groups");
        assert_eq!((found(&names, "b", alias), found(&names, "a", other)), (None, None));
    }

    #[test]
    fn a_group_that_asks_for_very_many_loses_its_own() {
        let names = Names::default();
        let kept = names.alias("a", name(0)).unwrap();
        for number in 0..2 * MOST as u64 {
            names.alias("b", name(number));
        }
        assert_eq!(found(&names, "a", kept), Some(name(0)));
        let known = names.known();
        assert_eq!((known.count, known.groups["b"].by_alias.len()), (MOST, MOST - 1));
    }

    #[test]
    fn groups_of_one_name_each_are_bounded_too() {
        let names = Names::default();
        for number in 0..2 * MOST as u64 {
            names.remember(&number.to_string(), name(0));
        }
        assert_eq!(names.known().groups.len(), MOST);
    }

    #[test]
    fn a_new_identity_shares_no_alias_with_the_old_one() {
        let names = Names::default();
        let before: BTreeSet<_> = (0..64).map(|number| names.alias("a", name(number)).unwrap()).collect();
        names.forget();
        assert!(before.iter().all(|alias| found(&names, "a", *alias).is_none()));
        assert!((0..64).all(|number| !before.contains(&names.alias("a", name(number)).unwrap())));
    }

    #[test]
    fn an_alias_that_is_used_is_not_free_even_when_its_name_is_forgotten() {
        let names = Names::default();
        let alias = names.alias("a", name(0)).unwrap();
        let connection = names.find("a", alias.into()).unwrap().hold;
        names.forget();
        assert_eq!(Arc::strong_count(connection._alias.as_ref().unwrap()), 1);
        assert_eq!(connection._alias.as_ref().unwrap().address(), alias);
    }
}
