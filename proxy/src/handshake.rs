//! From the first byte of a client to its request (RFC 1928).

use std::io;

use fast_socks5::server::{Socks5ServerProtocol, SocksServerError, states};
use fast_socks5::util::target_addr::TargetAddr;
use fast_socks5::{ReplyError, Socks5Command};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{Host, Request, credentials::METHODS, shared::Shared};

/// A client whose request was read and waits for its reply.
pub(crate) type Waiting<'a> = Socks5ServerProtocol<Shared<'a>, states::CommandRead>;

/// Why a client was sent away before anything was dialled. It has its answer already, where the protocol has one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("it speaks HTTP, not SOCKS5")]
    Http,
    #[error("it does not speak SOCKS5")]
    NotSocks,
    #[error("it asked for something else than CONNECT")]
    NotConnect,
    #[error("its destination is no name and no address")]
    BadDestination,
    #[error("it broke off its handshake")]
    BrokenOff,
}

impl From<io::Error> for Refused {
    fn from(_: io::Error) -> Refused {
        Refused::BrokenOff
    }
}

impl From<SocksServerError> for Refused {
    // The text of the foreign error is dropped with it: it may quote what the client sent.
    fn from(error: SocksServerError) -> Refused {
        match error {
            SocksServerError::UnsupportedSocksVersion(_) | SocksServerError::AuthMethodUnacceptable(_) => {
                Refused::NotSocks
            }
            SocksServerError::UnknownCommand(_) => Refused::NotConnect,
            SocksServerError::AddrError(_) => Refused::BadDestination,
            _ => Refused::BrokenOff,
        }
    }
}

/// Reads the whole handshake. The caller bounds its time.
pub(crate) async fn read_request(stream: &TcpStream) -> Result<(Waiting<'_>, Request), Refused> {
    if speaks_http(stream).await? {
        Shared(stream).write_all(HTTP_ANSWER).await?;
        return Err(Refused::Http);
    }
    let method = Socks5ServerProtocol::start(Shared(stream)).negotiate_auth(&METHODS).await?;
    let (protocol, isolation) = method.finish().await?;
    let (protocol, command, target) = protocol.read_command().await?;
    if command != Socks5Command::TCPConnect {
        protocol.reply_error(&ReplyError::CommandNotSupported).await?;
        return Err(Refused::NotConnect);
    }
    let (host, port) = match target {
        TargetAddr::Ip(address) => (Some(Host::Ip(address.ip())), address.port()),
        TargetAddr::Domain(name, port) => (Host::parse(&name), port),
    };
    match host {
        Some(host) => Ok((protocol, Request { host, port, isolation })),
        None => {
            protocol.reply_error(&ReplyError::GeneralFailure).await?;
            Err(Refused::BadDestination)
        }
    }
}

const HTTP_ANSWER: &[u8] =
    b"HTTP/1.1 501 Not Implemented\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n\
This port speaks SOCKS5, not HTTP. Set it as the SOCKS host, version 5, and let the proxy resolve names\n\
(curl: --socks5-hostname).\n";

/// The commonest mistake deserves an answer: a browser whose HTTP proxy was set to this port. No SOCKS version is a letter.
async fn speaks_http(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0];
    stream.peek(&mut first).await?;
    Ok(first.iter().all(u8::is_ascii_uppercase))
}
