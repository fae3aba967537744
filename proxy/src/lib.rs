//! A local proxy port in front of any dialler.
//!
//! Programs come in by SOCKS5, SOCKS4, SOCKS4a or HTTP CONNECT, all on one port; the first byte tells which. The proxy asks a
//! [`Dial`] for what they want: it knows no network, opens no outgoing socket and resolves no name.
//!
//! - CONNECT by name, IPv4 and IPv6 address, in every protocol. A dialler that writes more methods also serves BIND
//!   ([`Dial::listen`]), UDP ASSOCIATE ([`Dial::associate`]) and Tor's RESOLVE and RESOLVE_PTR ([`Dial::resolve`],
//!   [`Dial::reverse`]).
//! - User and password, if given, are an [`Isolation`] group that the dialler may keep apart from others; on a local
//!   port every pair is accepted, the empty one too. SOCKS4's user id and HTTP's `Proxy-Authorization` mean the same.
//! - Each [`DialError`] has its reply code in every protocol; Tor's codes for hidden services only on demand.
//! - Handshakes have a time, clients and groups have [`Limits`]; other machines are served only by [`Access::Remote`], which
//!   asks for a password.
//! - Half-close and reset go both ways. Bytes sent ahead of the reply belong to the connection.
//! - A browser is told how to use the port, or configured by `/proxy.pac` ([`Pac`]).
//!
//! The legal order is: make a [`Proxy`], bind a listener, [`Proxy::serve`] it until the future is dropped, which ends
//! all its clients. Names and passwords are never logged by this crate, and the `Debug` of a [`Request`] hides them.
//!
//! ```
//! use std::sync::Arc;
//!
//! use phantom_proxy::{Dial, DialError, Host, Proxy, Request};
//! use tokio::{
//!     io::{AsyncReadExt, AsyncWriteExt},
//!     net::{TcpListener, TcpStream},
//! };
//!
//! /// Leads to one place and nowhere else.
//! struct OnlyHome(std::net::SocketAddr);
//!
//! impl Dial for OnlyHome {
//!     type Connection = TcpStream;
//!
//!     async fn dial(&self, request: Request) -> Result<TcpStream, DialError> {
//!         match request.host {
//!             Host::Name(name) if name == "home.example" => Ok(TcpStream::connect(self.0).await?),
//!             _ => Err(DialError::NotAllowed),
//!         }
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> std::io::Result<()> {
//! let home = TcpListener::bind("127.0.0.1:0").await?;
//! let dialler = Arc::new(OnlyHome(home.local_addr()?));
//! let listener = TcpListener::bind("127.0.0.1:0").await?;
//! let port = listener.local_addr()?;
//! tokio::spawn(async move { Proxy::default().serve(listener, dialler).await });
//!
//! let mut program = TcpStream::connect(port).await?;
//! program.write_all(b"CONNECT home.example:80 HTTP/1.1\r\n\r\nGET / HTTP/1.0\r\n\r\n").await?;
//! let (mut far, _) = home.accept().await?;
//! let mut heard = [0; 18];
//! far.read_exact(&mut heard).await?;
//! assert_eq!(&heard, b"GET / HTTP/1.0\r\n\r\n");
//! # Ok(()) }
//! ```

mod client;
mod config;
mod copy;
mod dial;
mod error;
mod handshake;
mod http;
mod pac;
mod places;
mod serve;
mod socks4;
mod socks5;
mod udp;

pub use config::{Access, Config, Limits, Password};
pub use copy::carry;
pub use dial::{Accepted, Connection, Datagram, Datagrams, Dial, Host, Isolation, Listening, Request};
pub use error::{DialError, ServiceError};
pub use pac::{Elsewhere, Pac};
pub use serve::Proxy;
