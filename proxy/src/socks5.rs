//! SOCKS5 (RFC 1928, RFC 1929), with Tor's RESOLVE and RESOLVE_PTR.
//!
//! `fast-socks5` negotiates the method and reads addresses. The rest is written here because that crate refuses an empty
//! password and bytes that are no UTF-8, logs credentials and names, and knows neither Tor's commands nor Tor's codes.

use std::net::IpAddr;

use fast_socks5::{
    consts,
    server::{AuthMethod, Socks5ServerProtocol, SocksServerError},
    util::target_addr::{AddrError, TargetAddr, read_address},
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use crate::{
    Access, Config, DialError, Host, Isolation, Request, ServiceError,
    config::Pair,
    handshake::{Asked, Command, Refused, Speaks, Stream},
};

pub(crate) const VERSION: u8 = consts::SOCKS5_VERSION;
pub(crate) const SUCCEEDED: u8 = consts::SOCKS5_REPLY_SUCCEEDED;

const RESOLVE: u8 = 0xf0;
const RESOLVE_PTR: u8 = 0xf1;

/// Reads everything up to the request.
pub(crate) async fn read_request(stream: &mut Stream, config: &Config) -> Result<Asked, Refused> {
    let isolation = authenticate(stream, &config.access).await?;
    let mut head = [0; 4];
    stream.read_exact(&mut head).await?;
    let [version, command, _reserved, kind] = head;
    if version != VERSION {
        return Err(Refused::Malformed);
    }
    let (host, port) = match read_place(stream, kind).await {
        Ok(place) => place,
        Err(why) => {
            let error = match why {
                BadPlace::UnknownKind => DialError::AddressNotSupported,
                BadPlace::BadName => DialError::Failed,
                BadPlace::BrokenOff => return Err(Refused::BrokenOff),
            };
            return refuse(stream, error, Refused::BadDestination).await;
        }
    };
    let command = match command {
        consts::SOCKS5_CMD_TCP_CONNECT => Command::Connect,
        consts::SOCKS5_CMD_TCP_BIND => Command::Listen,
        consts::SOCKS5_CMD_UDP_ASSOCIATE => Command::Associate,
        RESOLVE => Command::Resolve,
        RESOLVE_PTR => Command::Reverse,
        _ => return refuse(stream, DialError::CommandNotSupported, Refused::UnknownCommand).await,
    };
    let speaks = Speaks::Socks5 { extended_errors: config.extended_errors };
    Ok(Asked { command, request: Request { host, port, isolation }, speaks })
}

async fn refuse(stream: &mut Stream, error: DialError, why: Refused) -> Result<Asked, Refused> {
    stream.write_all(&reply(code(error, false), &Host::NONE, 0)).await?;
    Err(why)
}

/// The code of an error.
pub(crate) fn code(error: DialError, extended: bool) -> u8 {
    if let (DialError::Service(error), true) = (error, extended) {
        return match error {
            ServiceError::NotFound => 0xf0,
            ServiceError::Invalid => 0xf1,
            ServiceError::IntroductionFailed => 0xf2,
            ServiceError::RendezvousFailed => 0xf3,
            ServiceError::AuthorizationMissing => 0xf4,
            ServiceError::AuthorizationWrong => 0xf5,
            ServiceError::BadName => 0xf6,
            ServiceError::IntroductionTimedOut => 0xf7,
        };
    }
    match error.plain() {
        DialError::NotAllowed => consts::SOCKS5_REPLY_CONNECTION_NOT_ALLOWED,
        DialError::NetworkUnreachable => consts::SOCKS5_REPLY_NETWORK_UNREACHABLE,
        DialError::HostUnreachable => consts::SOCKS5_REPLY_HOST_UNREACHABLE,
        DialError::Refused => consts::SOCKS5_REPLY_CONNECTION_REFUSED,
        DialError::TimedOut => consts::SOCKS5_REPLY_TTL_EXPIRED,
        DialError::CommandNotSupported => consts::SOCKS5_REPLY_COMMAND_NOT_SUPPORTED,
        DialError::AddressNotSupported => consts::SOCKS5_REPLY_ADDRESS_TYPE_NOT_SUPPORTED,
        DialError::Failed | DialError::Service(_) => consts::SOCKS5_REPLY_GENERAL_FAILURE,
    }
}

/// A reply with a place: the bound address of some commands, the answer of others.
pub(crate) fn reply(code: u8, host: &Host, port: u16) -> Vec<u8> {
    let mut bytes = vec![VERSION, code, 0];
    write_place(&mut bytes, host, port);
    bytes
}

/// A host and a port, in requests, in replies and in front of datagrams.
pub(crate) fn write_place(to: &mut Vec<u8>, host: &Host, port: u16) {
    match host {
        Host::Ip(IpAddr::V4(address)) => {
            to.push(consts::SOCKS5_ADDR_TYPE_IPV4);
            to.extend_from_slice(&address.octets());
        }
        Host::Ip(IpAddr::V6(address)) => {
            to.push(consts::SOCKS5_ADDR_TYPE_IPV6);
            to.extend_from_slice(&address.octets());
        }
        Host::Name(name) => {
            // A dialler, too, may only name what fits.
            let bytes = name.as_bytes();
            let length = u8::try_from(bytes.len()).unwrap_or(u8::MAX);
            to.extend_from_slice(&[consts::SOCKS5_ADDR_TYPE_DOMAIN_NAME, length]);
            to.extend(bytes.iter().take(usize::from(length)));
        }
    }
    to.extend_from_slice(&port.to_be_bytes());
}

/// Why there is no place where one should stand.
pub(crate) enum BadPlace {
    UnknownKind,
    BadName,
    BrokenOff,
}

/// Reads what [`write_place`] writes, behind the kind of the address.
pub(crate) async fn read_place(
    from: &mut (impl AsyncRead + Unpin),
    kind: u8,
) -> Result<(Host, u16), BadPlace> {
    match read_address(from, kind).await {
        Ok(TargetAddr::Ip(address)) => Ok((Host::Ip(address.ip()), address.port())),
        Ok(TargetAddr::Domain(name, port)) => Ok((Host::parse(&name).ok_or(BadPlace::BadName)?, port)),
        Err(AddrError::IncorrectAddressType) => Err(BadPlace::UnknownKind),
        Err(AddrError::Utf8(_)) => Err(BadPlace::BadName),
        Err(_) => Err(BadPlace::BrokenOff),
    }
}

#[derive(Clone, Copy)]
enum Method {
    Password,
    None,
}

impl<T> AuthMethod<T> for Method {
    /// The method itself: what is left to do happens on the stream, which is only lent.
    type StartingState = Method;

    fn method_id(self) -> u8 {
        match self {
            Method::Password => consts::SOCKS5_AUTH_METHOD_PASSWORD,
            Method::None => consts::SOCKS5_AUTH_METHOD_NONE,
        }
    }

    fn new(self, _: T) -> Method {
        self
    }
}

async fn authenticate(stream: &mut Stream, access: &Access) -> Result<Isolation, Refused> {
    // A client that offers both means its credentials.
    let methods: &[Method] = match access {
        Access::Local => &[Method::Password, Method::None],
        Access::Remote(_) => &[Method::Password],
    };
    let pair = match Socks5ServerProtocol::start(&mut *stream).negotiate_auth(methods).await {
        Ok(Method::None) => None,
        Ok(Method::Password) => Some(read_pair(stream).await?),
        // The foreign error is dropped here: its text may quote what the client sent.
        Err(SocksServerError::AuthMethodUnacceptable(_)) => return Err(Refused::NotAuthenticated),
        Err(_) => return Err(Refused::BrokenOff),
    };
    let asked = pair.is_some();
    let isolation = access.admit(pair);
    if asked {
        let verdict = u8::from(isolation.is_none());
        stream.write_all(&[PASSWORD_VERSION, verdict]).await?;
    }
    isolation.ok_or(Refused::NotAuthenticated)
}

const PASSWORD_VERSION: u8 = 1;

async fn read_pair(stream: &mut Stream) -> Result<Pair, Refused> {
    if stream.read_u8().await? != PASSWORD_VERSION {
        return Err(Refused::Malformed);
    }
    let user = read_field(stream).await?;
    let password = read_field(stream).await?;
    Ok(Pair { user, password })
}

async fn read_field(stream: &mut Stream) -> Result<Vec<u8>, Refused> {
    let length = stream.read_u8().await?;
    let mut field = vec![0; usize::from(length)];
    stream.read_exact(&mut field).await?;
    Ok(field)
}
