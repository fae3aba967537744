//! Our records with rustls at the other end, and with a peer that breaks the rules under its own seal.

use std::{
    io::{ErrorKind, Read, Write},
    sync::Arc,
};

use phantom_protocol::{time::UnixTime, wire::contact::TlsKeys};
use proptest::{prelude::*, sample::Index};
use rustls::{AlertDescription, CipherSuite, ClientConnection, Connection, KeyLog, ServerConnection};

use super::{
    super::{
        handshake::Secrets,
        tls::{self, RECORD_OF_CELLS, TlsIdentity},
    },
    *,
};

/// Our side, and rustls as the other.
struct Pair {
    ours: Records,
    rustls: Connection,
    /// What rustls has sent and we have not opened.
    incoming: Vec<u8>,
}

impl Pair {
    fn new(role: Role, suite: CipherSuite) -> Pair {
        let identity = TlsIdentity::generate(UnixTime(1_772_323_200)).unwrap();
        let keys = TlsKeys::one(identity.key_hash());
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        provider.cipher_suites.retain(|known| known.suite() == suite);
        let mut client = Arc::unwrap_or_clone(tls::client_config_with(Arc::new(provider), keys).unwrap());
        let mut server = Arc::unwrap_or_clone(tls::server_config(&identity).unwrap());
        let secrets = Arc::<Secrets>::default();
        let log = Arc::clone(&secrets) as Arc<dyn KeyLog>;
        match role {
            Role::Dialler => client.key_log = log,
            Role::Listener => server.key_log = log,
        }
        let name = tls::server_name(&keys).unwrap();
        let mut client = Connection::from(ClientConnection::new(Arc::new(client), name).unwrap());
        let mut server = Connection::from(ServerConnection::new(Arc::new(server)).unwrap());
        while client.is_handshaking() || server.is_handshaking() {
            carry(&mut client, &mut server);
            carry(&mut server, &mut client);
        }
        let rustls = match role {
            Role::Dialler => server,
            Role::Listener => client,
        };
        Pair { ours: secrets.records(role, suite, 0, 0).unwrap(), rustls, incoming: Vec::new() }
    }

    /// What rustls makes of these records.
    fn rustls_reads(&mut self, mut records: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let mut read = Vec::new();
        while !records.is_empty() {
            self.rustls.read_tls(&mut records).unwrap();
            self.rustls.process_new_packets()?;
            if let Err(error) = self.rustls.reader().read_to_end(&mut read) {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
            }
        }
        Ok(read)
    }

    fn rustls_writes(&mut self, data: &[u8]) {
        self.rustls.writer().write_all(data).unwrap();
        self.collect();
    }

    fn collect(&mut self) {
        while self.rustls.wants_write() {
            self.rustls.write_tls(&mut self.incoming).unwrap();
        }
    }

    /// Opens what has come, `step` bytes at a time, as a socket brings them.
    fn open(&mut self, step: usize) -> Result<(Vec<u8>, bool), Fault> {
        let mut sent = std::mem::take(&mut self.incoming).into_iter();
        let (mut waiting, mut data) = (Vec::new(), Vec::new());
        loop {
            match self.ours.open(&mut waiting)? {
                Opened::Record(length, range) => {
                    data.extend_from_slice(&waiting[range]);
                    waiting.drain(..length);
                }
                Opened::Closed => return Ok((data, true)),
                Opened::Part if sent.len() == 0 => {
                    assert!(waiting.is_empty(), "half a record is left");
                    return Ok((data, false));
                }
                Opened::Part => waiting.extend(sent.by_ref().take(step)),
            }
        }
    }

    fn sealed(&mut self, data: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        self.ours.seal(&mut out, |out| out.extend_from_slice(data)).unwrap();
        out
    }
}

fn carry(from: &mut Connection, to: &mut Connection) {
    let mut flight = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut flight).unwrap();
    }
    let mut flight = flight.as_slice();
    while !flight.is_empty() {
        to.read_tls(&mut flight).unwrap();
        to.process_new_packets().unwrap();
    }
}

const SUITES: [CipherSuite; 3] = [
    CipherSuite::TLS13_AES_128_GCM_SHA256,
    CipherSuite::TLS13_AES_256_GCM_SHA384,
    CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
];

#[derive(Clone, Debug)]
enum Step {
    WeSay(Vec<u8>),
    TheySay(Vec<u8>),
    WeUpdate,
    TheyUpdate,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let words = || prop::collection::vec(any::<u8>(), 1..RECORD_OF_CELLS);
    let step = prop_oneof![
        3 => words().prop_map(Step::WeSay),
        3 => words().prop_map(Step::TheySay),
        1 => Just(Step::WeUpdate),
        1 => Just(Step::TheyUpdate),
    ];
    prop::collection::vec(step, 1..20)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_either_side_says_arrives_whole_and_in_order(
        dials in any::<bool>(), suite in 0..3_usize, steps in steps(), step in 1..20_000_usize, most in 3..10_u64,
    ) {
        let role = if dials { Role::Dialler } else { Role::Listener };
        let mut pair = Pair::new(role, SUITES[suite]);
        pair.ours.most = most;
        for next in steps {
            match next {
                Step::WeSay(words) => {
                    let sealed = pair.sealed(&words);
                    prop_assert_eq!(pair.rustls_reads(&sealed).unwrap(), words);
                }
                Step::TheySay(words) => {
                    pair.rustls_writes(&words);
                    prop_assert_eq!(pair.open(step).unwrap(), (words, false));
                }
                Step::WeUpdate => {
                    pair.ours.owes_update = true;
                    let mut out = Vec::new();
                    pair.ours.seal_update_if_due(&mut out).unwrap();
                    prop_assert_eq!(pair.rustls_reads(&out).unwrap(), b"");
                }
                Step::TheyUpdate => {
                    pair.rustls.refresh_traffic_keys().unwrap();
                    pair.rustls_writes(b"under the next key");
                    prop_assert_eq!(&pair.open(step).unwrap().0, b"under the next key");
                    prop_assert!(pair.ours.owes_update());
                }
            }
            // A key's last number is for its update.
            prop_assert!(pair.ours.ours.sequence() < most);
        }
        let mut out = Vec::new();
        pair.ours.seal_close(&mut out).unwrap();
        prop_assert_eq!(pair.rustls_reads(&out).unwrap(), b"");
        prop_assert!(pair.rustls.process_new_packets().unwrap().peer_has_closed());
        pair.rustls.send_close_notify();
        pair.collect();
        prop_assert_eq!(pair.open(step).unwrap(), (vec![], true));
    }

    #[test]
    fn a_flipped_bit_is_never_data(at in any::<Index>(), bit in 0..8_u8, length in 1..2_000_usize) {
        let (mut ours, mut peer) = raw(Role::Listener);
        let mut record = sealed(&mut peer, Content::Data, &vec![5; length]);
        let at = at.index(record.len());
        record[at] ^= 1 << bit;
        match ours.open(&mut record) {
            Ok(Opened::Part) => prop_assert!(at == 3 || at == 4, "only a longer record is not whole"),
            Ok(other) => prop_assert!(false, "{other:?}"),
            Err(fault) => prop_assert!([Fault::BadTag, Fault::Unexpected, Fault::TooLong].contains(&fault)),
        }
    }

    #[test]
    fn a_part_of_a_record_waits_for_the_rest(length in 1..2_000_usize, cut in any::<Index>()) {
        let (mut ours, mut peer) = raw(Role::Listener);
        let mut record = sealed(&mut peer, Content::Data, &vec![5; length]);
        let cut = cut.index(record.len());
        prop_assert_eq!(ours.open(&mut record[..cut]), Ok(Opened::Part));
        prop_assert_eq!(ours.open(&mut record), Ok(Opened::Record(record.len(), HEADER..HEADER + length)));
    }
}

#[test]
fn rustls_understands_why_we_end_a_connection() {
    let mut pair = Pair::new(Role::Dialler, SUITES[0]);
    pair.rustls_writes(b"hello");
    *pair.incoming.last_mut().unwrap() ^= 1;
    let fault = pair.open(100).unwrap_err();
    assert_eq!(fault, Fault::BadTag);
    let mut out = Vec::new();
    pair.ours.seal_fault(fault, &mut out).unwrap();
    assert_eq!(pair.rustls_reads(&out), Err(rustls::Error::AlertReceived(AlertDescription::BadRecordMac)));
    assert_eq!(pair.ours.seal(&mut out, |out| out.push(1)), Err(Fault::Over));
    let length = out.len();
    pair.ours.seal_fault(fault, &mut out).unwrap();
    assert_eq!(out.len(), length, "it is said once");
}

#[test]
fn nothing_follows_a_close_and_nothing_sealed_takes_no_room() {
    let mut pair = Pair::new(Role::Listener, SUITES[0]);
    assert_eq!(pair.sealed(b""), b"");
    let mut out = Vec::new();
    pair.ours.seal_close(&mut out).unwrap();
    pair.rustls.refresh_traffic_keys().unwrap();
    pair.rustls_writes(b"x");
    pair.open(100).unwrap();
    assert!(!pair.ours.owes_update(), "who has closed answers no update");
    assert_eq!(pair.ours.seal_update_if_due(&mut out), Err(Fault::Over));
    assert_eq!(pair.ours.seal_close(&mut out), Err(Fault::Over));
}

/// Our side, and the key of a peer that may say anything.
fn raw(role: Role) -> (Records, RecordKey) {
    let key = |byte: u8| RecordKey::new(Suite::Aes128, &[byte; 32], 0).unwrap();
    (Records::new(role, key(1), key(2)), key(2))
}

fn sealed(key: &mut RecordKey, content: Content, inside: &[u8]) -> Vec<u8> {
    let mut record = [&[0; HEADER], inside].concat();
    key.seal(content, &mut record, 0).unwrap();
    record
}

/// What comes of records with these contents, up to the first that is no quiet record.
fn say(role: Role, said: &[(Content, &[u8])]) -> Result<Opened, Fault> {
    let (mut ours, mut peer) = raw(role);
    let mut last = Ok(Opened::Part);
    for (content, inside) in said {
        last = ours.open(&mut sealed(&mut peer, *content, inside));
        last.clone()?;
    }
    last
}

#[test]
fn breaches_under_a_good_seal_have_the_alerts_of_the_standard() {
    use Content::{Alert, Data, Handshake};
    let long = [&[NEW_SESSION_TICKET, 1, 0, 0][..], &[0; 100]].concat();
    for (role, said, fault, alert) in [
        (Role::Dialler, &[(Handshake, &[24, 0, 0, 1, 2][..])][..], Fault::Illegal, Some(47)),
        (Role::Dialler, &[(Handshake, &[24, 0, 0, 0])], Fault::Malformed, Some(50)),
        (Role::Dialler, &[(Handshake, &[24, 0, 0, 1, 0, 24, 0, 0, 1, 0])], Fault::Unexpected, Some(10)),
        (Role::Dialler, &[(Handshake, &[20, 0, 0, 0])], Fault::Unexpected, Some(10)),
        (Role::Dialler, &[(Handshake, &[])], Fault::Unexpected, Some(10)),
        (Role::Dialler, &[(Handshake, &[24, 0]), (Data, b"between")], Fault::Unexpected, Some(10)),
        (Role::Dialler, &[(Handshake, &long)], Fault::TooLong, Some(22)),
        (Role::Listener, &[(Handshake, &[4, 0, 0, 1, 9])], Fault::Unexpected, Some(10)),
        (Role::Listener, &[(Alert, &[2, 80])], Fault::Alert(80), None),
        (Role::Listener, &[(Alert, &[1, 100])], Fault::Alert(100), None),
        (Role::Listener, &[(Alert, &[1, 0, 1, 0])], Fault::Malformed, Some(50)),
        (Role::Listener, &[(Alert, &[])], Fault::Malformed, Some(50)),
    ] {
        assert_eq!(say(role, said), Err(fault), "{said:?}");
        assert_eq!(fault.alert(), alert);
    }
}

#[test]
fn what_says_nothing_new_is_passed_over() {
    use Content::{Alert, Data, Handshake};
    let ticket = [&[NEW_SESSION_TICKET, 0, 0, 200][..], &[7; 200]].concat();
    let (half, rest) = ticket.split_at(90);
    for said in [
        &[(Handshake, &ticket[..])][..],
        &[(Handshake, half), (Handshake, rest)],
        &[(Handshake, &ticket[..2]), (Handshake, &ticket[2..])],
        &[(Handshake, &[&ticket[..], &ticket].concat())],
        &[(Alert, &[1, 90])],
        &[(Data, b"")],
    ] {
        let opened = say(Role::Dialler, said);
        assert!(matches!(opened, Ok(Opened::Record(_, ref data)) if data.is_empty()), "{opened:?}");
        let more: Vec<_> = said.iter().copied().chain([(Data, &b"data"[..])]).collect();
        assert!(matches!(say(Role::Dialler, &more), Ok(Opened::Record(_, data)) if data.len() == 4));
    }
    assert_eq!(say(Role::Listener, &[(Alert, &[1, 0])]), Ok(Opened::Closed));
    assert_eq!(say(Role::Listener, &[(Alert, &[2, 0])]), Ok(Opened::Closed));
}

#[test]
fn a_peer_that_only_updates_is_stopped_and_one_that_also_talks_is_not() {
    let (mut ours, mut peer) = raw(Role::Listener);
    let update = |ours: &mut Records, peer: &mut RecordKey| {
        let opened = ours.open(&mut sealed(peer, Content::Handshake, &[24, 0, 0, 1, 1]));
        *peer = peer.next().unwrap();
        opened
    };
    for _ in 0..3 {
        for _ in 0..MOST_QUIET {
            update(&mut ours, &mut peer).unwrap();
        }
        ours.open(&mut sealed(&mut peer, Content::Data, b"talk")).unwrap();
    }
    for _ in 0..MOST_QUIET {
        update(&mut ours, &mut peer).unwrap();
    }
    assert_eq!(update(&mut ours, &mut peer), Err(Fault::TooQuiet));
}

#[test]
fn what_is_no_record_of_data_is_refused_at_its_header() {
    let (mut ours, _) = raw(Role::Listener);
    assert_eq!(ours.open(&mut [20, 3, 3, 0, 1, 1]), Err(Fault::Unexpected));
    assert_eq!(ours.open(&mut [21, 3, 3, 0, 2]), Err(Fault::Unexpected));
    assert_eq!(ours.open(&mut [23, 3, 3, 0x41, 0x01]), Err(Fault::TooLong));
    assert_eq!(ours.open(&mut [23, 3, 3, 0x41, 0x00]), Ok(Opened::Part));
    assert_eq!(ours.open(&mut [23, 3, 3, 0, 3, 1, 2, 3]), Err(Fault::BadTag));
    assert_eq!(ours.open(&mut [23, 3, 3, 0, 0]), Err(Fault::BadTag));
    assert_eq!(ours.open(&mut []), Ok(Opened::Part));
}
