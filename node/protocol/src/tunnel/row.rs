//! The hot path: data cells of one link, a row at a time (PROTOCOL §3, §5).
//!
//! Each cell is looked up and checked, then turned, then handed on. A row takes each of these steps for all its cells,
//! because one body is hashed at little cost while another is turned. To everybody else it looks as if one cell came
//! after the other: what ends a tunnel is looked at where it stands in the row.

use std::ops::Range;

use super::{
    Kind, Outlet, OwnedPathId, SwitchEvent, TunnelRef,
    fault::{Fault, PeerMisbehaved},
    origin::{Origin, Purpose},
    registry::Seat,
    switch::Switch,
};
use crate::{
    crypto::wide_block::{Chain, Pass},
    wire::{
        body,
        cell::{Cell, LinkId},
        opener::Answer,
    },
};

/// Cells of a row: enough to make the first and the last one rare, and they stay close to the processor.
const ROW: usize = 16;

/// A cell that ends its tunnel.
struct Bad {
    at: TunnelRef,
    fault: Fault,
    /// It is proven who did it.
    is_the_peers_own: bool,
}

impl Switch {
    pub(super) fn handle_data(&self, from: LinkId, cells: &mut [Cell], out: &mut impl Outlet) {
        for row in cells.chunks_mut(ROW) {
            let mut seats = [const { None }; ROW];
            let mut begin = 0;
            for place in 0..row.len() {
                match check(self.seat((from, row[place].tunnel())), &mut row[place]) {
                    Ok(seat) => seats[place] = seat,
                    Err(bad) => {
                        self.finish(from, &mut seats[begin..place], &mut row[begin..place], out);
                        begin = place + 1;
                        // A cell before it may have ended its tunnel.
                        if self.seat((from, row[place].tunnel())).is_some() {
                            self.end_for(from, &bad, out);
                        }
                    }
                }
            }
            let end = row.len();
            self.finish(from, &mut seats[begin..end], &mut row[begin..end], out);
        }
    }

    /// Turns checked cells and hands them on: those that follow each other to one link at once.
    fn finish(&self, from: LinkId, seats: &mut [Option<Seat>], cells: &mut [Cell], out: &mut impl Outlet) {
        turn(seats, cells);
        let mut some_ended = false;
        let mut onward = Onward { link: from, cells: 0..0 };
        for (place, seat) in seats.iter_mut().enumerate() {
            let (Some(seat), Some(cell)) = (seat.take(), cells.get_mut(place)) else { continue };
            if some_ended && self.seat((from, cell.tunnel())).is_none() {
                continue;
            }
            match seat {
                Seat::Relay(relay, side) => {
                    relay.used.touch();
                    onward.add(relay.readdress(side, cell), place, cells, out);
                }
                Seat::FromJoin(terminal) => {
                    terminal.used.touch();
                    terminal.readdress_inward(cell);
                    onward.add(terminal.owner.0, place, cells, out);
                }
                Seat::FromOwner(terminal) => {
                    onward.leave(cells, out);
                    terminal.used.touch();
                    let handled = terminal.handle_owner_cell(&mut cells[place], &self.held, out);
                    some_ended |= self.has_ended(from, terminal.at, handled.map(|()| false), out);
                }
                Seat::Origin(origin) => {
                    onward.leave(cells, out);
                    origin.used.touch();
                    let handled = self.data_for_owner(&origin, &cells[place], out);
                    some_ended |= self.has_ended(from, origin.at, handled, out);
                }
            }
        }
        onward.leave(cells, out);
    }

    /// Whether handling a cell may have ended a tunnel: that was its purpose, or it was a bad one.
    fn has_ended(
        &self,
        from: LinkId,
        at: TunnelRef,
        handled: Result<bool, Fault>,
        out: &mut impl Outlet,
    ) -> bool {
        handled.unwrap_or_else(|fault| {
            self.end_for(from, &Bad { at, fault, is_the_peers_own: false }, out);
            true
        })
    }

    /// Whether that has ended a tunnel.
    fn data_for_owner(&self, origin: &Origin, cell: &Cell, out: &mut impl Outlet) -> Result<bool, Fault> {
        let tunnel = origin.id();
        let (kind, payload) = body::read(cell.body())?;
        match (origin.purpose, kind) {
            (Purpose::Join | Purpose::Incoming, Kind::Sealed | Kind::Plain) => {
                // The answer may have been dropped on its way, as any data cell.
                if origin.settle() {
                    out.report(SwitchEvent::Answered { tunnel, answer: Answer::Joined });
                }
                out.deliver(tunnel, kind, payload);
                Ok(false)
            }
            (Purpose::Echo, Kind::Echo) if payload.is_empty() => {
                out.report(SwitchEvent::Echoed { path: OwnedPathId(origin.at.path) });
                self.close_tunnel(tunnel, out);
                Ok(true)
            }
            (Purpose::Join | Purpose::Publish, Kind::Answer) => {
                self.answered(origin, Answer::decode(payload)?, out)
            }
            _ => Err(Fault::NoBusiness),
        }
    }

    /// Whether that has ended the tunnel.
    fn answered(&self, origin: &Origin, answer: Answer, out: &mut impl Outlet) -> Result<bool, Fault> {
        let tunnel = origin.id();
        let fits = match origin.purpose {
            Purpose::Join => answer != Answer::Published && origin.settle(),
            _ => answer == Answer::Published,
        };
        if !fits {
            return Err(Fault::NoBusiness);
        }
        out.report(SwitchEvent::Answered { tunnel, answer });
        if answer != Answer::Joined {
            self.close_tunnel(tunnel, out);
        }
        Ok(answer != Answer::Joined)
    }

    fn end_for(&self, from: LinkId, bad: &Bad, out: &mut impl Outlet) {
        if bad.is_the_peers_own {
            out.report(SwitchEvent::Misbehaved { link: from, what: PeerMisbehaved::BadJoin });
        }
        self.fault(bad.at, from, bad.fault, out);
    }
}

/// Cells of a row that leave by one link, one after the other.
struct Onward {
    link: LinkId,
    cells: Range<usize>,
}

impl Onward {
    fn add(&mut self, link: LinkId, place: usize, row: &[Cell], out: &mut impl Outlet) {
        if (self.link, self.cells.end) != (link, place) {
            self.leave(row, out);
            *self = Onward { link, cells: place..place };
        }
        self.cells.end = place + 1;
    }

    fn leave(&mut self, row: &[Cell], out: &mut impl Outlet) {
        let cells = std::mem::take(&mut self.cells);
        if let Some(cells) = row.get(cells).filter(|cells| !cells.is_empty()) {
            out.forward_all(self.link, cells);
        }
    }
}

/// Whether a cell may go on where it belongs. It may belong nowhere: a tunnel may have been closed here while the cell was
/// on its way.
fn check(seat: Option<Seat>, cell: &mut Cell) -> Result<Option<Seat>, Bad> {
    let Some(seat) = seat else { return Ok(None) };
    let (at, checked) = match &seat {
        Seat::Relay(relay, side) => (relay.at, relay.way(*side).check(cell).map_err(Fault::from)),
        Seat::FromOwner(terminal) => (terminal.at, terminal.outward().check(cell).map_err(Fault::from)),
        Seat::FromJoin(terminal) => (terminal.at, terminal.take_join_cell(cell)),
        Seat::Origin(origin) => (origin.at, origin.check(cell).map_err(Fault::from)),
    };
    match checked {
        Ok(()) => Ok(Some(seat)),
        Err(fault) => {
            // No relay stands between two terminals: a bad body is the peer's own.
            let is_the_peers_own = matches!(seat, Seat::FromJoin(_)) && !matches!(fault, Fault::Gap(_));
            Err(Bad { at, fault, is_the_peers_own })
        }
    }
}

/// Turns the cells that belong somewhere.
fn turn(seats: &[Option<Seat>], cells: &mut [Cell]) {
    let mut chain = Chain::default();
    let mut places =
        seats.iter().enumerate().filter_map(|(place, seat)| Some((place, seat.as_ref()?))).peekable();
    while let Some((place, seat)) = places.next() {
        let (done, rest) = cells.split_at_mut(place + 1);
        let Some(cell) = done.last_mut() else { return };
        let next = places.peek().and_then(|(later, seat)| {
            let cell = rest.get(later - place - 1)?;
            Some((pass(seat, cell.index(), 0)?, cell.body()))
        });
        let number = cell.index();
        chain.turn((0..).map_while(|layer| pass(seat, number, layer)), cell.body_mut(), next);
    }
}

/// What is to be done to a cell of this number, layer by layer.
fn pass(seat: &Seat, number: u32, layer: usize) -> Option<Pass<'_>> {
    match seat {
        Seat::Origin(origin) => origin.pass(number, layer),
        _ if layer > 0 => None,
        Seat::Relay(relay, side) => Some(relay.way(*side).pass(number)),
        Seat::FromOwner(terminal) => Some(terminal.outward().pass(number)),
        Seat::FromJoin(terminal) => Some(terminal.inward_pass(number)),
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng, rngs::ChaCha20Rng};

    use super::*;
    use crate::{
        tunnel::testnet::{Fate, Net, Outbox},
        wire::cell::{CELL, Command, TunnelId},
    };

    /// A relay, an exit, an entry, a relay of the other path, and an owner, each with the node from which cells come.
    const EDGES: [(usize, usize); 5] = [(0, 2), (2, 3), (3, 5), (5, 4), (4, 1)];

    /// Client 0 over 2 and 3, service 1 over 4 and 5, two tunnels, and their cells that are about to cross an edge.
    fn before_edge(seed: u64, edge: (usize, usize)) -> (Net, LinkId, Vec<Cell>) {
        let mut net = Net::new(seed, 6);
        let (client, service) = (net.build(0, &[2, 3]), net.build(1, &[4, 5]));
        let tunnels = [net.connect(&client, &service).0, net.connect(&client, &service).0];
        let mut cells = Vec::new();
        for number in 0..40_u8 {
            let tunnel = tunnels[usize::from(number.is_multiple_of(3))];
            assert!(net.send(0, tunnel, &[number; 9]));
        }
        net.run_with(|from, to, cell| {
            if (from, to) == edge {
                cells.push(cell.clone());
                return Fate::Drop;
            }
            Fate::Pass
        });
        let link = net.link(edge.0, edge.1).1;
        (net, link, cells)
    }

    /// What a bad neighbour makes of its cells.
    fn disturb(rng: &mut ChaCha20Rng, cells: &mut Vec<Cell>) {
        for _ in 0..rng.random_range(0..4) {
            let place = rng.random_range(0..cells.len());
            match rng.random_range(0..6) {
                0 => cells[place].0[rng.random_range(16..CELL)] ^= 1,
                1 => cells[place].set_tunnel(TunnelId::new(rng.random())),
                2 => cells[place].set_index(rng.random()),
                3 => cells.insert(place, Cell::new(Command::Close, cells[place].tunnel())),
                4 => drop(cells.remove(place)),
                _ => cells.insert(place, cells[place].clone()),
            }
        }
    }

    #[test]
    fn a_row_does_what_its_cells_do_one_by_one() {
        for seed in 0..60 {
            for edge in EDGES {
                let [(mut one_by_one, link, mut cells), (mut rows, ..)] =
                    [(); 2].map(|()| before_edge(seed, edge));
                let mut rng = ChaCha20Rng::seed_from_u64(seed);
                disturb(&mut rng, &mut cells);
                let at = edge.1;
                for cell in &cells {
                    one_by_one.inject(at, link, cell.clone());
                }
                let now = rows.now;
                rows.at(at, |switch, out| switch.handle_cells(now, link, &mut cells, out));
                let [one_by_one, rows] = [one_by_one, rows].map(|net| net.nodes.into_iter().nth(at).unwrap());
                assert!(one_by_one.out.cells == rows.out.cells, "seed {seed}, edge {edge:?}");
                let seen = |out: &Outbox| (out.delivered.clone(), format!("{:?}", out.events));
                assert_eq!(seen(&one_by_one.out), seen(&rows.out), "seed {seed}, edge {edge:?}");
                assert_eq!(one_by_one.switch.sizes(), rows.switch.sizes());
            }
        }
    }
}
