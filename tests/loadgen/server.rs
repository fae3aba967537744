//! The demo's site once more, in its smallest form, for networks that bring no site of their own.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
};

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

const CHUNK: usize = 256 * 1024;

/// Serves until it is killed, one thread for each connection.
pub fn serve(listen: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(listen).with_context(|| format!("cannot listen on {listen}"))?;
    println!("{}", listener.local_addr()?);
    for stream in listener.incoming() {
        let stream = stream?;
        // A client that leaves in the middle is no news.
        thread::spawn(move || drop(serve_one(stream)));
    }
    Ok(())
}

fn serve_one(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut requests = BufReader::new(stream.try_clone()?);
    loop {
        let mut line = String::new();
        if requests.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let path = line.split(' ').nth(1).context("no request line")?.to_owned();
        while requests.read_line(&mut line)? > 2 {
            ensure!(line.len() < 64 * 1024, "an endless head");
        }
        if path == "/echo" {
            return echo(requests, stream);
        }
        answer(&path, &mut stream)?;
    }
}

fn answer(path: &str, stream: &mut TcpStream) -> Result<()> {
    let head = |length: u64| format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
    match path.trim_start_matches('/').split_once('/') {
        Some(("bytes", length)) => {
            let length = length.parse()?;
            stream.write_all(head(length).as_bytes())?;
            each_chunk(length, |chunk| Ok(stream.write_all(chunk)?))
        }
        Some(("sha256", length)) => {
            let mut hasher = Sha256::new();
            each_chunk(length.parse()?, |chunk| {
                hasher.update(chunk);
                Ok(())
            })?;
            let hash: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
            Ok(stream.write_all(format!("{}{hash}", head(hash.len() as u64)).as_bytes())?)
        }
        _ => bail!("no such page"),
    }
}

/// A fixed sequence without a short period that a compressor or a repeated block could profit from.
fn each_chunk(mut length: u64, mut sink: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut chunk = vec![0; CHUNK];
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    while length > 0 {
        for word in chunk.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        let taken = chunk.len().min(usize::try_from(length).unwrap_or(usize::MAX));
        sink(chunk.get(..taken).unwrap_or_default())?;
        length -= taken as u64;
    }
    Ok(())
}

/// The accept key is not computed: only `loadgen` itself speaks to this server.
fn echo(mut from: BufReader<TcpStream>, mut to: TcpStream) -> Result<()> {
    to.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")?;
    let mut frame = [0; 7];
    loop {
        from.read_exact(&mut frame)?;
        let [0x82, 0x81, 0, 0, 0, 0, byte] = frame else { bail!("not a frame of this program") };
        to.write_all(&[0x82, 1, byte])?;
    }
}
