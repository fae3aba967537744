//! One session of a visitor: what it asks for is dialled on this side (PROTOCOL §6.6, §6.9).

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use nix::sys::socket::{setsockopt, sockopt};
use phantom_protocol::identity::ApPublic;
use quinn::Connection;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpSocket, TcpStream, UdpSocket},
    time::{sleep, timeout},
};

use super::{
    Flow, Protocol, Serve, Take, Target, Targets,
    error::Refusal,
    flow::{self, FlowPlace, Flows},
    introduction::introduction,
    quota::{Counted, Quotas},
    serve,
    stream::{SessionStream, Wish, splice_until},
    visitors::Visitor,
};
use crate::program::{ProgramDatagrams, ProgramStream};

/// A client that opened a stream says what it wants within this.
const REQUEST: Duration = Duration::from_secs(10);
/// A local target answers within this.
const DIAL: Duration = Duration::from_secs(10);
/// A local target may read so long what had come before its session ended.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// One session of a visitor.
pub(super) struct Visit {
    pub(super) connection: Connection,
    pub(super) visitor: Visitor,
    /// Whom it visits.
    pub(super) own: ApPublic,
    pub(super) targets: Arc<dyn Targets>,
    /// Its own flows.
    pub(super) flows: Flows,
    /// What all visitors may have open.
    pub(super) quotas: Quotas,
}

impl Visit {
    /// Takes streams and datagrams until the session ends.
    pub(super) async fn run(self: Arc<Self>) {
        loop {
            let stream = tokio::select! {
                stream = self.connection.accept_bi() => stream,
                datagram = self.connection.read_datagram() => match datagram {
                    Ok(datagram) => {
                        self.flows.take(&datagram);
                        continue;
                    }
                    Err(_) => return,
                },
            };
            let Ok((send, recv)) = stream else { return };
            tokio::spawn(self.clone().serve(SessionStream::new(send, recv, None)));
        }
    }

    async fn serve(self: Arc<Self>, mut stream: SessionStream) {
        let Ok(request) = timeout(REQUEST, stream.read_request()).await else { return stream.reset() };
        let opened = match request {
            Ok(wish) => self.open(&stream, wish).await,
            Err(refusal) => Err(refusal),
        };
        let refusal = match opened {
            Ok(Opened::Connection(opened)) => return self.carry_connection(stream, opened).await,
            Ok(Opened::Flow(opened)) => return self.carry_flow(stream, opened).await,
            Ok(Opened::Taken(take)) => {
                if stream.answer(None).await.is_ok() {
                    take(stream, *self.visitor.client());
                }
                return;
            }
            Err(Refusal::Reset) => return stream.reset(),
            Err(refusal) => refusal,
        };
        let _client_has_gone = stream.answer(Some(refusal)).await;
    }

    async fn open(&self, stream: &SessionStream, wish: Wish) -> Result<Opened, Refusal> {
        let client = self.visitor.client();
        match wish {
            Wish::Port(Protocol::Udp, port) => {
                let socket = match self.targets.server() {
                    Some(server) => self.open_flow(stream, self.datagrams_of(&*server, port)).await,
                    None => {
                        let target = self.targets.target(client, Protocol::Udp, port)?.plain();
                        self.open_flow(stream, self.datagrams(target.address)).await
                    }
                };
                socket.map(Opened::Flow)
            }
            Wish::Port(protocol, port) => {
                if let Some(take) = self.targets.taker(client, port)? {
                    return Ok(Opened::Taken(take));
                }
                let opened = match self.targets.server() {
                    Some(server) => self.open_connection(self.connection_of(&*server, port)).await,
                    None => {
                        let target = self.targets.target(client, protocol, port)?.plain();
                        self.open_connection(self.dial(target, port)).await
                    }
                };
                opened.map(Opened::Connection)
            }
            Wish::Outside(to, port) => {
                let way_out = self.targets.way_out(client)?;
                self.open_connection(way_out.connect(to, port)).await.map(Opened::Connection)
            }
        }
    }

    async fn open_connection(
        &self,
        dialling: impl Future<Output = Result<impl Into<ProgramStream>, Refusal>>,
    ) -> Result<OpenedConnection, Refusal> {
        let count = self.quotas.connections.one_more(self.visitor.client()).ok_or(Refusal::Busy)?;
        let tcp = self.while_it_lasts(dialling).await?.into();
        Ok(OpenedConnection { tcp, _count: count })
    }

    async fn while_it_lasts<T>(
        &self,
        dialling: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<T, Refusal> {
        tokio::select! {
            dialled = dialling => dialled,
            _ = self.connection.closed() => Err(Refusal::SessionLost),
        }
    }

    async fn carry_connection(&self, mut stream: SessionStream, opened: OpenedConnection) {
        let OpenedConnection { tcp, _count: _until_the_end } = opened;
        if stream.answer(None).await.is_ok() {
            let session_ended = async {
                self.connection.closed().await;
                sleep(LAST_WORDS).await;
            };
            let _broken_or_not_both_ends_know = splice_until(tcp, stream, session_ended).await;
        }
    }

    /// A connection to the target of `port`.
    async fn dial(&self, target: Target, port: u16) -> Result<TcpStream, Refusal> {
        let connecting = async {
            let mut tcp = self.socket(target.address)?.connect(target.address).await?;
            if target.introduces {
                let from = tcp.local_addr()?.port();
                let line = introduction(self.visitor.client(), &self.own, from, port);
                tcp.write_all(line.as_bytes()).await?;
            }
            Ok(tcp)
        };
        let tcp = match timeout(DIAL, connecting).await {
            Ok(connected) => connected.map_err(|error: io::Error| Refusal::of_dial(&error))?,
            Err(_) => return Err(Refusal::TimedOut),
        };
        let _only_slower_without = tcp.set_nodelay(true);
        Ok(tcp)
    }

    fn socket(&self, address: SocketAddr) -> io::Result<TcpSocket> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(source) = self.visitor.source(address) {
            // A port is chosen with the target, not before it: ports that another target uses are free for this one.
            setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
            socket.bind(source)?;
        }
        Ok(socket)
    }

    /// A connection to whoever serves a port elsewhere.
    async fn connection_of(&self, server: &dyn Serve, port: u16) -> Result<ProgramStream, Refusal> {
        let socket = serve::ask(server, self.visitor.caller(), (Protocol::Tcp, port), DIAL).await?;
        socket.into_stream().map_err(|_| Refusal::Failed)
    }

    /// A socket that is connected to whoever serves a port elsewhere.
    async fn datagrams_of(&self, server: &dyn Serve, port: u16) -> Result<ProgramDatagrams, Refusal> {
        let socket = serve::ask(server, self.visitor.caller(), (Protocol::Udp, port), DIAL).await?;
        let socket = socket.into_datagrams().map_err(|_| Refusal::Failed)?;
        socket.of_its_peer_alone().await.map_err(|_| Refusal::Failed)
    }

    async fn open_flow(
        &self,
        stream: &SessionStream,
        connecting: impl Future<Output = Result<ProgramDatagrams, Refusal>>,
    ) -> Result<OpenedFlow, Refusal> {
        let count = self.quotas.flows.one_more(self.visitor.client()).ok_or(Refusal::Busy)?;
        let socket = Arc::new(self.while_it_lasts(connecting).await?);
        let to_target = socket.clone();
        let deliver = move |data: Vec<u8>| {
            to_target.send(&data);
        };
        let place = self.flows.enter(stream.id(), Box::new(deliver)).ok_or(Refusal::Busy)?;
        Ok(OpenedFlow { socket, place, count })
    }

    /// A socket of its own, so that answers find back.
    async fn datagrams(&self, address: SocketAddr) -> Result<ProgramDatagrams, Refusal> {
        let anywhere = || match address {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let source = self.visitor.source(address).unwrap_or_else(anywhere);
        let connecting = async { connected(UdpSocket::bind(source).await?, address).await };
        connecting.await.map_err(|error: io::Error| Refusal::of_dial(&error))
    }

    async fn carry_flow(&self, mut stream: SessionStream, opened: OpenedFlow) {
        let OpenedFlow { socket, place, count: _until_the_end } = opened;
        if stream.answer(None).await.is_ok() {
            let (stream, open) = stream.into_parts();
            flow::carry(Flow::new(self.connection.clone(), place, stream, open), &socket).await;
        }
    }
}

/// From now on the socket has to do with `target` alone.
async fn connected(socket: UdpSocket, target: SocketAddr) -> io::Result<ProgramDatagrams> {
    socket.connect(target).await?;
    ProgramDatagrams::from(socket).of_its_peer_alone().await
}

/// What a client asked for, and does not know yet that it has.
enum Opened {
    Connection(OpenedConnection),
    Flow(OpenedFlow),
    /// Not by a local program.
    Taken(Take),
}

/// A connection to a target whose client does not know yet that it is open.
struct OpenedConnection {
    tcp: ProgramStream,
    _count: Counted,
}

/// A flow whose client does not know yet that it is open.
struct OpenedFlow {
    socket: Arc<ProgramDatagrams>,
    place: FlowPlace,
    count: Counted,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_strangers_sent_before_a_flow_was_connected_is_not_of_the_flow() {
        let loopback = (Ipv4Addr::LOCALHOST, 0);
        let [socket, target, stranger] = [
            UdpSocket::bind(loopback).await,
            UdpSocket::bind(loopback).await,
            UdpSocket::bind(loopback).await,
        ]
        .map(Result::unwrap);
        let ours = socket.local_addr().unwrap();
        for foreign in [&b"one"[..], b"", b"two"] {
            stranger.send_to(foreign, ours).await.unwrap();
        }
        socket.readable().await.unwrap();
        let socket = connected(socket, target.local_addr().unwrap()).await.unwrap();
        target.send_to(b"answer", ours).await.unwrap();
        let mut heard = Vec::new();
        while heard.is_empty() {
            socket.readable().await.unwrap();
            let _nothing_yet = socket.try_receive(|datagram| heard.extend_from_slice(datagram));
        }
        assert_eq!(heard, b"answer");
    }
}
