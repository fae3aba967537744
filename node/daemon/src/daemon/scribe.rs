//! Writes notes down beside the driver: a disk may take its time, and circles do not wait for it.
//!
//! Of each kind of notes only the last word counts, so what comes while the disk is busy replaces what waits. What waits
//! at the end is written before [`Scribe::finish`] returns.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    sync::Notify,
    task::{JoinHandle, spawn_blocking},
};

use crate::store::{Notes, Store};

/// Writes notes in the order in which they come. Dropping it lets it end by itself.
pub(super) struct Scribe {
    desk: Arc<Desk>,
    task: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Desk {
    pile: Mutex<Pile>,
    changed: Notify,
}

#[derive(Default)]
struct Pile {
    /// In the order of their turns: what comes often never keeps what comes seldom from the disk.
    waiting: VecDeque<(Notes, Vec<u8>)>,
    is_last: bool,
}

impl Scribe {
    /// Begins. Needs a tokio runtime.
    pub(super) fn new(store: Arc<Store>) -> Scribe {
        let desk = Arc::<Desk>::default();
        let task = tokio::spawn(run(store, Arc::clone(&desk)));
        Scribe { desk, task: Some(task) }
    }

    /// Replaces the notes, soon.
    pub(super) fn write(&self, notes: Notes, bytes: Vec<u8>) {
        self.desk.pile().put(notes, bytes);
        self.desk.changed.notify_one();
    }

    /// Returns when everything is written, or could not be.
    pub(super) async fn finish(mut self) {
        self.desk.end();
        if let Some(task) = self.task.take() {
            // It is never aborted, and has nothing that panics.
            let _ = task.await;
        }
    }
}

impl Drop for Scribe {
    fn drop(&mut self) {
        self.desk.end();
    }
}

impl Pile {
    fn put(&mut self, notes: Notes, bytes: Vec<u8>) {
        match self.waiting.iter_mut().find(|(kind, _)| *kind == notes) {
            Some((_, older)) => *older = bytes,
            None => self.waiting.push_back((notes, bytes)),
        }
    }
}

impl Desk {
    fn pile(&self) -> MutexGuard<'_, Pile> {
        self.pile.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) {
        self.pile().is_last = true;
        self.changed.notify_one();
    }

    /// The next notes to be written; `None` when there will be no more.
    async fn next(&self) -> Option<(Notes, Vec<u8>)> {
        loop {
            let (next, is_last) = {
                let mut pile = self.pile();
                (pile.waiting.pop_front(), pile.is_last)
            };
            if next.is_some() || is_last {
                return next;
            }
            // A change since we have looked has left its mark.
            self.changed.notified().await;
        }
    }
}

async fn run(store: Arc<Store>, desk: Arc<Desk>) {
    // A full disk is said once, not at every circle.
    let mut has_failed = false;
    while let Some((notes, bytes)) = desk.next().await {
        let store = Arc::clone(&store);
        let Ok(written) = spawn_blocking(move || store.write_notes(notes, &bytes)).await else { continue };
        match written {
            Ok(()) => has_failed = false,
            Err(error) if !has_failed => {
                has_failed = true;
                tracing::warn!(
                    "{error}; guards and known nodes are lost with a restart unless this is mended"
                );
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use phantom_protocol::network::Network;

    use super::*;

    fn store() -> (tempfile::TempDir, Arc<Store>) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("state"), &Network::private("test")).unwrap();
        (folder, Arc::new(store))
    }

    #[tokio::test]
    async fn the_last_word_of_each_kind_is_on_the_disk_when_it_has_finished() {
        let (_folder, store) = store();
        let scribe = Scribe::new(Arc::clone(&store));
        for number in 0..1_000u32 {
            scribe.write(Notes::Building, number.to_be_bytes().to_vec());
        }
        scribe.write(Notes::Nodes, b"nodes".to_vec());
        scribe.finish().await;
        let read = |notes| store.read_notes(notes).unwrap().unwrap().to_vec();
        assert_eq!(
            (read(Notes::Building), read(Notes::Nodes)),
            (999u32.to_be_bytes().to_vec(), b"nodes".to_vec())
        );
    }

    #[test]
    fn what_comes_often_does_not_keep_what_comes_seldom_waiting() {
        let mut pile = Pile::default();
        pile.put(Notes::Building, vec![1]);
        pile.put(Notes::Nodes, vec![2]);
        pile.put(Notes::Building, vec![3]);
        assert_eq!(pile.waiting.pop_front(), Some((Notes::Building, vec![3])));
        pile.put(Notes::Building, vec![4]);
        assert_eq!(pile.waiting.pop_front(), Some((Notes::Nodes, vec![2])));
    }

    #[tokio::test]
    async fn what_cannot_be_written_does_not_keep_the_next_from_being() {
        let (folder, store) = store();
        let (state, aside) = (folder.path().join("state"), folder.path().join("aside"));
        std::fs::rename(&state, &aside).unwrap();
        let scribe = Scribe::new(Arc::clone(&store));
        scribe.write(Notes::Nodes, b"lost".to_vec());
        while !scribe.desk.pile().waiting.is_empty() {
            tokio::task::yield_now().await;
        }
        std::fs::rename(&aside, &state).unwrap();
        scribe.write(Notes::Nodes, b"kept".to_vec());
        scribe.finish().await;
        assert_eq!(store.read_notes(Notes::Nodes).unwrap().unwrap().as_slice(), b"kept");
    }
}
