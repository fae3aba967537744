//! The proxy over real sockets.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failing helper fails its test
mod endings;
mod requests;
mod world;
