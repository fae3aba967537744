//! Sessions end to end over in-memory tunnels.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{FutureExt, future::BoxFuture};
use phantom_protocol::{
    crypto::datagram::{SessionSecret, Speaker},
    identity::{ApPublic, ApSecret},
    wire::{body::Kind, outward::Outside},
};
use rand::{rand_core::UnwrapErr, rngs::SysRng};
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::mpsc::{UnboundedSender, unbounded_channel},
    time::{sleep, timeout},
};

use super::{After, Group, OpenError, Protocol, Refusal, SpeakAs, quota::CONNECTIONS, testing::World};

const PORT: u16 = 80;
const MIB: u64 = 1 << 20;

/// A local target that handles each connection with `handler`.
async fn target<F, R>(handler: F) -> BTreeMap<(Protocol, u16), SocketAddr>
where
    F: Fn(TcpStream) -> R + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(handler(tcp));
        }
    });
    BTreeMap::from([((Protocol::Tcp, PORT), address)])
}

async fn echo(mut tcp: TcpStream) {
    let (mut read, mut write) = tcp.split();
    let _ = tokio::io::copy(&mut read, &mut write).await;
    let _ = write.shutdown().await;
}

/// Bytes that no shift or repetition of themselves could pass for.
fn block(seed: u64, number: u64) -> Vec<u8> {
    let mut x = seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut out = Vec::with_capacity(65_536);
    while out.len() < 65_536 {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        out.extend(x.to_le_bytes());
    }
    out
}

async fn send_pattern(write: &mut (impl AsyncWrite + Unpin), seed: u64, length: u64) -> [u8; 32] {
    let mut hash = Sha256::new();
    for number in 0..length / 65_536 {
        let block = block(seed, number);
        hash.update(&block);
        write.write_all(&block).await.unwrap();
    }
    write.shutdown().await.unwrap();
    hash.finalize().into()
}

async fn read_pattern(read: &mut (impl AsyncRead + Unpin), progress: &AtomicU64) -> (u64, [u8; 32]) {
    let (mut hash, mut total, mut buffer) = (Sha256::new(), 0, vec![0; 65_536]);
    loop {
        let n = read.read(&mut buffer).await.unwrap();
        if n == 0 {
            return (total, hash.finalize().into());
        }
        hash.update(&buffer[..n]);
        total += n as u64;
        progress.store(total, Ordering::Relaxed);
    }
}

/// Sends `length` bytes each way at once and checks every one of them. `prepare` comes before the first tunnel,
/// `disturb` runs beside the transfer and sees how far the client has read.
async fn both_ways(
    length: u64,
    prepare: impl Fn(&World),
    disturb: impl AsyncFnOnce(&World, &AtomicU64),
) -> World {
    let (report, mut reported) = unbounded_channel();
    let targets = target(move |tcp| {
        let report = report.clone();
        async move {
            let (mut read, mut write) = tcp.into_split();
            let sending = tokio::spawn(async move { send_pattern(&mut write, 2, length).await });
            let received = read_pattern(&mut read, &AtomicU64::new(0)).await;
            report.send((received, sending.await.unwrap())).unwrap();
        }
    })
    .await;
    let world = World::new(targets);
    prepare(&world);
    let stream = world.connect(PORT).await.unwrap();
    let (mut read, mut write) = tokio::io::split(stream);
    let progress = Arc::new(AtomicU64::new(0));
    let sending = tokio::spawn(async move { send_pattern(&mut write, 1, length).await });
    let seen = progress.clone();
    let reading = tokio::spawn(async move { read_pattern(&mut read, &seen).await });
    disturb(&world, &progress).await;
    let (received, got) = reading.await.unwrap();
    let ((received_there, got_there), sent_there) = reported.recv().await.unwrap();
    assert_eq!((received, received_there), (length, length));
    assert_eq!(got, sent_there);
    assert_eq!(got_there, sending.await.unwrap());
    world.net.check();
    world
}

async fn within<T>(seconds: u64, what: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(seconds), what).await.expect("in time")
}

async fn wait_until(condition: impl Fn() -> bool) {
    within(20, async {
        while !condition() {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

async fn ping(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Duration {
    let start = Instant::now();
    stream.write_all(b"ping").await.unwrap();
    let mut pong = [0; 4];
    stream.read_exact(&mut pong).await.unwrap();
    assert_eq!(&pong, b"ping");
    start.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_mebibytes_each_way_survive_a_lossy_net() {
    let lossy = |world: &World| world.net.weather.loss.store(10_000, Ordering::Relaxed);
    let world = both_ways(100 * MIB, lossy, async |_, _| {}).await;
    assert_eq!(world.net.opened(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_survives_the_death_of_its_tunnels() {
    let world = both_ways(
        100 * MIB,
        |_| {},
        async |world, progress| {
            for kill in 1..=5 {
                wait_until(|| progress.load(Ordering::Relaxed) > kill * 15 * MIB).await;
                world.net.kill_newest();
                wait_until(|| world.net.opened() as u64 == kill + 1).await;
            }
        },
    )
    .await;
    assert_eq!(world.net.opened(), 6);
    let requests = world.net.requests.lock().unwrap();
    assert!(requests[1].proven && requests[1].avoid.len() == 1 && !requests[1].fresh);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_tunnel_is_replaced_while_the_client_sends() {
    let world = both_ways(
        40 * MIB,
        |_| {},
        async |world, progress| {
            wait_until(|| progress.load(Ordering::Relaxed) > 10 * MIB).await;
            let frozen = Instant::now();
            world.net.freeze_newest();
            wait_until(|| world.net.opened() == 2).await;
            let took = frozen.elapsed();
            assert!(took < Duration::from_secs(8), "replaced after {took:?}"); // about 1.2 s on an idle machine
            let before = progress.load(Ordering::Relaxed);
            wait_until(|| progress.load(Ordering::Relaxed) > before + MIB).await;
            println!("frozen: replaced after {took:?}, flowing after {:?}", frozen.elapsed());
        },
    )
    .await;
    wait_until(|| world.net.confirmed() == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_that_falls_silent_moves_before_the_keep_alive() {
    let targets = target(|mut tcp| async move { while tcp.write_all(&[7; 65_536]).await.is_ok() {} }).await;
    let world = World::new(targets);
    let mut stream = world.connect(PORT).await.unwrap();
    let mut buffer = vec![0; 65_536];
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(500) {
        stream.read_exact(&mut buffer).await.unwrap();
    }
    world.net.freeze_newest();
    let frozen = Instant::now();
    while world.net.opened() == 1 {
        let _silence = timeout(Duration::from_millis(50), stream.read(&mut buffer)).await;
    }
    println!("download: replaced after {:?}", frozen.elapsed());
    assert!(frozen.elapsed() < Duration::from_secs(5));
    for _ in 0..64 {
        within(5, stream.read_exact(&mut buffer)).await.unwrap();
    }
    world.net.check();
}

#[tokio::test]
async fn a_frozen_tunnel_is_replaced_while_the_client_only_listens() {
    let world = World::new(target(echo).await);
    let mut stream = world.connect(PORT).await.unwrap();
    ping(&mut stream).await;
    world.net.freeze_newest();
    wait_until(|| world.net.opened() == 2).await;
    ping(&mut stream).await;
    world.net.check();
}

#[tokio::test]
async fn many_streams_share_one_session() {
    let world = World::new(target(echo).await);
    let mut streams = Vec::new();
    for _ in 0..200 {
        streams.push(world.connect(PORT).await.unwrap());
    }
    for stream in &mut streams {
        ping(stream).await;
    }
    assert_eq!((world.net.opened(), world.service().sessions(), world.pool.sessions()), (1, 1, 1));
    world.net.check();
}

#[tokio::test]
async fn streams_opened_at_once_make_one_session() {
    let world = Arc::new(World::new(target(echo).await));
    let tasks: Vec<_> = (0..50)
        .map(|_| {
            let world = world.clone();
            tokio::spawn(async move { ping(&mut world.connect(PORT).await.unwrap()).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(world.net.opened(), 1);
}

#[tokio::test]
async fn groups_and_kept_identities_have_sessions_of_their_own() {
    let world = World::new(target(echo).await);
    let kept = SpeakAs::Kept(Arc::new(ApSecret::generate(&mut UnwrapErr(SysRng))));
    let (one, two) = (Group::new("one"), Group::new("two"));
    for (group, speak_as) in
        [(&one, &SpeakAs::OneTime), (&two, &SpeakAs::OneTime), (&one, &kept), (&one, &kept)]
    {
        let mut stream = world.pool.connect(group, speak_as, world.peer, PORT).await.unwrap();
        ping(&mut stream).await;
    }
    assert_eq!(world.pool.sessions(), 3);
    world.pool.end_group(&one);
    assert_eq!(world.pool.sessions(), 1);
    world.net.check();
}

#[tokio::test]
async fn half_close_ends_one_direction_only() {
    let targets = target(|mut tcp| async move {
        let mut all = Vec::new();
        tcp.read_to_end(&mut all).await.unwrap(); // needs the client's end before it answers
        tcp.write_all(&all).await.unwrap();
    })
    .await;
    let world = World::new(targets);
    let mut stream = world.connect(PORT).await.unwrap();
    stream.write_all(b"question").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    within(5, stream.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(answer, b"question");
}

#[tokio::test]
async fn a_targets_reset_reaches_the_client_as_a_reset() {
    let targets = target(|mut tcp| async move {
        let mut four = [0; 4];
        tcp.read_exact(&mut four).await.unwrap();
        socket2::SockRef::from(&tcp).set_linger(Some(Duration::ZERO)).unwrap();
    })
    .await;
    let world = World::new(targets);
    let mut stream = world.connect(PORT).await.unwrap();
    stream.write_all(b"ping").await.unwrap();
    let error = within(5, stream.read(&mut [0])).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_clients_reset_reaches_the_target_as_a_reset() {
    let (report, mut reported) = tokio::sync::mpsc::unbounded_channel();
    let targets = target(move |mut tcp| {
        let report = report.clone();
        async move {
            let mut buffer = [0; 4];
            tcp.read_exact(&mut buffer).await.unwrap();
            report.send(tcp.read(&mut buffer).await.map_err(|error| error.kind())).unwrap();
        }
    })
    .await;
    let world = World::new(targets);
    let mut stream = world.connect(PORT).await.unwrap();
    stream.write_all(b"ping").await.unwrap();
    sleep(Duration::from_millis(100)).await;
    stream.reset();
    let seen = within(5, reported.recv()).await.unwrap();
    assert_eq!(seen, Err(std::io::ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn a_closed_client_lets_the_target_finish_reading_and_resets_it_when_it_writes() {
    let (report, mut reported) = tokio::sync::mpsc::unbounded_channel();
    let targets = target(move |mut tcp| {
        let report = report.clone();
        async move {
            let mut all = Vec::new();
            let read = tcp.read_to_end(&mut all).await.map_err(|error| error.kind());
            let mut written = Ok(());
            for _ in 0..200 {
                written = tcp.write_all(b"too late").await.map_err(|error| error.kind());
                if written.is_err() {
                    break;
                }
                sleep(Duration::from_millis(10)).await;
            }
            report.send((read, all, written)).unwrap();
        }
    })
    .await;
    let world = World::new(targets);
    let mut stream = world.connect(PORT).await.unwrap();
    stream.write_all(b"last words").await.unwrap();
    drop(stream);
    let (read, all, written) = within(5, reported.recv()).await.unwrap();
    assert_eq!((read, all.as_slice()), (Ok(10), &b"last words"[..]));
    assert!(written.is_err());
}

#[tokio::test]
async fn what_a_target_that_has_closed_is_sent_is_answered_with_a_reset() {
    let world = World::new(target(|_| async {}).await);
    let mut stream = world.connect(PORT).await.unwrap();
    assert_eq!(within(5, stream.read(&mut [0])).await.unwrap(), 0);
    let mut gone = tokio::spawn(async move {
        stream.write_all(b"anybody?").await.unwrap();
        std::future::poll_fn(|cx| stream.poll_gone(cx)).await;
        stream.write_all(b"?").await.unwrap_err().kind()
    });
    assert_eq!(within(5, &mut gone).await.unwrap(), std::io::ErrorKind::ConnectionReset);
    // But not if it only says nothing more.
    let world = World::new(
        target(|mut tcp| async move {
            tcp.shutdown().await.unwrap();
            tcp.read_to_end(&mut Vec::new()).await.unwrap();
        })
        .await,
    );
    let mut stream = world.connect(PORT).await.unwrap();
    assert_eq!(within(5, stream.read(&mut [0])).await.unwrap(), 0);
    stream.write_all(b"go on").await.unwrap();
    let gone = std::future::poll_fn(|cx| stream.poll_gone(cx));
    assert!(timeout(Duration::from_millis(200), gone).await.is_err());
}

#[tokio::test]
async fn a_target_that_resets_at_once_has_accepted() {
    let world = World::new(target(|tcp: TcpStream| async move { tcp.set_zero_linger().unwrap() }).await);
    for _ in 0..50 {
        let mut stream = world.connect(PORT).await.unwrap();
        let error = within(5, stream.read(&mut [0])).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
}

#[tokio::test]
async fn a_splice_carries_a_local_connection() {
    let world = World::new(target(echo).await);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut program = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (door, _) = listener.accept().await.unwrap();
    let stream = world.connect(PORT).await.unwrap();
    let spliced = tokio::spawn(super::splice(door, stream));
    ping(&mut program).await;
    program.shutdown().await.unwrap();
    let mut rest = Vec::new();
    within(5, program.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(within(5, spliced).await.unwrap().unwrap(), (4, 4));
}

#[tokio::test]
async fn refusals_are_exact() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap(); // closed again
    let mut targets = target(echo).await;
    targets.insert((Protocol::Tcp, 81), silent);
    let world = World::new(targets);
    assert_eq!(world.connect(81).await.unwrap_err(), Refusal::Refused);
    assert_eq!(world.connect(82).await.unwrap_err(), Refusal::Refused);
    ping(&mut world.connect(PORT).await.unwrap()).await;
    let stranger = ApSecret::generate(&mut UnwrapErr(SysRng)).public();
    let nobody = world.pool.connect(&Group::default(), &SpeakAs::OneTime, stranger, PORT).await;
    assert_eq!(nobody.unwrap_err(), Refusal::NoTunnel(OpenError::NotFound));
}

#[tokio::test]
async fn a_local_server_sees_one_address_for_each_visitor() {
    let whence = |mut tcp: TcpStream| async move {
        let peer = tcp.peer_addr().unwrap().ip().to_string();
        tcp.write_all(peer.as_bytes()).await.unwrap();
    };
    let mut targets = target(whence).await;
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    targets.insert((Protocol::Udp, PORT), udp.local_addr().unwrap());
    let world = World::new(targets);
    let seen = async |group: &str| {
        let group = Group::new(group);
        let connecting = world.pool.connect(&group, &SpeakAs::OneTime, world.peer, PORT);
        let mut said = String::new();
        connecting.await.unwrap().read_to_string(&mut said).await.unwrap();
        said.parse::<Ipv4Addr>().unwrap()
    };
    let one = seen("one").await;
    assert!(one.octets()[0] == 127 && one.octets()[1] >= 192, "{one}");
    assert_eq!(seen("one").await, one);
    assert_ne!(seen("two").await, one);

    let (group, deliver) = (Group::new("one"), Box::new(|_| {}));
    let flowing = world.pool.flow(&group, &SpeakAs::OneTime, world.peer, PORT, deliver);
    let mut flow = flowing.await.unwrap();
    flow.send(b"hello");
    let (_, from) = within(10, udp.recv_from(&mut [0; 10])).await.unwrap();
    assert_eq!(from.ip(), one, "datagrams come from there, too");
}

#[tokio::test]
async fn who_is_not_known_is_turned_away_before_it_asks_and_who_is_comes_in() {
    struct Only(ApPublic, SocketAddr);
    impl super::Targets for Only {
        fn target(&self, _: &ApPublic, _: Protocol, _: u16) -> Result<super::Target, Refusal> {
            Ok(super::Target { address: self.1, introduces: false })
        }

        fn admits(&self, client: &ApPublic) -> bool {
            *client == self.0
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let [known, stranger] = [1, 2].map(|_| Arc::new(ApSecret::generate(&mut UnwrapErr(SysRng))));
    let world = World::new(Only(known.public(), listener.local_addr().unwrap()));
    let group = Group::default();
    for speak_as in [SpeakAs::OneTime, SpeakAs::Kept(stranger)] {
        let turned_away = world.pool.connect(&group, &speak_as, world.peer, PORT).await.unwrap_err();
        assert_eq!(turned_away, Refusal::NotAllowed);
        let no_flow = world.pool.flow(&group, &speak_as, world.peer, PORT, Box::new(|_| {})).await;
        assert_eq!(no_flow.unwrap_err(), Refusal::NotAllowed);
    }
    assert!(world.pool.connect(&group, &SpeakAs::Kept(known), world.peer, PORT).await.is_ok());
}

#[tokio::test]
async fn who_offers_a_way_out_is_asked_for_a_place_and_who_does_not_says_so() {
    /// Leads everybody to one place, and tells where they wanted to go.
    struct Out(SocketAddr, UnboundedSender<(Outside, u16)>);
    impl super::GoOut for Out {
        fn connect(&self, to: Outside, port: u16) -> BoxFuture<'_, Result<TcpStream, Refusal>> {
            self.1.send((to, port)).unwrap();
            async move { TcpStream::connect(self.0).await.map_err(|_| Refusal::Failed) }.boxed()
        }
    }
    struct Offer(Arc<Out>);
    impl super::Targets for Offer {
        fn target(&self, _: &ApPublic, _: Protocol, _: u16) -> Result<super::Target, Refusal> {
            Err(Refusal::Refused)
        }

        fn way_out(&self, _: &ApPublic) -> Result<Arc<dyn super::GoOut>, Refusal> {
            Ok(self.0.clone())
        }
    }
    let (listener, (tell, mut told)) =
        (TcpListener::bind("127.0.0.1:0").await.unwrap(), tokio::sync::mpsc::unbounded_channel());
    let world = World::new(Offer(Arc::new(Out(listener.local_addr().unwrap(), tell))));
    let (group, place) = (Group::default(), Outside::name("www.example.com").unwrap());
    let going = world.pool.go_out(&group, &SpeakAs::OneTime, world.peer, place.clone(), 443);
    let mut stream = going.await.unwrap();
    assert_eq!(told.recv().await, Some((place.clone(), 443)));
    stream.write_all(b"hello").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut said = String::new();
    within(10, listener.accept()).await.unwrap().0.read_to_string(&mut said).await.unwrap();
    assert_eq!(said, "hello");
    assert_eq!(world.connect(PORT).await.unwrap_err(), Refusal::Refused);

    let nowhere = World::new(BTreeMap::<(Protocol, u16), SocketAddr>::new());
    let going = nowhere.pool.go_out(&group, &SpeakAs::OneTime, nowhere.peer, place, 443);
    assert_eq!(going.await.unwrap_err(), Refusal::ProtocolUnknown);
}

#[tokio::test]
async fn a_local_server_that_asks_for_it_is_told_who_comes() {
    struct Introducing(SocketAddr);
    impl super::Targets for Introducing {
        fn target(&self, _: &ApPublic, _: Protocol, _: u16) -> Result<super::Target, Refusal> {
            Ok(super::Target { address: self.0, introduces: true })
        }
    }
    let listener = TcpListener::bind("[::1]:0").await.unwrap();
    let world = World::new(Introducing(listener.local_addr().unwrap()));
    let own = Arc::new(ApSecret::generate(&mut UnwrapErr(SysRng)));
    let (group, visitor) = (Group::default(), own.public());
    let speak_as = SpeakAs::Kept(own);
    let mut stream = world.pool.connect(&group, &speak_as, world.peer, PORT).await.unwrap();
    stream.write_all(b"hello\n").await.unwrap();
    stream.shutdown().await.unwrap();
    let (mut tcp, from) = within(10, listener.accept()).await.unwrap();
    let mut said = String::new();
    tcp.read_to_string(&mut said).await.unwrap();
    let address = |party: ApPublic| Ipv6Addr::from(party.address());
    let (visitor, own) = (address(visitor), address(world.peer));
    assert_eq!(said, format!("PROXY TCP6 {visitor} {own} {} {PORT}\r\nhello\n", from.port()));
}

#[tokio::test]
async fn a_session_that_ended_leaves_its_place_though_its_server_still_waits() {
    let (keep, mut kept) = tokio::sync::mpsc::unbounded_channel();
    let waiting = move |tcp: TcpStream| {
        let keep = keep.clone();
        async move { keep.send(tcp).unwrap() }
    };
    let world = World::new(target(waiting).await);
    let speak_as = SpeakAs::Kept(Arc::new(ApSecret::generate(&mut UnwrapErr(SysRng))));
    let mut connections = Vec::new();
    for _ in 0..10 {
        let group = Group::default();
        let connecting = world.pool.connect(&group, &speak_as, world.peer, PORT);
        // The program closes; the server hears that and leaves its own end open.
        drop(within(10, connecting).await.unwrap());
        let mut tcp = within(10, kept.recv()).await.unwrap();
        assert_eq!(within(10, tcp.read(&mut [0])).await.unwrap(), 0);
        connections.push(tcp);
        world.pool.end_group(&group);
        wait_until(|| world.service().sessions() == 0).await;
    }
}

#[tokio::test]
async fn a_service_with_too_many_connections_is_busy_until_one_ends() {
    let world = World::new(target(echo).await);
    let world_group = Group::default();
    let quota = world.service().quotas().connections.clone();
    let client = |number: u64| {
        let mut seed = [9; 32];
        seed[..8].copy_from_slice(&number.to_be_bytes());
        ApSecret::from_bytes(&seed).public()
    };
    let speaker = SpeakAs::Kept(Arc::new(ApSecret::from_bytes(&[8; 32])));
    let SpeakAs::Kept(own) = &speaker else { panic!("it is kept") };
    // Others have taken all, and this client what everybody gets.
    let mut open = Vec::new();
    for number in 0.. {
        let before = open.len();
        open.extend(std::iter::from_fn(|| quota.one_more(&client(number))));
        if quota.open() >= CONNECTIONS {
            break;
        }
        assert!(open.len() > before);
    }
    let mut held: Vec<_> = std::iter::from_fn(|| quota.one_more(&own.public())).collect();
    let connect = || world.pool.connect(&world_group, &speaker, world.peer, PORT);
    assert_eq!(connect().await.unwrap_err(), Refusal::Busy);
    let before = quota.open();
    held.pop();
    ping(&mut connect().await.unwrap()).await;
    wait_until(|| quota.open() < before).await;
}

#[tokio::test]
async fn a_target_that_neither_reads_nor_closes_is_left_when_the_session_has_ended() {
    let (keep, mut kept) = tokio::sync::mpsc::unbounded_channel();
    let deaf = move |mut tcp: TcpStream| {
        let keep = keep.clone();
        async move {
            tcp.shutdown().await.unwrap();
            keep.send(tcp).unwrap();
        }
    };
    let world = World::new(target(deaf).await);
    let mut stream = world.connect(PORT).await.unwrap();
    let _target = within(10, kept.recv()).await.unwrap();
    // Until neither the target's buffers nor the session take any more.
    while timeout(Duration::from_secs(1), stream.write_all(&[7; 65_536])).await.is_ok() {}
    assert_eq!(world.service().quotas().connections.open(), 1);
    world.pool.end_group(&Group::default());
    wait_until(|| world.service().quotas().connections.open() == 0).await;
}

#[tokio::test]
async fn a_target_that_does_not_answer_is_dialled_no_longer_than_its_session_lives() {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    // Whoever comes when its queue is full hears nothing.
    let mut queued = Vec::new();
    while let Ok(tcp) = timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
        queued.push(tcp.unwrap());
    }
    let world = Arc::new(World::new(BTreeMap::from([((Protocol::Tcp, PORT), address)])));
    let program = tokio::spawn({
        let world = world.clone();
        async move { world.connect(PORT).await }
    });
    wait_until(|| world.service().quotas().connections.open() == 1).await;
    program.abort(); // or it would try again
    assert!(program.await.unwrap_err().is_cancelled());
    world.pool.end_group(&Group::default());
    within(5, async {
        while world.service().quotas().connections.open() > 0 {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_local_server_on_ipv6_is_reached_from_its_own_address() {
    let listener = TcpListener::bind("[::1]:0").await.unwrap();
    let world = World::new(BTreeMap::from([((Protocol::Tcp, PORT), listener.local_addr().unwrap())]));
    let _stream = world.connect(PORT).await.unwrap();
    let (_, from) = within(10, listener.accept()).await.unwrap();
    assert_eq!(from.ip(), Ipv6Addr::LOCALHOST);
}

#[tokio::test]
async fn what_a_service_does_not_allow_is_said() {
    struct Closed;
    impl super::Targets for Closed {
        fn target(&self, _: &ApPublic, _: Protocol, _: u16) -> Result<super::Target, Refusal> {
            Err(Refusal::NotAllowed)
        }
    }
    assert_eq!(World::new(Closed).connect(PORT).await.unwrap_err(), Refusal::NotAllowed);
}

#[tokio::test]
async fn who_answers_with_another_key_is_not_taken_for_the_peer() {
    let world = World::new(target(echo).await);
    let wanted = ApSecret::generate(&mut UnwrapErr(SysRng)).public();
    world.impersonate(wanted);
    let refused = within(10, world.pool.connect(&Group::default(), &SpeakAs::OneTime, wanted, PORT)).await;
    assert_eq!(refused.unwrap_err(), Refusal::NotAuthentic);
    assert_eq!(world.pool.sessions(), 0);
}

#[tokio::test]
async fn a_client_without_the_session_secret_meets_silence() {
    let world = World::new(target(echo).await);
    *world.net.client_secret.lock().unwrap() = SessionSecret::from_bytes([1; 32]);
    let connecting = timeout(Duration::from_secs(3), world.connect(PORT)).await;
    assert!(connecting.is_err(), "still waiting");
    assert_eq!((world.service().sessions(), world.net.confirmed()), (0, 0));
}

#[tokio::test]
async fn strangers_datagrams_are_ignored() {
    let world = World::new(target(echo).await);
    let mut stream = world.connect(PORT).await.unwrap();
    let stray = world.net.stray(world.service());
    let mut foreign = Vec::new();
    SessionSecret::from_bytes([1; 32]).seal(
        &mut UnwrapErr(SysRng),
        Speaker::Client,
        &[0xc0; 1_200],
        &mut foreign,
    );
    for payload in [&foreign[..], &[], &[0x40; 1_300], &[0xff; 1_357]] {
        stray.send(Kind::Sealed, payload, After::Nothing);
        stray.send(
            Kind::Plain,
            if payload.first() == Some(&0x40) { payload } else { &[0x40; 100] },
            After::Nothing,
        );
    }
    sleep(Duration::from_millis(300)).await;
    assert!(stray.inbox().is_empty(), "a deaf tunnel is dumb");
    ping(&mut stream).await;
    assert_eq!(world.net.confirmed(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tampered_datagrams_are_discarded_and_repaired() {
    let tampering = |world: &World| world.net.weather.tamper.store(true, Ordering::Relaxed);
    // The ids of tampered datagrams may be random: only the bytes count here.
    let world = both_ways(2 * MIB, tampering, async |_, _| {}).await;
    assert!(world.net.plain.load(Ordering::Relaxed) > 1_000);
}

#[tokio::test]
async fn an_entry_is_confirmed_once_the_handshake_is_done() {
    let world = World::new(target(echo).await);
    let mut stream = world.connect(PORT).await.unwrap();
    wait_until(|| world.net.confirmed() == 1).await;
    world.net.kill_newest();
    ping(&mut stream).await;
    wait_until(|| world.net.confirmed() == 2).await;
    wait_until(|| world.service().tunnels() == 1).await;
    world.net.check();
}

#[tokio::test]
async fn a_session_without_streams_is_not_moved() {
    let world = World::new(target(echo).await);
    drop(world.connect(PORT).await.unwrap());
    world.net.kill_newest();
    wait_until(|| world.pool.sessions() == 0).await;
    assert_eq!(world.net.opened(), 1);
    ping(&mut world.connect(PORT).await.unwrap()).await;
    assert_eq!(world.net.opened(), 2);
}

#[tokio::test]
async fn a_program_that_gave_up_leaves_nothing_behind() {
    let world = World::new(target(echo).await);
    *world.net.refuse.lock().unwrap() = Some(OpenError::NoPath);
    assert!(timeout(Duration::from_millis(300), world.connect(PORT)).await.is_err());
    assert_eq!(world.pool.sessions(), 0);
    *world.net.refuse.lock().unwrap() = None;
    ping(&mut world.connect(PORT).await.unwrap()).await;
}

#[tokio::test]
async fn a_service_that_ends_tells_its_clients() {
    let mut world = World::new(target(echo).await);
    let mut stream = world.connect(PORT).await.unwrap();
    ping(&mut stream).await;
    world.stop_service();
    let end = within(2, stream.read(&mut [0])).await;
    assert!(end.is_err(), "{end:?}");
    wait_until(|| world.pool.sessions() == 0).await;
}

#[tokio::test]
async fn clients_that_end_have_told_their_service() {
    let world = World::new(target(echo).await);
    let mut stream = world.connect(PORT).await.unwrap();
    ping(&mut stream).await;
    assert_eq!(world.service().sessions(), 1);
    within(2, world.pool.end()).await;
    assert_eq!(world.pool.sessions(), 0);
    // Without a word it would have stayed for as long as an idle session may.
    wait_until(|| world.service().sessions() == 0).await;
}

#[tokio::test]
async fn a_session_waits_for_a_net_that_is_down() {
    let world = World::new(target(echo).await);
    let mut stream = world.connect(PORT).await.unwrap();
    *world.net.refuse.lock().unwrap() = Some(OpenError::NoPath);
    world.net.kill_newest();
    sleep(Duration::from_secs(2)).await;
    *world.net.refuse.lock().unwrap() = None;
    within(10, ping(&mut stream)).await;
    let requests = world.net.requests.lock().unwrap();
    assert!(requests.len() > 3 && requests.last().unwrap().fresh);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_echo_beside_a_bulk_stream_stays_fast() {
    let mut targets = target(echo).await;
    targets.insert(
        (Protocol::Tcp, 90),
        target(|mut tcp| async move { while tcp.read(&mut [0; 65_536]).await.is_ok_and(|n| n > 0) {} }).await
            [&(Protocol::Tcp, PORT)],
    );
    let world = World::new(targets);
    world.net.weather.delay.store(200, Ordering::Relaxed);
    let mut bulk = world.connect(90).await.unwrap();
    let mut echo = world.connect(PORT).await.unwrap();
    let sending = tokio::spawn(async move {
        let block = block(1, 1);
        loop {
            bulk.write_all(&block).await.unwrap();
        }
    });
    sleep(Duration::from_millis(500)).await;
    let mut times = Vec::new();
    for _ in 0..50 {
        times.push(ping(&mut echo).await);
        sleep(Duration::from_millis(5)).await;
    }
    sending.abort();
    times.sort();
    println!("echo beside bulk: median {:?}, p90 {:?}, worst {:?}", times[25], times[45], times[49]);
    assert!(times[25] < Duration::from_millis(100), "median {:?}", times[25]);
}

/// `cargo test --release -p phantom-node throughput -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn throughput_in_memory() {
    let sink = |mut tcp: TcpStream| async move {
        let mut buffer = vec![0; 65_536];
        while tcp.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
    };
    for delay in [0, 250] {
        let world = World::new(target(sink).await);
        world.net.weather.delay.store(delay, Ordering::Relaxed);
        let mut stream = world.connect(PORT).await.unwrap();
        let (block, start, length) = (block(1, 1), Instant::now(), 512 * MIB);
        for _ in 0..length / 65_536 {
            stream.write_all(&block).await.unwrap();
        }
        stream.shutdown().await.unwrap();
        let _end = stream.read(&mut [0]).await;
        let seconds = start.elapsed().as_secs_f64();
        println!("one way delay {delay} us: {:.0} MB/s", length as f64 / seconds / 1e6);
    }
}
