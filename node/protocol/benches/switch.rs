//! Cells per second through one relay, and through an owner with three layers.
//!
//! `cargo bench -p phantom-protocol --bench switch`
#![allow(clippy::expect_used)] // a bench that cannot be set up may panic

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use phantom_protocol::{
    crypto::Key,
    identity::NodeId,
    time::Moment,
    tunnel::{
        FairQueue, HopInstall, Kind, Opener, Outlet, OwnedHop, OwnedInstall, OwnerTunnelId, QueueLimits,
        Side, Switch, SwitchEvent,
    },
    wire::cell::{CELL, Cell, Command, LinkId, PathId, TunnelId},
};

const PAYLOAD: [u8; 1_312] = [7; 1_312];
const NEVER: Moment = Moment(u64::MAX);

/// Keeps the last cell.
struct Last(Cell);

impl Outlet for Last {
    fn forward(&mut self, _: LinkId, cell: &Cell) {
        self.0.0.copy_from_slice(&cell.0);
    }
    fn deliver(&mut self, _: OwnerTunnelId, _: Kind, _: &[u8]) {}
    fn report(&mut self, _: SwitchEvent) {}
}

fn node(number: u8, neighbours: &[u8]) -> Switch {
    let switch = Switch::new([number; 32], NodeId::from_bytes([number; 32]));
    for peer in neighbours {
        switch.link_up(LinkId(u64::from(*peer)), NodeId::from_bytes([*peer; 32]), *peer < number);
    }
    switch
}

fn secret(hop: u8) -> Key {
    Key::from_bytes([hop; 32])
}

/// An owner (node 10) of a path over 11, 12 and 13; links are named after the peer.
fn owner(out: &mut Last) -> (Switch, OwnerTunnelId) {
    let owner = node(10, &[11]);
    let hops = (11..=13).map(|hop| OwnedHop { secret: secret(hop), owner_side: Side::A }).collect();
    let install = OwnedInstall {
        link: LinkId(11),
        path: PathId::new(1),
        hops,
        accepts: false,
        expires: NEVER,
        idle: Duration::MAX,
    };
    let path = owner.install_owned(Moment(0), install).expect("the link is up");
    let tunnel = owner.open_tunnel(Moment(0), path, &Opener::Echo, out).expect("the path is new");
    (owner, tunnel)
}

fn relay() -> (Switch, TunnelId, LinkId) {
    let relay = node(11, &[10, 12]);
    let install = HopInstall {
        neighbours: [Some((LinkId(10), PathId::new(1))), Some((LinkId(12), PathId::new(2)))],
        secret: secret(11),
        route_keys: Vec::new(),
        expires: NEVER,
        idle: Duration::MAX,
    };
    assert!(relay.install_hop(Moment(0), install));
    (relay, TunnelId::new(1), LinkId(10))
}

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("switch");
    group.throughput(Throughput::Elements(1));
    let mut out = Last(Cell::new(Command::Dummy, TunnelId::new(0)));

    let (sender, tunnel) = owner(&mut out);
    let mut open = out.0.clone();
    let (switch, _, from) = relay();
    switch.handle_cell(Moment(0), from, &mut open, &mut out);
    let (mut index, tunnel_id) = (0u32, open.tunnel());
    let mut cell = Cell::new(Command::Data, tunnel_id);
    group.bench_function("relay", |bencher| {
        bencher.iter(|| {
            cell.set_tunnel(tunnel_id);
            cell.set_index(index);
            index = index.wrapping_add(1);
            switch.handle_cell(Moment(0), from, &mut cell, &mut out);
        });
    });

    group.bench_function("owner, 3 layers out", |bencher| {
        bencher.iter(|| assert!(sender.send(tunnel, Kind::Plain, &PAYLOAD, &mut out)));
    });

    let mut queue = FairQueue::new(QueueLimits::default());
    let mut bytes = Vec::with_capacity(11 * CELL);
    let cells: Vec<Cell> = (0..11).map(|id| Cell::new(Command::Data, TunnelId::new(id % 5 + 1))).collect();
    group.throughput(Throughput::Elements(11));
    group.bench_function("queue, 11 cells of 5 tunnels", |bencher| {
        bencher.iter(|| {
            cells.iter().for_each(|cell| queue.push(Moment(0), cell).expect("it drains"));
            bytes.clear();
            assert_eq!(queue.pop_into(Moment(0), &mut bytes, 11), 11);
        });
    });
    group.finish();
}

criterion_group!(all, benches);
criterion_main!(all);
