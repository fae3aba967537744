//! Simulations: many pure nodes in one process, in virtual time, repeatable from a seed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod adversaries;
mod anonymity;
mod endurance;
mod exchange;
mod lives;
mod network;
mod paths;
mod reachable;
mod services;
mod vices;
mod watch;
mod whole;
