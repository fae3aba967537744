//! The gap rule (PROTOCOL §3): what a receiver of a tunnel's numbered cells tolerates.
//!
//! Honest relays may drop cells, never repeat or reorder them. From one cell to the next a number grows by 1 to 257;
//! of the last 4,096 numbers at most 256 may be missing; after 2^31 numbers the tunnel is worn out. Each breach ends
//! the tunnel. The first number seen is as good as any.

use crate::limits::{GAP_MISSING, GAP_WINDOW, MAX_STEP, TUNNEL_CELLS};

const WORDS: usize = (GAP_WINDOW / 64) as usize;

/// Why a cell's number ends its tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Breach {
    /// A repeat, a cell out of order, or a leap: no honest neighbour forwards one.
    #[error("a cell's number repeats, runs back or leaps")]
    Step,
    /// Too many are missing; several honest relays together may cause this.
    #[error("too many of the last cells are missing")]
    Missing,
    /// The direction has carried all that it may.
    #[error("the tunnel is worn out")]
    Worn,
}

/// One direction's memory of the last 4,096 numbers.
pub(super) struct Gap {
    last: Option<u32>,
    /// Numbers since the first one, inclusive.
    passed: u32,
    missing: u32,
    /// A set bit is a number that did not come; its place is the count modulo the window.
    holes: [u64; WORDS],
}

impl Gap {
    pub(super) fn new() -> Gap {
        Gap { last: None, passed: 0, missing: 0, holes: [0; WORDS] }
    }

    /// Takes the number of the next cell.
    pub(super) fn accept(&mut self, index: u32) -> Result<(), Breach> {
        let step = self.last.map_or(1, |last| index.wrapping_sub(last));
        if !(1..=MAX_STEP).contains(&step) {
            return Err(Breach::Step);
        }
        if self.passed > TUNNEL_CELLS - step {
            return Err(Breach::Worn);
        }
        self.last = Some(index);
        for _ in 1..step {
            self.advance(1);
        }
        self.advance(0);
        if self.missing > GAP_MISSING { Err(Breach::Missing) } else { Ok(()) }
    }

    /// Moves the window on by one number, which is a hole (1) or not (0).
    fn advance(&mut self, hole: u64) {
        let place = self.passed % GAP_WINDOW;
        self.passed += 1;
        if let Some(word) = self.holes.get_mut((place / 64) as usize) {
            let bit = place % 64;
            self.missing = self.missing + hole as u32 - (*word >> bit & 1) as u32;
            *word = *word & !(1 << bit) | hole << bit;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    #[test]
    fn any_first_number_is_accepted_and_counting_wraps() {
        let mut gap = Gap::new();
        for i in 0..10u32 {
            assert_eq!(gap.accept((u32::MAX - 4).wrapping_add(i)), Ok(()));
        }
    }

    #[test]
    fn repeats_and_steps_back_are_breaches() {
        for back in [0, 1, 2, 100, 1 << 31] {
            let mut gap = Gap::new();
            gap.accept(1000).unwrap();
            assert_eq!(gap.accept(1000u32.wrapping_sub(back)), Err(Breach::Step));
        }
    }

    #[test]
    fn the_largest_step_is_257() {
        let mut gap = Gap::new();
        gap.accept(0).unwrap();
        assert_eq!(gap.accept(257), Ok(()));
        let mut gap = Gap::new();
        gap.accept(0).unwrap();
        assert_eq!(gap.accept(258), Err(Breach::Step));
    }

    #[test]
    fn more_than_256_missing_in_the_window_is_a_breach() {
        let mut gap = Gap::new();
        gap.accept(0).unwrap();
        gap.accept(257).unwrap();
        assert_eq!(gap.accept(259), Err(Breach::Missing));
        // The same loss spread over more than a window is fine.
        let mut gap = Gap::new();
        let mut index = 0u32;
        for _ in 0..100 {
            for step in std::iter::repeat_n(1, 3_840).chain([257]) {
                index = index.wrapping_add(step);
                assert_eq!(gap.accept(index), Ok(()));
            }
        }
    }

    #[test]
    fn a_direction_wears_out() {
        let mut gap = Gap::new();
        gap.accept(0).unwrap();
        gap.passed = TUNNEL_CELLS - 2;
        assert_eq!(gap.accept(1), Ok(()));
        assert_eq!(gap.accept(2), Ok(()));
        assert_eq!(gap.accept(3), Err(Breach::Worn));
    }

    proptest! {
        #[test]
        fn the_bitmap_agrees_with_a_plain_list(steps in proptest::collection::vec(1u32..40, 1..2_000), first: u32) {
            let mut gap = Gap::new();
            let mut list: VecDeque<bool> = VecDeque::new();
            let mut index = first;
            gap.accept(index).unwrap();
            list.push_back(false);
            for step in steps {
                index = index.wrapping_add(step);
                list.extend((1..step).map(|_| true));
                list.push_back(false);
                while list.len() > GAP_WINDOW as usize { list.pop_front(); }
                let missing = list.iter().filter(|hole| **hole).count();
                let expected = if missing > GAP_MISSING as usize { Err(Breach::Missing) } else { Ok(()) };
                prop_assert_eq!(gap.accept(index), expected);
                if expected.is_err() { break; }
            }
        }
    }
}
