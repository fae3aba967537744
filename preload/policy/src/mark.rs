//! Whom a socket is connected to, where the library inside of a program has to know it.
//!
//! The program's own socket is connected to somebody of the run on this machine, so its kernel knows a peer that is not the
//! one whom the program meant. The supervisor remembers the true one; the library does not ask it, so for the library it is
//! written into the socket: as the constants of a classic BPF program that lets everything pass, attached as the socket's
//! filter, which anybody who holds the socket can read back. Duplicates, children and programs that are started by exec find
//! it where it is. Attaching it takes the kernel longer than the rest of a connect, so under the seal it is the last resort.

use core::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Loads a constant into the accumulator: `BPF_LD | BPF_IMM`.
const LOAD: u16 = 0;
/// Returns a constant: `BPF_RET | BPF_K`.
const RETURN: u16 = 6;
/// Lets whole packets pass.
const EVERYTHING: u32 = u32::MAX;
/// Tells our filters from others.
const MAGIC: u32 = 0x5068_6d31;

/// One instruction of a classic BPF program, as the kernel has it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Instruction {
    /// What to do.
    pub code: u16,
    /// How far to jump.
    pub jump_true: u8,
    /// How far to jump.
    pub jump_false: u8,
    /// The constant.
    pub constant: u32,
}

/// Instructions of a mark.
pub const LENGTH: usize = 7;

/// A mark, as a program for a socket's filter.
pub type Program = [Instruction; LENGTH];

/// What is written into a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Whom it is connected to, as the program said it (an address of IPv4 is not mapped).
    pub peer: SocketAddr,
}

impl Mark {
    /// The program that holds it.
    pub fn encode(&self) -> Program {
        let (family, address) = match self.peer.ip() {
            IpAddr::V4(address) => (4, address.to_ipv6_mapped()),
            IpAddr::V6(address) => (6, address),
        };
        let [a, b, c, d] = words(address);
        let place = family << 16 | u32::from(self.peer.port());
        let load = |constant| Instruction { code: LOAD, constant, ..Instruction::default() };
        let pass = Instruction { code: RETURN, constant: EVERYTHING, ..Instruction::default() };
        [load(MAGIC), load(place), load(a), load(b), load(c), load(d), pass]
    }

    /// What a socket's filter says; nothing if it is not ours.
    pub fn decode(program: &[Instruction]) -> Option<Mark> {
        let [magic, place, a, b, c, d, pass] = *<&Program>::try_from(program).ok()?;
        let plain = |one: &Instruction| one.code == LOAD && (one.jump_true, one.jump_false) == (0, 0);
        let ours = [magic, place, a, b, c, d].iter().all(plain) && magic.constant == MAGIC;
        if !ours || pass.code != RETURN || pass.constant != EVERYTHING {
            return None;
        }
        let address = address([a.constant, b.constant, c.constant, d.constant]);
        let [0, family, high, low] = place.constant.to_be_bytes() else { return None };
        let address = match family {
            4 => IpAddr::V4(address.to_ipv4_mapped()?),
            6 => IpAddr::V6(address),
            _ => return None,
        };
        Some(Mark { peer: SocketAddr::new(address, u16::from_be_bytes([high, low])) })
    }
}

fn words(address: Ipv6Addr) -> [u32; 4] {
    let number = u128::from(address);
    [96, 64, 32, 0].map(|shift| (number >> shift) as u32)
}

fn address(words: [u32; 4]) -> Ipv6Addr {
    Ipv6Addr::from(words.into_iter().fold(0, |number, word| number << 32 | u128::from(word)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_mark_is_read_as_it_was_written() {
        for peer in ["127.192.1.2:80", "[fc01:2345::9]:65535", "8.8.8.8:53", "[::]:0", "[::ffff:1.2.3.4]:1"] {
            let mark = Mark { peer: peer.parse().unwrap() };
            assert_eq!(Mark::decode(&mark.encode()), Some(mark), "{peer}");
        }
    }

    proptest! {
        #[test]
        fn a_filter_of_somebody_else_is_no_mark(code: u16, constant: u32, at in 0..LENGTH) {
            let good = Mark { peer: "127.192.1.2:80".parse().unwrap() }.encode();
            prop_assert_eq!(Mark::decode(&good[..at]), None);
            let mut other = good;
            other[at].code = code;
            prop_assume!(other != good);
            prop_assert_eq!(Mark::decode(&other), None);
            let mut other = good;
            other[at] = Instruction { constant, ..other[at] };
            let read = Mark::decode(&other);
            prop_assert!(read.is_none_or(|mark| mark.encode() == other));
        }
    }
}
