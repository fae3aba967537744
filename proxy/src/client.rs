//! One client from its handshake to its end.

use std::{
    convert::Infallible,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use fast_socks5::ReplyError;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Semaphore, oneshot},
    time::timeout,
};
use tracing::debug;

use crate::{
    Connection, Dial, DialError, Limits, Request,
    copy::copy_both_ways,
    handshake::{Waiting, read_request},
    shared::gone,
};

/// A refused client is heard out this long, so that the answer is not overtaken by a reset.
const LINGER: Duration = Duration::from_secs(1);
/// And for this many bytes.
const LINGER_BYTES: u64 = 64 * 1024;

/// What a client is told as its own address at the far side: nothing.
const NO_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// Serves one client. `evicted` closes when a newer client needs the place of this unfinished handshake.
pub(crate) async fn serve_client<D: Dial>(
    stream: TcpStream,
    dialler: &D,
    limits: &Limits,
    places: &Semaphore,
    evicted: oneshot::Receiver<Infallible>,
) {
    // Small answers of a request-response protocol must not wait for more to come.
    let _ = stream.set_nodelay(true);
    let handshake = tokio::select! {
        result = timeout(limits.handshake, read_request(&stream)) => result,
        _ = evicted => return debug!("a client was dropped: too many unfinished handshakes"),
    };
    let (waiting, request) = match handshake {
        Ok(Ok(read)) => read,
        Ok(Err(why)) => {
            debug!("a client was refused: {why}");
            return linger(stream).await;
        }
        Err(_) => return debug!("a client did not finish its handshake in time"),
    };
    let Ok(_place) = places.try_acquire() else {
        debug!("a client was refused: too many clients");
        let _ = waiting.reply_error(&ReplyError::GeneralFailure).await;
        return linger(stream).await;
    };
    let connected = tokio::select! {
        outcome = connect(waiting, request, dialler, limits.dial) => outcome,
        () = gone(&stream) => Outcome::Gone,
    };
    match connected {
        Outcome::Connected(far) => copy_both_ways(stream, far).await,
        Outcome::Refused => linger(stream).await,
        Outcome::Gone => {}
    }
}

enum Outcome<C> {
    Connected(C),
    Refused,
    Gone,
}

async fn connect<D: Dial>(
    waiting: Waiting<'_>,
    request: Request,
    dialler: &D,
    patience: Duration,
) -> Outcome<D::Connection> {
    let dialled = timeout(patience, dialler.dial(request)).await;
    match dialled.unwrap_or(Err(DialError::TimedOut)) {
        Ok(far) => match waiting.reply_success(NO_ADDRESS).await {
            Ok(_) => Outcome::Connected(far),
            Err(_) => {
                far.reset();
                Outcome::Gone
            }
        },
        Err(error) => {
            debug!("a client has no connection: {error}");
            let _ = waiting.reply_error(&reply_to(error)).await;
            Outcome::Refused
        }
    }
}

fn reply_to(error: DialError) -> ReplyError {
    match error {
        DialError::Failed => ReplyError::GeneralFailure,
        DialError::NotAllowed => ReplyError::ConnectionNotAllowed,
        DialError::NetworkUnreachable => ReplyError::NetworkUnreachable,
        DialError::HostUnreachable => ReplyError::HostUnreachable,
        DialError::Refused => ReplyError::ConnectionRefused,
        DialError::TimedOut => ReplyError::TtlExpired,
        DialError::AddressNotSupported => ReplyError::AddressTypeNotSupported,
    }
}

/// Closing a socket with unread bytes resets it, and the client may lose the answer: read on for a moment.
async fn linger(mut stream: TcpStream) {
    if stream.shutdown().await.is_ok() {
        let mut rest = stream.take(LINGER_BYTES);
        let _ = timeout(LINGER, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
    }
}
