//! Which links stand, and who waits for one that does not yet.

use std::collections::BTreeMap;

use crate::{identity::NodeId, wire::cell::LinkId};

/// Links to other nodes, and waiters of kind `W`.
#[derive(Debug)]
pub struct Neighbours<W> {
    by_node: BTreeMap<NodeId, LinkId>,
    by_link: BTreeMap<LinkId, NodeId>,
    waiting: BTreeMap<NodeId, Vec<W>>,
}

impl<W> Neighbours<W> {
    /// Only the link of a node to itself stands from the start.
    pub fn new(own: NodeId) -> Self {
        Neighbours {
            by_node: BTreeMap::from([(own, LinkId::LOOP_A)]),
            by_link: BTreeMap::from([(LinkId::LOOP_A, own), (LinkId::LOOP_B, own)]),
            waiting: BTreeMap::new(),
        }
    }

    /// The link to a node, if it stands.
    pub fn link(&self, node: &NodeId) -> Option<LinkId> {
        self.by_node.get(node).copied()
    }

    /// Who is at the other end of a link.
    pub fn node(&self, link: LinkId) -> Option<NodeId> {
        self.by_link.get(&link).copied()
    }

    /// A link stands: it is the one to use for this node from now on. Returns who waited.
    pub fn up(&mut self, node: NodeId, link: LinkId) -> Vec<W> {
        self.by_node.insert(node, link);
        self.by_link.insert(link, node);
        self.waiting.remove(&node).unwrap_or_default()
    }

    /// A link is gone. Returns whose it was.
    pub fn down(&mut self, link: LinkId) -> Option<NodeId> {
        let node = self.by_link.remove(&link)?;
        if self.by_node.get(&node) == Some(&link) {
            self.by_node.remove(&node);
        }
        Some(node)
    }

    /// Puts a waiter down for a node without a link; true if it is the first, so that somebody has to dial.
    pub fn wait(&mut self, node: NodeId, waiter: W) -> bool {
        let waiting = self.waiting.entry(node).or_default();
        waiting.push(waiter);
        waiting.len() == 1
    }

    /// Whether somebody waits for a link to this node already, so that a dial is under way.
    pub fn is_awaited(&self, node: &NodeId) -> bool {
        self.waiting.contains_key(node)
    }

    /// The node could not be reached. Returns who waited.
    pub fn unreachable(&mut self, node: &NodeId) -> Vec<W> {
        self.waiting.remove(node).unwrap_or_default()
    }

    /// Nodes that somebody waits for.
    pub fn awaited(&self) -> usize {
        self.waiting.len()
    }

    /// The links to other nodes.
    pub fn links(&self) -> impl Iterator<Item = (NodeId, LinkId)> {
        self.by_node.iter().map(|(node, link)| (*node, *link)).filter(|(_, link)| link.0 >= LinkId::FIRST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u8) -> NodeId {
        NodeId::from_bytes([number; 32])
    }

    #[test]
    fn only_the_first_who_waits_for_a_node_has_to_dial() {
        let mut neighbours = Neighbours::new(node(0));
        assert!(neighbours.wait(node(1), "a"));
        assert!(!neighbours.wait(node(1), "b"));
        assert!(neighbours.wait(node(2), "c"));
        assert_eq!(neighbours.up(node(1), LinkId(7)), ["a", "b"]);
        assert_eq!(neighbours.unreachable(&node(2)), ["c"]);
        assert_eq!(neighbours.awaited(), 0);
        assert!(neighbours.wait(node(2), "d"), "a new dial");
    }

    #[test]
    fn the_end_of_an_older_link_leaves_the_newer_one() {
        let mut neighbours = Neighbours::<()>::new(node(0));
        neighbours.up(node(1), LinkId(7));
        neighbours.up(node(1), LinkId(8));
        assert_eq!(neighbours.down(LinkId(7)), Some(node(1)));
        assert_eq!(neighbours.link(&node(1)), Some(LinkId(8)));
        assert_eq!(neighbours.down(LinkId(8)), Some(node(1)));
        assert_eq!((neighbours.link(&node(1)), neighbours.down(LinkId(8))), (None, None));
    }

    #[test]
    fn the_link_to_oneself_stands_and_is_not_one_to_another_node() {
        let neighbours = Neighbours::<()>::new(node(0));
        assert_eq!(neighbours.link(&node(0)), Some(LinkId::LOOP_A));
        assert_eq!(neighbours.links().count(), 0);
    }
}
