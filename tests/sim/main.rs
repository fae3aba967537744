//! Simulations: many pure nodes in one process, in virtual time, repeatable from a seed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod exchange;
mod network;
