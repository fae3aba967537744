//! How many strangers may be at the door (PROTOCOL §2).
//!
//! A connection that has not proved its identity holds a ticket. When the door is full, in total or for one IP
//! prefix, the connection that has waited longest leaves: an honest peer needs a few round trips, a flood that wants to
//! keep it out must renew itself faster than that. In total the most numerous prefix gives way first.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio_util::sync::CancellationToken;

/// Places at the door.
#[derive(Debug)]
pub(super) struct Gate {
    total: usize,
    per_prefix: usize,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    all: HashMap<u64, CancellationToken>,
    /// Oldest first, as numbers count up.
    by_prefix: HashMap<Prefix, BTreeSet<u64>>,
}

/// The /24 of an IPv4 or the /48 of an IPv6 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Prefix {
    V4([u8; 3]),
    V6([u8; 6]),
}

/// One place; given back when dropped.
#[derive(Debug)]
pub(super) struct Ticket {
    gate: Arc<Gate>,
    prefix: Prefix,
    number: u64,
    evicted: CancellationToken,
}

impl Gate {
    pub(super) fn new(total: usize, per_prefix: usize) -> Arc<Gate> {
        Arc::new(Gate { total: total.max(1), per_prefix: per_prefix.max(1), waiting: Mutex::default() })
    }

    /// Always lets in, at the cost of whoever waits longest.
    pub(super) fn enter(self: &Arc<Self>, from: IpAddr) -> Ticket {
        let prefix = Prefix::of(from);
        let evicted = CancellationToken::new();
        let mut waiting = self.lock();
        if waiting.by_prefix.get(&prefix).is_some_and(|numbers| numbers.len() >= self.per_prefix) {
            waiting.evict_oldest(prefix);
        } else if waiting.all.len() >= self.total {
            let crowded = waiting.by_prefix.iter().max_by_key(|(_, numbers)| numbers.len()).map(|(p, _)| *p);
            if let Some(crowded) = crowded {
                waiting.evict_oldest(crowded);
            }
        }
        let number = waiting.next;
        waiting.next += 1;
        waiting.all.insert(number, evicted.clone());
        waiting.by_prefix.entry(prefix).or_default().insert(number);
        Ticket { gate: Arc::clone(self), prefix, number, evicted }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn evict_oldest(&mut self, prefix: Prefix) {
        let oldest = self.by_prefix.get(&prefix).and_then(|numbers| numbers.first().copied());
        if let Some(evicted) = oldest.and_then(|number| self.remove(prefix, number)) {
            evicted.cancel();
        }
    }

    fn remove(&mut self, prefix: Prefix, number: u64) -> Option<CancellationToken> {
        if let Some(numbers) = self.by_prefix.get_mut(&prefix) {
            numbers.remove(&number);
            if numbers.is_empty() {
                self.by_prefix.remove(&prefix);
            }
        }
        self.all.remove(&number)
    }
}

impl Ticket {
    /// Resolves when the place has been given to somebody else.
    pub(super) async fn evicted(&self) {
        self.evicted.cancelled().await;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.gate.lock().remove(self.prefix, self.number);
    }
}

impl Prefix {
    fn of(address: IpAddr) -> Prefix {
        match address.to_canonical() {
            IpAddr::V4(address) => {
                let [a, b, c, _] = address.octets();
                Prefix::V4([a, b, c])
            }
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, ..] = address.octets();
                Prefix::V6([a, b, c, d, e, f])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_full_prefix_gives_up_its_oldest() {
        let gate = Gate::new(100, 2);
        let elsewhere = gate.enter(ip("10.0.0.1"));
        let first = gate.enter(ip("192.0.2.1"));
        let second = gate.enter(ip("192.0.2.2"));
        let third = gate.enter(ip("192.0.2.3"));
        assert!(first.evicted.is_cancelled());
        for other in [&elsewhere, &second, &third] {
            assert!(!other.evicted.is_cancelled());
        }
    }

    #[test]
    fn a_full_door_gives_up_the_oldest_of_the_most_numerous() {
        let gate = Gate::new(3, 3);
        let honest = gate.enter(ip("2001:db8::1"));
        let first = gate.enter(ip("192.0.2.1"));
        let second = gate.enter(ip("192.0.2.2"));
        let third = gate.enter(ip("192.0.2.3"));
        assert!(first.evicted.is_cancelled());
        assert!(!honest.evicted.is_cancelled() && !second.evicted.is_cancelled());
        drop((second, third));
        assert_eq!(gate.lock().all.len(), 1);
    }

    #[test]
    fn places_come_back() {
        let gate = Gate::new(10, 10);
        drop((gate.enter(ip("::1")), gate.enter(ip("::1"))));
        let waiting = gate.lock();
        assert!(waiting.all.is_empty() && waiting.by_prefix.is_empty());
    }
}
