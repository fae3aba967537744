//! Servers that this process cannot reach: somebody else connects to them and hands the sockets over. The visitor learns
//! that it is let in when the server has taken the connection, and not before.

use std::{io, net::Ipv4Addr, time::Duration};

use futures_util::future::BoxFuture;
use phantom_protocol::identity::ApPublic;
use socket2::{SockRef, Type};
use tokio::time::timeout;

use super::{Protocol, Refusal};
use crate::program::Handed;

/// Who comes to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The key that it speaks as.
    pub party: ApPublic,
    /// Its address where there is only IPv4 (PROTOCOL §8).
    pub alias: Ipv4Addr,
}

/// Reaches servers on behalf of a service.
pub trait Serve: Send + Sync {
    /// A socket that is connected to the server behind a port, for this caller alone.
    fn socket(&self, caller: Caller, protocol: Protocol, port: u16)
    -> BoxFuture<'_, Result<Handed, Refusal>>;
}

/// Asks for a socket, and waits no longer than `patience` for it.
pub(super) async fn ask(
    server: &dyn Serve,
    caller: Caller,
    (protocol, port): (Protocol, u16),
    patience: Duration,
) -> Result<Handed, Refusal> {
    let asked = timeout(patience, server.socket(caller, protocol, port)).await;
    let socket = asked.map_err(|_| Refusal::TimedOut)??;
    checked(socket, protocol).map_err(|_| Refusal::Failed)
}

/// What was handed over, if it is a connected socket of this protocol.
fn checked(handed: Handed, protocol: Protocol) -> io::Result<Handed> {
    let kind = if protocol == Protocol::Udp { Type::DGRAM } else { Type::STREAM };
    let descriptor = handed.look()?;
    let socket = SockRef::from(&descriptor);
    if socket.r#type()? != kind || socket.peer_addr()?.as_socket().is_none() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(handed)
}

#[cfg(test)]
mod tests {
    use std::{
        future::pending,
        io::{Read, Write},
        net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
        os::{fd::OwnedFd, unix::net::UnixStream},
        sync::{Arc, Mutex, atomic::Ordering},
    };

    use futures_util::FutureExt;
    use phantom_protocol::identity::ApSecret;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        sync::mpsc::unbounded_channel,
        task::spawn_blocking,
    };

    use super::{
        super::{Group, SpeakAs, Target, Targets, testing::World},
        *,
    };
    use crate::program::testing::handed;

    /// Connects to ports of this machine in its own way, and remembers for whom.
    struct Elsewhere {
        tcp: SocketAddr,
        udp: SocketAddr,
        callers: Mutex<Vec<Caller>>,
    }

    const SILENT: u16 = 1;
    const STRANGE: u16 = 2;
    const NOBODY: u16 = 3;

    impl Serve for Elsewhere {
        fn socket(
            &self,
            caller: Caller,
            protocol: Protocol,
            port: u16,
        ) -> BoxFuture<'_, Result<Handed, Refusal>> {
            self.callers.lock().unwrap().push(caller);
            let made: OwnedFd = match (port, protocol) {
                (SILENT, _) => return pending().boxed(),
                (NOBODY, _) => return async { Err(Refusal::Refused) }.boxed(),
                (STRANGE, _) => UnixStream::pair().unwrap().0.into(),
                (_, Protocol::Udp) => {
                    let socket = UdpSocket::bind((caller.alias, 0)).unwrap();
                    socket.connect(self.udp).unwrap();
                    socket.into()
                }
                _ => TcpStream::connect(self.tcp).unwrap().into(),
            };
            async { Ok(Handed::from(made)) }.boxed()
        }
    }

    struct All(Arc<Elsewhere>);

    impl Targets for All {
        fn target(&self, _: &ApPublic, _: Protocol, _: u16) -> Result<Target, Refusal> {
            Err(Refusal::Refused)
        }

        fn server(&self) -> Option<Arc<dyn Serve>> {
            Some(self.0.clone())
        }
    }

    fn world() -> (World, Arc<Elsewhere>, TcpListener, UdpSocket) {
        let (tcp, udp) = (TcpListener::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let (to_tcp, to_udp) = (tcp.local_addr().unwrap(), udp.local_addr().unwrap());
        let elsewhere = Arc::new(Elsewhere { tcp: to_tcp, udp: to_udp, callers: Mutex::default() });
        (World::new(All(elsewhere.clone())), elsewhere, tcp, udp)
    }

    #[tokio::test]
    async fn a_visitor_speaks_through_the_socket_that_was_made_for_it() {
        let (world, elsewhere, tcp, udp) = world();
        let answering = spawn_blocking(move || {
            let (mut server, _) = tcp.accept().unwrap();
            let mut asked = [0; 4];
            server.read_exact(&mut asked).unwrap();
            server.write_all(&asked.repeat(50_000)).unwrap();
        });
        let mut stream = world.connect(80).await.unwrap();
        stream.write_all(b"what").await.unwrap();
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).await.unwrap();
        assert!(heard == b"what".repeat(50_000), "{} bytes", heard.len());
        answering.await.unwrap();
        drop(stream);
        timeout(Duration::from_secs(20), world.service().idle()).await.unwrap();

        let (tell, mut told) = unbounded_channel();
        let deliver = Box::new(move |data| tell.send(data).unwrap());
        let group = Group::default();
        let mut flow = world.pool.flow(&group, &SpeakAs::OneTime, world.peer, 53, deliver).await.unwrap();
        flow.send(b"datagram");
        let (length, from, udp) = spawn_blocking(move || {
            let (length, from) = udp.recv_from(&mut [0; 16]).unwrap();
            (length, from, udp)
        })
        .await
        .unwrap();
        let callers = elsewhere.callers.lock().unwrap().clone();
        assert_eq!((length, from.ip()), (8, callers[1].alias.into()));
        assert_eq!(callers[0], callers[1], "one visitor");
        udp.send_to(b"back", from).unwrap();
        assert_eq!(told.recv().await.unwrap(), b"back");
        world.net.check();
    }

    #[tokio::test]
    async fn what_was_said_last_has_arrived_when_nothing_is_open_any_more() {
        let (world, _, tcp, _) = world();
        world.net.weather.delay.store(200_000, Ordering::Relaxed);
        let mut stream = world.connect(80).await.unwrap();
        stream.shutdown().await.unwrap();
        let saying = spawn_blocking(move || {
            let mut server = tcp.accept().unwrap().0;
            server.read_to_end(&mut Vec::new()).unwrap();
            server.write_all(&[7; 100_000]).unwrap();
        });
        let reading = tokio::spawn(async move {
            let mut heard = Vec::new();
            stream.read_to_end(&mut heard).await.map(|_| heard.len())
        });
        saying.await.unwrap();
        assert!(!reading.is_finished(), "it takes a while");
        timeout(Duration::from_secs(20), world.service().idle()).await.unwrap();
        assert!(reading.is_finished());
        assert_eq!(reading.await.unwrap().unwrap(), 100_000);
    }

    #[tokio::test]
    async fn who_is_not_let_in_there_is_refused_here() {
        let (world, ..) = world();
        assert_eq!(world.connect(NOBODY).await.unwrap_err(), Refusal::Refused);
        assert_eq!(world.connect(STRANGE).await.unwrap_err(), Refusal::Failed, "no connection");
    }

    #[tokio::test]
    async fn who_reaches_servers_and_does_not_answer_is_not_waited_for() {
        let party = ApSecret::from_bytes(&[1; 32]).public();
        let (tcp, udp) = ((Ipv4Addr::LOCALHOST, 1).into(), (Ipv4Addr::LOCALHOST, 1).into());
        let server = Elsewhere { tcp, udp, callers: Mutex::default() };
        let caller = Caller { party, alias: Ipv4Addr::LOCALHOST };
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let asked = ask(&server, caller, (protocol, SILENT), Duration::from_millis(1)).await;
            assert_eq!(asked.err(), Some(Refusal::TimedOut));
        }
    }

    #[test]
    fn nothing_but_a_connected_socket_of_the_protocol_is_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp = || TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(checked(handed(datagrams.try_clone().unwrap()), Protocol::Udp).is_err(), "not connected");
        datagrams.connect("127.0.0.1:9").unwrap();
        assert!(checked(handed(datagrams.try_clone().unwrap()), Protocol::Udp).is_ok());
        assert!(checked(handed(datagrams), Protocol::Tcp).is_err());
        assert!(checked(handed(tcp()), Protocol::Udp).is_err());
        assert!(checked(handed(tcp()), Protocol::Tcp).is_ok());
        assert!(checked(handed(listener), Protocol::Tcp).is_err(), "it listens");
    }
}
