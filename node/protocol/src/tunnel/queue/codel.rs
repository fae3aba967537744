//! CoDel (RFC 8289): tells from waiting times whether a queue only stands, and should get shorter.
//!
//! A burst may queue; but when every cell of a tunnel has waited longer than the target for a whole interval, the
//! sender's window is larger than the way can use, and one cell is dropped; while it stays so the next ones follow at
//! shrinking distances. Unlike the RFC's, this never drops more than one in so many cells.

use std::time::Duration;

use super::QueueLimits;
use crate::time::Moment;

/// A queue of this many cells is never too long, however slow the link.
const FEW: usize = 8;
/// A new phase of dropping within this many intervals continues where the last one ended.
const MEMORY: u32 = 16;

/// The state of one tunnel in one queue.
#[derive(Default)]
pub(super) struct Codel {
    /// When the cells will have been late for a whole interval. `None`: the last one was not late.
    late_at: Option<Moment>,
    /// When the next drop is due, while dropping; else when it would have been.
    drop_at: Moment,
    dropping: bool,
    /// Drops in this phase.
    count: u32,
    passed_since_drop: u32,
}

impl Codel {
    /// Whether the cell at the head, which has waited for `waited`, is one to drop.
    pub(super) fn is_due(
        &mut self,
        limits: &QueueLimits,
        now: Moment,
        waited: Duration,
        backlog: usize,
    ) -> bool {
        if waited < limits.target || backlog <= FEW {
            self.late_at = None;
            self.dropping = false;
            return false;
        }
        if now < *self.late_at.get_or_insert(now + limits.interval) {
            return false;
        }
        if !self.dropping {
            let recent = self.count > 2 && now.since(self.drop_at) < limits.interval * MEMORY;
            self.count = if recent { self.count - 2 } else { 0 };
            self.dropping = true;
            self.drop_at = now;
        }
        now >= self.drop_at && self.passed_since_drop >= limits.cells_per_drop
    }

    /// The head was dropped.
    pub(super) fn dropped(&mut self, limits: &QueueLimits, now: Moment) {
        self.count = self.count.saturating_add(1);
        self.passed_since_drop = 0;
        self.drop_at = now + limits.interval.div_f64(f64::from(self.count).sqrt());
    }

    /// The head was sent.
    pub(super) fn passed(&mut self) {
        self.passed_since_drop = self.passed_since_drop.saturating_add(1);
    }
}
