//! How much of a connection is padding, which may change until there is a verdict (`phantom_policy::frame`).

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::timeout};

/// A run that has a connection held says within this what stands in it.
const PATIENCE: Duration = Duration::from_secs(10);

/// The padding of one connection.
#[derive(Debug)]
pub(super) struct Padding {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// None, and it may still be held.
    Open,
    /// The run is putting it in.
    Held,
    /// So much.
    Padded(u64),
    /// There is a verdict.
    Decided,
}

impl Padding {
    pub(super) fn new(padding: Option<u64>) -> Padding {
        let state = padding.map_or(State::Open, State::Padded);
        Padding { state: Mutex::new(state), changed: Notify::new() }
    }

    /// Holds it. False if it is too late, or it is held already.
    pub(super) fn hold(&self) -> bool {
        let mut state = self.lock();
        let is_open = *state == State::Open;
        if is_open {
            *state = State::Held;
        }
        is_open
    }

    /// By now there is so much.
    pub(super) fn padded(&self, padding: u64) {
        let mut state = self.lock();
        if *state == State::Held {
            *state = State::Padded(padding);
            self.changed.notify_one();
        }
    }

    /// The verdict comes now: it is too late to hold it. How much padding there is; nothing if the run does not say.
    pub(super) async fn decide(&self) -> Option<u64> {
        self.decide_within(PATIENCE).await
    }

    async fn decide_within(&self, patience: Duration) -> Option<u64> {
        let padding = async {
            loop {
                let changed = self.changed.notified();
                if let Some(padding) = self.try_decide() {
                    return padding;
                }
                changed.await;
            }
        };
        let decided = timeout(patience, padding).await;
        decided.inspect_err(|_| *self.lock() = State::Decided).ok()
    }

    fn try_decide(&self) -> Option<u64> {
        let mut state = self.lock();
        let padding = match *state {
            State::Held => return None,
            State::Padded(padding) => padding,
            State::Open | State::Decided => 0,
        };
        *state = State::Decided;
        Some(padding)
    }

    pub(super) fn is_decided(&self) -> bool {
        *self.lock() == State::Decided
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn a_connection_is_held_before_its_verdict_and_no_later() {
        let hold = Padding::new(None);
        assert_eq!(hold.decide().await, Some(0));
        assert!(!hold.hold() && hold.is_decided());
        assert!(!Padding::new(Some(7)).hold(), "there is padding already");
        assert_eq!(Padding::new(Some(7)).decide().await, Some(7));
    }

    #[tokio::test]
    async fn a_verdict_waits_for_what_stands_in_a_connection_that_is_held_but_not_for_ever() {
        let hold = Arc::new(Padding::new(None));
        assert!(hold.hold() && !hold.hold());
        let decided = tokio::spawn({
            let hold = hold.clone();
            async move { hold.decide().await }
        });
        tokio::task::yield_now().await;
        assert!(!decided.is_finished());
        hold.padded(5);
        assert_eq!(decided.await.unwrap(), Some(5));

        let silent = Padding::new(None);
        assert!(silent.hold());
        assert_eq!(silent.decide_within(Duration::from_millis(1)).await, None);
        assert!(silent.is_decided());
    }
}
