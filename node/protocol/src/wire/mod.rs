//! The wire format: the only place that indexes bytes of a peer.

pub mod body;
pub mod cell;
pub mod contact;
pub mod control;
pub mod flow;
pub mod hello;
pub mod invitation;
pub mod opener;
pub mod outward;
pub mod reader;
pub mod record;
pub mod setup;
