//! The program's memory and its sockets, as a call refers to them.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::size_of,
    net::{IpAddr, SocketAddr},
};

use nix::{
    sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev},
    unistd::Pid,
};
use phantom_policy::socket;

/// No address of a socket is longer.
const LONGEST_ADDRESS: usize = size_of::<libc::sockaddr_storage>();

/// The memory of the process of one thread.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory(Pid);

/// An address as a program gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Given {
    /// Of the Internet.
    Internet(SocketAddr),
    /// `AF_UNSPEC`: undo what was connected.
    Nothing,
    /// Of another family, whole.
    Other(Vec<u8>),
}

impl Memory {
    pub(super) fn of(thread: i32) -> Memory {
        Memory(Pid::from_raw(thread))
    }

    /// So many bytes, or an error: never fewer.
    pub(super) fn read(self, from: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        let remote = [RemoteIoVec { base: usize_of(from)?, len: length }];
        let got = process_vm_readv(self.0, &mut [IoSliceMut::new(&mut bytes)], &remote)?;
        if got == length { Ok(bytes) } else { Err(io::Error::from_raw_os_error(libc::EFAULT)) }
    }

    /// All of it, or an error.
    pub(super) fn write(self, to: u64, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let remote = [RemoteIoVec { base: usize_of(to)?, len: bytes.len() }];
        let done = process_vm_writev(self.0, &[IoSlice::new(bytes)], &remote)?;
        if done == bytes.len() { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EFAULT)) }
    }

    /// The address that stands there.
    pub(super) fn address(self, from: u64, length: u64) -> io::Result<Given> {
        let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
        let length =
            usize::try_from(length as u32).ok().filter(|length| (2..=LONGEST_ADDRESS).contains(length));
        let bytes = self.read(from, length.ok_or_else(invalid)?)?;
        Given::parse(&bytes).ok_or_else(invalid)
    }

    /// Fills what a program has reserved for an address, as the kernel does: what is too long is cut off, and the true length
    /// is told.
    pub(super) fn return_address(self, to: u64, length_at: u64, address: &[u8]) -> io::Result<()> {
        let reserved = self.read(length_at, size_of::<libc::socklen_t>())?;
        let reserved = reserved.try_into().map_or(-1, i32::from_ne_bytes);
        let reserved = usize::try_from(reserved).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
        self.write(to, address.get(..reserved).unwrap_or(address))?;
        self.write(length_at, &(address.len() as libc::socklen_t).to_ne_bytes())
    }
}

impl Given {
    /// `sockaddr`, `sockaddr_in` and `sockaddr_in6` of Linux.
    fn parse(bytes: &[u8]) -> Option<Given> {
        let (family, rest) = bytes.split_first_chunk::<2>()?;
        let internet = |address: IpAddr, port: &[u8; 2]| {
            Some(Given::Internet(SocketAddr::new(address, u16::from_be_bytes(*port))))
        };
        match i32::from(u16::from_ne_bytes(*family)) {
            libc::AF_UNSPEC => Some(Given::Nothing),
            socket::INET => {
                let (port, rest) = rest.split_first_chunk::<2>()?;
                let (address, _) = rest.split_first_chunk::<4>()?;
                internet((*address).into(), port)
            }
            socket::INET6 => {
                let (port, rest) = rest.split_first_chunk::<2>()?;
                let (address, _) = rest.get(4..)?.split_first_chunk::<16>()?;
                internet((*address).into(), port)
            }
            _ => Some(Given::Other(bytes.to_vec())),
        }
    }
}

/// An address as the kernel writes it for a socket of this family.
pub(super) fn address_bytes(family: i32, address: SocketAddr) -> Vec<u8> {
    let port = address.port().to_be_bytes();
    match (family, address.ip()) {
        (socket::INET, IpAddr::V4(v4)) => {
            let family = (socket::INET as u16).to_ne_bytes();
            [&family[..], &port, &v4.octets(), &[0; 8]].concat()
        }
        (_, ip) => {
            let v6 = match ip {
                IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                IpAddr::V6(v6) => v6,
            };
            let family = (socket::INET6 as u16).to_ne_bytes();
            [&family[..], &port, &[0; 4], &v6.octets(), &[0; 4]].concat()
        }
    }
}

fn usize_of(address: u64) -> io::Result<usize> {
    usize::try_from(address).map_err(|_| io::Error::from_raw_os_error(libc::EFAULT))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> Memory {
        Memory(Pid::this())
    }

    #[test]
    fn an_address_is_read_as_it_was_written() {
        for (family, address) in [
            (socket::INET, "127.192.3.4:80"),
            (socket::INET6, "[fc00::9]:443"),
            (socket::INET6, "[::ffff:1.2.3.4]:5"),
        ] {
            let address: SocketAddr = address.parse().unwrap();
            let bytes = address_bytes(family, address);
            assert_eq!(Given::parse(&bytes), Some(Given::Internet(address)));
            let read = own().address(bytes.as_ptr() as u64, bytes.len() as u64).unwrap();
            assert_eq!(read, Given::Internet(address));
            assert_eq!(Given::parse(&bytes[..7]), None, "cut off");
        }
        assert_eq!(Given::parse(&[0; 16]), Some(Given::Nothing));
        assert_eq!(Given::parse(&[1, 0, b'/']), Some(Given::Other(vec![1, 0, b'/'])));
    }

    #[test]
    fn what_is_no_memory_of_the_program_is_its_fault() {
        let error = own().read(8, 4).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EFAULT));
        for length in [0, 1, LONGEST_ADDRESS as u64 + 1, u64::MAX] {
            assert_eq!(own().address(8, length).unwrap_err().raw_os_error(), Some(libc::EINVAL), "{length}");
        }
    }

    #[test]
    fn a_returned_address_is_cut_to_what_was_reserved_and_its_true_length_told() {
        let (mut place, mut length) = ([9_u8; 8], 5_u32);
        let (to, length_at) = (place.as_mut_ptr() as u64, &raw mut length as u64);
        own().return_address(to, length_at, &[1, 2, 3, 4, 5, 6]).unwrap();
        assert_eq!(std::hint::black_box((place, length)), ([1, 2, 3, 4, 5, 9, 9, 9], 6));
    }
}
