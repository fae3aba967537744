//! The proxy over real sockets.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failing helper fails its test
mod bind;
mod endings;
mod hostile;
mod http;
mod limits;
mod programs;
mod redirected;
mod resolve;
mod socks4;
mod socks5;
mod udp;
mod world;
