//! A proxy that connects over plain TCP: the smallest [`Dial`].
//!
//! `cargo run -p phantom-examples --example socks_to_tcp`, then
//! `curl --socks5-hostname 127.0.0.1:1080 http://example.com/`, or `curl --proxy http://127.0.0.1:1080 https://example.com/`.
//! <http://127.0.0.1:1080/> says how to set up other programs.

use std::sync::Arc;

use phantom_proxy::{Dial, DialError, Host, Proxy, Request};
use tokio::net::{TcpListener, TcpStream};

struct PlainTcp;

impl Dial for PlainTcp {
    type Connection = TcpStream;

    async fn dial(&self, request: Request) -> Result<TcpStream, DialError> {
        // An onion network would ask its own name table here, and keep requests of different groups apart.
        let connected = match &request.host {
            Host::Name(name) => TcpStream::connect((name.as_str(), request.port)).await,
            Host::Ip(address) => TcpStream::connect((*address, request.port)).await,
        };
        Ok(connected?)
    }
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:1080").await?;
    println!("SOCKS5, SOCKS4a and HTTP CONNECT on {}", listener.local_addr()?);
    match Proxy::default().serve(listener, Arc::new(PlainTcp)).await? {}
}
