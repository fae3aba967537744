//! What may happen to a program's socket call under `phantom run`, and how the node is asked to carry it out.
//!
//! Pure: no system call, no memory of its own, no dependency. The shim inside the program and the supervisor outside it
//! decide by the same functions and speak the same frames, so a call fares alike whichever of them it meets.
//!
//! - [`socket`]: which sockets there are. All others are refused at birth.
//! - [`connect`]: where a call may lead: into the network, to the names, to the machine itself, or nowhere.
//! - [`mark`]: what a socket says about itself to whoever looks at it later, in this process or in another one.
//! - [`frame`]: what a run and its node say to each other.
//! - [`call`]: what the library inside a program says to its run.
//! - [`program`]: into which programs the library is loaded.
//! - [`errno`]: the answers of the system that a program may get, each with its reason.
#![no_std]

pub mod call;
pub mod connect;
pub mod errno;
pub mod frame;
pub mod mark;
pub mod program;
pub mod socket;

pub use errno::Errno;
