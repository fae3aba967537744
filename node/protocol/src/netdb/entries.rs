//! The table of sealed AP entries, shared fairly among those who bring them (PROTOCOL §7.3).
//!
//! Anybody can make up parties by the thousand, and nobody can tell their entries from others. So it is counted who has
//! brought what is here. When the table is full, the source that has brought most gives way to the others, its oldest
//! word first; for its own sake it displaces nothing but what was not renewed for longer than any service that lives
//! would leave it. So a flood that comes over one link fills what is free, then stops there and is not passed on, and an
//! entry that others bring finds a place. A version is dropped three hours after it came, when it has expired wherever
//! it came from, and is not taken again.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    ap_entry::{EntryKey, VerifiedEntry},
    view::{Stored, Subnet},
};
use crate::{
    limits::{AP_ENTRIES_KNOWN, AP_ENTRY_LIFE_SECS, AP_ENTRY_RENEWED_SECS},
    time::UnixTime,
};

/// Who has brought an entry: links count together if one operator is likely to have them all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// This node's own.
    Own,
    /// Nodes that can be dialled, in one subnet.
    Network(Subnet),
    /// Nodes that cannot be dialled. Entries begin their way at terminals, which can: these have little to bring.
    Unlisted,
}

/// All sealed entries that are known.
#[derive(Debug)]
pub(super) struct Entries {
    most: usize,
    known: BTreeMap<EntryKey, Known>,
    /// The word that is oldest first.
    by_source: BTreeMap<Source, BTreeSet<(UnixTime, EntryKey)>>,
    /// Versions that were dropped for their age, and their epochs.
    dropped: BTreeMap<EntryKey, (u64, u64)>,
    changes: u64,
}

#[derive(Debug)]
struct Known {
    entry: VerifiedEntry,
    source: Source,
    since: UnixTime,
}

impl Default for Entries {
    fn default() -> Entries {
        Entries::of_most(AP_ENTRIES_KNOWN)
    }
}

impl Entries {
    fn of_most(most: usize) -> Entries {
        Entries {
            most,
            known: BTreeMap::new(),
            by_source: BTreeMap::new(),
            dropped: BTreeMap::new(),
            changes: 0,
        }
    }

    pub(super) fn get(&self, key: &EntryKey) -> Option<&VerifiedEntry> {
        self.known.get(key).map(|known| &known.entry)
    }

    /// The newest version that is here, or was.
    pub(super) fn version(&self, key: &EntryKey) -> Option<u64> {
        let known = self.get(key).map(VerifiedEntry::version);
        known.max(self.dropped.get(key).map(|(version, _)| *version))
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = EntryKey> {
        self.known.keys().copied()
    }

    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    /// Rises with everything that comes or goes.
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    /// Whether an entry of this source would find a place: asked before its signature is checked.
    pub(super) fn has_room(&self, now: UnixTime, key: &EntryKey, source: Source) -> bool {
        self.known.contains_key(key) || self.known.len() < self.most || self.victim(now, source).is_some()
    }

    /// Keeps an entry, if it is newer than what is known and has a place.
    pub(super) fn store(&mut self, now: UnixTime, entry: VerifiedEntry, source: Source) -> Stored {
        let key = entry.key();
        if self.version(&key).is_some_and(|known| known >= entry.version()) {
            return Stored::Stale;
        }
        if self.remove(&key).is_none() && self.known.len() >= self.most {
            let Some(victim) = self.victim(now, source) else { return Stored::Full };
            self.remove(&victim);
        }
        self.dropped.remove(&key);
        self.by_source.entry(source).or_default().insert((now, key));
        self.known.insert(key, Known { entry, source, since: now });
        self.changes += 1;
        Stored::New
    }

    /// Forgets what has expired.
    pub(super) fn sweep(&mut self, now: UnixTime) {
        let is_over = |known: &Known| {
            now.0.saturating_sub(known.since.0) >= AP_ENTRY_LIFE_SECS || !known.entry.is_current(now)
        };
        let over: Vec<EntryKey> =
            self.known.iter().filter(|(_, known)| is_over(known)).map(|(key, _)| *key).collect();
        for key in over {
            if let Some(Known { entry, .. }) = self.remove(&key).filter(|known| known.entry.is_current(now)) {
                self.dropped.insert(key, (entry.version(), entry.epoch()));
            }
        }
        let today = super::ap_entry::epoch_of(now);
        self.dropped.retain(|_, (_, epoch)| epoch.abs_diff(today) <= 1);
        while self.dropped.len() > self.most {
            self.dropped.pop_first();
        }
    }

    /// What makes room in a full table for something that this source brings.
    fn victim(&self, now: UnixTime, source: Source) -> Option<EntryKey> {
        let own = self.by_source.get(&source).map_or(0, BTreeSet::len);
        let (largest, theirs) = self.by_source.iter().max_by_key(|(_, brought)| brought.len())?;
        let gives_way = *largest != source && theirs.len() > own;
        let (since, key) =
            if gives_way { theirs.first() } else { self.by_source.get(&source).and_then(BTreeSet::first) }?;
        let is_forgotten = now.0.saturating_sub(since.0) >= AP_ENTRY_RENEWED_SECS;
        (gives_way || is_forgotten).then_some(*key)
    }

    fn remove(&mut self, key: &EntryKey) -> Option<Known> {
        let known = self.known.remove(key)?;
        if let Some(brought) = self.by_source.get_mut(&known.source) {
            brought.remove(&(known.since, *key));
            if brought.is_empty() {
                self.by_source.remove(&known.source);
            }
        }
        self.changes += 1;
        Some(known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netdb::ap_entry::{
        epoch_of,
        tests::{NOW, entry, party, rng},
    };

    const FLOODER: Source = Source::Network(Subnet::V4([10, 1]));
    const OTHER: Source = Source::Network(Subnet::V4([10, 2]));
    const SMALL: usize = 20;

    fn sealed(party_seed: u8, issued: UnixTime) -> VerifiedEntry {
        let sealed = entry(party_seed, 1, issued).seal(&party(party_seed), epoch_of(NOW), &mut rng(2));
        sealed.unwrap().verify(NOW).unwrap()
    }

    fn later(seconds: u64) -> UnixTime {
        UnixTime(NOW.0 + seconds)
    }

    /// A table that one source has filled.
    fn flooded() -> Entries {
        let mut entries = Entries::of_most(SMALL);
        (0..SMALL as u8)
            .for_each(|seed| assert_eq!(entries.store(NOW, sealed(seed, NOW), FLOODER), Stored::New));
        entries
    }

    #[test]
    fn who_fills_the_table_displaces_nobody_and_gives_way_to_others() {
        let mut entries = flooded();
        let honest = sealed(100, NOW);
        assert_eq!(entries.store(later(1), honest.clone(), OTHER), Stored::New);
        for seed in 101..200 {
            assert!(!entries.has_room(later(2), &sealed(seed, NOW).key(), FLOODER));
            assert_eq!(entries.store(later(2), sealed(seed, NOW), FLOODER), Stored::Full);
        }
        assert!(entries.get(&honest.key()).is_some());
        assert_eq!(entries.len(), SMALL);
    }

    #[test]
    fn what_others_bring_displaces_the_oldest_word_of_who_brought_most_until_they_are_even() {
        let mut entries = flooded();
        let renewed = sealed(0, later(5));
        assert_eq!(entries.store(later(5), renewed.clone(), FLOODER), Stored::New);
        let stored =
            (100..150).filter(|seed| entries.store(later(6), sealed(*seed, NOW), OTHER) == Stored::New);
        assert_eq!(stored.count(), SMALL / 2);
        assert!(entries.get(&renewed.key()).is_some());
    }

    #[test]
    fn what_nobody_renews_makes_room_even_for_who_brought_most() {
        let mut entries = flooded();
        let now = later(AP_ENTRY_RENEWED_SECS);
        assert_eq!(entries.store(now, sealed(100, NOW), FLOODER), Stored::New);
        assert_eq!(entries.len(), SMALL);
    }

    #[test]
    fn a_version_goes_after_three_hours_and_does_not_come_back() {
        let mut entries = Entries::of_most(SMALL);
        entries.store(NOW, sealed(1, NOW), OTHER);
        entries.sweep(later(AP_ENTRY_LIFE_SECS - 1));
        assert_eq!(entries.len(), 1);
        entries.sweep(later(AP_ENTRY_LIFE_SECS));
        assert_eq!((entries.len(), entries.by_source.len()), (0, 0));
        let now = later(AP_ENTRY_LIFE_SECS + 1);
        assert_eq!(entries.store(now, sealed(1, NOW), FLOODER), Stored::Stale);
        assert_eq!(entries.store(now, sealed(1, later(1)), OTHER), Stored::New);
    }

    #[test]
    fn what_was_dropped_is_forgotten_with_its_epoch() {
        let mut entries = flooded();
        entries.sweep(later(AP_ENTRY_LIFE_SECS));
        assert_eq!(entries.dropped.len(), SMALL);
        entries.sweep(later(3 * 86_400));
        assert!(entries.dropped.is_empty());
    }
}
