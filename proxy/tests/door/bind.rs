//! BIND: two replies, then a connection.

use std::net::{Ipv4Addr, SocketAddr};

use crate::world::{NO_AUTH, World, command, expect, reply, rest, soon};
use phantom_proxy::Limits;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

async fn bound(client: &mut TcpStream) -> SocketAddr {
    let mut read = [0; 10];
    soon(client.read_exact(&mut read)).await.unwrap();
    let [5, 0, 0, 1, a, b, c, d, high, low] = read else { panic!("{read:?}") };
    (Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low])).into()
}

#[tokio::test]
async fn the_first_reply_names_the_place_and_the_second_who_came() {
    let world = World::new(Limits::default()).await;
    let mut client = world.client_saying(&[&NO_AUTH, &command(2, "far.example", 21)]).await;
    expect(&mut client, &[5, 0]).await;
    let place = bound(&mut client).await;
    let mut peer = TcpStream::connect(place).await.unwrap();
    assert_eq!(bound(&mut client).await, peer.local_addr().unwrap());
    peer.write_all(b"file").await.unwrap();
    peer.shutdown().await.unwrap();
    assert_eq!(rest(&mut client).await, b"file");
    client.write_all(b"thanks").await.unwrap();
    drop(client);
    assert_eq!(rest(&mut peer).await, b"thanks");
}

#[tokio::test]
async fn socks4_binds_too() {
    let world = World::new(Limits::default()).await;
    let mut client = world.client_saying(&[&[4, 2, 0, 21, 192, 0, 2, 1, 0]]).await;
    let mut read = [0; 8];
    soon(client.read_exact(&mut read)).await.unwrap();
    let [0, 0x5a, high, low, 127, 0, 0, 1] = read else { panic!("{read:?}") };
    let peer = TcpStream::connect(("127.0.0.1", u16::from_be_bytes([high, low]))).await.unwrap();
    let [high, low] = peer.local_addr().unwrap().port().to_be_bytes();
    expect(&mut client, &[0, 0x5a, high, low, 127, 0, 0, 1]).await;
}

#[tokio::test]
async fn a_client_that_goes_away_ends_the_waiting() {
    let mut world = World::new(Limits::default()).await;
    let mut client = world.client_saying(&[&NO_AUTH, &command(2, "far.example", 21)]).await;
    expect(&mut client, &[5, 0]).await;
    bound(&mut client).await;
    assert!(world.dropped.try_recv().is_err());
    drop(client);
    soon(world.dropped.recv()).await.unwrap();
}

#[tokio::test]
async fn nobody_comes_for_too_long_is_code_6() {
    let world =
        World::new(Limits { accept: std::time::Duration::from_millis(50), ..Limits::default() }).await;
    let mut client = world.client_saying(&[&NO_AUTH, &command(2, "far.example", 21)]).await;
    expect(&mut client, &[5, 0]).await;
    bound(&mut client).await;
    assert_eq!(rest(&mut client).await, reply(6));
}
