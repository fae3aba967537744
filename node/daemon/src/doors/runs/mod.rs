//! Runs: programs under `phantom run`, whose own sockets are handed over to the node.
//!
//! A run is begun over the local socket, which knows who asks. That connection becomes their [`conversation`], and the run
//! lasts as long as it does. Its isolation group is its own: programs of a run share names, paths and sessions with
//! nobody else. Within it, circles share names, but neither paths nor sessions.

mod carry;
mod conversation;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use phantom_protocol::{
    address::{ApAddress, ApName},
    identity::ApSecret,
};
use phantom_proxy::Isolation;
use rand::RngExt;
use tokio::{
    net::UnixStream,
    sync::{OwnedSemaphorePermit, Semaphore},
};

use super::{
    CommandHandle, Names, Serving, SocksDoor,
    local_socket::Publish,
    metrics::{Counted, Wishes},
    names::Found,
    socks::group,
    visitors::{Visitors, Visits},
};
use crate::daemon::fresh_rng;

/// Runs at once.
const RUNS: usize = 1_024;
/// Connections and flows of all runs, and of one.
const CONNECTIONS: usize = 8_192;
const OF_A_RUN: usize = 2_048;
/// What makes a run's isolation group its own.
const SECRET: usize = 16;

/// The runs of a node.
#[derive(Debug)]
pub struct Runs<N> {
    node: Arc<N>,
    names: Arc<Names>,
    dialler: Counted<SocksDoor<N>>,
    runs: Arc<Semaphore>,
    connections: Arc<Semaphore>,
}

/// One run.
#[derive(Debug)]
struct Run<N> {
    runs: Arc<Runs<N>>,
    secret: [u8; SECRET],
    connections: Arc<Semaphore>,
}

/// A run that is about to converse.
#[derive(Debug)]
pub struct Begun<N> {
    run: Arc<Run<N>>,
    /// Its own AP address: other parties see it, if at all, under this one.
    pub address: Ipv6Addr,
    /// Under which others come to its servers, if they can.
    pub name: Option<ApName>,
    visits: Option<Visits>,
    _online: Option<Serving>,
    _place: OwnedSemaphorePermit,
}

impl<N: CommandHandle> Runs<N> {
    /// None yet.
    pub(super) fn new(node: Arc<N>, names: Arc<Names>, wishes: Arc<Wishes>) -> Runs<N> {
        let dialler = Counted::new(SocksDoor::new(node.clone(), names.clone()), wishes);
        let (runs, connections) = (Semaphore::new(RUNS), Semaphore::new(CONNECTIONS));
        Runs { node, names, dialler, runs: runs.into(), connections: connections.into() }
    }

    /// Begins a run. If it is to be published, others find it in a moment.
    pub async fn begin(self: &Arc<Runs<N>>, publish: Option<Publish>) -> anyhow::Result<Begun<N>> {
        let place = self.runs.clone().try_acquire_owned();
        let _place = place.map_err(|_| anyhow::anyhow!("{RUNS} programs run already: end some first"))?;
        let mut random = fresh_rng()?;
        let (visits, online) = match publish {
            Some(publish) => {
                let (visitors, visits) = Visitors::new();
                let online = self.node.serve(publish.label.as_deref(), Arc::new(visitors)).await?;
                (Some(visits), Some(online))
            }
            None => (None, None),
        };
        let name = online.as_ref().map(|online| online.name);
        // Without a name nobody can be reached under it: the secret is gone.
        let public = name.map_or_else(|| ApSecret::generate(&mut random).public(), |name| *name.public());
        let connections = Arc::new(Semaphore::new(OF_A_RUN));
        let run = Arc::new(Run { runs: self.clone(), secret: random.random(), connections });
        Ok(Begun { run, address: ApAddress::of(&public).into(), name, visits, _online: online, _place })
    }
}

impl<N: CommandHandle> Begun<N> {
    /// Does what the run asks for, until it ends the conversation.
    pub async fn converse(self, stream: UnixStream) -> std::io::Result<()> {
        conversation::converse(&self.run, stream, self.visits).await
    }
}

impl<N: CommandHandle> Run<N> {
    /// The AP address and the local alias of a name.
    fn addresses_of(&self, name: ApName) -> (Ipv6Addr, Option<Ipv4Addr>) {
        let (group, names) = (self.group(), &self.runs.names);
        (names.remember(&group, name), names.alias(&group, name))
    }

    /// Whose an address is, if this run has asked for it.
    fn party(&self, address: IpAddr) -> Option<Found> {
        self.runs.names.find(&self.group(), address)
    }

    /// The group of its names.
    fn group(&self) -> String {
        group(&self.isolation(0))
    }

    /// The group of the paths and sessions of a circle.
    fn isolation(&self, circle: u64) -> Isolation {
        let password = [&self.secret[..], &circle.to_be_bytes()].concat();
        Isolation::Credentials { user: b"phantom run".to_vec(), password }
    }
}
