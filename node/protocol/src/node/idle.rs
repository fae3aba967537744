//! Links that nobody uses are closed (PROTOCOL §2.5).
//!
//! Each link costs both ends memory and dummies, and takes a place that somebody else may need. One that has carried no
//! path and no join for ten minutes is closed, unless it leads to a guard or to a partner.

use std::collections::{BTreeMap, BTreeSet};

use super::{Node, Output};
use crate::{
    limits::{LINK_IDLE, LINK_IDLE_SWEEP},
    time::Moment,
    wire::cell::LinkId,
};

/// Since when links were seen to carry nothing.
pub(super) struct IdleLinks {
    since: BTreeMap<LinkId, Moment>,
    look_at: Moment,
}

impl IdleLinks {
    pub(super) fn new(now: Moment) -> IdleLinks {
        IdleLinks { since: BTreeMap::new(), look_at: now + LINK_IDLE_SWEEP }
    }

    /// Whether it is time to look again.
    fn is_due(&mut self, now: Moment) -> bool {
        let due = self.look_at <= now;
        if due {
            self.look_at = now + LINK_IDLE_SWEEP;
        }
        due
    }

    /// Notes which links carry nothing now; says which have carried nothing for too long.
    fn handle_idle(&mut self, now: Moment, idle: &BTreeSet<LinkId>) -> Vec<LinkId> {
        self.since.retain(|link, _| idle.contains(link));
        for link in idle {
            self.since.entry(*link).or_insert(now);
        }
        let over = self.since.iter().filter(|(_, since)| now.since(**since) >= LINK_IDLE);
        let over: Vec<LinkId> = over.map(|(link, _)| *link).collect();
        over.iter().for_each(|link| _ = self.since.remove(link));
        over
    }
}

impl Node {
    /// Called by the sweep, once a second.
    pub(super) fn release_idle_links(&mut self, now: Moment) {
        if !self.idle_links.is_due(now) {
            return;
        }
        let mut idle: BTreeSet<LinkId> = self.switch.idle_links().into_iter().collect();
        idle.retain(|link| !self.is_needed(*link));
        for link in self.idle_links.handle_idle(now, &idle) {
            self.outputs.push_back(Output::ReleaseLink(link));
        }
    }

    fn is_needed(&self, link: LinkId) -> bool {
        let is_guards = self.neighbours.node(link).is_none_or(|node| self.builds.is_guard(node));
        link.0 < LinkId::FIRST || is_guards || self.exchange.is_partner(link) || self.setups.uses(link)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_over_when_it_was_idle_each_time_somebody_looked() {
        let now = Moment(1_000_000);
        let mut links = IdleLinks::new(now);
        let both = BTreeSet::from([LinkId(5), LinkId(6)]);
        assert!(links.handle_idle(now, &both).is_empty());
        // A path has come and gone on one of them.
        assert!(links.handle_idle(now + LINK_IDLE_SWEEP, &BTreeSet::from([LinkId(5)])).is_empty());
        assert_eq!(links.handle_idle(now + LINK_IDLE, &both), [LinkId(5)]);
        assert_eq!(links.handle_idle(now + LINK_IDLE + LINK_IDLE, &BTreeSet::from([LinkId(6)])), [LinkId(6)]);
        assert!(links.since.is_empty());
    }
}
