//! `setsockopt`: a socket that the run has bound to the loopback interface stays there, even if the program may do what root may.

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
    let chooses = level == libc::SOL_SOCKET && matches!(name, libc::SO_BINDTODEVICE | SO_BINDTOIFINDEX);
    if chooses && is_bound(socket) {
        return Err(libc::EPERM);
    }
    let arguments = [socket as usize, level as usize, name as usize, value as usize, length as usize, 0];
    // SAFETY: the kernel says EFAULT where the program gave no memory.
    unsafe { kernel::call(libc::SYS_setsockopt, arguments) }
}

/// Whether a socket has a device of its own. Where there is only the loopback interface, the run gives it none.
fn is_bound(socket: c_int) -> bool {
    let (mut name, mut length) = ([0_u8; libc::IFNAMSIZ], libc::IFNAMSIZ as socklen_t);
    let (place, length_at) = (name.as_mut_ptr() as usize, &raw mut length as usize);
    let arguments =
        [socket as usize, libc::SOL_SOCKET as usize, libc::SO_BINDTODEVICE as usize, place, length_at, 0];
    // SAFETY: the kernel writes a name, no longer than the place for it.
    unsafe { kernel::call(libc::SYS_getsockopt, arguments) }.is_ok() && length > 0
}
