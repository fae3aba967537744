//! What a node measures of itself.

use std::{collections::BTreeMap, time::Duration};

use crate::link::Carried;

/// How often something was, by its kind. Kinds are words of this program, never of a peer.
pub type Tally = BTreeMap<&'static str, u64>;

/// A node at one moment, in numbers alone. Totals are counted since its start.
#[derive(Clone, Debug, Default)]
pub struct Measures {
    /// How long it has run.
    pub uptime: Duration,
    /// Nodes of the network that it knows.
    pub known_nodes: usize,
    /// Links that it has dialled and that stand.
    pub links_dialled: usize,
    /// Links that others have dialled and that stand.
    pub links_accepted: usize,
    /// What all links have carried.
    pub carried: Carried,
    /// Cells that wait for a link.
    pub cells_waiting: usize,
    /// Links that have ended, by reason.
    pub links_ended: Tally,
    /// Dials that brought no link, by reason.
    pub dials_failed: Tally,
    /// Own paths that stand, by purpose.
    pub paths: Tally,
    /// Own paths that were built.
    pub paths_built: u64,
    /// Own paths that were tried in vain.
    pub paths_failed: u64,
    /// How long the latest took to build, the quickest first.
    pub build_times: Vec<Duration>,
    /// How long all took together.
    pub build_time: Duration,
    /// Paths, own ones among them, that run through this node or begin here.
    pub paths_here: usize,
    /// Tunnels in them.
    pub tunnels_here: usize,
    /// Joins of an exit with an entry.
    pub joins: usize,
    /// Own tunnels.
    pub tunnels_own: usize,
    /// Tunnels closed because too much of them was missing.
    pub tunnels_broken: u64,
    /// Sessions as a client.
    pub sessions: usize,
    /// Visitors' sessions.
    pub visitors: usize,
    /// Published ports.
    pub services: usize,
    /// Ways in to them that stand.
    pub entries: usize,
}
