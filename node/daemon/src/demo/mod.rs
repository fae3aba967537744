//! `phantom demo`: a whole network in one process.
//!
//! Every node is started by [`Daemon::start`], the call that `phantom up` uses, and knows of the others only what the
//! network tells it. They listen on 127.16.0.1, 127.17.0.1 and so on: one /16 each, as the rule of diversity demands.

pub mod site;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, bail};
use phantom_protocol::{
    address::ApName, limits::MAX_HOPS, network::Network, node::Relay, wire::contact::Contact,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::{sleep, timeout},
};

use crate::{
    daemon::{Config, Daemon},
    doors::{HostRequest, Status},
    session::Group,
};

/// The second byte of the first node's address.
const FIRST_NET: u8 = 16;
/// Ready paths that the node of the user keeps.
const CLIENT_POOL: usize = 6;
/// And those that serve only.
const RELAY_POOL: usize = 1;
/// The network stands in seconds, or something is wrong.
const PATIENCE: Duration = Duration::from_secs(180);
/// The page is fetched once before the user is asked to.
const FETCH: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(100);

/// The fewest nodes with which paths of so many relays can be built: all that stand in one circle, and its owner.
pub fn fewest_nodes(hops: usize) -> usize {
    match hops.min(MAX_HOPS) {
        0 => 2,
        1 => 4,
        hops => 3 * hops,
    }
}

/// The network of nodes that have no public addresses: of one machine, or one house.
pub fn local_network() -> Network {
    Network::private("local")
}

/// A network that stands, with a website that answers.
pub struct Demo {
    /// All nodes.
    pub nodes: Vec<Daemon>,
    /// Where they listen.
    pub addresses: Vec<SocketAddr>,
    /// The one that serves the user.
    pub client: Daemon,
    /// The one that hosts the website.
    pub host: Daemon,
    /// The website.
    pub url: String,
    /// What another node joins with.
    pub invitation: String,
}

impl Demo {
    /// Starts the nodes, hosts the website and waits until it has been fetched once. Dropped before, it leaves nothing.
    pub async fn start(nodes: usize, hops: usize, mut say: impl FnMut(String)) -> anyhow::Result<Demo> {
        let nodes = start_nodes(nodes, hops, &mut say).await?;
        let (client, host) = match nodes.as_slice() {
            [client, .., host] => (client.clone(), host.clone()),
            _ => bail!("A demonstration needs two nodes at least"),
        };
        let invitation = client.invitation().context("the first node cannot be dialled")?.to_string();
        let addresses = nodes.iter().filter_map(Daemon::listening).collect();
        let work = async {
            let mut name = None;
            let publishing = async {
                name = Some(publish_site(&host, nodes.len(), hops).await?);
                Ok(())
            };
            watch(&nodes, publishing, "the website's entry paths", &mut say).await?;
            let name = name.context("the website has no name")?;
            if hops > 0 {
                watch(&nodes, client.paths_ready(1), "paths", &mut say).await?;
            }
            watch(&nodes, first_page(&client, &name), "the first page", &mut say).await?;
            anyhow::Ok(format!("http://{name}/"))
        };
        let url = match timeout(PATIENCE, work).await {
            Ok(url) => url?,
            Err(_) => {
                let why = client.status().await.obstacle;
                let why = why.unwrap_or_else(|| {
                    "this machine may be too busy; try again, or with fewer --hops".into()
                });
                bail!("The network did not stand within {} seconds: {why}", PATIENCE.as_secs());
            }
        };
        Ok(Demo { nodes, addresses, client, host, url, invitation })
    }

    /// The relays that the page came through, by whose they are.
    pub async fn relays_in_use(&self) -> Vec<(&'static str, Vec<String>)> {
        let mut used = Vec::new();
        for (whose, node, purpose) in
            [("your side:", &self.client, "client"), ("its side:", &self.host, "service")]
        {
            let paths = node.status().await.paths.ready;
            used.extend(
                paths.into_iter().filter(|path| path.purpose == purpose).map(|path| (whose, path.relays)),
            );
        }
        used
    }
}

async fn start_nodes(count: usize, hops: usize, say: &mut impl FnMut(String)) -> anyhow::Result<Vec<Daemon>> {
    let network = local_network();
    let mut nodes: Vec<Daemon> = Vec::with_capacity(count);
    say(format!("Starting {count} nodes ..."));
    for index in 0..count {
        let friend = nodes.first().and_then(Daemon::invitation).map(|invitation| invitation.contact());
        nodes.push(Daemon::start(config(index, hops, &network, friend)?).await?);
    }
    Ok(nodes)
}

fn config(index: usize, hops: usize, network: &Network, friend: Option<Contact>) -> anyhow::Result<Config> {
    let net = u8::try_from(index).ok().and_then(|index| FIRST_NET.checked_add(index));
    let address =
        IpAddr::from(Ipv4Addr::new(127, net.context("too many nodes for the loopback network")?, 0, 1));
    let mut config = Config::new(network.clone());
    config.friends = friend.into_iter().collect();
    config.listen = Some(SocketAddr::new(address, 0));
    config.source = Some(address);
    config.relay = Relay::Always;
    config.hops = hops;
    config.pool = if index == 0 { CLIENT_POOL } else { RELAY_POOL };
    Ok(config)
}

async fn publish_site(host: &Daemon, nodes: usize, hops: usize) -> anyhow::Result<ApName> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("no port for the website")?;
    let to = listener.local_addr()?;
    tokio::spawn(site::serve(listener, site::Facts { hops, nodes }));
    let request = HostRequest::new(80, to, "site");
    let hosted = Daemon::host(host, request, hops).await?;
    hosted.name.parse().context("the website's name does not parse")
}

/// Waits for something, and says meanwhile how far the network is.
async fn watch(
    nodes: &[Daemon],
    wanted: impl Future<Output = anyhow::Result<()>>,
    what: &str,
    say: &mut impl FnMut(String),
) -> anyhow::Result<()> {
    tokio::pin!(wanted);
    loop {
        tokio::select! {
            result = &mut wanted => return result,
            () = sleep(POLL) => {
                let Some(client) = nodes.first() else { return Ok(()) };
                let Status { known_nodes, paths, .. } = client.status().await;
                let (known, all) = (known_nodes + 1, nodes.len());
                say(format!("Waiting for {what}: {known} of {all} nodes known, {} paths ready ...", paths.ready.len()));
            }
        }
    }
}

/// Fetches the page as a program would, until it comes.
async fn first_page(client: &Daemon, name: &ApName) -> anyhow::Result<()> {
    loop {
        match timeout(FETCH, fetch(client, name)).await {
            Ok(Ok(true)) => return Ok(()),
            Ok(Err(error)) => tracing::info!("the first page has not come yet: {error:#}"),
            Ok(Ok(false)) | Err(_) => tracing::info!("the first page has not come yet"),
        }
        sleep(POLL).await;
    }
}

async fn fetch(client: &Daemon, name: &ApName) -> anyhow::Result<bool> {
    let mut stream = client.connect(&Group::default(), *name.public(), 80).await?;
    stream
        .write_all(format!("GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n").as_bytes())
        .await?;
    let mut page = Vec::new();
    stream.read_to_end(&mut page).await?;
    Ok(page.starts_with(b"HTTP/1.1 200 ") && page.ends_with(b"</html>\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fewest_nodes_are_a_circle_and_its_owner() {
        // 1 + K X-nodes + their Y-nodes: 2 for one X, else 2 K - 1.
        assert_eq!([0, 1, 2, 3, 4, 8].map(fewest_nodes), [2, 4, 6, 9, 12, 24]);
    }

    #[test]
    fn every_node_has_a_network_of_its_own() {
        let network = local_network();
        let listen = |index| config(index, 3, &network, None).unwrap().listen.unwrap();
        assert_eq!(listen(0), "127.16.0.1:0".parse().unwrap());
        assert_eq!(listen(199), "127.215.0.1:0".parse().unwrap());
        assert!(config(240, 3, &network, None).is_err());
    }
}
