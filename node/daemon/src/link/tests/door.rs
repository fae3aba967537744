use phantom_protocol::wire::cell::{CELL, Command};
use rustls::{CipherSuite, ClientConfig};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};

use super::*;

/// A stranger who knows the node's TLS key, as every visitor does that ignores certificates.
async fn stranger(node: &Node) -> TlsStream<TcpStream> {
    stranger_with(node, tls::client_config(node.contact.tls_keys).unwrap()).await
}

async fn stranger_with(node: &Node, config: Arc<ClientConfig>) -> TlsStream<TcpStream> {
    let name = tls::server_name(&node.contact.tls_keys).unwrap();
    let tcp = TcpStream::connect(node.address()).await.unwrap();
    TlsConnector::from(config).connect(name, tcp).await.unwrap()
}

async fn answer(stream: &mut TlsStream<TcpStream>) -> String {
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_wrong_tls_key_gets_not_a_byte() {
    let mut a = node(1);
    let other = TlsIdentity::generate(a.clock.unix()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        TlsAcceptor::from(tls::server_config(&other).unwrap()).accept(tcp).await.map(|_| ())
    });
    a.links.dial(Contact::listed(secret(2).id(), address, TlsKeys::one([9; 32])));
    assert!(matches!(a.dial_failed().await, DialError::WrongTlsKey));
    // TLS itself was broken off: there was no encrypted connection to send anything on.
    assert!(served.await.unwrap().is_err());
}

#[tokio::test]
async fn the_right_tls_key_with_another_node_behind_it_is_no_link() {
    let (mut a, mut b) = (node(1), node(2));
    a.links.dial(Contact::listed(secret(3).id(), b.address(), b.contact.tls_keys));
    assert!(matches!(a.dial_failed().await, DialError::NotANode));
    b.stays_quiet().await;
}

#[tokio::test]
async fn a_node_of_another_network_is_a_stranger() {
    let mut a = start(LinkConfig { network: Network::private("other"), ..config(1) });
    let mut b = node(2);
    a.links.dial(b.contact);
    assert!(matches!(a.dial_failed().await, DialError::NotANode));
    b.stays_quiet().await;
}

#[tokio::test]
async fn private_addresses_and_unlisted_nodes_are_not_dialled() {
    let network = Network { private_addresses: false, ..Network::private("strict") };
    let mut a = start(LinkConfig { network, ..config(1) });
    a.links.dial(node(2).contact);
    assert!(matches!(a.dial_failed().await, DialError::NotPublic(_)));
    a.links.dial(Contact::unlisted(secret(3).id()));
    assert!(matches!(a.dial_failed().await, DialError::Unlisted));
}

#[tokio::test]
async fn nobody_listening_is_said_so() {
    let mut a = node(1);
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    a.links.dial(Contact::listed(secret(2).id(), free, TlsKeys::one([9; 32])));
    let why = a.dial_failed().await;
    assert!(matches!(why, DialError::Connect { .. }), "{why}");
    // The next dial is a new one.
    assert_eq!(a.links.dial(Contact::listed(secret(2).id(), free, TlsKeys::one([9; 32]))), Dial::UnderWay);
}

#[tokio::test]
async fn a_node_dials_from_the_address_that_it_is_given() {
    let mut a = start(LinkConfig { source: Some("127.16.0.1".parse().unwrap()), ..config(1) });
    let mut b = start(LinkConfig { listen: Some("127.17.0.1:0".parse().unwrap()), ..config(2) });
    a.links.dial(b.contact);
    let LinkEvent::Up { address, .. } = b.event().await else { panic!() };
    assert_eq!(address.ip().to_string(), "127.16.0.1");
    a.up().await;
}

#[tokio::test]
async fn nodes_agree_on_aes_128_and_a_dialler_without_it_is_served_too() {
    let a = node(1);
    let stream = stranger(&a).await;
    assert_eq!(suite_of(&stream), CipherSuite::TLS13_AES_128_GCM_SHA256);

    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|suite| suite.suite() == CipherSuite::TLS13_CHACHA20_POLY1305_SHA256);
    let config = tls::client_config_with(Arc::new(provider), a.contact.tls_keys).unwrap();
    let mut stream = stranger_with(&a, config).await;
    assert_eq!(suite_of(&stream), CipherSuite::TLS13_CHACHA20_POLY1305_SHA256);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert!(answer(&mut stream).await.starts_with("HTTP/1.1 400 Bad Request\r\n"));
}

fn suite_of(stream: &TlsStream<TcpStream>) -> CipherSuite {
    stream.get_ref().1.negotiated_cipher_suite().unwrap().suite()
}

#[tokio::test]
async fn strangers_meet_a_web_server() {
    let mut a = node(1);
    let mut hello = vec![Command::Hello as u8; CELL];
    hello[15] = 0;
    for said in [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], b"\0\0\0", b"POST", &hello, &hello[..100]] {
        let mut stream = stranger(&a).await;
        stream.write_all(said).await.unwrap();
        // Half a request or half a proof ends with the connection.
        stream.shutdown().await.unwrap();
        let answer = answer(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
    }
    a.stays_quiet().await;
}

#[tokio::test]
async fn who_says_something_else_than_a_whole_hello_is_not_kept_waiting() {
    let a = start(LinkConfig { handshake_timeout: 10 * PATIENCE, ..config(1) });
    for length in [1, 2, 100, CELL - 1, CELL, CELL + 1] {
        let mut prober = stranger(&a).await;
        prober.write_all(&vec![Command::Hello as u8; length]).await.unwrap();
        assert!(answer(&mut prober).await.starts_with("HTTP/1.1 400"), "{length} bytes");
    }
}

#[tokio::test]
async fn who_proves_nothing_in_time_meets_the_web_server_too() {
    // Long enough for TLS on a busy machine.
    let a = start(LinkConfig { handshake_timeout: Duration::from_secs(2), ..config(1) });
    let mut idle = TcpStream::connect(a.address()).await.unwrap();
    let mut silent = stranger(&a).await;
    assert!(answer(&mut silent).await.starts_with("HTTP/1.1 400"));

    let mut nothing = Vec::new();
    timeout(PATIENCE, idle.read_to_end(&mut nothing)).await.unwrap().unwrap();
    assert!(nothing.is_empty());
}

#[tokio::test]
async fn garbage_below_tls_is_survived() {
    let (mut a, mut b) = (node(1), node(2));
    for garbage in [
        &[0u8; 4000][..],
        &[0x16, 3, 1, 0xff, 0xff, 1, 0, 0],
        b"GET / HTTP/1.1\r\n\r\n",
        &[0xff; 70_000],
        // A goodbye before all, and more.
        &[0x15, 3, 3, 0, 2, 1, 0, 0x16, 3, 1, 0, 1, 1],
    ] {
        let mut tcp = TcpStream::connect(a.address()).await.unwrap();
        // It may be reset while we still write.
        let _ = tcp.write_all(garbage).await;
    }
    link(&mut b, &mut a).await;
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_idle_connections_do_not_keep_an_honest_peer_out() {
    const IDLE: usize = 2_000;
    const HELD: usize = 128;
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most.min(16_384), most).unwrap();

    // None of them goes because its time is over.
    let mut a = start(LinkConfig { handshake_timeout: 10 * PATIENCE, ..config(1) });
    let before = resident_bytes();
    let mut idle = JoinSet::new();
    for number in 0..IDLE {
        let mut tcp = TcpStream::connect(a.address()).await.unwrap();
        if number % 2 == 0 {
            // The beginning of a TLS record that never ends.
            let _ = tcp.write_all(&[0x16, 3, 1, 0x20, 0, 1, 0, 0x1f, 0xfc]).await;
        }
        idle.spawn(async move { tcp.read(&mut [0; 64]).await.is_ok() });
    }
    let mut half_done = Vec::new();
    for _ in 0..100 {
        half_done.push(stranger(&a).await);
    }
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes for strangers");

    let mut honest = node(2);
    link(&mut honest, &mut a).await;

    let ends = async {
        while idle.len() > HELD {
            idle.join_next().await;
        }
    };
    let ended = timeout(PATIENCE, ends).await;
    assert!(ended.is_ok(), "{} idle connections of one prefix are still held", idle.len());
}

/// A member of the network that dials in and then says nothing.
async fn idle_member(number: u64, victim: &Node) -> Node {
    let node = Arc::new(NodeSecret::generate(&mut ChaCha20Rng::seed_from_u64(number)));
    let source = Some("127.66.0.1".parse().unwrap());
    let mut member = start(LinkConfig { node, source, listen: None, listed: false, ..config(0) });
    assert_eq!(member.links.dial(victim.contact), Dial::UnderWay);
    member.up().await;
    member
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_members_keeps_no_honest_one_out_and_none_loses_its_link() {
    const PLACES: usize = 40;
    let mut a = start(LinkConfig { links: PLACES, ..config(1) });
    let mut flood = Vec::new();
    for number in 0..100 {
        flood.push(idle_member(number, &a).await);
    }
    let mut honest = start(LinkConfig { source: Some("127.16.0.1".parse().unwrap()), ..config(2) });
    assert_eq!(honest.links.dial(a.contact), Dial::UnderWay);
    let link = honest.up().await;
    for number in 100..200 {
        flood.push(idle_member(number, &a).await);
    }
    assert_eq!(a.links.stats().len(), PLACES);
    assert!(honest.links.send(link, &ControlMessage::Partner));
    loop {
        match a.event().await {
            LinkEvent::Message { link, .. } => {
                assert_eq!(a.links.link_to(&honest.id()), Some(link));
                break;
            }
            LinkEvent::Up { .. } | LinkEvent::Down { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(honest.events.try_recv().is_none());
}
