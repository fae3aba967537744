//! What the visitors of a service may have open together, shared fairly: the fewer are free, the fewer one client key may
//! take; each always gets some (PROTOCOL §6.6, §6.9).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use phantom_protocol::identity::ApPublic;
use tokio::sync::Notify;

/// TCP connections to the targets of one identity, those that are being made too.
pub(super) const CONNECTIONS: usize = 4_096;
/// UDP flows of one identity. Each has a socket of its own.
pub(super) const FLOWS: usize = 1_024;
/// A client key may hold one in this many of the places that are free,
const SHARES: usize = 2;
/// but always so many connections, and flows, however many others hold:
const CONNECTIONS_OF_EVERY_CLIENT: usize = 8;
const FLOWS_OF_EVERY_CLIENT: usize = 2;
/// until there are so many times the places. Keys cost nothing, and sockets do.
const BEYOND: usize = 2;

/// What one service lets its visitors have.
#[derive(Clone)]
pub(super) struct Quotas {
    pub(super) flows: Quota,
    pub(super) connections: Quota,
}

impl Default for Quotas {
    fn default() -> Quotas {
        Quotas {
            flows: Quota::new(FLOWS, FLOWS_OF_EVERY_CLIENT),
            connections: Quota::new(CONNECTIONS, CONNECTIONS_OF_EVERY_CLIENT),
        }
    }
}

/// Counts what is open of one kind.
#[derive(Clone)]
pub(super) struct Quota {
    open: Arc<Mutex<Open>>,
    none_open: Arc<Notify>,
    most: usize,
    of_every_client: usize,
}

#[derive(Default)]
struct Open {
    all: usize,
    by_client: BTreeMap<ApPublic, usize>,
}

impl Quota {
    fn new(most: usize, of_every_client: usize) -> Quota {
        Quota { open: Arc::default(), none_open: Arc::default(), most, of_every_client }
    }

    /// How many are open.
    pub(super) fn open(&self) -> usize {
        lock(&self.open).all
    }

    /// Waits until none is.
    pub(super) async fn none_open(&self) {
        loop {
            let changed = self.none_open.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.open() == 0 {
                return;
            }
            changed.await;
        }
    }

    /// One more for this client, until what is returned is dropped. Nothing if it has its share, or all
    /// have more than can be.
    pub(super) fn one_more(&self, client: &ApPublic) -> Option<Counted> {
        let mut open = lock(&self.open);
        let share = (self.most.saturating_sub(open.all) / SHARES).max(self.of_every_client);
        let held = open.by_client.get(client).copied().unwrap_or(0);
        if held >= share || open.all >= BEYOND * self.most {
            return None;
        }
        open.by_client.insert(*client, held + 1);
        open.all += 1;
        Some(Counted { quota: self.clone(), client: *client })
    }
}

/// One that is open.
pub(super) struct Counted {
    quota: Quota,
    client: ApPublic,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut open = lock(&self.quota.open);
        open.all -= 1;
        if open.all == 0 {
            self.quota.none_open.notify_waiters();
        }
        if let Some(held) = open.by_client.get_mut(&self.client) {
            *held -= 1;
            if *held == 0 {
                open.by_client.remove(&self.client);
            }
        }
    }
}

fn lock(open: &Mutex<Open>) -> MutexGuard<'_, Open> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use phantom_protocol::identity::ApSecret;

    use super::*;

    fn client(number: u8) -> ApPublic {
        ApSecret::from_bytes(&[number; 32]).public()
    }

    fn take_all(quota: &Quota, client: &ApPublic) -> Vec<Counted> {
        std::iter::from_fn(|| quota.one_more(client)).collect()
    }

    #[test]
    fn one_client_leaves_places_for_others_however_many_it_wants() {
        let quota = Quota::new(3_000, 8);
        let greedy = take_all(&quota, &client(1));
        assert_eq!(greedy.len(), 1_000, "as many as it leaves half of");
        let second = take_all(&quota, &client(2));
        assert!(second.len() > 600, "{}", second.len());
    }

    #[test]
    fn many_greedy_clients_do_not_keep_a_newcomer_out() {
        let quota = Quota::new(3_000, 8);
        let greedy: Vec<_> = (1..=100).map(|number| take_all(&quota, &client(number))).collect();
        assert_eq!(take_all(&quota, &client(200)).len(), 8);
        let held: usize = greedy.iter().map(Vec::len).sum();
        assert!(held <= 3_000 + 100 * 8, "{held}");
    }

    #[test]
    fn however_many_keys_there_are_they_have_no_more_than_twice_the_places() {
        let quota = Quota::new(30, 2);
        let mut held: Vec<_> = (1..=100).flat_map(|number| take_all(&quota, &client(number))).collect();
        assert_eq!((held.len(), quota.open()), (60, 60));
        assert!(quota.one_more(&client(200)).is_none());
        held.pop();
        assert!(quota.one_more(&client(200)).is_some());
    }

    #[test]
    fn one_that_ends_makes_room_and_who_has_left_leaves_nothing() {
        let quota = Quota::new(30, 2);
        let mut held = take_all(&quota, &client(1));
        held.pop();
        assert!(quota.one_more(&client(1)).is_some());
        drop(held);
        assert_eq!(quota.open(), 0);
        assert!(lock(&quota.open).by_client.is_empty());
    }
}
