//! As ways.c, in Rust's own library, linked to nothing.

use std::{
    env, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket},
    thread,
    time::Duration,
};

const ENOENT: i32 = 2;
const ETIME: i32 = 62;

fn main() {
    let arguments: Vec<String> = env::args().collect();
    let (outside, word): (IpAddr, String) = (arguments[1].parse().unwrap(), arguments[2].clone());
    let any: IpAddr =
        if outside.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let datagram = move |port, word: &str| {
        UdpSocket::bind((any, 0))?.send_to(word.as_bytes(), (outside, port)).map(drop)
    };
    let to = |port| SocketAddr::new(outside, port);
    tell("rust_tcp", TcpStream::connect_timeout(&to(4110), Duration::from_millis(300)).map(drop));
    tell("rust_udp", datagram(4111, &word));
    let connected = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect(to(4112))?;
        socket.send(word.as_bytes()).map(drop)
    });
    tell("rust_udp_connected", connected);
    let name = word.clone();
    tell("rust_thread", thread::spawn(move || datagram(4113, &name)).join().unwrap());
    match (word.as_str(), 80).to_socket_addrs() {
        Ok(_) => println!("rust_name 0"),
        Err(_) => println!("rust_name {ENOENT}"),
    }
}

fn tell(way: &str, outcome: io::Result<()>) {
    let number = match outcome {
        Ok(()) => 0,
        Err(error) => error.raw_os_error().unwrap_or(ETIME),
    };
    println!("{way} {number}");
}
