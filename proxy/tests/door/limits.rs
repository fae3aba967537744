//! Time-outs, and how much at once.

use std::time::Duration;

use crate::world::{NO_AUTH, World, connect_to, expect, pair, reply, reset, rest, soon};
use futures_util::future::join_all;
use phantom_proxy::Limits;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
};

#[tokio::test]
async fn dialling_that_takes_too_long_is_code_6() {
    let world = World::new(Limits { dial: Duration::from_millis(50), ..Limits::default() }).await;
    let mut client = world.client_saying(&[&NO_AUTH, &connect_to("slow", 80)]).await;
    expect(&mut client, &[5, 0]).await;
    expect(&mut client, &reply(6)).await;
}

#[tokio::test]
async fn a_handshake_that_takes_too_long_is_dropped_wherever_it_stops() {
    // Long enough to say something on a busy machine.
    let world = World::new(Limits { handshake: Duration::from_millis(500), ..Limits::default() }).await;
    let said = [&b""[..], b"\x05\x01", b"\x05\x01\x00\x05\x01", b"\x04\x01", b"CONNECT a:80 HTTP/1.1\r\n"];
    join_all(said.map(async |said| rest(&mut world.client_saying(&[said]).await).await)).await;
}

#[tokio::test]
async fn a_client_that_sends_one_byte_after_another_gets_no_more_time() {
    let world = World::new(Limits { handshake: Duration::from_millis(200), ..Limits::default() }).await;
    let mut client = world.client_saying(&[b"GET /"]).await;
    let dripping = async {
        while client.write_all(b"a").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon(dripping).await;
}

#[tokio::test]
async fn many_that_never_finish_their_handshake_do_not_keep_others_out() {
    const KEPT: usize = 64;
    // None of them goes because its time is over.
    let limits = Limits { handshakes: KEPT, handshake: Duration::from_secs(600), ..Limits::default() };
    let mut world = World::new(limits).await;
    let mut idle = JoinSet::new();
    for number in 0..400 {
        let mut client = world.client_saying(&[&[5]]).await;
        idle.spawn(async move {
            let _end = client.read(&mut [0]).await;
            number
        });
    }
    for _ in 0..5 {
        soon(world.connected()).await;
    }
    while idle.len() > KEPT {
        let gone = soon(idle.join_next()).await.unwrap().unwrap();
        assert!(gone < 400 - KEPT / 2, "the youngest unfinished handshakes are kept, not number {gone}");
    }
}

#[tokio::test]
async fn one_client_too_many_is_refused_and_comes_in_when_another_has_gone() {
    let mut world = World::new(Limits { clients: 1, ..Limits::default() }).await;
    let (first, far) = world.connected().await;
    let mut second = world.client_saying(&[&NO_AUTH, &connect_to("far.example", 80)]).await;
    expect(&mut second, &[5, 0]).await;
    expect(&mut second, &reply(1)).await;
    drop(second);
    reset(first);
    reset(far);
    soon(comes_in(&mut world, &NO_AUTH, &[5, 0])).await;
}

#[tokio::test]
async fn a_full_group_is_refused_and_keeps_no_other_out() {
    let mut world = World::new(Limits { group: 1, ..Limits::default() }).await;
    let (first, far) = world.connected().await;
    let mut same = world.client_saying(&[&NO_AUTH, &connect_to("far.example", 80)]).await;
    expect(&mut same, &[5, 0]).await;
    expect(&mut same, &reply(1)).await;
    let mut other = world.client_saying(&[&pair(b"", b""), &connect_to("far.example", 80)]).await;
    expect(&mut other, &[5, 2, 1, 0]).await;
    expect(&mut other, &reply(0)).await;
    reset(first);
    reset(far);
    soon(comes_in(&mut world, &NO_AUTH, &[5, 0])).await;
}

/// Tries until a client is let in.
async fn comes_in(world: &mut World, greeting: &[u8], answer: &[u8]) {
    loop {
        let mut client = world.client_saying(&[greeting, &connect_to("far.example", 80)]).await;
        expect(&mut client, answer).await;
        let mut read = [0; 10];
        client.read_exact(&mut read).await.unwrap();
        if read == reply(0) {
            return;
        }
    }
}
