//! A tunnel's terminal: exit of one path, entry of another, or the far end of an echo (PROTOCOL §5).
//!
//! Between two terminals a cell is a plain body under a count from 0. A terminal checks the zeros, takes over kind,
//! length and payload of sealed and plain cells, makes the filler zero and counts anew, so that nothing else crosses
//! from one path into the next. While an exit dials it keeps the newest 64 cells.

use std::{
    collections::VecDeque,
    mem,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
};

use super::{
    Outlet, Side, TunnelRef,
    fault::Fault,
    gap::Gap,
    hop::{End, LastUse, Way, lock},
    layer::Layer,
};
use crate::{
    crypto::{proof::Token, wide_block::Pass},
    limits::{CELLS_WHILE_DIALLING, CELLS_WHILE_DIALLING_ALL},
    time::Moment,
    wire::{
        body::{self, Kind},
        cell::{Body, Cell, Command},
        opener::{self, Answer},
    },
};

/// What a terminal's tunnel is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Answers the opener, and that is all.
    Echo,
    /// The owner has opened it, to join an entry node.
    Exit,
    /// Another node has joined it, to visit the owner.
    Entry,
}

/// The way to the other terminal.
enum Join {
    /// There is none, or no more.
    None,
    /// Waits for a link, with the newest cells of the owner.
    Dialling { token: Token, held: VecDeque<Box<Body>> },
    /// Cells go here under the next number.
    Joined { end: End, next: u32 },
}

/// Bounds the cells that all exits of a node keep together.
#[derive(Default)]
pub(super) struct HeldCells(AtomicUsize);

impl HeldCells {
    fn take(&self) -> bool {
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
                (held < CELLS_WHILE_DIALLING_ALL).then_some(held + 1)
            })
            .is_ok()
    }

    fn give_back(&self, cells: usize) {
        self.0.fetch_sub(cells, Ordering::Relaxed);
    }

    pub(super) fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// The far end of a tunnel of some owner.
pub(super) struct Terminal {
    pub(super) at: TunnelRef,
    pub(super) role: Role,
    /// The neighbour towards the owner.
    pub(super) owner: End,
    outward: Way,
    inward: Layer,
    /// The count towards the owner.
    inward_next: AtomicU32,
    join: Mutex<Join>,
    join_gap: Mutex<Gap>,
    /// An exit has told the owner what became of the join. Always set for other roles.
    answered: AtomicBool,
    /// The owner of an entry wants this tunnel. Always set for other roles.
    confirmed: AtomicBool,
    pub(super) opened: Moment,
    pub(super) used: LastUse,
}

impl Terminal {
    /// `layers` by side, of which `owner_side` looks towards the owner.
    pub(super) fn new(
        at: TunnelRef,
        role: Role,
        owner: End,
        owner_side: Side,
        layers: [Layer; 2],
        now: Moment,
    ) -> Terminal {
        let [a, b] = layers;
        let (outward, inward) = match owner_side {
            Side::A => (a, b),
            Side::B => (b, a),
        };
        Terminal {
            at,
            role,
            owner,
            outward: Way::new(outward),
            inward,
            inward_next: AtomicU32::new(0),
            join: Mutex::new(Join::None),
            join_gap: Mutex::new(Gap::new()),
            answered: AtomicBool::new(role != Role::Exit),
            confirmed: AtomicBool::new(role != Role::Entry),
            opened: now,
            used: LastUse::new(now),
        }
    }

    /// An exit that will wait for a link to its entry node.
    pub(super) fn dialling(self, token: Token) -> Terminal {
        Terminal { join: Mutex::new(Join::Dialling { token, held: VecDeque::new() }), ..self }
    }

    /// An entry whose exit is there already.
    pub(super) fn joined(self, end: End) -> Terminal {
        Terminal { join: Mutex::new(Join::Joined { end, next: 0 }), ..self }
    }

    pub(super) fn is_confirmed(&self) -> bool {
        self.confirmed.load(Ordering::Relaxed)
    }

    /// The way of the owner's cells, as far as this terminal.
    pub(super) fn outward(&self) -> &Way {
        &self.outward
    }

    /// A data cell of the owner that was turned: a plain body.
    pub(super) fn handle_owner_cell(
        &self,
        cell: &mut Cell,
        held: &HeldCells,
        out: &mut impl Outlet,
    ) -> Result<(), Fault> {
        match (self.role, body::scrub(cell.body_mut())?) {
            (Role::Exit | Role::Entry, Kind::Sealed | Kind::Plain) => {
                self.cross(cell, held, out);
                Ok(())
            }
            (Role::Entry, Kind::Confirm) if body::read(cell.body()) == Ok((Kind::Confirm, &[])) => {
                self.confirmed.store(true, Ordering::Relaxed);
                Ok(())
            }
            _ => Err(Fault::NoBusiness),
        }
    }

    /// Numbers a scrubbed cell for the other terminal, or keeps it. The number and the place in the queue are taken
    /// under one lock, which the driver contends for only when it ends the waiting.
    fn cross(&self, cell: &mut Cell, budget: &HeldCells, out: &mut impl Outlet) {
        match &mut *lock(&self.join) {
            Join::Joined { end, next } => number(cell, *end, next, out),
            Join::Dialling { held, .. } => hold(held, budget, cell.body()),
            Join::None => {}
        }
    }

    /// The link to the entry node stands: asks to join under the tunnel id of `end`, then sends what was kept.
    pub(super) fn connect(&self, end: End, budget: &HeldCells, out: &mut impl Outlet) {
        let mut join = lock(&self.join);
        let Join::Dialling { token, held } = &mut *join else { return };
        let mut cell = Cell::new(Command::Join, end.1);
        opener::write_join(token, cell.body_mut());
        out.forward(end.0, &cell);
        cell.set_command(Command::Data);
        let mut next = 0;
        for body in mem::take(held) {
            *cell.body_mut() = *body;
            number(&mut cell, end, &mut next, out);
            budget.give_back(1);
        }
        *join = Join::Joined { end, next };
    }

    /// A data cell of the other terminal: checks it and numbers it for the owner. Then it is to be turned.
    pub(super) fn take_join_cell(&self, cell: &mut Cell) -> Result<(), Fault> {
        lock(&self.join_gap).accept(cell.index())?;
        if !self.answered.load(Ordering::Relaxed) || !body::scrub(cell.body_mut())?.crosses() {
            return Err(Fault::NoBusiness);
        }
        self.number_inward(cell);
        Ok(())
    }

    /// The first answer to the owner; nothing if one was given.
    pub(super) fn answer(&self, answer: Answer) -> Option<Cell> {
        (!self.answered.swap(true, Ordering::Relaxed)).then(|| self.speak(Kind::Answer, &[answer as u8]))
    }

    /// A cell of the terminal's own for the owner. `payload` is at most a byte long.
    pub(super) fn speak(&self, kind: Kind, payload: &[u8]) -> Cell {
        let mut cell = Cell::new(Command::Data, self.owner.1);
        if body::write(kind, payload, cell.body_mut()).is_ok() {
            self.number_inward(&mut cell);
            self.inward_pass(cell.index()).turn(cell.body_mut());
            self.readdress_inward(&mut cell);
        }
        cell
    }

    fn number_inward(&self, cell: &mut Cell) {
        cell.set_index(self.inward_next.fetch_add(1, Ordering::Relaxed));
    }

    /// What is to be done to a cell for the owner that got this number.
    pub(super) fn inward_pass(&self, number: u32) -> Pass<'_> {
        self.inward.turn(number)
    }

    /// Addresses a cell for the owner that was turned.
    pub(super) fn readdress_inward(&self, cell: &mut Cell) {
        cell.set_index(cell.index().wrapping_add(self.inward.offset));
        cell.set_tunnel(self.owner.1);
    }

    /// Nothing crosses any more; what was kept is forgotten.
    pub(super) fn shut(&self, budget: &HeldCells) {
        if let Join::Dialling { held, .. } = mem::replace(&mut *lock(&self.join), Join::None) {
            budget.give_back(held.len());
        }
    }
}

fn number(cell: &mut Cell, end: End, next: &mut u32, out: &mut impl Outlet) {
    cell.set_tunnel(end.1);
    cell.set_index(*next);
    *next = next.wrapping_add(1);
    out.forward(end.0, cell);
}

/// Keeps a cell in the place of the oldest one, if it must.
fn hold(held: &mut VecDeque<Box<Body>>, budget: &HeldCells, body: &Body) {
    if held.len() < CELLS_WHILE_DIALLING && budget.take() {
        held.push_back(Box::new(*body));
    } else if let Some(mut oldest) = held.pop_front() {
        *oldest = *body;
        held.push_back(oldest);
    }
}
