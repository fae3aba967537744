//! The queue of one link: who is next, and what is dropped (PROTOCOL §3).
//!
//! Control cells and DESTROY go first. Tunnels take turns of a few cells each; a tunnel that had nothing to send
//! starts ahead of those that are always busy, once, so that a lone cell does not wait for everybody's bulk. A tunnel
//! whose cells wait too long for too long loses one at the head now and then ([`Codel`]); only data cells are ever
//! dropped. The limits in cells guard memory and nothing else.

mod codel;
mod slab;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use self::{
    codel::Codel,
    slab::{List, Slab},
};
use crate::{
    limits,
    time::Moment,
    wire::cell::{Cell, Command, TunnelId},
};

/// How a [`FairQueue`] behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimits {
    /// A tunnel's cells may wait this long.
    pub target: Duration,
    /// They must have waited longer than the target for this long before one is dropped.
    pub interval: Duration,
    /// Never more than one in this many cells of a tunnel is dropped for its waiting, or several busy links together
    /// could break the gap rule.
    pub cells_per_drop: u32,
    /// Cells in turn of one tunnel.
    pub quantum: u32,
    /// Cells of one tunnel.
    pub cells_per_tunnel: usize,
    /// Cells of all tunnels; as many again of what must not be dropped.
    pub cells: usize,
}

impl Default for QueueLimits {
    fn default() -> QueueLimits {
        QueueLimits {
            target: limits::QUEUE_TARGET,
            interval: limits::QUEUE_INTERVAL,
            cells_per_drop: limits::QUEUE_CELLS_PER_DROP,
            quantum: limits::QUEUE_QUANTUM,
            cells_per_tunnel: limits::QUEUE_CELLS_PER_TUNNEL,
            cells: limits::QUEUE_CELLS,
        }
    }
}

/// The queue is full of cells that must not be dropped: the link does not drain and should be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a link does not drain")]
pub struct Stuck;

/// Cells that wait for one link. They are stored by value; in the steady state nothing is allocated.
pub struct FairQueue {
    limits: QueueLimits,
    slab: Slab,
    control: List,
    flows: BTreeMap<TunnelId, Flow>,
    /// Tunnels that had nothing to send until now.
    fresh: VecDeque<TunnelId>,
    /// The others that have something, or had until a turn ago.
    turns: VecDeque<TunnelId>,
    dropped: u64,
}

/// The cells of one tunnel.
struct Flow {
    cells: List,
    /// Cells until the turn is over.
    credit: u32,
    codel: Codel,
}

impl FairQueue {
    /// An empty queue, which holds no memory.
    pub fn new(limits: QueueLimits) -> FairQueue {
        FairQueue {
            limits,
            slab: Slab::new(),
            control: List::new(),
            flows: BTreeMap::new(),
            fresh: VecDeque::new(),
            turns: VecDeque::new(),
            dropped: 0,
        }
    }

    /// From now on this many cells of all tunnels, and as many again of what must not be dropped.
    pub fn limit_cells(&mut self, cells: usize) {
        self.limits.cells = cells;
    }

    /// Adds a cell. A data cell is dropped, or makes an older one drop, where memory is at its limit.
    pub fn push(&mut self, now: Moment, cell: &Cell) -> Result<(), Stuck> {
        match cell.command() {
            Ok(Command::Data) => {
                self.push_data(now, cell);
                Ok(())
            }
            Ok(Command::Open | Command::Close | Command::Join | Command::Joined) => {
                self.check_not_stuck()?;
                self.append(now, cell);
                Ok(())
            }
            _ => {
                self.check_not_stuck()?;
                self.slab.push(&mut self.control, now, cell);
                Ok(())
            }
        }
    }

    /// Appends the bytes of the next cells, at most `max_cells`, to `out`; returns how many cells.
    pub fn pop_into(&mut self, now: Moment, out: &mut Vec<u8>, max_cells: usize) -> usize {
        let mut count = 0;
        while count < max_cells && self.pop(now, out) {
            count += 1;
        }
        if self.slab.len() == 0 {
            self.slab.rest(now);
        }
        count
    }

    /// Whether no cell waits.
    pub fn is_empty(&self) -> bool {
        self.slab.len() == 0
    }

    /// Cells that wait.
    pub fn len(&self) -> usize {
        self.slab.len()
    }

    /// Cells dropped so far, for whatever reason.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Gives back the memory of past bursts, if the queue is empty. It does so by itself while the link is in use.
    pub fn shrink(&mut self) {
        if self.is_empty() {
            self.slab = Slab::new();
            self.flows.clear();
            self.fresh = VecDeque::new();
            self.turns = VecDeque::new();
        }
    }

    /// Cells that the memory of the queue has room for now.
    pub fn capacity(&self) -> usize {
        self.slab.capacity()
    }

    fn check_not_stuck(&self) -> Result<(), Stuck> {
        if self.slab.len() >= 2 * self.limits.cells { Err(Stuck) } else { Ok(()) }
    }

    fn push_data(&mut self, now: Moment, cell: &Cell) {
        let waiting = self.flows.get(&cell.tunnel()).map_or(0, |flow| flow.cells.len());
        let full = if waiting >= self.limits.cells_per_tunnel {
            !self.drop_head(cell.tunnel())
        } else if self.slab.len() >= self.limits.cells {
            !self.drop_of_the_longest()
        } else {
            false
        };
        if full {
            self.dropped += 1;
        } else {
            self.append(now, cell);
        }
    }

    fn append(&mut self, now: Moment, cell: &Cell) {
        let id = cell.tunnel();
        let flow = self.flows.entry(id).or_insert_with(|| {
            self.fresh.push_back(id);
            Flow { cells: List::new(), credit: self.limits.quantum, codel: Codel::default() }
        });
        self.slab.push(&mut flow.cells, now, cell);
    }

    fn drop_of_the_longest(&mut self) -> bool {
        let longest = self.flows.iter().max_by_key(|(_, flow)| flow.cells.len()).map(|(id, _)| *id);
        longest.is_some_and(|id| self.drop_head(id))
    }

    /// False if the tunnel's next cell must not be dropped.
    fn drop_head(&mut self, id: TunnelId) -> bool {
        let Some(flow) = self.flows.get_mut(&id) else { return false };
        let droppable = self.slab.front(&flow.cells).is_some_and(|(_, cell)| is_data(cell));
        if droppable {
            self.slab.pop(&mut flow.cells, |_| {});
            self.dropped += 1;
        }
        droppable
    }

    fn pop(&mut self, now: Moment, out: &mut Vec<u8>) -> bool {
        if self.slab.pop(&mut self.control, |cell| out.extend_from_slice(&cell.0)) {
            return true;
        }
        loop {
            let (id, is_fresh) = match (self.fresh.front(), self.turns.front()) {
                (Some(id), _) => (*id, true),
                (None, Some(id)) => (*id, false),
                (None, None) => return false,
            };
            let list = if is_fresh { &mut self.fresh } else { &mut self.turns };
            let Some(flow) = self.flows.get_mut(&id) else {
                list.pop_front();
                continue;
            };
            if flow.credit == 0 {
                flow.credit = self.limits.quantum;
                list.pop_front();
                self.turns.push_back(id);
                continue;
            }
            self.dropped += flow.drop_late(now, &self.limits, &mut self.slab);
            if self.slab.pop(&mut flow.cells, |cell| out.extend_from_slice(&cell.0)) {
                flow.credit -= 1;
                return true;
            }
            // One more turn without a cell before a tunnel may count as fresh again: who sends single cells quickly
            // must not starve the others.
            list.pop_front();
            if is_fresh {
                self.turns.push_back(id);
            } else {
                self.flows.remove(&id);
            }
        }
    }
}

impl Flow {
    /// Drops the head if it is due; returns how many cells went.
    fn drop_late(&mut self, now: Moment, limits: &QueueLimits, slab: &mut Slab) -> u64 {
        let Some((since, cell)) = slab.front(&self.cells) else { return 0 };
        let late = self.codel.is_due(limits, now, now.since(since), self.cells.len());
        if !late || !is_data(cell) {
            self.codel.passed();
            return 0;
        }
        self.codel.dropped(limits, now);
        slab.pop(&mut self.cells, |_| {});
        1
    }
}

fn is_data(cell: &Cell) -> bool {
    cell.command() == Ok(Command::Data)
}
