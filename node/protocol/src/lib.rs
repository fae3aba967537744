//! The Phantom network as pure state machines (PROTOCOL.md is the specification).
//!
//! No sockets, clocks or threads: time, randomness and input are arguments, output is returned. The daemon adds the
//! world, the simulator adds a virtual one.

pub mod address;
pub mod allowance;
mod budget;
pub mod crypto;
pub mod identity;
pub mod limits;
pub mod netdb;
pub mod network;
pub mod node;
pub mod path;
pub mod time;
pub mod tunnel;
pub mod wire;
