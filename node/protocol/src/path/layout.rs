//! Where X- and Y-nodes stand in a circle (PROTOCOL §4).
//!
//! The sequence, for n X-nodes: `Y X Y X .. Y X`, then n-1 more Ys (at least one), in a direction drawn at random; so no
//! two X are adjacent, one end has one Y, the other n-1. The order of the X-nodes in the *path* is a random permutation
//! of their order in the sequence: neighbours in the path cannot conclude from the circle where in the path they are.

use rand::{RngExt, seq::SliceRandom};
use rand_core::CryptoRng;

use crate::limits::GUARDS_PER_CIRCLE;

/// Places are counted from the first node after the owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    len: usize,
    /// Where the X-nodes stand in the sequence, in the order of the path.
    pub path: Vec<usize>,
}

impl Layout {
    /// For 1 to 8 hops.
    pub fn draw(hops: usize, rng: &mut impl CryptoRng) -> Layout {
        let helpers = (2 * hops).saturating_sub(1).max(2);
        let len = hops + helpers;
        let mut path: Vec<usize> = (0..hops).map(|hop| 2 * hop + 1).collect();
        if rng.random() {
            path.iter_mut().for_each(|place| *place = len - 1 - *place);
        }
        path.shuffle(rng);
        Layout { len, path }
    }

    /// Nodes of the circle besides the owner.
    pub fn len(&self) -> usize {
        self.len
    }

    /// First and last of the sequence, and X1: what sees the owner's address.
    pub fn guard_places(&self) -> [usize; GUARDS_PER_CIRCLE] {
        [0, self.len - 1, self.path.first().copied().unwrap_or_default()]
    }

    /// What stands next to a guard, in the sequence or in the path, and is none.
    pub fn places_beside_guards(&self) -> Vec<usize> {
        let guards = self.guard_places();
        let beside = |place: usize| {
            let in_sequence = guards.iter().any(|guard| guard.abs_diff(place) == 1);
            in_sequence || self.path.get(1) == Some(&place)
        };
        (0..self.len).filter(|place| !guards.contains(place) && beside(*place)).collect()
    }

    /// The last node of the path.
    pub fn terminal(&self) -> usize {
        self.path.last().copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::{SeedableRng, rngs::ChaCha20Rng};

    use super::*;

    fn layouts(hops: usize) -> Vec<Layout> {
        let mut rng = ChaCha20Rng::from_seed([hops as u8; 32]);
        (0..500).map(|_| Layout::draw(hops, &mut rng)).collect()
    }

    #[test]
    fn the_largest_circle_fills_the_array() {
        let lengths: Vec<usize> = (1..=8).map(|hops| layouts(hops)[0].len()).collect();
        assert_eq!(lengths, [3, 5, 8, 11, 14, 17, 20, 23]);
    }

    #[test]
    fn no_two_x_are_adjacent_and_both_ends_are_y_as_many_as_the_rule_says() {
        for hops in 1..=8 {
            for layout in layouts(hops) {
                let mut x = layout.path.clone();
                x.sort();
                assert_eq!(x.len(), hops);
                assert!(x.windows(2).all(|pair| pair[1] - pair[0] >= 2));
                let mut ends = [x[0], layout.len() - 1 - x[hops - 1]];
                ends.sort();
                assert_eq!(ends, [1, (hops - 1).max(1)]);
            }
        }
    }

    #[test]
    fn direction_and_order_are_drawn() {
        let layouts = layouts(3);
        let short_end_first = layouts.iter().filter(|layout| layout.path.contains(&1)).count();
        assert!((200..300).contains(&short_end_first));
        let orders: BTreeSet<Vec<usize>> = layouts.iter().map(|layout| layout.path.clone()).collect();
        assert_eq!(orders.len(), 2 * 6);
    }

    #[test]
    fn guards_are_three_places_and_their_neighbours_are_others() {
        for hops in 1..=8 {
            for layout in layouts(hops) {
                let guards = BTreeSet::from(layout.guard_places());
                assert_eq!(guards.len(), 3);
                let beside = layout.places_beside_guards();
                assert!(beside.iter().all(|place| !guards.contains(place)) && beside.len() <= 5);
                assert_eq!(beside.is_empty(), hops == 1);
            }
        }
    }
}
