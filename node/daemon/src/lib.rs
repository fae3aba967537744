//! The Phantom daemon: everything that touches the world. The network itself is `phantom_protocol`.

pub mod cli;
pub mod clock;
pub mod confinement;
pub mod daemon;
pub mod demo;
pub mod doors;
pub mod folders;
mod frames;
pub mod hidden;
pub mod link;
pub mod outward;
mod program;
pub mod session;
pub mod store;
pub mod supervise;
