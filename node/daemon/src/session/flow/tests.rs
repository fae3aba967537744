//! UDP flows end to end over in-memory tunnels.

use std::{collections::BTreeMap, net::SocketAddr};

use tokio::{
    net::UdpSocket,
    sync::mpsc,
    time::{sleep, timeout},
};

use super::{
    super::{Group, Protocol, Refusal, SpeakAs, testing::World},
    *,
};

const PORT: u16 = 53;

/// A client's end, and what came for it.
struct Talk {
    flow: Flow,
    heard: mpsc::UnboundedReceiver<Vec<u8>>,
}

impl Talk {
    async fn open(world: &World, port: u16) -> Result<Talk, Refusal> {
        let (tell, heard) = mpsc::unbounded_channel();
        let deliver = Box::new(move |data| tell.send(data).unwrap());
        let flow = world.pool.flow(&Group::default(), &SpeakAs::OneTime, world.peer, port, deliver).await?;
        Ok(Talk { flow, heard })
    }

    async fn hear(&mut self) -> Vec<u8> {
        within(10, self.heard.recv()).await.unwrap()
    }
}

async fn within<T>(seconds: u64, what: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(seconds), what).await.expect("in time")
}

/// A local server that answers a question of one byte with the address that it came from, and sends all else back.
async fn server() -> BTreeMap<(Protocol, u16), SocketAddr> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = vec![0; 64 << 10];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let whence = from.to_string();
            let answer = if length == 1 { whence.as_bytes() } else { &buffer[..length] };
            socket.send_to(answer, from).await.unwrap();
        }
    });
    BTreeMap::from([((Protocol::Udp, PORT), address), ((Protocol::Tcp, 80), address)])
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i ^ (i >> 8)) as u8).collect()
}

#[tokio::test]
async fn datagrams_of_every_size_come_back_whole() {
    let world = World::new(server().await);
    let mut talk = Talk::open(&world, PORT).await.unwrap();
    for length in [0, 2, 512, 1_232, 1_266, 1_267, 1_472, 9_000, 65_507] {
        talk.flow.send(&pattern(length));
        assert!(talk.hear().await == pattern(length), "{length}");
    }
    world.net.check();
}

#[tokio::test]
async fn one_that_is_too_large_is_lost_alone() {
    let world = World::new(server().await);
    let mut talk = Talk::open(&world, PORT).await.unwrap();
    talk.flow.send(&pattern(65_508));
    talk.flow.send(b"next");
    assert_eq!(talk.hear().await, b"next");
}

#[tokio::test]
async fn every_flow_has_a_socket_of_its_own_and_keeps_it() {
    let world = World::new(server().await);
    let (mut one, mut other) =
        (Talk::open(&world, PORT).await.unwrap(), Talk::open(&world, PORT).await.unwrap());
    let mut asked = Vec::new();
    for talk in [&mut one, &mut other] {
        talk.flow.send(b"?");
        asked.push(talk.hear().await);
    }
    assert_ne!(asked[0], asked[1]);
    one.flow.send(b"?");
    assert_eq!(one.hear().await, asked[0]);
    assert_eq!((world.service().sessions(), world.service().flows()), (1, 2));
}

#[tokio::test]
async fn a_port_that_speaks_something_else_refuses() {
    let world = World::new(server().await);
    assert_eq!(Talk::open(&world, 80).await.err(), Some(Refusal::Refused));
    assert_eq!(world.connect(PORT).await.unwrap_err(), Refusal::Refused);
    assert_eq!(world.service().flows(), 0);
}

#[tokio::test]
async fn a_flow_survives_the_death_of_its_tunnel() {
    let world = World::new(server().await);
    let mut talk = Talk::open(&world, PORT).await.unwrap();
    talk.flow.send(b"?");
    let before = talk.hear().await;
    world.net.kill_newest();
    let answer = async {
        loop {
            talk.flow.send(b"?"); // what is sent meanwhile is lost
            if let Ok(answer) = timeout(Duration::from_millis(100), talk.heard.recv()).await {
                return answer.unwrap();
            }
        }
    };
    assert_eq!(within(20, answer).await, before, "the same socket, after a move");
    assert_eq!(world.net.opened(), 2);
    world.net.check();
}

#[tokio::test]
async fn a_silent_flow_keeps_its_session_alive_on_a_frozen_tunnel() {
    let world = World::new(server().await);
    let mut talk = Talk::open(&world, PORT).await.unwrap();
    world.net.freeze_newest();
    within(30, async {
        while world.net.opened() < 2 {
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    talk.flow.send(b"still there");
    assert_eq!(talk.hear().await, b"still there");
}

#[tokio::test]
async fn what_arrives_through_a_lossy_net_is_whole() {
    let world = World::new(server().await);
    let mut talk = Talk::open(&world, PORT).await.unwrap();
    world.net.weather.loss.store(100_000, Ordering::Relaxed);
    let mut whole = 0;
    for number in 0..200_usize {
        talk.flow.send(&vec![number as u8; 2_000 + number]);
        while let Ok(data) = timeout(Duration::from_millis(5), talk.heard.recv()).await {
            let data = data.unwrap();
            assert_eq!(data, vec![data[0]; 2_000 + usize::from(data[0])]);
            whole += 1;
        }
    }
    assert!((20..200).contains(&whole), "{whole} of 200"); // 0.9 to the 4th of them is 131
}

#[tokio::test]
async fn each_end_hears_when_the_other_has_ended() {
    let mut world = World::new(server().await);
    let (one, mut other) = (Talk::open(&world, PORT).await.unwrap(), Talk::open(&world, PORT).await.unwrap());
    drop(one);
    within(10, async {
        while world.service().flows() != 1 {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    other.flow.send(b"lives");
    assert_eq!(other.hear().await, b"lives");
    world.stop_service();
    within(10, other.flow.ended()).await;
}

#[tokio::test]
async fn a_session_has_so_many_flows_and_one_that_ends_makes_room() {
    let world = World::new(server().await);
    let mut talks = Vec::new();
    for _ in 0..FLOWS {
        talks.push(Talk::open(&world, PORT).await.unwrap());
    }
    assert_eq!(Talk::open(&world, PORT).await.err(), Some(Refusal::Busy));
    talks.pop();
    let opened = async {
        loop {
            match Talk::open(&world, PORT).await {
                Ok(talk) => return talk,
                Err(Refusal::Busy) => sleep(Duration::from_millis(10)).await, // the service has not heard of the end yet
                Err(refusal) => panic!("{refusal}"),
            }
        }
    };
    let mut talk = within(10, opened).await;
    talk.flow.send(b"hello");
    assert_eq!(talk.hear().await, b"hello");
}

#[tokio::test]
async fn what_belongs_to_no_flow_is_dropped() {
    let world = World::new(server().await);
    let mut talk = Talk::open(&world, PORT).await.unwrap();
    let part = |flow, part, parts, data| Part { flow, datagram: 1, part, parts, data }.encode();
    for foreign in
        [vec![], vec![0], vec![0; 7], part(77, 0, 1, b"x"), part(0, 1, 2, b"x"), part(0, 3, 2, b"x")]
    {
        talk.flow.connection.send_datagram(foreign.into()).unwrap();
    }
    talk.flow.send(b"mine");
    assert_eq!(talk.hear().await, b"mine");
}

#[tokio::test]
async fn a_flow_is_idle_when_nothing_came_or_went_for_long() {
    let (activity, second) = (Activity::default(), Duration::from_secs(1));
    assert_eq!(activity.due(IDLE), activity.since + IDLE);
    for after in [second, 2 * second, 100 * second] {
        activity.note_at(activity.since + after);
        assert_eq!(activity.due(IDLE), activity.since + after + IDLE);
    }
    let silent = Activity::default();
    within(10, silent.ceased(Duration::from_millis(1))).await;
    assert!(Instant::now() >= silent.due(Duration::from_millis(1)));
}
