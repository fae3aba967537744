//! One client from its first byte to its end.

use std::{convert::Infallible, future::Future, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    sync::oneshot,
    time::timeout,
};
use tracing::debug;

use crate::{
    Accepted, Config, Connection, Dial, DialError, Host, Isolation, Request,
    copy::copy_both_ways,
    handshake::{Asked, Command, Speaks, Stream, read_request},
    places::Places,
    udp::Association,
};

/// Holds every handshake of SOCKS at once, and most of HTTP.
const BUFFER: usize = 2 * 1024;
/// A refused client is heard out this long, so that the answer is not overtaken by a reset.
const LINGER: Duration = Duration::from_secs(1);
/// And for this many bytes.
const LINGER_BYTES: u64 = 64 * 1024;

/// What all clients of a proxy have in common.
pub(crate) struct House<D> {
    pub(crate) dialler: Arc<D>,
    pub(crate) config: Config,
    pub(crate) places: Arc<Places>,
}

/// Serves one client. `evicted` closes when a newer client needs the place of this unfinished handshake.
pub(crate) async fn serve_client<D: Dial>(
    stream: TcpStream,
    house: &House<D>,
    evicted: oneshot::Receiver<Infallible>,
) {
    // Small answers of a request-response protocol must not wait for more to come.
    let _ = stream.set_nodelay(true);
    let mut stream = BufReader::with_capacity(BUFFER, stream);
    let asked = tokio::select! {
        asked = hear(&mut stream, &house.config) => asked,
        _ = evicted => return debug!("a client was dropped: too many unfinished handshakes"),
    };
    let Some(Asked { command, request, speaks }) = asked else { return };
    let mut client = Client { stream, speaks, patience: house.config.limits.dial };
    let Some(_place) = house.places.enter(&request.isolation) else {
        debug!("a client was refused: too many clients, in all or of its group");
        return client.refuse(DialError::Failed).await;
    };
    match command {
        Command::Connect => client.connect(&*house.dialler, request).await,
        Command::Listen => client.listen(&*house.dialler, request, house.config.limits.accept).await,
        Command::Associate => client.associate(&*house.dialler, request).await,
        Command::Resolve => client.resolve(&*house.dialler, request).await,
        Command::Reverse => client.reverse(&*house.dialler, request).await,
    }
}

/// Serves one client that says nothing to us: it does not know that we are there, and where it goes was found out otherwise.
pub(crate) async fn serve_redirected<D: Dial>(stream: TcpStream, to: SocketAddr, house: &House<D>) {
    let _ = stream.set_nodelay(true);
    let stream = BufReader::with_capacity(BUFFER, stream);
    let mut client = Client { stream, speaks: Speaks::Nothing, patience: house.config.limits.dial };
    let request = Request { host: Host::Ip(to.ip()), port: to.port(), isolation: Isolation::Default };
    let Some(_place) = house.places.enter(&request.isolation) else {
        debug!("a redirected client was refused: too many clients, in all or of its group");
        return client.refuse(DialError::Failed).await;
    };
    client.connect(&*house.dialler, request).await;
}

/// What the client asks for; nothing if it was sent away.
async fn hear(stream: &mut Stream, config: &Config) -> Option<Asked> {
    match timeout(config.limits.handshake, read_request(stream, config)).await {
        Ok(Ok(asked)) => return Some(asked),
        Ok(Err(why)) => {
            debug!("a client was sent away: {why}");
            linger(stream).await;
        }
        Err(_) => debug!("a client did not finish its handshake in time"),
    }
    None
}

/// A client that waits for the answer to its request.
struct Client {
    stream: Stream,
    speaks: Speaks,
    patience: Duration,
}

impl Client {
    async fn connect<D: Dial>(mut self, dialler: &D, request: Request) {
        let Some(far) = self.wait(dialler.dial(request)).await else { return };
        self.join(Accepted { connection: far, host: Host::NONE, port: 0 }).await;
    }

    async fn listen<D: Dial>(mut self, dialler: &D, request: Request, accept: Duration) {
        let Some(listening) = self.wait(dialler.listen(request)).await else { return };
        if !self.accept(&listening.host, listening.port).await {
            return;
        }
        self.patience = accept;
        let Some(accepted) = self.wait(listening.accepted).await else { return };
        self.join(accepted).await;
    }

    async fn associate<D: Dial>(mut self, dialler: &D, request: Request) {
        let Request { host, port, isolation } = request;
        let Some(far) = self.wait(dialler.associate(isolation)).await else { return };
        let opened = Association::open(&self.stream, (&host, port)).await;
        let opened = opened.and_then(|association| Ok((association.address()?, association)));
        let (here, association) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                debug!("there is no socket for the datagrams of a client: {error}");
                return self.refuse(DialError::Failed).await;
            }
        };
        if self.accept(&Host::Ip(here.ip()), here.port()).await {
            association.carry(&mut self.stream, far).await;
        }
    }

    async fn resolve<D: Dial>(mut self, dialler: &D, request: Request) {
        let address = match request.host {
            // An address is its own answer.
            Host::Ip(address) => address,
            Host::Name(_) => match self.wait(dialler.resolve(request)).await {
                Some(address) => address,
                None => return,
            },
        };
        if self.accept(&Host::Ip(address), 0).await {
            linger(&mut self.stream).await;
        }
    }

    async fn reverse<D: Dial>(mut self, dialler: &D, request: Request) {
        if let Host::Name(_) = request.host {
            return self.refuse(DialError::AddressNotSupported).await;
        }
        let Some(name) = self.wait(dialler.reverse(request)).await else { return };
        if self.accept(&Host::Name(name), 0).await {
            linger(&mut self.stream).await;
        }
    }

    /// Waits for the dialler while the client does. Nothing if there is nothing to go on with; then the client knows.
    async fn wait<T>(&mut self, work: impl Future<Output = Result<T, DialError>>) -> Option<T> {
        let result = tokio::select! {
            result = timeout(self.patience, work) => result.unwrap_or(Err(DialError::TimedOut)),
            () = gone(&self.stream) => return None,
        };
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                debug!("a client was refused: {error}");
                self.refuse(error).await;
                None
            }
        }
    }

    async fn refuse(&mut self, error: DialError) {
        if self.speaks == Speaks::Nothing {
            // Nobody listens for an answer, and an orderly end would be one.
            let _ = self.stream.get_ref().set_zero_linger();
            return;
        }
        if self.speaks.refuse(&mut self.stream, error).await.is_ok() {
            linger(&mut self.stream).await;
        }
    }

    /// Whether the client could be told.
    async fn accept(&mut self, host: &Host, port: u16) -> bool {
        self.speaks.accept(&mut self.stream, host, port).await.is_ok()
    }

    async fn join<C: Connection>(mut self, accepted: Accepted<C>) {
        let Accepted { connection, host, port } = accepted;
        if self.accept(&host, port).await {
            let ahead = self.stream.buffer().to_vec();
            copy_both_ways(self.stream.into_inner(), ahead, connection).await;
        } else {
            connection.reset();
        }
    }
}

/// Ends when the client has gone away, and never while it sends or just waits.
async fn gone(stream: &Stream) {
    let has_sent = !stream.buffer().is_empty() || matches!(stream.get_ref().peek(&mut [0]).await, Ok(1..));
    if has_sent {
        // It has sent ahead of the reply. Whether it is still there shows when the reply is written.
        std::future::pending::<()>().await;
    }
}

/// Closing a socket with unread bytes resets it, and the client may lose the answer: read on for a moment.
async fn linger(stream: &mut Stream) {
    if stream.shutdown().await.is_ok() {
        let mut rest = stream.take(LINGER_BYTES);
        let _ = timeout(LINGER, tokio::io::copy_buf(&mut rest, &mut tokio::io::sink())).await;
    }
}
