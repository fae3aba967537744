//! Clients that do not know that there is a proxy.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use crate::world::{expect, rest, soon};
use phantom_proxy::{Dial, DialError, Host, Isolation, Proxy, Request};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Leads to one place, for whoever wanted to go to port 80 of an address.
struct Only(SocketAddr);

impl Dial for Only {
    type Connection = TcpStream;

    async fn dial(&self, request: Request) -> Result<TcpStream, DialError> {
        assert!(request.isolation == Isolation::Default);
        match request {
            Request { host: Host::Ip(address), port: 80, .. } if address == IpAddr::from(WANTED) => {
                Ok(TcpStream::connect(self.0).await?)
            }
            _ => Err(DialError::NotAllowed),
        }
    }
}

const WANTED: [u8; 4] = [192, 0, 2, 7];

/// A proxy whose clients all wanted to go to `to`, and a client of it.
async fn client_of(far: &TcpListener, to: Option<SocketAddr>) -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (here, dialler) = (listener.local_addr().unwrap(), Arc::new(Only(far.local_addr().unwrap())));
    tokio::spawn(async move { Proxy::default().serve_redirected(listener, dialler, move |_| to).await });
    TcpStream::connect(here).await.unwrap()
}

#[tokio::test]
async fn a_redirected_client_is_where_it_wanted_to_be() {
    let far = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = client_of(&far, Some((WANTED, 80).into())).await;
    let (mut there, _) = soon(far.accept()).await.unwrap();
    there.write_all(b"who speaks first does not matter").await.unwrap();
    expect(&mut client, b"who speaks first does not matter").await;
    client.write_all(b"\x05\x01\x00 is data like any other").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut there).await, b"\x05\x01\x00 is data like any other");
}

#[tokio::test]
async fn whatever_leads_nowhere_is_reset() {
    let far = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for to in [None, Some((WANTED, 81).into()), Some(([127, 0, 0, 1], 80).into())] {
        let mut client = client_of(&far, to).await;
        let read = soon(client.read(&mut [0])).await;
        assert_eq!(read.unwrap_err().kind(), ErrorKind::ConnectionReset, "{to:?}");
    }
}
