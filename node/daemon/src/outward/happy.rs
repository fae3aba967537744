//! Several addresses, tried one a little after the other, of both families in turn (RFC 8305): the first that answers wins.

use std::{io, net::IpAddr, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};

/// The next address is tried after this, or when one has failed.
const TURN: Duration = Duration::from_millis(250);
/// One address is given so long.
const PATIENCE: Duration = Duration::from_secs(10);

/// So many of them, both families in turn, each in its order.
pub(super) fn mixed(addresses: Vec<IpAddr>, most: usize) -> Vec<IpAddr> {
    let (six, four): (Vec<_>, Vec<_>) = addresses.into_iter().partition(IpAddr::is_ipv6);
    let longest = six.len().max(four.len());
    let turns = (0..longest).flat_map(|turn| [six.get(turn), four.get(turn)]);
    turns.flatten().copied().take(most).collect()
}

/// A connection to one of them, or why the last one failed.
pub(super) async fn connect(addresses: &[IpAddr], port: u16) -> io::Result<TcpStream> {
    let mut next = addresses.iter();
    let mut under_way = FuturesUnordered::new();
    let mut failure = io::ErrorKind::AddrNotAvailable.into();
    loop {
        match next.next() {
            Some(address) => under_way.push(one(*address, port)),
            None if under_way.is_empty() => return Err(failure),
            None => {}
        }
        tokio::select! {
            Some(tried) = under_way.next() => match tried {
                Ok(tcp) => return Ok(tcp),
                Err(error) => failure = error,
            },
            () = sleep(TURN), if next.len() > 0 => {}
        }
    }
}

async fn one(address: IpAddr, port: u16) -> io::Result<TcpStream> {
    let connecting = timeout(PATIENCE, TcpStream::connect((address, port)));
    connecting.await.unwrap_or(Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    fn ips(addresses: &[&str]) -> Vec<IpAddr> {
        addresses.iter().map(|address| address.parse().unwrap()).collect()
    }

    #[test]
    fn families_take_turns_and_too_many_are_left_out() {
        let addresses = ips(&["9.9.9.1", "9.9.9.2", "9.9.9.3", "2620::1"]);
        assert_eq!(mixed(addresses.clone(), 8), ips(&["2620::1", "9.9.9.1", "9.9.9.2", "9.9.9.3"]));
        assert_eq!(mixed(addresses, 2), ips(&["2620::1", "9.9.9.1"]));
    }

    #[tokio::test]
    async fn an_address_that_refuses_is_followed_by_the_next_at_once_and_if_all_do_that_is_said() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let tcp = connect(&ips(&["127.0.0.2", "127.0.0.3", "127.0.0.1"]), port).await.unwrap();
        assert_eq!(tcp.peer_addr().unwrap(), listener.local_addr().unwrap());
        let refused = connect(&ips(&["127.0.0.2", "127.0.0.3"]), port).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test]
    async fn an_address_that_is_silent_does_not_hold_up_the_next() {
        // Its queue is full: who comes now waits.
        let silent = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        silent.bind(&std::net::SocketAddr::from(([127, 0, 0, 2], 0)).into()).unwrap();
        silent.listen(0).unwrap();
        let port = silent.local_addr().unwrap().as_socket().unwrap().port();
        let _waits = TcpStream::connect(("127.0.0.2", port)).await.unwrap();
        let answering = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let addresses = ips(&["127.0.0.2", "127.0.0.1"]);
        let connecting = timeout(Duration::from_secs(5), connect(&addresses, port));
        let tcp = connecting.await.unwrap().unwrap();
        assert_eq!(tcp.peer_addr().unwrap(), answering.local_addr().unwrap());
    }
}
