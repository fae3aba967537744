//! Time as an argument: the driver of the core says what time it is, the core never asks.

use std::{
    ops::{Add, Sub},
    time::Duration,
};

/// Microseconds of a monotonic clock, counted from a start that only the driver knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub u64);

impl Moment {
    /// The time between `earlier` and this moment; zero if `earlier` is later.
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;
    fn add(self, wait: Duration) -> Moment {
        Moment(self.0.saturating_add(wait.as_micros().min(u128::from(u64::MAX)) as u64))
    }
}

impl Sub<Duration> for Moment {
    type Output = Moment;
    fn sub(self, back: Duration) -> Moment {
        Moment(self.0.saturating_sub(back.as_micros().min(u128::from(u64::MAX)) as u64))
    }
}

/// Seconds since 1970, UTC: what records and path expiries are written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixTime(pub u64);

/// Both clocks, read at the same instant.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now {
    /// For time-outs and queues.
    pub moment: Moment,
    /// For everything that other nodes see.
    pub unix: UnixTime,
}
