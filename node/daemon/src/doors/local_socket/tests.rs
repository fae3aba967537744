//! A node and its clients over a real socket file.

use std::{
    io::{Read, Write},
    net::IpAddr,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use phantom_policy::{
    Errno,
    frame::{FromNode, FromRun},
    socket::Kind,
};
use phantom_protocol::{
    address::ApName,
    identity::{ApPublic, ApSecret},
    wire::outward::Outside,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
};

use super::*;
use crate::{
    doors::{CommandHandle, Measures, NodeHandle, Runs, Serving},
    frames::{Incoming, send},
    program::testing::lingering,
    session::{Caller, Deliver, Protocol, Serve},
};

/// Publishes port 8000 only. Port 7 of every party echoes, all others are closed.
struct TestNode;

impl NodeHandle for TestNode {
    type Stream = TcpStream;
    type Flow = crate::session::Flow;

    async fn connect(&self, _: &str, _: ApPublic, port: u16) -> std::io::Result<TcpStream> {
        if port != 7 {
            return Err(std::io::ErrorKind::ConnectionRefused.into());
        }
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let near = TcpStream::connect(listener.local_addr()?).await?;
        let (mut far, _) = listener.accept().await?;
        tokio::spawn(async move {
            let (mut read, mut write) = far.split();
            tokio::io::copy(&mut read, &mut write).await
        });
        Ok(near)
    }

    fn out_proxy(&self) -> Option<ApPublic> {
        None
    }

    async fn meet(
        &self,
        _: &str,
        _: Option<phantom_protocol::address::ApAddress>,
        _: u16,
    ) -> std::io::Result<crate::doors::Awaited<TcpStream>> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    async fn go_out(&self, _: &str, _: Outside, _: u16) -> std::io::Result<TcpStream> {
        Err(std::io::ErrorKind::PermissionDenied.into())
    }

    async fn flow(&self, _: &str, _: ApPublic, _: u16, _: Deliver) -> std::io::Result<Self::Flow> {
        Err(std::io::ErrorKind::ConnectionRefused.into())
    }

    async fn host(&self, request: HostRequest) -> anyhow::Result<Hosted> {
        anyhow::ensure!(request.port == 8000, "No path stands yet.");
        let HostRequest { port, to, label, protocol, proxy_protocol, allow, outward } = request;
        Ok(Hosted {
            label,
            name: "x.ap".into(),
            address: "fc00::1".parse()?,
            port,
            to,
            protocol,
            proxy_protocol,
            allow,
            outward,
        })
    }

    async fn unhost(&self, _: &str) -> anyhow::Result<()> {
        Ok(())
    }

    async fn status(&self) -> Status {
        Status { node: "12ab".into(), ..Status::default() }
    }
}

impl CommandHandle for TestNode {
    async fn look_up(&self, _: ApPublic) -> anyhow::Result<LookedUp> {
        Ok(LookedUp { expires_in: Some(60), entries: 3 })
    }

    async fn ping(&self, _: ApPublic, patience: Duration) -> anyhow::Result<Pinged> {
        Ok(Pinged { micros: Some(patience.as_micros() as u64), ..Pinged::default() })
    }

    async fn new_identity(&self) -> anyhow::Result<Ended> {
        Ok(Ended { sessions: 2, paths: 1 })
    }

    async fn visit(&self, to: ApName, label: &str) -> anyhow::Result<Visit> {
        Ok(Visit {
            to: to.to_string(),
            label: label.into(),
            name: "x.ap".into(),
            address: "fc00::1".parse()?,
        })
    }

    async fn forget_visit(&self, _: ApName) -> anyhow::Result<()> {
        Ok(())
    }

    fn visits(&self) -> Vec<Visit> {
        Vec::new()
    }

    /// Somebody comes at once, to a port that is not open and to one that is, and says so.
    async fn serve(&self, label: Option<&str>, server: Arc<dyn Serve>) -> anyhow::Result<Serving> {
        anyhow::ensure!(label != Some("taken"), "taken is hosted already");
        let party = ApSecret::from_bytes(&[9; 32]).public();
        let caller = Caller { party, alias: [127, 224, 0, 2].into() };
        tokio::spawn(async move {
            let refused = server.socket(caller, Protocol::Tcp, 81).await.unwrap_err();
            let socket = server.socket(caller, Protocol::Tcp, 80).await.unwrap();
            let mut stream = socket.into_stream().unwrap();
            stream.write_all(format!("{refused:?}").as_bytes()).await.unwrap();
        });
        let name = party.name();
        Ok(Serving { name, online: Box::new(()) })
    }

    async fn measures(&self) -> Measures {
        Measures::default()
    }
}

struct World {
    place: PathBuf,
    serving: tokio::task::JoinHandle<()>,
    _folder: tempfile::TempDir,
}

async fn world() -> World {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("own/sock");
    let serving = serve(&place).await;
    World { place, serving, _folder: folder }
}

async fn serve(place: &std::path::Path) -> tokio::task::JoinHandle<()> {
    let socket = LocalSocket::bind(place).await.unwrap();
    tokio::spawn(async move {
        let node = Arc::new(TestNode);
        let runs = Arc::new(Runs::new(node.clone(), Arc::default(), Arc::default()));
        socket.serve(node, runs).await;
    })
}

fn wish(port: u16, label: &str) -> HostRequest {
    HostRequest::new(port, "127.0.0.1:8000".parse().unwrap(), label)
}

/// Sends a frame and reads the reply.
async fn say(stream: &mut UnixStream, message: Value) -> Value {
    say_showing(stream, message, Some(origin::proof().unwrap())).await
}

async fn say_showing(stream: &mut UnixStream, message: Value, proof: Option<OwnedFd>) -> Value {
    let frame = frame::encode(&message).unwrap();
    assert_eq!(origin::show(stream, &frame, proof.as_ref()).await.unwrap(), frame.len());
    let mut reply = vec![0; stream.read_u32().await.unwrap() as usize];
    stream.read_exact(&mut reply).await.unwrap();
    serde_json::from_slice(&reply).unwrap()
}

#[tokio::test]
async fn a_client_asks_and_the_node_answers() {
    let world = world().await;
    let mut client = LocalClient::connect(&[world.place]).await.unwrap();
    assert_eq!(client.status().await.unwrap().node, "12ab");
    assert_eq!(client.host(wish(8000, "web")).await.unwrap().name, "x.ap");
    client.unhost("web").await.unwrap();
    assert!(client.host(wish(1, "web")).await.unwrap_err().to_string().contains("No path stands"));
    assert!(client.host(wish(8000, "../web")).await.is_err());
    let no_line = HostRequest { protocol: Protocol::Udp, proxy_protocol: true, ..wish(8000, "web") };
    assert!(client.host(no_line).await.unwrap_err().to_string().contains("for TCP"));
    assert_eq!(client.status().await.unwrap().node, "12ab", "an error ends nothing");
}

#[tokio::test]
async fn a_party_is_named_by_its_full_name_and_waited_for_a_minute_at_most() {
    let world = world().await;
    let mut client = LocalClient::connect(std::slice::from_ref(&world.place)).await.unwrap();
    let name = ApName::of(&ApSecret::from_bytes(&[7; 32]).public());
    assert_eq!(client.look_up(&name).await.unwrap().expires_in, Some(60));
    assert_eq!(client.ping(&name, Duration::from_secs(3)).await.unwrap().micros, Some(3_000_000));
    assert_eq!(client.ping(&name, Duration::MAX).await.unwrap().micros, Some(60_000_000));
    assert_eq!(client.new_identity().await.unwrap(), Ended { sessions: 2, paths: 1 });
    let mut stream = UnixStream::connect(&world.place).await.unwrap();
    say(&mut stream, json!({"request": "hello", "version": 1})).await;
    let said = say(&mut stream, json!({"request": "look_up", "name": "short.ap"})).await;
    assert!(said["message"].as_str().unwrap().contains("cut off"), "{said}");
}

#[tokio::test]
async fn other_versions_and_unknown_requests_are_errors() {
    let world = world().await;
    let mut stream = UnixStream::connect(&world.place).await.unwrap();
    assert_eq!(say(&mut stream, json!({"request": "status"})).await["code"], "version");
    assert_eq!(say(&mut stream, json!({"request": "hello", "version": 1})).await["version"], 1);
    for unknown in [json!({"request": "fly"}), json!({"request": "status", "how": 1}), json!([]), json!(7)] {
        assert_eq!(say(&mut stream, unknown.clone()).await["code"], "request", "{unknown}");
    }
    assert_eq!(say(&mut stream, json!({"request": "status"})).await["reply"], "status");
    assert_eq!(say(&mut stream, json!({"request": "hello", "version": 2})).await["code"], "version");
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn who_shows_no_socket_of_the_nodes_own_network_gives_no_orders() {
    let world = world().await;
    let bound = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    bound.bind_device(Some(b"lo")).unwrap();
    let (unix, _) = std::os::unix::net::UnixStream::pair().unwrap();
    for shown in [None, Some(unix.into()), Some(bound.into())] {
        let mut stream = UnixStream::connect(&world.place).await.unwrap();
        assert_eq!(say_showing(&mut stream, json!({"request": "status"}), shown).await["code"], "version");
        // It is too late for another one.
        let refused = say(&mut stream, json!({"request": "hello", "version": 1})).await;
        assert!(refused["message"].as_str().unwrap().contains("inside of a phantom run"), "{refused}");
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    }
}

/// Connections that have shown nothing.
async fn silent(world: &World) -> Vec<UnixStream> {
    let mut silent = Vec::new();
    for _ in 0..room::CLIENTS {
        silent.push(UnixStream::connect(&world.place).await.unwrap());
    }
    silent
}

#[tokio::test]
async fn who_is_silent_keeps_nobody_out_and_who_has_spoken_stays() {
    let world = world().await;
    let mut silent_ones = silent(&world).await;
    let mut early = LocalClient::connect(std::slice::from_ref(&world.place)).await.unwrap();
    silent_ones.extend(silent(&world).await);
    let mut late = LocalClient::connect(std::slice::from_ref(&world.place)).await.unwrap();
    for client in [&mut early, &mut late] {
        assert_eq!(client.status().await.unwrap().node, "12ab");
    }
    assert_eq!(silent_ones[0].read(&mut [0]).await.unwrap(), 0, "it has made way");
}

#[tokio::test]
async fn who_shows_itself_from_elsewhere_keeps_nobody_out_either() {
    let world = world().await;
    let mut elsewhere = silent(&world).await;
    for stream in &mut elsewhere {
        assert_eq!(say_showing(stream, json!({"request": "status"}), None).await["code"], "version");
    }
    LocalClient::connect(&[world.place]).await.unwrap();
}

#[tokio::test]
async fn what_a_client_shows_holds_up_nobody() {
    let world = world().await;
    let began = std::time::Instant::now();
    let (shown, _peer) = lingering();
    let mut stream = UnixStream::connect(&world.place).await.unwrap();
    let frame = frame::encode(&json!({"request": "status"})).unwrap();
    // The node has the last one of it.
    origin::show(&stream, &frame, Some(&shown.into())).await.unwrap();
    assert!(stream.read_u32().await.unwrap() > 0);
    LocalClient::connect(&[world.place]).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(60), "it waited");
}

#[tokio::test]
async fn where_all_have_spoken_all_are_served_and_one_more_waits_for_its_turn() {
    let world = world().await;
    let hello = frame::encode(&json!({"request": "hello", "version": 1})).unwrap();
    let mut all = silent(&world).await;
    all.push(UnixStream::connect(&world.place).await.unwrap());
    // Nobody was looked at yet: the node has the same thread.
    for stream in &all {
        origin::show(stream, &hello, Some(&origin::proof().unwrap())).await.unwrap();
    }
    let mut last = all.pop().unwrap();
    for stream in &mut all {
        let length = stream.read_u32().await.unwrap();
        stream.read_exact(&mut vec![0; length as usize]).await.unwrap();
    }
    let mut none = [0];
    assert!(last.try_read(&mut none).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
    all.pop();
    assert!(last.read_u32().await.unwrap() > 0);
    for stream in &mut all {
        assert_eq!(say(stream, json!({"request": "status"})).await["reply"], "status");
    }
}

#[tokio::test]
async fn a_frame_that_is_too_long_ends_the_conversation_only() {
    let world = world().await;
    let mut stream = UnixStream::connect(&world.place).await.unwrap();
    stream.write_u32(u32::MAX).await.unwrap();
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    LocalClient::connect(&[world.place]).await.unwrap();
}

#[tokio::test]
async fn only_a_socket_that_nobody_answers_is_replaced() {
    let world = world().await;
    assert!(matches!(LocalSocket::bind(&world.place).await, Err(BindError::Taken(_))));
    // A killed node leaves its file behind: a listener that is dropped does so, too.
    let left_over = world.place.with_file_name("left-over");
    drop(std::os::unix::net::UnixListener::bind(&left_over).unwrap());
    assert!(matches!(
        LocalClient::connect(std::slice::from_ref(&left_over)).await,
        Err(ClientError::NotRunning(_))
    ));
    let serving = serve(&left_over).await;
    LocalClient::connect(&[left_over]).await.unwrap();
    serving.abort();
    let file = world.place.with_file_name("file");
    std::fs::write(&file, "kept").unwrap();
    assert!(matches!(LocalSocket::bind(&file).await, Err(BindError::InTheWay(_))));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "kept");
}

#[tokio::test]
async fn the_file_goes_with_the_node_and_is_private_before() {
    let world = world().await;
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&world.place), 0o600);
    assert_eq!(mode(world.place.parent().unwrap()), 0o700);
    world.serving.abort();
    assert!(world.serving.await.is_err());
    assert!(!world.place.exists());
}

#[tokio::test]
async fn a_folder_that_others_can_enter_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let refused = LocalSocket::bind(&folder.path().join("sock")).await.unwrap_err();
    assert!(refused.to_string().contains("chmod 700"), "{refused}");
}

#[tokio::test]
async fn a_path_that_is_too_long_is_said_to_be() {
    let place = PathBuf::from("/tmp").join("x".repeat(120)).join("sock");
    assert!(matches!(LocalSocket::bind(&place).await, Err(BindError::TooLong(_))));
}

#[test]
fn a_named_state_folder_is_the_only_place() {
    let configured = Some("/c/d".as_ref());
    assert_eq!(client_places(Some("/a/b".as_ref()), configured), [PathBuf::from("/a/b/sock")]);
    assert!(client_places(None, configured).contains(&PathBuf::from("/c/d/sock")));
    assert_eq!(node_places("/a/b".as_ref()).first(), Some(&PathBuf::from("/a/b/sock")));
}

/// A run, as `phantom run` speaks for it.
struct TestRun {
    node: std::os::unix::net::UnixStream,
    incoming: Incoming,
}

impl TestRun {
    async fn begin(place: &std::path::Path) -> TestRun {
        let client = LocalClient::connect(&[place.to_owned()]).await.unwrap();
        let (own, name, node) = client.run(None).await.unwrap();
        assert!(own.octets()[0] == 0xfc && name.is_none());
        node.set_nonblocking(false).unwrap();
        TestRun { node, incoming: Incoming::new() }
    }

    fn say(&self, frame: FromRun<'_>, with: &[BorrowedFd<'_>]) {
        let mut buffer = [0; 256];
        let bytes = frame.encode(&mut buffer).unwrap();
        assert_eq!(send(&self.node, bytes, with).unwrap(), bytes.len());
    }

    /// Blocks; the node has other threads.
    fn hear<T>(&mut self, understand: impl Fn(FromNode<'_>) -> T) -> T {
        loop {
            if let Some((frame, _)) = self.incoming.next().unwrap() {
                return understand(FromNode::decode(frame).unwrap());
            }
            assert!(self.incoming.fill(&self.node).unwrap());
        }
    }

    fn verdict(&mut self, of: u32) -> Result<(), Errno> {
        self.hear(|frame| match frame {
            FromNode::Verdict { id, outcome } if id == of => outcome,
            other => panic!("{other:?}"),
        })
    }

    fn open(&self, id: u32, to: std::net::SocketAddr) {
        self.say(FromRun::Open { id, circle: 0, to }, &[]);
    }

    /// Hands the other end of a connection over that was accepted; returns the program's.
    fn join(&self, id: u32) -> std::net::TcpStream {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let program = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        self.say(FromRun::Joined { id, outcome: Ok(()) }, &[far.as_fd()]);
        program
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_run_hands_over_is_carried_to_the_party_whose_name_it_has_asked_for() {
    let world = world().await;
    let mut run = TestRun::begin(&world.place).await;
    let name = ApName::of(&ApSecret::from_bytes(&[7; 32]).public()).to_string();
    run.say(FromRun::Name { id: 1, name: &name }, &[]);
    let (address, alias) = run.hear(|frame| match frame {
        FromNode::Named { id: 1, found } => found.unwrap(),
        other => panic!("{other:?}"),
    });
    for party in [IpAddr::V6(address), IpAddr::V4(alias.unwrap())] {
        run.open(2, (party, 7).into());
        assert_eq!(run.verdict(2), Ok(()));
        let mut program = run.join(2);
        program.write_all(b"and back").unwrap();
        let mut echoed = [0; 8];
        program.read_exact(&mut echoed).unwrap();
        assert_eq!(&echoed, b"and back");
        run.open(3, (party, 80).into());
        assert_eq!(run.verdict(3), Err(Errno::ECONNREFUSED));
    }
    run.say(FromRun::Address { id: 4, address: address.into() }, &[]);
    run.hear(|frame| assert_eq!(frame, FromNode::Addressed { id: 4, name: Some(&name) }));
    // Another run has not asked for it.
    let mut other = TestRun::begin(&world.place).await;
    other.open(1, (address, 7).into());
    assert_eq!(other.verdict(1), Err(Errno::EHOSTUNREACH));
    other.say(FromRun::Name { id: 2, name: "example.com" }, &[]);
    other.hear(|frame| assert_eq!(frame, FromNode::Named { id: 2, found: None }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_hands_over_something_else_is_left_and_its_connections_end_with_it() {
    let world = world().await;
    let mut run = TestRun::begin(&world.place).await;
    let name = ApName::of(&ApSecret::from_bytes(&[7; 32]).public()).to_string();
    run.say(FromRun::Name { id: 1, name: &name }, &[]);
    let address = run.hear(|frame| match frame {
        FromNode::Named { found, .. } => found.unwrap().0,
        other => panic!("{other:?}"),
    });
    let to = (address, 7).into();
    run.open(2, to);
    assert_eq!(run.verdict(2), Ok(()));
    let mut program = run.join(2);
    let file = tempfile::tempfile().unwrap();
    run.open(3, to);
    assert_eq!(run.verdict(3), Ok(()));
    run.say(FromRun::Joined { id: 3, outcome: Ok(()) }, &[file.as_fd()]);
    assert!(!run.incoming.fill(&run.node).unwrap(), "left");
    assert_eq!(program.read(&mut [0]).unwrap_or(0), 0, "ended");
    // Nor is a frame without its descriptor one.
    let mut run = TestRun::begin(&world.place).await;
    run.say(FromRun::Flow { id: 1, circle: 0, to }, &[]);
    assert!(!run.incoming.fill(&run.node).unwrap_or(false), "left");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_to_a_published_run_is_announced_and_let_in_by_the_socket_that_it_hands_over() {
    let world = world().await;
    let begin = async |label: &str| {
        let client = LocalClient::connect(std::slice::from_ref(&world.place)).await.unwrap();
        client.run(Some(Publish { label: Some(label.to_owned()) })).await
    };
    for (label, why) in [("taken", "taken is hosted already"), ("../shop", "A label consists of")] {
        let refused = begin(label).await.unwrap_err().to_string();
        assert!(refused.contains(why), "{refused}");
    }
    let (own, name, node) = begin("shop").await.unwrap();
    let public = ApSecret::from_bytes(&[9; 32]).public();
    assert_eq!((name, own), (Some(public.name().to_string()), public.address().into()));
    node.set_nonblocking(false).unwrap();
    let mut run = TestRun { node, incoming: Incoming::new() };
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    for expected in [81, 80] {
        let asked = run.hear(|frame| match frame {
            FromNode::Visit { id, kind: Kind::Stream, port, address, alias } if port == expected => {
                assert_eq!((address, alias), (own, [127, 224, 0, 2].into()));
                id
            }
            other => panic!("{other:?}"),
        });
        // What nobody has asked for is of no matter.
        run.say(FromRun::Visited { id: asked + 1, outcome: Err(Errno::EACCES) }, &[]);
        if expected == 80 {
            let socket = std::net::TcpStream::connect(server.local_addr().unwrap()).unwrap();
            run.say(FromRun::Visited { id: asked, outcome: Ok(()) }, &[socket.as_fd()]);
        } else {
            run.say(FromRun::Visited { id: asked, outcome: Err(Errno::ECONNREFUSED) }, &[]);
        }
    }
    let mut heard = String::new();
    server.accept().unwrap().0.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "Refused");
}
