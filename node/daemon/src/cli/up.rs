//! `phantom up`: a node, until Ctrl-C.

use std::{
    convert::Infallible,
    fs,
    io::{ErrorKind, IsTerminal},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use nix::unistd::geteuid;
use phantom_protocol::{
    address::ApName, limits::DEFAULT_HOPS, network::Network, node::Relay, wire::invitation::Invitation,
};
use serde::Serialize;

use super::{
    HOPS, Usage,
    configuration::Configuration,
    confined,
    dns::{self, DnsWish, Kinds},
    end_point, giving,
    logs::Logs,
    number,
    ready_file::{ReadyFile, Unfinished},
    reload::Reload,
    running::{Asked, SOCKS, Wish, end, keep_memory_private, open, raise_limits},
    service_manager::ServiceManager,
};
use crate::{
    confinement::{Extent, Files, Layer, Report, User},
    daemon::{Config, Daemon},
    demo::local_network,
    doors::{
        DnsAnswers, DnsPort, Doors, MetricsPort, Service, TransparentPort, bind_sockets, bind_socks,
        local_socket::{make_folders, node_places},
    },
    hidden,
    link::RateLimit,
    link::open_port,
    outward::near,
    store,
};

/// How often the user may hear something new.
const NEWS: Duration = Duration::from_millis(500);
/// What stands in the way for a shorter time is no news: every start begins with no known nodes.
const SETTLING: Duration = Duration::from_secs(8);

/// Run a node
///
/// Programs use the network through one port that speaks SOCKS5, SOCKS4a and HTTP CONNECT: names that end in .ap are
/// resolved inside, everything else is refused, or goes to the out-proxy that you name. Without an invitation the node waits alone, and prints one for others.
/// What `phantom host` has published before is published again. Where there is no terminal, SIGHUP makes the node read its
/// configuration again: services, visits and log follow at once, everything else at the next start.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  phantom up --join INVITATION
  phantom up --listen 198.51.100.7:443          relay for others, too: needs an address that they reach
  phantom up --listen 198.51.100.7:443 --rate 5MB/s
  phantom up --state ./second --socks 127.0.0.1:9071
  phantom up --config ./phantom.toml            every option but --config is a key of it: hops = 3;
                                                --no-confinement is confinement = false
  curl -q --noproxy '' --socks5-hostname 127.0.0.1:9070 http://NAME.ap/")]
pub(super) struct Args {
    /// The invitation of a node of the network
    #[arg(long, value_name = "INVITATION")]
    join: Option<Invitation>,
    /// Where other nodes reach this one; without it, a node that joined only dials
    #[arg(long, value_name = "ADDR", value_parser = end_point)]
    listen: Option<SocketAddr>,
    /// Whether to relay for others: auto, when another node has reached --listen; always; or never [default: auto]
    #[arg(long, value_name = "WHEN", value_parser = giving::relay)]
    relay: Option<Relay>,
    /// What all links together may carry a second in each direction, own traffic and relayed alike [default: no limit]
    #[arg(long, value_name = "RATE", value_parser = giving::rate)]
    rate: Option<u64>,
    /// What may go at once after a rest, if there is a --rate [default: as much as a second's]
    #[arg(long, value_name = "BYTES", value_parser = giving::burst)]
    burst: Option<u64>,
    /// What all links may carry in a month, both directions together; then it relays no longer [default: no limit]
    #[arg(long, value_name = "BYTES", value_parser = giving::quota)]
    quota: Option<u64>,
    /// The proxy port for programs: SOCKS5, SOCKS4a, HTTP CONNECT [default: 127.0.0.1:9070]
    #[arg(long, value_name = "ADDR", value_parser = end_point)]
    socks: Option<SocketAddr>,
    /// Where programs find DNS for names in .ap, which refuses all others: ADDR, on, or off [default: 127.0.0.1:9053, if it is free]
    #[arg(long, value_name = "ADDR")]
    dns: Option<DnsWish>,
    /// Which addresses DNS tells: a (local aliases), aaaa (AP addresses), or a,aaaa [default: a,aaaa]
    #[arg(long, value_name = "TYPES")]
    dns_records: Option<Kinds>,
    /// Where the kernel redirects connections to names' addresses (examples/transparent.nft); without it, nowhere
    #[arg(long, value_name = "ADDR", value_parser = end_point)]
    transparent: Option<SocketAddr>,
    /// Where monitoring finds measurements for Prometheus, such as 127.0.0.1:9079; without it, nowhere
    #[arg(long, value_name = "ADDR", value_parser = end_point)]
    metrics: Option<SocketAddr>,
    /// Where the node keeps its keys [default: ~/.local/state/phantom]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Relays of each path, 0 to 8; two paths meet in a connection [default: 3]
    #[arg(long, value_name = "K", value_parser = number(HOPS))]
    hops: Option<u8>,
    /// A file that is there while programs can come in: JSON with node, socks, dns, transparent,
    /// metrics, listen, state, pid, invitation
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// Who leads programs to the ordinary Internet: names outside .ap and public addresses go there, unresolved. Without it,
    /// they are refused
    #[arg(long, value_name = "NAME.ap")]
    out_proxy: Option<ApName>,
    /// Tell SOCKS5 programs by Tor's codes F0 to F7 why a .ap name cannot be reached; programs that are not made for Tor may
    /// not know them
    #[arg(long)]
    extended_errors: bool,
    /// The user that the node becomes once its ports are open, if root starts it; the state folder must be that user's
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Keep the files, system calls and rights that the node would give up; for debugging
    #[arg(long)]
    no_confinement: bool,
    /// Logs what identifies people, too: peers, names, addresses, and what other libraries say
    #[arg(long)]
    unsafe_logs: bool,
    /// A file with these options, and services [default: ~/.config/phantom/phantom.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Args {
    /// The command line goes before the file.
    fn with(self, file: &Configuration) -> Args {
        Args {
            join: self.join.or(file.join),
            listen: self.listen.or(file.listen),
            relay: self.relay.or(file.relay),
            rate: self.rate.or(file.rate),
            burst: self.burst.or(file.burst),
            quota: self.quota.or(file.quota),
            socks: self.socks.or(file.socks),
            dns: self.dns.or(file.dns),
            dns_records: self.dns_records.or(file.dns_records),
            transparent: self.transparent.or(file.transparent),
            metrics: self.metrics.or(file.metrics),
            state: self.state.or_else(|| file.state.clone()),
            hops: self.hops.or(file.hops),
            ready_file: self.ready_file.or_else(|| file.ready_file.clone()),
            out_proxy: self.out_proxy.or(file.out_proxy),
            extended_errors: self.extended_errors || file.extended_errors,
            user: self.user.or_else(|| file.user.clone()),
            no_confinement: self.no_confinement,
            unsafe_logs: self.unsafe_logs || file.unsafe_logs,
            config: self.config,
        }
    }
}

/// A node that has its ports, and nothing left that it does not need.
pub(super) struct Prepared<'a> {
    logs: &'a Logs,
    manager: ServiceManager,
    /// What `--config` names.
    named: Option<PathBuf>,
    file: Configuration,
    found_at: Option<PathBuf>,
    config: Config,
    state: PathBuf,
    alone: bool,
    doors: Doors,
    /// Why there is no DNS port, if so.
    no_dns: Option<String>,
    ready_file: ReadyFile,
    unfinished: Unfinished,
    confinement: Report,
}

/// What the ready file holds.
#[derive(Serialize)]
struct Facts {
    node: String,
    socks: SocketAddr,
    dns: Option<SocketAddr>,
    transparent: Option<SocketAddr>,
    metrics: Option<SocketAddr>,
    listen: Option<SocketAddr>,
    state: PathBuf,
    pid: u32,
    invitation: Option<String>,
}

/// Does what needs the rights that the node is started with, and gives them up. What can be wrong comes first here, and what
/// costs time comes later.
pub(super) fn prepare(args: Args, logs: &Logs) -> anyhow::Result<Prepared<'_>> {
    raise_limits();
    let manager = ServiceManager::of_environment();
    let (file, found_at) = Configuration::find(args.config.as_deref())?;
    let extent = if args.no_confinement { Extent::Off } else { file.confinement.unwrap_or_default() };
    let args = args.with(&file);
    if args.unsafe_logs {
        hidden::show();
    }
    logs.configure(file.log.as_deref());
    let ready_file = ReadyFile::at(args.ready_file.as_deref())?;
    let user = args.user.as_deref().map(User::find).transpose()?.filter(|user| user.uid != geteuid());
    let state = state_folder(&args, user.as_ref())?;

    let Kinds { a, aaaa } = args.dns_records.unwrap_or(Kinds::ALL);
    let (dns, no_dns) = match dns::open(args.dns, DnsAnswers { a, aaaa, declared: file.records() })? {
        Ok(port) => (Some(port), None),
        Err(why) => (None, Some(why)),
    };
    let doors = Doors {
        socks: Some(bind_socks(args.socks.unwrap_or(SOCKS))?),
        dns,
        transparent: args.transparent.map(TransparentPort::bind).transpose()?,
        metrics: args.metrics.map(MetricsPort::bind).transpose()?,
        extended_errors: args.extended_errors,
        ..Doors::default()
    };
    let mut config = config(&args, state.clone())?;
    config.near = near();
    config.opened = config.listen.map(open_port).transpose()?.map(Arc::new);
    if let Some(user) = user {
        user.enter()?;
    }
    keep_memory_private().context("This process cannot be kept from leaving its keys in a core dump")?;
    store::make_folder(&state)?;
    let unfinished = ready_file.begin()?;
    let configuration = Configuration::place(args.config.as_deref());
    let confinement = confined(&files(&state, configuration.as_deref(), &ready_file), extent)?;
    let (named, alone) = (args.config, args.join.is_none());
    Ok(Prepared {
        logs,
        manager,
        named,
        file,
        found_at,
        config,
        state,
        alone,
        doors,
        no_dns,
        ready_file,
        unfinished,
        confinement,
    })
}

impl Prepared<'_> {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let mut doors = self.doors;
        let daemon = Daemon::start(self.config).await?;
        doors.sockets = bind_sockets(&node_places(&self.state)).await?;
        let configured = if self.named.is_none() { self.file.state.clone() } else { None };
        let is_default = doors.sockets.iter().any(|socket| socket.is_default(configured.as_deref()));
        let facts = Facts {
            node: daemon.id().to_string(),
            socks: doors.socks.as_ref().context("no proxy port is open")?.local_addr()?,
            dns: doors.dns.as_ref().map(DnsPort::address).transpose()?,
            transparent: doors.transparent.as_ref().map(TransparentPort::address).transpose()?,
            metrics: doors.metrics.as_ref().map(MetricsPort::address).transpose()?,
            listen: daemon.listening(),
            state: self.state,
            pid: std::process::id(),
            invitation: daemon.invitation().map(|invitation| invitation.to_string()),
        };
        greet(&facts, self.no_dns.as_deref(), self.found_at.as_deref(), is_default);
        if geteuid().is_root() && self.confinement.enforced.contains(&Layer::Privileges) {
            println!(
                "user      root, though without root's rights: --user NAME gives the node a user of its own"
            );
        }
        daemon.declare_visits(&self.file.visits()).await?;
        daemon.declare(&self.file.services()).await?;
        greet_services(&daemon.status().await.services);
        invite(facts.invitation.as_deref(), self.alone);
        let mut asked = Asked::new()?.or_hung_up()?;
        let doors = open(&daemon, doors, self.confinement);
        self.ready_file.write(self.unfinished, &facts)?;
        self.manager.ready();
        let reload = Reload { daemon: &daemon, logs: self.logs, file: self.named, started_with: &self.file };
        tokio::select! {
            () = reload_until_end(&mut asked, &reload) => {}
            never = tell_news(&daemon, self.alone) => match never {},
        }
        self.manager.stopping();
        doors.abort();
        end(std::slice::from_ref(&daemon), &mut asked).await;
        self.ready_file.remove()
    }
}

fn state_folder(args: &Args, user: Option<&User>) -> anyhow::Result<PathBuf> {
    let state = match (&args.state, user) {
        (Some(state), _) => std::path::absolute(state).context("The current folder is gone")?,
        (None, None) => store::default_folder()?,
        (None, Some(User { name, .. })) => {
            return Err(Usage(format!("--user {name} needs a folder of that user, too: --state DIR")).into());
        }
    };
    let Some(User { name, uid, .. }) = user else { return Ok(state) };
    let shown = state.display();
    match fs::metadata(&state) {
        Ok(found) if found.uid() == uid.as_raw() => Ok(state),
        Ok(_) => bail!(
            "{shown} does not belong to {name}, as whom the node is to run: sudo chown -R {name}: '{shown}'"
        ),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!(
                "{shown} is not there, and {name} might not be able to make it: sudo install -d -o {name} -m 700 '{shown}'"
            )
        }
        Err(error) => Err(error).with_context(|| format!("{shown} cannot be used")),
    }
}

/// All that the node opens, makes or removes from now on. Who offers a way out reads the last.
fn files(state: &Path, configuration: Option<&Path>, ready_file: &ReadyFile) -> Files {
    let mut files = Files::default().own(state);
    for folder in make_folders(&node_places(state)) {
        files = files.own(&folder);
    }
    if let Some(place) = ready_file.place() {
        files = files.comes_and_goes(place);
    }
    if let Some(file) = configuration {
        files = files.read_replaced(file);
    }
    files.read_of_system(Path::new("/etc/resolv.conf"))
}

async fn reload_until_end(asked: &mut Asked, reload: &Reload<'_>) {
    while asked.next().await == Wish::Reload {
        reload.run().await;
    }
}

fn config(args: &Args, state: PathBuf) -> anyhow::Result<Config> {
    let listen = match (args.listen, &args.join) {
        (None, Some(_)) => None,
        // Alone, a node must be found by those whom it invites: of this machine, unless the user says more.
        (None, None) => Some(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0)),
        (Some(listen), _) => Some(listen),
    };
    if let Some(listen) = listen.filter(|listen| listen.ip().is_unspecified()) {
        return Err(Usage(format!(
            "--listen {listen} says nothing that other nodes could dial. Give the address by which they reach this machine: \
             --listen ADDRESS:{}",
            listen.port()
        ))
        .into());
    }
    let network = network(listen, args.join.as_ref())?;
    let mut config = Config::new(network.clone());
    config.state = Some(state);
    config.friends = args.join.iter().map(|join| join.contact_in(network.id())).collect::<Result<_, _>>()?;
    config.listen = listen;
    config.relay = args.relay.unwrap_or_default();
    config.rate = rate(args)?;
    config.quota = args.quota;
    // On loopback every node has an address of its own, and is known by it; elsewhere the system chooses.
    config.source = listen.map(|listen| listen.ip()).filter(IpAddr::is_loopback);
    config.out_proxy = args.out_proxy.map(|name| *name.public());
    config.hops = args.hops.map_or(DEFAULT_HOPS, usize::from);
    Ok(config)
}

fn rate(args: &Args) -> anyhow::Result<Option<RateLimit>> {
    match (args.rate, args.burst) {
        (None, Some(_)) => {
            Err(Usage("--burst says nothing without --rate. Give both: --rate \"5 MB/s\"".to_owned()).into())
        }
        (rate, burst) => Ok(rate.map(|rate| RateLimit { rate, burst: burst.unwrap_or(rate) })),
    }
}

/// An invitation names its network; who has none is where its address is.
fn network(listen: Option<SocketAddr>, join: Option<&Invitation>) -> anyhow::Result<Network> {
    let known = [Network::public(), local_network()];
    match join {
        Some(join) => known.into_iter().find(|network| network.id() == join.network()).context(
            "This invitation is for a network that this version of Phantom does not know. Ask for one that was made by the \
             same version",
        ),
        None => {
            let public = listen.is_some_and(|listen| Network::public().admits(listen));
            Ok(if public { Network::public() } else { local_network() })
        }
    }
}

fn greet(facts: &Facts, no_dns: Option<&str>, configuration: Option<&Path>, is_default: bool) {
    let Facts { node, socks, state, .. } = facts;
    println!("Phantom {}, node {}", env!("CARGO_PKG_VERSION"), node.get(..8).unwrap_or(node));
    match facts.listen {
        Some(address) => println!("listens   {address}"),
        None => println!(
            "listens   nowhere: this node uses the network and relays for nobody (--listen ADDR changes that)"
        ),
    }
    println!("socks     {socks}   (curl -q --noproxy '' --socks5-hostname {socks} http://NAME.ap/)");
    if let Some(dns) = facts.dns {
        println!("dns       {dns}   (dig @{} -p {} NAME.ap AAAA)", dns.ip(), dns.port());
    }
    if let Some(why) = no_dns {
        println!("dns       nowhere: {why}");
    }
    if let Some(transparent) = facts.transparent {
        println!(
            "redirect  {transparent}   (examples/transparent.nft makes the kernel send connections there)"
        );
    }
    if let Some(metrics) = facts.metrics {
        println!("metrics   http://{metrics}/metrics");
    }
    println!("state     {}", state.display());
    if let Some(file) = configuration {
        println!("config    {}", file.display());
    }
    if !is_default {
        println!("commands  need --state '{}': without it they do not come to this node", state.display());
    }
}

/// Names, for who reads them now. What is not a terminal is likely a log, which must not tell what runs here.
fn greet_services(services: &[Service]) {
    if std::io::stdout().is_terminal() || hidden::is_shown() {
        for Service { hosted, .. } in services {
            println!("hosting   {hosted}");
        }
    } else if !services.is_empty() {
        println!("hosting   {} ports (`phantom status` names them)", services.len());
    }
}

fn invite(invitation: Option<&str>, alone: bool) {
    if alone {
        println!(
            "This node is alone: it was started without --join. It becomes a network when others join it."
        );
    }
    if let Some(invitation) = invitation {
        println!("Others join through this node with\n\n    phantom up --join {invitation}\n");
    }
}

/// Says when paths stand, and what keeps them from it. Never ends.
async fn tell_news(daemon: &Daemon, alone: bool) -> Infallible {
    let mut told_ready = false;
    let mut told_relaying = String::new();
    let mut told = String::new();
    let mut quiet_until = Instant::now() + SETTLING;
    loop {
        let status = daemon.status().await;
        let lonely = alone && status.known_nodes == 0;
        let news = [status.obstacle, status.notice].into_iter().flatten().collect::<Vec<_>>().join(" ");
        if !told_relaying.is_empty() && status.relaying != told_relaying {
            match status.relaying_why {
                Some(why) => eprintln!("Relays for nobody: {why}."),
                None => println!("Relays for others, who reach this node."),
            }
        }
        told_relaying = status.relaying;
        if !status.paths.ready.is_empty() && !told_ready {
            println!("Ready: {} nodes known, the first path stands.", status.known_nodes);
            told_ready = true;
        } else if news.is_empty() || lonely {
            quiet_until = Instant::now() + SETTLING;
        } else if news != told && Instant::now() > quiet_until {
            eprintln!("{news}");
            told = news;
            quiet_until = Instant::now() + SETTLING;
        }
        tokio::time::sleep(NEWS).await;
    }
}
