//! Where programs' sockets wait for their parties.
//!
//! A socket that is connected to a place where nobody ever answers is on its way, and its own kernel knows it so: however a
//! program looks at it, connects it again, shuts it down or is interrupted, it sees just that. When the party has accepted, the
//! node connects a socket of ours to it from that place; as both sides have begun, the connection stands (RFC 9293, 3.5). When
//! the party refuses and nobody waits for it, the socket is answered as by a closed port, where we may write packets. Else it is
//! disconnected ([`connections`](super::connections)).

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, SocketAddr, TcpListener},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::PollFlags,
    sys::socket::{MsgFlags, SockaddrStorage, connect, recvfrom, sendto},
};
use phantom_policy::{mark::Instruction, socket};
use socket2::{Domain, SockRef, Socket, Type};

use super::{
    errno,
    families::Families,
    lock,
    meeting::{local_address, of_family, wait_for},
    peers::Ends,
    raw,
};

/// Beginnings of connections that are remembered, the latest ones.
const REMEMBERED: usize = 8_192;
/// So many packets may lie unread: the kernel keeps more than that before it drops any.
const UNREAD: u32 = 64;

/// The places, one for each family.
#[derive(Debug)]
pub(super) struct Quiet {
    places: Families<Place>,
    /// Whose turn it is to begin: for that moment a socket does not wait.
    turn: Mutex<()>,
}

/// What a place is made of.
#[derive(Debug)]
pub(super) struct Parts {
    /// Others may be bound to where it is, and nobody may wait to be accepted by it.
    pub(super) listener: TcpListener,
    /// Sees all beginnings of connections, and writes packets, if we may.
    pub(super) packets: Option<OwnedFd>,
}

#[derive(Debug)]
struct Place {
    address: SocketAddr,
    /// Whoever comes is not answered, for it has no room.
    _listener: TcpListener,
    /// Whom it has room for.
    _only_one: OwnedFd,
    /// Ours, of the next connection.
    end: Mutex<Option<OwnedFd>>,
    resets: Option<Resets>,
}

/// A listener for a place.
pub(super) fn listener(address: SocketAddr) -> io::Result<TcpListener> {
    let made = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    made.set_reuse_port(true)?;
    made.bind(&address.into())?;
    made.listen(0)?;
    Ok(made.into())
}

impl Quiet {
    /// Of these parts, and sockets of each family.
    pub(super) fn new(
        parts: Families<Parts>,
        socket: impl Fn(i32) -> Result<OwnedFd, Errno>,
    ) -> io::Result<Quiet> {
        Ok(Quiet { places: parts.map(|parts| Place::new(parts, &socket))?, turn: Mutex::default() })
    }

    /// Whether this is one of the places.
    pub(super) fn is_at(&self, place: SocketAddr) -> bool {
        self.places.iter().any(|own| own.address == place)
    }

    /// Sends a program's socket of this family on its way to `to`. Returns whether the socket waits, and what the kernel says:
    /// `EINPROGRESS` if it is on its way now, and was not before.
    pub(super) fn set_out(
        &self,
        program: &OwnedFd,
        family: i32,
        to: SocketAddr,
    ) -> Result<(bool, Result<(), Errno>), Errno> {
        let place = self.places.led_to(family, to);
        let _turn = lock(&self.turn);
        let flags = OFlag::from_bits_retain(fcntl(program, FcntlArg::F_GETFL)?);
        let waits = !flags.contains(OFlag::O_NONBLOCK);
        if waits {
            fcntl(program, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        }
        let said = connect(program.as_raw_fd(), &SockaddrStorage::from(of_family(place.address, family)));
        if waits {
            fcntl(program, FcntlArg::F_SETFL(flags))?;
        }
        if let (Err(Errno::EINPROGRESS), Some(resets)) = (said, &place.resets) {
            resets.one_more();
        }
        Ok((waits, said))
    }

    /// The two ends of a connection that is on its way.
    pub(super) fn ends(&self, program: &OwnedFd, family: i32, to: SocketAddr) -> Result<Ends, Errno> {
        Ok((local_address(program)?, self.places.led_to(family, to).address))
    }

    /// The other end of the connection of a program's socket that is at `own`, as soon as it is connected to it.
    pub(super) fn end(
        &self,
        own: SocketAddr,
        socket: impl Fn(i32) -> Result<OwnedFd, Errno>,
    ) -> Result<OwnedFd, Errno> {
        let place = self.places.of(own).ok_or(Errno::EAFNOSUPPORT)?;
        let prepared = lock(&place.end).take();
        prepared.map_or_else(|| place.prepare(&socket), Ok)
    }

    /// Makes such an end before it is needed.
    pub(super) fn prepare(&self, own: SocketAddr, socket: impl Fn(i32) -> Result<OwnedFd, Errno>) {
        if let Some(place) = self.places.of(own) {
            let has_one = lock(&place.end).is_some();
            if !has_one && let Ok(end) = place.prepare(&socket) {
                *lock(&place.end) = Some(end);
            }
        }
    }

    /// Makes the connect that the kernel owes: until somebody calls it again, a socket that stands is still connecting for its
    /// kernel. To be done before whoever waits is told.
    pub(super) fn finish(&self, program: &OwnedFd, family: i32) {
        // Where to does not count any more, but for the family. What stands no more (the party may have reset it at once) would
        // set out again, and wait.
        if raw::has_stood(program.as_fd()) == Ok(true) {
            let place = of_family(self.places.v4.address, family);
            let _stands = connect(program.as_raw_fd(), &SockaddrStorage::from(place));
        }
    }

    /// Answers a program's socket that is on its way as a closed port does, if we can. Returns whether it is on its way no more.
    pub(super) fn refuse(&self, program: &OwnedFd, own: SocketAddr) -> bool {
        if raw::is_on_its_way(program.as_fd()) != Ok(true) {
            return true;
        }
        let is_reset = self.places.of(own).is_some_and(|place| {
            place.resets.as_ref().is_some_and(|resets| resets.answer(place.address, own).is_some())
        });
        is_reset && raw::is_on_its_way(program.as_fd()) == Ok(false)
    }
}

impl Place {
    fn new(parts: Parts, socket: impl Fn(i32) -> Result<OwnedFd, Errno>) -> io::Result<Place> {
        let Parts { listener, packets } = parts;
        let address = listener.local_addr()?;
        let only_one = socket(if address.is_ipv4() { socket::INET } else { socket::INET6 })?;
        connect(only_one.as_raw_fd(), &SockaddrStorage::from(address))?;
        wait_for(&listener, PollFlags::POLLIN)?;
        let resets =
            packets.map(|packets| Resets::new(packets, address.is_ipv4(), address.port())).transpose()?;
        Ok(Place { address, _listener: listener, _only_one: only_one, end: Mutex::default(), resets })
    }

    fn prepare(&self, socket: &impl Fn(i32) -> Result<OwnedFd, Errno>) -> Result<OwnedFd, Errno> {
        let end = socket(if self.address.is_ipv4() { socket::INET } else { socket::INET6 })?;
        let known = SockRef::from(&end);
        let bound = known.set_reuse_port(true).and_then(|()| known.bind(&self.address.into()));
        bound.map_err(|error| errno(&error))?;
        Ok(end)
    }
}

/// Answers beginnings of connections with resets.
#[derive(Debug)]
struct Resets {
    packets: OwnedFd,
    /// Who began, and with which number.
    begun: Mutex<VecDeque<(SocketAddr, u32)>>,
    unread: AtomicU32,
}

/// Flags of TCP.
const SYN: u8 = 0x02;
const RESET_AND_ACK: u8 = 0x14;
/// FIN, SYN, RST and ACK: others come along with any of them.
const MEANINGS: u8 = 0x17;
/// Words of a header without options, in its upper half.
const PLAIN: u8 = 5 << 4;
const HEADER: usize = 20;
const TCP: u8 = 6;

impl Resets {
    fn new(packets: OwnedFd, is_v4: bool, at: u16) -> io::Result<Resets> {
        raw::attach_filter(packets.as_fd(), &beginnings(is_v4, at))?;
        SockRef::from(&packets).set_nonblocking(true)?;
        Ok(Resets { packets, begun: Mutex::default(), unread: AtomicU32::new(0) })
    }

    /// Somebody has begun.
    fn one_more(&self) {
        if self.unread.fetch_add(1, Ordering::Relaxed) >= UNREAD {
            self.read(&mut lock(&self.begun));
        }
    }

    fn read(&self, begun: &mut VecDeque<(SocketAddr, u32)>) {
        self.unread.store(0, Ordering::Relaxed);
        let mut packet = [0; 256];
        let mut next = || {
            recvfrom_now(&self.packets, &mut packet).map(|(length, from)| {
                let packet = packet.get(..length).unwrap_or_default();
                parse(packet, from)
            })
        };
        while let Some(parsed) = next() {
            begun.extend(parsed);
            if begun.len() > REMEMBERED {
                begun.pop_front();
            }
        }
    }

    /// Says to whoever is at `to` that nobody listens at `from`, if it has begun.
    fn answer(&self, from: SocketAddr, to: SocketAddr) -> Option<()> {
        let mut begun = lock(&self.begun);
        self.read(&mut begun);
        let (_, number) = begun.iter().rev().find(|(who, _)| *who == to)?;
        let packet = reset(from, to, number.wrapping_add(1));
        let to = SockaddrStorage::from(SocketAddr::new(to.ip(), 0));
        sendto(self.packets.as_raw_fd(), &packet, &to, MsgFlags::MSG_DONTWAIT).ok().map(drop)
    }
}

fn recvfrom_now(packets: &OwnedFd, into: &mut [u8]) -> Option<(usize, IpAddr)> {
    loop {
        match recvfrom::<SockaddrStorage>(packets.as_raw_fd(), into) {
            Ok((length, Some(from))) => {
                let v4 = from.as_sockaddr_in().map(|from| from.ip().into());
                return Some((length, v4.or_else(|| from.as_sockaddr_in6().map(|from| from.ip().into()))?));
            }
            Err(Errno::EINTR) => {}
            _ => return None,
        }
    }
}

/// Lets beginnings of connections to this port pass and nothing else.
fn beginnings(is_v4: bool, port: u16) -> Vec<Instruction> {
    let one = |code: u32, jump_false, constant| Instruction {
        code: code as u16,
        jump_true: 0,
        jump_false,
        constant,
    };
    // The header of IPv4 comes along, and says its own length.
    let (mut program, mode) = match is_v4 {
        true => (vec![one(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0, 0)], libc::BPF_IND),
        false => (Vec::new(), libc::BPF_ABS),
    };
    program.extend([
        one(libc::BPF_LD | libc::BPF_H | mode, 0, 2),
        one(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 4, port.into()),
        one(libc::BPF_LD | libc::BPF_B | mode, 0, 13),
        one(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, MEANINGS.into()),
        one(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, SYN.into()),
        one(libc::BPF_RET | libc::BPF_K, 0, u32::MAX),
        one(libc::BPF_RET | libc::BPF_K, 0, 0),
    ]);
    program
}

/// Who begins, and with which number.
fn parse(packet: &[u8], from: IpAddr) -> Option<(SocketAddr, u32)> {
    let header = if from.is_ipv4() { usize::from(packet.first()? & 0xf) * 4 } else { 0 };
    let (port, rest) = packet.get(header..)?.split_first_chunk::<2>()?;
    let (number, _) = rest.get(2..)?.split_first_chunk::<4>()?;
    Some((SocketAddr::new(from, u16::from_be_bytes(*port)), u32::from_be_bytes(*number)))
}

/// A packet of TCP that says that nobody listens.
fn reset(from: SocketAddr, to: SocketAddr, acknowledged: u32) -> [u8; HEADER] {
    let mut packet = [0; HEADER];
    let fields = [
        &from.port().to_be_bytes()[..],
        &to.port().to_be_bytes(),
        &[0; 4],
        &acknowledged.to_be_bytes(),
        &[PLAIN, RESET_AND_ACK],
    ];
    packet.iter_mut().zip(fields.concat()).for_each(|(place, byte)| *place = byte);
    let pseudo = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            [&from.octets()[..], &to.octets(), &[0, TCP, 0, HEADER as u8]].concat()
        }
        (from, to) => {
            let octets = |ip| match ip {
                IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                IpAddr::V6(v6) => v6.octets(),
            };
            [&octets(from)[..], &octets(to), &[0, 0, 0, HEADER as u8, 0, 0, 0, TCP]].concat()
        }
    };
    let words = pseudo.chunks_exact(2).chain(packet.chunks_exact(2));
    let sum: u32 = words.map(|word| word.iter().fold(0, |word, byte| word << 8 | u32::from(*byte))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    if let Some(place) = packet.get_mut(16..18) {
        place.copy_from_slice(&(!(folded as u16)).to_be_bytes());
    }
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_is_written_as_the_standard_says() {
        let (from, to) = ("127.224.0.1:65533".parse().unwrap(), "127.0.0.1:40000".parse().unwrap());
        let packet = reset(from, to, 0x0102_0304);
        assert_eq!(&packet[..14], [255, 253, 156, 64, 0, 0, 0, 0, 1, 2, 3, 4, PLAIN, RESET_AND_ACK]);
        for (from, to) in [(from, to), ("[fc00::1]:65533".parse().unwrap(), "[fc00::1]:9".parse().unwrap())] {
            let packet = reset(from, to, 7);
            let addresses: Vec<u8> = [from, to]
                .iter()
                .flat_map(|place| match place.ip() {
                    IpAddr::V4(v4) => v4.octets().to_vec(),
                    IpAddr::V6(v6) => v6.octets().to_vec(),
                })
                .collect();
            let words = addresses.chunks(2).chain(packet.chunks(2));
            let sum: u32 = words.map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum::<u32>()
                + 6
                + HEADER as u32;
            let folded = (sum & 0xffff) + (sum >> 16);
            assert_eq!((folded & 0xffff) + (folded >> 16), 0xffff, "{from}");
        }
    }

    #[test]
    fn who_begins_is_read_behind_whatever_header_there_is() {
        let tcp = [0x9c, 0x40, 255, 253, 1, 2, 3, 4, 0, 0, 0, 0, PLAIN, SYN];
        let v6 = "fc00::1".parse().unwrap();
        assert_eq!(parse(&tcp, v6), Some((SocketAddr::new(v6, 40_000), 0x0102_0304)));
        let (v4, mut packet) = ("127.0.0.1".parse().unwrap(), vec![0x46; 24]);
        packet.extend(tcp);
        assert_eq!(parse(&packet, v4), Some((SocketAddr::new(v4, 40_000), 0x0102_0304)));
        for length in 0..32 {
            assert_eq!(parse(&packet[..length], v4), None, "cut off");
        }
    }
}
