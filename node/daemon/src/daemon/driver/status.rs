//! How the node is, as the driver knows it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use phantom_protocol::{
    identity::NodeId,
    node::{Purpose, QuotaStatus, Relaying, ServiceId},
};

use super::Driver;
use crate::doors::{Paths, ReadyPath, Tally};

/// What the driver knows of how the node is.
#[derive(Default)]
pub(in crate::daemon) struct DriverStatus {
    pub known_nodes: usize,
    pub paths: Paths,
    pub relays_in_use: Vec<String>,
    pub obstacle: Option<String>,
    pub notice: Option<String>,
    /// Ways in by service.
    pub entries: BTreeMap<ServiceId, usize>,
    /// Those in use, and how the user reads them.
    pub guards: Vec<(NodeId, String)>,
    pub relaying: Option<Relaying>,
    /// How long the latest paths took to build, the quickest first; and how long all took together.
    pub build_times: Vec<Duration>,
    pub build_time: Duration,
    /// By reason.
    pub links_ended: Tally,
    pub dials_failed: Tally,
    pub quota: Option<QuotaStatus>,
}

impl Driver {
    pub(super) fn status(&self) -> DriverStatus {
        let stats = self.node.build_stats();
        let mut times: Vec<Duration> = stats.times.iter().copied().collect();
        times.sort_unstable();
        let unix = self.clock.unix();
        let guards = self.node.guards(unix).into_iter().map(|guard| (guard, self.node.describe(&guard)));
        let ready = self.node.paths().map(|(_, path)| ReadyPath {
            relays: path.relays.iter().map(|relay| self.node.describe(relay)).collect(),
            purpose: purpose_name(path.purpose).into(),
            expires_in: path.expiry.0.saturating_sub(unix.0),
        });
        let paths = Paths {
            hops: self.node.hops(),
            ready: ready.collect(),
            built: stats.succeeded,
            failed: stats.failed,
            build_ms: times.get(times.len() / 2).map(|time| time.as_millis() as u64),
        };
        let relays: BTreeSet<String> =
            paths.ready.iter().flat_map(|path| path.relays.iter().cloned()).collect();
        DriverStatus {
            known_nodes: self.node.known_nodes(),
            guards: guards.collect(),
            paths,
            relays_in_use: relays.into_iter().collect(),
            obstacle: stats.obstacle.as_ref().map(ToString::to_string),
            notice: stats.notice.as_ref().map(ToString::to_string),
            relaying: Some(self.node.relaying(self.clock.now())),
            quota: self.node.quota(unix),
            entries: self.services.keys().map(|id| (*id, self.node.entries(*id))).collect(),
            build_times: times,
            build_time: stats.spent,
            links_ended: self.links_ended.clone(),
            dials_failed: self.dials_failed.clone(),
        }
    }
}

fn purpose_name(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::Free => "free",
        Purpose::Group(_) => "client",
        Purpose::Service(_) => "service",
        Purpose::Trial(_) => "trial",
    }
}
