//! UDP ASSOCIATE.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use crate::world::{NO_AUTH, World, connect_to, expect, pair, soon};
use phantom_proxy::{Datagram, Datagrams, Host, Isolation, Limits};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

const ANY: [u8; 10] = [5, 3, 0, 1, 0, 0, 0, 0, 0, 0];
const TO_V4: [u8; 10] = [0, 0, 0, 1, 192, 0, 2, 7, 0, 53];

/// A client with its association, where it sends to, and the far side.
async fn associated(world: &mut World, request: &[u8]) -> (TcpStream, SocketAddr, Datagrams) {
    let mut client = world.client_saying(&[&NO_AUTH, request]).await;
    expect(&mut client, &[5, 0]).await;
    let mut read = [0; 10];
    soon(client.read_exact(&mut read)).await.unwrap();
    let [5, 0, 0, 1, a, b, c, d, high, low] = read else { panic!("{read:?}") };
    let (_, far) = soon(world.associations.recv()).await.unwrap();
    (client, (Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low])).into(), far)
}

async fn socket() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").await.unwrap()
}

async fn hear(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 70_000];
    let length = soon(socket.recv(&mut buffer)).await.unwrap();
    buffer.truncate(length);
    buffer
}

fn to(host: Host, port: u16, data: &[u8]) -> Datagram {
    Datagram { host, port, data: data.to_vec() }
}

#[tokio::test]
async fn datagrams_go_both_ways_with_their_far_ends() {
    let mut world = World::new(Limits::default()).await;
    let (_client, here, mut far) = associated(&mut world, &ANY).await;
    let socket = socket().await;
    let v6 = [&[0, 0, 0, 4][..], &[0xfc; 16], &[0, 53]].concat();
    let name = [&[0, 0, 0, 3, 11][..], b"far.example", &[0, 53]].concat();
    let ends = [
        (TO_V4.to_vec(), Host::Ip([192, 0, 2, 7].into())),
        (v6, Host::Ip([0xfc; 16].into())),
        (name, Host::Name("far.example".into())),
    ];
    for (header, host) in ends {
        socket.send_to(&[&header, &b"question"[..]].concat(), here).await.unwrap();
        let heard = soon(far.incoming.recv()).await.unwrap();
        assert!(heard == to(host.clone(), 53, b"question"));
        far.outgoing.send(to(host, 53, b"answer")).await.unwrap();
        assert_eq!(hear(&socket).await, [&header, &b"answer"[..]].concat());
    }
}

#[tokio::test]
async fn nothing_is_cut_off_up_to_the_largest_and_an_empty_one_is_one() {
    let mut world = World::new(Limits::default()).await;
    let (_client, here, mut far) = associated(&mut world, &ANY).await;
    let socket = socket().await;
    let host = Host::Ip([192, 0, 2, 7].into());
    for length in [0, 1, 1472, 8192, 32_768, 65_507 - TO_V4.len()] {
        let data: Vec<u8> = (0..length).map(|i| (i ^ (i >> 8)) as u8).collect();
        socket.send_to(&[&TO_V4, &data[..]].concat(), here).await.unwrap();
        let heard = soon(far.incoming.recv()).await.unwrap();
        assert!(heard.data == data, "{length}");
        far.outgoing.send(to(host.clone(), 53, &data)).await.unwrap();
        assert!(hear(&socket).await == [&TO_V4, &data[..]].concat(), "{length}");
    }
    // One that no UDP datagram can carry is lost, and nothing else is.
    far.outgoing.send(to(host.clone(), 53, &[0; 65_536])).await.unwrap();
    far.outgoing.send(to(host, 53, b"next")).await.unwrap();
    assert_eq!(hear(&socket).await, [&TO_V4, &b"next"[..]].concat());
}

#[tokio::test]
async fn what_is_out_of_order_is_dropped() {
    let mut world = World::new(Limits::default()).await;
    let (_client, here, mut far) = associated(&mut world, &ANY).await;
    let socket = socket().await;
    let whole = [&TO_V4, &b"data"[..]].concat();
    let mut bad: Vec<Vec<u8>> = (0..TO_V4.len()).map(|length| whole[..length].to_vec()).collect();
    for (place, value) in [(0, 1), (1, 1), (2, 1), (2, 0x80), (3, 0), (3, 2), (3, 0xff)] {
        let mut changed = whole.clone();
        changed[place] = value;
        bad.push(changed);
    }
    bad.push([0, 0, 0, 3, 0, 0, 53].to_vec());
    bad.push([0, 0, 0, 3, 255, b'a', 0, 53].to_vec());
    for datagram in bad {
        socket.send_to(&datagram, here).await.unwrap();
    }
    socket.send_to(&whole, here).await.unwrap();
    assert!(soon(far.incoming.recv()).await.unwrap().data == b"data");
}

#[tokio::test]
async fn only_the_client_is_heard_and_answered() {
    let mut world = World::new(Limits::default()).await;
    let (_client, here, mut far) = associated(&mut world, &ANY).await;
    let (other_address, first, second) =
        (UdpSocket::bind("127.0.0.2:0").await.unwrap(), socket().await, socket().await);
    // Of this association nobody knows yet where the client is.
    far.outgoing.send(to(Host::Ip([192, 0, 2, 7].into()), 53, b"too early")).await.unwrap();
    other_address.send_to(&[&TO_V4, &b"stranger"[..]].concat(), here).await.unwrap();
    first.send_to(&[&TO_V4, &b"first"[..]].concat(), here).await.unwrap();
    assert!(soon(far.incoming.recv()).await.unwrap().data == b"first");
    second.send_to(&[&TO_V4, &b"second"[..]].concat(), here).await.unwrap();
    first.send_to(&[&TO_V4, &b"third"[..]].concat(), here).await.unwrap();
    assert!(soon(far.incoming.recv()).await.unwrap().data == b"third");
    far.outgoing.send(to(Host::Ip([192, 0, 2, 7].into()), 53, b"answer")).await.unwrap();
    assert!(hear(&first).await.ends_with(b"answer"));
}

#[tokio::test]
async fn a_client_that_says_its_port_is_known_by_it() {
    let mut world = World::new(Limits::default()).await;
    let (own, other) = (socket().await, socket().await);
    let mut request = ANY;
    request[8..].copy_from_slice(&own.local_addr().unwrap().port().to_be_bytes());
    let (_client, here, mut far) = associated(&mut world, &request).await;
    other.send_to(&[&TO_V4, &b"other"[..]].concat(), here).await.unwrap();
    own.send_to(&[&TO_V4, &b"own"[..]].concat(), here).await.unwrap();
    assert!(soon(far.incoming.recv()).await.unwrap().data == b"own");
}

#[tokio::test]
async fn a_full_queue_loses_datagrams_and_holds_nobody_up() {
    let mut world = World::new(Limits::default()).await;
    let (_client, here, mut far) = associated(&mut world, &ANY).await;
    let socket = socket().await;
    let host = Host::Ip([192, 0, 2, 7].into());
    socket.send_to(&TO_V4, here).await.unwrap();
    soon(far.incoming.recv()).await.unwrap();
    for number in 0..100 {
        socket.send_to(&[&TO_V4[..], &[number]].concat(), here).await.unwrap();
        // The answers keep coming while nobody reads the questions.
        far.outgoing.send(to(host.clone(), 53, &[number])).await.unwrap();
        assert!(hear(&socket).await.ends_with(&[number]));
    }
    for number in 0..4 {
        assert_eq!(soon(far.incoming.recv()).await.unwrap().data, [number]);
    }
    let mut more = 0;
    while let Ok(Some(_)) = timeout(Duration::from_millis(100), far.incoming.recv()).await {
        more += 1;
    }
    assert!(more < 6, "{more} more");
}

#[tokio::test]
async fn it_ends_with_the_connection_and_with_the_far_side() {
    let mut world = World::new(Limits::default()).await;
    let (mut client, _, mut far) = associated(&mut world, &ANY).await;
    // What else comes over TCP means nothing.
    client.write_all(&[0; 100_000]).await.unwrap();
    assert!(timeout(Duration::from_millis(50), far.incoming.recv()).await.is_err());
    drop(client);
    assert!(soon(far.incoming.recv()).await.is_none());

    let (mut client, _, far) = associated(&mut world, &ANY).await;
    drop(far);
    assert!(!matches!(soon(client.read(&mut [0])).await, Ok(1..)));
}

#[tokio::test]
async fn the_group_reaches_the_dialler() {
    let mut world = World::new(Limits::default()).await;
    let _client = world.client_saying(&[&pair(b"u", b"p"), &ANY]).await;
    let (group, _far) = soon(world.associations.recv()).await.unwrap();
    assert!(group == Isolation::Credentials { user: b"u".to_vec(), password: b"p".to_vec() });
    // And it costs the dialler no connection.
    assert!(world.requests.try_recv().is_err());
    let _other = world.client_saying(&[&NO_AUTH, &connect_to("far.example", 80)]).await;
    soon(world.requests.recv()).await.unwrap();
}
