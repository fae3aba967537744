//! Places for clients: so many in all, so many of one isolation group.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{Isolation, Limits};

/// All places of a proxy.
pub(crate) struct Places {
    most: usize,
    most_of_group: usize,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    all: usize,
    of_group: BTreeMap<Isolation, usize>,
}

/// One place, free again when it is dropped.
pub(crate) struct Place {
    places: Arc<Places>,
    group: Isolation,
}

impl Places {
    pub(crate) fn new(limits: &Limits) -> Arc<Places> {
        Arc::new(Places { most: limits.clients, most_of_group: limits.group, taken: Mutex::default() })
    }

    /// Nothing if all are taken, or all of this group.
    pub(crate) fn enter(self: &Arc<Places>, group: &Isolation) -> Option<Place> {
        let mut taken = self.taken();
        let of_group = taken.of_group.get(group).copied().unwrap_or(0);
        if taken.all >= self.most || of_group >= self.most_of_group {
            return None;
        }
        taken.all += 1;
        taken.of_group.insert(group.clone(), of_group + 1);
        Some(Place { places: self.clone(), group: group.clone() })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        // Nothing is left half done under this lock.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        taken.all -= 1;
        if let Some(of_group) = taken.of_group.get_mut(&self.group) {
            *of_group -= 1;
            if *of_group == 0 {
                taken.of_group.remove(&self.group);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(name: &[u8]) -> Isolation {
        Isolation::Credentials { user: name.to_vec(), password: Vec::new() }
    }

    #[test]
    fn a_full_group_keeps_no_other_out_and_all_places_come_back() {
        let places = Places::new(&Limits { clients: 3, group: 2, ..Limits::default() });
        let first = places.enter(&group(b"a")).unwrap();
        let second = places.enter(&group(b"a")).unwrap();
        assert!(places.enter(&group(b"a")).is_none());
        let third = places.enter(&Isolation::Default).unwrap();
        assert!(places.enter(&group(b"b")).is_none());
        drop(first);
        let fourth = places.enter(&group(b"a")).unwrap();
        drop((second, third, fourth));
        let taken = places.taken();
        assert!(taken.all == 0 && taken.of_group.is_empty());
    }
}
