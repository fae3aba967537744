//! Sockets that lead to local programs, and what others hand over.
//!
//! Whoever hands a socket over may keep it, too, and so may change it at any time: take O_NONBLOCK away, read what had come, or
//! let its closing wait (SO_LINGER). So nothing here relies on how a socket was set up: each call says for itself that it does
//! not wait, and no descriptor of somebody else is closed where waiting would hold up others.

mod datagrams;
mod handed;
mod stream;
#[cfg(test)]
pub(crate) mod testing;

use std::cell::RefCell;

pub use datagrams::ProgramDatagrams;
pub use handed::Handed;
pub use stream::ProgramStream;

/// Room for any datagram, and for what a stream takes at once.
const ROOM: usize = 64 << 10;

thread_local! {
    /// Where a thread receives before it knows how much has come. What waits for something to come needs no room of its own.
    static RECEIVED: RefCell<Vec<u8>> = RefCell::new(vec![0; ROOM]);
}
