//! The zone as its clients see it: an unchanged resolver over both transports, and messages by hand.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use hickory_proto::{
    op::{Edns, Message, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name, RecordType},
    serialize::binary::{BinDecodable, BinEncodable},
};
use hickory_resolver::{
    Resolver, TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolverConfig},
    net::runtime::TokioRuntimeProvider,
};
use phantom_resolver::{Data, Elsewhere, Lookup, NoAnswer, Wanted, respond, serve};
use proptest::prelude::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    task::JoinHandle,
    time::timeout,
};

const ALIAS: Ipv4Addr = Ipv4Addr::new(127, 200, 1, 2);
const ADDRESS: Ipv6Addr = Ipv6Addr::new(0xfc01, 2, 3, 4, 5, 6, 7, 8);

/// Knows `known.ap` and its subdomains, a host without addresses, and one with long texts.
struct Book;

impl Lookup for Book {
    fn lookup(&self, host: &str, wanted: Wanted) -> Result<Vec<Data>, NoAnswer> {
        match (host, wanted) {
            ("known.ap" | "www.known.ap", Wanted::A) => Ok(vec![Data::A(ALIAS)]),
            ("known.ap" | "www.known.ap", Wanted::Aaaa) => Ok(vec![Data::Aaaa(ADDRESS)]),
            ("_x._tcp.known.ap", Wanted::Srv) => {
                Ok(vec![Data::Srv { priority: 1, weight: 2, port: 3, target: "known.ap".into() }])
            }
            ("known.ap", Wanted::Https) => {
                Ok(vec![Data::Https { priority: 1, target: None, alpn: vec!["h2".into()], port: Some(8443) }])
            }
            ("long.ap", Wanted::Txt) => Ok(vec![Data::Txt(vec!["x".repeat(200); 5])]),
            ("longer.ap", Wanted::Txt) => Ok(vec![Data::Txt(vec!["x".repeat(200); 50])]),
            ("known.ap" | "www.known.ap" | "_x._tcp.known.ap" | "bare.ap", _) => Ok(vec![]),
            ("broken.ap", _) => Err(NoAnswer::Failed),
            _ => Err(NoAnswer::NoSuchName),
        }
    }

    fn reverse(&self, address: IpAddr) -> Result<String, NoAnswer> {
        if address == ALIAS || address == ADDRESS { Ok("known.ap".into()) } else { Err(NoAnswer::NoSuchName) }
    }
}

struct Served {
    at: SocketAddr,
    task: JoinHandle<std::io::Result<()>>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn start() -> Served {
    // The same port for both transports: the kernel picks it for one, the other may have to try again.
    loop {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = tcp.local_addr().unwrap();
        if let Ok(udp) = UdpSocket::bind(at).await {
            return Served { at, task: tokio::spawn(serve(udp, tcp, Book)) };
        }
    }
}

fn client(at: SocketAddr, mut connection: ConnectionConfig) -> TokioResolver {
    connection.port = at.port();
    let server = NameServerConfig::new(at.ip(), true, vec![connection]);
    let config = ResolverConfig::from_parts(None, vec![], vec![server]);
    let mut builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
    builder.options_mut().attempts = 1;
    builder.build().unwrap()
}

/// One message by UDP, and its response.
async fn ask(at: SocketAddr, message: &Message) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&message.to_bytes().unwrap(), at).await.unwrap();
    let mut buffer = [0; 4096];
    let length = timeout(Duration::from_secs(5), socket.recv(&mut buffer)).await.unwrap().unwrap();
    let response = Message::from_bytes(&buffer[..length]).unwrap();
    assert_eq!(response.metadata.id, message.metadata.id);
    response
}

fn question(name: &str, wanted: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.id = 4711;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), wanted));
    message
}

#[tokio::test]
async fn a_resolver_finds_names_over_both_transports() {
    let served = start().await;
    for transport in [ConnectionConfig::udp(), ConnectionConfig::tcp()] {
        let resolver = client(served.at, transport);
        for name in ["known.ap.", "WWW.KNOWN.AP."] {
            let v4 = resolver.lookup(name, RecordType::A).await.unwrap();
            assert_eq!(v4.answers().len(), 1);
            assert_eq!(v4.answers()[0].data.ip_addr(), Some(ALIAS.into()));
            let v6 = resolver.lookup(name, RecordType::AAAA).await.unwrap();
            assert_eq!(v6.answers()[0].data.ip_addr(), Some(ADDRESS.into()));
        }
        let names = resolver.reverse_lookup(ADDRESS).await.unwrap();
        assert_eq!(names.answers()[0].data.to_string(), "known.ap.");
    }
}

#[tokio::test]
async fn an_alias_has_a_name_too() {
    // By hand: this resolver answers for 127.0.0.0/8 itself.
    let served = start().await;
    let response = ask(served.at, &question("2.1.200.127.in-addr.arpa.", RecordType::PTR)).await;
    assert_eq!(response.answers[0].data.to_string(), "known.ap.");
}

#[tokio::test]
async fn a_no_is_a_believable_no() {
    let served = start().await;
    let resolver = client(served.at, ConnectionConfig::udp());
    let unknown = resolver.lookup("unknown.ap.", RecordType::A).await.unwrap_err();
    assert!(unknown.is_nx_domain(), "{unknown}");
    for (name, wanted) in
        [("known.ap.", RecordType::MX), ("bare.ap.", RecordType::A), ("known.ap.", RecordType::TXT)]
    {
        let response = ask(served.at, &question(name, wanted)).await;
        assert_eq!(response.metadata.response_code, ResponseCode::NoError, "{name}");
        assert!(response.answers.is_empty());
        assert_eq!(response.authorities[0].record_type(), RecordType::SOA);
        assert!(response.metadata.authoritative && !response.metadata.recursion_available);
    }
    let broken = ask(served.at, &question("broken.ap.", RecordType::A)).await;
    assert_eq!(broken.metadata.response_code, ResponseCode::ServFail);
    let strange = ask(served.at, &question("7.7.200.127.in-addr.arpa.", RecordType::PTR)).await;
    assert_eq!(strange.metadata.response_code, ResponseCode::NXDomain);
}

#[tokio::test]
async fn the_rest_of_the_world_is_refused() {
    let served = start().await;
    for (name, wanted) in [
        ("example.com.", RecordType::A),
        (".", RecordType::NS),
        ("localhost.", RecordType::A),
        ("known.ap.example.com.", RecordType::A),
        ("8.8.8.8.in-addr.arpa.", RecordType::PTR),
        ("1.0.0.127.in-addr.arpa.", RecordType::PTR),
        ("ap.", RecordType::AXFR),
        ("known.ap.", RecordType::IXFR),
    ] {
        let response = ask(served.at, &question(name, wanted)).await;
        assert_eq!(response.metadata.response_code, ResponseCode::Refused, "{name}");
        assert!(response.answers.is_empty() && response.authorities.is_empty());
    }
}

/// For whom there is nothing but these zones.
struct Alone;

impl Lookup for Alone {
    fn lookup(&self, host: &str, wanted: Wanted) -> Result<Vec<Data>, NoAnswer> {
        Book.lookup(host, wanted)
    }

    fn reverse(&self, address: IpAddr) -> Result<String, NoAnswer> {
        Book.reverse(address)
    }

    fn elsewhere(&self, _: &[&[u8]]) -> Elsewhere {
        Elsewhere::Nothing
    }
}

#[test]
fn where_there_are_no_other_zones_nothing_is_there() {
    let ask = |name: &str, wanted| {
        let bytes = respond(Alone, &question(name, wanted).to_bytes().unwrap(), true).unwrap();
        Message::from_bytes(&bytes).unwrap()
    };
    let long = format!("{}.{}com.", "x".repeat(49), "y.".repeat(99));
    for (name, wanted, code) in [
        ("example.com.", RecordType::A, ResponseCode::NXDomain),
        ("com.", RecordType::AAAA, ResponseCode::NXDomain),
        (&long, RecordType::A, ResponseCode::NXDomain),
        ("8.8.8.8.in-addr.arpa.", RecordType::PTR, ResponseCode::NXDomain),
        ("1.0.0.127.in-addr.arpa.", RecordType::PTR, ResponseCode::NXDomain),
        ("0.127.in-addr.arpa.", RecordType::PTR, ResponseCode::NXDomain),
        (".", RecordType::A, ResponseCode::NoError),
        ("arpa.", RecordType::A, ResponseCode::NoError),
        ("127.in-addr.ARPA.", RecordType::PTR, ResponseCode::NoError),
        ("f.ip6.arpa.", RecordType::PTR, ResponseCode::NoError),
    ] {
        let response = ask(name, wanted);
        assert_eq!(response.metadata.response_code, code, "{name}");
        assert!(response.answers.is_empty() && response.metadata.authoritative, "{name}");
        let authority = &response.authorities[0];
        assert_eq!((authority.record_type(), authority.name.is_root()), (RecordType::SOA, true), "{name}");
    }
    assert_eq!(ask("known.ap.", RecordType::A).answers.len(), 1);
    assert_eq!(ask("2.1.200.127.in-addr.arpa.", RecordType::PTR).answers.len(), 1);
    assert_eq!(ask("com.", RecordType::AXFR).metadata.response_code, ResponseCode::Refused);
}

#[tokio::test]
async fn other_classes_and_operations_are_refused() {
    let served = start().await;
    let mut chaos = question("known.ap.", RecordType::TXT);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(ask(served.at, &chaos).await.metadata.response_code, ResponseCode::Refused);
    let mut update = question("known.ap.", RecordType::SOA);
    update.metadata.op_code = OpCode::Update;
    assert_eq!(ask(served.at, &update).await.metadata.response_code, ResponseCode::NotImp);
    let mut two = question("known.ap.", RecordType::A);
    two.add_query(two.queries[0].clone());
    let refused = ask(served.at, &two).await;
    assert_eq!(refused.metadata.response_code, ResponseCode::FormErr);
    assert!(!refused.metadata.authoritative);
}

#[tokio::test]
async fn edns_is_answered_with_edns() {
    let served = start().await;
    let plain = ask(served.at, &question("known.ap.", RecordType::A)).await;
    assert!(plain.edns.is_none());
    let mut message = question("known.ap.", RecordType::A);
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    message.edns = Some(edns);
    let response = ask(served.at, &message).await;
    assert_eq!(response.answers.len(), 1);
    assert_eq!(response.edns.expect("EDNS").max_payload(), 1_232);
    message.edns.as_mut().unwrap().set_version(1).set_dnssec_ok(true);
    let response = ask(served.at, &message).await;
    // The library also knows this number by another name.
    assert_eq!(u16::from(response.metadata.response_code), u16::from(ResponseCode::BADVERS));
    let edns = response.edns.expect("EDNS");
    assert!(edns.version() == 0 && edns.flags().dnssec_ok && response.answers.is_empty());
}

#[tokio::test]
async fn what_is_too_long_for_a_datagram_is_cut_off_and_comes_whole_by_tcp() {
    let served = start().await;
    for (name, payload, is_cut) in
        [("long.ap.", None, true), ("long.ap.", Some(1_232), false), ("longer.ap.", Some(65_000), true)]
    {
        let mut message = question(name, RecordType::TXT);
        message.edns = payload.map(|payload| {
            let mut edns = Edns::new();
            edns.set_max_payload(payload);
            edns
        });
        let response = ask(served.at, &message).await;
        assert_eq!(response.metadata.truncation, is_cut, "{name} {payload:?}");
        assert_eq!(response.answers.len(), usize::from(!is_cut), "{name} {payload:?}");
    }
    // Asks again by TCP by itself.
    let found =
        client(served.at, ConnectionConfig::tcp()).lookup("longer.ap.", RecordType::TXT).await.unwrap();
    assert_eq!(found.answers().len(), 1);
}

#[tokio::test]
async fn everything_is_not_told_and_services_are() {
    let served = start().await;
    let any = ask(served.at, &question("known.ap.", RecordType::ANY)).await;
    assert_eq!((any.answers.len(), any.answers[0].record_type()), (1, RecordType::HINFO));
    let unknown = ask(served.at, &question("unknown.ap.", RecordType::ANY)).await;
    assert_eq!(unknown.metadata.response_code, ResponseCode::NXDomain);
    for (name, wanted, expected) in [
        ("_x._tcp.known.ap.", RecordType::SRV, "1 2 3 known.ap."),
        ("known.ap.", RecordType::HTTPS, "1 . alpn=h2"),
    ] {
        let response = ask(served.at, &question(name, wanted)).await;
        assert!(response.answers[0].data.to_string().starts_with(expected), "{response}");
    }
}

#[tokio::test]
async fn the_case_of_a_question_is_kept() {
    let served = start().await;
    let response = ask(served.at, &question("KnOwN.aP.", RecordType::A)).await;
    for name in [response.queries[0].name(), &response.answers[0].name] {
        assert_eq!(name.to_ascii(), "KnOwN.aP.");
    }
}

#[tokio::test]
async fn clients_that_keep_silent_keep_nobody_out() {
    let served = start().await;
    let mut silent = Vec::new();
    for _ in 0..300 {
        let mut stream = TcpStream::connect(served.at).await.unwrap();
        stream.write_all(&[0]).await.unwrap();
        silent.push(stream);
    }
    let resolver = client(served.at, ConnectionConfig::tcp());
    assert_eq!(resolver.lookup("known.ap.", RecordType::A).await.unwrap().answers().len(), 1);
    // The first have made room.
    let ended = timeout(Duration::from_secs(5), silent[0].read(&mut [0])).await.unwrap();
    assert!(matches!(ended, Ok(0) | Err(_)));
}

#[tokio::test]
async fn many_questions_of_one_client_are_answered_in_order() {
    let served = start().await;
    let mut stream = TcpStream::connect(served.at).await.unwrap();
    let mut sent = Vec::new();
    for id in 0..100_u16 {
        let mut message = question("known.ap.", RecordType::A);
        message.metadata.id = id;
        let bytes = message.to_bytes().unwrap();
        sent.extend((bytes.len() as u16).to_be_bytes());
        sent.extend(bytes);
    }
    stream.write_all(&sent).await.unwrap();
    for id in 0..100_u16 {
        let length = stream.read_u16().await.unwrap();
        let mut bytes = vec![0; usize::from(length)];
        stream.read_exact(&mut bytes).await.unwrap();
        assert_eq!(Message::from_bytes(&bytes).unwrap().metadata.id, id);
    }
}

proptest! {
    /// Bytes of any kind, and questions of which some bytes were changed or cut off.
    #[test]
    fn whatever_comes_is_answered_within_bounds_or_not_at_all(
        garbage in proptest::collection::vec(any::<u8>(), 0..600),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
        is_garbage in any::<bool>(),
        by_udp in any::<bool>(),
    ) {
        let mut bytes = garbage;
        if !is_garbage {
            let mut message = question("_x._tcp.known.ap.", RecordType::SRV);
            message.edns = Some(Edns::new());
            bytes = message.to_bytes().unwrap();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes.truncate(cut.index(bytes.len()) + bytes.len() / 2);
        }
        if let Some(response) = respond(Book, &bytes, by_udp) {
            prop_assert!(response.len() >= 12 && response[..2] == bytes[..2] && response[2] & 0x80 != 0);
            prop_assert!(bytes[2] & 0x80 == 0, "an answer is never answered");
            prop_assert!(!by_udp || response.len() <= 1_232);
            Message::from_bytes(&response).expect("what we say can be read");
        }
    }
}

#[tokio::test]
async fn the_zone_itself_has_an_authority() {
    let served = start().await;
    let response = ask(served.at, &question("ap.", RecordType::SOA)).await;
    assert_eq!(response.answers[0].record_type(), RecordType::SOA);
    let none = ask(served.at, &question("ap.", RecordType::A)).await;
    assert_eq!((none.metadata.response_code, none.answers.len()), (ResponseCode::NoError, 0));
}

#[tokio::test]
async fn garbage_leaves_the_server_alive() {
    let served = start().await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for length in 0..200_usize {
        let garbage: Vec<u8> = (0..length).map(|at| (at * 37 + length * 101) as u8).collect();
        socket.send_to(&garbage, served.at).await.unwrap();
    }
    let response = ask(served.at, &question("known.ap.", RecordType::A)).await;
    assert_eq!(response.answers.len(), 1);
}
