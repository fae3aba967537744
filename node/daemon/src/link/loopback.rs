//! The node's link to itself: what is sent to `LOOP_A` comes in at `LOOP_B`, and the other way round.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
};

use phantom_protocol::wire::cell::{CELL, Cell, LinkId};

use super::{
    Shared,
    table::{Ending, Link},
    task::Intake,
};

/// Cells moved before the links that they went to are woken.
const BATCH: usize = 64;

/// Both directions of the loop.
pub(super) struct LoopTask {
    shared: Arc<Shared>,
    ways: [Way; 2],
}

struct Way {
    from: Arc<Link>,
    to: Intake,
    batch: Vec<u8>,
}

impl LoopTask {
    pub(super) fn new(shared: &Arc<Shared>) -> LoopTask {
        let now = shared.clock.moment();
        let [a, b] = [LinkId::LOOP_A, LinkId::LOOP_B].map(|id| shared.table.add_loop(id, now));
        let way = |from: &Arc<Link>, to: &Arc<Link>| Way {
            from: Arc::clone(from),
            to: Intake::new(Arc::clone(shared), Arc::clone(to)),
            batch: Vec::with_capacity(BATCH * CELL),
        };
        LoopTask { ways: [way(&a, &b), way(&b, &a)], shared: Arc::clone(shared) }
    }

    pub(super) async fn run(mut self) {
        poll_fn(|cx| self.poll(cx)).await;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let now = self.shared.clock.moment();
        let mut moved = false;
        for way in &mut self.ways {
            way.from.waker.register(cx.waker());
            if way.from.ending() != Ending::No {
                return Poll::Ready(());
            }
            if way.to.is_paused() {
                continue;
            }
            way.batch.clear();
            moved |= way.from.pop(now, &mut way.batch, BATCH) > 0;
            for bytes in way.batch.chunks_exact(CELL) {
                let Ok(mut cell) = <[u8; CELL]>::try_from(bytes).map(Cell) else { continue };
                if let Err(why) = way.to.handle_cells(now, std::slice::from_mut(&mut cell)) {
                    tracing::error!(%why, "this node has sent itself a cell that it does not understand");
                }
            }
            way.to.flush();
        }
        if moved {
            // Let other tasks have their turn, then look again.
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}
