//! One session of a visitor: what it asks for is dialled on this side (PROTOCOL §6.6, §6.9).

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use nix::sys::socket::{setsockopt, sockopt};
use phantom_protocol::identity::ApPublic;
use quinn::Connection;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpSocket, TcpStream, UdpSocket},
    time::timeout,
};

use super::{
    Flow, Protocol, Target, Targets,
    error::Refusal,
    flow::{self, FlowPlace, Flows},
    introduction::introduction,
    stream::{SessionStream, splice},
    visitors::Visitor,
};

/// UDP flows of one identity. Each has a socket of its own.
const FLOWS: usize = 1_024;
/// A client that opened a stream says what it wants within this.
const REQUEST: Duration = Duration::from_secs(10);
/// A local target answers within this.
const DIAL: Duration = Duration::from_secs(10);

/// One session of a visitor.
pub(super) struct Visit {
    pub(super) connection: Connection,
    pub(super) visitor: Visitor,
    /// Whom it visits.
    pub(super) own: ApPublic,
    pub(super) targets: Arc<dyn Targets>,
    /// Its own flows.
    pub(super) flows: Flows,
    /// Those of all visitors.
    pub(super) flow_count: FlowCount,
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
        let target = request.and_then(|(protocol, port)| {
            Ok((protocol, port, self.targets.target(self.visitor.client(), protocol, port)?))
        });
        let refusal = match target {
            Ok((Protocol::Tcp, port, target)) => match self.dial(target, port).await {
                Ok(tcp) => return carry(tcp, stream).await,
                Err(refusal) => refusal,
            },
            Ok((Protocol::Udp, _, target)) => match self.open_flow(&stream, target.address).await {
                Ok(opened) => return self.carry_flow(stream, opened).await,
                Err(refusal) => refusal,
            },
            Err(refusal) => refusal,
        };
        let _client_has_gone = stream.answer(Some(refusal)).await;
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

    /// A socket of its own, so that answers find back.
    async fn open_flow(&self, stream: &SessionStream, address: SocketAddr) -> Result<OpenedFlow, Refusal> {
        let count = self.flow_count.one_more().ok_or(Refusal::Busy)?;
        let anywhere = || match address {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let source = self.visitor.source(address).unwrap_or_else(anywhere);
        let socket = connected(source, address).await.map_err(|error| Refusal::of_dial(&error))?;
        let to_target = socket.clone();
        let deliver = move |data: Vec<u8>| {
            let _lost = to_target.try_send(&data);
        };
        let place = self.flows.enter(stream.id(), Box::new(deliver)).ok_or(Refusal::Busy)?;
        Ok(OpenedFlow { socket, place, count })
    }

    async fn carry_flow(&self, mut stream: SessionStream, opened: OpenedFlow) {
        let OpenedFlow { socket, place, count: _until_the_end } = opened;
        if stream.answer(None).await.is_ok() {
            let (stream, open) = stream.into_parts();
            flow::carry(Flow::new(self.connection.clone(), place, stream, open), &socket).await;
        }
    }
}

async fn connected(source: SocketAddr, target: SocketAddr) -> io::Result<Arc<UdpSocket>> {
    let socket = UdpSocket::bind(source).await?;
    socket.connect(target).await?;
    socket.writable().await?; // before that, nothing is taken without waiting
    Ok(Arc::new(socket))
}

async fn carry(tcp: TcpStream, mut stream: SessionStream) {
    if stream.answer(None).await.is_ok() {
        let _broken_or_not_both_ends_know = splice(tcp, stream).await;
    }
}

/// A flow whose client does not know yet that it is open.
struct OpenedFlow {
    socket: Arc<UdpSocket>,
    place: FlowPlace,
    count: CountedFlow,
}

/// Counts the flows of a service.
#[derive(Clone, Default)]
pub(super) struct FlowCount(Arc<AtomicUsize>);

impl FlowCount {
    /// How many are open.
    pub(super) fn open(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// One more, until what is returned is dropped. Nothing if there are too many.
    fn one_more(&self) -> Option<CountedFlow> {
        let counted = CountedFlow(self.0.clone());
        (self.0.fetch_add(1, Ordering::Relaxed) < FLOWS).then_some(counted)
    }
}

/// One open flow.
struct CountedFlow(Arc<AtomicUsize>);

impl Drop for CountedFlow {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_has_so_many_flows_and_one_that_ends_makes_room() {
        let count = FlowCount::default();
        let mut flows: Vec<_> = (0..FLOWS).map(|_| count.one_more().unwrap()).collect();
        assert!(count.one_more().is_none());
        assert_eq!(count.open(), FLOWS);
        flows.pop();
        assert!(count.one_more().is_some());
    }
}
