//! What is done when a time has come: the time-outs of programs' own sockets, which few set.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use super::lock;

/// More than there are connections under way.
const MOST: usize = 16_384;

/// The thread that waits is there only while somebody waits.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    pending: Mutex<Pending>,
    changed: Condvar,
}

#[derive(Default)]
struct Pending {
    /// By time, and in order.
    by_time: BTreeMap<(Instant, u64), Box<dyn FnOnce() + Send>>,
    last: u64,
    is_watched: bool,
}

impl Deadlines {
    /// Does something after this long. Must not take long itself.
    pub(super) fn after(self: &Arc<Deadlines>, patience: Duration, act: impl FnOnce() + Send + 'static) {
        let mut pending = lock(&self.pending);
        if pending.by_time.len() >= MOST {
            return;
        }
        pending.last += 1;
        let key = (Instant::now() + patience, pending.last);
        pending.by_time.insert(key, Box::new(act));
        self.changed.notify_one();
        if !pending.is_watched {
            let watching = self.clone();
            let started = thread::Builder::new().name("deadlines".to_owned()).spawn(move || watching.watch());
            pending.is_watched = started.is_ok();
        }
    }

    fn watch(&self) {
        let mut pending = lock(&self.pending);
        while let Some((at, _)) = pending.by_time.first_key_value().map(|(key, _)| *key) {
            let left = at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let due = pending.by_time.pop_first();
                drop(pending);
                if let Some((_, act)) = due {
                    act();
                }
                pending = lock(&self.pending);
            } else {
                let waited = self.changed.wait_timeout(pending, left);
                pending = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
        pending.is_watched = false;
    }
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} pending", self.by_time.len())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn what_is_due_first_is_done_first_and_there_is_a_next_time() {
        let deadlines = Arc::<Deadlines>::default();
        for _ in 0..2 {
            let (done, order) = channel();
            for patience in [30, 10, 20] {
                let done = done.clone();
                deadlines.after(Duration::from_millis(patience), move || done.send(patience).unwrap());
            }
            drop(done);
            assert_eq!(order.iter().collect::<Vec<_>>(), [10, 20, 30]);
        }
    }
}
