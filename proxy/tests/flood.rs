//! Ten thousand clients that begin and never go on, and five thousand that are connected and say nothing, in a process of
//! their own, whose memory is measured.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, mpsc},
    task::{Context, Poll, Waker},
    thread,
    time::Duration,
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use phantom_proxy::{Config, Connection, Dial, DialError, Limits, Proxy, Request};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

struct ToFar(SocketAddr);

impl Dial for ToFar {
    type Connection = tokio::net::TcpStream;

    async fn dial(&self, _: Request) -> Result<Self::Connection, DialError> {
        Ok(tokio::net::TcpStream::connect(self.0).await?)
    }
}

/// What is measured is the whole process, so one test at a time.
static TURN: Mutex<()> = Mutex::new(());

/// Bytes of this process in memory.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

fn proxy(limits: Limits, dialler: impl Dial) -> SocketAddr {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            tell.send(listener.local_addr().unwrap()).unwrap();
            let proxy = Proxy::new(Config { limits, ..Config::default() });
            proxy.serve(listener, Arc::new(dialler)).await.unwrap();
        });
    });
    told.recv().unwrap()
}

fn half_open(proxy: SocketAddr, number: usize) -> TcpStream {
    let begun = [
        &b"\x05"[..],
        b"\x05\x01\x00\x05\x01\x00\x03\xff",
        b"\x04\x01\x00\x50",
        b"CONNECT a:80 HTTP/1.1\r\n",
    ];
    let mut client = TcpStream::connect(proxy).unwrap();
    client.write_all(begun[number % begun.len()]).unwrap();
    client
}

/// An honest client says something to the far side.
fn honest(proxy: SocketAddr, far: &TcpListener) {
    let mut client = TcpStream::connect(proxy).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    client.write_all(b"\x05\x01\x00\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x50hello").unwrap();
    let mut answer = [0; 12];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(answer[..4], [5, 0, 5, 0]);
    let (mut at_far, _) = far.accept().unwrap();
    let mut heard = [0; 5];
    at_far.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"hello");
}

#[test]
#[ignore = "long, and needs 20,000 file descriptors"]
fn ten_thousand_half_open_clients_take_little_memory_and_keep_nobody_out() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    let far = TcpListener::bind("127.0.0.1:0").unwrap();
    // Once with the limits as they are, where nearly all are dropped; once where nearly all are kept.
    let patient = Limits { handshakes: 9_000, handshake: Duration::from_secs(600), ..Limits::default() };
    for (limits, clients) in [(Limits::default(), 10_000), (patient, 9_500)] {
        let proxy = proxy(limits, ToFar(far.local_addr().unwrap()));
        honest(proxy, &far);
        let before = resident();
        let mut held = Vec::new();
        for number in 0..clients {
            held.push(half_open(proxy, number));
            // Also waits for the proxy: the system's queue in front of it may be short.
            if number % 100 == 99 {
                honest(proxy, &far);
            }
        }
        let grown = resident().saturating_sub(before);
        println!("{clients} half-open clients: {} KiB more", grown / 1024);
        assert!(grown < 64 << 20, "{grown} bytes more");
        drop(held);
    }
}

#[test]
fn five_thousand_idle_streams_take_little_memory_and_each_still_carries() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    let proxy = proxy(Limits::default(), ToEcho);
    drop(connected(proxy, 0));
    let before = resident();
    let mut held: Vec<_> = (0..5_000).map(|number| connected(proxy, number)).collect();
    let grown = resident().saturating_sub(before);
    println!("5000 idle streams: {} KiB more", grown / 1024);
    assert!(grown < 32 << 20, "{grown} bytes more");
    for (number, client) in held.iter_mut().enumerate() {
        let said = number.to_be_bytes();
        client.write_all(&said).unwrap();
        let mut heard = [0; 8];
        client.read_exact(&mut heard).unwrap();
        assert_eq!(heard, said);
    }
}

/// A client that is through. Two groups share the clients, for one may not take all places.
fn connected(proxy: SocketAddr, number: usize) -> TcpStream {
    let mut client = TcpStream::connect(proxy).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let group = b'a' + (number % 2) as u8;
    let said = [&[5, 1, 2, 1, 1, group, 1, b'x'][..], b"\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x50"].concat();
    client.write_all(&said).unwrap();
    let mut answer = [0; 14];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(answer[..6], [5, 2, 1, 0, 5, 0]);
    client
}

/// Far sides in memory: only the clients have sockets.
struct ToEcho;

impl Dial for ToEcho {
    type Connection = Echo;

    async fn dial(&self, _: Request) -> Result<Echo, DialError> {
        Ok(Echo::default())
    }
}

/// Returns what it gets.
#[derive(Default)]
struct Echo {
    held: Vec<u8>,
    ended: bool,
    reader: Option<Waker>,
}

impl Connection for Echo {
    fn reset(self) {}
}

impl AsyncRead for Echo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.held.is_empty() && !self.ended {
            self.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let count = room.remaining().min(self.held.len());
        room.put_slice(&self.held[..count]);
        self.held.drain(..count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Echo {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.held.extend_from_slice(data);
        self.reader.take().into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ended = true;
        self.reader.take().into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(()))
    }
}
