//! The cryptography of the network, each construction in a file of its own.
//!
//! Nothing here knows what a cell or a path means. Randomness is an argument, secrets are erased when they are
//! dropped and have no printable content, comparisons of secrets take constant time, and a failure never says which
//! of its reasons it had.

pub mod blind;
pub mod datagram;
pub mod keys;
pub mod proof;
pub mod seal;
pub mod wide_block;

#[cfg(test)]
mod vectors;

pub use keys::Key;
pub use wide_block::Direction;
