//! A proxy on a free port in front of a dialler that the test describes, and a client that speaks bytes.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use phantom_proxy::{
    Accepted, Config, Connection, Datagrams, Dial, DialError, Host, Isolation, Limits, Listening, Proxy,
    Request, ServiceError,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};

/// A program is not installed: what needs it is not tested. Where everything must be tested that is a failure.
pub fn is_missing(program: &str) {
    assert!(std::env::var_os("CI").is_none(), "{program} is not installed (tests/harness/install)");
    eprintln!("{program} is not installed: not tested");
}

/// Names mean results: the name of an error, `slow`, or the far side of the test.
pub struct TestDial {
    far: SocketAddr,
    requests: mpsc::UnboundedSender<Request>,
    dropped: mpsc::UnboundedSender<()>,
    associations: mpsc::UnboundedSender<(Isolation, Datagrams)>,
}

struct TellsWhenDropped(mpsc::UnboundedSender<()>);

impl Drop for TellsWhenDropped {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

/// The names that fail, and how.
pub const ERRORS: [(&str, DialError); 16] = [
    ("failed", DialError::Failed),
    ("not-allowed", DialError::NotAllowed),
    ("no-network", DialError::NetworkUnreachable),
    ("no-host", DialError::HostUnreachable),
    ("refused", DialError::Refused),
    ("timed-out", DialError::TimedOut),
    ("no-command", DialError::CommandNotSupported),
    ("not-supported", DialError::AddressNotSupported),
    ("f0", DialError::Service(ServiceError::NotFound)),
    ("f1", DialError::Service(ServiceError::Invalid)),
    ("f2", DialError::Service(ServiceError::IntroductionFailed)),
    ("f3", DialError::Service(ServiceError::RendezvousFailed)),
    ("f4", DialError::Service(ServiceError::AuthorizationMissing)),
    ("f5", DialError::Service(ServiceError::AuthorizationWrong)),
    ("f6", DialError::Service(ServiceError::BadName)),
    ("f7", DialError::Service(ServiceError::IntroductionTimedOut)),
];

/// The address of every name that resolves.
pub const ADDRESS: [u8; 16] = [0xfc, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

impl TestDial {
    /// Hears a request, and fails it or not as its name says.
    async fn hear(&self, request: Request) -> Result<(), DialError> {
        let _ = self.requests.send(request.clone());
        let Host::Name(name) = &request.host else { return Ok(()) };
        if name == "slow" {
            let _guard = TellsWhenDropped(self.dropped.clone());
            std::future::pending::<()>().await;
        }
        ERRORS.iter().find(|(known, _)| known == name).map_or(Ok(()), |(_, error)| Err(*error))
    }
}

impl Dial for TestDial {
    type Connection = TcpStream;

    async fn dial(&self, request: Request) -> Result<TcpStream, DialError> {
        self.hear(request).await?;
        Ok(TcpStream::connect(self.far).await?)
    }

    async fn resolve(&self, request: Request) -> Result<IpAddr, DialError> {
        self.hear(request).await?;
        Ok(ADDRESS.into())
    }

    async fn reverse(&self, request: Request) -> Result<String, DialError> {
        let known = request.host == Host::Ip(ADDRESS.into());
        self.hear(request).await?;
        if known { Ok("known.example".into()) } else { Err(DialError::HostUnreachable) }
    }

    async fn associate(&self, group: Isolation) -> Result<Datagrams, DialError> {
        let (near, far) = Datagrams::pair(4);
        let _ = self.associations.send((group, far));
        Ok(near)
    }

    async fn listen(&self, request: Request) -> Result<Listening<TcpStream>, DialError> {
        let nobody_comes = request.host == Host::Name("nobody.example".into());
        self.hear(request).await?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let here = listener.local_addr()?;
        let guard = TellsWhenDropped(self.dropped.clone());
        let accepted = async move {
            let _guard = guard;
            if nobody_comes {
                return Err(DialError::TimedOut);
            }
            let (connection, peer) = listener.accept().await?;
            Ok(Accepted { connection, host: Host::Ip(peer.ip()), port: peer.port() })
        };
        Ok(Listening { host: Host::Ip(here.ip()), port: here.port(), accepted: Box::pin(accepted) })
    }
}

pub struct World {
    pub proxy: SocketAddr,
    pub far: TcpListener,
    pub requests: mpsc::UnboundedReceiver<Request>,
    pub dropped: mpsc::UnboundedReceiver<()>,
    pub associations: mpsc::UnboundedReceiver<(Isolation, Datagrams)>,
    pub serving: JoinHandle<()>,
}

impl World {
    pub async fn new(limits: Limits) -> World {
        World::with(Config { limits, ..Config::default() }).await
    }

    pub async fn with(config: Config) -> World {
        let far = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = listener.local_addr().unwrap();
        let (request_sender, requests) = mpsc::unbounded_channel();
        let (drop_sender, dropped) = mpsc::unbounded_channel();
        let (association_sender, associations) = mpsc::unbounded_channel();
        let dial = TestDial {
            far: far.local_addr().unwrap(),
            requests: request_sender,
            dropped: drop_sender,
            associations: association_sender,
        };
        let serving = tokio::spawn(async move {
            let Err(error) = Proxy::new(config).serve(listener, Arc::new(dial)).await;
            panic!("{error}");
        });
        World { proxy, far, requests, dropped, associations, serving }
    }

    pub async fn client(&self) -> TcpStream {
        let client = TcpStream::connect(self.proxy).await.unwrap();
        client.set_nodelay(true).unwrap();
        client
    }

    /// A client that has said all this at once.
    pub async fn client_saying(&self, parts: &[&[u8]]) -> TcpStream {
        let mut client = self.client().await;
        client.write_all(&parts.concat()).await.unwrap();
        client
    }

    /// A client whose connection stands, and the far side of it.
    pub async fn connected(&mut self) -> (TcpStream, TcpStream) {
        let mut client = self.client_saying(&[&NO_AUTH, &connect_to("far.example", 80)]).await;
        let (far, _) = self.far.accept().await.unwrap();
        expect(&mut client, &[5, 0]).await;
        expect(&mut client, &reply(0)).await;
        (client, far)
    }
}

/// The greeting of a SOCKS5 client without credentials.
pub const NO_AUTH: [u8; 3] = [5, 1, 0];

pub fn connect_to(name: &str, port: u16) -> Vec<u8> {
    command(1, name, port)
}

/// A SOCKS5 request with a name.
pub fn command(command: u8, name: &str, port: u16) -> Vec<u8> {
    let mut bytes = vec![5, command, 0, 3, name.len() as u8];
    bytes.extend_from_slice(name.as_bytes());
    bytes.extend_from_slice(&port.to_be_bytes());
    bytes
}

/// Greeting and credentials of a SOCKS5 client.
pub fn pair(user: &[u8], password: &[u8]) -> Vec<u8> {
    [&[5, 2, 0, 2, 1, user.len() as u8], user, &[password.len() as u8], password].concat()
}

pub fn reply(code: u8) -> [u8; 10] {
    [5, code, 0, 1, 0, 0, 0, 0, 0, 0]
}

pub async fn expect(client: &mut TcpStream, bytes: &[u8]) {
    let mut read = vec![0; bytes.len()];
    soon(client.read_exact(&mut read)).await.unwrap();
    assert_eq!(read, bytes);
}

/// Everything up to the end, which must be an orderly one.
pub async fn rest(client: &mut TcpStream) -> Vec<u8> {
    let mut read = Vec::new();
    soon(client.read_to_end(&mut read)).await.unwrap();
    read
}

/// What should happen at once, but may take long on a busy machine.
pub async fn soon<T>(work: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), work).await.expect("it happens")
}

pub fn reset(stream: TcpStream) {
    Connection::reset(stream);
}
