//! SOCKS4 and 4a.

use crate::world::{ERRORS, World, expect, rest};
use phantom_proxy::{Access, Config, Host, Isolation, Limits, Password};
use tokio::io::AsyncWriteExt;

const GRANTED: [u8; 8] = [0, 0x5a, 0, 0, 0, 0, 0, 0];
const REJECTED: [u8; 8] = [0, 0x5b, 0, 0, 0, 0, 0, 0];

fn by_name(command: u8, user: &[u8], name: &[u8]) -> Vec<u8> {
    [&[4, command, 0, 80, 0, 0, 0, 7], user, &[0], name, &[0]].concat()
}

#[tokio::test]
async fn addresses_and_names_reach_the_dialler() {
    let mut world = World::new(Limits::default()).await;
    let address = vec![4, 1, 1, 187, 192, 0, 2, 7, 0];
    let alice = Isolation::Credentials { user: b"alice".to_vec(), password: Vec::new() };
    let destinations = [
        (address, Host::Ip("192.0.2.7".parse().unwrap()), 443, Isolation::Default),
        (by_name(1, b"", b"far.example"), Host::Name("far.example".into()), 80, Isolation::Default),
        (by_name(1, b"alice", b"far.example"), Host::Name("far.example".into()), 80, alice),
        (by_name(1, b"", b"[fc00::1]"), Host::Ip("fc00::1".parse().unwrap()), 80, Isolation::Default),
        (vec![4, 1, 0, 80, 0, 0, 0, 0, 0], Host::Ip([0, 0, 0, 0].into()), 80, Isolation::Default),
    ];
    for (bytes, host, port, isolation) in destinations {
        let mut client = world.client_saying(&[&bytes, b"early"]).await;
        expect(&mut client, &GRANTED).await;
        let request = world.requests.recv().await.unwrap();
        assert!(request.host == host && request.port == port && request.isolation == isolation);
        let (mut far, _) = world.far.accept().await.unwrap();
        expect(&mut far, b"early").await;
        far.write_all(b"answer").await.unwrap();
        expect(&mut client, b"answer").await;
    }
}

#[tokio::test]
async fn every_failure_is_5b() {
    let mut world = World::new(Limits::default()).await;
    for (name, _) in ERRORS {
        let mut client = world.client_saying(&[&by_name(1, b"", name.as_bytes())]).await;
        assert_eq!(rest(&mut client).await, REJECTED, "{name}");
        world.requests.recv().await.unwrap();
    }
    let unknown = [by_name(0, b"", b"a"), by_name(3, b"", b"a"), by_name(0xf0, b"", b"a")];
    for request in unknown.into_iter().chain([by_name(1, b"", b""), by_name(1, b"", b"a b")]) {
        let mut client = world.client_saying(&[&request]).await;
        assert_eq!(rest(&mut client).await, REJECTED);
    }
    assert!(world.requests.try_recv().is_err());
}

#[tokio::test]
async fn endless_fields_are_cut_off() {
    let mut world = World::new(Limits::default()).await;
    for request in [by_name(1, &[b'a'; 256], b"far.example"), by_name(1, b"", &[b'a'; 256])] {
        let mut client = world.client_saying(&[&request]).await;
        assert_eq!(rest(&mut client).await, b"");
    }
    assert!(world.requests.try_recv().is_err());
    let longest = by_name(1, &[b'a'; 255], &[b'a'; 255]);
    expect(&mut world.client_saying(&[&longest]).await, &GRANTED).await;
}

#[tokio::test]
async fn it_is_refused_where_a_password_is_wanted() {
    let access = Access::Remote(Password::new("a long password").unwrap());
    let mut world = World::with(Config { access, ..Config::default() }).await;
    let mut client = world.client_saying(&[&by_name(1, b"a long password", b"far.example")]).await;
    assert_eq!(rest(&mut client).await, REJECTED);
    assert!(world.requests.try_recv().is_err());
}
