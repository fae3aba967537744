//! As much SOCKS5, HTTP/1.1 and WebSocket as the measurements need, on a blocking socket.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

/// Nothing that is measured may stay silent for longer.
const SILENCE: Duration = Duration::from_secs(60);
/// One read from the socket.
const CHUNK: usize = 256 * 1024;

/// One connection to the site, through the proxy.
pub struct Connection {
    stream: BufReader<TcpStream>,
    host: String,
}

impl Connection {
    /// Connects to `site` (`HOST` or `HOST:PORT`) through the SOCKS5 proxy at `socks`.
    pub fn open(socks: SocketAddr, site: &str) -> Result<Connection> {
        let (host, port) = match site.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().context("the site's port is not a number")?),
            None => (site, 80),
        };
        let mut stream = TcpStream::connect(socks).with_context(|| format!("no proxy at {socks}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE))?;
        stream.set_write_timeout(Some(SILENCE))?;
        socks_connect(&mut stream, host, port)?;
        Ok(Connection { stream: BufReader::with_capacity(CHUNK, stream), host: site.to_owned() })
    }

    /// Asks for `path` and returns the length of the body that follows.
    pub fn get(&mut self, path: &str) -> Result<u64> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.host);
        self.stream.get_mut().write_all(request.as_bytes())?;
        let (status, length) = self.read_head()?;
        ensure!(status == 200, "{path}: status {status}");
        length.with_context(|| format!("{path}: no Content-Length"))
    }

    /// Hands the body, `length` bytes, to `sink` as it comes.
    pub fn read_body(&mut self, mut length: u64, mut sink: impl FnMut(&[u8])) -> Result<()> {
        while length > 0 {
            let chunk = self.stream.fill_buf()?;
            ensure!(!chunk.is_empty(), "the body ended {length} bytes early");
            let taken = chunk.len().min(usize::try_from(length).unwrap_or(usize::MAX));
            sink(chunk.get(..taken).unwrap_or_default());
            self.stream.consume(taken);
            length -= taken as u64;
        }
        Ok(())
    }

    /// Turns the connection into a WebSocket at `/echo`.
    pub fn into_echo(mut self) -> Result<Echo> {
        let request = format!(
            "GET /echo HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: bG9hZGdlbiBsb2FkZ2VuIQ==\r\n\r\n",
            self.host
        );
        self.stream.get_mut().write_all(request.as_bytes())?;
        let (status, _) = self.read_head()?;
        ensure!(status == 101, "/echo: status {status}, expected 101");
        Ok(Echo { stream: self.stream })
    }

    fn read_head(&mut self) -> Result<(u16, Option<u64>)> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let status = line.split(' ').nth(1).context("no status line")?.parse()?;
        let mut length = None;
        loop {
            line.clear();
            ensure!(self.stream.read_line(&mut line)? > 0, "the head ended early");
            let field = line.trim_end();
            if field.is_empty() {
                return Ok((status, length));
            }
            if let Some((name, value)) = field.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = Some(value.trim().parse()?);
            }
        }
    }
}

/// An open WebSocket that returns what it is sent.
pub struct Echo {
    stream: BufReader<TcpStream>,
}

impl Echo {
    /// One byte there and back. A client's frames are masked; with the mask 0 the payload stays as it is.
    pub fn round_trip(&mut self, byte: u8) -> Result<()> {
        self.stream.get_mut().write_all(&[0x82, 0x81, 0, 0, 0, 0, byte])?;
        let mut frame = [0; 3];
        self.stream.read_exact(&mut frame)?;
        ensure!(frame == [0x82, 1, byte], "the echo returned {frame:02x?}");
        Ok(())
    }
}

fn socks_connect(stream: &mut TcpStream, host: &str, port: u16) -> Result<()> {
    let name_length = u8::try_from(host.len()).context("the site's name is too long for SOCKS5")?;
    stream.write_all(&[5, 1, 0])?;
    let mut choice = [0; 2];
    stream.read_exact(&mut choice)?;
    ensure!(choice == [5, 0], "the proxy wants a password");
    let mut request = vec![5, 1, 0, 3, name_length];
    request.extend_from_slice(host.as_bytes());
    request.extend_from_slice(&port.to_be_bytes());
    stream.write_all(&request)?;
    let mut reply = [0; 4];
    stream.read_exact(&mut reply)?;
    let [5, code, _, kind] = reply else { bail!("not a SOCKS5 reply") };
    ensure!(code == 0, "the proxy refused the connection: SOCKS5 code {code}");
    let address_length = match kind {
        1 => 4,
        4 => 16,
        3 => {
            let mut length = [0];
            stream.read_exact(&mut length)?;
            usize::from(length[0])
        }
        _ => bail!("a SOCKS5 reply of an unknown address type"),
    };
    stream.read_exact(&mut vec![0; address_length + 2])?;
    Ok(())
}
