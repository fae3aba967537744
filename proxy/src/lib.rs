//! A SOCKS5 front in front of any dialler.
//!
//! The proxy speaks the protocol with local programs and asks a [`Dial`] for the connection; it knows no network, opens
//! no outgoing socket and resolves no name. It serves CONNECT by name, IPv4 and IPv6 address. Every user/password pair
//! is accepted: the pair is an [`Isolation`] group that the dialler may keep apart from others. BIND and UDP ASSOCIATE
//! are refused with code 7.
//!
//! The legal order is: make a [`Proxy`], bind a listener, [`Proxy::serve`] it until the future is dropped, which ends
//! all its clients. Names and passwords are never logged by this crate, and the `Debug` of a [`Request`] hides them.
//! (`fast-socks5`, below, logs names through the `log` crate at debug level: leave its target off.)
//!
//! ```no_run
//! # async fn run(dialler: std::sync::Arc<impl phantom_proxy::Dial>) -> std::io::Result<()> {
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:1080").await?;
//! phantom_proxy::Proxy::default().serve(listener, dialler).await?;
//! # Ok(()) }
//! ```

mod client;
mod copy;
mod credentials;
mod dial;
mod handshake;
mod serve;
mod shared;

pub use dial::{Connection, Dial, DialError, Host, Isolation, Request};
pub use serve::{Limits, Proxy};
