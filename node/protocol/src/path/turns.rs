//! Whose setup array is opened next (PROTOCOL §4.6).
//!
//! To open one costs more than anything else that a neighbour can ask for, and many links together could ask for more
//! than a processor has. So a node opens no more than so many a second; what comes faster waits, and of what waits the
//! array goes first whose link has brought fewest lately. A link that brings an array now and then overtakes all that
//! bring as many as they may.

use std::{cmp::Reverse, collections::BTreeMap};

use crate::{
    budget::Budget,
    identity::NodeId,
    limits::{ARRAYS_OF_ALL, ARRAYS_WAITING},
    time::Moment,
    wire::{
        cell::{LinkId, PathId},
        setup::{Round, SetupArray},
    },
};

/// An array that has come in.
pub(super) struct Arrived {
    pub(super) from: LinkId,
    pub(super) from_id: NodeId,
    pub(super) round: Round,
    pub(super) connection: PathId,
    pub(super) array: SetupArray,
}

/// Arrays that wait for their turn.
pub(super) struct Turns {
    budget: Option<Budget>,
    /// By the ranks of their links, then by age.
    waiting: BTreeMap<(Reverse<u32>, u64), Arrived>,
    count: u64,
}

impl Turns {
    pub(super) fn new() -> Turns {
        Turns { budget: None, waiting: BTreeMap::new(), count: 0 }
    }

    /// Takes one more; `rank` says how seldom its link has brought one lately. If too many wait, the last one is dropped.
    pub(super) fn push(&mut self, rank: u32, arrived: Arrived) {
        self.count += 1;
        self.waiting.insert((Reverse(rank), self.count), arrived);
        if self.waiting.len() > ARRAYS_WAITING {
            self.waiting.pop_last();
        }
    }

    /// The next one, if it may be opened now.
    pub(super) fn pop(&mut self, now: Moment) -> Option<Arrived> {
        let budget = self.budget.get_or_insert_with(|| Budget::new(now, ARRAYS_OF_ALL));
        if self.waiting.is_empty() || !budget.allows(now) {
            return None;
        }
        budget.spend(1);
        self.waiting.pop_first().map(|(_, arrived)| arrived)
    }

    /// When the next one may be opened, if one waits.
    pub(super) fn next_timeout(&self) -> Option<Moment> {
        self.budget.as_ref().filter(|_| !self.waiting.is_empty()).map(Budget::ready)
    }

    /// The link is gone.
    pub(super) fn handle_link_down(&mut self, link: LinkId) {
        self.waiting.retain(|_, arrived| arrived.from != link);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::limits::{ARRAY, ARRAYS_BURST};

    const NOW: Moment = Moment(1_000_000);

    fn arrived(link: u64) -> Arrived {
        Arrived {
            from: LinkId(link),
            from_id: NodeId::from_bytes([1; 32]),
            round: Round::One,
            connection: PathId::default(),
            array: SetupArray::from_bytes(&[0; ARRAY]).unwrap(),
        }
    }

    #[test]
    fn no_more_are_opened_than_a_processor_has_time_for() {
        let mut turns = Turns::new();
        let mut opened = 0;
        for millisecond in 0..2_000 {
            let now = NOW + Duration::from_millis(millisecond);
            turns.push(0, arrived(1));
            opened += u32::from(turns.pop(now).is_some());
        }
        assert!((1..=ARRAYS_OF_ALL.0 + 2 * ARRAYS_OF_ALL.1).contains(&opened), "{opened}");
        assert!(turns.waiting.len() <= ARRAYS_WAITING);
        assert!(turns.next_timeout().is_some());
    }

    #[test]
    fn who_brings_one_now_and_then_overtakes_those_who_bring_all_they_may() {
        const HONEST: u64 = 9_999;
        let mut turns = Turns::new();
        turns.budget.insert(Budget::new(NOW, ARRAYS_OF_ALL)).spend(ARRAYS_OF_ALL.0 as usize);
        // Each of many links has used most of what it may bring; more wait than there is room for.
        for number in 0..2 * ARRAYS_WAITING as u64 {
            turns.push((number % 20) as u32, arrived(number % 500));
        }
        turns.push(ARRAYS_BURST - 1, arrived(HONEST));
        let next = turns.pop(turns.next_timeout().unwrap()).unwrap();
        assert_eq!(next.from, LinkId(HONEST));
    }

    #[test]
    fn what_a_lost_link_has_brought_is_forgotten() {
        let mut turns = Turns::new();
        (0..10).for_each(|number| turns.push(5, arrived(number % 2)));
        turns.handle_link_down(LinkId(0));
        assert_eq!(turns.waiting.len(), 5);
    }
}
