//! All isolation groups start afresh: what any of them has used is ended, so that nothing that comes after can be linked to
//! what was before (PROTOCOL §1.4). The daemon gives groups new numbers with it.

use super::{Node, OpenFailure, Purpose};
use crate::{time::Now, tunnel::Outlet};

impl Node {
    /// Ends all paths that groups have drawn, and says how many. Paths that nobody has drawn have carried nothing, and those
    /// of services are known by what they serve: they stay.
    pub fn handle_new_groups(&mut self, now: Now, out: &mut impl Outlet) -> usize {
        // Who waits would draw a path for a group that is no more.
        for open in std::mem::take(&mut self.opens) {
            self.refuse(open.request(), OpenFailure::NoPath(None));
        }
        let drawn = self.pool.iter().filter(|(_, path)| matches!(path.purpose, Purpose::Group(_)));
        let drawn: Vec<_> = drawn.map(|(id, _)| id).collect();
        for path in &drawn {
            self.switch.end_owned_path(*path, out);
            self.forget_path(now, *path);
        }
        self.settle(now, out);
        drawn.len()
    }
}
