//! SOCKS4, and 4a, which knows names. The user id, if there is one, is an isolation group.

use std::net::{IpAddr, Ipv4Addr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    Access, Host, Request,
    config::Pair,
    handshake::{Asked, Command, Refused, Speaks, Stream},
};

pub(crate) const VERSION: u8 = 4;
pub(crate) const GRANTED: u8 = 0x5a;
pub(crate) const REJECTED: u8 = 0x5b;

const CONNECT: u8 = 1;
const BIND: u8 = 2;
/// The longest user id and the longest name.
const FIELD: usize = 255;

/// Reads the whole request.
pub(crate) async fn read_request(stream: &mut Stream, access: &Access) -> Result<Asked, Refused> {
    let mut head = [0; 8];
    stream.read_exact(&mut head).await?;
    let [_version, command, port_high, port_low, a, b, c, d] = head;
    let user = read_field(stream).await?;
    let host = match [a, b, c, d] {
        // 4a: an impossible address says that a name follows.
        [0, 0, 0, last] if last != 0 => {
            let name = read_field(stream).await?;
            std::str::from_utf8(&name).ok().and_then(Host::parse)
        }
        address => Some(Host::Ip(Ipv4Addr::from(address).into())),
    };
    let command = match command {
        CONNECT => Ok(Command::Connect),
        BIND => Ok(Command::Listen),
        _ => Err(Refused::UnknownCommand),
    };
    let pair = (!user.is_empty()).then_some(Pair { user, password: Vec::new() });
    let isolation = access.admit(pair).ok_or(Refused::NotAuthenticated);
    let host = host.ok_or(Refused::BadDestination);
    let asked = isolation.and_then(|isolation| {
        let request = Request { host: host?, port: u16::from_be_bytes([port_high, port_low]), isolation };
        Ok(Asked { command: command?, request, speaks: Speaks::Socks4 })
    });
    if asked.is_err() {
        stream.write_all(&reply(REJECTED, &Host::NONE, 0)).await?;
    }
    asked
}

/// A reply. It can name an IPv4 address only.
pub(crate) fn reply(code: u8, host: &Host, port: u16) -> [u8; 8] {
    let address = match host {
        Host::Ip(IpAddr::V4(address)) => *address,
        _ => Ipv4Addr::UNSPECIFIED,
    };
    let ([high, low], [a, b, c, d]) = (port.to_be_bytes(), address.octets());
    [0, code, high, low, a, b, c, d]
}

async fn read_field(stream: &mut Stream) -> Result<Vec<u8>, Refused> {
    let mut field = Vec::new();
    loop {
        match stream.read_u8().await? {
            0 => return Ok(field),
            _ if field.len() == FIELD => return Err(Refused::Malformed),
            byte => field.push(byte),
        }
    }
}
