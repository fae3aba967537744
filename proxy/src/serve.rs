//! Accepting clients, within limits.

use std::{collections::VecDeque, convert::Infallible, io, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, oneshot},
    task::JoinSet,
    time::sleep,
};
use tracing::warn;

use crate::{Dial, client::serve_client};

/// How many clients a proxy serves and how long it waits for them.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Clients that are connected or being connected. One more is refused with code 1.
    pub clients: usize,
    /// Clients that have not finished their handshake. One more takes the place of the oldest.
    pub handshakes: usize,
    /// The time for a handshake.
    pub handshake: Duration,
    /// The time for dialling, if the dialler itself does not give up. Then the client gets code 6.
    pub dial: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            clients: 4096,
            handshakes: 512,
            handshake: Duration::from_secs(10),
            dial: Duration::from_secs(120),
        }
    }
}

/// A SOCKS5 server.
#[derive(Clone, Debug, Default)]
pub struct Proxy {
    limits: Limits,
    remote_allowed: bool,
}

impl Proxy {
    /// A proxy for programs of this machine.
    pub fn new(limits: Limits) -> Proxy {
        Proxy { limits, remote_allowed: false }
    }

    /// Serves other machines, too. The protocol is not encrypted and everybody who reaches the port is served.
    pub fn allow_remote(mut self) -> Proxy {
        self.remote_allowed = true;
        self
    }

    /// Serves the clients of a listener until the future is dropped; then all of them end.
    ///
    /// Fails at once if the listener is not on a loopback address, unless [`Proxy::allow_remote`] was called.
    pub async fn serve<D: Dial>(&self, listener: TcpListener, dialler: Arc<D>) -> io::Result<Infallible> {
        let address = listener.local_addr()?;
        if !address.ip().is_loopback() && !self.remote_allowed {
            let why = format!(
                "{address} can be reached from other machines; a SOCKS port belongs on 127.0.0.1 or [::1]"
            );
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        }
        let places = Arc::new(Semaphore::new(self.limits.clients));
        let limits = Arc::new(self.limits.clone());
        let mut handshakes = Handshakes { most: self.limits.handshakes.max(1), under_way: VecDeque::new() };
        let mut clients = JoinSet::new();
        loop {
            let stream = tokio::select! {
                stream = accept(&listener) => stream,
                // Keeps the set from growing; a client that panicked has ended like any other.
                Some(_) = clients.join_next() => continue,
            };
            let evicted = handshakes.enter();
            let (dialler, limits, places) = (dialler.clone(), limits.clone(), places.clone());
            clients.spawn(async move { serve_client(stream, &*dialler, &limits, &places, evicted).await });
        }
    }
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
