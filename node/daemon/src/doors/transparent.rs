//! The transparent port: connections that the kernel has redirected here (PROTOCOL §8, examples/transparent.nft).
//!
//! A program that knows nothing of proxies connects to an alias or an AP address; the kernel brings it here and says where it
//! wanted to go. It is served as one without credentials is at the proxy port. Whatever else comes is reset.

use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, TcpListener},
    sync::Arc,
};

use nix::sys::socket::{SockaddrIn, SockaddrIn6, getsockopt, sockopt};
use phantom_proxy::{Dial, Proxy};
use tokio::net::TcpStream;

use super::{LocalPort, PortError, has_no_ipv6, listen};

/// A transparent port, open but not yet served.
#[derive(Debug)]
pub struct TransparentPort {
    first: TcpListener,
    /// Redirected IPv6 comes to the other loopback address.
    second: Option<TcpListener>,
}

impl TransparentPort {
    /// Opens it. With an IPv4 address, the same port of `[::1]` is opened, too, if this machine has IPv6.
    pub fn bind(address: SocketAddr) -> Result<TransparentPort, PortError> {
        let port = LocalPort::transparent(address)?;
        let first = listen(address).map_err(|error| port.failed(error))?;
        if address.is_ipv6() {
            return Ok(TransparentPort { first, second: None });
        }
        let opened = first.local_addr().map_err(|error| port.failed(error))?;
        let beside = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), opened.port());
        let second = match listen(beside) {
            Ok(listener) => Some(listener),
            Err(error) if has_no_ipv6(&error) => None,
            Err(error) => return Err(LocalPort::transparent(beside)?.failed(error)),
        };
        Ok(TransparentPort { first, second })
    }

    /// Where it is.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.first.local_addr()
    }

    /// Serves programs until the future is dropped.
    pub(super) async fn serve<D: Dial>(self, proxy: &Proxy, dialler: Arc<D>) {
        let serve = async |listener| {
            let error = match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => {
                    let Err(error) = proxy.serve_redirected(listener, dialler.clone(), original).await;
                    error
                }
                Err(error) => error,
            };
            tracing::error!("the transparent port is closed: {error}");
        };
        match self.second {
            Some(second) => _ = tokio::join!(serve(self.first), serve(second)),
            None => serve(self.first).await,
        }
    }
}

/// Where a connection wanted to go before the kernel redirected it. Nothing for one that nobody has redirected: it wanted to
/// come here.
fn original(stream: &TcpStream) -> Option<SocketAddr> {
    let here = stream.local_addr().ok()?;
    let original = match here.ip() {
        IpAddr::V4(_) => {
            let found = getsockopt(stream, sockopt::OriginalDst).ok()?;
            SocketAddrV4::from(SockaddrIn::from(found)).into()
        }
        IpAddr::V6(_) => {
            let found = getsockopt(stream, sockopt::Ip6tOriginalDst).ok()?;
            SocketAddrV6::from(SockaddrIn6::from(found)).into()
        }
    };
    (original != here).then_some(original)
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    struct Nowhere;

    impl Dial for Nowhere {
        type Connection = TcpStream;

        async fn dial(&self, _: phantom_proxy::Request) -> Result<TcpStream, phantom_proxy::DialError> {
            panic!("nobody has redirected it")
        }
    }

    #[tokio::test]
    async fn who_comes_by_itself_is_reset() {
        let port = TransparentPort::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = port.address().unwrap();
        tokio::spawn(async move { port.serve(&Proxy::default(), Arc::new(Nowhere)).await });
        let mut program = TcpStream::connect(address).await.unwrap();
        assert_eq!(program.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    #[test]
    fn a_taken_port_is_a_sentence_that_says_what_to_do() {
        let taken = TransparentPort::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let error = TransparentPort::bind(taken.address().unwrap()).unwrap_err().to_string();
        assert!(error.starts_with("The transparent port 127.0.0.1:"), "{error}");
        assert!(error.contains(". Choose another one: --transparent 127.0.0.1:"), "{error}");
    }
}
