//! Calls on a program's socket for which no safe wrapper exists.
#![allow(unsafe_code)] // each says why it is sound

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use phantom_policy::mark::{Instruction, LENGTH, Program};

const _: () = assert!(size_of::<Instruction>() == size_of::<libc::sock_filter>());

/// Undoes what connected a socket, so that it can be connected again. What was written into it goes with that.
pub(super) fn disconnect(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    let nothing = libc::sockaddr { sa_family: libc::AF_UNSPEC as u16, sa_data: [0; 14] };
    // SAFETY: the kernel reads one structure of this size.
    let done = unsafe { libc::connect(socket.as_raw_fd(), &raw const nothing, size_of_val(&nothing) as u32) };
    Errno::result(done)?;
    detach_filter(socket);
    Ok(())
}

/// Takes a socket's filter away, if it has one.
pub(super) fn detach_filter(socket: BorrowedFd<'_>) {
    let (level, option, none) = (libc::SOL_SOCKET, libc::SO_DETACH_FILTER, 0_i32);
    // SAFETY: the kernel reads one number.
    let _has_none_now = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const none).cast(),
            size_of_val(&none) as u32,
        )
    };
}

/// Gives a socket a filter.
pub(super) fn attach_filter(socket: BorrowedFd<'_>, program: &[Instruction]) -> Result<(), Errno> {
    let length = program.len().try_into().map_err(|_| Errno::EINVAL)?;
    let filter = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: the kernel reads the structure and the instructions, which have the kernel's layout and live long enough.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            size_of_val(&filter) as u32,
        )
    };
    Errno::result(done).map(drop)
}

/// Reads a socket's filter, if it has this length.
pub(super) fn read_filter(socket: BorrowedFd<'_>, program: &mut Program) -> bool {
    let get = |place: *mut libc::c_void, mut length: libc::socklen_t| {
        // SAFETY: the kernel writes as many instructions as it is told that there is room for, and none without a place.
        let done = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_GET_FILTER,
                place,
                &raw mut length,
            )
        };
        done == 0 && length as usize == LENGTH
    };
    // First how long it is: the kernel refuses to write a longer one than there is room for, but not a shorter one.
    get(std::ptr::null_mut(), 0) && get(program.as_mut_ptr().cast(), LENGTH as u32)
}

/// From now on a packet socket sees all packets of this family. It costs each of them, so it is begun when it is needed.
pub(super) fn see_packets(socket: BorrowedFd<'_>, of_v4: bool) -> Result<(), Errno> {
    let protocol = if of_v4 { libc::ETH_P_IP } else { libc::ETH_P_IPV6 };
    // SAFETY: a plain structure of numbers, for which zero is a value.
    let mut place: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    place.sll_family = libc::AF_PACKET as u16;
    // The kernel takes the number as it stands in packets.
    place.sll_protocol = (protocol as u16).to_be();
    // SAFETY: the kernel reads one structure of this size.
    let done =
        unsafe { libc::bind(socket.as_raw_fd(), (&raw const place).cast(), size_of_val(&place) as u32) };
    Errno::result(done).map(drop)
}

/// Connects a socket to a place that is written as the kernel reads it.
pub(super) fn connect_to(socket: BorrowedFd<'_>, address: &[u8]) -> Result<(), Errno> {
    // SAFETY: the kernel reads so many bytes, and they are there.
    let done = unsafe { libc::connect(socket.as_raw_fd(), address.as_ptr().cast(), address.len() as u32) };
    Errno::result(done).map(drop)
}

/// The kernel's number of the network namespace that a socket is of.
pub(crate) fn namespace(socket: BorrowedFd<'_>) -> Result<u64, Errno> {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let (mut number, mut length) = (0_u64, size_of::<u64>() as libc::socklen_t);
    // SAFETY: the kernel writes one number of this size.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut number).cast(),
            &raw mut length,
        )
    };
    Errno::result(done).map(|_| number)
}

/// Whether a socket of TCP has begun to connect, and was not answered.
pub(super) fn is_on_its_way(socket: BorrowedFd<'_>) -> Result<bool, Errno> {
    Ok(state(socket)? == BEGUN)
}

/// Whether a socket of TCP has been connected, even if one side has left since.
pub(super) fn has_stood(socket: BorrowedFd<'_>) -> Result<bool, Errno> {
    Ok(!matches!(state(socket)?, BEGUN | ANSWERED | CLOSED | LISTENS))
}

/// Whether a socket of TCP is not connected, nor on its way.
pub(super) fn is_closed(socket: BorrowedFd<'_>) -> Result<bool, Errno> {
    Ok(state(socket)? == CLOSED)
}

/// `TCP_SYN_SENT`, `TCP_SYN_RECV`, `TCP_CLOSE` and `TCP_LISTEN`.
const BEGUN: u8 = 2;
const ANSWERED: u8 = 3;
const CLOSED: u8 = 7;
const LISTENS: u8 = 10;

fn state(socket: BorrowedFd<'_>) -> Result<u8, Errno> {
    let (mut state, mut length) = (0_u8, 1);
    // SAFETY: the kernel writes no more than the first byte of what it has to say.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut state).cast(),
            &raw mut length,
        )
    };
    Errno::result(done).map(|_| state)
}

/// To whom a socket is connected, as the kernel writes it.
pub(super) fn peer_name(socket: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
    let mut address = vec![0; size_of::<libc::sockaddr_storage>()];
    let mut length = address.len() as libc::socklen_t;
    // SAFETY: the kernel writes no more than it is told that there is room for.
    let done = unsafe { libc::getpeername(socket.as_raw_fd(), address.as_mut_ptr().cast(), &raw mut length) };
    Errno::result(done)?;
    address.truncate(length as usize);
    Ok(address)
}
