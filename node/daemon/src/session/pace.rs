//! Bulk in large pieces. A stream's bytes come in datagrams, which are handed on at once as long as somebody may wait
//! for each. A stream that brings more and more, while nothing is said in the other direction, is a download: there a
//! reader that has taken all there is rests for a moment before it looks again, so that it writes to its program once
//! where it would have written, and woken the program, for every few datagrams. With ten downloads side by side, that is
//! a tenth of what the processor has to do.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

/// Bytes without a word in the other direction after which a stream is bulk.
const BULK: usize = 128 << 10;
/// How long a reader of bulk rests.
const REST: Duration = Duration::from_millis(1);

/// One direction of one stream, as its reader goes along.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Bytes since somebody spoke in the other direction.
    bytes: usize,
    /// Made once, when it is needed first.
    rest: Option<Pin<Box<Sleep>>>,
    resting: bool,
}

impl Pace {
    /// Whether it is time to read.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.resting && self.rest.as_mut().is_some_and(|rest| rest.as_mut().poll(cx).is_pending()) {
            return Poll::Pending;
        }
        self.resting = false;
        Poll::Ready(())
    }

    /// So much was read; `is_all`: nothing more waits.
    pub(super) fn has_read(&mut self, bytes: usize, is_all: bool) {
        self.bytes = self.bytes.saturating_add(bytes);
        if bytes > 0 && is_all && self.bytes >= BULK {
            let until = Instant::now() + REST;
            match &mut self.rest {
                Some(rest) => rest.as_mut().reset(until),
                None => self.rest = Some(Box::pin(sleep_until(until))),
            }
            self.resting = true;
        }
    }

    /// Somebody has spoken in the other direction, and may wait for the answer.
    pub(super) fn has_spoken(&mut self) {
        self.bytes = 0;
        self.resting = false;
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    async fn may_read(pace: &mut Pace) -> bool {
        poll_fn(|cx| Poll::Ready(pace.poll_read(cx).is_ready())).await
    }

    #[tokio::test]
    async fn only_bulk_rests_and_only_when_there_is_nothing_to_read() {
        let mut pace = Pace::default();
        assert!(may_read(&mut pace).await);
        pace.has_read(BULK - 1, true);
        assert!(may_read(&mut pace).await);
        pace.has_read(1, false);
        assert!(may_read(&mut pace).await);
        pace.has_read(1, true);
        assert!(!may_read(&mut pace).await);
        poll_fn(|cx| pace.poll_read(cx)).await;
        assert!(may_read(&mut pace).await);
        pace.has_read(0, true); // the end
        assert!(may_read(&mut pace).await);
    }

    #[tokio::test]
    async fn whoever_asks_gets_the_answer_at_once() {
        let mut pace = Pace::default();
        for _ in 0..10 {
            pace.has_read(BULK, true);
            pace.has_spoken();
            assert!(may_read(&mut pace).await);
        }
    }
}
