//! How much a node may carry in a month (PROTOCOL §7.7): pure book-keeping with calendar months of UTC.
//!
//! A clock that jumps must neither give a quota twice nor take one away: each month has a book of its own, and going
//! back to a month means going on in its book. A few books are kept, those nearest to now.

use std::collections::BTreeMap;

use crate::{
    time::UnixTime,
    wire::reader::{Malformed, Reader, Writer},
};

/// Books that are kept.
const BOOKS: usize = 4;
const FORMAT: u8 = 1;
const DAY: u64 = 86_400;

/// A month, counted from January 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Month(u32);

/// What was carried, by month.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowance {
    books: BTreeMap<Month, u64>,
}

impl Allowance {
    /// So many more bytes were carried.
    pub fn add(&mut self, now: UnixTime, bytes: u64) {
        let month = Month::of(now);
        let book = self.books.entry(month).or_insert(0);
        *book = book.saturating_add(bytes);
        while self.books.len() > BOOKS {
            let farthest = self.books.keys().copied().max_by_key(|other| other.0.abs_diff(month.0));
            farthest.iter().for_each(|farthest| _ = self.books.remove(farthest));
        }
    }

    /// Bytes carried in this month.
    pub fn used(&self, now: UnixTime) -> u64 {
        self.books.get(&Month::of(now)).copied().unwrap_or(0)
    }

    /// The day on which the next month begins, as people write it.
    pub fn renewed_on(now: UnixTime) -> String {
        let next = Month::of(now).0 + 1;
        format!("{}-{:02}-01", 1970 + next / 12, next % 12 + 1)
    }

    /// To be kept over a restart.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.u8(FORMAT);
        for (month, bytes) in &self.books {
            out.u32(month.0).u64(*bytes);
        }
        out.finish()
    }

    /// What [`Allowance::encode`] gave.
    pub fn decode(bytes: &[u8]) -> Result<Allowance, Malformed> {
        let mut reader = Reader::new(bytes);
        if reader.u8()? != FORMAT {
            return Err(Malformed::Field("format"));
        }
        let mut books = BTreeMap::new();
        while reader.remaining() > 0 {
            if books.len() == BOOKS || books.insert(Month(reader.u32()?), reader.u64()?).is_some() {
                return Err(Malformed::Field("month"));
            }
        }
        Ok(Allowance { books })
    }
}

impl Month {
    fn of(time: UnixTime) -> Month {
        let days = time.0 / DAY;
        // Found by halving: no calendar arithmetic that could be wrong in one direction only.
        let (mut low, mut high) = (0, u32::try_from(days / 28).unwrap_or(u32::MAX / 64));
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            if Month(middle).begins() <= time { low = middle } else { high = middle - 1 }
        }
        Month(low)
    }

    fn begins(self) -> UnixTime {
        let (year, month) = (u64::from(self.0 / 12), self.0 % 12);
        let is_leap =
            |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        let calendar = 1970 + year;
        // Leap days of the whole years since 1970.
        let leaps = |year: u64| year / 4 - year / 100 + year / 400;
        let days = 365 * year + leaps(calendar - 1) - leaps(1969);
        let lengths: [u64; 12] =
            [31, 28 + u64::from(is_leap(calendar)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        let before: u64 = lengths.iter().take(month as usize).sum();
        UnixTime((days + before) * DAY)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 2026-11-30 23:59:59.
    const LAST_SECOND: UnixTime = UnixTime(1_796_083_199);
    const MONTH: u64 = 30 * DAY;

    #[test]
    fn months_are_those_of_the_calendar() {
        for (month, begins) in [
            (0, 0),
            (1, 2_678_400),
            (2, 5_097_600),
            (30 * 12 + 2, 951_868_800),    // 2000-03-01, after a leap day
            (56 * 12 + 11, 1_796_083_200), // 2026-12-01
            (57 * 12, 1_798_761_600),      // 2027-01-01
            (58 * 12 + 2, 1_835_481_600),  // 2028-03-01, after a leap day
            (130 * 12 + 2, 4_107_542_400), // 2100-03-01, no leap year
        ] {
            assert_eq!(Month(month).begins(), UnixTime(begins), "{month}");
            assert_eq!(Month::of(UnixTime(begins)), Month(month));
            if begins > 0 {
                assert_eq!(Month::of(UnixTime(begins - 1)), Month(month - 1));
            }
        }
        assert_eq!(Allowance::renewed_on(LAST_SECOND), "2026-12-01");
        assert_eq!(Allowance::renewed_on(UnixTime(LAST_SECOND.0 + 1)), "2027-01-01");
    }

    #[test]
    fn a_new_month_begins_with_an_empty_book() {
        let mut allowance = Allowance::default();
        allowance.add(LAST_SECOND, 500);
        assert_eq!(allowance.used(LAST_SECOND), 500);
        let next = UnixTime(LAST_SECOND.0 + 1);
        assert_eq!(allowance.used(next), 0);
        allowance.add(next, 7);
        assert_eq!((allowance.used(LAST_SECOND), allowance.used(next)), (500, 7));
    }

    #[test]
    fn a_clock_that_jumps_ahead_and_back_gives_nothing_and_takes_nothing() {
        let mut allowance = Allowance::default();
        allowance.add(LAST_SECOND, 500);
        // A machine without a clock of its own, before and after it has learnt the time.
        for wrong in [0, LAST_SECOND.0 + MONTH, LAST_SECOND.0 + 80 * 12 * MONTH] {
            allowance.add(UnixTime(wrong), 11);
            allowance.add(LAST_SECOND, 1);
        }
        assert_eq!(allowance.used(LAST_SECOND), 503);
        let next = UnixTime(LAST_SECOND.0 + MONTH);
        assert_eq!(allowance.used(next), 11);
    }

    #[test]
    fn it_is_the_same_after_a_restart() {
        let mut allowance = Allowance::default();
        allowance.add(LAST_SECOND, 500);
        allowance.add(UnixTime(LAST_SECOND.0 + 1), u64::MAX);
        allowance.add(UnixTime(LAST_SECOND.0 + 1), 1);
        assert_eq!(Allowance::decode(&allowance.encode()), Ok(allowance));
        for damaged in [&[][..], &[2], &[1, 0], &[1, 0, 0, 0, 1, 0, 0, 0, 0]] {
            assert!(Allowance::decode(damaged).is_err());
        }
    }

    proptest! {
        #[test]
        fn every_second_is_in_its_month(time in 0u64..50_000_000_000) {
            let month = Month::of(UnixTime(time));
            prop_assert!(month.begins().0 <= time && time < Month(month.0 + 1).begins().0);
            let length = (Month(month.0 + 1).begins().0 - month.begins().0) / DAY;
            prop_assert!((28..=31).contains(&length));
        }

        #[test]
        fn however_the_clock_jumps_little_is_kept(times in prop::collection::vec(any::<u32>(), 0..40)) {
            let mut allowance = Allowance::default();
            for time in times {
                allowance.add(UnixTime(u64::from(time)), 1);
                prop_assert!(allowance.books.len() <= BOOKS && allowance.used(UnixTime(u64::from(time))) > 0);
            }
        }
    }
}
