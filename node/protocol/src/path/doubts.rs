//! Nodes that circles do better without for a while (PROTOCOL §4.1).
//!
//! Nobody says who let a circle fail, or a path's tunnels die: all its members come under doubt, the dead or dishonest
//! one among them again and again, the others until a circle with them succeeds. A node in doubt is taken where others
//! do not suffice, the least doubtful first. Nothing is said about guards here: they have a count of their own.

use std::collections::BTreeMap;

use crate::{
    identity::NodeId,
    limits::{DOUBT, DOUBTED},
    time::Moment,
};

/// How much more a path that was left says than a circle that failed.
const LEFT: u32 = 8;

/// What is held against nodes.
#[derive(Clone, Debug, Default)]
pub struct Doubts {
    marks: BTreeMap<NodeId, Mark>,
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    /// Failed circles with it, and dials that failed, since a circle with it has succeeded.
    failures: u32,
    /// Whether a path of which it was a hop was left: that setups pass says nothing of its cells.
    left: bool,
    until: Moment,
}

impl Mark {
    fn weight(&self) -> u32 {
        self.failures + if self.left { LEFT } else { 0 }
    }
}

impl Doubts {
    /// A circle with these nodes has failed, or they could not be reached.
    pub fn handle_failure(&mut self, now: Moment, nodes: impl IntoIterator<Item = NodeId>) {
        for node in nodes {
            self.mark(now, node, |mark| mark.failures = mark.failures.saturating_add(1).min(LEFT - 1));
        }
    }

    /// A path with these hops was left.
    pub fn handle_left(&mut self, now: Moment, hops: impl IntoIterator<Item = NodeId>) {
        for node in hops {
            self.mark(now, node, |mark| mark.left = true);
        }
    }

    /// A circle with these nodes has succeeded.
    pub fn handle_success<'a>(&mut self, nodes: impl IntoIterator<Item = &'a NodeId>) {
        for node in nodes {
            if let Some(mark) = self.marks.get_mut(node) {
                mark.failures = 0;
            }
        }
        self.marks.retain(|_, mark| mark.left || mark.failures > 0);
    }

    /// How doubtful nodes are. Who is not named is not doubted.
    pub fn weights(&mut self, now: Moment) -> BTreeMap<NodeId, u32> {
        self.marks.retain(|_, mark| now < mark.until);
        self.marks.iter().map(|(node, mark)| (*node, mark.weight())).collect()
    }

    fn mark(&mut self, now: Moment, node: NodeId, change: impl FnOnce(&mut Mark)) {
        if !self.marks.contains_key(&node) && self.marks.len() >= DOUBTED {
            // The least doubtful first: strangers can make us dial many nodes in vain.
            let least = self.marks.iter().min_by_key(|(_, mark)| (mark.weight(), mark.until));
            let least = least.map(|(node, _)| *node);
            least.map(|least| self.marks.remove(&least));
        }
        let mark = self.marks.entry(node).or_insert(Mark { failures: 0, left: false, until: now });
        change(mark);
        mark.until = now + DOUBT;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Moment = Moment(1_000_000);

    fn node(number: u16) -> NodeId {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&number.to_be_bytes());
        NodeId::from_bytes(bytes)
    }

    #[test]
    fn who_is_in_every_failed_circle_stands_out_and_success_clears_the_others() {
        let mut doubts = Doubts::default();
        let dead = node(0);
        for other in 1..=4 {
            doubts.handle_failure(NOW, [dead, node(other)]);
        }
        let weights = doubts.weights(NOW);
        assert!((1..=4).all(|other| weights[&node(other)] < weights[&dead]));
        doubts.handle_success(&[node(1), node(2)]);
        assert_eq!(doubts.weights(NOW).keys().copied().collect::<Vec<_>>(), [dead, node(3), node(4)]);
    }

    #[test]
    fn a_hop_of_a_path_that_was_left_weighs_more_and_is_not_cleared_by_a_circle() {
        let mut doubts = Doubts::default();
        doubts.handle_left(NOW, [node(1)]);
        (0..100).for_each(|_| doubts.handle_failure(NOW, [node(2)]));
        doubts.handle_success(&[node(1)]);
        let weights = doubts.weights(NOW);
        assert!(weights[&node(1)] > weights[&node(2)]);
    }

    #[test]
    fn doubts_pass_and_are_bounded() {
        let mut doubts = Doubts::default();
        doubts.handle_failure(NOW, (0..1_000).map(node));
        assert_eq!(doubts.weights(NOW).len(), DOUBTED);
        assert!(doubts.weights(NOW + DOUBT).is_empty());
    }
}
