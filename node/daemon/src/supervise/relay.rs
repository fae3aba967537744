//! Connections of a run to services of this machine, which the user has allowed: the run's sockets are elsewhere, so the
//! bytes are carried.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
};

use tokio::runtime::Handle;

/// Connects to a service of this machine. Blocks.
pub(super) fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let here = match to.ip().to_canonical() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        here => here,
    };
    TcpStream::connect((here, to.port()))
}

/// Carries bytes between a program and a service until both have ended.
pub(super) fn carry(runtime: &Handle, program: TcpStream, service: TcpStream) -> io::Result<()> {
    let _of_the_runtime = runtime.enter();
    let program = prepared(program)?;
    let service = prepared(service)?;
    runtime.spawn(phantom_proxy::carry(program, service));
    Ok(())
}

fn prepared(stream: TcpStream) -> io::Result<tokio::net::TcpStream> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    tokio::net::TcpStream::from_std(stream)
}
