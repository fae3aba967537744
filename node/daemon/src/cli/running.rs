//! A started node with its doors, and its end.

use std::{
    future::pending,
    io::{self, IsTerminal},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinHandle,
};

use crate::{
    confinement::Report,
    daemon::Daemon,
    doors::{Doors, Ports, RunningNode},
};

/// Where the DNS port is if nobody says otherwise.
pub(super) const DNS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9053);

/// Where the proxy port is if nobody says otherwise.
pub(super) const SOCKS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9070);

/// Serves the doors of a node until what is returned is aborted, or the runtime ends.
pub(super) fn open(daemon: &Daemon, doors: Doors, confinement: Report) -> JoinHandle<()> {
    let ports = Ports {
        socks: doors.socks.as_ref().and_then(|listener| listener.local_addr().ok()),
        dns: doors.dns.as_ref().and_then(|port| port.address().ok()),
        transparent: doors.transparent.as_ref().and_then(|port| port.address().ok()),
        metrics: doors.metrics.as_ref().and_then(|port| port.address().ok()),
    };
    let node = RunningNode::new(daemon.clone(), ports, doors.names.clone(), confinement);
    tokio::spawn(doors.serve(Arc::new(node)))
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    End,
    Reload,
}

/// Ctrl-C, or a polite kill. While it lives, neither ends the process by itself.
pub(super) struct Asked {
    interrupt: Signal,
    terminate: Signal,
    hangup: Option<(Signal, Wish)>,
}

impl Asked {
    pub(super) fn new() -> io::Result<Asked> {
        let (interrupt, terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        Ok(Asked { interrupt, terminate, hangup: None })
    }

    /// SIGHUP, too: where there is a terminal, it is gone; where there is none, the configuration is to be read again.
    pub(super) fn or_hung_up(mut self) -> io::Result<Asked> {
        let on_terminal = io::stdin().is_terminal() || io::stdout().is_terminal();
        let wish = if on_terminal { Wish::End } else { Wish::Reload };
        self.hangup = Some((signal(SignalKind::hangup())?, wish));
        Ok(self)
    }

    /// Waits for the next signal.
    pub(super) async fn next(&mut self) -> Wish {
        let hangup = async {
            match &mut self.hangup {
                Some((signal, wish)) => signal.recv().await.map(|()| *wish),
                None => pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => Wish::End,
            _ = self.terminate.recv() => Wish::End,
            Some(wish) = hangup => wish,
        }
    }

    /// Waits until the end is asked for.
    pub(super) async fn until_end(&mut self) {
        while self.next().await != Wish::End {}
    }
}

/// Ends nodes in order, but not against a second Ctrl-C.
pub(super) async fn end(nodes: &[Daemon], asked: &mut Asked) {
    let all = futures_util::future::join_all(nodes.iter().map(Daemon::stop));
    tokio::select! {
        _ = tokio::time::timeout(Duration::from_secs(5), all) => {}
        () = asked.until_end() => {}
    }
}

/// A crash leaves no copy of the node's keys on the disk, and other programs of the same user cannot look into the process.
/// The limit alone would not hold where crashes are piped to a collector.
pub(super) fn keep_memory_private() -> io::Result<()> {
    use nix::sys::{
        prctl::set_dumpable,
        resource::{Resource, setrlimit},
    };
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    Ok(set_dumpable(false)?)
}

/// A node holds a socket for each link and each program: as many as the system lets us have.
pub(super) fn raise_limits() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::{
        prctl::get_dumpable,
        resource::{Resource, getrlimit},
    };

    #[test]
    fn a_crash_leaves_no_copy_of_the_memory() {
        super::keep_memory_private().unwrap();
        assert_eq!(getrlimit(Resource::RLIMIT_CORE).unwrap(), (0, 0));
        assert!(!get_dumpable().unwrap());
    }
}
