//! The node's one clock: the core takes time as an argument, this is where it is read.

use std::time::{Instant, SystemTime};

use phantom_protocol::time::{Moment, Now, UnixTime};

/// Reads both clocks. All parts of a node share one start, so copy it instead of making another.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock whose first moment is now.
    #[allow(clippy::new_without_default)] // two clocks of one node would disagree: make it by intent
    pub fn new() -> Clock {
        Clock { start: Instant::now() }
    }

    /// The monotonic clock.
    pub fn moment(&self) -> Moment {
        Moment(u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// The wall clock.
    pub fn unix(&self) -> UnixTime {
        UnixTime(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs()))
    }

    /// Both.
    pub fn now(&self) -> Now {
        Now { moment: self.moment(), unix: self.unix() }
    }
}
