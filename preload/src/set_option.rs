//! `setsockopt`: a socket stays on the loopback interface, and connects before it sends.

use core::ffi::{c_int, c_void};

use libc::socklen_t;

use crate::kernel::{self, Outcome, returned_int};

const SO_BINDTOIFINDEX: c_int = 62;

redhook::hook! {
    unsafe fn setsockopt(
        socket: c_int, level: c_int, name: c_int, value: *const c_void, length: socklen_t
    ) -> c_int => set_harmless_option {
        // SAFETY: the program's own memory, as libc wants it.
        returned_int(unsafe { set(socket, level, name, value, length) })
    }
}

/// # Safety
/// As the system call: none.
pub(crate) unsafe fn set(
    socket: c_int,
    level: c_int,
    name: c_int,
    value: *const c_void,
    length: socklen_t,
) -> Outcome {
    match (level, name) {
        (libc::SOL_SOCKET, libc::SO_BINDTODEVICE | SO_BINDTOIFINDEX) => return Err(libc::EPERM),
        // The run connects: there is nothing that data could be sent along with.
        (libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT) => return Err(libc::EOPNOTSUPP),
        _ => {}
    }
    let arguments = [socket as usize, level as usize, name as usize, value as usize, length as usize, 0];
    // SAFETY: the kernel says EFAULT where the program gave no memory.
    unsafe { kernel::call(libc::SYS_setsockopt, arguments) }
}
