//! A proxy on a free port in front of a dialler that the test describes, and a client that speaks bytes.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use phantom_proxy::{Connection, Dial, DialError, Host, Limits, Proxy, Request};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
};

/// Names mean results: the code of an error, `slow`, or the far side of the test.
pub struct TestDial {
    far: SocketAddr,
    requests: mpsc::UnboundedSender<Request>,
    dropped: mpsc::UnboundedSender<()>,
}

struct TellsWhenDropped(mpsc::UnboundedSender<()>);

impl Drop for TellsWhenDropped {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

impl Dial for TestDial {
    type Connection = TcpStream;

    async fn dial(&self, request: Request) -> Result<TcpStream, DialError> {
        let _ = self.requests.send(request.clone());
        let Host::Name(name) = &request.host else { return Ok(TcpStream::connect(self.far).await?) };
        Err(match name.as_str() {
            "failed" => DialError::Failed,
            "not-allowed" => DialError::NotAllowed,
            "no-network" => DialError::NetworkUnreachable,
            "no-host" => DialError::HostUnreachable,
            "refused" => DialError::Refused,
            "timed-out" => DialError::TimedOut,
            "not-supported" => DialError::AddressNotSupported,
            "slow" => {
                let _guard = TellsWhenDropped(self.dropped.clone());
                tokio::time::sleep(Duration::from_secs(60)).await;
                DialError::Failed
            }
            _ => return Ok(TcpStream::connect(self.far).await?),
        })
    }
}

pub struct World {
    pub proxy: SocketAddr,
    pub far: TcpListener,
    pub requests: mpsc::UnboundedReceiver<Request>,
    pub dropped: mpsc::UnboundedReceiver<()>,
    pub serving: JoinHandle<()>,
}

impl World {
    pub async fn new(limits: Limits) -> World {
        let far = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = listener.local_addr().unwrap();
        let (request_sender, requests) = mpsc::unbounded_channel();
        let (drop_sender, dropped) = mpsc::unbounded_channel();
        let dial =
            TestDial { far: far.local_addr().unwrap(), requests: request_sender, dropped: drop_sender };
        let serving = tokio::spawn(async move {
            let Err(error) = Proxy::new(limits).serve(listener, Arc::new(dial)).await;
            panic!("{error}");
        });
        World { proxy, far, requests, dropped, serving }
    }

    pub async fn client(&self) -> TcpStream {
        TcpStream::connect(self.proxy).await.unwrap()
    }

    /// A client whose connection stands, and the far side of it.
    pub async fn connected(&mut self) -> (TcpStream, TcpStream) {
        let mut client = self.client().await;
        client.write_all(&[5, 1, 0]).await.unwrap();
        client.write_all(&connect_to("far.example", 80)).await.unwrap();
        let (far, _) = self.far.accept().await.unwrap();
        expect(&mut client, &[5, 0]).await;
        expect(&mut client, &reply(0)).await;
        (client, far)
    }
}

pub fn connect_to(name: &str, port: u16) -> Vec<u8> {
    let mut bytes = vec![5, 1, 0, 3, name.len() as u8];
    bytes.extend_from_slice(name.as_bytes());
    bytes.extend_from_slice(&port.to_be_bytes());
    bytes
}

pub fn reply(code: u8) -> [u8; 10] {
    [5, code, 0, 1, 0, 0, 0, 0, 0, 0]
}

pub async fn expect(client: &mut TcpStream, bytes: &[u8]) {
    let mut read = vec![0; bytes.len()];
    client.read_exact(&mut read).await.unwrap();
    assert_eq!(read, bytes);
}

/// Everything up to the end, which must be an orderly one.
pub async fn rest(client: &mut TcpStream) -> Vec<u8> {
    let mut read = Vec::new();
    client.read_to_end(&mut read).await.unwrap();
    read
}

pub fn reset(stream: TcpStream) {
    Connection::reset(stream);
}
