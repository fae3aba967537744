//! Questions to the node's ports, and to the machine's resolver: about names that nobody has, made up for this.

use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use phantom_protocol::identity::{ApPublic, ApSecret};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket, lookup_host},
    time::timeout,
};

use crate::daemon::fresh_rng;

/// Nobody on this machine takes longer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Of a DNS message.
const HEADER: usize = 12;

/// Whether a proxy port greets as SOCKS5 does.
pub(super) async fn ask_proxy(address: SocketAddr) -> Result<(), String> {
    within(async {
        let mut stream = TcpStream::connect(address).await?;
        // Version 5, one method: no credentials.
        stream.write_all(&[5, 1, 0]).await?;
        let mut answer = [0; 2];
        stream.read_exact(&mut answer).await?;
        check(answer == [5, 0], "it speaks something else than SOCKS5")
    })
    .await
}

/// Whether a DNS port knows the address of a name.
pub(super) async fn ask_dns(address: SocketAddr) -> Result<(), String> {
    let party = made_up()?;
    within(async {
        let local = if address.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
        let socket = UdpSocket::bind(local).await?;
        socket.connect(address).await?;
        socket.send(&question(&party.name().to_string())).await?;
        let mut answer = [0; 512];
        let length = socket.recv(&mut answer).await?;
        let answer = answer.get(..length).unwrap_or_default();
        check(is_answer(answer, party.address().into()), "it gives another answer than it should")
    })
    .await
}

/// Whether programs of this machine learn the address of a name.
pub(super) async fn ask_machine() -> Result<(), String> {
    let party = made_up()?;
    let expected = IpAddr::V6(party.address().into());
    within(async {
        let mut found = lookup_host((party.name().to_string(), 80)).await?;
        check(found.any(|address| address.ip() == expected), "it gives another address")
    })
    .await
}

fn made_up() -> Result<ApPublic, String> {
    let mut rng = fresh_rng().map_err(|error| error.to_string())?;
    Ok(ApSecret::generate(&mut rng).public())
}

async fn within(asking: impl Future<Output = io::Result<()>>) -> Result<(), String> {
    match timeout(PATIENCE, asking).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} seconds", PATIENCE.as_secs())),
    }
}

fn check(is_so: bool, otherwise: &'static str) -> io::Result<()> {
    if is_so { Ok(()) } else { Err(io::Error::other(otherwise)) }
}

/// One question of type AAAA (RFC 1035 §4).
fn question(name: &str) -> Vec<u8> {
    let mut message = vec![0x50, 0x48, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        // No label of a name of ours is longer than 63.
        message.push(label.len() as u8);
        message.extend_from_slice(label.as_bytes());
    }
    message.extend_from_slice(&[0, 0, 28, 0, 1]);
    message
}

/// Whether it answers our question, without an error, with this address at its end: no additional records were asked for.
fn is_answer(message: &[u8], address: Ipv6Addr) -> bool {
    let Some((header, rest)) = message.split_first_chunk::<HEADER>() else { return false };
    let [0x50, 0x48, flags, code, _, _, 0, 1, ..] = header else { return false };
    flags & 0x80 != 0 && code & 0x0f == 0 && rest.ends_with(&address.octets())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::net::TcpListener;

    use super::*;
    use crate::doors::{DnsAnswers, DnsPort};

    #[tokio::test]
    async fn a_port_that_nobody_serves_is_told_from_one_that_answers_wrong() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        });
        assert!(ask_proxy(address).await.unwrap_err().contains("SOCKS5"));
        serving.await.unwrap();
        assert!(ask_proxy(address).await.unwrap_err().contains("refused"));
    }

    #[tokio::test]
    async fn the_nodes_own_dns_gives_the_right_answer() {
        let port = DnsPort::bind("127.0.0.1:0".parse().unwrap(), DnsAnswers::default()).unwrap();
        let address = port.address().unwrap();
        let serving = tokio::spawn(port.serve(Arc::default()));
        assert_eq!(ask_dns(address).await, Ok(()));
        serving.abort();
    }

    #[test]
    fn errors_and_other_answers_are_none() {
        let address = "fc00::1".parse().unwrap();
        let mut answer = question("x.ap");
        answer[2] |= 0x80;
        answer[7] = 1;
        answer.extend_from_slice(&Ipv6Addr::octets(&address));
        assert!(is_answer(&answer, address));
        assert!(!is_answer(&answer, "fc00::2".parse().unwrap()));
        assert!(!is_answer(&answer[..11], address));
        answer[3] = 5;
        assert!(!is_answer(&answer, address), "refused");
    }
}
