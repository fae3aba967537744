//! As whom this node's programs visit: one-time identities, unless somebody has chosen a kept one for a peer (PROTOCOL §8).
//!
//! All isolation groups that visit such a peer are one visitor to it. What somebody asked for is kept in the state folder
//! until it is forgotten; what the configuration declares is not, and goes before it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use anyhow::{Context, ensure};
use phantom_protocol::{
    address::ApName,
    identity::{ApPublic, ApSecret},
};
use tokio::task::spawn_blocking;

use super::{Daemon, hosting::Key, lock};
use crate::{
    doors::Visit,
    session::SpeakAs,
    store::{Notes, Store, StoreError},
};

/// Peers that are visited under a kept identity.
const MOST: usize = 10_000;

/// Whom this node visits under which identity.
#[derive(Default)]
pub(super) struct Visiting {
    book: tokio::sync::Mutex<Book>,
    speakers: Mutex<BTreeMap<ApPublic, Speaker>>,
}

/// Why peers are visited so.
#[derive(Default)]
struct Book {
    /// Somebody asked for it.
    kept: VisitList,
    /// The configuration has it.
    declared: VisitList,
}

#[derive(Clone)]
struct Speaker {
    label: String,
    secret: Arc<ApSecret>,
}

/// Labels of identities, by who is visited under them.
pub(super) type VisitList = BTreeMap<ApName, String>;

/// Those that outlive a restart, as the state folder has them.
pub(super) fn read(store: &Store) -> Result<VisitList, StoreError> {
    let Some(bytes) = store.read_notes(Notes::Visits)? else { return Ok(VisitList::new()) };
    let damaged = |why: String| StoreError::Damaged { file: store.notes_file(Notes::Visits), why };
    let written: BTreeMap<String, String> =
        serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    let parsed = written.into_iter().map(|(to, label)| Ok((to.parse::<ApName>()?, label)));
    parsed
        .collect::<Result<_, phantom_protocol::address::BadName>>()
        .map_err(|error| damaged(error.to_string()))
}

fn to_bytes(list: &VisitList) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&list.iter().map(|(to, label)| (to.to_string(), label)).collect::<BTreeMap<_, _>>())
}

impl Daemon {
    /// As whom programs visit a peer.
    pub(super) fn speak_as(&self, peer: &ApPublic) -> SpeakAs {
        match lock(&self.0.visiting.speakers).get(peer) {
            Some(speaker) => SpeakAs::Kept(Arc::clone(&speaker.secret)),
            None => SpeakAs::OneTime,
        }
    }

    /// From now on programs visit `to` under a kept identity, also after a restart.
    pub async fn visit(&self, to: ApName, label: &str) -> anyhow::Result<Visit> {
        let mut book = self.0.visiting.book.lock().await;
        ensure!(
            book.kept.len() < MOST || book.kept.contains_key(&to),
            "No more than {MOST} names can be visited so."
        );
        if let Some(declared) = book.declared.get(&to) {
            ensure!(
                declared == label,
                "phantom.toml says that {to} is visited as {declared}: change it there."
            );
        }
        self.0.visiting.set(to, self.speaker(label, Key::KeptOrNew)?);
        book.kept.insert(to, label.to_owned());
        self.keep_visits(&book.kept)
            .await
            .with_context(|| format!("{to} is visited as {label}, but a restart would forget it"))?;
        drop(book);
        self.visits()
            .into_iter()
            .find(|visit| visit.to == to.to_string())
            .context("it was just forgotten again")
    }

    /// From now on programs visit `to` under one-time identities again.
    pub async fn forget_visit(&self, to: ApName) -> anyhow::Result<()> {
        let mut book = self.0.visiting.book.lock().await;
        let known = book.kept.remove(&to).is_some();
        ensure!(
            !book.declared.contains_key(&to),
            "phantom.toml says as whom {to} is visited: remove it there."
        );
        ensure!(known, "{to} is not visited under a kept identity. `phantom visit` lists what is.");
        lock(&self.0.visiting.speakers).remove(to.public());
        self.keep_visits(&book.kept).await.context("It is forgotten, but a restart would remember it")
    }

    /// Visits as the configuration declares, and no longer as it declared before.
    pub async fn declare_visits(&self, wanted: &[(ApName, String)]) -> anyhow::Result<()> {
        let wanted: VisitList = wanted.iter().cloned().collect();
        let mut book = self.0.visiting.book.lock().await;
        let gone = book.declared.keys().filter(|to| !wanted.contains_key(to)).copied().collect::<Vec<_>>();
        for to in gone {
            book.declared.remove(&to);
            match book.kept.get(&to) {
                Some(label) => self.0.visiting.set(to, self.speaker(label, Key::Kept)?),
                None => _ = lock(&self.0.visiting.speakers).remove(to.public()),
            }
        }
        for (to, label) in wanted {
            self.0.visiting.set(to, self.speaker(&label, Key::KeptOrNew)?);
            book.declared.insert(to, label);
        }
        Ok(())
    }

    /// Visits as when the node ended. An identity that is gone is said, and nobody is visited under another.
    pub(super) async fn visit_again(&self, kept: VisitList) {
        let mut book = self.0.visiting.book.lock().await;
        for (to, label) in &kept {
            match self.speaker(label, Key::Kept) {
                Ok(speaker) => self.0.visiting.set(*to, speaker),
                Err(error) => tracing::warn!(
                    "a name that was visited as {label} is visited under one-time identities now: {error:#}. `phantom visit` lists what is left"
                ),
            }
        }
        book.kept = kept;
    }

    /// Who is visited under a kept identity, and under which.
    pub fn visits(&self) -> Vec<Visit> {
        let speakers = lock(&self.0.visiting.speakers);
        let visit = |(to, speaker): (&ApPublic, &Speaker)| {
            let public = speaker.secret.public();
            Visit {
                to: to.name().to_string(),
                label: speaker.label.clone(),
                name: public.name().to_string(),
                address: public.address().into(),
            }
        };
        speakers.iter().map(visit).collect()
    }

    /// One label is one identity, also where none is kept on disk.
    fn speaker(&self, label: &str, key: Key) -> anyhow::Result<Speaker> {
        let same = lock(&self.0.visiting.speakers).values().find(|speaker| speaker.label == label).cloned();
        match same {
            Some(speaker) if self.0.store.is_none() => Ok(speaker),
            _ => Ok(Speaker { label: label.to_owned(), secret: Arc::new(self.identity(label, key)?) }),
        }
    }

    /// Returns when the disk has it.
    async fn keep_visits(&self, kept: &VisitList) -> anyhow::Result<()> {
        let Some(store) = self.0.store.clone() else { return Ok(()) };
        let bytes = to_bytes(kept)?;
        Ok(spawn_blocking(move || store.write_notes(Notes::Visits, &bytes)).await??)
    }
}

impl Visiting {
    fn set(&self, to: ApName, speaker: Speaker) {
        lock(&self.speakers).insert(*to.public(), speaker);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{daemon::Config, demo::local_network};

    async fn started(state: Option<&Path>) -> Daemon {
        let mut config = Config::new(local_network());
        config.state = state.map(Path::to_owned);
        Daemon::start(config).await.unwrap()
    }

    fn peer(number: u8) -> ApName {
        ApSecret::from_bytes(&[number; 32]).public().name()
    }

    fn speaks(daemon: &Daemon, number: u8) -> Option<ApPublic> {
        match daemon.speak_as(peer(number).public()) {
            SpeakAs::OneTime => None,
            SpeakAs::Kept(secret) => Some(secret.public()),
        }
    }

    #[tokio::test]
    async fn nobody_is_visited_under_a_kept_identity_until_somebody_says_so_and_then_also_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let daemon = started(Some(&state)).await;
        assert_eq!(speaks(&daemon, 1), None);
        let visit = daemon.visit(peer(1), "anna").await.unwrap();
        daemon.visit(peer(2), "anna").await.unwrap();
        daemon.visit(peer(3), "boris").await.unwrap();
        let anna = speaks(&daemon, 1).unwrap();
        assert_eq!(visit.name, anna.name().to_string());
        assert_eq!(speaks(&daemon, 2), Some(anna));
        assert_ne!(speaks(&daemon, 3), Some(anna));
        assert_eq!(speaks(&daemon, 4), None);
        daemon.forget_visit(peer(2)).await.unwrap();
        assert!(daemon.forget_visit(peer(2)).await.is_err());
        daemon.stop().await;
        drop(daemon);

        std::fs::remove_file(state.join("identities/boris")).unwrap();
        let daemon = started(Some(&state)).await;
        assert_eq!((speaks(&daemon, 1), speaks(&daemon, 2)), (Some(anna), None));
        assert_eq!(speaks(&daemon, 3), None, "its key is gone: no other one takes its place");
    }

    #[tokio::test]
    async fn what_the_configuration_declares_goes_before_what_somebody_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let daemon = started(Some(&folder.path().join("state"))).await;
        daemon.visit(peer(1), "anna").await.unwrap();
        let anna = speaks(&daemon, 1);
        daemon.declare_visits(&[(peer(1), "boris".into()), (peer(2), "boris".into())]).await.unwrap();
        let boris = speaks(&daemon, 2);
        assert!(boris.is_some() && speaks(&daemon, 1) == boris && boris != anna);
        assert!(daemon.visit(peer(1), "anna").await.unwrap_err().to_string().contains("phantom.toml"));
        assert!(daemon.forget_visit(peer(2)).await.unwrap_err().to_string().contains("phantom.toml"));
        daemon.declare_visits(&[]).await.unwrap();
        assert_eq!((speaks(&daemon, 1), speaks(&daemon, 2)), (anna, None));
    }

    #[tokio::test]
    async fn a_node_that_forgets_itself_has_one_identity_for_a_label_all_the_same() {
        let daemon = started(None).await;
        daemon.visit(peer(1), "anna").await.unwrap();
        daemon.visit(peer(2), "anna").await.unwrap();
        assert_eq!(speaks(&daemon, 1), speaks(&daemon, 2));
    }
}
