//! How fast an owner builds (PROTOCOL §4): at most 3 at once; after 12 failures within a minute a pause, which doubles
//! up to 5 minutes while nothing succeeds. Failures and the pause outlive a restart, so that an attacker who can crash
//! a node does not make it build faster.

use std::time::Duration;

use rand::RngExt;
use rand_core::CryptoRng;

use crate::{
    limits::{BUILD_BACKOFF, BUILDS_AT_ONCE, FAILED_BUILDS_PER_MINUTE, FIRST_BUILD_PAUSE},
    time::UnixTime,
    wire::reader::{Malformed, Reader, Writer},
};

const MINUTE: u64 = 60;

/// Says when the next build may start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pacer {
    under_way: usize,
    /// Of the last minute, oldest first.
    failures: Vec<UnixTime>,
    /// Pauses since the last success.
    pauses: u32,
    /// No build before this.
    resume: UnixTime,
}

/// Why no build may start now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Paced {
    /// One must end first.
    #[error("as many routing paths as allowed are being built; wait for one of them")]
    Busy,
    /// Too many have failed.
    #[error("building routing paths failed too often; the next try is at {} (UTC seconds)", .0.0)]
    Until(UnixTime),
}

impl Pacer {
    /// Nothing has failed yet.
    pub fn new() -> Pacer {
        Pacer::default()
    }

    /// Whether a build may begin now.
    pub fn may_start(&mut self, now: UnixTime) -> Result<(), Paced> {
        if self.under_way >= BUILDS_AT_ONCE {
            return Err(Paced::Busy);
        }
        // A clock that was set back must not stop building for longer than the longest pause.
        self.resume = self.resume.min(UnixTime(now.0.saturating_add(BUILD_BACKOFF.as_secs())));
        if now < self.resume {
            return Err(Paced::Until(self.resume));
        }
        Ok(())
    }

    /// One has begun. It needs one [`Pacer::handle_finished`].
    pub fn handle_started(&mut self) {
        self.under_way += 1;
    }

    /// One that had begun has ended.
    pub fn handle_finished(&mut self, now: UnixTime, success: bool, rng: &mut impl CryptoRng) {
        self.under_way = self.under_way.saturating_sub(1);
        if success {
            self.pauses = 0;
            return;
        }
        self.failures.retain(|failure| failure.0 <= now.0 && now.0 - failure.0 < MINUTE);
        self.failures.push(now);
        if self.failures.len() >= FAILED_BUILDS_PER_MINUTE {
            self.failures.clear();
            self.resume = UnixTime(now.0.saturating_add(self.pause(rng).as_secs()));
            self.pauses = self.pauses.saturating_add(1);
        }
    }

    /// Builds under way.
    pub fn under_way(&self) -> usize {
        self.under_way
    }

    /// Doubled with each one in a row, then a random part between half and all of it.
    fn pause(&self, rng: &mut impl CryptoRng) -> Duration {
        let full = FIRST_BUILD_PAUSE.saturating_mul(1 << self.pauses.min(10)).min(BUILD_BACKOFF);
        full.mul_f64(rng.random_range(0.5..=1.0))
    }

    /// For the store.
    pub fn encode(&self, out: &mut Writer) {
        out.u32(self.pauses).u64(self.resume.0).u16(self.failures.len() as u16);
        for failure in &self.failures {
            out.u64(failure.0);
        }
    }

    /// From the store. Nothing is under way after a restart.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Pacer, Malformed> {
        let pauses = reader.u32()?;
        let resume = UnixTime(reader.u64()?);
        let count = usize::from(reader.u16()?);
        if count > FAILED_BUILDS_PER_MINUTE {
            return Err(Malformed::Field("failed builds"));
        }
        let failures = (0..count).map(|_| reader.u64().map(UnixTime)).collect::<Result<_, _>>()?;
        Ok(Pacer { under_way: 0, failures, pauses, resume })
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::ChaCha20Rng};

    use super::*;

    fn start(pacer: &mut Pacer, now: u64) -> Result<(), Paced> {
        pacer.may_start(UnixTime(now)).map(|()| pacer.handle_started())
    }

    fn fail(pacer: &mut Pacer, now: u64, rng: &mut ChaCha20Rng) {
        start(pacer, now).unwrap();
        pacer.handle_finished(UnixTime(now), false, rng);
    }

    #[test]
    fn three_at_once() {
        let mut rng = ChaCha20Rng::from_seed([1; 32]);
        let mut pacer = Pacer::new();
        for _ in 0..3 {
            start(&mut pacer, 5).unwrap();
        }
        assert_eq!(start(&mut pacer, 5), Err(Paced::Busy));
        pacer.handle_finished(UnixTime(6), true, &mut rng);
        assert_eq!(start(&mut pacer, 6), Ok(()));
    }

    #[test]
    fn twelve_failures_within_a_minute_make_a_pause_and_eleven_do_not() {
        let mut rng = ChaCha20Rng::from_seed([2; 32]);
        let mut pacer = Pacer::new();
        (0..11).for_each(|_| fail(&mut pacer, 1_000, &mut rng));
        // They are older than a minute now.
        (0..11).for_each(|_| fail(&mut pacer, 1_061, &mut rng));
        fail(&mut pacer, 1_062, &mut rng);
        assert!(matches!(start(&mut pacer, 1_063), Err(Paced::Until(_))));
    }

    #[test]
    fn pauses_grow_to_five_minutes_vary_and_end_with_a_success() {
        let mut rng = ChaCha20Rng::from_seed([3; 32]);
        let mut pacer = Pacer::new();
        let mut now = 1_000;
        let mut pauses = Vec::new();
        for _ in 0..12 {
            (0..12).for_each(|_| fail(&mut pacer, now, &mut rng));
            pauses.push(pacer.resume.0 - now);
            now = pacer.resume.0;
        }
        assert!(pauses[0] <= FIRST_BUILD_PAUSE.as_secs() && pauses[0] >= FIRST_BUILD_PAUSE.as_secs() / 2);
        assert!(pauses.iter().all(|pause| *pause <= 300));
        assert!(pauses[6..].iter().all(|pause| *pause >= 150));
        assert!(pauses[6..].windows(2).any(|pair| pair[0] != pair[1]));
        start(&mut pacer, now).unwrap();
        pacer.handle_finished(UnixTime(now), true, &mut rng);
        assert_eq!(pacer.pauses, 0);
    }

    #[test]
    fn a_pause_outlives_a_restart_and_a_clock_set_back_cannot_stretch_it() {
        let mut rng = ChaCha20Rng::from_seed([4; 32]);
        let mut pacer = Pacer::new();
        (0..12).for_each(|_| fail(&mut pacer, 100_000, &mut rng));
        fail(&mut Pacer::new(), 1, &mut rng);
        let mut out = Writer::new();
        pacer.encode(&mut out);
        let bytes = out.finish();
        let mut restored = Pacer::decode(&mut Reader::new(&bytes)).unwrap();
        assert_eq!(restored, pacer);
        assert!(start(&mut restored, 100_001).is_err());
        assert!(start(&mut restored, 50_000).is_err());
        assert_eq!(start(&mut restored, 50_300), Ok(()));
    }
}
