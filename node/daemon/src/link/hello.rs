//! What both sides need for the proof of identity (PROTOCOL §2): a reader of the first cell that sees at once whether it
//! can become a Hello.

use std::io;

use phantom_protocol::wire::cell::{CELL, Cell, Command, TunnelId};

use super::connection::Connection;

/// What a connection begins with.
pub(super) struct First {
    cell: Cell,
    length: usize,
}

impl First {
    pub(super) fn new() -> First {
        First { cell: Cell::new(Command::Dummy, TunnelId::new(0)), length: 0 }
    }

    /// Reads the first cell; `false` if what comes is none. A hello stands whole in the first TLS record (PROTOCOL §2.2),
    /// so it comes whole or not at all: nobody has to wait for the rest of something else.
    pub(super) async fn read(&mut self, connection: &mut Connection) -> io::Result<bool> {
        self.length = connection.read(&mut self.cell.0).await?;
        Ok(self.length == CELL && self.cell.0[0] == Command::Hello as u8)
    }

    /// The bytes that came.
    pub(super) fn seen(&self) -> &[u8] {
        self.cell.0.get(..self.length).unwrap_or_default()
    }

    /// The cell, once it is whole.
    pub(super) fn cell(&self) -> &Cell {
        &self.cell
    }
}
