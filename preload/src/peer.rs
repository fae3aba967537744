//! `getpeername`, and `getsockopt` of `SO_ERROR`: what the program is told about a socket that the run has connected.
//!
//! The kernel knows the run's end of it. Whom the program meant is written into the socket (`phantom_policy::mark`), and
//! is read here: nobody is asked. Why a connection failed the run knows, and is asked.

use core::{
    ffi::{c_int, c_void},
    mem::size_of,
    ptr::null_mut,
};

use libc::{sockaddr, socklen_t};
use phantom_policy::{
    call::{Answer, Call},
    mark::{Instruction, LENGTH, Mark, Program},
    socket::{INET, INET6},
};

use crate::{
    kernel::{self, Outcome, returned_int},
    run::{Conversation, refusal},
};

redhook::hook! {
    unsafe fn getpeername(socket: c_int, to: *mut sockaddr, length: *mut socklen_t) -> c_int => name_of_true_peer {
        // SAFETY: the program's own memory, as libc wants it.
        returned_int(unsafe { peer_name(socket, to.cast(), length) })
    }
}

redhook::hook! {
    unsafe fn getsockopt(
        socket: c_int, level: c_int, name: c_int, to: *mut c_void, length: *mut socklen_t
    ) -> c_int => true_option {
        // SAFETY: the program's own memory, as libc wants it.
        returned_int(unsafe { option(socket, level, name, to, length) })
    }
}

/// # Safety
/// The memory is the program's, or none at all.
pub(crate) unsafe fn peer_name(socket: c_int, to: *mut c_void, length: *mut socklen_t) -> Outcome {
    // What the kernel may read, we may.
    let mut reserved = [0; size_of::<socklen_t>()];
    kernel::copy_from(length.cast(), &mut reserved)?;
    // SAFETY: the kernel says EFAULT where the program gave no memory.
    unsafe { kernel::call(libc::SYS_getpeername, [socket as usize, to as usize, length as usize, 0, 0, 0]) }?;
    let Some(mark) = mark(socket) else { return Ok(0) };
    let (address, full) = kernel::written(kernel::family(socket)?, mark.peer);
    let fits = full.min(socklen_t::from_ne_bytes(reserved) as usize);
    // SAFETY: the kernel has just written there, an address of the same family, into as much room as there is; what it was
    // given is as long as the program says.
    unsafe {
        core::ptr::copy_nonoverlapping(address.as_ptr(), to.cast(), fits);
        length.write_unaligned(full as socklen_t);
    }
    Ok(0)
}

/// # Safety
/// The memory is the program's, or none at all.
pub(crate) unsafe fn option(
    socket: c_int,
    level: c_int,
    name: c_int,
    to: *mut c_void,
    length: *mut socklen_t,
) -> Outcome {
    let kernels = |name: c_int| {
        let arguments = [socket as usize, level as usize, name as usize, to as usize, length as usize, 0];
        // SAFETY: the kernel says EFAULT where the program gave no memory.
        unsafe { kernel::call(libc::SYS_getsockopt, arguments) }
    };
    let is_error = (level, name) == (libc::SOL_SOCKET, libc::SO_ERROR);
    // What the run connects has a mark, unless it was disconnected since, or users may write none: then it is a stream without
    // a peer.
    if !is_error || (mark(socket).is_none() && !may_have_failed(socket)) {
        return kernels(name);
    }
    // Another number of the same length, which leaves the error where it is: so it is the kernel that looks whether the
    // program's memory is there.
    kernels(libc::SO_TYPE)?;
    let conversation = Conversation::begin()?;
    conversation.say(&Call::SocketError, Some(socket))?;
    match conversation.hear_whatever_comes(&mut [0; 64])? {
        Answer::Number(error) => {
            let error = error.to_ne_bytes();
            // SAFETY: the kernel has written as many bytes there as it says now.
            unsafe {
                let fits = (length.read_unaligned() as usize).min(error.len());
                core::ptr::copy_nonoverlapping(error.as_ptr(), to.cast(), fits);
            }
            Ok(0)
        }
        refused => Err(refusal(refused)),
    }
}

/// What is written into a socket of the Internet.
pub(crate) fn mark(socket: c_int) -> Option<Mark> {
    if !matches!(kernel::family(socket), Ok(INET | INET6)) {
        return None;
    }
    let mut program: Program = [Instruction::default(); LENGTH];
    let filter = |place: *mut Instruction, mut length: socklen_t| {
        let (level, name) = (libc::SOL_SOCKET as usize, libc::SO_GET_FILTER as usize);
        let arguments = [socket as usize, level, name, place as usize, &raw mut length as usize, 0];
        // SAFETY: the kernel writes as many instructions as it is told that there is room for, and none without a place.
        unsafe { kernel::call(libc::SYS_getsockopt, arguments) }.is_ok() && length as usize == LENGTH
    };
    // First how long it is: the kernel refuses to write a longer one than there is room for, but not a shorter one.
    (filter(null_mut(), 0) && filter(program.as_mut_ptr(), LENGTH as socklen_t))
        .then(|| Mark::decode(&program))?
}

/// Whether this is a socket of the kind that the run connects, and is not connected.
fn may_have_failed(socket: c_int) -> bool {
    let is_stream = || kernel::option(socket, libc::SOL_SOCKET, libc::SO_TYPE) == Ok(libc::SOCK_STREAM);
    let (mut peer, mut length) = ([0_u8; 128], 128 as socklen_t);
    let arguments = [socket as usize, peer.as_mut_ptr() as usize, &raw mut length as usize, 0, 0, 0];
    // SAFETY: the kernel writes no more than it is told that there is room for.
    let asked = || unsafe { kernel::call(libc::SYS_getpeername, arguments) };
    matches!(kernel::family(socket), Ok(INET | INET6)) && is_stream() && asked() == Err(libc::ENOTCONN)
}
