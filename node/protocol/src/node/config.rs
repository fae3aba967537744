//! What a node is made of.

use std::sync::Arc;

use super::Relay;
#[cfg(doc)]
use super::{Node, Output};
use crate::{identity::NodeSecret, network::Network, wire::contact::Contact};

/// Who a node is, what it wants, and what it kept of an earlier life.
pub struct NodeConfig {
    /// Who it is.
    pub secret: Arc<NodeSecret>,
    /// How others reach it. Without an address it is unlisted: it owns paths, and serves in none.
    pub contact: Contact,
    /// Whether it serves in the paths of others, if it is listed.
    pub relay: Relay,
    /// Bytes a month over its links after which it ceases to relay.
    pub quota: Option<u64>,
    /// What [`Output::KeepSpending`] gave in an earlier life.
    pub spending: Option<Vec<u8>>,
    /// The network's parameters.
    pub network: Network,
    /// Nodes that share an operator with this one.
    pub family: Option<[u8; 16]>,
    /// X-nodes of its paths.
    pub hops: usize,
    /// Ready paths kept ahead of need.
    pub pool: usize,
    /// Nodes of friends: where it begins to learn who else there is.
    pub friends: Vec<Contact>,
    /// Records of nodes that it knew in an earlier life: what [`Node::records`] gave.
    pub remembered: Vec<Vec<u8>>,
    /// What [`Output::Persist`] gave in an earlier life.
    pub kept: Option<Vec<u8>>,
    /// Where all its randomness comes from.
    pub seed: [u8; 32],
}
