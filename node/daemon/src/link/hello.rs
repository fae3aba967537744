//! What both sides need for the proof of identity (PROTOCOL §2): the exporter that binds it to one TLS connection, and
//! a reader of the first cell that sees at once whether it can become a Hello.

use std::io;

use phantom_protocol::wire::cell::{CELL, Cell, Command, TunnelId};
use rustls::ConnectionCommon;
use tokio::io::{AsyncRead, AsyncReadExt};

/// What the TLS exporter is asked for.
const EXPORTER: &[u8] = b"EXPORTER-phantom-link-v1";

/// What binds a proof to one TLS connection, once its handshake is complete.
pub(super) fn exporter<Side>(connection: &ConnectionCommon<Side>) -> Result<[u8; 32], rustls::Error> {
    connection.export_keying_material([0; 32], EXPORTER, None)
}

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
    pub(super) async fn read(&mut self, stream: &mut (impl AsyncRead + Unpin)) -> io::Result<bool> {
        self.length = stream.read(&mut self.cell.0).await?;
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
