//! Who listens at a place of a network namespace, as the kernel tells everybody (`/proc/net/tcp`).

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// A TCP socket that listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Listener {
    /// Its number, by which it is known among all open ones.
    pub(super) inode: u64,
}

/// `TCP_LISTEN`.
const LISTENS: &str = "0A";
/// `TCP_CLOSE`, which for UDP is a socket that is connected to nobody.
const TAKES_ALL: &str = "07";

/// All that a connection to this place could come to, where this process is: those that listen there, or at every address.
pub(super) fn at(place: SocketAddr, process: &str) -> io::Result<Vec<Listener>> {
    let mut found = Vec::new();
    for table in ["tcp", "tcp6"] {
        found.extend(in_table(table, LISTENS, place, process)?);
    }
    Ok(found)
}

/// All that a datagram to this place could come to. A socket of IPv6 that takes those of IPv4, too, is found by its own
/// addresses alone.
pub(super) fn of_datagrams(place: SocketAddr, process: &str) -> io::Result<Vec<Listener>> {
    in_table(if place.is_ipv4() { "udp" } else { "udp6" }, TAKES_ALL, place, process)
}

fn in_table(table: &str, state: &str, place: SocketAddr, process: &str) -> io::Result<Vec<Listener>> {
    match fs::read_to_string(format!("/proc/{process}/net/{table}")) {
        Ok(table) => Ok(table.lines().skip(1).filter_map(|line| parse(line, state, place)).collect()),
        // Without IPv6 there is no such table.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// One line, if it is about a socket in this state that is there.
fn parse(line: &str, wanted: &str, place: SocketAddr) -> Option<Listener> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (address, port) = fields.next()?.split_once(':')?;
    let (_, state) = (fields.next()?, fields.next()?);
    let inode = fields.nth(5)?;
    let listens_at = parse_address(address)?.to_canonical();
    let is_there = listens_at.is_unspecified() || listens_at == place.ip().to_canonical();
    if state != wanted || !is_there || u16::from_str_radix(port, 16).ok()? != place.port() {
        return None;
    }
    Some(Listener { inode: inode.parse().ok()? })
}

/// Words of four bytes, each written as this machine reads it.
fn parse_address(text: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let digits = text.get(8 * at..8 * at + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut octets = [0; 16];
            for (at, to) in octets.chunks_exact_mut(4).enumerate() {
                to.copy_from_slice(&word(at)?);
            }
            Some(Ipv6Addr::from(octets).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, os::fd::AsFd};

    use nix::sys::stat::fstat;

    use super::*;

    #[test]
    fn who_listens_is_found_at_its_own_place_alone() {
        for (address, elsewhere) in [("127.0.0.2:0", "127.0.0.3"), ("[::1]:0", "127.0.0.1")] {
            let listener = TcpListener::bind(address).unwrap();
            let place = listener.local_addr().unwrap();
            let inode = fstat(listener.as_fd()).unwrap().st_ino;
            assert_eq!(at(place, "self").unwrap(), [Listener { inode }]);
            let elsewhere = SocketAddr::new(elsewhere.parse().unwrap(), place.port());
            assert!(at(elsewhere, "self").unwrap().iter().all(|other| other.inode != inode), "{elsewhere}");
            drop(listener);
            assert!(at(place, "self").unwrap().iter().all(|other| other.inode != inode));
        }
    }

    #[test]
    fn who_listens_everywhere_listens_there() {
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let inode = fstat(listener.as_fd()).unwrap().st_ino;
        let place = SocketAddr::new([127, 0, 0, 9].into(), listener.local_addr().unwrap().port());
        assert!(at(place, "self").unwrap().iter().any(|found| found.inode == inode));
    }

    #[test]
    fn what_takes_datagrams_is_found_until_it_speaks_to_one_alone() {
        let taker = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let place = taker.local_addr().unwrap();
        let inode = fstat(taker.as_fd()).unwrap().st_ino;
        assert_eq!(of_datagrams(place, "self").unwrap(), [Listener { inode }]);
        assert!(at(place, "self").unwrap().iter().all(|other| other.inode != inode), "no listener of TCP");
        taker.connect("127.0.0.1:9").unwrap();
        assert_eq!(of_datagrams(place, "self").unwrap(), []);
    }

    #[test]
    fn a_line_that_says_something_else_is_passed_over() {
        let place = "127.0.0.1:80".parse().unwrap();
        for line in
            ["", "0: 0100007F", "0: 0100007F:0050 0:0 01 0 0 0 0 0 1", "x: xyz:0050 0:0 0A 0 0 0 0 0 1"]
        {
            assert_eq!(parse(line, LISTENS, place), None, "{line}");
        }
        let line = "0: 0100007F:0050 00000000:0000 0A 0:0 0:0 0 1000 0 77 1 0";
        assert_eq!(parse(line, LISTENS, place), Some(Listener { inode: 77 }));
    }
}
