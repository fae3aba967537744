//! Names of the Internet, asked of the resolvers that `/etc/resolv.conf` names. Nothing else of the machine is read.

use std::{
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use hickory_resolver::{
    Resolver, TokioResolver,
    config::{LookupIpStrategy, ResolveHosts, ResolverConfig, ResolverOpts},
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::rr::Name,
    system_conf::read_system_conf,
};

use crate::session::Refusal;

/// A resolver answers within this, or is asked again.
const ANSWER: Duration = Duration::from_secs(4);
const ATTEMPTS: usize = 2;

/// The addresses of a name.
pub(super) async fn resolve(name: &str) -> Result<Vec<IpAddr>, Refusal> {
    // Nothing is added to a name that is whole: search domains are the machine's own.
    let name = Name::from_ascii(format!("{name}.")).map_err(|_| Refusal::NotAllowed)?;
    let found = resolver().map_err(|_| Refusal::Failed)?.lookup_ip(name).await;
    let addresses: Vec<IpAddr> = found.map_err(refusal)?.iter().collect();
    if addresses.is_empty() { Err(Refusal::HostUnreachable) } else { Ok(addresses) }
}

/// Made anew for each name: the machine may have moved to other resolvers, and what is remembered for one visitor would tell
/// another by its speed where somebody has been.
fn resolver() -> Result<TokioResolver, NetError> {
    let (config, mut options) = configuration()?;
    options.timeout = ANSWER;
    options.attempts = ATTEMPTS;
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    options.ip_strategy = LookupIpStrategy::Ipv6AndIpv4;
    Resolver::builder_with_config(config, TokioRuntimeProvider::default()).with_options(options).build()
}

/// What the file says; what it said before, if it cannot be read any more: a confined node may read it until another file
/// is put in its place.
fn configuration() -> Result<(ResolverConfig, ResolverOpts), NetError> {
    static LAST: Mutex<Option<(ResolverConfig, ResolverOpts)>> = Mutex::new(None);
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    match read_system_conf() {
        Ok(read) => Ok(last.insert(read).clone()),
        Err(error) => last.clone().ok_or(error),
    }
}

fn refusal(error: NetError) -> Refusal {
    match error {
        NetError::Timeout => Refusal::TimedOut,
        error if error.is_no_records_found() => Refusal::HostUnreachable,
        _ => Refusal::Failed,
    }
}
