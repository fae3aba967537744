//! A started node with its doors, and its end.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

use crate::{
    daemon::Daemon,
    doors::{Doors, RunningNode},
};

/// Where the proxy port is if nobody says otherwise.
pub(super) const SOCKS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9070);

/// Serves the doors of a node until what is returned is aborted, or the runtime ends.
pub(super) fn open(daemon: &Daemon, doors: Doors) -> JoinHandle<()> {
    let socks: Option<SocketAddr> = doors.socks.as_ref().and_then(|listener| listener.local_addr().ok());
    let dns = doors.dns.as_ref().and_then(|port| port.address().ok());
    tokio::spawn(doors.serve(Arc::new(RunningNode::new(daemon.clone(), socks, dns))))
}

/// Waits for Ctrl-C or a polite kill.
pub(super) async fn asked_to_end() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        result = tokio::signal::ctrl_c() => result,
        _ = terminate.recv() => Ok(()),
    }
}

/// Ends nodes in order, but not against a second Ctrl-C.
pub(super) async fn end(nodes: &[Daemon]) {
    let all = futures_util::future::join_all(nodes.iter().map(Daemon::stop));
    tokio::select! {
        _ = tokio::time::timeout(Duration::from_secs(5), all) => {}
        _ = asked_to_end() => {}
    }
}

/// A node holds a socket for each link and each program: as many as the system lets us have.
pub(super) fn raise_limits() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
}
