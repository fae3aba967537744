//! DNS for `.ap` on a loopback port (PROTOCOL §8).
//!
//! A full name holds its key, so its address is computed here: no question leaves the machine. Every full name has an
//! address, whether or not somebody answers to it. What is not of the zone is refused by [`phantom_resolver`].

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    sync::Arc,
};

use phantom_resolver::{Data, Lookup, NoAnswer, Wanted};

use super::{LocalPort, Names, PortError, Records, socks::DEFAULT_GROUP};

/// What a DNS port answers with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsAnswers {
    /// Aliases.
    pub a: bool,
    /// AP addresses.
    pub aaaa: bool,
    /// What else was declared for names.
    pub declared: Records,
}

impl Default for DnsAnswers {
    fn default() -> DnsAnswers {
        DnsAnswers { a: true, aaaa: true, declared: Records::default() }
    }
}

/// A DNS port, open but not yet served.
#[derive(Debug)]
pub struct DnsPort {
    udp: UdpSocket,
    tcp: TcpListener,
    answers: DnsAnswers,
}

impl DnsPort {
    /// Opens both transports at an address of this machine.
    pub fn bind(address: SocketAddr, answers: DnsAnswers) -> Result<DnsPort, PortError> {
        let port = LocalPort::dns(address)?;
        let opened = || {
            let tcp = TcpListener::bind(address)?;
            let udp = UdpSocket::bind(tcp.local_addr()?)?;
            tcp.set_nonblocking(true)?;
            udp.set_nonblocking(true)?;
            Ok(DnsPort { udp, tcp, answers })
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
            phantom_resolver::serve(udp, tcp, DnsDoor { names, answers: self.answers }).await
        };
        let ended = ended.await;
        tracing::error!(
            "the DNS port is closed: {}",
            ended.err().map_or("it ended".into(), |why| why.to_string())
        );
    }
}

/// What the zone asks. Who asks by DNS cannot say for which group, so it is the one of programs without credentials.
struct DnsDoor {
    names: Arc<Names>,
    answers: DnsAnswers,
}

impl Lookup for DnsDoor {
    fn lookup(&self, host: &str, wanted: Wanted) -> Result<Vec<Data>, NoAnswer> {
        let name = self.names.read(host).map_err(|_| NoAnswer::NoSuchName)?;
        match wanted {
            Wanted::A if self.answers.a => {
                let alias = self.names.alias(DEFAULT_GROUP, name).ok_or(NoAnswer::Failed)?;
                Ok(vec![Data::A(alias)])
            }
            Wanted::Aaaa if self.answers.aaaa => {
                Ok(vec![Data::Aaaa(self.names.remember(DEFAULT_GROUP, name))])
            }
            wanted => Ok(self.answers.declared.of(host, wanted)),
        }
    }

    fn reverse(&self, address: IpAddr) -> Result<String, NoAnswer> {
        let found = self.names.find(DEFAULT_GROUP, address).ok_or(NoAnswer::NoSuchName)?;
        Ok(found.name.to_string())
    }
}

#[cfg(test)]
mod tests {
    use phantom_protocol::identity::ApSecret;

    use super::*;

    #[test]
    fn a_full_name_has_its_addresses_and_then_the_addresses_their_name() {
        let public = ApSecret::from_bytes(&[7; 32]).public();
        let (name, address) = (public.name().to_string(), public.address().into());
        let door = DnsDoor { names: Arc::default(), answers: DnsAnswers::default() };
        assert_eq!(door.reverse(IpAddr::V6(address)), Err(NoAnswer::NoSuchName));
        assert_eq!(door.lookup(&format!("www.{name}"), Wanted::Aaaa), Ok(vec![Data::Aaaa(address)]));
        let found = door.lookup(&name, Wanted::A).unwrap();
        let [Data::A(alias)] = found[..] else { panic!("{found:?}") };
        assert_eq!(door.lookup(&format!("www.{name}"), Wanted::A), Ok(vec![Data::A(alias)]));
        assert_eq!(door.reverse(IpAddr::V6(address)).as_ref(), Ok(&name));
        assert_eq!(door.reverse(IpAddr::V4(alias)), Ok(name));
        assert_eq!(door.lookup("short.ap", Wanted::A), Err(NoAnswer::NoSuchName));
    }

    #[test]
    fn what_is_switched_off_is_no_answer_and_what_is_declared_is_one() {
        let name = ApSecret::from_bytes(&[7; 32]).public().name().to_string();
        let text = Data::Txt(vec!["declared".to_owned()]);
        let mut declared = Records::default();
        declared.declare(name.clone(), text.clone());
        let door = DnsDoor { names: Arc::default(), answers: DnsAnswers { a: false, aaaa: false, declared } };
        for (wanted, answer) in [(Wanted::A, vec![]), (Wanted::Aaaa, vec![]), (Wanted::Txt, vec![text])] {
            assert_eq!(door.lookup(&name, wanted), Ok(answer), "{wanted:?}");
        }
    }

    #[test]
    fn a_taken_or_public_port_is_a_sentence_that_says_what_to_do() {
        let taken = DnsPort::bind("127.0.0.1:0".parse().unwrap(), DnsAnswers::default()).unwrap();
        let address = taken.address().unwrap();
        let error = DnsPort::bind(address, DnsAnswers::default()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("The DNS port {address} is in use")), "{error}");
        assert!(error.contains(". Choose another one: --dns 127.0.0.1:"), "{error}");
        let error = DnsPort::bind("0.0.0.0:0".parse().unwrap(), DnsAnswers::default()).unwrap_err();
        assert!(matches!(error, PortError::Public(_)), "{error}");
    }
}
