//! Programs that serve visitors under `phantom run`: each has an identity, which is online as long as the run goes on, and
//! until visitors have what was said to them last. All its ports are the run's to serve or to refuse.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use anyhow::ensure;
use futures_util::FutureExt;
use phantom_protocol::{
    identity::{ApPublic, ApSecret},
    node::ServiceId,
};
use tokio::{select, sync::Notify, time::sleep};

use super::{
    Daemon, fresh_rng,
    hosting::Key,
    lock,
    online::{LastWords, Online},
};
use crate::{
    doors::PublishedRun,
    session::{Protocol, Refusal, Serve, Service, Target, Targets},
};

/// Identities of runs at once: each costs paths, and an entry that every node holds.
const MOST: usize = 16;
/// What was said last may be on its way so long.
const LAST_WORDS: Duration = Duration::from_secs(30);

/// Who serves.
#[derive(Default)]
pub(super) struct Serving(Arc<Shared>);

#[derive(Default)]
struct Shared {
    places: Mutex<Places>,
    /// One is free.
    freed: Notify,
}

#[derive(Default)]
struct Places {
    taken: u64,
    by_number: BTreeMap<u64, Entry>,
}

/// One who serves.
struct Entry {
    /// Of its kept identity.
    label: Option<String>,
    service: Weak<Service>,
    id: Option<ServiceId>,
    /// The run is over, and last words are waited for, until this is said.
    over: Option<Arc<Notify>>,
}

impl Serving {
    /// Whether somebody serves under this label.
    pub(super) fn has(&self, label: &str) -> bool {
        lock(&self.0.places).by_number.values().any(|entry| entry.label.as_deref() == Some(label))
    }

    /// The services of all.
    pub(super) fn services(&self) -> Vec<Arc<Service>> {
        lock(&self.0.places).by_number.values().filter_map(|entry| entry.service.upgrade()).collect()
    }

    /// Those whose run goes on, for the status.
    pub(super) fn runs(&self, entries: &BTreeMap<ServiceId, usize>) -> Vec<PublishedRun> {
        let run = |entry: &Entry| {
            let service = entry.service.upgrade().filter(|_| entry.over.is_none())?;
            let public = service.public();
            Some(PublishedRun {
                name: public.name().to_string(),
                address: public.address().into(),
                label: entry.label.clone(),
                entries: entry.id.and_then(|id| entries.get(&id).copied()).unwrap_or(0),
                sessions: service.sessions(),
            })
        };
        lock(&self.0.places).by_number.values().filter_map(run).collect()
    }

    /// A place, until what is returned is dropped. A run that is over makes room for another of its label, or if there are too
    /// many.
    async fn enter(&self, label: Option<&str>) -> anyhow::Result<Place> {
        loop {
            let freed = self.0.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if let Some(place) = self.try_enter(label)? {
                return Ok(place);
            }
            freed.await;
        }
    }

    /// Nothing if one will be free in a moment.
    fn try_enter(&self, label: Option<&str>) -> anyhow::Result<Option<Place>> {
        let mut places = lock(&self.0.places);
        let of_label = |entry: &&Entry| label.is_some() && entry.label.as_deref() == label;
        let mut in_the_way = places.by_number.values().find(of_label);
        if let (Some(Entry { over: None, .. }), Some(label)) = (in_the_way, label) {
            anyhow::bail!(
                "another program under `phantom run` serves as {label}: end it first, or choose another label with --as"
            );
        }
        if in_the_way.is_none() && places.by_number.len() >= MOST {
            in_the_way = places.by_number.values().find(|entry| entry.over.is_some());
            ensure!(in_the_way.is_some(), "{MOST} programs serve already under `phantom run`: end one first");
        }
        if let Some(over) = in_the_way.and_then(|entry| entry.over.as_ref()) {
            over.notify_one();
            return Ok(None);
        }
        places.taken += 1;
        let number = places.taken;
        let entry = Entry { label: label.map(str::to_owned), service: Weak::new(), id: None, over: None };
        places.by_number.insert(number, entry);
        Ok(Some(Place { shared: Arc::clone(&self.0), number }))
    }
}

/// The place of one.
struct Place {
    shared: Arc<Shared>,
    number: u64,
}

impl Place {
    fn note(&self, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = lock(&self.shared.places).by_number.get_mut(&self.number) {
            change(entry);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.shared.places).by_number.remove(&self.number);
        self.shared.freed.notify_waiters();
    }
}

/// A program that serves, until this is dropped.
pub struct Served {
    public: ApPublic,
    _online: Online,
}

impl Served {
    /// Who it is to its visitors.
    pub fn public(&self) -> ApPublic {
        self.public
    }
}

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Served({:?})", self.public)
    }
}

impl Daemon {
    /// Whether a program that runs serves under this label.
    pub fn is_served(&self, label: &str) -> bool {
        self.0.serving.has(label)
    }

    /// Lets visitors come to a program that `server` reaches, under the kept identity of a label or under one that is made for
    /// it. Does not wait until they can find it.
    pub async fn serve(&self, label: Option<&str>, server: Arc<dyn Serve>) -> anyhow::Result<Served> {
        // Nobody hosts meanwhile.
        let _book = self.0.hosting.book.lock().await;
        if let Some(label) = label {
            let is_hosted = lock(&self.0.hosting.online).contains_key(label);
            ensure!(
                !is_hosted,
                "{label} is hosted already: choose another label with --as, or first type: phantom unhost {label}"
            );
        }
        let place = Arc::new(self.0.serving.enter(label).await?);
        let secret = match label {
            Some(label) => self.identity(label, Key::KeptOrNew)?,
            None => ApSecret::generate(&mut fresh_rng()?),
        };
        let (public, last_words) = (secret.public(), last_words(Arc::clone(&place)));
        let ports = Arc::new(Ports(server));
        let online =
            self.bring_online_while_held(Arc::new(secret), ports, Arc::clone(&place), last_words).await?;
        place.note(|entry| {
            entry.service = Arc::downgrade(&online.service);
            entry.id = Some(online.id);
        });
        Ok(Served { public, _online: online })
    }
}

/// Waits until visitors have what was said to them, or somebody needs the place.
fn last_words(place: Arc<Place>) -> LastWords {
    Box::new(move |service| {
        let needed = Arc::<Notify>::default();
        place.note(|entry| entry.over = Some(Arc::clone(&needed)));
        async move {
            select! {
                () = service.idle() => {}
                () = needed.notified() => {}
                () = sleep(LAST_WORDS) => {}
            }
        }
        .boxed()
    })
}

/// Every port is the program's.
struct Ports(Arc<dyn Serve>);

impl Targets for Ports {
    fn target(&self, _: &ApPublic, _: Protocol, _: u16) -> Result<Target, Refusal> {
        Err(Refusal::Refused)
    }

    fn server(&self) -> Option<Arc<dyn Serve>> {
        Some(Arc::clone(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::BoxFuture;

    use super::*;
    use crate::{daemon::Config, demo::local_network, doors::HostRequest, program::Handed, session::Caller};

    struct Nobody;

    impl Serve for Nobody {
        fn socket(&self, _: Caller, _: Protocol, _: u16) -> BoxFuture<'_, Result<Handed, Refusal>> {
            async { Err(Refusal::Refused) }.boxed()
        }
    }

    async fn serve(daemon: &Daemon, label: Option<&str>) -> anyhow::Result<Served> {
        daemon.serve(label, Arc::new(Nobody)).await
    }

    async fn node(state: Option<&std::path::Path>) -> Daemon {
        let mut config = Config::new(local_network());
        config.state = state.map(Into::into);
        Daemon::start(config).await.unwrap()
    }

    #[tokio::test]
    async fn a_label_is_one_programs_and_is_the_same_name_again() {
        let folder = tempfile::tempdir().unwrap();
        let daemon = node(Some(&folder.path().join("state"))).await;
        let first = serve(&daemon, Some("shop")).await.unwrap();
        let other = serve(&daemon, Some("other")).await.unwrap();
        let fresh = serve(&daemon, None).await.unwrap();
        let names = [first.public(), other.public(), fresh.public()];
        assert!(names[0] != names[1] && names[1] != names[2] && names[2] != names[0]);
        let refused = serve(&daemon, Some("shop")).await.unwrap_err().to_string();
        assert!(refused.contains("serves as shop: end it first"), "{refused}");
        let request = HostRequest::new(80, ([127, 0, 0, 1], 80).into(), "shop");
        let refused = daemon.host(request.clone(), 3).await.unwrap_err().to_string();
        assert!(refused.contains("serves as shop: end it first"), "{refused}");

        drop(first);
        let again = serve(&daemon, Some("shop")).await.unwrap();
        assert_eq!(again.public(), names[0]);
        drop(again);
        while daemon.0.serving.has("shop") {
            tokio::task::yield_now().await;
        }
        daemon.declare(&[request]).await.unwrap();
        let refused = serve(&daemon, Some("shop")).await.unwrap_err().to_string();
        assert!(refused.contains("phantom unhost shop"), "{refused}");
    }

    #[tokio::test]
    async fn so_many_programs_serve_and_one_that_ends_makes_room() {
        let daemon = node(None).await;
        let mut all = Vec::new();
        for _ in 0..MOST {
            all.push(serve(&daemon, None).await.unwrap());
        }
        let refused = serve(&daemon, None).await.unwrap_err().to_string();
        assert!(refused.contains("end one first"), "{refused}");
        all.truncate(MOST - 1);
        all.push(serve(&daemon, None).await.unwrap());
        assert_eq!(daemon.0.serving.services().len(), MOST);
        assert_eq!(daemon.status().await.published_runs.len(), MOST);
    }

    #[tokio::test]
    async fn last_words_are_waited_for_unless_the_place_is_needed() {
        let daemon = node(None).await;
        let place = Arc::new(daemon.0.serving.enter(Some("shop")).await.unwrap());
        let over = Arc::<Notify>::default();
        place.note(|entry| entry.over = Some(Arc::clone(&over)));
        let entering = tokio::spawn({
            let daemon = daemon.clone();
            async move { daemon.0.serving.enter(Some("shop")).await.map(drop) }
        });
        over.notified().await;
        assert!(!entering.is_finished());
        drop(place);
        entering.await.unwrap().unwrap();
    }
}
