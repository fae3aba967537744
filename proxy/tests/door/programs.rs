//! Programs as they are: curl, and Python with PySocks. What is not installed is not tested, and says so, or fails
//! where everything must be tested.

use std::process::Stdio;

use crate::world::{World, is_missing, soon};
use phantom_proxy::{Host, Isolation, Limits};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::Command,
    task::JoinHandle,
};

/// Runs a program beside a web server at the far side that serves one request with `body`. Nothing if it is not installed.
async fn run(world: &World, program: &str, arguments: &[&str], body: Vec<u8>) -> Option<Vec<u8>> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true).env_remove("ALL_PROXY");
    let output = async { command.output().await };
    let serving = async {
        let (far, _) = world.far.accept().await.unwrap();
        serve(far, body).await
    };
    let both = async {
        tokio::select! {
            output = output => Some(output),
            () = async { serving.await; std::future::pending().await } => None,
        }
    };
    match soon(both).await? {
        Ok(output) if output.status.success() => Some(output.stdout),
        Ok(output) => panic!("{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr)),
        Err(_) => {
            is_missing(program);
            None
        }
    }
}

async fn serve(mut far: TcpStream, body: Vec<u8>) {
    let mut asked = Vec::new();
    while !asked.ends_with(b"\r\n\r\n") {
        asked.push(far.read_u8().await.unwrap());
    }
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    far.write_all(head.as_bytes()).await.unwrap();
    far.write_all(&body).await.unwrap();
    far.shutdown().await.unwrap();
}

#[tokio::test]
async fn curl_gets_a_page_in_every_protocol() {
    let mut world = World::new(Limits::default()).await;
    let body: Vec<u8> = (0..2_000_003u32).map(|i| (i ^ (i >> 8)) as u8).collect();
    let proxy = world.proxy.to_string();
    let named = Host::Name("far.example".into());
    let alice = Isolation::Credentials { user: b"alice".to_vec(), password: b"secret".to_vec() };
    let only_user = Isolation::Credentials { user: b"alice".to_vec(), password: Vec::new() };
    let ways = [
        (format!("socks5h://{proxy}"), Isolation::Default),
        (format!("socks5h://alice:secret@{proxy}"), alice.clone()),
        (format!("socks4a://{proxy}"), Isolation::Default),
        (format!("socks4a://alice@{proxy}"), only_user),
        (format!("http://alice:secret@{proxy}"), alice),
    ];
    for (way, group) in ways {
        let arguments = ["-q", "-sS", "--noproxy", "", "-p", "-x", &way, "http://far.example/"];
        let Some(got) = run(&world, "curl", &arguments, body.clone()).await else { return };
        assert!(got == body, "{way}");
        let request = world.requests.recv().await.unwrap();
        assert!(request.host == named && request.port == 80 && request.isolation == group, "{way}");
    }
}

#[tokio::test]
async fn curl_shows_the_page_to_who_takes_the_port_for_a_web_proxy() {
    let world = World::new(Limits::default()).await;
    let way = format!("http://{}", world.proxy);
    let arguments = ["-q", "-sS", "--noproxy", "", "-x", &way, "http://far.example/"];
    let Some(got) = run(&world, "curl", &arguments, Vec::new()).await else { return };
    assert!(String::from_utf8(got).unwrap().contains("--socks5-hostname"));
}

const FETCH: &str = "
import socks, sys
kind, port = getattr(socks, sys.argv[1]), int(sys.argv[2])
s = socks.socksocket()
s.set_proxy(kind, '127.0.0.1', port, rdns=True, username=sys.argv[3] or None, password=sys.argv[4] or None)
s.connect(('far.example', 80))
s.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n')
while data := s.recv(65536):
    sys.stdout.buffer.write(data)
";

const ASK: &str = "
import socks, sys
s = socks.socksocket(type=socks.socket.SOCK_DGRAM)
s.set_proxy(socks.SOCKS5, '127.0.0.1', int(sys.argv[1]), rdns=True)
s.settimeout(15)
s.sendto(b'question', ('192.0.2.7', 53))
data, peer = s.recvfrom(65536)
print(data.decode(), peer[0], peer[1])
";

/// A Python that has PySocks: the one of the system, for which it is installed, need not be the first on the path.
async fn python_with_pysocks() -> Option<&'static str> {
    for python in ["python3", "/usr/bin/python3"] {
        let found = Command::new(python).args(["-c", "import socks"]).stderr(Stdio::null()).status().await;
        if found.is_ok_and(|status| status.success()) {
            return Some(python);
        }
    }
    is_missing("PySocks");
    None
}

#[tokio::test]
async fn pysocks_gets_a_page_in_every_protocol() {
    let Some(python) = python_with_pysocks().await else { return };
    let world = World::new(Limits::default()).await;
    let port = world.proxy.port().to_string();
    for (kind, user, password) in
        [("SOCKS5", "", ""), ("SOCKS5", "alice", "secret"), ("SOCKS4", "alice", ""), ("HTTP", "", "")]
    {
        let arguments = ["-c", FETCH, kind, &port, user, password];
        let got = run(&world, python, &arguments, b"a page".to_vec()).await.unwrap();
        assert!(got.ends_with(b"\r\n\r\na page"), "{kind}");
    }
}

#[tokio::test]
async fn pysocks_sends_datagrams_and_hears_the_answer() {
    let Some(python) = python_with_pysocks().await else { return };
    let mut world = World::new(Limits::default()).await;
    let port = world.proxy.port().to_string();
    let child = Command::new(python)
        .args(["-c", ASK, &port])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let answering: JoinHandle<_> = tokio::spawn(async move {
        let (_, mut far) = world.associations.recv().await.unwrap();
        let mut question = far.incoming.recv().await.unwrap();
        assert!(question.data == b"question");
        question.data = b"answer".to_vec();
        far.outgoing.send(question).await.unwrap();
        // Held until the program has ended.
        far.incoming.recv().await
    });
    let output = soon(child.wait_with_output()).await.unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), "answer 192.0.2.7 53");
    assert!(soon(answering).await.unwrap().is_none());
}
