//! Room for clients. There are so many places, and who knocks at a full house waits; but nobody keeps others out by saying
//! nothing. A client is a stranger until it has shown that it is where the node is (`origin`). When all places are taken, the
//! stranger that came first makes way. Programs under `phantom run` and clients that never speak are strangers for good; the
//! command line shows itself with its first byte.

use std::{collections::VecDeque, sync::Arc};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Clients at once.
pub(super) const CLIENTS: usize = 64;

/// The places of all clients.
#[derive(Debug)]
pub(super) struct Room {
    places: Arc<Semaphore>,
    /// Whom to ask to make way, the first comer first.
    strangers: VecDeque<mpsc::Sender<()>>,
}

/// The place of a client of whom nothing is known yet.
#[derive(Debug)]
pub(super) struct Stranger {
    // Before the other: who has been asked and is heard of no more has left its place.
    place: OwnedSemaphorePermit,
    asked: mpsc::Receiver<()>,
    is_in_the_way: bool,
}

impl Room {
    pub(super) fn new() -> Room {
        Room { places: Arc::new(Semaphore::new(CLIENTS)), strangers: VecDeque::new() }
    }

    /// Waits for a place.
    pub(super) async fn enter(&mut self) -> Stranger {
        let place = self.place().await;
        let (ask, asked) = mpsc::channel(1);
        self.strangers.retain(|stranger| !stranger.is_closed());
        self.strangers.push_back(ask);
        Stranger { place, asked, is_in_the_way: false }
    }

    async fn place(&mut self) -> OwnedSemaphorePermit {
        loop {
            if let Ok(place) = self.places.clone().try_acquire_owned() {
                return place;
            }
            let first = self.strangers.pop_front();
            if let Some(stranger) = &first {
                let _is_one_no_more = stranger.try_send(());
            }
            let is_decided = async {
                match &first {
                    Some(stranger) => stranger.closed().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Ok(place) = self.places.clone().acquire_owned() => return place,
                () = is_decided => {}
            }
        }
    }
}

impl Stranger {
    /// Ends when somebody needs the place, and from then on at once.
    pub(super) async fn is_in_the_way(&mut self) {
        if !self.is_in_the_way {
            let _or_nobody_serves_any_more = self.asked.recv().await;
            self.is_in_the_way = true;
        }
    }

    /// It is one no more: the place is its own as long as it stays.
    pub(super) fn stay(self) -> OwnedSemaphorePermit {
        self.place
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn full() -> (Room, VecDeque<Stranger>) {
        let mut room = Room::new();
        let strangers = (0..CLIENTS).map(|_| room.enter().now_or_never().unwrap()).collect();
        (room, strangers)
    }

    #[tokio::test]
    async fn the_stranger_that_came_first_makes_way_and_no_other() {
        let (mut room, mut strangers) = full();
        let mut first = strangers.pop_front().unwrap();
        let leaving = async {
            first.is_in_the_way().await;
            first.is_in_the_way().await;
            drop(first);
        };
        let (newcomer, ()) = tokio::join!(room.enter(), leaving);
        assert!(strangers.iter_mut().all(|other| other.is_in_the_way().now_or_never().is_none()));
        drop(newcomer);
        assert!(room.enter().now_or_never().is_some(), "a place that is free is taken at once");
    }

    #[tokio::test]
    async fn who_is_known_stays_and_the_next_stranger_makes_way() {
        let (mut room, mut strangers) = full();
        let known = strangers.pop_front().unwrap().stay();
        // This one is asked, and shows itself only then.
        let (mut late, mut next) = (strangers.pop_front().unwrap(), strangers.pop_front().unwrap());
        let leaving = async {
            late.is_in_the_way().await;
            let late = late.stay();
            next.is_in_the_way().await;
            drop(next);
            late
        };
        let (newcomer, late) = tokio::join!(room.enter(), leaving);
        let known: Vec<_> =
            [known, late].into_iter().chain(strangers.into_iter().map(Stranger::stay)).collect();
        let _all = (known, newcomer.stay());
        assert!(room.enter().now_or_never().is_none(), "all places are taken by who is known");
    }

    #[tokio::test]
    async fn a_place_that_becomes_free_is_enough() {
        let (mut room, mut strangers) = full();
        let last = strangers.pop_back();
        let leaving = async { drop(last) };
        tokio::join!(room.enter(), leaving);
    }
}
