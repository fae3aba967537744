//! The website over real sockets, by a client that only knows bytes.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::*;

async fn site() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, Facts { hops: 3, nodes: 12 }));
    address
}

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

async fn ask(site: SocketAddr, method: &str, path: &str, more: &str) -> Answer {
    let mut stream = TcpStream::connect(site).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{more}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    let cut = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    let head = String::from_utf8(bytes[..cut].to_vec()).unwrap().to_ascii_lowercase();
    Answer { status: head[9..12].parse().unwrap(), head, body: bytes[cut..].to_vec() }
}

#[tokio::test]
async fn the_front_page_says_what_happened_and_loads_nothing_from_elsewhere() {
    let answer = ask(site().await, "GET", "/", "").await;
    let page = String::from_utf8(answer.body).unwrap();
    assert_eq!(answer.status, 200);
    assert!(page.contains("3 + 3 relays") && page.contains("/bytes/") && page.contains("/echo"), "{page}");
    assert!(!page.contains("http://") && !page.contains("https://"));
}

#[tokio::test]
async fn the_bytes_come_whole_and_in_parts() {
    let site = site().await;
    let whole = ask(site, "GET", "/bytes/100000", "").await;
    assert_eq!((whole.status, whole.body.len()), (200, 100_000));
    assert!(
        whole.head.contains("content-length: 100000\r\n") && whole.head.contains("accept-ranges: bytes\r\n")
    );
    let part = ask(site, "GET", "/bytes/100000", "Range: bytes=70001-70009\r\n").await;
    assert_eq!(part.status, 206);
    assert!(part.head.contains("content-range: bytes 70001-70009/100000\r\n"));
    assert_eq!(part.body, whole.body[70_001..=70_009]);
    let none = ask(site, "GET", "/bytes/100000", "Range: bytes=100000-\r\n").await;
    assert_eq!(none.status, 416);
    assert!(none.head.contains("content-range: bytes */100000\r\n"));
}

#[tokio::test]
async fn a_head_request_learns_the_length_only() {
    let answer = ask(site().await, "HEAD", "/bytes/17179869184", "").await;
    assert_eq!((answer.status, answer.body.len()), (200, 0));
    assert!(answer.head.contains("content-length: 17179869184\r\n"), "{}", answer.head);
}

#[tokio::test]
async fn a_length_that_is_none_is_400_with_a_sentence() {
    let site = site().await;
    for path in [
        "/bytes/",
        "/bytes",
        "/bytes/x",
        "/bytes/-1",
        "/bytes/+1",
        "/bytes/17179869185",
        "/bytes/99999999999999999999999",
        "/bytes/1.5",
        "/bytes/%00",
        "/sha256/",
        "/sha256/1k",
        "/sha256/17179869185",
    ] {
        let answer = ask(site, "GET", path, "").await;
        assert_eq!(answer.status, 400, "{path}");
        assert!(String::from_utf8(answer.body).unwrap().starts_with("N must be a number"), "{path}");
    }
    assert_eq!(ask(site, "GET", "/bytes/0", "").await.status, 200);
    assert_eq!(ask(site, "GET", "/elsewhere", "").await.status, 404);
    assert_eq!(ask(site, "POST", "/bytes/1", "").await.status, 405);
}

#[tokio::test]
async fn the_hash_fits_the_bytes() {
    use sha2::Digest;
    let site = site().await;
    let bytes = ask(site, "GET", "/bytes/123457", "").await.body;
    let hash = ask(site, "GET", "/sha256/123457", "").await.body;
    assert_eq!(
        String::from_utf8(hash).unwrap().trim_end(),
        data_encoding::HEXLOWER.encode(&sha2::Sha256::digest(bytes))
    );
}

#[tokio::test]
async fn a_post_comes_back_while_it_is_still_being_sent() {
    let mut stream = TcpStream::connect(site().await).await.unwrap();
    let head = "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\nContent-Type: text/x\r\n\r\nfirst";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"first") {
        assert!(stream.read_buf(&mut seen).await.unwrap() > 0);
    }
    assert!(String::from_utf8(seen).unwrap().contains("text/x"));
    stream.write_all(b"later").await.unwrap();
    let mut rest = [0; 5];
    stream.read_exact(&mut rest).await.unwrap();
    assert_eq!(&rest, b"later");
    assert_eq!(ask(site().await, "GET", "/echo", "").await.status, 405);
}

#[tokio::test]
async fn a_websocket_message_comes_back() {
    let mut stream = TcpStream::connect(site().await).await.unwrap();
    let head = "GET /echo HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        assert!(stream.read_buf(&mut seen).await.unwrap() > 0);
    }
    assert!(String::from_utf8(seen).unwrap().starts_with("HTTP/1.1 101 "));
    // A text frame of five bytes, masked with zeros.
    stream.write_all(b"\x81\x85\0\0\0\0hello").await.unwrap();
    let mut frame = [0; 7];
    stream.read_exact(&mut frame).await.unwrap();
    assert_eq!(&frame, b"\x81\x05hello");
}

#[tokio::test]
async fn an_upload_is_told_its_length_and_hash() {
    let site = site().await;
    let answer = ask(site, "POST", "/upload", "Content-Length: 3\r\n\r\nabc").await;
    let told = String::from_utf8(answer.body).unwrap();
    assert_eq!(told, "3 ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\n");
    assert_eq!(ask(site, "GET", "/upload", "").await.status, 405);
}

#[tokio::test]
async fn there_are_a_hundred_pictures_and_no_more() {
    let site = site().await;
    assert_eq!(ask(site, "GET", "/images", "").await.status, 200);
    let last = ask(site, "GET", "/images/99", "").await;
    assert!(last.status == 200 && last.head.contains("content-type: image/svg+xml\r\n"));
    assert_eq!(ask(site, "GET", "/images/100", "").await.status, 404);
}
