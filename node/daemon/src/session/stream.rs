//! Streams of a session: each is one TCP connection, the life of one UDP flow, or a ping (PROTOCOL §6, §8).
//!
//! The client opens with a request (version, protocol, port; and a place, if it leads out of the network), the service answers with one byte, then both sides
//! carry bytes. The end of one direction is TCP's half-close, a reset is TCP's reset. A stream that is dropped while
//! its peer still sends behaves like a TCP socket that was closed: the peer is reset when it sends more.

use std::{
    any::Any,
    fmt,
    future::{pending, poll_fn},
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use quinn::{ReadError, ReadExactError, RecvStream, SendStream, StoppedError, StreamId, VarInt, WriteError};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::Notify,
};

use phantom_protocol::wire::outward::Outside;
use phantom_proxy::Connection;

use super::{Protocol, error::Refusal, pace::Pace};
use crate::program::ProgramStream;

/// The version of the request.
const VERSION: u8 = 1;
/// Protocols by their numbers in IP.
const TCP: u8 = 6;
const UDP: u8 = 17;
/// No protocol of IP that anybody would ask for here: out of the network.
const OUTWARD: u8 = 4;
/// Version 1, protocol 1, port 2.
const REQUEST: usize = 4;
/// A writer of bulk lets others have their turn after so many bytes.
const TURN: usize = 64 << 10;
/// Pieces of a stream, each of one datagram, that are written at once.
const CHUNKS: usize = 32;
/// What the peer learns when a stream was reset.
pub(super) const RESET: VarInt = VarInt::from_u32(1);

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// A port of the service.
    Port(Protocol, u16),
    /// A port of somebody outside the network.
    Outside(Outside, u16),
}

impl Wish {
    fn encode(&self) -> Vec<u8> {
        let (protocol, port, host) = match self {
            Wish::Port(Protocol::Udp, port) => (UDP, port, None),
            Wish::Port(_, port) => (TCP, port, None),
            Wish::Outside(host, port) => (OUTWARD, port, Some(host.encode())),
        };
        let mut bytes = vec![VERSION, protocol];
        bytes.extend(port.to_be_bytes());
        if let Some(host) = host {
            bytes.extend(u8::try_from(host.len())); // it has at most 254
            bytes.extend(host);
        }
        bytes
    }
}

/// Counts the open streams of a session.
#[derive(Clone, Debug, Default)]
pub(super) struct Streams(Arc<AtomicUsize>);

impl Streams {
    /// How many are open.
    pub(super) fn open(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// One more, until what is returned is dropped.
    pub(super) fn enter(&self) -> OpenStream {
        self.0.fetch_add(1, Ordering::Relaxed);
        OpenStream(self.0.clone())
    }
}

/// One open stream.
#[derive(Debug)]
pub(super) struct OpenStream(Arc<AtomicUsize>);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection to a peer's port, or from a peer: bytes both ways.
///
/// `shutdown` is TCP's half-close. Dropping it closes it; [`SessionStream::reset`] resets it.
#[derive(Debug)]
pub struct SessionStream {
    send: SendStream,
    recv: RecvStream,
    written: usize,
    pace: Pace,
    open: Option<OpenStream>,
    /// What lasts as long as it.
    kept: Option<Arc<dyn Any + Send + Sync>>,
    stopped: Stopped,
    /// Before anything was read.
    is_reset: bool,
}

/// Waits until the peer takes no more, once somebody has asked for that.
#[derive(Default)]
struct Stopped(Option<Pin<Box<Stopping>>>);

type Stopping = dyn Future<Output = Result<Option<VarInt>, StoppedError>> + Send + Sync;

impl fmt::Debug for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stopped")
    }
}

impl SessionStream {
    pub(super) fn new(send: SendStream, recv: RecvStream, open: Option<OpenStream>) -> SessionStream {
        let (pace, stopped) = (Pace::default(), Stopped::default());
        SessionStream { send, recv, written: 0, pace, open, kept: None, stopped, is_reset: false }
    }

    /// Something lasts as long as this connection.
    pub fn keep(&mut self, what: Arc<dyn Any + Send + Sync>) {
        self.kept = Some(what);
    }

    /// Ends both directions at once; the peer's program sees a reset connection.
    pub fn reset(mut self) {
        self.abort();
    }

    /// Ready when the peer's program was sent what it does not take, for it is gone.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let SessionStream { send, stopped, .. } = self;
        let stopped = stopped.0.get_or_insert_with(|| {
            let stopped = send.stopped();
            Box::pin(async move {
                match stopped.await {
                    // It will take no more, but has taken all so far.
                    Ok(why) if why != Some(RESET) => pending().await,
                    gone => gone,
                }
            })
        });
        stopped.as_mut().poll(cx).map(drop)
    }

    /// Asks the service for something.
    pub(super) async fn request(&mut self, wish: &Wish) -> Result<(), Refusal> {
        self.send.write_all(&wish.encode()).await.map_err(|_| Refusal::SessionLost)?;
        let mut answer = [0];
        match self.recv.read_exact(&mut answer).await {
            Ok(()) => {
                let [code] = answer;
                Refusal::from_code(code).map_or(Ok(()), Err)
            }
            // It was accepted and reset at once: the reset has overtaken the answer.
            Err(ReadExactError::ReadError(ReadError::Reset(RESET))) => {
                self.is_reset = true;
                Ok(())
            }
            Err(_) => Err(Refusal::SessionLost),
        }
    }

    /// Reads what a client asks for.
    pub(super) async fn read_request(&mut self) -> Result<Wish, Refusal> {
        let mut request = [0; REQUEST];
        self.recv.read_exact(&mut request).await.map_err(|_| Refusal::SessionLost)?;
        let [version, protocol, port @ ..] = request;
        let port = u16::from_be_bytes(port);
        match (version, protocol) {
            (VERSION, TCP) => Ok(Wish::Port(Protocol::Tcp, port)),
            (VERSION, UDP) => Ok(Wish::Port(Protocol::Udp, port)),
            (VERSION, OUTWARD) => Ok(Wish::Outside(self.read_outside().await?, port)),
            _ => Err(Refusal::ProtocolUnknown),
        }
    }

    /// What leads nowhere outside is as little allowed as what the rules leave out (PROTOCOL §6.10).
    async fn read_outside(&mut self) -> Result<Outside, Refusal> {
        let mut length = [0];
        self.recv.read_exact(&mut length).await.map_err(|_| Refusal::SessionLost)?;
        let [length] = length;
        let mut host = vec![0; usize::from(length)];
        self.recv.read_exact(&mut host).await.map_err(|_| Refusal::SessionLost)?;
        Outside::decode(&host).map_err(|_| Refusal::NotAllowed)
    }

    /// Answers a request.
    pub(super) async fn answer(&mut self, refusal: Option<Refusal>) -> Result<(), Refusal> {
        let code = refusal.map_or(0, Refusal::code);
        self.send.write_all(&[code]).await.map_err(|_| Refusal::SessionLost)
    }

    /// Its number in the session.
    pub(super) fn id(&self) -> StreamId {
        self.send.id()
    }

    /// Its two directions, and its place among the open ones.
    pub(super) fn into_parts(self) -> ((SendStream, RecvStream), Option<OpenStream>) {
        ((self.send, self.recv), self.open)
    }

    fn abort(&mut self) {
        let _already_ended = self.send.reset(RESET);
        let _already_ended = self.recv.stop(RESET);
    }
}

impl AsyncRead for SessionStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_reset {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        ready!(self.pace.poll_read(cx));
        let before = buf.remaining();
        ready!(Pin::new(&mut self.recv).poll_read(cx, buf))?;
        self.pace.has_read(before - buf.remaining(), buf.remaining() > 0);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for SessionStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.written >= TURN {
            self.written = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let written = ready!(AsyncWrite::poll_write(Pin::new(&mut self.send), cx, buf))?;
        self.written += written;
        self.pace.has_spoken();
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(Pin::new(&mut self.send), cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_shutdown(Pin::new(&mut self.send), cx)
    }
}

/// Why a spliced connection ended before its time.
#[derive(Debug)]
enum Broken {
    /// The peer's program has reset it, or the session is lost.
    Peer,
    /// The local program has.
    Local,
}

/// Carries bytes between a local connection and a stream until both directions have ended. Half-close stays
/// half-close and a reset stays a reset, in both directions. Returns the bytes sent and received, if nothing broke, when the
/// peer has them.
pub async fn splice(tcp: TcpStream, stream: SessionStream) -> io::Result<(u64, u64)> {
    splice_until(tcp.into(), stream, pending()).await
}

/// Like [`splice`], but both ends are reset when `given_up` is over: a local program that neither reads nor closes would
/// keep its connection for ever.
pub(super) async fn splice_until(
    tcp: ProgramStream,
    mut stream: SessionStream,
    given_up: impl Future<Output = ()>,
) -> io::Result<(u64, u64)> {
    let ended = {
        let spoken = AtomicBool::new(false);
        let has_all = Notify::new();
        let both = async {
            tokio::try_join!(
                async {
                    let sent = upward(&tcp, &mut stream.send, &spoken).await?;
                    // It reads no more of what the peer writes, if it has closed: then its kernel answers with a reset.
                    tokio::select! {
                        biased;
                        () = has_all.notified() => Ok(sent),
                        () = tcp.failed() => Err(Broken::Local),
                    }
                },
                async {
                    let received = downward(&mut stream.recv, &tcp, &mut stream.pace, &spoken).await;
                    has_all.notify_one();
                    received
                }
            )
        };
        tokio::select! {
            ended = both => ended,
            () = given_up => Err(Broken::Peer),
        }
    };
    ended.map_err(|broken| {
        tcp.reset();
        stream.abort();
        match broken {
            Broken::Peer => io::Error::new(io::ErrorKind::ConnectionReset, "reset by the peer"),
            Broken::Local => io::Error::new(io::ErrorKind::ConnectionReset, "reset by the local program"),
        }
    })
}

/// Sets `spoken` whenever the local program has said something.
async fn upward(tcp: &ProgramStream, send: &mut SendStream, spoken: &AtomicBool) -> Result<u64, Broken> {
    let stopped = send.stopped();
    tokio::pin!(stopped);
    let (mut total, mut turn, mut unwanted) = (0, 0, false);
    loop {
        let read = tokio::select! {
            read = poll_fn(|cx| tcp.poll_take(cx)) => read.map_err(|_| Broken::Local)?,
            why = &mut stopped, if !unwanted => match why {
                Ok(Some(RESET)) | Err(_) => return Err(Broken::Peer),
                _ => { unwanted = true; continue } // closed: an error only if there is more to send
            },
        };
        let length = read.len();
        if length == 0 {
            let _peer_has_stopped = send.finish();
            if !unwanted {
                let _gone_or_it_has_all = stopped.await;
            }
            return Ok(total);
        }
        spoken.store(true, Ordering::Relaxed);
        send.write_chunk(read).await.map_err(|_: WriteError| Broken::Peer)?;
        (total, turn) = (total + length as u64, turn + length);
        if turn >= TURN {
            turn = 0;
            tokio::task::yield_now().await;
        }
    }
}

async fn downward(
    recv: &mut RecvStream,
    tcp: &ProgramStream,
    pace: &mut Pace,
    spoken: &AtomicBool,
) -> Result<u64, Broken> {
    let mut total = 0;
    let mut chunks = [const { Bytes::new() }; CHUNKS];
    while let Some(count) = recv.read_chunks(&mut chunks).await.map_err(|_: ReadError| Broken::Peer)? {
        let (come, _) = chunks.split_at_mut(count);
        let bytes = come.iter().map(Bytes::len).sum();
        write_all(tcp, come).await.map_err(|_| Broken::Local)?;
        come.fill(Bytes::new()); // what was written need not be kept while we wait
        total += bytes as u64;
        if spoken.swap(false, Ordering::Relaxed) {
            pace.has_spoken();
        }
        pace.has_read(bytes, count < CHUNKS);
        poll_fn(|cx| pace.poll_read(cx)).await;
    }
    // The peer's half-close. An error means that the local program has gone, which `upward` sees too.
    let _ = tcp.end();
    Ok(total)
}

/// Writes what has come by as few system calls as it takes.
async fn write_all(tcp: &ProgramStream, chunks: &[Bytes]) -> io::Result<()> {
    let mut slices = [IoSlice::new(&[]); CHUNKS];
    for (slice, chunk) in slices.iter_mut().zip(chunks) {
        *slice = IoSlice::new(chunk);
    }
    let (mut rest, _) = slices.split_at_mut(chunks.len().min(CHUNKS));
    while !rest.is_empty() {
        let written = poll_fn(|cx| tcp.poll_send(cx, rest)).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        IoSlice::advance_slices(&mut rest, written);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_written_as_the_specification_says() {
        let outside = Outside::name("a.example.com").unwrap();
        for (wish, bytes) in [
            (Wish::Port(Protocol::Tcp, 80), &b"\x01\x06\x00\x50"[..]),
            (Wish::Port(Protocol::Udp, 53), b"\x01\x11\x00\x35"),
            (Wish::Outside(outside, 443), b"\x01\x04\x01\xbb\x0e\x03a.example.com"),
        ] {
            assert_eq!(wish.encode(), bytes, "{wish:?}");
        }
    }
}
