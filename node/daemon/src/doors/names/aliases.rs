//! Local aliases: addresses of this machine's own loopback network that stand for parties (PROTOCOL §1.7).
//!
//! They are drawn at random, mean something to this node alone and are never sent anywhere. An alias that nobody needs any
//! more rests for at least a day before it can stand for another party: programs keep addresses for longer than they should.

use std::{
    mem,
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rand::{TryRng, rngs::SysRng};
use tokio::time::Instant;

/// 127.192.0.0/11. The other half of 127.192.0.0/10 is for the visitors of services, so no address means two parties.
const NET: u32 = 0x7fc0_0000;
const HOST_BITS: u32 = 0x001f_ffff;
/// An alias rests for one to two of these.
const REST: Duration = Duration::from_secs(24 * 60 * 60);
/// Drawings until it is said that there is none: with half of all addresses free, more than are ever needed.
const DRAWINGS: usize = 32;

/// All aliases of a node.
#[derive(Debug)]
pub(super) struct Aliases(Mutex<Places>);

/// Which addresses are not free. Its size does not depend on who asks for how much.
#[derive(Debug)]
struct Places {
    taken: Bits,
    /// Given back since `turned`, and in the time before.
    resting: [Bits; 2],
    turned: Instant,
}

impl Default for Aliases {
    fn default() -> Aliases {
        let places = Places { taken: Bits::default(), resting: Default::default(), turned: Instant::now() };
        Aliases(Mutex::new(places))
    }
}

impl Aliases {
    /// One that stands for nobody, and has not for a day. Nothing if too many are taken.
    pub(super) fn take(self: &Arc<Self>) -> Option<Alias> {
        let mut places = self.places();
        places.turn(Instant::now());
        for _ in 0..DRAWINGS {
            let number = SysRng.try_next_u32().ok()? & HOST_BITS;
            let address = Ipv4Addr::from(NET | number);
            // Some programs take the first and the last address of a network for no host's.
            if !matches!(address.octets(), [.., 0 | 255]) && places.take(number) {
                return Some(Alias { address, aliases: self.clone() });
            }
        }
        None
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    fn is_free(&self, number: u32) -> bool {
        let [lately, before] = &self.resting;
        !(self.taken.has(number) || lately.has(number) || before.has(number))
    }

    /// Whether it was free.
    fn take(&mut self, number: u32) -> bool {
        let is_free = self.is_free(number);
        if is_free {
            self.taken.set(number, true);
        }
        is_free
    }

    fn give_back(&mut self, number: u32, now: Instant) {
        self.turn(now);
        self.taken.set(number, false);
        let [lately, _] = &mut self.resting;
        lately.set(number, true);
    }

    fn turn(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.turned);
        if passed < REST {
            return;
        }
        let [lately, before] = &mut self.resting;
        *before = mem::take(lately);
        if passed >= 2 * REST {
            *before = Bits::default();
        }
        self.turned = now;
    }
}

/// An address that stands for one party until this is dropped; then it rests.
#[derive(Debug)]
pub(super) struct Alias {
    address: Ipv4Addr,
    aliases: Arc<Aliases>,
}

impl Alias {
    pub(super) fn address(&self) -> Ipv4Addr {
        self.address
    }
}

impl Drop for Alias {
    fn drop(&mut self) {
        let number = u32::from(self.address) & HOST_BITS;
        self.aliases.places().give_back(number, Instant::now());
    }
}

/// One bit for each address. Empty until the first is set.
#[derive(Debug, Default)]
struct Bits(Vec<u64>);

impl Bits {
    fn has(&self, number: u32) -> bool {
        self.0.get(number as usize / 64).is_some_and(|word| word >> (number % 64) & 1 == 1)
    }

    fn set(&mut self, number: u32, to: bool) {
        if self.0.is_empty() {
            self.0 = vec![0; (HOST_BITS as usize + 1) / 64];
        }
        if let Some(word) = self.0.get_mut(number as usize / 64) {
            let bit = 1 << (number % 64);
            *word = if to { *word | bit } else { *word & !bit };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn aliases_are_all_different_and_look_like_hosts() {
        let aliases = Arc::new(Aliases::default());
        let all: Vec<_> = (0..8_192).map(|_| aliases.take().unwrap()).collect();
        let addresses: BTreeSet<_> = all.iter().map(Alias::address).collect();
        assert_eq!(addresses.len(), all.len());
        for address in addresses {
            let [a, b, _, d] = address.octets();
            assert!(a == 127 && (192..224).contains(&b) && d != 0 && d != 255, "{address}");
        }
    }

    fn places() -> (Places, Instant) {
        let now = Instant::now();
        (Places { taken: Bits::default(), resting: Default::default(), turned: now }, now)
    }

    #[test]
    fn an_alias_rests_for_a_day_before_it_stands_for_another() {
        let hour = |hours: u64| Duration::from_secs(hours * 3_600);
        for begun in [0, 1, 13, 23, 24, 47, 100] {
            let (mut places, start) = places();
            assert!(places.take(7) && !places.take(7), "in use");
            let ended = start + hour(begun);
            places.give_back(7, ended);
            places.turn(ended + hour(24) - Duration::from_secs(1));
            assert!(!places.is_free(7), "after {begun} hours");
            places.turn(ended + hour(48));
            assert!(places.is_free(7), "after {begun} hours");
        }
    }

    #[test]
    fn one_in_use_is_kept_for_as_long_as_that_takes() {
        let (mut places, start) = places();
        assert!(places.take(7));
        for day in 1..10 {
            places.turn(start + day * REST);
            assert!(!places.is_free(7));
        }
    }

    #[test]
    fn when_all_are_taken_there_is_none_and_nobody_loses_one() {
        let aliases = Arc::new(Aliases::default());
        let alias = aliases.take().unwrap();
        aliases.places().taken = Bits(vec![u64::MAX; (HOST_BITS as usize + 1) / 64]);
        assert!(aliases.take().is_none());
        drop(alias);
        assert!(aliases.take().is_none(), "it rests");
    }
}
