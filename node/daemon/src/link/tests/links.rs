use phantom_protocol::{
    limits::ARRAY,
    tunnel::{Kind, Outlet, OwnerTunnelId},
    wire::{
        cell::{Cell, Command, PathId, TunnelId},
        control::Round,
    },
};

use super::*;

fn setup(number: u64) -> ControlMessage {
    ControlMessage::Setup { round: Round::One, connection: PathId::new(number), array: Box::new([7; ARRAY]) }
}

fn number_of(message: &ControlMessage) -> u64 {
    match message {
        ControlMessage::Setup { connection, .. } => connection.get(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn two_nodes_link_and_talk_both_ways() {
    let (mut a, mut b) = (node(1), node(2));
    assert_eq!(a.links.dial(b.contact), Dial::UnderWay);
    let LinkEvent::Up { link: at_a, peer, dialled: true, .. } = a.event().await else { panic!() };
    assert_eq!(peer.id(), b.id());
    let LinkEvent::Up { link: at_b, peer, dialled: false, .. } = b.event().await else { panic!() };
    assert_eq!(peer.id(), a.id());
    assert!(at_a.0 >= LinkId::FIRST && at_b.0 >= LinkId::FIRST);

    assert!(a.links.send(at_a, &setup(1)));
    assert!(b.links.send(at_b, &ControlMessage::Partner));
    assert_eq!(b.message().await, setup(1));
    assert_eq!(a.message().await, ControlMessage::Partner);

    assert_eq!(a.links.dial(b.contact), Dial::Up(at_a));
    assert_eq!(b.links.dial(a.contact), Dial::Up(at_b));
    assert_eq!(a.links.link_to(&b.id()), Some(at_a));
    let stats = a.links.stats();
    assert_eq!(stats.len(), 1);
    assert_eq!((stats[0].peer, stats[0].address, stats[0].dialled), (b.id(), b.contact.address, true));
    assert!(stats[0].cells_out >= 43 && stats[0].cells_in >= 1);
}

#[tokio::test]
async fn a_dial_to_ourselves_is_the_loop() {
    let mut a = node(1);
    assert_eq!(a.links.dial(a.contact), Dial::Up(LinkId::LOOP_A));
    assert!(a.links.send(LinkId::LOOP_A, &setup(5)));
    let LinkEvent::Message { link, message } = a.event().await else { panic!() };
    assert_eq!((link, number_of(&message)), (LinkId::LOOP_B, 5));
    assert!(a.links.stats().is_empty());
}

#[tokio::test]
async fn what_was_sent_before_closing_arrives() {
    let (mut a, mut b) = (node(1), node(2));
    let (at_a, _) = link(&mut a, &mut b).await;
    for number in 0..20 {
        a.links.send(at_a, &setup(number));
    }
    a.links.close(at_a);
    for number in 0..20 {
        assert_eq!(number_of(&b.message().await), number);
    }
    assert_eq!(b.down().await, LinkEnd::PeerClosed);
    assert_eq!(a.down().await, LinkEnd::Closed);
    assert!(!a.links.send(at_a, &setup(0)));
    assert_eq!(a.links.link_to(&b.id()), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crossing_dials_settle_to_one_link() {
    for _ in 0..10 {
        let (mut small, mut large) = ordered_pair();
        small.links.dial(large.contact);
        large.links.dial(small.contact);
        let (at_small, at_large) = (small.up().await, large.up().await);
        small.links.send(at_small, &setup(1));
        large.links.send(at_large, &setup(2));
        assert_eq!(number_of(&large.message().await), 1);
        assert_eq!(number_of(&small.message().await), 2);
        let (s, l) = (small.links.stats(), large.links.stats());
        assert_eq!((s.len(), l.len()), (1, 1));
        assert_ne!(s[0].dialled, l[0].dialled);
        small.links.shutdown(Duration::from_secs(1)).await;
        large.links.shutdown(Duration::from_secs(1)).await;
    }
}

#[tokio::test]
async fn of_two_dials_that_surely_cross_the_one_of_the_smaller_id_stays() {
    let (mut small, mut large) = ordered_pair();
    // Both dials are entered before either task has run: this runtime has one thread.
    small.links.dial(large.contact);
    large.links.dial(small.contact);
    small.up().await;
    large.up().await;
    assert!(small.links.stats()[0].dialled);
    assert!(!large.links.stats()[0].dialled);
    small.stays_quiet().await;
    large.stays_quiet().await;
}

#[tokio::test]
async fn a_peer_that_has_lost_its_link_gets_a_new_one() {
    // Both ways round: the smaller id is believed at once, the larger after it has waited.
    for restarted_is_smaller in [true, false] {
        let (first, second) = ordered_pair();
        let (mut stays, mut restarts) = if restarted_is_smaller { (second, first) } else { (first, second) };
        link(&mut stays, &mut restarts).await;
        let seed = if restarts.id() == secret(1).id() { 1 } else { 2 };
        let mut again = node(seed);
        again.links.dial(stays.contact);
        again.up().await;
        let news = [stays.event().await, stays.event().await];
        assert!(news.iter().any(|event| matches!(event, LinkEvent::Up { dialled: false, .. })));
        assert!(
            news.iter().any(|event| matches!(event, LinkEvent::Down { why: LinkEnd::Replaced, .. })),
            "{news:?}"
        );
        assert_eq!(stays.links.stats().len(), 1);
    }
}

#[tokio::test]
async fn a_control_message_that_is_too_long_ends_the_link() {
    let (mut a, mut b) = (node(1), node(2));
    let (at_a, _) = link(&mut a, &mut b).await;
    let mut cell = Cell::new(Command::Control, TunnelId::new(0));
    // Records of 4 GiB.
    cell.body_mut()[..5].copy_from_slice(&[4, 255, 255, 255, 255]);
    a.links.outlet().forward(at_a, &cell);
    assert!(matches!(b.down().await, LinkEnd::Misbehaved(_)));
    a.down().await;
}

#[tokio::test]
async fn unknown_commands_and_a_second_hello_end_the_link() {
    for bad in [Cell([9; phantom_protocol::wire::cell::CELL]), Cell::new(Command::Hello, TunnelId::new(0))] {
        let (mut a, mut b) = (node(1), node(2));
        let (at_a, _) = link(&mut a, &mut b).await;
        a.links.outlet().forward(at_a, &bad);
        assert!(matches!(b.down().await, LinkEnd::Misbehaved(_)));
    }
}

#[tokio::test]
async fn a_driver_that_is_behind_stops_its_peer_and_loses_nothing() {
    const MESSAGES: u64 = 100;
    let (mut a, mut b) = (node(1), node(2));
    let (at_a, _) = link(&mut a, &mut b).await;
    for number in 0..MESSAGES {
        a.links.send(at_a, &setup(number));
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let taken = b.links.stats()[0].bytes_in();
    assert!(taken < 2 << 20, "{taken} bytes are waiting for the driver");
    for number in 0..MESSAGES {
        assert_eq!(number_of(&b.message().await), number);
    }
}

#[tokio::test]
async fn a_peer_that_takes_nothing_loses_its_link() {
    let (mut a, mut b) =
        (start(LinkConfig { stuck_after: Duration::from_millis(500), ..config(1) }), node(2));
    let (at_a, _) = link(&mut a, &mut b).await;
    // The driver of `b` looks at nothing, so `b` stops reading.
    for number in 0..400 {
        a.links.send(at_a, &setup(number));
        tokio::task::yield_now().await;
    }
    assert_eq!(a.down().await, LinkEnd::Stuck);
}

#[derive(Default)]
struct Collected(std::sync::Mutex<Vec<Vec<u8>>>);

impl Inbox for Collected {
    fn push(&self, _: Kind, payload: &[u8]) {
        self.0.lock().unwrap().push(payload.to_vec());
    }
    fn wake(&self) {}
}

#[tokio::test]
async fn what_comes_before_its_inbox_waits_within_limits() {
    let a = node(1);
    let mut outlet = a.links.outlet();
    let tunnel = OwnerTunnelId::from_number(1000);
    for number in 0..100u8 {
        outlet.deliver(tunnel, Kind::Plain, &[number]);
    }
    let inbox = Arc::new(Collected::default());
    a.links.register_inbox(tunnel, Arc::clone(&inbox) as Arc<dyn Inbox>);
    let first: Vec<_> = (0..16).map(|number| vec![number]).collect();
    assert_eq!(*inbox.0.lock().unwrap(), first);
    outlet.deliver(tunnel, Kind::Plain, &[200]);
    assert_eq!(inbox.0.lock().unwrap().len(), 17);

    // Others' early payloads cannot grow without bound: the oldest tunnels give way.
    for number in 2000..4000 {
        outlet.deliver(OwnerTunnelId::from_number(number), Kind::Plain, &[1]);
    }
    let late = Arc::new(Collected::default());
    a.links.register_inbox(OwnerTunnelId::from_number(2000), Arc::clone(&late) as Arc<dyn Inbox>);
    assert!(late.0.lock().unwrap().is_empty());
}
