//! Conversations that are cut off, split, damaged or random: none of them panics, hangs or reaches the dialler by mistake.

use std::time::Duration;

use crate::world::{NO_AUTH, World, command, connect_to, expect, pair, reset, rest, soon};
use futures_util::future::join_all;
use phantom_proxy::{Config, Elsewhere, Limits, Pac};
use proptest::{prelude::*, test_runner::TestRunner};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::Runtime,
};

/// What a client says, and what it gets for that before the connection begins. All of them lead to the far side.
fn conversations() -> Vec<(Vec<u8>, Vec<u8>)> {
    let granted = crate::world::reply(0);
    let connected = b"HTTP/1.1 200 Connection established\r\n\r\n";
    let v6 = [&[5, 1, 0, 4][..], &[0xfc; 16], &[0, 80]].concat();
    vec![
        ([&NO_AUTH[..], &connect_to("far.example", 80)].concat(), [&[5, 0], &granted[..]].concat()),
        ([&NO_AUTH[..], &v6].concat(), [&[5, 0], &granted[..]].concat()),
        (
            [pair(b"user", b"word"), connect_to("far.example", 80)].concat(),
            [&[5, 2, 1, 0], &granted[..]].concat(),
        ),
        (b"\x04\x01\x00\x50\x7f\x00\x00\x01user\x00".to_vec(), vec![0, 0x5a, 0, 0, 0, 0, 0, 0]),
        (b"\x04\x01\x00\x50\x00\x00\x00\x01\x00far.example\x00".to_vec(), vec![0, 0x5a, 0, 0, 0, 0, 0, 0]),
        (b"CONNECT far.example:80 HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), connected.to_vec()),
    ]
}

/// The other commands, which end with an answer or with the client.
fn others() -> Vec<Vec<u8>> {
    let socks5 = [2, 3, 0xf0, 0xf1].map(|code| [&NO_AUTH[..], &command(code, "nobody.example", 0)].concat());
    let http = [&b"GET / HTTP/1.1\r\n\r\n"[..], b"GET /proxy.pac HTTP/1.1\r\nHost: localhost\r\n\r\n"];
    socks5.into_iter().chain(http.map(<[u8]>::to_vec)).collect()
}

/// A world whose far side sends everything back. Nobody waits long for somebody else; who speaks may take its time.
async fn echoing() -> World {
    let limits = Limits {
        accept: Duration::from_secs(1),
        handshake: Duration::from_secs(600),
        dial: Duration::from_secs(600),
        ..Limits::default()
    };
    let world =
        World::with(Config { limits, pac: Pac::new("ap", Elsewhere::Here), ..Config::default() }).await;
    let World { proxy, far, requests, dropped, associations, serving } = world;
    let here = far.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut far, _)) = far.accept().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = far.split();
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
            });
        }
    });
    // Nobody accepts here; the echoing side has the address that the dialler knows.
    let far = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    assert_ne!(far.local_addr().unwrap(), here);
    World { proxy, far, requests, dropped, associations, serving }
}

/// Says all, then nothing more, and reads to the end, which must come.
async fn says(world: &World, bytes: &[u8]) {
    let mut client = world.client().await;
    let _ = client.write_all(bytes).await;
    let _ = client.shutdown().await;
    let mut answer = Vec::new();
    let _ = soon(client.read_to_end(&mut answer)).await;
    assert!(answer.len() < 64 * 1024, "{} bytes for {}", answer.len(), bytes.len());
    reset(client);
}

/// An honest client still gets through, and its bytes do.
async fn still_serves(world: &mut World) {
    let (said, answer) = conversations().swap_remove(0);
    let mut client = world.client_saying(&[&said, b"hello"]).await;
    expect(&mut client, &answer).await;
    expect(&mut client, b"hello").await;
    assert!(!world.serving.is_finished());
}

#[tokio::test]
async fn split_anywhere_it_is_the_same() {
    let world = echoing().await;
    for (said, answer) in conversations() {
        for at in 1..said.len() {
            let (first, second) = said.split_at(at);
            let mut client = world.client_saying(&[first]).await;
            // Long enough, mostly, to be read apart; the outcome does not depend on it.
            tokio::time::sleep(Duration::from_millis(1)).await;
            client.write_all(&[second, b"hello"].concat()).await.unwrap();
            expect(&mut client, &answer).await;
            expect(&mut client, b"hello").await;
        }
    }
}

#[tokio::test]
async fn cut_off_anywhere_it_ends_and_reaches_no_dialler() {
    let mut world = echoing().await;
    let whole = conversations().into_iter().map(|(said, _)| said).chain(others());
    for said in whole {
        for at in 0..said.len() {
            says(&world, &said[..at]).await;
            assert!(world.requests.try_recv().is_err(), "{at} of {said:?}");
        }
    }
    still_serves(&mut world).await;
}

#[tokio::test]
async fn a_bad_byte_anywhere_ends_in_order() {
    let mut world = echoing().await;
    for said in conversations().into_iter().map(|(said, _)| said).chain(others()) {
        for at in 0..said.len() {
            for bad in [0, b'\n', said[at] ^ 1, said[at] ^ 0x80, 0xff] {
                let mut damaged = said.clone();
                damaged[at] = bad;
                says(&world, &damaged).await;
            }
        }
    }
    still_serves(&mut world).await;
}

/// Random bytes, with the beginning of a protocol or of a whole conversation in front of them more often than not.
fn inputs() -> impl Strategy<Value = Vec<u8>> {
    let known = conversations().into_iter().map(|(said, _)| said).chain(others()).collect::<Vec<_>>();
    let random = || prop::collection::vec(any::<u8>(), 0..600);
    let begun = (prop::sample::select(vec![&b"\x04"[..], b"\x05", b"GET ", b"\x05\x01\x00\x05"]), random())
        .prop_map(|(begin, rest)| [begin, &rest].concat());
    let spliced = (
        prop::sample::select(known.clone()),
        prop::sample::select(known),
        any::<prop::sample::Index>(),
        random(),
    )
        .prop_map(|(one, other, at, rest)| {
            let at = at.index(one.len());
            [&one[..at], &rest[..rest.len() % 3], &other[at.min(other.len())..], &rest].concat()
        });
    prop_oneof![1 => random(), 2 => begun, 3 => spliced]
}

/// Bytes of this process in memory.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// So many at a time, because one that waits for somebody waits a second.
const AT_ONCE: usize = 50;

fn random_inputs(count: usize) {
    let runtime = Runtime::new().unwrap();
    let world = std::cell::RefCell::new(runtime.block_on(echoing()));
    let before = resident();
    let cases = u32::try_from(count / AT_ONCE).unwrap();
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let inputs = prop::collection::vec(inputs(), AT_ONCE);
    let result = TestRunner::new(config).run(&inputs, |inputs| {
        let mut world = world.borrow_mut();
        runtime.block_on(join_all(inputs.iter().map(|bytes| says(&world, bytes))));
        while world.requests.try_recv().is_ok() || world.dropped.try_recv().is_ok() {}
        while world.associations.try_recv().is_ok() {}
        Ok(())
    });
    result.unwrap();
    runtime.block_on(still_serves(&mut world.borrow_mut()));
    let grown = resident().saturating_sub(before);
    println!("{count} inputs: {} KiB more", grown / 1024);
    assert!(grown < 64 << 20, "{grown} bytes more");
}

#[test]
fn random_inputs_end_in_order() {
    random_inputs(2_000);
}

#[test]
#[ignore = "long: minutes"]
fn very_many_random_inputs_end_in_order() {
    random_inputs(100_000);
}

#[tokio::test]
async fn an_end_that_overtakes_the_reply_loses_nothing() {
    let mut world = echoing().await;
    for (said, answer) in conversations() {
        let mut client = world.client_saying(&[&said, b"hello"]).await;
        client.shutdown().await.unwrap();
        assert_eq!(rest(&mut client).await, [&answer[..], b"hello"].concat());
    }
    still_serves(&mut world).await;
}

#[tokio::test]
async fn clients_that_reset_in_the_middle_end_nothing() {
    let mut world = echoing().await;
    for (said, _) in conversations() {
        for at in 0..said.len() {
            reset(world.client_saying(&[&said[..at]]).await);
        }
        let mut client: TcpStream = world.client_saying(&[&said]).await;
        client.read_exact(&mut [0]).await.unwrap();
        reset(client);
    }
    still_serves(&mut world).await;
}
