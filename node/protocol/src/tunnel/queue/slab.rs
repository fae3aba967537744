//! Where waiting cells lie: slots in chunks, shared by all tunnels of a link, strung together to lists.
//!
//! A slot is used again as soon as it is free, so a busy queue allocates nothing; chunks never move, so growing copies
//! nothing. Whenever the queue is empty slots are handed out from the first again, and chunks that the last second
//! did not need are given back.

use std::time::Duration;

use crate::{time::Moment, wire::cell::Cell};

/// Slots in a chunk: 90 KiB.
const CHUNK: usize = 64;
const REST: Duration = Duration::from_secs(1);

struct Slot {
    cell: Cell,
    since: Moment,
    next: Option<u32>,
}

/// A queue of slots.
pub(super) struct List {
    first: Option<u32>,
    last: Option<u32>,
    len: usize,
}

impl List {
    pub(super) fn new() -> List {
        List { first: None, last: None, len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }
}

pub(super) struct Slab {
    chunks: Vec<Vec<Slot>>,
    /// Freed slots, strung together.
    free: Option<u32>,
    /// Slots handed out since the queue was empty, freed or not.
    begun: usize,
    /// The most that `begun` was since memory was last given back.
    peak: usize,
    len: usize,
    rested: Moment,
}

impl Slab {
    pub(super) fn new() -> Slab {
        Slab { chunks: Vec::new(), free: None, begun: 0, peak: 0, len: 0, rested: Moment(0) }
    }

    /// Slots in use.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn capacity(&self) -> usize {
        self.chunks.len() * CHUNK
    }

    fn slot(&mut self, at: u32) -> Option<&mut Slot> {
        self.chunks.get_mut(at as usize / CHUNK)?.get_mut(at as usize % CHUNK)
    }

    /// Appends a copy of the cell to a list.
    pub(super) fn push(&mut self, list: &mut List, now: Moment, cell: &Cell) {
        let at = match self.free {
            Some(at) => {
                self.free = self.slot(at).and_then(|slot| slot.next);
                at
            }
            None => self.begin(cell),
        };
        if let Some(slot) = self.slot(at) {
            slot.cell.0.copy_from_slice(&cell.0);
            slot.since = now;
            slot.next = None;
        }
        match list.last.and_then(|last| self.slot(last)) {
            Some(last) => last.next = Some(at),
            None => list.first = Some(at),
        }
        list.last = Some(at);
        list.len += 1;
        self.len += 1;
    }

    /// A slot that was not in use since the queue was empty.
    fn begin(&mut self, cell: &Cell) -> u32 {
        let at = self.begun;
        self.begun += 1;
        self.peak = self.peak.max(self.begun);
        if at / CHUNK == self.chunks.len() {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        if let Some(chunk) = self.chunks.get_mut(at / CHUNK)
            && chunk.len() == at % CHUNK
        {
            chunk.push(Slot { cell: cell.clone(), since: Moment(0), next: None });
        }
        at as u32
    }

    /// The head of a list, and since when it has been there.
    pub(super) fn front(&mut self, list: &List) -> Option<(Moment, &Cell)> {
        let slot = self.slot(list.first?)?;
        Some((slot.since, &slot.cell))
    }

    /// Shows the head of a list to `take` and frees it. False if the list is empty.
    pub(super) fn pop(&mut self, list: &mut List, take: impl FnOnce(&Cell)) -> bool {
        let Some(at) = list.first else { return false };
        let free = self.free;
        let Some(slot) = self.slot(at) else { return false };
        take(&slot.cell);
        list.first = slot.next;
        slot.next = free;
        self.free = Some(at);
        if list.first.is_none() {
            list.last = None;
        }
        list.len -= 1;
        self.len -= 1;
        true
    }

    /// To be called when nothing is in use: begins anew with the first slot, and gives back what a second did not need.
    pub(super) fn rest(&mut self, now: Moment) {
        self.free = None;
        self.begun = 0;
        if now.since(self.rested) >= REST {
            self.chunks.truncate(self.peak.div_ceil(CHUNK));
            self.peak = 0;
            self.rested = now;
        }
    }
}
