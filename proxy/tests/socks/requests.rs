//! What clients may say, what they get for it, and what the dialler hears of it.

use std::time::Duration;

use crate::world::{World, connect_to, expect, reply, rest};
use phantom_proxy::{Host, Isolation, Limits};
use tokio::{io::AsyncWriteExt, time::timeout};

#[tokio::test]
async fn every_kind_of_destination_reaches_the_dialler() {
    let mut world = World::new(Limits::default()).await;
    let v4 = vec![5, 1, 0, 1, 192, 0, 2, 7, 0, 80];
    let mut v6 = vec![5, 1, 0, 4];
    v6.extend_from_slice(&[0xfc; 16]);
    v6.extend_from_slice(&[1, 187]);
    let destinations = [
        (v4, Host::Ip("192.0.2.7".parse().unwrap()), 80),
        (v6, Host::Ip("fcfc:fcfc:fcfc:fcfc:fcfc:fcfc:fcfc:fcfc".parse().unwrap()), 443),
        (connect_to("www.example.ap", 8000), Host::Name("www.example.ap".into()), 8000),
        (connect_to("192.0.2.9", 1), Host::Ip("192.0.2.9".parse().unwrap()), 1),
    ];
    for (bytes, host, port) in destinations {
        let mut client = world.client().await;
        client.write_all(&[5, 1, 0]).await.unwrap();
        client.write_all(&bytes).await.unwrap();
        expect(&mut client, &[5, 0]).await;
        expect(&mut client, &reply(0)).await;
        let request = world.requests.recv().await.unwrap();
        assert!(request.host == host && request.port == port && request.isolation == Isolation::Default);
    }
}

#[tokio::test]
async fn any_pair_is_accepted_and_is_the_group() {
    let mut world = World::new(Limits::default()).await;
    for (user, password) in
        [(&b"alice"[..], &b"secret"[..]), (b"", b""), (b"alice", b""), (&[0xff, 0], &[0x80; 255])]
    {
        let mut client = world.client().await;
        client.write_all(&[5, 2, 0, 2]).await.unwrap();
        expect(&mut client, &[5, 2]).await;
        let mut pair = vec![1, user.len() as u8];
        pair.extend_from_slice(user);
        pair.push(password.len() as u8);
        pair.extend_from_slice(password);
        client.write_all(&pair).await.unwrap();
        expect(&mut client, &[1, 0]).await;
        client.write_all(&connect_to("far.example", 80)).await.unwrap();
        expect(&mut client, &reply(0)).await;
        let expected = Isolation::Credentials { user: user.to_vec(), password: password.to_vec() };
        assert!(world.requests.recv().await.unwrap().isolation == expected);
    }
}

#[tokio::test]
async fn each_error_has_its_code() {
    let world = World::new(Limits::default()).await;
    let names = ["failed", "not-allowed", "no-network", "no-host", "refused", "timed-out"];
    for (name, code) in names.into_iter().zip(1..).chain([("not-supported", 8)]) {
        let mut client = world.client().await;
        client.write_all(&[5, 1, 0]).await.unwrap();
        client.write_all(&connect_to(name, 80)).await.unwrap();
        // Bytes that nobody reads must not turn the answer into a reset.
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        client.shutdown().await.unwrap();
        expect(&mut client, &[5, 0]).await;
        assert_eq!(rest(&mut client).await, reply(code), "{name}");
    }
}

#[tokio::test]
async fn only_connect_is_served() {
    let mut world = World::new(Limits::default()).await;
    for command in [0, 2, 3, 4, 0xf0, 0xf1, 0xff] {
        let mut client = world.client().await;
        client.write_all(&[5, 1, 0]).await.unwrap();
        client.write_all(&[5, command, 0, 1, 127, 0, 0, 1, 0, 80]).await.unwrap();
        expect(&mut client, &[5, 0]).await;
        client.shutdown().await.unwrap();
        assert_eq!(rest(&mut client).await, reply(7), "command {command}");
    }
    assert!(world.requests.try_recv().is_err());
}

#[tokio::test]
async fn an_unknown_kind_of_address_is_code_8_and_an_impossible_name_code_1() {
    let mut world = World::new(Limits::default()).await;
    for (request, code) in [(vec![5, 1, 0, 9, 0, 0], 8), (connect_to("", 80), 1), (connect_to("a\0b", 80), 1)]
    {
        let mut client = world.client().await;
        client.write_all(&[5, 1, 0]).await.unwrap();
        client.write_all(&request).await.unwrap();
        expect(&mut client, &[5, 0]).await;
        client.shutdown().await.unwrap();
        assert_eq!(rest(&mut client).await, reply(code));
    }
    assert!(world.requests.try_recv().is_err());
}

#[tokio::test]
async fn no_common_method_is_answered_with_ff() {
    let world = World::new(Limits::default()).await;
    let mut client = world.client().await;
    client.write_all(&[5, 1, 1]).await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut client).await, [5, 0xff]);
}

#[tokio::test]
async fn a_browser_that_takes_it_for_an_http_proxy_is_told() {
    let world = World::new(Limits::default()).await;
    let mut client = world.client().await;
    client.write_all(b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com\r\n\r\n").await.unwrap();
    client.shutdown().await.unwrap();
    let answer = String::from_utf8(rest(&mut client).await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 501 ") && answer.contains("SOCKS5"), "{answer}");
}

#[tokio::test]
async fn a_handshake_may_come_byte_by_byte_and_its_data_at_once() {
    let world = World::new(Limits::default()).await;
    let mut client = world.client().await;
    client.set_nodelay(true).unwrap();
    let mut bytes = vec![5, 2, 0, 2, 1, 1, b'u', 1, b'p'];
    bytes.extend_from_slice(&connect_to("far.example", 80));
    for byte in bytes {
        client.write_all(&[byte]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    client.write_all(b"early").await.unwrap();
    let (mut far, _) = world.far.accept().await.unwrap();
    expect(&mut far, b"early").await;
    expect(&mut client, &[5, 2, 1, 0]).await;
    expect(&mut client, &reply(0)).await;
}

#[tokio::test]
async fn a_truncated_handshake_ends_quietly_at_every_length() {
    let mut world = World::new(Limits::default()).await;
    let mut bytes = vec![5, 1, 2, 1, 1, b'u', 1, b'p'];
    bytes.extend_from_slice(&connect_to("far.example", 80));
    for length in 0..bytes.len() {
        let mut client = world.client().await;
        client.write_all(&bytes[..length]).await.unwrap();
        client.shutdown().await.unwrap();
        timeout(Duration::from_secs(5), rest(&mut client)).await.unwrap();
    }
    assert!(world.requests.try_recv().is_err());
}

#[tokio::test]
async fn garbage_never_reaches_the_dialler_nor_ends_the_proxy() {
    let mut world = World::new(Limits::default()).await;
    let mut state = 1u64;
    for round in 0..300 {
        let mut client = world.client().await;
        let garbage: Vec<u8> = (0..round)
            .map(|_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 56) as u8
            })
            .collect();
        let _ = client.write_all(&garbage).await;
        let _ = client.shutdown().await;
    }
    assert!(world.requests.try_recv().is_err());
    world.connected().await;
}

#[tokio::test]
async fn a_port_that_others_can_reach_is_refused_unless_it_is_wanted() {
    struct Never;
    impl phantom_proxy::Dial for Never {
        type Connection = tokio::net::TcpStream;
        async fn dial(
            &self,
            _: phantom_proxy::Request,
        ) -> Result<Self::Connection, phantom_proxy::DialError> {
            Err(phantom_proxy::DialError::Failed)
        }
    }
    let open = || async { tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap() };
    let proxy = phantom_proxy::Proxy::default();
    let Err(error) = proxy.serve(open().await, std::sync::Arc::new(Never)).await;
    assert!(error.to_string().contains("other machines"), "{error}");
    let proxy = proxy.allow_remote();
    let serving = proxy.serve(open().await, std::sync::Arc::new(Never));
    assert!(timeout(Duration::from_millis(100), serving).await.is_err(), "it serves");
}
