//! The wire format: the only place that indexes bytes of a peer.

pub mod cell;
pub mod contact;
pub mod control;
pub mod invitation;
pub mod reader;
