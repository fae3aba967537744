//! Measurements for the administrator's monitoring, as Prometheus reads them: `GET /metrics` on a loopback port (PROTOCOL §8).
//!
//! They are sums over everything that the node does. No label names a peer, a party, a group or a service.

mod counted;
mod measures;
mod text;

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Semaphore,
    time::{sleep, timeout},
};

pub use counted::{Counted, Wishes};
pub use measures::{Measures, Tally};

use super::{CommandHandle, LocalPort, PortError};

/// The longest head of a request.
const HEAD: usize = 8 * 1024;
/// A request must be there in this time, and its answer must be taken in as much.
const PATIENCE: Duration = Duration::from_secs(5);
/// Clients at once. One more waits.
const CLIENTS: usize = 16;

/// A port for monitoring, open but not yet served.
#[derive(Debug)]
pub struct MetricsPort(TcpListener);

impl MetricsPort {
    /// Opens it at an address of this machine.
    pub fn bind(address: SocketAddr) -> Result<MetricsPort, PortError> {
        let port = LocalPort::metrics(address)?;
        super::listen(address).map(MetricsPort).map_err(|error| port.failed(error))
    }

    /// Where it is.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Answers until the future is dropped.
    pub(super) async fn serve<N: CommandHandle>(self, node: Arc<N>, wishes: Arc<Wishes>) {
        let places = Arc::new(Semaphore::new(CLIENTS));
        let listener = match tokio::net::TcpListener::from_std(self.0) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!("the metrics port is closed: {error}"),
        };
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            let Ok((stream, _)) = listener.accept().await else {
                // Mostly no more file descriptors.
                sleep(Duration::from_millis(200)).await;
                continue;
            };
            let (node, wishes) = (node.clone(), wishes.clone());
            tokio::spawn(async move {
                let _place = place;
                // A client that goes away misses its answer.
                let _ = answer(stream, &*node, &wishes).await;
            });
        }
    }
}

async fn answer<N: CommandHandle>(mut stream: TcpStream, node: &N, wishes: &Wishes) -> io::Result<()> {
    let head = timeout(PATIENCE, read_head(&mut stream)).await??;
    let response = match head.as_deref().map(asks) {
        Some(Asks::Metrics) => {
            respond("200 OK", "text/plain; version=0.0.4", &text::render(&node.measures().await, wishes))
        }
        Some(Asks::Misled) => {
            respond("421 Misdirected Request", PLAIN, "Come by the address of this port.\n")
        }
        Some(Asks::Other) => {
            respond("404 Not Found", PLAIN, "There is /metrics here, for GET, and nothing else.\n")
        }
        None => respond("400 Bad Request", PLAIN, "This is no request of HTTP.\n"),
    };
    timeout(PATIENCE, async {
        stream.write_all(response.as_bytes()).await?;
        stream.shutdown().await
    })
    .await?
}

/// The head of a request; nothing if it is none.
async fn read_head(stream: &mut TcpStream) -> io::Result<Option<String>> {
    let mut head = Vec::new();
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        if head.len() >= HEAD || stream.read_buf(&mut head).await? == 0 {
            return Ok(None);
        }
    }
    Ok(String::from_utf8(head).ok())
}

#[derive(Debug, PartialEq, Eq)]
enum Asks {
    Metrics,
    /// A browser came by a name that somebody else may have pointed here.
    Misled,
    Other,
}

fn asks(head: &str) -> Asks {
    let host = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    let mut host = host.filter(|(name, _)| name.eq_ignore_ascii_case("host")).map(|(_, value)| value.trim());
    if host.next().is_some_and(|host| !is_local(host)) {
        return Asks::Misled;
    }
    match head.split(' ').collect::<Vec<_>>().as_slice() {
        ["GET", "/metrics", ..] => Asks::Metrics,
        _ => Asks::Other,
    }
}

fn is_local(host: &str) -> bool {
    let name = host.parse::<SocketAddr>().map(|address| address.ip().to_string());
    let name = name.unwrap_or_else(|_| host.rsplit_once(':').map_or(host, |(name, _)| name).to_owned());
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok()
}

const PLAIN: &str = "text/plain";

fn respond(status: &str, kind: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}; charset=utf-8\r\nContent-Length: {length}\r\nConnection: close\r\n\
         Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nCross-Origin-Resource-Policy: same-origin\r\n\r\n{body}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_came_by_an_address_is_answered() {
        let asked = |line: &str, host: &str| asks(&format!("{line} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        for host in ["127.0.0.1:9071", "localhost:9071", "[::1]:9071", "127.0.0.1"] {
            assert_eq!(asked("GET /metrics", host), Asks::Metrics, "{host}");
        }
        for host in ["evil.example:9071", "evil.example", "127.0.0.1.evil.example:9071"] {
            assert_eq!(asked("GET /metrics", host), Asks::Misled, "{host}");
        }
        for line in ["GET /", "POST /metrics", "GET /metrics/x", "GET"] {
            assert_eq!(asked(line, "127.0.0.1:9071"), Asks::Other, "{line}");
        }
    }
}
