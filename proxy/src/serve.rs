//! Accepting clients, within limits.

use std::{collections::VecDeque, convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinSet,
    time::sleep,
};
use tracing::warn;

use crate::{
    Access, Config, Connection as _, Dial,
    client::{House, serve_client, serve_redirected},
    places::Places,
};

/// A proxy for SOCKS5, SOCKS4, SOCKS4a and HTTP CONNECT, all on one port.
#[derive(Clone, Debug, Default)]
pub struct Proxy {
    config: Config,
}

impl Proxy {
    /// A proxy that behaves so.
    pub fn new(config: Config) -> Proxy {
        Proxy { config }
    }

    /// Serves the clients of a listener until the future is dropped; then all of them end.
    ///
    /// Fails at once if other machines can reach the listener and [`Access::Remote`] was not chosen.
    pub async fn serve<D: Dial>(&self, listener: TcpListener, dialler: Arc<D>) -> io::Result<Infallible> {
        check(listener.local_addr()?, &self.config.access)?;
        let config = self.config.clone();
        let mut handshakes = Handshakes { most: config.limits.handshakes.max(1), under_way: VecDeque::new() };
        let places = Places::new(&config.limits);
        let house = Arc::new(House { dialler, config, places });
        let mut clients = JoinSet::new();
        loop {
            let stream = tokio::select! {
                stream = accept(&listener) => stream,
                // Keeps the set from growing; a client that panicked has ended like any other.
                Some(_) = clients.join_next() => continue,
            };
            let evicted = handshakes.enter();
            let house = house.clone();
            clients.spawn(async move { serve_client(stream, &house, evicted).await });
        }
    }
}

impl Proxy {
    /// Serves clients that were redirected to a listener of this machine, and do not know that there is a proxy: `original`
    /// says where they wanted to go. They are of the group [`Isolation::Default`](crate::Isolation::Default); a refusal is
    /// a reset.
    pub async fn serve_redirected<D: Dial>(
        &self,
        listener: TcpListener,
        dialler: Arc<D>,
        original: impl Fn(&TcpStream) -> Option<SocketAddr>,
    ) -> io::Result<Infallible> {
        check(listener.local_addr()?, &Access::Local)?;
        let config = self.config.clone();
        let places = Places::new(&config.limits);
        let house = Arc::new(House { dialler, config, places });
        let mut clients = JoinSet::new();
        loop {
            let stream = tokio::select! {
                stream = accept(&listener) => stream,
                Some(_) = clients.join_next() => continue,
            };
            match original(&stream) {
                Some(to) => {
                    let house = house.clone();
                    clients.spawn(async move { serve_redirected(stream, to, &house).await });
                }
                None => stream.reset(),
            }
        }
    }
}

fn check(address: SocketAddr, access: &Access) -> io::Result<()> {
    if address.ip().to_canonical().is_loopback() || matches!(access, Access::Remote(_)) {
        return Ok(());
    }
    let why = format!(
        "{address} can be reached from other machines; a proxy port belongs on 127.0.0.1 or [::1], or needs a password"
    );
    Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
}

/// Accepts the next client, whatever happens to the ones before it.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) if is_of_one_client(&error) => {}
            Err(error) => {
                // Mostly no more file descriptors: without a pause this would spin until one is free.
                warn!("cannot accept clients: {error}");
                sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

fn is_of_one_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

/// The unfinished handshakes, oldest first. Dropping a sender evicts its client; a client that is through has dropped its
/// receiver.
struct Handshakes {
    most: usize,
    under_way: VecDeque<oneshot::Sender<Infallible>>,
}

impl Handshakes {
    fn enter(&mut self) -> oneshot::Receiver<Infallible> {
        while self.under_way.front().is_some_and(oneshot::Sender::is_closed) {
            self.under_way.pop_front();
        }
        if self.under_way.len() >= self.most {
            self.under_way.retain(|client| !client.is_closed());
        }
        if self.under_way.len() >= self.most {
            self.under_way.pop_front();
        }
        let (keep, evicted) = oneshot::channel();
        self.under_way.push_back(keep);
        evicted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_unfinished_handshake_makes_room() {
        let mut handshakes = Handshakes { most: 2, under_way: VecDeque::new() };
        let mut first = handshakes.enter();
        let mut second = handshakes.enter();
        let mut third = handshakes.enter();
        assert_eq!(first.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        assert_eq!(second.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        assert_eq!(third.try_recv(), Err(oneshot::error::TryRecvError::Empty));
    }

    #[test]
    fn a_finished_handshake_holds_no_place() {
        let mut handshakes = Handshakes { most: 2, under_way: VecDeque::new() };
        let mut first = handshakes.enter();
        drop(handshakes.enter());
        let _third = handshakes.enter();
        assert_eq!(first.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        assert_eq!(handshakes.under_way.len(), 2);
    }
}
