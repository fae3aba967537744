//! Where programs' sockets wait for their parties.
//!
//! A socket that is connected to a place where nobody ever answers is on its way, and its own kernel knows it so: however a
//! program looks at it, connects it again, shuts it down or is interrupted, it sees just that. When the party has accepted, a
//! socket of ours connects to it from that place; as both sides have begun, the connection stands (RFC 9293, 3.5). When the
//! party refuses and nobody waits for it, the socket is answered as by a closed port, where we may write packets. Else it is
//! disconnected ([`connections`](super::connections)).

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::PollFlags,
    sys::socket::{MsgFlags, SockaddrStorage, connect, recv, sendto},
};
use phantom_policy::{mark::Instruction, socket};
use socket2::{Domain, SockRef, Socket, Type};

use super::{
    errno,
    families::Families,
    lock,
    meeting::{local_address, of_family, wait_for, wait_until},
    peers::Ends,
    raw,
};

/// Two sockets of this machine are connected at once. Others wait for us meanwhile.
const AT_ONCE: Duration = Duration::from_millis(100);
/// Beginnings of connections that are remembered, the latest ones.
const REMEMBERED: usize = 8_192;
/// So many packets may lie unread: the kernel keeps more than that before it drops any.
const UNREAD: u32 = 64;

/// The places, one for each family.
#[derive(Debug)]
pub(super) struct Quiet {
    places: Families<Place>,
    /// Whose turn it is to connect a program's socket: for that moment it does not wait.
    turn: Mutex<()>,
}

/// What a place is made of.
#[derive(Debug)]
pub(super) struct Parts {
    /// Others may be bound to where it is, and nobody may wait to be accepted by it.
    pub(super) listener: TcpListener,
    /// If we may see and write packets.
    pub(super) packets: Option<Packets>,
}

/// What sees packets and what writes them. A socket that does both is given a copy of each packet of every connection.
#[derive(Debug)]
pub(super) struct Packets {
    pub(super) seen: OwnedFd,
    pub(super) written: OwnedFd,
}

#[derive(Debug)]
struct Place {
    address: SocketAddr,
    /// Whoever comes is not answered, for it has no room.
    _listener: TcpListener,
    /// Whom it has room for.
    _only_one: OwnedFd,
    /// Our socket for the next connection.
    ours: Mutex<Option<OwnedFd>>,
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
        if let (false, Some(resets)) = (waits, &place.resets) {
            resets.watch()?;
        }
        let said = connect_at_once(program, flags, of_family(place.address, family))?;
        if let (Err(Errno::EINPROGRESS), Some(resets)) = (said, &place.resets) {
            resets.one_more();
        }
        Ok((waits, said))
    }

    /// From now on the place of a socket that is here sees who begins.
    pub(super) fn watch(&self, own: SocketAddr) -> Result<(), Errno> {
        let resets = self.places.of(own).and_then(|place| place.resets.as_ref());
        resets.map_or(Ok(()), Resets::watch)
    }

    /// The two ends of a connection that is on its way.
    pub(super) fn ends(&self, program: &OwnedFd, family: i32, to: SocketAddr) -> Result<Ends, Errno> {
        Ok((local_address(program)?, self.places.led_to(family, to).address))
    }

    /// Connects a program's socket that is on its way with a socket of ours, which is returned. That one does not wait. Not for
    /// the node to do: only we see that it is this socket still, and no other one that has come to its place.
    pub(super) fn join(
        &self,
        program: &OwnedFd,
        own: SocketAddr,
        socket: impl Fn(i32) -> Result<OwnedFd, Errno>,
    ) -> Result<OwnedFd, Errno> {
        if !raw::is_on_its_way(program.as_fd())? {
            return Err(Errno::ECONNABORTED);
        }
        let place = self.places.of(own).ok_or(Errno::EAFNOSUPPORT)?;
        let prepared = lock(&place.ours).take();
        let ours = prepared.map_or_else(|| place.prepare(&socket), Ok)?;
        match connect(ours.as_raw_fd(), &SockaddrStorage::from(own)) {
            Ok(()) | Err(Errno::EINPROGRESS) => {}
            Err(errno) => return Err(errno),
        }
        // It stands at once, unless the program keeps its socket from hearing of it. Who has come to be there instead is not
        // whom the party is to meet.
        for end in [&ours, program] {
            if !raw::has_stood(end.as_fd())? {
                wait_until(end, PollFlags::POLLOUT, AT_ONCE)?;
                if !raw::has_stood(end.as_fd())? {
                    return Err(Errno::ECONNABORTED);
                }
            }
        }
        Ok(ours)
    }

    /// Makes a socket of ours before it is needed.
    pub(super) fn prepare(&self, own: SocketAddr, socket: impl Fn(i32) -> Result<OwnedFd, Errno>) {
        if let Some(place) = self.places.of(own) {
            let has_one = lock(&place.ours).is_some();
            if !has_one && let Ok(ours) = place.prepare(&socket) {
                *lock(&place.ours) = Some(ours);
            }
        }
    }

    /// Makes the connect that the kernel owes: until somebody calls it again, a socket that stands is still connecting for its
    /// kernel. To be done before whoever waits is told.
    pub(super) fn finish(&self, program: &OwnedFd, family: i32) {
        let _turn = lock(&self.turn);
        // Where to does not count any more, but for the family. What does not stand would set out once more.
        if raw::has_stood(program.as_fd()) == Ok(true)
            && let Ok(flags) = fcntl(program, FcntlArg::F_GETFL)
        {
            let (flags, place) = (OFlag::from_bits_retain(flags), of_family(self.places.v4.address, family));
            let _stands = connect_at_once(program, flags, place);
        }
    }

    /// Answers a program's socket that is on its way as a closed port does, if we can. Returns whether it is on its way no more.
    pub(super) fn refuse(&self, program: &OwnedFd, own: SocketAddr) -> bool {
        // Whom the answer wakes may connect the socket anew: not before we have seen what came of this connect.
        let _turn = lock(&self.turn);
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
        Ok(Place { address, _listener: listener, _only_one: only_one, ours: Mutex::default(), resets })
    }

    fn prepare(&self, socket: &impl Fn(i32) -> Result<OwnedFd, Errno>) -> Result<OwnedFd, Errno> {
        let ours = socket(if self.address.is_ipv4() { socket::INET } else { socket::INET6 })?;
        let known = SockRef::from(&ours);
        let bound = known.set_reuse_port(true).and_then(|()| known.bind(&self.address.into()));
        bound.and_then(|()| known.set_nonblocking(true)).map_err(|error| errno(&error))?;
        Ok(ours)
    }
}

/// Connects a socket that has these flags, without waiting.
fn connect_at_once(socket: &OwnedFd, flags: OFlag, to: SocketAddr) -> Result<Result<(), Errno>, Errno> {
    let waits = !flags.contains(OFlag::O_NONBLOCK);
    if waits {
        fcntl(socket, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    }
    let said = connect(socket.as_raw_fd(), &SockaddrStorage::from(to));
    if waits {
        // The program may have changed others meanwhile.
        let flags = OFlag::from_bits_retain(fcntl(socket, FcntlArg::F_GETFL)?);
        fcntl(socket, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK))?;
    }
    Ok(said)
}

/// Answers beginnings of connections with resets: those that nobody waits for. Watching costs each packet, so it is begun with the
/// first of them: if that was waited for before, its next packet is the first that is seen.
#[derive(Debug)]
struct Resets {
    packets: Packets,
    is_v4: bool,
    watches: AtomicBool,
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
/// Of IP, without options.
const HEADER_V4: usize = 20;
const HEADER_V6: usize = 40;
/// A packet of ours is not to go far.
const HOPS: u8 = 64;

impl Resets {
    fn new(packets: Packets, is_v4: bool, at: u16) -> io::Result<Resets> {
        raw::attach_filter(packets.seen.as_fd(), &beginnings(is_v4, at))?;
        let (watches, begun) = (AtomicBool::new(false), Mutex::default());
        Ok(Resets { packets, is_v4, watches, begun, unread: AtomicU32::new(0) })
    }

    fn watch(&self) -> Result<(), Errno> {
        if !self.watches.load(Ordering::Relaxed) {
            raw::see_packets(self.packets.seen.as_fd(), self.is_v4)?;
            self.watches.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Somebody has begun.
    fn one_more(&self) {
        let is_seen = self.watches.load(Ordering::Relaxed);
        if is_seen && self.unread.fetch_add(1, Ordering::Relaxed) >= UNREAD {
            self.read(&mut lock(&self.begun));
        }
    }

    fn read(&self, begun: &mut VecDeque<(SocketAddr, u32)>) {
        self.unread.store(0, Ordering::Relaxed);
        let mut packet = [0; 256];
        while let Some(length) = receive_now(&self.packets.seen, &mut packet) {
            begun.extend(parse(packet.get(..length).unwrap_or_default()));
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
        sendto(self.packets.written.as_raw_fd(), &packet, &to, MsgFlags::MSG_DONTWAIT).ok().map(drop)
    }
}

fn receive_now(packets: &OwnedFd, into: &mut [u8]) -> Option<usize> {
    loop {
        match recv(packets.as_raw_fd(), into, MsgFlags::MSG_DONTWAIT) {
            Err(Errno::EINTR) => {}
            received => return received.ok(),
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
    let load_byte = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
    let is_equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    // A header of IPv4 says its own length.
    let (head, mode, header) = match is_v4 {
        true => {
            let length = one(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0, 0);
            (vec![one(load_byte, 0, 9), one(is_equal, 7, TCP.into()), length], libc::BPF_IND, 0)
        }
        false => (vec![one(load_byte, 0, 6), one(is_equal, 6, TCP.into())], libc::BPF_ABS, HEADER_V6 as u32),
    };
    let mut program = head;
    program.extend([
        one(libc::BPF_LD | libc::BPF_H | mode, 0, header + 2),
        one(is_equal, 4, port.into()),
        one(libc::BPF_LD | libc::BPF_B | mode, 0, header + 13),
        one(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, MEANINGS.into()),
        one(is_equal, 1, SYN.into()),
        one(libc::BPF_RET | libc::BPF_K, 0, u32::MAX),
        one(libc::BPF_RET | libc::BPF_K, 0, 0),
    ]);
    program
}

/// Who begins, and with which number.
fn parse(packet: &[u8]) -> Option<(SocketAddr, u32)> {
    let first = packet.first()?;
    let (from, header): (IpAddr, _) = if first >> 4 == 4 {
        let from: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
        (from.into(), usize::from(first & 0xf) * 4)
    } else {
        let from: [u8; 16] = packet.get(8..24)?.try_into().ok()?;
        (from.into(), HEADER_V6)
    };
    let (port, rest) = packet.get(header..)?.split_first_chunk::<2>()?;
    let (number, _) = rest.get(2..)?.split_first_chunk::<4>()?;
    Some((SocketAddr::new(from, u16::from_be_bytes(*port)), u32::from_be_bytes(*number)))
}

/// A packet that says that nobody listens.
fn reset(from: SocketAddr, to: SocketAddr, acknowledged: u32) -> Vec<u8> {
    let header = match (from.ip(), to.ip()) {
        // The kernel writes the checksum.
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let length = (HEADER_V4 + HEADER) as u8;
            [&[0x45, 0, 0, length, 0, 0, 0, 0, HOPS, TCP, 0, 0], &from.octets()[..], &to.octets()].concat()
        }
        (from, to) => {
            let head = [0x60, 0, 0, 0, 0, HEADER as u8, TCP, HOPS];
            [&head[..], &v6(from).octets(), &v6(to).octets()].concat()
        }
    };
    [&header[..], &reset_of_tcp(from, to, acknowledged)].concat()
}

fn v6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

fn reset_of_tcp(from: SocketAddr, to: SocketAddr, acknowledged: u32) -> [u8; HEADER] {
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
            let end = [0, 0, 0, HEADER as u8, 0, 0, 0, TCP];
            [&v6(from).octets()[..], &v6(to).octets(), &end].concat()
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
        let packet = reset_of_tcp(from, to, 0x0102_0304);
        assert_eq!(&packet[..14], [255, 253, 156, 64, 0, 0, 0, 0, 1, 2, 3, 4, PLAIN, RESET_AND_ACK]);
        for (from, to) in [(from, to), ("[fc00::1]:65533".parse().unwrap(), "[fc00::1]:9".parse().unwrap())] {
            let packet = reset_of_tcp(from, to, 7);
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
        for (from, options) in [("127.0.0.1", 4), ("fc00::1", 0)] {
            let from: IpAddr = from.parse().unwrap();
            let to = SocketAddr::new(from, 9);
            let mut packet = reset(SocketAddr::new(from, 1), to, 0);
            packet.truncate(packet.len() - HEADER);
            packet[0] += options / 4;
            packet.extend(vec![0; options.into()]);
            packet.extend(tcp);
            assert_eq!(parse(&packet), Some((SocketAddr::new(from, 40_000), 0x0102_0304)), "{from}");
            for length in 0..packet.len() - 6 {
                assert_eq!(parse(&packet[..length]), None, "cut off");
            }
        }
    }
}
