//! Cells: everything on a link is cells of one size (PROTOCOL §3).
//!
//! A cell is a header of 16 bytes (command 1, tunnel id 5, path id 5, index 4, zero 1; numbers big-endian) and a
//! body of 1,376 bytes. The path id is used by OPEN and DESTROY only and zero elsewhere. Parsing never fails on a
//! body; a header with an unknown command or a last byte that is not zero is a fault of the link's peer.

use zerocopy::{FromBytes, IntoBytes, KnownLayout};

/// Bytes of a cell on the wire.
pub const CELL: usize = HEADER + BODY;
/// Bytes of a cell's header.
pub const HEADER: usize = 16;
/// Bytes of a cell's body: 86 AES blocks.
pub const BODY: usize = 1376;

/// The body of a cell, as the hop layer sees it.
pub type Body = [u8; BODY];

/// What a cell asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Command {
    /// Nothing: padding, dropped by the receiver.
    Dummy = 0,
    /// A fragment of a control message between two neighbours.
    Control = 1,
    /// Opens a routing tunnel inside the routing path that the header names.
    Open = 2,
    /// One numbered cell of a tunnel.
    Data = 3,
    /// Ends a tunnel. The body is random.
    Close = 4,
    /// From exit to entry: open a tunnel to the owner who accepts the token in the body.
    Join = 5,
    /// From entry to exit: the join was accepted.
    Joined = 6,
    /// Ends the routing path that the header names. The body is random.
    Destroy = 7,
    /// The proof of identity, once, as the first cell of each side of a link.
    Hello = 8,
}

impl Command {
    fn from_byte(byte: u8) -> Option<Command> {
        Some(match byte {
            0 => Command::Dummy,
            1 => Command::Control,
            2 => Command::Open,
            3 => Command::Data,
            4 => Command::Close,
            5 => Command::Join,
            6 => Command::Joined,
            7 => Command::Destroy,
            8 => Command::Hello,
            _ => return None,
        })
    }
}

const FORTY_BITS: u64 = (1 << 40) - 1;

macro_rules! forty_bit_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u64);

        impl $name {
            /// Keeps the low 40 bits.
            pub fn new(value: u64) -> Self {
                Self(value & FORTY_BITS)
            }
            /// The number.
            pub fn get(self) -> u64 {
                self.0
            }
            /// Big-endian, as in a header.
            pub fn to_bytes(self) -> [u8; 5] {
                let [_, _, _, rest @ ..] = self.0.to_be_bytes();
                rest
            }
            /// From a header.
            pub fn from_bytes(bytes: [u8; 5]) -> Self {
                let [a, b, c, d, e] = bytes;
                Self(u64::from_be_bytes([0, 0, 0, a, b, c, d, e]))
            }
        }
    };
}

forty_bit_id! {
    /// Names a tunnel on one link. The sender of OPEN or JOIN picks it by counting up; its top bit is set if the
    /// picker dialled the link.
    TunnelId
}
forty_bit_id! {
    /// Names a routing path on one link: drawn at random by the path's owner for each of its connections.
    PathId
}

impl TunnelId {
    /// Set in ids picked by the side that dialled the link.
    pub const DIALLER: u64 = 1 << 39;
}

/// One cell.
#[derive(Clone, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout)]
#[repr(transparent)]
pub struct Cell(pub [u8; CELL]);

/// A header that no honest node sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a cell with an unknown command or a dirty header")]
pub struct BadHeader;

impl Cell {
    /// A cell whose body is zeros.
    pub fn new(command: Command, tunnel: TunnelId) -> Cell {
        let mut cell = Cell([0; CELL]);
        cell.set_command(command);
        cell.set_tunnel(tunnel);
        cell
    }

    /// The cells that `bytes` begin with, where they lie; less than a cell at the end is left out.
    pub fn all_of(bytes: &mut [u8]) -> &mut [Cell] {
        let cells = bytes.len() / CELL;
        <[Cell]>::mut_from_prefix_with_elems(bytes, cells).map_or(&mut [], |(cells, _)| cells)
    }

    /// The command, if the header is one that this version knows.
    pub fn command(&self) -> Result<Command, BadHeader> {
        if self.0[15] != 0 {
            return Err(BadHeader);
        }
        Command::from_byte(self.0[0]).ok_or(BadHeader)
    }

    /// Overwrites the command.
    pub fn set_command(&mut self, command: Command) {
        self.0[0] = command as u8;
    }

    /// The tunnel that the cell belongs to.
    pub fn tunnel(&self) -> TunnelId {
        let [_, a, b, c, d, e, ..] = self.0;
        TunnelId::from_bytes([a, b, c, d, e])
    }

    /// Overwrites the tunnel.
    pub fn set_tunnel(&mut self, tunnel: TunnelId) {
        self.0[1..6].copy_from_slice(&tunnel.to_bytes());
    }

    /// The path that OPEN or DESTROY names.
    pub fn path(&self) -> PathId {
        let [_, _, _, _, _, _, a, b, c, d, e, ..] = self.0;
        PathId::from_bytes([a, b, c, d, e])
    }

    /// Overwrites the path.
    pub fn set_path(&mut self, path: PathId) {
        self.0[6..11].copy_from_slice(&path.to_bytes());
    }

    /// The number of the cell in its tunnel and direction.
    pub fn index(&self) -> u32 {
        let [_, _, _, _, _, _, _, _, _, _, _, a, b, c, d, ..] = self.0;
        u32::from_be_bytes([a, b, c, d])
    }

    /// Overwrites the number.
    pub fn set_index(&mut self, index: u32) {
        self.0[11..15].copy_from_slice(&index.to_be_bytes());
    }

    /// The body.
    pub fn body(&self) -> &Body {
        let (_, body) = self.0.split_at(HEADER);
        body.try_into().unwrap_or(&[0; BODY])
    }

    /// The body, to be turned in place.
    #[allow(clippy::expect_used)] // invariant: CELL - HEADER == BODY
    pub fn body_mut(&mut self) -> &mut Body {
        let (_, body) = self.0.split_at_mut(HEADER);
        body.try_into().expect("a cell is a header and a body")
    }
}

impl std::fmt::Debug for Cell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cell({:?}, {:?}, index {})", self.command(), self.tunnel(), self.index())
    }
}

/// A link between two neighbours, as its node numbers them: counted up, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

impl LinkId {
    /// A cell sent here comes in at [`LinkId::LOOP_B`]: a node's link to itself, needed where it is its own neighbour
    /// (length 0, or an exit that is also the entry).
    pub const LOOP_A: LinkId = LinkId(0);
    /// The other end of [`LinkId::LOOP_A`]. `LOOP_A` counts as the dialler.
    pub const LOOP_B: LinkId = LinkId(1);
    /// The first number for links to other nodes.
    pub const FIRST: u64 = 2;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_found_where_they_lie_and_a_part_of_one_is_not() {
        let mut bytes = vec![0; 3 * CELL - 1];
        bytes[CELL] = Command::Open as u8;
        let cells = Cell::all_of(&mut bytes);
        assert_eq!(cells.len(), 2);
        assert_eq!(cells[1].command(), Ok(Command::Open));
        cells[1].set_index(7);
        assert_eq!(bytes[CELL + 11..CELL + 15], [0, 0, 0, 7]);
        assert!(Cell::all_of(&mut bytes[..CELL - 1]).is_empty());
        assert!(Cell::all_of(&mut []).is_empty());
    }
}
