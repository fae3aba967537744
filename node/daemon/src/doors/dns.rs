//! DNS for `.ap` on a loopback port (PROTOCOL §8).
//!
//! A full name holds its key, so its address is computed here: no question leaves the machine. Every full name has an
//! address, whether or not somebody answers to it. What is not of the zone is refused by [`phantom_resolver`].

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    sync::Arc,
};

use phantom_protocol::address::ApName;
use phantom_resolver::{Addresses, Lookup, NoAnswer};

use super::{LocalPort, Names, PortError, socks::DEFAULT_GROUP};

/// A DNS port, open but not yet served.
#[derive(Debug)]
pub struct DnsPort {
    udp: UdpSocket,
    tcp: TcpListener,
}

impl DnsPort {
    /// Opens both transports at an address of this machine.
    pub fn bind(address: SocketAddr) -> Result<DnsPort, PortError> {
        let port = LocalPort::dns(address)?;
        let opened = || {
            let tcp = TcpListener::bind(address)?;
            let udp = UdpSocket::bind(tcp.local_addr()?)?;
            tcp.set_nonblocking(true)?;
            udp.set_nonblocking(true)?;
            Ok(DnsPort { udp, tcp })
        };
        opened().map_err(|error| port.failed(error))
    }

    /// Where it is.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.udp.local_addr()
    }

    /// Answers until the future is dropped.
    pub(crate) async fn serve(self, names: Arc<Names>) {
        let ended = async {
            let udp = tokio::net::UdpSocket::from_std(self.udp)?;
            let tcp = tokio::net::TcpListener::from_std(self.tcp)?;
            phantom_resolver::serve(udp, tcp, DnsDoor(names)).await
        };
        let ended = ended.await;
        tracing::error!(
            "the DNS port is closed: {}",
            ended.err().map_or("it ended".into(), |why| why.to_string())
        );
    }
}

/// What the zone asks. Who asks by DNS cannot say for which group, so it is the one of programs without credentials.
struct DnsDoor(Arc<Names>);

impl Lookup for DnsDoor {
    async fn lookup(&self, host: &str) -> Result<Addresses, NoAnswer> {
        let name = host.parse::<ApName>().map_err(|_| NoAnswer::NoSuchName)?;
        let address = Some(self.0.remember(DEFAULT_GROUP, name));
        Ok(Addresses { alias: self.0.alias(DEFAULT_GROUP, name), address })
    }

    async fn reverse(&self, address: IpAddr) -> Result<String, NoAnswer> {
        self.0.find(DEFAULT_GROUP, address).map(|found| found.name.to_string()).ok_or(NoAnswer::NoSuchName)
    }
}

#[cfg(test)]
mod tests {
    use phantom_protocol::identity::ApSecret;

    use super::*;

    #[tokio::test]
    async fn a_full_name_has_its_address_and_then_the_address_its_name() {
        let public = ApSecret::from_bytes(&[7; 32]).public();
        let (name, address) = (public.name().to_string(), public.address().into());
        let door = DnsDoor(Arc::default());
        assert_eq!(door.reverse(IpAddr::V6(address)).await, Err(NoAnswer::NoSuchName));
        let found = door.lookup(&format!("www.{name}")).await.unwrap();
        assert_eq!(found.address, Some(address));
        assert_eq!(door.lookup(&name).await, Ok(found));
        assert_eq!(door.reverse(IpAddr::V6(address)).await.as_ref(), Ok(&name));
        assert_eq!(door.reverse(IpAddr::V4(found.alias.unwrap())).await, Ok(name));
        assert_eq!(door.lookup("short.ap").await, Err(NoAnswer::NoSuchName));
    }

    #[test]
    fn a_taken_or_public_port_is_a_sentence_that_says_what_to_do() {
        let taken = DnsPort::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = taken.address().unwrap();
        let error = DnsPort::bind(address).unwrap_err().to_string();
        assert!(error.starts_with(&format!("The DNS port {address} is in use")), "{error}");
        assert!(error.contains(". Choose another one: --dns 127.0.0.1:"), "{error}");
        let error = DnsPort::bind("0.0.0.0:0".parse().unwrap()).unwrap_err();
        assert!(matches!(error, PortError::Public(_)), "{error}");
    }
}
