//! Tor's RESOLVE and RESOLVE_PTR.

use crate::world::{ADDRESS, NO_AUTH, World, command, expect, reply, rest};
use phantom_proxy::{Dial, DialError, Host, Limits, Proxy, Request};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
};

const RESOLVE: u8 = 0xf0;
const RESOLVE_PTR: u8 = 0xf1;

#[tokio::test]
async fn a_name_is_answered_with_its_address() {
    let mut world = World::new(Limits::default()).await;
    let mut client = world.client_saying(&[&NO_AUTH, &command(RESOLVE, "some.example", 0)]).await;
    expect(&mut client, &[5, 0]).await;
    assert_eq!(rest(&mut client).await, [&[5, 0, 0, 4], &ADDRESS[..], &[0, 0]].concat());
    assert!(world.requests.recv().await.unwrap().host == Host::Name("some.example".into()));

    let mut client = world.client_saying(&[&NO_AUTH, &command(RESOLVE, "no-host", 0)]).await;
    expect(&mut client, &[5, 0]).await;
    assert_eq!(rest(&mut client).await, reply(4));
}

#[tokio::test]
async fn an_address_is_its_own_answer_and_needs_no_dialler() {
    let mut world = World::new(Limits::default()).await;
    let mut client = world.client_saying(&[&NO_AUTH, &command(RESOLVE, "192.0.2.7", 0)]).await;
    expect(&mut client, &[5, 0]).await;
    assert_eq!(rest(&mut client).await, [5, 0, 0, 1, 192, 0, 2, 7, 0, 0]);
    assert!(world.requests.try_recv().is_err());
}

#[tokio::test]
async fn an_address_is_answered_with_its_name() {
    let world = World::new(Limits::default()).await;
    let known = [&[5, RESOLVE_PTR, 0, 4], &ADDRESS[..], &[0, 0]].concat();
    let mut client = world.client_saying(&[&NO_AUTH, &known]).await;
    expect(&mut client, &[5, 0]).await;
    assert_eq!(rest(&mut client).await, [&[5, 0, 0, 3, 13], &b"known.example"[..], &[0, 0]].concat());

    let unknown = [5, RESOLVE_PTR, 0, 1, 192, 0, 2, 7, 0, 0];
    for (request, code) in [(unknown.to_vec(), 4), (command(RESOLVE_PTR, "a.name", 0), 8)] {
        let mut client = world.client_saying(&[&NO_AUTH, &request]).await;
        expect(&mut client, &[5, 0]).await;
        assert_eq!(rest(&mut client).await, reply(code));
    }
}

#[tokio::test]
async fn a_dialler_that_only_dials_answers_everything_else_with_code_7() {
    struct OnlyDials;
    impl Dial for OnlyDials {
        type Connection = TcpStream;
        async fn dial(&self, _: Request) -> Result<TcpStream, DialError> {
            Err(DialError::Failed)
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let here = listener.local_addr().unwrap();
    tokio::spawn(async move { Proxy::default().serve(listener, std::sync::Arc::new(OnlyDials)).await });
    let reverse = [5, RESOLVE_PTR, 0, 1, 192, 0, 2, 7, 0, 0].to_vec();
    let others = [command(2, "a", 1), command(3, "a", 1), command(RESOLVE, "a", 1), reverse];
    for (request, code) in others.into_iter().map(|request| (request, 7)).chain([(command(1, "a", 1), 1)]) {
        let mut client = TcpStream::connect(here).await.unwrap();
        client.write_all(&[&NO_AUTH[..], &request].concat()).await.unwrap();
        expect(&mut client, &[5, 0]).await;
        assert_eq!(rest(&mut client).await, reply(code));
    }
}
