//! A node's path keys: what round 1 slots are sealed to (PROTOCOL §4, forward secrecy).
//!
//! A key is named in records for 3 hours and erased when the last record that names it has expired, 3 hours later: a
//! theft opens at most 6 hours of recorded slots. Each key remembers the SHA-256 of every KEM ciphertext it has opened;
//! nothing is evicted: a full memory refuses, and the key changes early. Neither keys nor memories touch the disk: a
//! restarted node has a new key, for which no old slot is a replay.

use std::collections::{BTreeSet, VecDeque};

use rand_core::CryptoRng;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::{
    crypto::seal::{PathPublic, PathSecret, aead_open},
    limits::{NODE_RECORD_LIFE_SECS, PATH_KEY_LIFE_SECS, PATH_KEYS_LIVING, REPLAYS_PER_KEY},
    time::UnixTime,
    wire::setup::{CIPHERTEXT, TAG},
};

/// The living keys, newest first.
pub struct PathKeys {
    living: VecDeque<PathKey>,
}

struct PathKey {
    secret: PathSecret,
    since: UnixTime,
    /// Set when records stop naming the key.
    erase: Option<UnixTime>,
    opened: BTreeSet<[u8; 32]>,
}

/// A slot that a key has opened.
pub(super) struct Opened {
    pub content: Zeroizing<Vec<u8>>,
    pub mark: ReplayMark,
}

/// What to remember when the slot's hash has checked.
pub(super) struct ReplayMark {
    key: usize,
    digest: [u8; 32],
}

impl PathKeys {
    /// One fresh key.
    pub fn new(now: UnixTime, rng: &mut impl CryptoRng) -> PathKeys {
        PathKeys { living: VecDeque::from([PathKey::new(now, rng)]) }
    }

    /// The key for the node's record.
    pub fn current(&self) -> &PathPublic {
        #[allow(clippy::expect_used)] // invariant: a key is only removed when a newer one stands before it
        self.living.front().expect("there is always a newest key").secret.public()
    }

    /// Changes and erases keys whose time has come. True if [`PathKeys::current`] is new: publish a record at once.
    pub fn handle_timeout(&mut self, now: UnixTime, rng: &mut impl CryptoRng) -> bool {
        let due = self.living.front().is_some_and(|newest| newest.change_at() <= now);
        if due {
            if let Some(newest) = self.living.front_mut() {
                newest.erase = Some(UnixTime(now.0.saturating_add(NODE_RECORD_LIFE_SECS)));
            }
            self.living.push_front(PathKey::new(now, rng));
            self.living.truncate(PATH_KEYS_LIVING);
        }
        self.living.retain(|key| key.erase.is_none_or(|erase| now < erase));
        due
    }

    /// When [`PathKeys::handle_timeout`] has something to do.
    pub fn next_timeout(&self) -> Option<UnixTime> {
        let change = self.living.front().map(PathKey::change_at);
        self.living.iter().filter_map(|key| key.erase).chain(change).min()
    }

    /// Tries the living keys, newest first. Replays are found before any costly work.
    pub(super) fn open(
        &self,
        ciphertext: &[u8; CIPHERTEXT],
        sealed: &[u8],
        tag: &[u8; TAG],
    ) -> Option<Opened> {
        let digest: [u8; 32] = Sha256::digest(ciphertext).into();
        if self.living.iter().any(|key| key.opened.contains(&digest)) {
            return None;
        }
        self.living.iter().enumerate().filter(|(_, living)| !living.is_full()).find_map(|(key, living)| {
            let secret = living.secret.decapsulate(ciphertext)?;
            let mut content = Zeroizing::new(sealed.to_vec());
            aead_open(&secret, &mut content, tag)
                .then(|| Opened { content, mark: ReplayMark { key, digest } })
        })
    }

    /// The slot is never opened again. False if it was before.
    pub(super) fn remember(&mut self, mark: ReplayMark) -> bool {
        self.living.get_mut(mark.key).is_some_and(|key| key.opened.insert(mark.digest))
    }
}

impl PathKey {
    fn new(since: UnixTime, rng: &mut impl CryptoRng) -> PathKey {
        PathKey { secret: PathSecret::generate(rng), since, erase: None, opened: BTreeSet::new() }
    }

    fn is_full(&self) -> bool {
        self.opened.len() >= REPLAYS_PER_KEY
    }

    fn change_at(&self) -> UnixTime {
        if self.is_full() { self.since } else { UnixTime(self.since.0.saturating_add(PATH_KEY_LIFE_SECS)) }
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::ChaCha20Rng};

    use super::*;
    use crate::crypto::seal::aead_seal;

    type Slot = ([u8; CIPHERTEXT], Vec<u8>, [u8; TAG]);

    fn slot(public: &PathPublic, rng: &mut ChaCha20Rng) -> Slot {
        let (ciphertext, key) = public.encapsulate(rng).unwrap();
        let mut content = b"content".to_vec();
        let tag = aead_seal(&key, &mut content);
        (ciphertext, content, tag)
    }

    fn opens(keys: &mut PathKeys, (ciphertext, content, tag): &Slot) -> bool {
        keys.open(ciphertext, content, tag).is_some_and(|opened| keys.remember(opened.mark))
    }

    #[test]
    fn a_slot_opens_once() {
        let mut rng = ChaCha20Rng::from_seed([1; 32]);
        let mut keys = PathKeys::new(UnixTime(0), &mut rng);
        let slot = slot(keys.current(), &mut rng);
        assert!(opens(&mut keys, &slot));
        assert!(!opens(&mut keys, &slot));
    }

    #[test]
    fn an_altered_slot_is_not_remembered_so_that_the_true_one_still_opens() {
        let mut rng = ChaCha20Rng::from_seed([2; 32]);
        let mut keys = PathKeys::new(UnixTime(0), &mut rng);
        let slot = slot(keys.current(), &mut rng);
        let mut altered = slot.clone();
        altered.1[0] ^= 1;
        assert!(!opens(&mut keys, &altered));
        assert!(opens(&mut keys, &slot));
    }

    #[test]
    fn a_key_opens_three_hours_longer_than_it_is_named_and_remembers_as_long() {
        let mut rng = ChaCha20Rng::from_seed([3; 32]);
        let mut keys = PathKeys::new(UnixTime(0), &mut rng);
        let old = keys.current().clone();
        let [used, unused, late] = [slot(&old, &mut rng), slot(&old, &mut rng), slot(&old, &mut rng)];
        assert!(opens(&mut keys, &used));
        assert_eq!(keys.next_timeout(), Some(UnixTime(PATH_KEY_LIFE_SECS)));
        assert!(!keys.handle_timeout(UnixTime(PATH_KEY_LIFE_SECS - 1), &mut rng));
        assert!(keys.handle_timeout(UnixTime(PATH_KEY_LIFE_SECS), &mut rng));
        assert_ne!(*keys.current(), old);
        assert!(!opens(&mut keys, &used));
        assert!(opens(&mut keys, &unused));
        keys.handle_timeout(UnixTime(PATH_KEY_LIFE_SECS + NODE_RECORD_LIFE_SECS), &mut rng);
        assert!(!opens(&mut keys, &late));
        assert!(keys.living.len() == 2 || keys.living.len() == 1);
    }

    #[test]
    fn a_full_memory_refuses_and_changes_the_key_early() {
        let mut rng = ChaCha20Rng::from_seed([4; 32]);
        let mut keys = PathKeys::new(UnixTime(1_000), &mut rng);
        let old = slot(keys.current(), &mut rng);
        let newest = keys.living.front_mut().unwrap();
        newest.opened = (0..REPLAYS_PER_KEY as u64).map(|n| Sha256::digest(n.to_be_bytes()).into()).collect();
        assert!(!opens(&mut keys, &old));
        assert_eq!(keys.next_timeout(), Some(UnixTime(1_000)));
        assert!(keys.handle_timeout(UnixTime(1_001), &mut rng));
        let new = slot(keys.current(), &mut rng);
        assert!(opens(&mut keys, &new));
        assert!(!opens(&mut keys, &old));
    }
}
