//! Half-close, reset, time-outs and limits, seen from both sides.

use std::{io::ErrorKind, time::Duration};

use crate::world::{World, connect_to, expect, reply, reset, rest};
use phantom_proxy::Limits;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
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
    timeout(Duration::from_secs(5), writing).await.expect("the far side is reset");
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
    let mut client = world.client().await;
    client.write_all(&[5, 1, 0]).await.unwrap();
    client.write_all(&connect_to("slow", 80)).await.unwrap();
    world.requests.recv().await.unwrap();
    drop(client);
    timeout(Duration::from_secs(5), world.dropped.recv()).await.unwrap().unwrap();
}

#[tokio::test]
async fn dialling_that_takes_too_long_is_code_6() {
    let world = World::new(Limits { dial: Duration::from_millis(50), ..Limits::default() }).await;
    let mut client = world.client().await;
    client.write_all(&[5, 1, 0]).await.unwrap();
    client.write_all(&connect_to("slow", 80)).await.unwrap();
    expect(&mut client, &[5, 0]).await;
    expect(&mut client, &reply(6)).await;
}

#[tokio::test]
async fn a_handshake_that_takes_too_long_is_dropped() {
    let world = World::new(Limits { handshake: Duration::from_millis(50), ..Limits::default() }).await;
    let mut client = world.client().await;
    client.write_all(&[5, 1]).await.unwrap();
    assert!(timeout(Duration::from_secs(5), client.read(&mut [0])).await.is_ok());
}

#[tokio::test]
async fn thousands_that_never_finish_their_handshake_do_not_keep_others_out() {
    let mut world = World::new(Limits { handshakes: 64, ..Limits::default() }).await;
    let mut idle = Vec::new();
    for _ in 0..400 {
        let mut client = world.client().await;
        client.write_all(&[5]).await.unwrap();
        idle.push(client);
    }
    for _ in 0..5 {
        timeout(Duration::from_secs(5), world.connected()).await.expect("an honest client is served");
    }
    sleep(Duration::from_millis(200)).await;
    let mut open = 0;
    for client in &mut idle {
        open += usize::from(timeout(Duration::from_millis(1), client.read(&mut [0])).await.is_err());
    }
    assert!(open <= 64, "{open} unfinished handshakes are kept");
}

#[tokio::test]
async fn one_client_too_many_is_refused_and_comes_in_when_another_has_gone() {
    let mut world = World::new(Limits { clients: 1, ..Limits::default() }).await;
    let (first, far) = world.connected().await;
    let mut second = world.client().await;
    second.write_all(&[5, 1, 0]).await.unwrap();
    second.write_all(&connect_to("far.example", 80)).await.unwrap();
    expect(&mut second, &[5, 0]).await;
    expect(&mut second, &reply(1)).await;
    drop((first, far));
    sleep(Duration::from_millis(200)).await;
    world.connected().await;
}

#[tokio::test]
async fn all_clients_end_with_the_proxy() {
    let mut world = World::new(Limits::default()).await;
    let (mut client, _far) = world.connected().await;
    world.serving.abort();
    assert!(!matches!(timeout(Duration::from_secs(5), client.read(&mut [0])).await.unwrap(), Ok(1..)));
}
