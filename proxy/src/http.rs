//! HTTP: CONNECT, the proxy configuration of browsers, and a page for whoever takes this port for something else.
//!
//! Any website can make a browser ask a local port. So what is answered to a browser directly cannot be embedded or run by
//! other sites, and is answered only to who came by an address or as `localhost`: a site whose name was pointed here learns
//! nothing.

use std::net::SocketAddr;

use data_encoding::BASE64;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};

use crate::{
    Access, Config, DialError, Host, Isolation, Request,
    config::Pair,
    handshake::{Asked, Command, Refused, Speaks, Stream},
};

pub(crate) const CONNECTED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// The longest head of a request.
const HEAD: usize = 16 * 1024;

/// Reads the head of a request. Everything but CONNECT is answered here.
pub(crate) async fn read_request(stream: &mut Stream, config: &Config) -> Result<Asked, Refused> {
    let head = read_head(stream).await?;
    let Some(head) = head.as_deref().and_then(Head::parse) else {
        let sentence = "This is no HTTP request that this port understands.";
        return answer(stream, &text(400, "Bad Request", "", sentence), Refused::Malformed).await;
    };
    if head.method != "CONNECT" {
        let page = page(&head, config, stream.get_ref().local_addr()?);
        return answer(stream, &page, Refused::Page).await;
    }
    let Some((host, port)) = place(head.target) else {
        let sentence = "The destination of a CONNECT is a host and a port: name:443.";
        return answer(stream, &text(400, "Bad Request", "", sentence), Refused::BadDestination).await;
    };
    let Some(isolation) = head.isolation(&config.access) else {
        let header = "Proxy-Authenticate: Basic realm=\"proxy\"\r\n";
        let sentence = "This port needs other credentials: a user and a password, as Basic.";
        let page = text(407, "Proxy Authentication Required", header, sentence);
        return answer(stream, &page, Refused::NotAuthenticated).await;
    };
    Ok(Asked { command: Command::Connect, request: Request { host, port, isolation }, speaks: Speaks::Http })
}

async fn answer(stream: &mut Stream, page: &[u8], why: Refused) -> Result<Asked, Refused> {
    stream.write_all(page).await?;
    Err(why)
}

/// Everything up to the empty line; nothing if it is too long.
async fn read_head(stream: &mut Stream) -> Result<Option<Vec<u8>>, Refused> {
    let mut head = Vec::new();
    loop {
        let start = head.len();
        let room = HEAD.saturating_sub(start) as u64;
        (&mut *stream).take(room).read_until(b'\n', &mut head).await?;
        match head.get(start..).unwrap_or_default() {
            b"\r\n" | b"\n" => return Ok(Some(head)),
            line if line.ends_with(b"\n") => {}
            _ if head.len() >= HEAD => return Ok(None),
            _ => return Err(Refused::BrokenOff),
        }
    }
}

struct Head<'a> {
    method: &'a str,
    target: &'a str,
    headers: Vec<(&'a str, &'a str)>,
}

impl<'a> Head<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Head<'a>> {
        let mut lines = std::str::from_utf8(bytes).ok()?.lines();
        let mut words = lines.next()?.split(' ');
        let (method, target, version) = (words.next()?, words.next()?, words.next()?);
        let is_http = version.starts_with("HTTP/1.") && words.next().is_none();
        let headers = lines.filter_map(|line| line.split_once(':'));
        let headers = headers.map(|(name, value)| (name, value.trim())).collect();
        is_http.then_some(Head { method, target, headers })
    }

    fn header(&self, wanted: &str) -> Option<&'a str> {
        let found = self.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
        found.map(|(_, value)| *value)
    }

    /// The group of the client; nothing if it may not come in. Credentials that are no pair are not taken for none: who
    /// sends some wants to be kept apart.
    fn isolation(&self, access: &Access) -> Option<Isolation> {
        match self.header("proxy-authorization") {
            None => access.admit(None),
            Some(value) => access.admit(Some(basic_pair(value)?)),
        }
    }

    /// Whether a browser came here by a name that somebody else may have chosen.
    fn is_misled(&self) -> bool {
        let Some(host) = self.header("host") else { return false };
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        };
        !(name.eq_ignore_ascii_case("localhost") || matches!(Host::parse(name), Some(Host::Ip(_))))
    }
}

fn basic_pair(credentials: &str) -> Option<Pair> {
    let (_, encoded) =
        credentials.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"))?;
    let decoded = BASE64.decode(encoded.trim().as_bytes()).ok()?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    let (user, password) = decoded.split_at_checked(colon)?;
    Some(Pair { user: user.to_vec(), password: password.get(1..)?.to_vec() })
}

/// The destination of a CONNECT.
fn place(target: &str) -> Option<(Host, u16)> {
    let (host, port) = target.rsplit_once(':')?;
    if port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // Without brackets nobody can tell an IPv6 address from its port.
    let host = Host::parse(host).filter(|_| host.starts_with('[') || !host.contains(':'))?;
    Some((host, port.parse().ok()?))
}

/// What is answered to anything but CONNECT.
fn page(head: &Head<'_>, config: &Config, here: SocketAddr) -> Vec<u8> {
    let is_direct = head.target.starts_with('/');
    let mut page = match (head.target, &config.pac) {
        _ if is_direct && head.is_misled() => {
            text(421, "Misdirected Request", "", "Come by the address of this port.")
        }
        ("/proxy.pac", Some(pac)) => {
            respond(200, "OK", "application/x-ns-proxy-autoconfig", "", &pac.script(here))
        }
        ("/", _) => respond(200, "OK", PLAIN, "", &help(config, here)),
        _ if is_direct => respond(404, "Not Found", PLAIN, "", &help(config, here)),
        // A browser or curl that took this port for an HTTP proxy.
        _ => respond(501, "Not Implemented", PLAIN, "", &help(config, here)),
    };
    if head.method == "HEAD" {
        let end = page.windows(4).position(|bytes| bytes == b"\r\n\r\n");
        page.truncate(end.map_or(0, |end| end + 4));
    }
    page
}

fn help(config: &Config, here: SocketAddr) -> String {
    let mut help = format!(
        "This port is a proxy: SOCKS5, SOCKS4a, and HTTP for CONNECT only, so not for plain http:// pages.\n\n\
         curl:     curl --socks5-hostname {here} URL      (not --socks5, which resolves the name outside)\n\
         Firefox:  Settings, Network Settings, Manual: SOCKS Host {ip}, Port {port}, SOCKS v5,\n\
         \x20         \"Proxy DNS when using SOCKS v5\"; leave HTTP Proxy empty\n\
         Chromium: chromium --proxy-server=socks5://{here} --webrtc-ip-handling-policy=disable_non_proxied_udp\n\
         others:   ALL_PROXY=socks5h://{here}\n\n\
         Calls in web pages (WebRTC) speak UDP past every proxy unless the browser is told not to: in Chromium by the\n\
         option above, in Firefox by media.peerconnection.ice.proxy_only in about:config.\n",
        ip = here.ip(),
        port = here.port(),
    );
    if config.pac.is_some() {
        help.push_str(&format!("\nAutomatic proxy configuration (PAC): http://{here}/proxy.pac\n"));
    }
    help.push_str("\nDifferent user names keep their connections apart.\n");
    help
}

/// What a CONNECT that led nowhere is answered with.
pub(crate) fn refusal(error: DialError) -> Vec<u8> {
    let (status, reason) = match error.plain() {
        DialError::NotAllowed => (403, "Forbidden"),
        DialError::HostUnreachable => (404, "Not Found"),
        DialError::CommandNotSupported => (501, "Not Implemented"),
        DialError::TimedOut => (504, "Gateway Timeout"),
        DialError::Failed
        | DialError::NetworkUnreachable
        | DialError::Refused
        | DialError::AddressNotSupported
        | DialError::Service(_) => (502, "Bad Gateway"),
    };
    text(status, reason, "", &format!("Not connected: {error}."))
}

const PLAIN: &str = "text/plain; charset=utf-8";

fn text(status: u16, reason: &str, header: &str, sentence: &str) -> Vec<u8> {
    respond(status, reason, PLAIN, header, &format!("{sentence}\n"))
}

fn respond(status: u16, reason: &str, kind: &str, header: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\
         Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nCross-Origin-Resource-Policy: same-origin\r\n\
         {header}\r\n"
    );
    [head.as_bytes(), body.as_bytes()].concat()
}
