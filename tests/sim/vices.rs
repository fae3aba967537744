//! What dishonest nodes do with what they send.

use std::collections::BTreeMap;

use phantom_protocol::{
    identity::NodeId,
    limits::ARRAY,
    wire::{
        cell::{CELL, Cell, Command, LinkId, PathId},
        control::{ControlMessage, Published, Round},
        setup::SetupArray,
    },
};
use rand::{Rng, RngExt, SeedableRng, rngs::ChaCha20Rng};

use crate::whole::Freight;

/// One bad habit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vice {
    /// One bit anywhere in a cell that it sends.
    FlipBits,
    /// One bit anywhere in an array that it sends.
    FlipSetups,
    Drop,
    Repeat,
    /// Only numbered cells: openers are passed on once.
    RepeatData,
    Reorder,
    /// Cells and messages that nobody has asked for.
    Garbage,
    /// Setups vanish.
    DenySetups,
    /// Arrays and openers that it has received are sent on for a second time, later, to anybody.
    Replay,
    /// Cells of tunnels are passed on without a layer: what the checks of anonymity must find.
    Unturned,
    /// Entries of parties are not passed on.
    HideEntries,
    /// Whoever asks whether it can be reached is told this.
    Knocked(bool),
}

/// A vice at work.
pub struct Spoiler {
    vice: Vice,
    /// One in so many.
    odds: u32,
    rng: ChaCha20Rng,
    held: Option<(LinkId, Freight)>,
    heard: Vec<Freight>,
}

impl Spoiler {
    pub fn new(vice: Vice, seed: u64) -> Spoiler {
        Spoiler { vice, odds: 4, rng: ChaCha20Rng::seed_from_u64(seed), held: None, heard: Vec::new() }
    }

    /// At every opportunity.
    pub fn always(self) -> Spoiler {
        Spoiler { odds: 1, ..self }
    }

    /// What is sent instead.
    pub fn spoil(&mut self, link: LinkId, mut freight: Freight) -> Vec<(LinkId, Freight)> {
        let is_cell = matches!(freight, Freight::Cell(_));
        let is_setup = matches!(freight, Freight::Message(ControlMessage::Setup { .. }));
        let strikes = self.rng.random_ratio(1, self.odds);
        match self.vice {
            Vice::FlipBits if is_cell && strikes => self.flip(&mut freight),
            Vice::FlipSetups if is_setup && strikes => self.flip(&mut freight),
            Vice::DenySetups if is_setup => return vec![],
            Vice::Drop if is_cell && strikes => return vec![],
            Vice::Repeat if is_cell && strikes => return vec![(link, freight.clone()), (link, freight)],
            Vice::RepeatData if strikes && is_data(&freight) => {
                return vec![(link, freight.clone()), (link, freight)];
            }
            Vice::Reorder if is_cell => {
                return match self.held.take() {
                    Some(held) => vec![(link, freight), held],
                    None if strikes => {
                        self.held = Some((link, freight));
                        vec![]
                    }
                    None => vec![(link, freight)],
                };
            }
            Vice::HideEntries => {
                if let Freight::Message(ControlMessage::Records(records)) = &mut freight {
                    records.retain(|record| matches!(record, Published::Node(_)));
                    if records.is_empty() {
                        return vec![];
                    }
                }
            }
            Vice::Knocked(lie) => {
                if let Freight::Message(ControlMessage::Knocked(reached)) = &mut freight {
                    *reached = lie;
                }
            }
            Vice::Unturned => {
                let last = self.heard.iter().rev().find_map(|heard| match heard {
                    Freight::Cell(cell) if matches!(cell.command(), Ok(Command::Data)) => Some(*cell.body()),
                    _ => None,
                });
                if let (Freight::Cell(cell), Some(body)) = (&mut freight, last)
                    && matches!(cell.command(), Ok(Command::Data))
                {
                    *cell.body_mut() = body;
                }
            }
            _ => {}
        }
        vec![(link, freight)]
    }

    fn flip(&mut self, freight: &mut Freight) {
        match freight {
            Freight::Cell(cell) => {
                let bit = self.rng.random_range(0..8 * CELL);
                cell.0[bit / 8] ^= 1 << (bit % 8);
            }
            Freight::Message(ControlMessage::Setup { array, .. }) => {
                let bit = self.rng.random_range(0..8 * ARRAY);
                array[bit / 8] ^= 1 << (bit % 8);
            }
            Freight::Message(_) => {}
        }
    }

    /// Remembers what it has received.
    pub fn learn(&mut self, _link: LinkId, freight: &Freight) {
        let keep = match freight {
            Freight::Cell(cell) => {
                matches!(cell.command(), Ok(Command::Open | Command::Data | Command::Join))
            }
            Freight::Message(message) => matches!(message, ControlMessage::Setup { .. }),
        };
        if keep && matches!(self.vice, Vice::Replay | Vice::Unturned) {
            self.heard.push(freight.clone());
            if self.heard.len() > 64 {
                self.heard.remove(0);
            }
        }
    }

    /// What it sends of its own accord.
    pub fn invent(&mut self, links: &BTreeMap<LinkId, NodeId>) -> Vec<(LinkId, Freight)> {
        let Some(link) = self.any(links) else { return vec![] };
        match self.vice {
            Vice::Garbage => vec![(link, self.garbage())],
            Vice::Replay if !self.heard.is_empty() => {
                let at = self.rng.random_range(0..self.heard.len());
                vec![(link, self.heard[at].clone())]
            }
            _ => vec![],
        }
    }

    fn any(&mut self, links: &BTreeMap<LinkId, NodeId>) -> Option<LinkId> {
        let links: Vec<LinkId> = links.keys().copied().collect();
        (!links.is_empty()).then(|| links[self.rng.random_range(0..links.len())])
    }

    fn garbage(&mut self) -> Freight {
        match self.rng.random_range(0..4) {
            0 => {
                let mut bytes = [0; ARRAY];
                self.rng.fill_bytes(&mut bytes);
                let round = if self.rng.random() { Round::One } else { Round::Two };
                let array = SetupArray::from_bytes(&bytes).unwrap().into();
                Freight::Message(ControlMessage::Setup {
                    round,
                    connection: PathId::new(self.rng.random()),
                    array,
                })
            }
            1 => {
                let mut record = vec![0; self.rng.random_range(1..2000)];
                self.rng.fill_bytes(&mut record);
                let record =
                    if self.rng.random() { Published::Node(record) } else { Published::ApEntry(record) };
                Freight::Message(ControlMessage::Records(vec![record]))
            }
            _ => {
                let mut cell = Cell([0; CELL]);
                self.rng.fill_bytes(&mut cell.0);
                // Half of them look right at first.
                if self.rng.random() {
                    cell.0[0] = self.rng.random_range(2..8);
                    cell.0[1..5].fill(0);
                    cell.0[5] = self.rng.random_range(0..8);
                    cell.0[6..12].fill(0);
                    cell.0[15] = 0;
                }
                Freight::Cell(Box::new(cell))
            }
        }
    }
}

fn is_data(freight: &Freight) -> bool {
    matches!(freight, Freight::Cell(cell) if cell.command() == Ok(Command::Data))
}
