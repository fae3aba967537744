//! Everything that takes a stranger's bytes: no input may make it panic, and whatever it accepts has that one encoding.
//!
//! A target brings valid inputs to start from; each is a function of bytes, so that any fuzzer can drive it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a target's faults must panic

use phantom_node::link::record::{Content, Opened, RecordKey, Records, Suite};
use phantom_protocol::{
    address::ApName,
    crypto::{Key, datagram::SessionSecret, proof::RouteKey, seal::PathSecret},
    identity::{ApSecret, NodeId, NodeSecret},
    limits::ARRAY,
    netdb::{
        ApEntry, EntryNode,
        ap_entry::{SealedEntry, epoch_of},
    },
    network::Network,
    path::builds::Builds,
    time::UnixTime,
    wire::{
        body,
        cell::{BODY, Body, CELL, Cell, Command, PathId},
        contact::{Contact, TlsKeys},
        control::{ControlMessage, Published, Reassembler, Round},
        flow::{Assembly, LARGEST, Part, cut},
        hello::{Binding, Role},
        invitation::Invitation,
        opener::{self, Answer, Opener},
        outward::Outside,
        record::{NodeFacts, NodeRecord},
        setup::{GoodieBox, HopBox, PathClass, SetupPackage},
    },
};
use rand::{SeedableRng, rngs::ChaCha20Rng};

/// One way in for foreign bytes.
pub struct Target {
    /// What it is called on the command line and in a failure.
    pub name: &'static str,
    /// Valid inputs.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Takes any input. Panics if it finds a fault.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "contact", seeds: contact_seeds, run: contact },
    Target { name: "node_record", seeds: record_seeds, run: node_record },
    Target { name: "ap_entry", seeds: entry_seeds, run: ap_entry },
    Target { name: "control", seeds: control_seeds, run: control },
    Target { name: "hello", seeds: hello_seeds, run: hello },
    Target { name: "invitation", seeds: invitation_seeds, run: invitation },
    Target { name: "name", seeds: name_seeds, run: name },
    Target { name: "setup_package", seeds: package_seeds, run: setup_package },
    Target { name: "goodie_box", seeds: box_seeds, run: goodie_box },
    Target { name: "opener", seeds: opener_seeds, run: opener_body },
    Target { name: "sealed_datagram", seeds: datagram_seeds, run: sealed_datagram },
    Target { name: "udp_flow", seeds: flow_seeds, run: udp_flow },
    Target { name: "outside", seeds: outside_seeds, run: outside },
    Target { name: "tls_records", seeds: tls_seeds, run: tls_records },
    Target { name: "builds_state", seeds: || vec![vec![0; 64]], run: builds_state },
];

const NOW: UnixTime = UnixTime(1_800_000_000);

fn rng() -> ChaCha20Rng {
    ChaCha20Rng::from_seed([7; 32])
}

fn network() -> Network {
    Network::private("fuzz")
}

fn some_contact() -> Contact {
    Contact::listed(NodeId::from_bytes([5; 32]), ([127, 16, 0, 1], 443).into(), TlsKeys::one([9; 32]))
}

fn contact_seeds() -> Vec<Vec<u8>> {
    let v6 = std::net::SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 443));
    let two = Contact::listed(NodeId::from_bytes([6; 32]), v6, TlsKeys::two([1; 32], [2; 32]));
    [some_contact(), two, Contact::unlisted(NodeId::from_bytes([7; 32]))].map(|c| c.to_bytes()).into()
}

fn contact(bytes: &[u8]) {
    if let Ok(contact) = Contact::from_bytes(bytes) {
        assert_eq!(contact.to_bytes(), bytes);
    }
}

fn some_record() -> NodeRecord {
    let mut rng = rng();
    let facts = NodeFacts {
        addresses: vec![([127, 16, 0, 1], 443).into()],
        tls_keys: TlsKeys::one([9; 32]),
        path_keys: vec![PathSecret::generate(&mut rng).public().clone()],
        versions: vec![1],
        family: Some([3; 16]),
    };
    NodeRecord::sign(&NodeSecret::generate(&mut rng), &facts, NOW).expect("honest facts")
}

fn record_bytes() -> Vec<u8> {
    some_record().verify(&network(), NOW).expect("an honest record").bytes().to_vec()
}

fn record_seeds() -> Vec<Vec<u8>> {
    vec![record_bytes()]
}

fn node_record(bytes: &[u8]) {
    if let Ok(record) = NodeRecord::decode(bytes)
        && let Ok(verified) = record.verify(&network(), NOW)
    {
        assert_eq!(verified.bytes(), bytes);
        assert!(verified.contact().address.is_some());
    }
}

fn entry_bytes() -> Vec<u8> {
    let mut rng = rng();
    let secret = ApSecret::generate(&mut rng);
    let entry = ApEntry {
        public: secret.public(),
        entry_nodes: vec![EntryNode { contact: some_contact(), route_key: RouteKey::random(&mut rng) }],
        session_secret: SessionSecret::random(&mut rng),
        capabilities: 0,
        issued: NOW,
        expiry: UnixTime(NOW.0 + 3_600),
    };
    entry.seal(&secret, epoch_of(NOW), &mut rng).expect("an honest entry").bytes().to_vec()
}

fn entry_seeds() -> Vec<Vec<u8>> {
    vec![entry_bytes()]
}

fn ap_entry(bytes: &[u8]) {
    let party = ApSecret::generate(&mut rng()).public();
    if let Ok(sealed) = SealedEntry::decode(bytes)
        && let Ok(verified) = sealed.verify(NOW)
    {
        assert_eq!(verified.bytes(), bytes);
        let _may_be_another_partys = verified.open(&party, NOW);
    }
}

fn control_seeds() -> Vec<Vec<u8>> {
    let records = vec![Published::Node(record_bytes()), Published::ApEntry(entry_bytes())];
    let array = vec![4; ARRAY].into_boxed_slice().try_into().expect("the size of an array");
    let messages = [
        ControlMessage::Partner,
        ControlMessage::Knock(some_contact()),
        ControlMessage::Knocked(true),
        ControlMessage::Records(records),
        ControlMessage::Setup { round: Round::One, connection: PathId::new(77), array },
    ];
    messages.map(|message| message.to_cells().iter().flat_map(|cell| cell.0).collect()).into()
}

/// A stream of whole cells, as a link's reader would hand them over until the first error.
fn control(bytes: &[u8]) {
    let mut reassembler = Reassembler::new();
    let mut row = Vec::new();
    for bytes in bytes.as_chunks::<CELL>().0 {
        let cell = Cell(*bytes);
        if cell.command() != Ok(Command::Control) {
            return;
        }
        row.push(cell);
        let Ok(message) = reassembler.push(row.last().expect("just pushed")) else { return };
        if let Some(message) = message {
            assert!(message.to_cells() == row, "a message with two encodings");
            row.clear();
        }
    }
}

fn hello_parts() -> (Network, NodeSecret, NodeSecret) {
    let mut rng = rng();
    (network(), NodeSecret::generate(&mut rng), NodeSecret::generate(&mut rng))
}

fn hello_seeds() -> Vec<Vec<u8>> {
    let (network, dialler, listener) = hello_parts();
    let binding = Binding { network: &network, exporter: &[8; 32] };
    vec![binding.hello(Role::Dialler, &dialler, listener.id(), true).0.to_vec()]
}

fn hello(bytes: &[u8]) {
    let Some(bytes) = bytes.first_chunk::<CELL>() else { return };
    let (network, dialler, listener) = hello_parts();
    let binding = Binding { network: &network, exporter: &[8; 32] };
    if let Ok(proven) = binding.check(Role::Dialler, &Cell(*bytes), listener.id(), None) {
        assert_eq!(proven.id(), dialler.id(), "a proof of nobody");
    }
}

fn invitation_seeds() -> Vec<Vec<u8>> {
    vec![
        Invitation::new(network().id(), &some_contact()).expect("it can be dialled").to_string().into_bytes(),
    ]
}

fn invitation(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(invitation) = text.parse::<Invitation>()
    {
        assert_eq!(invitation.to_string().parse(), Ok(invitation));
    }
}

fn name_seeds() -> Vec<Vec<u8>> {
    let name = ApSecret::generate(&mut rng()).public().name().to_string();
    vec![format!("www.{name}.").into_bytes(), name.into_bytes()]
}

fn name(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let is_ap = ApName::is_ap(text);
        if let Ok(name) = text.parse::<ApName>() {
            assert!(is_ap, "a name that the world could resolve");
            assert_eq!(name.to_string().parse(), Ok(name));
        }
    }
}

fn package_seeds() -> Vec<Vec<u8>> {
    let package = SetupPackage {
        previous: NodeId::from_bytes([1; 32]),
        previous_connection: PathId::new(2),
        next: some_contact(),
        next_connection: PathId::new(3),
        secret: Key::from_bytes([4; 32]),
        class: PathClass::Standard,
        expiry: NOW,
    };
    vec![package.encode().to_vec()]
}

fn setup_package(bytes: &[u8]) {
    if let Ok(package) = SetupPackage::decode(bytes) {
        assert_starts(bytes, &package.encode());
    }
}

fn box_seeds() -> Vec<Vec<u8>> {
    let neighbour = Some((some_contact(), PathId::new(5)));
    let route_keys = vec![RouteKey::from_bytes([6; 32]); 3];
    let terminal = HopBox { neighbours: [None, neighbour], secret: Key::from_bytes([7; 32]), route_keys };
    [GoodieBox::Helper, GoodieBox::Hop(Box::new(terminal))].map(|goodies| goodies.encode().to_vec()).into()
}

fn goodie_box(bytes: &[u8]) {
    if let Ok(goodies) = GoodieBox::decode(bytes) {
        assert_starts(bytes, &goodies.encode());
    }
}

/// Behind the one encoding there are zeros.
fn assert_starts(bytes: &[u8], encoding: &[u8]) {
    let (start, rest) = bytes.split_at(encoding.len());
    assert_eq!(start, encoding);
    assert!(rest.iter().all(|byte| *byte == 0));
}

fn opener_seeds() -> Vec<Vec<u8>> {
    let mut rng = rng();
    let key = RouteKey::random(&mut rng);
    let token = phantom_protocol::crypto::proof::Token::make(
        &mut rng,
        &key,
        &NodeId::from_bytes([1; 32]),
        &some_contact().id,
    );
    let openers = [
        Opener::Echo,
        Opener::Join { entry: some_contact(), token },
        Opener::Publish { entry: entry_bytes() },
    ];
    openers.map(|opener| opener.encode(&[3; 32]).expect("it fits").to_vec()).into()
}

fn opener_body(bytes: &[u8]) {
    let mut sealed: Body = [0; BODY];
    sealed.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    let _may_be_none = Opener::decode(&sealed);
    let _may_be_none = opener::read_join(&sealed);
    if let Ok((kind, payload)) = body::read(&sealed) {
        let _may_be_none = Answer::decode(payload);
        let mut again: Body = [1; BODY];
        body::write(kind, payload, &mut again).expect("it has just been read");
        assert_eq!(body::scrub(&mut sealed), Ok(kind));
        assert!(again == sealed, "filler crosses");
    }
}

fn datagram_seeds() -> Vec<Vec<u8>> {
    let mut sealed = Vec::new();
    let secret = SessionSecret::from_bytes([2; 32]);
    secret.seal(&mut rng(), phantom_protocol::crypto::datagram::Speaker::Client, b"hello", &mut sealed);
    vec![sealed]
}

fn sealed_datagram(bytes: &[u8]) {
    use phantom_protocol::crypto::datagram::Speaker;
    let secret = SessionSecret::from_bytes([2; 32]);
    let mut out = vec![1, 2, 3];
    assert!(secret.open(Speaker::Service, bytes, &mut out).is_none(), "opened as another's");
    assert_eq!(out, [1, 2, 3], "leftovers of what did not open");
    if secret.open(Speaker::Client, bytes, &mut out).is_some() {
        assert_eq!(out, *b"\x01\x02\x03hello", "a forgery");
    }
}

/// A row of `length 2 | what a QUIC datagram holds`.
fn flow_seeds() -> Vec<Vec<u8>> {
    let row = |data: &[u8], room| {
        let parts = cut(3, 9, data, room).expect("not too many").map(|part| part.encode());
        parts.flat_map(|part| [&(part.len() as u16).to_be_bytes()[..], &part].concat()).collect::<Vec<u8>>()
    };
    vec![
        row(b"", 100),
        row(&[1; 50], 100),
        row(&[2; 120], 28),
        [row(&[3; 40], 28), row(&[4; 40], 28)].concat(),
    ]
}

fn udp_flow(bytes: &[u8]) {
    let (mut assembly, mut rest, mut came) = (Assembly::default(), bytes, 0);
    while let Some(([high, low], behind)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(behind.len());
        let (bytes, behind) = behind.split_at(length);
        rest = behind;
        let Ok(part) = Part::decode(bytes) else { continue };
        assert_eq!(part.encode(), bytes);
        came += part.data.len();
        if let Some(whole) = assembly.push(&part) {
            assert!(whole.len() <= LARGEST.min(came), "more than came");
            assert!(whole.ends_with(part.data), "what completes it is its end");
            came = 0;
        }
    }
}

fn outside_seeds() -> Vec<Vec<u8>> {
    let names = ["example.com", "a.b-c.d_e.xn--p1ai"].map(|name| Outside::name(name).expect("a name"));
    let addresses = ["9.9.9.9", "2620:fe::fe"]
        .map(|it| Outside::address(it.parse().expect("an address")).expect("public"));
    names.iter().chain(&addresses).map(Outside::encode).collect()
}

/// What is accepted leads out: no form of a private address, no name of one label.
fn outside(bytes: &[u8]) {
    let Ok(outside) = Outside::decode(bytes) else { return };
    assert_eq!(outside.encode(), bytes);
    match (outside.as_name(), outside.as_address()) {
        (Some(name), None) => {
            assert!(name.contains('.') && name.parse::<std::net::IpAddr>().is_err() && !ApName::is_ap(name));
        }
        (None, Some(address)) => {
            assert!(phantom_protocol::network::is_public(address) && !address.is_loopback())
        }
        other => panic!("both or nothing: {other:?}"),
    }
}

fn builds_state(bytes: &[u8]) {
    if let Ok(builds) = Builds::decode(bytes) {
        assert_eq!(builds.encode(), bytes);
    }
}

/// Each input is a row of `content 1 | length 2 | inside`, which a peer seals that breaks what rules it likes. What does
/// not begin with a content comes as it is, in place of a record.
fn tls_seeds() -> Vec<Vec<u8>> {
    let update = [22, 0, 5, 24, 0, 0, 1, 1];
    let ticket = [22, 0, 8, 4, 0, 0, 4, 1, 2, 3, 4];
    let data = [23, 0, 4, 1, 2, 3, 4];
    let split = [22, 0, 3, 4, 0, 0, 22, 0, 3, 2, 9, 9];
    let alert = |code: u8| [21, 0, 2, 1, code];
    vec![
        [&data[..], &update, &data, &alert(90), &data, &alert(0)].concat(),
        [&ticket[..], &split, &data, &alert(80)].concat(),
        [&data[..], &[20, 3, 3, 0, 1, 1]].concat(),
        [&[20, 3, 3, 0, 40][..], &[7; 40]].concat(),
    ]
}

fn tls_records(bytes: &[u8]) {
    for role in [Role::Dialler, Role::Listener] {
        let key =
            |byte: u8| RecordKey::new(Suite::Aes128, &[byte; 32], 0).expect("a secret of the right size");
        let (mut ours, mut peer) = (Records::new(role, key(1), key(2)), key(2));
        let mut rest = bytes;
        while let Some(([content, high, low], behind)) = rest.split_first_chunk() {
            let content = match content {
                21 => Content::Alert,
                22 => Content::Handshake,
                23 => Content::Data,
                _ => {
                    let opened = ours.open(&mut rest.to_vec());
                    assert!(matches!(opened, Err(_) | Ok(Opened::Part)), "opened what nobody has sealed");
                    break;
                }
            };
            let length = usize::from(u16::from_be_bytes([*high, *low])).min(behind.len());
            let (inside, behind) = behind.split_at(length);
            let mut record = [&[0; 5], inside].concat();
            if peer.seal(content, &mut record, 0).is_err() {
                break;
            }
            let mut out = Vec::new();
            match ours.open(&mut record) {
                Ok(Opened::Record(whole, data)) => {
                    assert_eq!(whole, record.len());
                    let expected = if content == Content::Data { inside } else { &[] };
                    assert_eq!(&record[data], expected);
                }
                Ok(Opened::Part) => panic!("a whole record"),
                Ok(Opened::Closed) => break,
                Err(fault) => {
                    ours.seal_fault(fault, &mut out).expect("a key that has hardly served");
                    break;
                }
            }
            if content == Content::Handshake && matches!(inside, [24, 0, 0, 1, 0 | 1]) {
                peer = peer.next().expect("another key");
            }
            ours.seal(&mut out, |out| out.extend_from_slice(inside)).ok();
            rest = behind;
        }
    }
}
