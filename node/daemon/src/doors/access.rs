//! Who may visit a published port (PROTOCOL §8): everybody, or those who prove that they are one of a list.

use std::{collections::BTreeSet, fmt, net::Ipv6Addr, str::FromStr};

use phantom_protocol::{
    address::{ApAddress, ApName, BadName, NotApAddress},
    identity::ApPublic,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// Visitors of one port.
pub const MOST: usize = 1_000;

/// Who may come in. The usual one lets everybody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessList(Option<BTreeSet<ApAddress>>);

impl AccessList {
    /// Lets in whoever is named; everybody if nobody is, or why there cannot be such a list.
    pub fn of(visitors: impl IntoIterator<Item = Visitor>) -> Result<AccessList, TooMany> {
        let known: BTreeSet<_> = visitors.into_iter().map(|visitor| visitor.0).collect();
        match known.len() {
            0 => Ok(AccessList(None)),
            1..=MOST => Ok(AccessList(Some(known))),
            _ => Err(TooMany),
        }
    }

    /// Whether this visitor may come in.
    pub fn admits(&self, visitor: &ApPublic) -> bool {
        self.0.as_ref().is_none_or(|known| known.contains(&visitor.address()))
    }

    /// Whether everybody may.
    pub fn admits_everybody(&self) -> bool {
        self.0.is_none()
    }

    /// How many may, if not everybody.
    pub fn known(&self) -> Option<usize> {
        self.0.as_ref().map(BTreeSet::len)
    }
}

/// More visitors than a list may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a port can be for {MOST} known visitors at most")]
pub struct TooMany;

impl Serialize for AccessList {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.0.iter().flatten().map(ToString::to_string))
    }
}

/// A list that is there names somebody: that of an empty one everybody was meant is not to be guessed.
impl<'de> Deserialize<'de> for AccessList {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<AccessList, D::Error> {
        let visitors = Vec::<String>::deserialize(from)?;
        if visitors.is_empty() {
            return Err(D::Error::custom(
                "it is a list of .ap names and AP addresses; leave it out to let everybody in",
            ));
        }
        let visitors: Vec<Visitor> =
            visitors.iter().map(|text| text.parse()).collect::<Result<_, _>>().map_err(D::Error::custom)?;
        AccessList::of(visitors).map_err(D::Error::custom)
    }
}

/// Somebody who may come in: a full name, or an AP address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Visitor(ApAddress);

/// What is neither.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadVisitor {
    /// It looks like a name.
    #[error(transparent)]
    Name(#[from] BadName),
    /// It is another address.
    #[error(transparent)]
    Address(#[from] NotApAddress),
}

impl FromStr for Visitor {
    type Err = BadVisitor;

    fn from_str(text: &str) -> Result<Visitor, BadVisitor> {
        match text.parse::<Ipv6Addr>() {
            Ok(address) => Ok(Visitor(address.try_into()?)),
            Err(_) => Ok(Visitor(text.parse::<ApName>()?.public().address())),
        }
    }
}

impl fmt::Display for Visitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use phantom_protocol::identity::ApSecret;

    use super::*;

    fn party(number: u16) -> ApPublic {
        let mut seed = [7; 32];
        seed[..2].copy_from_slice(&number.to_be_bytes());
        ApSecret::from_bytes(&seed).public()
    }

    #[test]
    fn a_list_lets_in_whom_it_names_by_name_or_address_and_nobody_else() {
        let (anna, boris) = (party(1).name().to_string(), party(2).address().to_string());
        let list = AccessList::of([anna.parse().unwrap(), boris.parse().unwrap()]).unwrap();
        assert!(list.admits(&party(1)) && list.admits(&party(2)) && !list.admits(&party(3)));
        assert!(!list.admits_everybody() && list.known() == Some(2));
        assert!(AccessList::default().admits(&party(3)) && AccessList::of([]).unwrap().admits_everybody());
    }

    #[test]
    fn a_list_survives_being_written_down_and_an_empty_one_is_none() {
        let list = AccessList::of([1, 2].map(|number| Visitor(party(number).address()))).unwrap();
        let text = serde_json::to_string(&list).unwrap();
        assert_eq!(serde_json::from_str::<AccessList>(&text).unwrap(), list);
        for wrong in ["[]", "[\"everybody\"]", "[\"::1\"]", "\"x.ap\"", "[\"short.ap\"]", "null"] {
            assert!(serde_json::from_str::<AccessList>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_list_has_a_longest() {
        let visitors = |count: u16| (0..count).map(|number| Visitor(party(number).address()));
        assert!(AccessList::of(visitors(1_000)).is_ok());
        assert_eq!(AccessList::of(visitors(1_001)), Err(TooMany));
    }
}
