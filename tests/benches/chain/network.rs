//! The chain: daemons on loopback addresses, one /16 each, the last two of which are client and host.

use std::net::IpAddr;

use anyhow::{Context, Result};
use phantom_node::{
    daemon::{Config, Daemon},
    doors::HostRequest,
    session::{Group, SessionStream},
};
use phantom_protocol::{address::ApName, identity::ApPublic, network::Network, node::Relay};
use tokio::net::TcpListener;

use crate::{Column, load};

/// Where the hosted port is reached.
const PORT: u16 = 80;
/// Paths that client and host keep ready.
const POOL: usize = 3;

/// Running daemons.
pub struct Chain {
    daemons: Vec<Daemon>,
    client: Daemon,
    peer: ApPublic,
}

impl Chain {
    /// Starts as many daemons as paths of this length need, and hosts a port on one of them.
    pub async fn start(hops: usize) -> Result<Chain> {
        let network = Network::private("chain");
        let mut daemons: Vec<Daemon> = Vec::new();
        let count = 12.max(4 * hops + 2);
        for number in 0..count {
            let address: IpAddr = format!("127.{}.0.1", 16 + number).parse()?;
            let mut config = Config::new(network.clone());
            config.listen = Some((address, 0).into());
            config.source = Some(address);
            config.relay = Relay::Always;
            config.hops = hops;
            config.pool = if number + 2 >= count { POOL } else { 0 };
            let invitation = daemons.first().and_then(Daemon::invitation);
            config.friends = invitation.iter().map(|invitation| invitation.contact()).collect();
            daemons.push(Daemon::start(config).await?);
        }
        let [.., host, client] = daemons.as_slice() else { anyhow::bail!("no daemons") };
        let client = client.clone();
        if hops > 0 {
            client.paths_ready(POOL).await?;
        }
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let request = HostRequest::new(PORT, listener.local_addr()?, "chain");
        tokio::spawn(load::serve(listener));
        let hosted = host.host(request, hops).await?;
        let name: ApName = hosted.name.parse().context("the name of what is hosted")?;
        Ok(Chain { peer: *name.public(), client, daemons })
    }

    /// A stream of the client to the hosted port.
    pub async fn connect(&self, group: &str) -> Result<SessionStream> {
        Ok(self.client.connect(&Group::new(group), self.peer, PORT).await?)
    }

    /// What all daemons have counted so far.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for daemon in &self.daemons {
            counts.dropped += daemon.link_stats().iter().map(|link| link.dropped).sum::<u64>();
            counts.broken += daemon.tunnels_broken();
            for session in daemon.hosted_sessions() {
                counts.sent += session.packets_sent;
                counts.lost += session.packets_lost;
            }
        }
        counts
    }

    pub async fn stop(&self) {
        for daemon in &self.daemons {
            daemon.stop().await;
        }
    }
}

/// What goes wrong on the way.
#[derive(Default)]
pub struct Counts {
    /// Packets of the host's sessions.
    pub sent: u64,
    /// Of these, sent again.
    pub lost: u64,
    /// Cells that queues have dropped.
    pub dropped: u64,
    /// Tunnels closed by the gap rule.
    pub broken: u64,
}

impl Counts {
    pub fn since(&self, before: &Counts) -> Counts {
        Counts {
            sent: self.sent.saturating_sub(before.sent),
            lost: self.lost.saturating_sub(before.lost),
            dropped: self.dropped.saturating_sub(before.dropped),
            broken: self.broken.saturating_sub(before.broken),
        }
    }

    pub fn rows(&self, [lost, dropped]: [&'static str; 2]) -> Column {
        let share = 100.0 * self.lost as f64 / self.sent.max(1) as f64;
        vec![(lost, format!("{share:.3}")), (dropped, self.dropped.to_string())]
    }
}
