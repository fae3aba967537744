//! Half-close and reset, seen from both sides.

use std::io::ErrorKind;

use crate::world::{NO_AUTH, World, connect_to, expect, reset, rest, soon};
use phantom_proxy::Limits;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

#[tokio::test]
async fn each_side_may_end_alone() {
    let mut world = World::new(Limits::default()).await;
    let (mut client, mut far) = world.connected().await;
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut far).await, b"question");
    far.write_all(b"answer").await.unwrap();
    expect(&mut client, b"answer").await;
    far.write_all(b", later").await.unwrap();
    drop(far);
    assert_eq!(rest(&mut client).await, b", later");

    let (mut client, mut far) = world.connected().await;
    far.shutdown().await.unwrap();
    assert_eq!(rest(&mut client).await, b"");
    client.write_all(b"still here").await.unwrap();
    drop(client);
    assert_eq!(rest(&mut far).await, b"still here");
}

#[tokio::test]
async fn a_reset_is_passed_on_as_a_reset_after_the_bytes_before_it() {
    let mut world = World::new(Limits::default()).await;
    let (mut client, mut far) = world.connected().await;
    far.write_all(b"last words").await.unwrap();
    expect(&mut client, b"last words").await;
    reset(far);
    assert_eq!(client.read(&mut [0]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);

    let (mut client, mut far) = world.connected().await;
    client.write_all(b"last words").await.unwrap();
    expect(&mut far, b"last words").await;
    reset(client);
    assert_eq!(far.read(&mut [0]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_reset_of_a_side_that_has_half_closed_is_noticed_when_it_is_written_to() {
    let mut world = World::new(Limits::default()).await;
    let (mut client, mut far) = world.connected().await;
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut far).await, b"");
    reset(client);
    let chunk = [0; 1024];
    let writing = async { while far.write_all(&chunk).await.is_ok() {} };
    soon(writing).await; // until the far side is reset
}

#[tokio::test]
async fn bulk_goes_both_ways_at_once_and_arrives_whole() {
    let mut world = World::new(Limits::default()).await;
    let (client, far) = world.connected().await;
    let data: Vec<u8> = (0..20_000_003u32).map(|i| (i ^ (i >> 8)) as u8).collect();
    let send = |stream: TcpStream| {
        let data = data.clone();
        tokio::spawn(async move {
            let (mut reader, mut writer) = stream.into_split();
            let sending = tokio::spawn(async move {
                writer.write_all(&data).await.unwrap();
                writer.shutdown().await.unwrap();
            });
            let mut read = Vec::new();
            reader.read_to_end(&mut read).await.unwrap();
            sending.await.unwrap();
            read
        })
    };
    let (at_client, at_far) = (send(client), send(far));
    assert!(at_client.await.unwrap() == data);
    assert!(at_far.await.unwrap() == data);
}

#[tokio::test]
async fn a_client_that_goes_away_ends_its_dialling() {
    let mut world = World::new(Limits::default()).await;
    let client = world.client_saying(&[&NO_AUTH, &connect_to("slow", 80)]).await;
    world.requests.recv().await.unwrap();
    drop(client);
    soon(world.dropped.recv()).await.unwrap();
}

#[tokio::test]
async fn all_clients_end_with_the_proxy() {
    let mut world = World::new(Limits::default()).await;
    let (mut client, _far) = world.connected().await;
    world.serving.abort();
    assert!(!matches!(soon(client.read(&mut [0])).await, Ok(1..)));
}
