use super::*;
use crate::wire::cell::CELL;

const MS: u64 = 1_000;

fn cell(command: Command, tunnel: u64, index: u32) -> Cell {
    let mut cell = Cell::new(command, TunnelId::new(tunnel));
    cell.set_index(index);
    cell
}

fn data(tunnel: u64, index: u32) -> Cell {
    cell(Command::Data, tunnel, index)
}

fn pop(queue: &mut FairQueue, now: Moment, max: usize) -> Vec<Cell> {
    let mut bytes = Vec::new();
    let count = queue.pop_into(now, &mut bytes, max);
    assert_eq!(bytes.len(), count * CELL);
    bytes.chunks_exact(CELL).map(|bytes| Cell(bytes.try_into().unwrap())).collect()
}

fn ids(cells: &[Cell]) -> Vec<(u64, u32)> {
    cells.iter().map(|cell| (cell.tunnel().get(), cell.index())).collect()
}

fn queue() -> FairQueue {
    FairQueue::new(QueueLimits::default())
}

#[test]
fn one_tunnel_keeps_its_order() {
    let mut queue = queue();
    for index in 0..1_000 {
        queue.push(Moment(0), &data(1, index)).unwrap();
    }
    assert_eq!(queue.len(), 1_000);
    let cells = pop(&mut queue, Moment(0), usize::MAX);
    assert_eq!(ids(&cells), (0..1_000).map(|index| (1, index)).collect::<Vec<_>>());
    assert!(queue.is_empty());
}

#[test]
fn control_goes_first_in_its_own_order() {
    let mut queue = queue();
    queue.push(Moment(0), &data(1, 0)).unwrap();
    for (index, command) in [Command::Hello, Command::Control, Command::Destroy].into_iter().enumerate() {
        queue.push(Moment(0), &cell(command, 0, index as u32)).unwrap();
    }
    assert_eq!(ids(&pop(&mut queue, Moment(0), 9)), [(0, 0), (0, 1), (0, 2), (1, 0)]);
}

#[test]
fn a_greedy_tunnel_gets_no_more_than_its_turns() {
    let mut queue = queue();
    for index in 0..3_000 {
        queue.push(Moment(0), &data(1, index)).unwrap();
    }
    for tunnel in 2..=4 {
        for index in 0..100 {
            queue.push(Moment(0), &data(tunnel, index)).unwrap();
        }
    }
    let cells = pop(&mut queue, Moment(0), 400);
    for tunnel in 1..=4 {
        assert_eq!(cells.iter().filter(|cell| cell.tunnel().get() == tunnel).count(), 100, "tunnel {tunnel}");
    }
}

#[test]
fn a_lone_cell_overtakes_bulk_but_cannot_starve_it() {
    let mut queue = queue();
    for index in 0..1_000 {
        queue.push(Moment(0), &data(1, index)).unwrap();
    }
    pop(&mut queue, Moment(0), 5);
    queue.push(Moment(0), &data(2, 0)).unwrap();
    assert_eq!(ids(&pop(&mut queue, Moment(0), 1)), [(2, 0)]);
    // Whoever sends one cell whenever the last one has left gets no more than every other cell.
    let mut sparse = 0;
    for index in 1..200 {
        queue.push(Moment(0), &data(2, index)).unwrap();
        loop {
            let next = pop(&mut queue, Moment(0), 1);
            if next[0].tunnel().get() == 2 {
                break;
            }
            sparse += 1;
        }
    }
    assert!(sparse >= 190, "{sparse}");
}

/// Feeds and drains a queue in virtual time: every tick of 1 ms `offer(now)` cells of each tunnel come in and `drain`
/// cells leave. Returns for each tunnel what got through and the longest wait after the first second.
fn drive(
    queue: &mut FairQueue,
    millis: u64,
    drain: usize,
    mut offer: impl FnMut(u64, &mut FairQueue),
) -> BTreeMap<u64, Vec<u32>> {
    let mut through: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    for tick in 0..millis {
        offer(tick, queue);
        for cell in pop(queue, Moment((tick + 1) * MS), drain) {
            through.entry(cell.tunnel().get()).or_default().push(cell.index());
        }
    }
    through
}

#[test]
fn a_burst_that_drains_loses_nothing() {
    let mut queue = queue();
    // 4 MiB at once through 130 MB/s: waits up to 32 ms.
    let through = drive(&mut queue, 100, 95, |tick, queue| {
        if tick == 0 {
            (0..3_000).for_each(|index| queue.push(Moment(0), &data(1, index)).unwrap());
        }
    });
    assert_eq!(through[&1].len(), 3_000);
    assert_eq!(queue.dropped(), 0);
}

#[test]
fn a_standing_window_below_the_target_loses_nothing() {
    // A window of 4 MiB that stands in this queue alone, at 130 MB/s: a cell in for each cell out, for 10 s.
    let mut queue = queue();
    let mut next = 0;
    let mut feed = |count: usize, now: u64, queue: &mut FairQueue| {
        for _ in 0..count {
            queue.push(Moment(now * MS), &data(1, next)).unwrap();
            next += 1;
        }
    };
    drive(&mut queue, 10_000, 95, |tick, queue| feed(if tick == 0 { 3_000 } else { 95 }, tick, queue));
    assert_eq!(queue.dropped(), 0);
}

#[test]
fn a_tunnel_that_stands_too_long_loses_some_at_the_head_and_never_breaks_the_gap_rule() {
    let mut queue = queue();
    let mut next = 0;
    // A quarter more comes in than leaves, from a sender who does not listen.
    let through = drive(&mut queue, 20_000, 20, |tick, queue| {
        for _ in 0..25 {
            if queue.len() < 2_000 {
                queue.push(Moment(tick * MS), &data(1, next)).unwrap();
                next += 1;
            }
        }
    });
    assert!(queue.dropped() > 50, "{}", queue.dropped());
    let mut gap = super::super::gap::Gap::new();
    for index in &through[&1] {
        gap.accept(*index).unwrap();
    }
}

#[test]
fn only_the_tunnel_that_stands_loses_cells() {
    let mut queue = queue();
    let mut next = 0;
    let through = drive(&mut queue, 10_000, 10, |tick, queue| {
        while queue.len() < 2_000 {
            queue.push(Moment(tick * MS), &data(1, next)).unwrap();
            next += 1;
        }
        queue.push(Moment(tick * MS), &data(2, tick as u32)).unwrap();
    });
    assert!(queue.dropped() > 10);
    let polite = &through[&2];
    assert!(polite.windows(2).all(|pair| pair[1] == pair[0] + 1), "the polite tunnel lost a cell");
}

#[test]
fn cells_that_open_and_close_are_never_dropped() {
    let limits = QueueLimits { cells: 10, cells_per_tunnel: 4, ..QueueLimits::default() };
    let mut queue = FairQueue::new(limits);
    for index in 0..20 {
        queue.push(Moment(0), &cell(Command::Close, 1, index)).unwrap();
    }
    assert_eq!(queue.push(Moment(0), &cell(Command::Open, 2, 0)), Err(Stuck));
    // Late by any measure.
    assert_eq!(pop(&mut queue, Moment(3_600_000 * MS), 100).len(), 20);
    assert_eq!(queue.dropped(), 0);
}

#[test]
fn memory_has_hard_limits_and_the_longest_tunnel_pays() {
    let limits = QueueLimits { cells: 100, cells_per_tunnel: 80, ..QueueLimits::default() };
    let mut queue = FairQueue::new(limits);
    for index in 0..1_000 {
        queue.push(Moment(0), &data(1, index)).unwrap();
    }
    assert_eq!(queue.len(), 80);
    for index in 0..40 {
        queue.push(Moment(0), &data(2, index)).unwrap();
    }
    assert_eq!(queue.len(), 100);
    let cells = ids(&pop(&mut queue, Moment(0), 200));
    let (one, two): (Vec<_>, Vec<_>) = cells.into_iter().partition(|(tunnel, _)| *tunnel == 1);
    assert_eq!(two.len(), 40, "the short tunnel loses nothing");
    assert_eq!(one.last(), Some(&(1, 999)), "the oldest go, the newest stay");
}

#[test]
fn a_busy_queue_reuses_its_memory_and_a_quiet_one_gives_it_back() {
    let mut queue = queue();
    let mut now = Moment(0);
    for round in 0..5_000 {
        queue.push(now, &data(round % 7, 0)).unwrap();
        queue.push(now, &data(round % 7, 1)).unwrap();
        pop(&mut queue, now, 2);
    }
    assert_eq!(queue.capacity(), 64);
    for index in 0..1_000 {
        queue.push(now, &data(1, index)).unwrap();
    }
    assert_eq!(queue.capacity(), 1_024);
    for _ in 0..4 {
        now = now + Duration::from_secs(1);
        pop(&mut queue, now, 2_000);
        queue.push(now, &data(1, 0)).unwrap();
    }
    pop(&mut queue, now, 1);
    assert_eq!(queue.capacity(), 64);
    queue.shrink();
    assert_eq!(queue.capacity(), 0);
}
