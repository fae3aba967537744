//! From the first byte of a client to its wish, whatever protocol it speaks.

use std::io;

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

use crate::{Config, DialError, Host, Request, http, socks4, socks5};

/// A client's socket. What it sent after its request stays in the buffer and belongs to the connection.
pub(crate) type Stream = BufReader<TcpStream>;

/// What a client asked for.
pub(crate) struct Asked {
    pub(crate) command: Command,
    pub(crate) request: Request,
    pub(crate) speaks: Speaks,
}

/// What is to be done with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Connect,
    Listen,
    Associate,
    Resolve,
    Reverse,
}

/// How a client wants to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaks {
    Socks5 {
        extended_errors: bool,
    },
    Socks4,
    Http,
    /// It was redirected to us, and does not know.
    Nothing,
}

impl Speaks {
    /// Says yes. The place is the answer to some commands.
    pub(crate) async fn accept(self, stream: &mut Stream, host: &Host, port: u16) -> io::Result<()> {
        match self {
            Speaks::Socks5 { .. } => stream.write_all(&socks5::reply(socks5::SUCCEEDED, host, port)).await,
            Speaks::Socks4 => stream.write_all(&socks4::reply(socks4::GRANTED, host, port)).await,
            Speaks::Http => stream.write_all(http::CONNECTED).await,
            Speaks::Nothing => Ok(()),
        }
    }

    /// Says no, and why.
    pub(crate) async fn refuse(self, stream: &mut Stream, error: DialError) -> io::Result<()> {
        match self {
            Speaks::Socks5 { extended_errors } => {
                let code = socks5::code(error, extended_errors);
                stream.write_all(&socks5::reply(code, &Host::NONE, 0)).await
            }
            Speaks::Socks4 => stream.write_all(&socks4::reply(socks4::REJECTED, &Host::NONE, 0)).await,
            Speaks::Http => stream.write_all(&http::refusal(error)).await,
            Speaks::Nothing => Ok(()),
        }
    }
}

/// Why a client was sent away before anything was dialled. It has its answer already, where the protocol has one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("it speaks no protocol of this port")]
    UnknownProtocol,
    #[error("its request is malformed")]
    Malformed,
    #[error("it knows no way of authentication that this port accepts, or not the password")]
    NotAuthenticated,
    #[error("its command is unknown")]
    UnknownCommand,
    #[error("its destination is no name and no address")]
    BadDestination,
    #[error("it asked for a page, and got one")]
    Page,
    #[error("it broke off its handshake")]
    BrokenOff,
}

impl From<io::Error> for Refused {
    fn from(_: io::Error) -> Refused {
        Refused::BrokenOff
    }
}

/// Reads the whole handshake. The caller bounds its time.
pub(crate) async fn read_request(stream: &mut Stream, config: &Config) -> Result<Asked, Refused> {
    match stream.fill_buf().await?.first() {
        Some(&socks5::VERSION) => socks5::read_request(stream, config).await,
        Some(&socks4::VERSION) => socks4::read_request(stream, &config.access).await,
        // Every method of HTTP begins with such a letter, and no version of SOCKS is one.
        Some(letter) if letter.is_ascii_uppercase() => http::read_request(stream, config).await,
        Some(_) => Err(Refused::UnknownProtocol),
        None => Err(Refused::BrokenOff),
    }
}
