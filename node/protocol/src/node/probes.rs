//! Whether paths still carry anything: an echo now and then (PROTOCOL §4, §6).
//!
//! A hop that lets cells vanish ends no path, so nobody would notice. The paths of services are tried every few minutes,
//! for their owner sees nothing of the clients that never get through; a client's path is tried when somebody says that
//! it has failed. A path that twice does not bring back an echo is ended, and replaced as any other.

use std::{collections::BTreeMap, time::Duration};

use rand::RngExt;

use super::{Node, Purpose};
use crate::{
    limits::ROUND_TIMEOUT,
    time::{Moment, Now},
    tunnel::{Outlet, OwnedPathId},
    wire::opener::Opener,
};

/// A service's path is tried this often, give or take a quarter.
const PROBE: Duration = Duration::from_secs(240);
/// Echoes in a row that may get lost: one cell may be dropped on the way by honest relays.
const TRIES: u32 = 2;

/// The paths that are tried.
#[derive(Debug, Default)]
pub struct Probes {
    under_way: BTreeMap<OwnedPathId, Probe>,
    /// When paths of services are tried next.
    due: BTreeMap<OwnedPathId, Moment>,
}

#[derive(Debug)]
struct Probe {
    deadline: Moment,
    tries: u32,
}

impl Probes {
    /// The echo came back, or the path is no more.
    pub fn handle_end(&mut self, path: OwnedPathId) {
        self.under_way.remove(&path);
    }

    /// The path is gone.
    pub fn forget(&mut self, path: OwnedPathId) {
        self.handle_end(path);
        self.due.remove(&path);
    }

    /// Paths that are remembered here.
    pub fn len(&self) -> usize {
        self.under_way.len() + self.due.len()
    }
}

impl Node {
    /// Somebody says that these paths have failed.
    pub(super) fn suspect(&mut self, now: Now, paths: &[OwnedPathId], out: &mut impl Outlet) {
        for path in paths {
            if self.pool.get(*path).is_some() && !self.probes.under_way.contains_key(path) {
                self.probe(now, *path, 1, out);
            }
        }
    }

    /// Ends what has brought nothing back, tries what is due. Called by the sweep, once a second.
    pub(super) fn drive_probes(&mut self, now: Now, out: &mut impl Outlet) {
        let over = self.probes.under_way.iter().filter(|(_, probe)| probe.deadline <= now.moment);
        for (path, tries) in over.map(|(path, probe)| (*path, probe.tries)).collect::<Vec<_>>() {
            if tries < TRIES {
                self.probe(now, path, tries + 1, out);
            } else {
                self.leave_path(now, path, out);
            }
        }
        let due = self.probes.due.iter().filter(|(_, at)| **at <= now.moment);
        for path in due.map(|(path, _)| *path).collect::<Vec<_>>() {
            self.probe(now, path, 1, out);
            self.schedule_probe(now, path);
        }
    }

    /// A path of a service is tried from now on.
    pub(super) fn schedule_probe(&mut self, now: Now, path: OwnedPathId) {
        let serves = self.pool.get(path).map(|ready| ready.purpose);
        if matches!(serves, Some(Purpose::Service(_))) {
            let wait = PROBE.mul_f64(self.rng.random_range(0.75..=1.25));
            self.probes.due.insert(path, now.moment + wait);
        } else {
            self.probes.due.remove(&path);
        }
    }

    fn probe(&mut self, now: Now, path: OwnedPathId, tries: u32, out: &mut impl Outlet) {
        // A path that takes no opener because it is full has shown that it works.
        if self.switch.open_tunnel(now.moment, path, &Opener::Echo, out).is_some() {
            let deadline = now.moment + ROUND_TIMEOUT;
            self.probes.under_way.insert(path, Probe { deadline, tries });
        } else {
            self.probes.handle_end(path);
        }
    }
}
