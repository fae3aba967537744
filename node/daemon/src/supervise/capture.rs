//! Which datagrams of an island we have to look at: those to parties, but for flows that stand. The kernel runs this for each
//! packet of the loopback device, so it is a classic BPF program, written anew whenever that changes. Another one keeps
//! them from sockets of the run itself, whose kernel takes every party's address for its own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use phantom_policy::mark::Instruction;

/// The ends of a flow: the program's own socket, and the party.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FlowEnds {
    pub(super) program: SocketAddr,
    pub(super) party: SocketAddr,
}

/// One datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Datagram<'a> {
    pub(super) ends: FlowEnds,
    pub(super) bytes: &'a [u8],
}

const UDP: u8 = 17;

/// Loads of a word, half a word and a byte of the packet; a word behind the header of IPv4, whose length is in X.
const WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const HALF: u16 = (libc::BPF_LD | libc::BPF_H | libc::BPF_ABS) as u16;
const BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
const WORD_BEHIND: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_IND) as u16;
const HEADER_LENGTH: u16 = (libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH) as u16;
const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const IF_ANY_BIT: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// Where the kernel tells whether a packet comes in (`SKF_AD_OFF + SKF_AD_PKTTYPE`): 0 if so.
const DIRECTION: u32 = 0xffff_f004;
/// Where the IP header is, for the filter of a socket (`SKF_NET_OFF`).
const HEADER: u32 = 0xfff0_0000;
/// All of the packet.
const ALL: u32 = u32::MAX;
/// Bits of IPv4 that say a packet is a fragment.
const FRAGMENT: u32 = 0x3fff;

/// Takes datagrams of the family of `own`, the run's own address, but for those of `known` flows.
pub(super) fn program(own: IpAddr, known: impl Iterator<Item = FlowEnds>) -> Vec<Instruction> {
    let mut program = vec![load(WORD, DIRECTION)];
    program.extend(only_if(IF_EQUAL, 0));
    match own {
        IpAddr::V4(own) => {
            program.push(load(BYTE, 9));
            program.extend(only_if(IF_EQUAL, UDP.into()));
            program.push(load(HALF, 6));
            program.extend(not_if(vec![jump(IF_ANY_BIT, FRAGMENT, 0, 0)]));
            program.push(load(WORD, 16));
            program.extend(not_if(vec![jump(IF_EQUAL, own.into(), 0, 0)]));
            program.push(load(AND, 0xffc0_0000));
            program.extend(only_if(IF_EQUAL, Ipv4Addr::new(127, 192, 0, 0).into()));
            program.push(load(HEADER_LENGTH, 0));
        }
        IpAddr::V6(own) => {
            program.push(load(BYTE, 6));
            program.extend(only_if(IF_EQUAL, UDP.into()));
            program.push(load(BYTE, 24));
            program.extend(only_if(IF_EQUAL, 0xfc));
            program.extend(not_if(is_to_v6(own)));
        }
    }
    for FlowEnds { program: from, party } in known {
        let ports = u32::from(from.port()) << 16 | u32::from(party.port());
        program.extend(match party.ip() {
            IpAddr::V4(to) => not_if(vec![
                load(WORD, 16),
                jump(IF_EQUAL, to.into(), 0, 0),
                load(WORD_BEHIND, 0),
                jump(IF_EQUAL, ports, 0, 0),
            ]),
            IpAddr::V6(to) => {
                let mut is_it = is_to_v6(to);
                is_it.extend([load(WORD, 40), jump(IF_EQUAL, ports, 0, 0)]);
                not_if(is_it)
            }
        });
    }
    program.push(end(ALL));
    program
}

/// Keeps from a program's socket what goes to a party: a socket that is bound to no address would get it.
pub(super) fn own_only(own_v4: Ipv4Addr, own_v6: Ipv6Addr) -> Vec<Instruction> {
    let party_v4 = vec![
        load(WORD, HEADER + 16),
        jump(IF_EQUAL, own_v4.into(), 3, 0),
        load(AND, 0xffc0_0000),
        jump(IF_EQUAL, Ipv4Addr::new(127, 192, 0, 0).into(), 0, 1),
        end(0),
        end(ALL),
    ];
    let mut program =
        vec![load(BYTE, HEADER), load(AND, 0xf0), jump(IF_EQUAL, 0x60, party_v4.len() as u8, 0)];
    program.extend(party_v4);
    program.extend([load(BYTE, HEADER + 24), jump(IF_EQUAL, 0xfc, 1, 0), end(ALL)]);
    let mut own: Vec<Instruction> = is_to_v6(own_v6);
    own.iter_mut().filter(|one| one.code == WORD).for_each(|one| one.constant += HEADER);
    let mut if_own = not_if(own);
    if let Some(passes) = if_own.last_mut() {
        *passes = end(ALL);
    }
    program.extend(if_own);
    program.push(end(0));
    program
}

fn is_to_v6(to: Ipv6Addr) -> Vec<Instruction> {
    let number = u128::from(to);
    // The last word differs most.
    let word = |at: u32| [load(WORD, 24 + 4 * at), jump(IF_EQUAL, (number >> (96 - 32 * at)) as u32, 0, 0)];
    [3, 2, 1, 0].into_iter().flat_map(word).collect()
}

fn load(code: u16, constant: u32) -> Instruction {
    Instruction { code, constant, ..Instruction::default() }
}

fn jump(code: u16, constant: u32, jump_true: u8, jump_false: u8) -> Instruction {
    Instruction { code, constant, jump_true, jump_false }
}

fn end(constant: u32) -> Instruction {
    load(RETURN, constant)
}

/// The packet is left unless this holds.
fn only_if(code: u16, constant: u32) -> [Instruction; 2] {
    [jump(code, constant, 1, 0), end(0)]
}

/// The packet is left if all of this holds.
fn not_if(mut conditions: Vec<Instruction>) -> Vec<Instruction> {
    let length = conditions.len();
    for (at, condition) in conditions.iter_mut().enumerate() {
        if [IF_EQUAL, IF_ANY_BIT].contains(&condition.code) {
            // Over what is left, and the end.
            condition.jump_false = (length - at) as u8;
        }
    }
    conditions.push(end(0));
    conditions
}

/// A datagram, from its IP header on. Nothing if it is none, or not whole.
pub(super) fn parse(packet: &[u8]) -> Option<Datagram<'_>> {
    let (from, to, rest): (IpAddr, IpAddr, &[u8]) = match packet.first()? >> 4 {
        4 => {
            let header = usize::from(packet.first()? & 15) * 4;
            let address = |at| packet.get(at..at + 4)?.try_into().ok().map(|octets: [u8; 4]| octets.into());
            (*packet.get(9)? == UDP).then_some(())?;
            (address(12)?, address(16)?, packet.get(header..)?)
        }
        6 => {
            let address = |at| packet.get(at..at + 16)?.try_into().ok().map(|octets: [u8; 16]| octets.into());
            (*packet.get(6)? == UDP).then_some(())?;
            (address(8)?, address(24)?, packet.get(40..)?)
        }
        _ => return None,
    };
    let (header, _) = rest.split_first_chunk::<8>()?;
    let [from_port, to_port, length, _] = [0, 2, 4, 6]
        .map(|at| header.get(at..at + 2).and_then(|pair| pair.try_into().ok()).map(u16::from_be_bytes));
    let bytes = rest.get(8..usize::from(length?))?;
    let ends = FlowEnds { program: (from, from_port?).into(), party: (to, to_port?).into() };
    Some(Datagram { ends, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program as the kernel does. Outside of the packet nothing is taken.
    fn takes(program: &[Instruction], direction: u32, packet: &[u8]) -> bool {
        let read = |from: u32, length: usize| {
            let from = from & !HEADER;
            let bytes = packet.get(from as usize..from as usize + length)?;
            Some(bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte)))
        };
        let (mut at, mut a, mut x) = (0, 0, 0);
        loop {
            let Instruction { code, jump_true, jump_false, constant } = program[at];
            at += 1;
            let loaded = match code {
                WORD if constant == DIRECTION => Some(direction),
                WORD => read(constant, 4),
                HALF => read(constant, 2),
                BYTE => read(constant, 1),
                WORD_BEHIND => read(x + constant, 4),
                AND => Some(a & constant),
                HEADER_LENGTH => {
                    x = 4 * (read(constant, 1).unwrap() & 15);
                    Some(a)
                }
                IF_EQUAL => {
                    at += usize::from(if a == constant { jump_true } else { jump_false });
                    Some(a)
                }
                IF_ANY_BIT => {
                    at += usize::from(if a & constant != 0 { jump_true } else { jump_false });
                    Some(a)
                }
                RETURN => return constant != 0,
                other => panic!("{other}"),
            };
            let Some(loaded) = loaded else { return false };
            a = loaded;
        }
    }

    fn ends(program: &str, party: &str) -> FlowEnds {
        FlowEnds { program: program.parse().unwrap(), party: party.parse().unwrap() }
    }

    /// A packet from one place to another; with options, if it is of IPv4.
    fn packet(ends: FlowEnds, protocol: u8, data: &[u8]) -> Vec<u8> {
        let mut packet = Vec::new();
        match (ends.program.ip(), ends.party.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                packet.extend([0x46, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0]);
                packet.extend(from.octets());
                packet.extend(to.octets());
                packet.extend([1; 4]);
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                packet.extend([0x60, 0, 0, 0, 0, 0, protocol, 64]);
                packet.extend(from.octets());
                packet.extend(to.octets());
            }
            other => panic!("{other:?}"),
        }
        packet.extend(ends.program.port().to_be_bytes());
        packet.extend(ends.party.port().to_be_bytes());
        packet.extend((8 + data.len() as u16).to_be_bytes());
        packet.extend([0, 0]);
        packet.extend(data);
        packet
    }

    const OWN: [&str; 2] = ["127.224.0.1", "fc00::1"];

    fn taken(known: &[FlowEnds], ends: FlowEnds, protocol: u8) -> bool {
        let own: IpAddr = OWN[usize::from(ends.party.is_ipv6())].parse().unwrap();
        let program = program(own, known.iter().copied());
        let packet = packet(ends, protocol, b"data");
        assert!(!takes(&program, 4, &packet), "what goes out comes in as well");
        takes(&program, 0, &packet)
    }

    #[test]
    fn datagrams_to_parties_are_taken_and_nothing_else() {
        for (party, are) in [
            ("127.192.0.1:7", true),
            ("127.255.3.4:53", true),
            ("127.191.0.1:7", false),
            ("127.224.0.1:7", false),
            ("8.8.8.8:53", false),
            ("[fc12::1]:7", true),
            ("[fc00::1]:7", false),
            ("[fd00::1]:7", false),
            ("[::1]:7", false),
        ] {
            let party: SocketAddr = party.parse().unwrap();
            let own = OWN[usize::from(party.is_ipv6())].parse().unwrap();
            let ends = FlowEnds { program: SocketAddr::new(own, 4_000), party };
            assert_eq!(taken(&[], ends, UDP), are, "{party}");
            assert!(!taken(&[], ends, 6), "{party}");
        }
    }

    #[test]
    fn flows_that_stand_are_left_alone_but_none_beside_them() {
        let known: Vec<_> = (1..=300_u16)
            .flat_map(|port| {
                [
                    ends(&format!("127.224.0.1:{port}"), "127.200.0.1:7"),
                    ends(&format!("[fc00::1]:{port}"), "[fc12::1]:7"),
                ]
            })
            .collect();
        for (program, party) in [("127.224.0.1", "127.200.0"), ("[fc00::1]", "[fc12::")] {
            let party = |host: u32, port: u16| {
                if party.starts_with('[') {
                    format!("{party}{host}]:{port}")
                } else {
                    format!("{party}.{host}:{port}")
                }
            };
            let of_family: Vec<_> = known
                .iter()
                .copied()
                .filter(|ends| ends.party.is_ipv6() == program.starts_with('['))
                .collect();
            for port in [1, 150, 300] {
                assert!(!taken(&of_family, ends(&format!("{program}:{port}"), &party(1, 7)), UDP));
                assert!(taken(&of_family, ends(&format!("{program}:{port}"), &party(1, 8)), UDP));
                assert!(taken(&of_family, ends(&format!("{program}:{port}"), &party(2, 7)), UDP));
            }
            assert!(taken(&of_family, ends(&format!("{program}:301"), &party(1, 7)), UDP));
        }
    }

    #[test]
    fn a_socket_gets_what_is_for_the_run_and_nothing_that_is_for_a_party() {
        let program = own_only("127.224.0.1".parse().unwrap(), "fc00::1".parse().unwrap());
        for (to, gets) in [
            ("127.0.0.1:7", true),
            ("127.224.0.1:7", true),
            ("127.224.0.2:7", false),
            ("127.192.0.1:7", false),
            ("8.8.8.8:53", true),
            ("[::1]:7", true),
            ("[fc00::1]:7", true),
            ("[fc00::2]:7", false),
            ("[fc00:0:0:1::1]:7", false),
        ] {
            let to: SocketAddr = to.parse().unwrap();
            let from = SocketAddr::new(OWN[usize::from(to.is_ipv6())].parse().unwrap(), 9);
            let packet = packet(FlowEnds { program: from, party: to }, UDP, b"data");
            assert_eq!(takes(&program, 0, &packet), gets, "{to}");
        }
    }

    #[test]
    fn a_datagram_is_read_as_it_was_written_and_a_part_of_it_is_none() {
        for ends in [ends("127.224.0.1:9", "127.200.0.1:7"), ends("[fc00::1]:9", "[fc12::1]:7")] {
            for data in [&b""[..], b"some data"] {
                let packet = packet(ends, UDP, data);
                assert_eq!(parse(&packet), Some(Datagram { ends, bytes: data }));
                for length in 0..packet.len() {
                    assert_eq!(parse(&packet[..length]), None);
                }
            }
        }
    }
}
