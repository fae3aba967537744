//! Paths whose tunnels keep dying are left (PROTOCOL §4.7).
//!
//! A hop that spoils cells ends no path: each tunnel in it just dies, by the fault that an honest hop or this owner finds
//! in it. A tunnel that stands for half a minute has lived, and shows that the path carries; one that is closed before
//! has died early. After a few early deaths in a row the path is ended and its hops are avoided for a while. The far
//! end, too, can close tunnels, and a client may choose by which path it comes in: so accepting paths have more patience,
//! and no more than a few paths behind one guard are left within an hour, or whoever wants an owner to draw new nodes
//! could make it do so as fast as it builds. Guards stay.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use super::{Node, Purpose};
use crate::{
    identity::NodeId,
    limits::{EARLY_DEATHS, EARLY_DEATHS_ACCEPTING, PATHS_LEFT, TUNNEL_LIVES},
    time::{Moment, Now},
    tunnel::{Outlet, OwnedPathId, OwnerTunnelId},
};

/// Within this time [`PATHS_LEFT`] paths behind one guard may be left.
const HOUR: Duration = Duration::from_secs(3_600);

/// What is known of the youth of tunnels.
#[derive(Debug, Default)]
pub(super) struct Deaths {
    young: BTreeMap<OwnerTunnelId, Young>,
    /// Early deaths in a row.
    early: BTreeMap<OwnedPathId, u32>,
    /// When paths were left, by X1.
    left: BTreeMap<NodeId, VecDeque<Moment>>,
}

#[derive(Debug)]
struct Young {
    path: OwnedPathId,
    grown: Moment,
    /// Its far end has answered, or it comes from there.
    stands: bool,
}

impl Deaths {
    /// A tunnel was opened. One that has come in stands already.
    pub(super) fn handle_birth(
        &mut self,
        now: Moment,
        tunnel: OwnerTunnelId,
        path: OwnedPathId,
        stands: bool,
    ) {
        self.young.insert(tunnel, Young { path, grown: now + TUNNEL_LIVES, stands });
    }

    /// The far end has joined it.
    pub(super) fn handle_joined(&mut self, tunnel: OwnerTunnelId) {
        if let Some(young) = self.young.get_mut(&tunnel) {
            young.stands = true;
        }
    }

    /// The exit has said why there is no tunnel: the path has carried the answer.
    pub(super) fn handle_refused(&mut self, tunnel: OwnerTunnelId) {
        self.young.remove(&tunnel);
    }

    /// A tunnel was closed by the network, or by a fault. Says which path has lost one early, and how many in a row.
    fn handle_death(&mut self, tunnel: OwnerTunnelId) -> Option<(OwnedPathId, u32)> {
        let Young { path, .. } = self.young.remove(&tunnel)?;
        let deaths = self.early.entry(path).or_default();
        *deaths += 1;
        Some((path, *deaths))
    }

    /// Tunnels that are old enough; whoever `is_open` has lived.
    pub(super) fn handle_timeout(&mut self, now: Moment, is_open: impl Fn(OwnerTunnelId) -> bool) {
        let grown: Vec<OwnerTunnelId> =
            self.young.iter().filter(|(_, young)| young.grown <= now).map(|(tunnel, _)| *tunnel).collect();
        for tunnel in grown {
            if let Some(Young { path, stands: true, .. }) = self.young.remove(&tunnel)
                && is_open(tunnel)
            {
                self.early.remove(&path);
            }
        }
        self.left.retain(|_, times| {
            times.retain(|time| now.since(*time) < HOUR);
            !times.is_empty()
        });
    }

    /// The path is gone.
    pub(super) fn forget(&mut self, path: OwnedPathId) {
        self.early.remove(&path);
        self.young.retain(|_, young| young.path != path);
    }

    /// Whether one more path behind this guard may be left now; counts it.
    fn may_leave(&mut self, now: Moment, guard: NodeId) -> bool {
        let times = self.left.entry(guard).or_default();
        times.retain(|time| now.since(*time) < HOUR);
        let allowed = times.len() < PATHS_LEFT;
        if allowed {
            times.push_back(now);
        }
        allowed
    }

    /// What is remembered here.
    pub(super) fn len(&self) -> usize {
        self.young.len() + self.early.len()
    }
}

impl Node {
    /// A tunnel of ours is gone without our doing.
    pub(super) fn note_death(&mut self, now: Now, tunnel: OwnerTunnelId, out: &mut impl Outlet) {
        let Some((id, deaths)) = self.deaths.handle_death(tunnel) else { return };
        let Some(path) = self.pool.get(id) else { return };
        let accepts = matches!(path.purpose, Purpose::Service(_));
        let patience = if accepts { EARLY_DEATHS_ACCEPTING } else { EARLY_DEATHS };
        // Length 0 has no relay to blame.
        let Some(guard) = path.relays.first().copied().filter(|first| *first != self.config.secret.id())
        else {
            return;
        };
        // Where the path itself has ended, its tunnels have died of that.
        if deaths >= patience && self.switch.has_path(id) && self.deaths.may_leave(now.moment, guard) {
            // Far ends can make tunnels die, so nobody is doubted for it: what doubts do to the choice of nodes would
            // tell them which identities are one owner's, and let them steer it.
            self.switch.end_owned_path(id, out);
            self.forget_path(now, id);
        }
    }

    /// Ends a path that brought back no echo, which no far end can cause, and avoids its hops for a while.
    pub(super) fn leave_path(&mut self, now: Now, id: OwnedPathId, out: &mut impl Outlet) {
        if let Some(path) = self.pool.get(id) {
            self.builds.handle_path_left(now.moment, &path.relays);
        }
        self.switch.end_owned_path(id, out);
        self.forget_path(now, id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Moment = Moment(1_000_000);
    const PATH: OwnedPathId = OwnedPathId(1);

    fn dies(deaths: &mut Deaths, number: u64) -> u32 {
        deaths.handle_birth(NOW, OwnerTunnelId(number), PATH, true);
        deaths.handle_death(OwnerTunnelId(number)).unwrap().1
    }

    #[test]
    fn early_deaths_count_in_a_row_until_a_tunnel_has_lived() {
        let mut deaths = Deaths::default();
        assert_eq!((dies(&mut deaths, 1), dies(&mut deaths, 2)), (1, 2));
        deaths.handle_birth(NOW, OwnerTunnelId(3), PATH, true);
        deaths.handle_timeout(NOW + TUNNEL_LIVES, |_| true);
        assert_eq!(dies(&mut deaths, 4), 1);
        assert_eq!(deaths.handle_death(OwnerTunnelId(3)), None, "it has lived");
    }

    #[test]
    fn tunnels_that_we_have_closed_or_that_nobody_has_answered_have_not_lived() {
        let mut deaths = Deaths::default();
        dies(&mut deaths, 1);
        deaths.handle_birth(NOW, OwnerTunnelId(2), PATH, false);
        deaths.handle_birth(NOW, OwnerTunnelId(3), PATH, true);
        deaths.handle_timeout(NOW + TUNNEL_LIVES, |tunnel| tunnel != OwnerTunnelId(3));
        assert_eq!(dies(&mut deaths, 4), 2);
    }

    #[test]
    fn what_an_exit_says_is_no_death() {
        let mut deaths = Deaths::default();
        deaths.handle_birth(NOW, OwnerTunnelId(1), PATH, false);
        deaths.handle_refused(OwnerTunnelId(1));
        assert_eq!(deaths.handle_death(OwnerTunnelId(1)), None);
    }

    #[test]
    fn no_more_than_a_few_paths_behind_a_guard_are_left_within_an_hour() {
        let mut deaths = Deaths::default();
        let (guard, other) = (NodeId::from_bytes([1; 32]), NodeId::from_bytes([2; 32]));
        let left = (0..100).filter(|second| deaths.may_leave(NOW + Duration::from_secs(*second), guard));
        assert_eq!(left.count(), PATHS_LEFT);
        assert!(deaths.may_leave(NOW, other));
        assert!(deaths.may_leave(NOW + HOUR, guard));
    }
}
