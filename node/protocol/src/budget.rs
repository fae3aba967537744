//! How much of something a peer may have: so much at once, so much per second.

use std::time::Duration;

use crate::time::Moment;

/// A bucket that fills with time. Spending may overdraw it once; then it waits until it is above zero again.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    most: i64,
    per_second: u32,
    left: i64,
    filled: Moment,
}

impl Budget {
    /// Full at first.
    pub(crate) fn new(now: Moment, (most, per_second): (u32, u32)) -> Budget {
        Budget { most: i64::from(most), per_second: per_second.max(1), left: i64::from(most), filled: now }
    }

    /// Whether anything may be spent now.
    pub(crate) fn allows(&mut self, now: Moment) -> bool {
        self.fill(now);
        self.left > 0
    }

    /// Takes `amount`, even if less is left.
    pub(crate) fn spend(&mut self, amount: usize) {
        self.left = self.left.saturating_sub(i64::try_from(amount).unwrap_or(i64::MAX));
    }

    /// From when on something may be spent, if nothing else is spent before.
    pub(crate) fn ready(&self) -> Moment {
        let missing = u64::try_from(1 - self.left).unwrap_or(0);
        self.filled + Duration::from_micros((missing * 1_000_000).div_ceil(u64::from(self.per_second)))
    }

    fn fill(&mut self, now: Moment) {
        let waited = now.since(self.filled).as_micros();
        let earned = waited * u128::from(self.per_second) / 1_000_000;
        if earned == 0 {
            return;
        }
        // The part of a unit that was not earned yet is rounded away: a budget is no clock.
        self.left = self.left.saturating_add(i64::try_from(earned).unwrap_or(i64::MAX)).min(self.most);
        self.filled = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_empty_until_the_time_it_says() {
        let mut budget = Budget::new(Moment(0), (10, 2));
        assert!(budget.allows(Moment(0)));
        budget.spend(15);
        let ready = budget.ready();
        assert_eq!(ready, Moment(3_000_000));
        assert!(!budget.allows(Moment(ready.0 - 1)));
        let mut budget = Budget::new(Moment(0), (10, 2));
        budget.spend(15);
        assert!(budget.allows(ready));
    }

    #[test]
    fn it_never_holds_more_than_its_most() {
        let mut budget = Budget::new(Moment(0), (10, 1_000));
        assert!(budget.allows(Moment(3_600_000_000)));
        budget.spend(10);
        assert!(!budget.allows(Moment(3_600_000_000)));
    }
}
