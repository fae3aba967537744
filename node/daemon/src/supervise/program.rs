//! The program's memory, as a call refers to it.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::size_of,
};

use nix::{
    sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev},
    unistd::Pid,
};

use super::call::Given;

/// No address of a socket is longer.
const LONGEST_ADDRESS: usize = size_of::<libc::sockaddr_storage>();

/// The memory of the process of one thread.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory(Pid);

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
        self.return_cut(to, length_at, address)?;
        self.write(length_at, &(address.len() as libc::socklen_t).to_ne_bytes())
    }

    /// The same for the value of an option, of which the length is told that has room.
    pub(super) fn return_value(self, to: u64, length_at: u64, value: &[u8]) -> io::Result<()> {
        let returned = self.return_cut(to, length_at, value)?;
        self.write(length_at, &(returned as libc::socklen_t).to_ne_bytes())
    }

    fn return_cut(self, to: u64, length_at: u64, bytes: &[u8]) -> io::Result<usize> {
        let reserved = self.read(length_at, size_of::<libc::socklen_t>())?;
        let reserved = reserved.try_into().map_or(-1, i32::from_ne_bytes);
        let reserved = usize::try_from(reserved).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
        let returned = bytes.get(..reserved).unwrap_or(bytes);
        self.write(to, returned)?;
        Ok(returned.len())
    }
}

fn usize_of(address: u64) -> io::Result<usize> {
    usize::try_from(address).map_err(|_| io::Error::from_raw_os_error(libc::EFAULT))
}

/// Signals that have not been taken and are not held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pending {
    /// For this thread.
    OfThread,
    /// For any thread of its process.
    OfProcess,
}

/// What interrupts a thread, if anything does.
pub(super) fn pending_signals(thread: i32) -> Option<Pending> {
    parse_pending(&std::fs::read_to_string(format!("/proc/{thread}/status")).ok()?)
}

fn parse_pending(status: &str) -> Option<Pending> {
    let set = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).unwrap_or(0)
    };
    let taken = !set("SigBlk:");
    if set("SigPnd:") & taken != 0 {
        Some(Pending::OfThread)
    } else {
        (set("ShdPnd:") & taken != 0).then_some(Pending::OfProcess)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervise::call::address_bytes;

    fn own() -> Memory {
        Memory(Pid::this())
    }

    #[test]
    fn an_address_is_read_where_the_program_has_written_it() {
        let address = "[fc00::9]:443".parse().unwrap();
        let bytes = address_bytes(phantom_policy::socket::INET6, address);
        let read = own().address(bytes.as_ptr() as u64, bytes.len() as u64).unwrap();
        assert_eq!(read, Given::Internet(address));
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
        let (mut place, mut length) = ([9_u8; 8], 2_u32);
        let (to, length_at) = (place.as_mut_ptr() as u64, &raw mut length as u64);
        own().return_value(to, length_at, &[1, 2, 3, 4]).unwrap();
        assert_eq!(std::hint::black_box((place, length)), ([1, 2, 9, 9, 9, 9, 9, 9], 2), "an option");
    }

    #[test]
    fn a_signal_interrupts_whom_it_is_for_unless_it_is_held_back() {
        for (thread, process, blocked, expected) in [
            ("0000000000000000", "0000000000000000", "0000000000000000", None),
            ("0000000000000200", "0000000000000000", "0000000000000000", Some(Pending::OfThread)),
            ("0000000000000000", "0000000000002000", "0000000000000200", Some(Pending::OfProcess)),
            ("0000000000000200", "0000000000000000", "0000000000000200", None),
        ] {
            let status = format!("Name:\tx\nSigPnd:\t{thread}\nShdPnd:\t{process}\nSigBlk:\t{blocked}\n");
            assert_eq!(parse_pending(&status), expected, "{status}");
        }
        assert_eq!(pending_signals(std::process::id() as i32), None);
    }
}
