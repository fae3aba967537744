//! One exchange at a time, with partners played by the tests. Whole networks of them run in the simulator.

use std::time::Duration;

use rand::{SeedableRng, rngs::ChaCha20Rng};

use super::*;
use crate::{
    limits::{CHECKS_PER_PARTNER, FORWARD_PAUSE, RECORD_BYTES, RECORDS_MESSAGE},
    netdb::ap_entry::{
        epoch_of,
        tests::{entry, party, rng},
    },
    wire::record::tests::{facts, secret},
};

const START: u64 = 1_800_000_000;
const ONE: LinkId = LinkId(10);
const TWO: LinkId = LinkId(11);

/// This long after the start.
fn at(time: Duration) -> Now {
    Now { moment: Moment(time.as_micros() as u64), unix: UnixTime(START + time.as_secs()) }
}

fn start() -> Now {
    at(Duration::ZERO)
}

fn record(seed: u8, version: u64) -> Published {
    let address = format!("127.{seed}.0.1:443");
    let record = NodeRecord::sign(&secret(seed), &facts(&address), UnixTime(version)).unwrap();
    Published::Node(record.verify(&Network::private("test"), UnixTime(version)).unwrap().bytes().to_vec())
}

fn ap_entry(seed: u8, issued: u64) -> Vec<u8> {
    let issued = UnixTime(issued);
    entry(seed, 3, issued).seal(&party(seed), epoch_of(issued), &mut rng(9)).unwrap().bytes().to_vec()
}

/// An exchange with two partners that have been told everything.
fn exchange() -> Exchange {
    let mut exchange = Exchange::new(start().moment, Network::private("test"), secret(0).id(), vec![]);
    exchange.handle_partner_up(start(), ONE, secret(100).id(), false);
    exchange.handle_partner_up(start(), TWO, secret(101).id(), false);
    exchange
}

/// The link of a path that ends here.
const PATH: LinkId = LinkId(90);

fn hand_in(exchange: &mut Exchange, entry: &[u8]) {
    exchange.handle_published(start(), PATH, secret(90).id(), entry);
}

fn outputs(exchange: &mut Exchange, now: Now) -> Vec<ExchangeOutput> {
    std::iter::from_fn(|| exchange.poll_output(now)).collect()
}

fn records(link: LinkId, records: Vec<Published>) -> ExchangeOutput {
    ExchangeOutput::Send { link, message: ControlMessage::Records(records) }
}

#[test]
fn news_go_to_everybody_but_the_one_who_brought_them() {
    let mut exchange = exchange();
    exchange.handle_records(start(), ONE, &[record(1, START)]);
    assert_eq!(outputs(&mut exchange, start()), [records(TWO, vec![record(1, START)])]);
    assert!(exchange.view().node(&secret(1).id()).is_some());
}

#[test]
fn what_is_known_is_not_news() {
    let mut exchange = exchange();
    exchange.handle_records(start(), ONE, &[record(1, START)]);
    outputs(&mut exchange, start());
    for version in [START, START - 1] {
        exchange.handle_records(start(), TWO, &[record(1, version)]);
        assert_eq!(outputs(&mut exchange, start()), []);
    }
    assert_eq!(exchange.view().node(&secret(1).id()).unwrap().record.version(), UnixTime(START));
}

#[test]
fn two_partners_with_the_same_news_are_told_nothing() {
    let mut exchange = exchange();
    exchange.handle_records(start(), ONE, &[record(1, START)]);
    exchange.handle_records(start(), TWO, &[record(1, START)]);
    assert_eq!(outputs(&mut exchange, start()), []);
}

#[test]
fn a_new_partner_is_told_everything_and_who_asked_says_so() {
    let mut exchange = exchange();
    exchange.handle_records(start(), ONE, &[record(1, START)]);
    hand_in(&mut exchange, &ap_entry(1, START));
    outputs(&mut exchange, start());
    exchange.handle_partner_up(start(), LinkId(12), secret(102).id(), true);
    let told = vec![record(1, START), Published::ApEntry(ap_entry(1, START))];
    let asked = ExchangeOutput::Send { link: LinkId(12), message: ControlMessage::Partner };
    assert_eq!(outputs(&mut exchange, start()), [asked, records(LinkId(12), told)]);
}

#[test]
fn a_frenzy_of_versions_floods_nobody_and_the_last_one_arrives() {
    let mut exchange = exchange();
    for version in 0..100 {
        exchange.handle_records(start(), ONE, &[record(1, START + version)]);
    }
    // The first went out at once, by name: what is sent is the newest.
    assert_eq!(outputs(&mut exchange, start()), [records(TWO, vec![record(1, START + 99)])]);
    exchange.handle_records(start(), ONE, &[record(1, START + 100)]);
    assert_eq!(outputs(&mut exchange, start()), []);
    let later = at(FORWARD_PAUSE);
    exchange.handle_timeout(start(), &mut rng(1));
    outputs(&mut exchange, start()); // it seeks partners
    assert_eq!(exchange.next_timeout(), later.moment);
    exchange.handle_timeout(later, &mut rng(1));
    assert_eq!(outputs(&mut exchange, later), [records(TWO, vec![record(1, START + 100)])]);
}

#[test]
fn a_forged_record_ends_the_link_and_a_wrong_clock_does_not() {
    let mut exchange = exchange();
    exchange.handle_records(start(), ONE, &[record(1, START + 1_000), record(2, START - 20_000)]);
    assert_eq!(outputs(&mut exchange, start()), []);
    assert_eq!(exchange.view().node_count(), 0);

    let Published::Node(mut forged) = record(1, START) else { unreachable!() };
    *forged.last_mut().unwrap() ^= 1;
    exchange.handle_records(start(), ONE, &[Published::Node(forged), record(2, START)]);
    let fault = ExchangeFault::Node(BadRecord::Signature);
    assert_eq!(outputs(&mut exchange, start()), [ExchangeOutput::Misbehaved { link: ONE, fault }]);
    assert_eq!((exchange.view().node_count(), exchange.partner_count()), (0, 1));
}

#[test]
fn records_from_a_stranger_end_the_link() {
    let mut exchange = exchange();
    exchange.handle_records(start(), LinkId(50), &[record(1, START)]);
    let fault = ExchangeFault::NotAPartner;
    assert_eq!(outputs(&mut exchange, start()), [ExchangeOutput::Misbehaved { link: LinkId(50), fault }]);
}

#[test]
fn a_partner_cannot_make_us_check_signatures_without_end() {
    let mut exchange = exchange();
    let partner = exchange.partners.get_mut(&ONE).unwrap();
    partner.checks.spend(CHECKS_PER_PARTNER.0 as usize);
    exchange.handle_records(start(), ONE, &[record(1, START)]);
    assert_eq!(exchange.view().node_count(), 0);
    exchange.handle_records(at(Duration::from_secs(1)), ONE, &[record(1, START)]);
    assert_eq!(exchange.view().node_count(), 1);
}

#[test]
fn messages_are_bounded_and_so_are_bytes_per_second() {
    let mut exchange = exchange();
    // More entries than a partner may be sent at once.
    let count = RECORD_BYTES.0 as usize / 1_118 + 200;
    exchange.published = Budget::new(start().moment, (10_000, 1));
    exchange.published_by.insert(PATH, Budget::new(start().moment, (10_000, 1)));
    let mut rng = ChaCha20Rng::from_seed([1; 32]);
    for _ in 0..count {
        let secret = crate::identity::ApSecret::generate(&mut rng);
        let mut entry = entry(1, 1, UnixTime(START));
        entry.public = secret.public();
        let sealed = entry.seal(&secret, epoch_of(UnixTime(START)), &mut rng).unwrap();
        hand_in(&mut exchange, sealed.bytes());
    }
    let sent = outputs(&mut exchange, start());
    for output in &sent {
        let ExchangeOutput::Send { message: ControlMessage::Records(records), .. } = output else { panic!() };
        let length: usize = records.iter().map(Published::encoded_len).sum();
        assert!(length <= RECORDS_MESSAGE);
    }
    let most = RECORD_BYTES.0 as usize / RECORDS_MESSAGE + 2;
    assert!(sent.len() <= 2 * most, "{} messages at once", sent.len());
    let waiting = exchange.partners[&ONE].next_timeout().unwrap();
    assert!(waiting > start().moment && waiting < at(Duration::from_secs(1)).moment);

    let rest = outputs(&mut exchange, at(Duration::from_secs(3)));
    assert!(!rest.is_empty());
    assert_eq!(exchange.partners[&ONE].next_timeout(), None);
}

#[test]
fn the_own_record_is_renewed_and_outlives_a_clock_put_back() {
    let mut exchange = exchange();
    let version = |exchange: &Exchange| exchange.view().node(&secret(0).id()).unwrap().record.version().0;
    // A record of ours from before a restart, signed when the clock was ahead.
    exchange.handle_records(start(), ONE, &[record(0, START + 100)]);
    exchange.announce(start(), Arc::new(secret(0)), facts("127.1.0.1:443")).unwrap();
    exchange.handle_records(start(), ONE, &[record(0, START + 200)]);
    exchange.handle_timeout(start(), &mut rng(1));
    assert_eq!(version(&exchange), START + 201);
    let later = at(NODE_RECORD_RENEW);
    exchange.handle_timeout(later, &mut rng(1));
    assert_eq!(version(&exchange), START + 300);
    assert_eq!(exchange.view().node_count(), 1);
}

#[test]
fn what_has_expired_is_forgotten() {
    let mut exchange = exchange();
    exchange.handle_records(start(), ONE, &[record(1, START)]);
    hand_in(&mut exchange, &ap_entry(1, START));
    for (hours, left) in [(2, 1), (3, 0)] {
        exchange.handle_timeout(at(Duration::from_secs(hours * 3600)), &mut rng(1));
        assert_eq!((exchange.view().node_count(), exchange.view().entry_count()), (left, left), "{hours} h");
    }
}

#[test]
fn a_published_entry_is_found_by_name_in_its_newest_version() {
    let mut exchange = exchange();
    hand_in(&mut exchange, &ap_entry(1, START));
    hand_in(&mut exchange, &ap_entry(1, START + 5));
    hand_in(&mut exchange, &ap_entry(1, START + 3));
    hand_in(&mut exchange, b"garbage");
    let found = exchange.view().look_up(&party(1).public(), UnixTime(START)).unwrap();
    assert_eq!(found.issued, UnixTime(START + 5));
    assert_eq!(exchange.view().look_up(&party(2).public(), UnixTime(START)), None);
}

#[test]
fn the_paths_of_one_link_do_not_use_up_what_terminals_take() {
    let mut exchange = exchange();
    (0..200).for_each(|version| hand_in(&mut exchange, &ap_entry(1, START + version)));
    let last = exchange.view().look_up(&party(1).public(), UnixTime(START)).unwrap().issued;
    assert_eq!(last, UnixTime(START + u64::from(PUBLISHED_BY_LINK.0) - 1));
    exchange.handle_published(start(), LinkId(91), secret(91).id(), &ap_entry(2, START));
    assert!(exchange.view().look_up(&party(2).public(), UnixTime(START)).is_some());
    exchange.handle_link_down(PATH);
    assert_eq!(exchange.published_by.len(), 1);
}

#[test]
fn terminals_take_a_bounded_number_of_entries() {
    let mut exchange = exchange();
    exchange.published.spend(PUBLISHED_AT_TERMINALS.0 as usize);
    hand_in(&mut exchange, &ap_entry(1, START));
    assert_eq!(exchange.view().entry_count(), 0);
}

#[test]
fn partners_are_sought_among_friends_first_and_then_among_all() {
    let friend = Contact::listed(
        secret(100).id(),
        "127.100.0.1:443".parse().unwrap(),
        crate::wire::contact::TlsKeys::one([1; 32]),
    );
    let network = Network::private("test");
    let mut exchange = Exchange::new(start().moment, network, secret(0).id(), vec![friend]);
    exchange.handle_timeout(start(), &mut rng(1));
    assert_eq!(outputs(&mut exchange, start()), [ExchangeOutput::Dial(friend)]);

    exchange.handle_partner_up(start(), ONE, friend.id, true);
    exchange.handle_records(start(), ONE, &[record(1, START)]);
    outputs(&mut exchange, start());
    let later = at(PARTNER_PAUSE);
    exchange.handle_timeout(later, &mut rng(1));
    let outputs = outputs(&mut exchange, later);
    let [ExchangeOutput::Dial(contact)] = outputs.as_slice() else { panic!("{outputs:?}") };
    assert_eq!(contact.id, secret(1).id());
}

#[test]
fn who_finds_no_place_is_told_where_to_go_and_not_blamed() {
    let mut exchange = exchange();
    exchange.handle_records(start(), ONE, &[record(1, START)]);
    outputs(&mut exchange, start());
    for link in 0..PARTNERS as u64 {
        let partner = Partner::new(start().moment, secret(100).id(), false);
        exchange.partners.insert(LinkId(1_000 + link), partner);
    }
    exchange.handle_partner_up(start(), LinkId(50), secret(102).id(), false);
    assert_eq!(outputs(&mut exchange, start()), [records(LinkId(50), vec![record(1, START)])]);
    exchange.handle_records(start(), LinkId(50), &[record(2, START)]);
    assert_eq!(outputs(&mut exchange, start()), []);
}

#[test]
fn a_subnet_has_a_bounded_number_of_nodes() {
    use crate::limits::NODES_PER_SUBNET;
    let mut view = View::new();
    let mut rng = ChaCha20Rng::from_seed([1; 32]);
    let mut store = |address: &str| {
        let secret = NodeSecret::generate(&mut rng);
        let record = NodeRecord::sign(&secret, &facts(address), UnixTime(START)).unwrap();
        let record = record.verify(&Network::private("test"), UnixTime(START)).unwrap();
        view.store_node(UnixTime(START), record)
    };
    for _ in 0..NODES_PER_SUBNET {
        assert_eq!(store("127.16.0.1:443"), Stored::New);
    }
    assert_eq!(store("127.16.200.1:443"), Stored::Full);
    assert_eq!(store("127.17.0.1:443"), Stored::New);
    view.sweep(UnixTime(START + 3 * 3600));
    assert_eq!(view.node_count(), 0);
}
