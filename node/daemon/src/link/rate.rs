//! How much all links of a node may carry a second (PROTOCOL §2.9).
//!
//! There is one [`Bucket`] for what they send and one for what they receive, which is all that is known of the limits: no
//! timer, no queue. A link that wants its turn books it: the bucket answers when it may go, which is when all that was
//! booked before is paid for. Each link has one booking at a time, of one small batch, so busy links get the same,
//! whatever the others want. What nobody has used for a while may go at once, up to the burst.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use phantom_protocol::wire::cell::CELL;
use tokio::time::{Instant, Sleep, sleep_until};

use super::tls::CELLS_PER_RECORD;

/// The least that a link can live with, in bytes a second: with less, neighbours would take it for dead.
pub const LEAST_RATE: u64 = 100_000;
/// The least burst, in bytes.
pub const LEAST_BURST: u64 = 100_000;
/// A turn takes about this long, and never less than one record of cells.
const TURN: Duration = Duration::from_millis(10);

/// What the owner gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Bytes a second in each direction.
    pub rate: u64,
    /// Bytes that may go at once after a rest.
    pub burst: u64,
}

/// What may go in one direction.
#[derive(Debug)]
pub(super) struct Bucket {
    limit: RateLimit,
    start: Instant,
    /// When all that was booked is paid for, in nanoseconds after the start and the first full bucket.
    booked: AtomicU64,
}

impl Bucket {
    /// Full.
    pub(super) fn new(limit: RateLimit) -> Bucket {
        let RateLimit { rate, burst } = limit;
        let limit = RateLimit { rate: rate.max(LEAST_RATE), burst: burst.max(LEAST_BURST) };
        Bucket { limit, start: Instant::now(), booked: AtomicU64::new(0) }
    }

    /// Cells of one turn.
    fn turn(&self) -> usize {
        let bytes = u128::from(self.limit.rate) * TURN.as_millis() / 1_000;
        usize::try_from(bytes / CELL as u128).unwrap_or(usize::MAX).max(CELLS_PER_RECORD)
    }

    /// Books `bytes`: they may go from the moment that is returned on.
    fn book(&self, now: Instant, bytes: u64) -> Instant {
        // The clock of bookings is ahead by a full bucket, so it never has to be below zero.
        let now = self.nanos(now);
        let cost = self.cost(bytes);
        let place = |booked: u64| booked.max(now);
        let booked = self.booked.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |booked| {
            Some(place(booked).saturating_add(cost))
        });
        let from = place(booked.unwrap_or_else(|booked| booked));
        let full = self.cost(self.limit.burst);
        self.start + Duration::from_nanos(from.saturating_sub(full))
    }

    /// What was booked in vain comes back.
    fn give_back(&self, bytes: u64) {
        let cost = self.cost(bytes);
        let _never_fails = self
            .booked
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |booked| Some(booked.saturating_sub(cost)));
    }

    fn cost(&self, bytes: u64) -> u64 {
        u64::try_from(u128::from(bytes) * 1_000_000_000 / u128::from(self.limit.rate)).unwrap_or(u64::MAX)
    }

    fn nanos(&self, now: Instant) -> u64 {
        u64::try_from(now.duration_since(self.start).as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Both buckets of a node, if its owner has set a limit.
#[derive(Clone, Debug, Default)]
pub(super) struct Rates {
    pub(super) sending: Option<Arc<Bucket>>,
    pub(super) receiving: Option<Arc<Bucket>>,
}

impl Rates {
    pub(super) fn new(limit: Option<RateLimit>) -> Rates {
        let bucket = || limit.map(|limit| Arc::new(Bucket::new(limit)));
        Rates { sending: bucket(), receiving: bucket() }
    }
}

/// One link's turns in one direction.
#[derive(Debug)]
pub(super) struct Turns {
    bucket: Option<Arc<Bucket>>,
    waiting: Option<Pin<Box<Sleep>>>,
    /// Cells that are booked and not used.
    booked: usize,
}

impl Turns {
    pub(super) fn new(bucket: Option<Arc<Bucket>>) -> Turns {
        Turns { bucket, waiting: None, booked: 0 }
    }

    /// Whether there is a limit at all.
    pub(super) fn is_limited(&self) -> bool {
        self.bucket.is_some()
    }

    /// Waits for the turn to move some of `wanted` cells: how many.
    pub(super) fn poll_turn(&mut self, cx: &mut Context<'_>, now: Instant, wanted: usize) -> Poll<usize> {
        let Some(bucket) = &self.bucket else { return Poll::Ready(wanted) };
        if self.booked == 0 {
            self.booked = wanted.min(bucket.turn());
            let from = bucket.book(now, (self.booked * CELL) as u64);
            if from > now {
                self.waiting = Some(Box::pin(sleep_until(from)));
            }
        }
        self.poll_rest(cx).map(|()| self.booked)
    }

    /// So many have gone; a turn that was not used up is over all the same.
    pub(super) fn used(&mut self, cells: usize) {
        let Some(bucket) = &self.bucket else { return };
        let unused = std::mem::take(&mut self.booked).saturating_sub(cells);
        if unused > 0 {
            bucket.give_back((unused * CELL) as u64);
        }
    }

    /// One goes without waiting: the next ones wait for it.
    pub(super) fn book_one(&self, now: Instant) {
        if let Some(bucket) = &self.bucket {
            bucket.book(now, CELL as u64);
        }
    }

    /// So many have come: the next ones wait until they are paid for.
    pub(super) fn charge(&mut self, now: Instant, cells: usize) {
        let Some(bucket) = self.bucket.as_ref().filter(|_| cells > 0) else { return };
        bucket.book(now, (cells * CELL) as u64);
        // Behind all who have booked before: the next booking of nothing would be then.
        let next = bucket.book(now, 0);
        if next > now {
            self.waiting = Some(Box::pin(sleep_until(next)));
        }
    }

    /// Waits until the next ones may come.
    pub(super) fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(waiting) = &mut self.waiting {
            std::task::ready!(waiting.as_mut().poll(cx));
            self.waiting = None;
        }
        Poll::Ready(())
    }

    /// Whether it waits.
    pub(super) fn rests(&self) -> bool {
        self.waiting.is_some()
    }

    /// At most so many are read before the next look at the bucket.
    pub(super) fn batch(&self, most: usize) -> usize {
        self.bucket.as_ref().map_or(most, |bucket| bucket.turn().min(most))
    }
}

impl Drop for Turns {
    fn drop(&mut self) {
        self.used(0);
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    const LIMIT: RateLimit = RateLimit { rate: 1_000_000, burst: 200_000 };

    /// Bytes that each of these links moves within the time, from `start` on, if it always wants more.
    fn moved(bucket: &Bucket, links: usize, start: Instant, time: Duration) -> Vec<u64> {
        let bytes = (bucket.turn() * CELL) as u64;
        // When each may go next; all ask for the first time at once.
        let mut next: Vec<Instant> = (0..links).map(|_| bucket.book(start, bytes).max(start)).collect();
        let mut moved = vec![0; links];
        while let Some((link, now)) = next.iter().copied().enumerate().min_by_key(|(_, at)| *at)
            && now < start + time
        {
            moved[link] += bytes;
            next[link] = bucket.book(now, bytes).max(now);
        }
        moved
    }

    #[test]
    fn what_goes_is_the_burst_and_then_the_rate() {
        let bucket = Bucket::new(LIMIT);
        let [bytes] = moved(&bucket, 1, bucket.start, Duration::from_secs(10))[..] else { panic!() };
        assert!((10_150_000..10_250_000).contains(&bytes), "{bytes}");
    }

    #[test]
    fn a_rest_saves_no_more_than_the_burst() {
        let bucket = Bucket::new(LIMIT);
        moved(&bucket, 1, bucket.start, Duration::from_secs(1));
        let later = bucket.start + Duration::from_secs(100);
        let [bytes] = moved(&bucket, 1, later, Duration::from_secs(1))[..] else { panic!() };
        assert!((1_150_000..1_250_000).contains(&bytes), "{bytes}");
    }

    #[test]
    fn busy_links_get_the_same() {
        let bucket = Bucket::new(LIMIT);
        let all = moved(&bucket, 7, bucket.start, Duration::from_secs(10));
        let (least, most) = (all.iter().min().unwrap(), all.iter().max().unwrap());
        // The first may take the burst, for nobody else has asked yet.
        assert!(most - least <= LIMIT.burst + 2 * (bucket.turn() * CELL) as u64, "{all:?}");
        let bytes = all.iter().sum::<u64>();
        assert!((10_000_000..10_400_000).contains(&bytes), "{bytes}");
    }

    #[test]
    fn what_was_not_used_comes_back() {
        let bucket = Arc::new(Bucket::new(LIMIT));
        let mut turns = Turns::new(Some(Arc::clone(&bucket)));
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..10_000 {
            // Booked for good they would have to wait for 150 s.
            assert_eq!(turns.poll_turn(&mut cx, bucket.start, 11), Poll::Ready(11));
            turns.used(0);
        }
    }

    #[tokio::test]
    async fn who_has_received_too_much_rests_until_it_is_paid_for() {
        let bucket = Arc::new(Bucket::new(LIMIT));
        let mut turns = Turns::new(Some(Arc::clone(&bucket)));
        turns.charge(bucket.start, 100);
        assert!(!turns.rests());
        turns.charge(bucket.start, 200);
        let until = turns.waiting.as_ref().unwrap().deadline();
        let paid = bucket.start + Duration::from_nanos(bucket.cost(300 * CELL as u64 - LIMIT.burst));
        assert!(until.max(paid) - until.min(paid) < Duration::from_micros(1), "{until:?}, not {paid:?}");
        std::future::poll_fn(|cx| turns.poll_rest(cx)).await;
        assert!(Instant::now() >= until && !turns.rests());
    }

    #[test]
    fn without_a_limit_nobody_waits() {
        let mut turns = Turns::new(None);
        let (mut cx, now) = (Context::from_waker(Waker::noop()), Instant::now());
        assert_eq!(turns.poll_turn(&mut cx, now, 44), Poll::Ready(44));
        turns.charge(now, 1 << 40);
        assert!(!turns.rests() && turns.batch(64) == 64);
    }
}
