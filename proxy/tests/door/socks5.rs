//! What SOCKS5 clients may say, what they get for it, and what the dialler hears of it.

use std::time::Duration;

use crate::world::{ERRORS, NO_AUTH, World, connect_to, expect, pair, reply, rest};
use phantom_proxy::{Access, Config, Host, Isolation, Limits, Password};
use tokio::{io::AsyncWriteExt, time::timeout};

#[tokio::test]
async fn every_kind_of_destination_reaches_the_dialler() {
    let mut world = World::new(Limits::default()).await;
    let v4 = vec![5, 1, 0, 1, 192, 0, 2, 7, 0, 80];
    let v6 = [&[5, 1, 0, 4][..], &[0xfc; 16], &[1, 187]].concat();
    let destinations = [
        (v4, Host::Ip("192.0.2.7".parse().unwrap()), 80),
        (v6, Host::Ip("fcfc:fcfc:fcfc:fcfc:fcfc:fcfc:fcfc:fcfc".parse().unwrap()), 443),
        (connect_to("www.example.ap", 8000), Host::Name("www.example.ap".into()), 8000),
        (connect_to("192.0.2.9", 1), Host::Ip("192.0.2.9".parse().unwrap()), 1),
    ];
    for (bytes, host, port) in destinations {
        let mut client = world.client_saying(&[&NO_AUTH, &bytes]).await;
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
        let mut client = world.client_saying(&[&pair(user, password), &connect_to("far.example", 80)]).await;
        expect(&mut client, &[5, 2, 1, 0]).await;
        expect(&mut client, &reply(0)).await;
        let expected = Isolation::Credentials { user: user.to_vec(), password: password.to_vec() };
        assert!(world.requests.recv().await.unwrap().isolation == expected);
    }
}

#[tokio::test]
async fn each_error_has_its_code() {
    let plain = (1..=8).chain([4, 4, 4, 4, 2, 2, 4, 6]).collect::<Vec<u8>>();
    let extended = (1..=8).chain(0xf0..=0xf7).collect();
    for (extended_errors, codes) in [(false, plain), (true, extended)] {
        let world = World::with(Config { extended_errors, ..Config::default() }).await;
        assert_eq!(codes.len(), ERRORS.len());
        for ((name, _), code) in ERRORS.iter().zip(codes) {
            // Bytes that nobody reads must not turn the answer into a reset.
            let ahead = b"GET / HTTP/1.1\r\n\r\n";
            let mut client = world.client_saying(&[&NO_AUTH, &connect_to(name, 80), ahead]).await;
            client.shutdown().await.unwrap();
            expect(&mut client, &[5, 0]).await;
            assert_eq!(rest(&mut client).await, reply(code), "{name}");
        }
    }
}

#[tokio::test]
async fn an_unknown_command_is_code_7() {
    let mut world = World::new(Limits::default()).await;
    for command in [0, 4, 0x7f, 0xef, 0xf2, 0xff] {
        let request = [5, command, 0, 1, 127, 0, 0, 1, 0, 80];
        let mut client = world.client_saying(&[&NO_AUTH, &request]).await;
        expect(&mut client, &[5, 0]).await;
        assert_eq!(rest(&mut client).await, reply(7), "command {command}");
    }
    assert!(world.requests.try_recv().is_err());
}

#[tokio::test]
async fn an_unknown_kind_of_address_is_code_8_and_an_impossible_name_code_1() {
    let mut world = World::new(Limits::default()).await;
    let not_utf8 = vec![5, 1, 0, 3, 2, 0xc3, 0x28, 0, 80];
    let requests = [
        (vec![5, 1, 0, 0, 0, 0], 8),
        (vec![5, 1, 0, 2, 0, 0], 8),
        (vec![5, 1, 0, 9, 0, 0], 8),
        (connect_to("", 80), 1),
        (connect_to("a\0b", 80), 1),
        (not_utf8, 1),
    ];
    for (request, code) in requests {
        let mut client = world.client_saying(&[&NO_AUTH, &request]).await;
        expect(&mut client, &[5, 0]).await;
        assert_eq!(rest(&mut client).await, reply(code));
    }
    assert!(world.requests.try_recv().is_err());
}

#[tokio::test]
async fn no_common_method_is_answered_with_ff() {
    let world = World::new(Limits::default()).await;
    for greeting in [&[5, 1, 1][..], &[5, 0], &[5, 3, 1, 3, 0xff]] {
        let mut client = world.client_saying(&[greeting]).await;
        assert_eq!(rest(&mut client).await, [5, 0xff]);
    }
}

#[tokio::test]
async fn a_wrong_version_inside_closes_without_an_answer() {
    let mut world = World::new(Limits::default()).await;
    let mut bad_pair = pair(b"u", b"p");
    bad_pair[4] = 5;
    let mut client = world.client_saying(&[&bad_pair, &connect_to("far.example", 80)]).await;
    assert_eq!(rest(&mut client).await, [5, 2]);
    let mut bad_request = connect_to("far.example", 80);
    bad_request[0] = 4;
    let mut client = world.client_saying(&[&NO_AUTH, &bad_request]).await;
    assert_eq!(rest(&mut client).await, [5, 0]);
    assert!(world.requests.try_recv().is_err());
}

#[tokio::test]
async fn a_handshake_may_come_byte_by_byte_and_its_data_at_once() {
    let world = World::new(Limits::default()).await;
    let mut client = world.client().await;
    for byte in [pair(b"u", b"p"), connect_to("far.example", 80)].concat() {
        client.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    client.write_all(b"early").await.unwrap();
    let (mut far, _) = world.far.accept().await.unwrap();
    expect(&mut far, b"early").await;
    expect(&mut client, &[5, 2, 1, 0]).await;
    expect(&mut client, &reply(0)).await;
}

#[tokio::test]
async fn megabytes_sent_ahead_of_the_reply_arrive_whole() {
    let world = World::new(Limits::default()).await;
    let data: Vec<u8> = (0..3_000_001u32).map(|i| (i ^ (i >> 8)) as u8).collect();
    let client = world.client().await;
    let (_reader, mut writer) = client.into_split();
    let sent = [&NO_AUTH[..], &connect_to("far.example", 80), &data].concat();
    tokio::spawn(async move {
        writer.write_all(&sent).await.unwrap();
        writer.shutdown().await.unwrap();
    });
    let (mut far, _) = world.far.accept().await.unwrap();
    assert!(rest(&mut far).await == data);
}

fn remote() -> Access {
    Access::Remote(Password::new("a long password").unwrap())
}

#[tokio::test]
async fn a_proxy_for_other_machines_wants_its_password() {
    let mut world = World::with(Config { access: remote(), ..Config::default() }).await;
    let mut client = world.client_saying(&[&NO_AUTH]).await;
    assert_eq!(rest(&mut client).await, [5, 0xff]);
    for wrong in [&b""[..], b"a long passwore", b"a long password "] {
        let mut client = world.client_saying(&[&pair(b"alice", wrong), &connect_to("far.example", 80)]).await;
        assert_eq!(rest(&mut client).await, [5, 2, 1, 1]);
    }
    assert!(world.requests.try_recv().is_err());
    let right = pair(b"alice", b"a long password");
    let mut client = world.client_saying(&[&right, &connect_to("far.example", 80)]).await;
    expect(&mut client, &[5, 2, 1, 0]).await;
    expect(&mut client, &reply(0)).await;
    let group = Isolation::Credentials { user: b"alice".to_vec(), password: Vec::new() };
    assert!(world.requests.recv().await.unwrap().isolation == group);
}

#[tokio::test]
async fn a_port_that_others_can_reach_is_refused_without_a_password() {
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
    assert!(Password::new("short").is_none());
    let open = || async { tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap() };
    let proxy = phantom_proxy::Proxy::default();
    let Err(error) = proxy.serve(open().await, std::sync::Arc::new(Never)).await;
    assert!(error.to_string().contains("other machines"), "{error}");
    let proxy = phantom_proxy::Proxy::new(Config { access: remote(), ..Config::default() });
    let serving = proxy.serve(open().await, std::sync::Arc::new(Never));
    assert!(timeout(Duration::from_millis(100), serving).await.is_err(), "it serves");
}
