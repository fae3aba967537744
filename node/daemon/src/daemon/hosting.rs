//! What this node hosts, and what of it is hosted again after a restart.
//!
//! A port that somebody asked for is kept in the state folder until it is unhosted; a port that the configuration declares
//! is not, for the configuration says it at every start, and has the last word. Changes come one at a time, each with its
//! write, so that the disk holds what was said last.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use anyhow::{Context, anyhow, ensure};
use phantom_protocol::{
    identity::{ApPublic, ApSecret},
    node::ServiceId,
};
use tokio::task::spawn_blocking;

use super::{Command, Daemon, fresh_rng, lock, tunnels::Ports};
use crate::{
    doors::{HostRequest, Hosted},
    outward::Prefix,
    session::{CongestionConfig, Protocol, Service, SessionStats},
    store::{Notes, Store, StoreError},
};

/// What a node hosts.
#[derive(Default)]
pub(super) struct Hosting {
    /// By label.
    pub(super) online: Mutex<BTreeMap<String, HostedIdentity>>,
    pub(super) book: tokio::sync::Mutex<Book>,
}

/// Why ports are hosted.
#[derive(Default)]
pub(super) struct Book {
    /// Somebody asked for them.
    kept: PortList,
    /// The configuration has them.
    declared: PortList,
}

/// One hosted identity.
pub(super) struct HostedIdentity {
    pub(super) id: ServiceId,
    pub(super) public: ApPublic,
    pub(super) service: Arc<Service>,
    pub(super) targets: Arc<Mutex<Targets>>,
}

/// Where the ports of an identity lead.
pub(super) type Targets = BTreeMap<(Protocol, u16), HostRequest>;

/// Where an identity's key comes from.
#[derive(Clone, Copy)]
pub(super) enum Key {
    /// The state folder, or it is made.
    KeptOrNew,
    /// The state folder: under another name nobody would find it.
    Kept,
}

impl Daemon {
    /// Publishes a local port under a kept identity, over paths of `hops` relays; returns when its entry is out. A node
    /// with a state folder hosts it again after a restart.
    pub async fn host(&self, request: HostRequest, hops: usize) -> anyhow::Result<Hosted> {
        let (id, public) = {
            let mut book = self.0.hosting.book.lock().await;
            let online = self.bring_online(&request, hops, Key::KeptOrNew).await?;
            book.kept.insert(&request);
            self.keep(&book.kept).await.with_context(|| {
                format!("{} is hosted, but a restart would forget port {}", request.label, request.port)
            })?;
            online
        };
        self.ask(|answer| Command::Published { id, answer }).await?;
        Ok(hosted(request, &public))
    }

    /// Takes an identity offline, and forgets its ports. False if there was nothing to do.
    pub async fn unhost(&self, label: &str) -> anyhow::Result<bool> {
        let mut book = self.0.hosting.book.lock().await;
        let was_online = self.take_offline(label).await?;
        let was_kept = book.kept.forget(label);
        if was_kept {
            self.keep(&book.kept)
                .await
                .with_context(|| format!("{label} is offline, but a restart would host it again"))?;
        }
        Ok(was_online || was_kept)
    }

    /// Hosts what the configuration declares, and no longer what it declared before, unless somebody asked for that, too.
    /// What cannot be is passed over and told in the end. Does not wait until it is published.
    pub async fn declare(&self, wanted: &[HostRequest]) -> anyhow::Result<()> {
        let wanted: PortList = wanted.iter().collect();
        let mut book = self.0.hosting.book.lock().await;
        let gone: Vec<_> = book.declared.requests().filter(|old| wanted.same_port(old).is_none()).collect();
        let mut failures = Vec::new();
        let mut failed = |HostRequest { label, port, .. }: HostRequest, error: anyhow::Error| {
            failures.push(format!("port {port} of {label}: {error:#}"));
        };
        // The book has at each moment what is online.
        for old in gone {
            let closed = match book.kept.same_port(&old) {
                Some(kept) => {
                    let _offline_if_unhosted = self.add_port(kept);
                    Ok(())
                }
                None => self.close_port(&old).await,
            };
            match closed {
                Ok(()) => book.declared.remove(&old),
                Err(error) => failed(old, error),
            }
        }
        for request in wanted.requests() {
            match self.bring_online(&request, self.0.config.hops, Key::KeptOrNew).await {
                Ok(_) => book.declared.insert(&request),
                Err(error) => failed(request, error),
            }
        }
        ensure!(failures.is_empty(), failures.join("; "));
        Ok(())
    }

    /// Hosts what was hosted when the node ended. What cannot be is said, and no reason not to start.
    pub(super) async fn host_again(&self, kept: PortList) {
        let mut book = self.0.hosting.book.lock().await;
        for request in kept.requests() {
            if let Err(error) = self.bring_online(&request, self.0.config.hops, Key::Kept).await {
                let HostRequest { label, port, .. } = request;
                tracing::warn!(
                    "port {port} is not hosted again as {label}: {error:#}. `phantom unhost {label}` gives it up"
                );
            }
        }
        book.kept = kept;
    }

    /// What the sessions of its hosted identities have carried.
    pub fn hosted_sessions(&self) -> Vec<SessionStats> {
        lock(&self.0.hosting.online).values().flat_map(|identity| identity.service.stats()).collect()
    }

    async fn bring_online(
        &self,
        request: &HostRequest,
        hops: usize,
        key: Key,
    ) -> anyhow::Result<(ServiceId, ApPublic)> {
        match self.add_port(request) {
            Some(known) => Ok(known),
            None => self.host_identity(request, hops, key).await,
        }
    }

    /// The label's identity if it is online already; it has one more port then.
    fn add_port(&self, request: &HostRequest) -> Option<(ServiceId, ApPublic)> {
        let identities = lock(&self.0.hosting.online);
        let identity = identities.get(&request.label)?;
        lock(&identity.targets).insert((request.protocol, request.port), request.clone());
        Some((identity.id, identity.public))
    }

    async fn host_identity(
        &self,
        request: &HostRequest,
        hops: usize,
        key: Key,
    ) -> anyhow::Result<(ServiceId, ApPublic)> {
        ensure!(
            !self.0.serving.has(&request.label),
            "a program under `phantom run` serves as {}: end it first, or choose another label with --as",
            request.label
        );
        let secret = Arc::new(self.identity(&request.label, key)?);
        let public = secret.public();
        let target = ((request.protocol, request.port), request.clone());
        let targets = Arc::new(Mutex::new(Targets::from([target])));
        let ports = Arc::new(Ports { targets: Arc::clone(&targets), home: self.home() });
        let service = Arc::new(Service::new(Arc::clone(&secret), ports, &CongestionConfig::default())?);
        let answering = Arc::clone(&service);
        let id = self.ask(|answer| Command::Host { secret, hops, service: answering, answer }).await?;
        let identity = HostedIdentity { id, public, service, targets };
        lock(&self.0.hosting.online).insert(request.label.clone(), identity);
        Ok((id, public))
    }

    /// An identity without ports goes offline.
    async fn close_port(&self, request: &HostRequest) -> anyhow::Result<()> {
        let is_last = match lock(&self.0.hosting.online).get(&request.label) {
            None => return Ok(()),
            Some(identity) => {
                let mut targets = lock(&identity.targets);
                targets.remove(&(request.protocol, request.port));
                targets.is_empty()
            }
        };
        if is_last {
            self.take_offline(&request.label).await?;
        }
        Ok(())
    }

    /// False if it was not online.
    async fn take_offline(&self, label: &str) -> anyhow::Result<bool> {
        let gone = lock(&self.0.hosting.online).remove(label);
        let Some(HostedIdentity { id, .. }) = gone else { return Ok(false) };
        self.ask(|answer| Command::Unhost { id, answer }).await?;
        Ok(true)
    }

    /// Where this node is reached, as far as it knows, and the networks around it.
    fn home(&self) -> Vec<Prefix> {
        let config = &self.0.config;
        let ends = [config.listen, self.0.contact.address].into_iter().flatten();
        let own = ends.map(|end| end.ip()).chain(config.source).map(Prefix::of);
        own.chain(config.near.iter().copied()).collect()
    }

    pub(super) fn identity(&self, label: &str, key: Key) -> anyhow::Result<ApSecret> {
        let mut rng = fresh_rng()?;
        match (&self.0.store, key) {
            (Some(store), Key::KeptOrNew) => Ok(store.identities().get_or_new(label, &mut rng)?),
            (Some(store), Key::Kept) => store
                .identities()
                .get(label)?
                .ok_or_else(|| anyhow!("its key is gone from {}", store.folder().display())),
            (None, _) => Ok(ApSecret::generate(&mut rng)),
        }
    }

    /// Returns when the disk has it.
    async fn keep(&self, kept: &PortList) -> anyhow::Result<()> {
        let Some(store) = self.0.store.clone() else { return Ok(()) };
        let bytes = kept.to_bytes()?;
        Ok(spawn_blocking(move || store.write_notes(Notes::Services, &bytes)).await??)
    }
}

pub(super) fn hosted(request: HostRequest, public: &ApPublic) -> Hosted {
    let HostRequest { port, to, label, protocol, proxy_protocol, allow, outward } = request;
    let address = public.address().into();
    let name = public.name().to_string();
    Hosted { label, name, address, port, to, protocol, proxy_protocol, allow, outward }
}

/// Ports, by label, protocol and number.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct PortList(BTreeMap<(String, Protocol, u16), HostRequest>);

impl<'a> FromIterator<&'a HostRequest> for PortList {
    fn from_iter<I: IntoIterator<Item = &'a HostRequest>>(requests: I) -> PortList {
        let mut list = PortList::default();
        requests.into_iter().for_each(|request| list.insert(request));
        list
    }
}

impl PortList {
    /// Those that outlive a restart, as the state folder has them.
    pub(super) fn read(store: &Store) -> Result<PortList, StoreError> {
        let Some(bytes) = store.read_notes(Notes::Services)? else { return Ok(PortList::default()) };
        let requests: Vec<HostRequest> = serde_json::from_slice(&bytes).map_err(|error| {
            StoreError::Damaged { file: store.notes_file(Notes::Services), why: error.to_string() }
        })?;
        Ok(requests.iter().collect())
    }

    fn to_bytes(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(&self.requests().collect::<Vec<_>>())
    }

    fn requests(&self) -> impl Iterator<Item = HostRequest> {
        self.0.values().cloned()
    }

    /// What is said of the same port.
    fn same_port(&self, request: &HostRequest) -> Option<&HostRequest> {
        self.0.get(&(request.label.clone(), request.protocol, request.port))
    }

    fn insert(&mut self, request: &HostRequest) {
        self.0.insert((request.label.clone(), request.protocol, request.port), request.clone());
    }

    fn remove(&mut self, request: &HostRequest) {
        self.0.remove(&(request.label.clone(), request.protocol, request.port));
    }

    /// False if there was nothing to forget.
    fn forget(&mut self, label: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|(kept, ..), _| kept != label);
        self.0.len() < before
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{daemon::Config, demo::local_network};

    async fn started(state: &Path) -> Daemon {
        let mut config = Config::new(local_network());
        config.state = Some(state.to_owned());
        Daemon::start(config).await.unwrap()
    }

    /// A node without a network publishes nothing, but keeps what it was asked to.
    async fn ask_to_host(daemon: &Daemon, label: &str, port: u16, protocol: Protocol) {
        let request = HostRequest { protocol, ..wish(label, port, 8000) };
        let asking = tokio::spawn({
            let (daemon, request) = (daemon.clone(), request.clone());
            async move { daemon.host(request, 3).await }
        });
        while daemon.0.hosting.book.lock().await.kept.same_port(&request).is_none() {
            tokio::task::yield_now().await;
        }
        asking.abort();
        let _aborted = asking.await;
    }

    type Ports = Vec<(Protocol, u16)>;

    fn wish(label: &str, port: u16, to: u16) -> HostRequest {
        let to = ([127, 0, 0, 1], to).into();
        HostRequest { proxy_protocol: true, ..HostRequest::new(port, to, label) }
    }

    /// Where the ports lead, by local port.
    fn leads(daemon: &Daemon) -> Vec<(String, u16, u16)> {
        let identities = lock(&daemon.0.hosting.online);
        let of = |(label, identity): (&String, &HostedIdentity)| {
            let targets = lock(&identity.targets);
            targets.values().map(|it| (label.clone(), it.port, it.to.port())).collect::<Vec<_>>()
        };
        identities.iter().flat_map(of).collect()
    }

    fn online(daemon: &Daemon) -> Vec<(String, ApPublic, Ports)> {
        let identities = lock(&daemon.0.hosting.online);
        let ports = |identity: &HostedIdentity| lock(&identity.targets).keys().copied().collect();
        identities.iter().map(|(label, identity)| (label.clone(), identity.public, ports(identity))).collect()
    }

    #[tokio::test]
    async fn what_was_hosted_is_hosted_again_under_the_same_names() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let daemon = started(&state).await;
        for (label, port) in [("shop", 80), ("shop", 443), ("shell", 22), ("gone", 1)] {
            ask_to_host(&daemon, label, port, Protocol::Tcp).await;
        }
        ask_to_host(&daemon, "shop", 443, Protocol::Udp).await;
        assert!(daemon.unhost("gone").await.unwrap());
        assert!(!daemon.unhost("gone").await.unwrap());
        let before = online(&daemon);
        assert_eq!(before.len(), 2);
        daemon.stop().await;
        drop(daemon);

        let daemon = started(&state).await;
        assert_eq!(online(&daemon), before);
    }

    #[tokio::test]
    async fn a_service_without_its_key_is_not_hosted_under_another_name_and_can_be_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let daemon = started(&state).await;
        ask_to_host(&daemon, "shop", 80, Protocol::Tcp).await;
        ask_to_host(&daemon, "shell", 22, Protocol::Tcp).await;
        daemon.stop().await;
        drop(daemon);
        std::fs::remove_file(state.join("identities/shop")).unwrap();

        let daemon = started(&state).await;
        assert_eq!(online(&daemon).into_iter().map(|(label, ..)| label).collect::<Vec<_>>(), ["shell"]);
        assert!(!state.join("identities/shop").exists());
        assert!(daemon.unhost("shop").await.unwrap());
        daemon.stop().await;
        drop(daemon);
        let kept = PortList::read(&Store::open(&state, &local_network()).unwrap()).unwrap();
        assert_eq!(kept.requests().map(|request| request.label).collect::<Vec<_>>(), ["shell"]);
    }

    #[tokio::test]
    async fn what_is_declared_no_longer_ends_unless_somebody_asked_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let daemon = started(&state).await;
        ask_to_host(&daemon, "shop", 80, Protocol::Tcp).await;
        let declared = [wish("shop", 80, 9000), wish("shop", 443, 9001), wish("blog", 80, 9002)];
        daemon.declare(&declared).await.unwrap();
        let leads_to = |ports: &[(&str, u16, u16)]| {
            ports.iter().map(|(label, port, to)| ((*label).to_owned(), *port, *to)).collect::<Vec<_>>()
        };
        let all = leads_to(&[("blog", 80, 9002), ("shop", 80, 9000), ("shop", 443, 9001)]);
        assert_eq!(leads(&daemon), all);
        daemon.declare(&[wish("new", 1, 9003)]).await.unwrap();
        assert_eq!(leads(&daemon), leads_to(&[("new", 1, 9003), ("shop", 80, 8000)]));
        daemon.unhost("new").await.unwrap();
        daemon.stop().await;
        drop(daemon);

        let daemon = started(&state).await;
        assert_eq!(leads(&daemon), leads_to(&[("shop", 80, 8000)]), "only what was asked for is kept");
    }

    #[tokio::test]
    async fn a_declared_service_that_fails_neither_holds_up_the_others_nor_makes_them_stay() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let daemon = started(&state).await;
        daemon.declare(&[wish("b", 80, 9001)]).await.unwrap();
        daemon.declare(&[]).await.unwrap();
        std::fs::write(state.join("identities/b"), "damaged").unwrap();
        let declared = [wish("a", 80, 9000), wish("b", 80, 9001), wish("c", 80, 9002)];
        let error = daemon.declare(&declared).await.unwrap_err().to_string();
        assert!(error.starts_with("port 80 of b: ") && error.contains("identities/b is damaged"), "{error}");
        assert_eq!(leads(&daemon), [("a".into(), 80, 9000), ("c".into(), 80, 9002)]);
        daemon.declare(&[]).await.unwrap();
        assert_eq!(leads(&daemon), []);
    }

    #[test]
    fn notes_of_another_version_are_reported_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("state"), &local_network()).unwrap();
        store.write_notes(Notes::Services, br#"[{"port":80,"colour":"red"}]"#).unwrap();
        let error = PortList::read(&store).unwrap_err().to_string();
        assert!(error.contains("services is damaged") && error.contains("colour"), "{error}");
    }
}
