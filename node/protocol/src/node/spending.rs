//! A monthly quota, and what happens when it is spent (PROTOCOL §7.7): the node ceases to relay and goes on for its own
//! user. Its record lapses, setups stay without an answer, and after a grace the paths of others are ended in order.

use std::time::Duration;

use super::{Node, Output, knocks::Relaying, reachable::Relay};
use crate::{
    allowance::Allowance,
    limits::{QUOTA_GRACE, QUOTA_KEPT},
    time::{Moment, Now, UnixTime},
    tunnel::Outlet,
};

/// What was carried, and how much may be.
pub(super) struct Spending {
    most: Option<u64>,
    book: Allowance,
    keep_at: Moment,
    /// Paths of others are ended then.
    end_at: Option<Moment>,
}

/// How it stands with the quota.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaStatus {
    /// Bytes a month.
    pub most: u64,
    /// Bytes of this month.
    pub used: u64,
    /// The first day of the next month, UTC: year, month, day.
    pub renewed: String,
}

impl Spending {
    /// A book that does not parse is as good as none.
    pub(super) fn new(now: Moment, most: Option<u64>, kept: Option<&[u8]>) -> Spending {
        let book = kept.and_then(|kept| Allowance::decode(kept).ok()).unwrap_or_default();
        Spending { most, book, keep_at: now + QUOTA_KEPT, end_at: None }
    }

    fn is_spent(&self, now: UnixTime) -> bool {
        self.most.is_some_and(|most| self.book.used(now) >= most)
    }
}

impl Node {
    /// So many bytes have gone over links, in both directions, since the last call.
    pub fn handle_carried(&mut self, now: Now, bytes: u64, out: &mut impl Outlet) {
        if self.spending.most.is_none() || bytes == 0 {
            return;
        }
        let was_spent = self.spending.is_spent(now.unix);
        self.spending.book.add(now.unix, bytes);
        if !was_spent && self.spending.is_spent(now.unix) {
            self.spending.end_at = Some(now.moment + QUOTA_GRACE);
        }
        if self.spending.keep_at <= now.moment {
            self.spending.keep_at = now.moment + QUOTA_KEPT;
            self.outputs.push_back(Output::KeepSpending(self.spending.book.encode()));
        }
        self.settle(now, out);
    }

    /// What [`Output::KeepSpending`] would give now.
    pub fn spending(&self) -> Option<Vec<u8>> {
        self.spending.most.map(|_| self.spending.book.encode())
    }

    /// How it stands with the quota, if there is one.
    pub fn quota(&self, now: UnixTime) -> Option<QuotaStatus> {
        let used = self.spending.book.used(now);
        self.spending.most.map(|most| QuotaStatus { most, used, renewed: Allowance::renewed_on(now) })
    }

    /// How it stands with relaying for others.
    pub fn relaying(&self, now: Now) -> Relaying {
        match self.willing_to_relay(now.moment) {
            Relaying::Yes | Relaying::Proving if self.spending.is_spent(now.unix) => Relaying::Spent,
            willing => willing,
        }
    }

    /// Whether this node helps with the circles of others.
    pub(super) fn helps(&self, now: UnixTime) -> bool {
        self.config.relay != Relay::Never && !self.spending.is_spent(now)
    }

    /// Ends the paths of others when the grace is over. Called by the sweep, once a second.
    pub(super) fn end_paths_of_others(&mut self, now: Now, out: &mut impl Outlet) {
        if self.spending.end_at.is_some_and(|end| end <= now.moment) {
            self.spending.end_at = None;
            if self.spending.is_spent(now.unix) {
                self.switch.end_paths_of_others(out);
            }
        }
    }
}

/// For the daemon: how often it should say what was carried.
pub const CARRIED_EVERY: Duration = Duration::from_secs(5);
