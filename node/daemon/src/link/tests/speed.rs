use phantom_protocol::{
    tunnel::Outlet,
    wire::cell::{CELL, Cell, Command, TunnelId},
};

use super::*;

/// What one link carries when nothing else costs: the receiver drops cells of a tunnel that it does not know.
/// `cargo test --release -p phantom-node one_link -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn one_link_at_full_speed() {
    const SECONDS: u64 = 5;
    let (mut a, mut b) = (node(1), node(2));
    let (at_a, _) = link(&mut a, &mut b).await;
    let mut cell = Cell::new(Command::Data, TunnelId::new(7));
    let end = tokio::time::Instant::now() + Duration::from_secs(SECONDS);
    let mut outlet = a.links.outlet();
    while tokio::time::Instant::now() < end {
        if a.links.stats()[0].waiting > 1024 {
            tokio::time::sleep(Duration::from_micros(100)).await;
            continue;
        }
        for _ in 0..128 {
            cell.set_index(cell.index().wrapping_add(1));
            outlet.forward(at_a, &cell);
        }
        outlet.flush();
    }
    let (sent, received) = (&a.links.stats()[0], &b.links.stats()[0]);
    println!("{} MB/s, {} cells dropped", received.data_in * CELL as u64 / SECONDS / 1_000_000, sent.dropped);
    assert!(received.data_in > 0);
}
