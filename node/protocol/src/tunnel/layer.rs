//! One layer of a cell: what one hop does to it in one direction, and how the owner undoes it (PROTOCOL §3, §5).
//!
//! From A to B a hop enciphers, from B to A it deciphers; the owner applies the inverse. A cell's tweak is its number
//! as the hop receives it, the hop forwards it under that number plus a constant offset. An opener goes once through
//! the path under keys of its own, with number 0; the opener as seen on side A then gives the tunnel its keys, so that
//! nobody but the hop and the owner can know them.

use sha2::{Digest, Sha256};

use super::Side;
use crate::{
    crypto::{
        Direction, Key,
        wide_block::{Mode, Pass, WideBlock, tweak},
    },
    wire::cell::Body,
};

/// SHA-256 of an opener as seen on side A of a hop: names the tunnel's keys, and a repeat.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Seen([u8; 32]);

#[cfg(test)]
impl Seen {
    pub(super) fn for_tests(number: u64) -> Seen {
        Seen(Sha256::digest(number.to_be_bytes()).into())
    }
}

/// One direction of one tunnel at one hop.
pub(super) struct Layer {
    block: WideBlock,
    direction: Direction,
    /// What the hop adds to a cell's number.
    pub(super) offset: u32,
}

impl Layer {
    /// The layer of a tunnel's cells.
    fn of_tunnel(secret: &Key, seen: &Seen, direction: Direction) -> Layer {
        let key = secret.derive(&[b"tunnel", &seen.0, &[direction as u8]]);
        let [a, b, c, d, ..] = *key.derive(&[b"offset"]).as_bytes();
        Layer { block: WideBlock::new(key.as_bytes()), direction, offset: u32::from_be_bytes([a, b, c, d]) }
    }

    /// The layer of openers.
    fn of_openers(secret: &Key, direction: Direction) -> Layer {
        let key = secret.derive(&[b"opener", &[direction as u8]]);
        Layer { block: WideBlock::new(key.as_bytes()), direction, offset: 0 }
    }

    /// What the hop does to a cell of this number.
    pub(super) fn turn(&self, index: u32) -> Pass<'_> {
        let mode = match self.direction {
            Direction::AtoB => Mode::Encipher,
            Direction::BtoA => Mode::Decipher,
        };
        Pass::new(&self.block, mode, tweak(self.direction, index))
    }

    /// What the owner does to undo it, or to prepare for it.
    pub(super) fn unturn(&self, index: u32) -> Pass<'_> {
        let mode = match self.direction {
            Direction::AtoB => Mode::Decipher,
            Direction::BtoA => Mode::Encipher,
        };
        Pass::new(&self.block, mode, tweak(self.direction, index))
    }
}

/// Both layers of a tunnel at one hop, indexed by the side on which cells come in.
pub(super) fn tunnel_layers(secret: &Key, seen: &Seen) -> [Layer; 2] {
    [Side::A, Side::B].map(|side| Layer::of_tunnel(secret, seen, side.direction()))
}

/// A hop passes an opener on: permutes it, and returns it as seen on side A.
pub(super) fn turn_opener(secret: &Key, direction: Direction, body: &mut Body) -> Seen {
    permute_opener(direction, Direction::AtoB, body, |body| {
        Layer::of_openers(secret, direction).turn(0).turn(body)
    })
}

/// The owner undoes, or prepares for, what a hop does to an opener; returns it as seen on the hop's side A.
pub(super) fn unturn_opener(secret: &Key, direction: Direction, body: &mut Body) -> Seen {
    permute_opener(direction, Direction::BtoA, body, |body| {
        Layer::of_openers(secret, direction).unturn(0).turn(body)
    })
}

/// `side_a_first`: the direction in which side A sees the opener before it is permuted.
fn permute_opener(
    direction: Direction,
    side_a_first: Direction,
    body: &mut Body,
    permute: impl FnOnce(&mut Body),
) -> Seen {
    if direction == side_a_first {
        let seen = Seen(Sha256::digest(&body[..]).into());
        permute(body);
        seen
    } else {
        permute(body);
        Seen(Sha256::digest(&body[..]).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::cell::BODY;

    #[test]
    fn the_owner_and_the_hop_see_the_same_opener() {
        let secret = Key::from_bytes([3; 32]);
        for direction in [Direction::AtoB, Direction::BtoA] {
            let mut body = [5; BODY];
            let hop = turn_opener(&secret, direction, &mut body);
            let owner = unturn_opener(&secret, direction, &mut body);
            assert!(hop == owner);
            assert!(body == [5; BODY]);
        }
    }

    #[test]
    fn directions_and_openers_have_keys_of_their_own() {
        let secret = Key::from_bytes([3; 32]);
        let seen = Seen([4; 32]);
        let [a, b] = tunnel_layers(&secret, &seen);
        assert_ne!(a.offset, b.offset);
        let mut outputs: Vec<Body> = Vec::new();
        for layer in [a, b, Layer::of_openers(&secret, Direction::AtoB)] {
            let mut body = [0; BODY];
            layer.turn(0).turn(&mut body);
            outputs.push(body);
        }
        assert!(outputs[0] != outputs[1] && outputs[1] != outputs[2] && outputs[0] != outputs[2]);
    }
}
