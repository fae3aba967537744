//! `sendto`, `sendmsg`, `sendmmsg`: not a connection that begins with data (`MSG_FASTOPEN`), which nobody would have connected.
//! Without it, programs connect first.
//!
//! All else is libc's own: a datagram leaves a socket of the run, and where those live nothing leads out. We jump there, so
//! that nothing of Rust is on the stack of a thread that waits, which may be cancelled. `send` cannot say where to.

use core::{
    arch::naked_asm,
    ffi::{c_int, c_uint, c_void},
    sync::atomic::{AtomicPtr, Ordering},
};

use libc::{mmsghdr, msghdr, sockaddr, socklen_t, ssize_t};

use crate::kernel::{self, returned, returned_int};

/// libc's own, in this order. Before they are known, the same by the kernel's hand, where nothing can be cancelled.
static SENDTO: AtomicPtr<c_void> = AtomicPtr::new(sendto_itself as *mut c_void);
static SENDMSG: AtomicPtr<c_void> = AtomicPtr::new(sendmsg_itself as *mut c_void);
static SENDMMSG: AtomicPtr<c_void> = AtomicPtr::new(sendmmsg_itself as *mut c_void);

/// Looks libc's own up.
pub(crate) fn find() {
    for (own, name) in [(&SENDTO, c"sendto"), (&SENDMSG, c"sendmsg"), (&SENDMMSG, c"sendmmsg")] {
        // SAFETY: a name that ends with a zero.
        let found = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) };
        if !found.is_null() {
            own.store(found, Ordering::Release);
        }
    }
}

/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn sendto(
    _socket: c_int,
    _data: *const c_void,
    _length: usize,
    _flags: c_int,
    _to: *const sockaddr,
    _address: socklen_t,
) -> ssize_t {
    naked_asm!(
        "test ecx, {fast_open}", "jnz 2f", "jmp qword ptr [rip + {own}]", "2:", "jmp {refused}",
        fast_open = const libc::MSG_FASTOPEN, own = sym SENDTO, refused = sym refused
    )
}

/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn sendmsg(_socket: c_int, _message: *const msghdr, _flags: c_int) -> ssize_t {
    naked_asm!(
        "test edx, {fast_open}", "jnz 2f", "jmp qword ptr [rip + {own}]", "2:", "jmp {refused}",
        fast_open = const libc::MSG_FASTOPEN, own = sym SENDMSG, refused = sym refused
    )
}

/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn sendmmsg(
    _socket: c_int,
    _messages: *mut mmsghdr,
    _count: c_uint,
    _flags: c_int,
) -> c_int {
    naked_asm!(
        "test ecx, {fast_open}", "jnz 2f", "jmp qword ptr [rip + {own}]", "2:", "jmp {refused}",
        fast_open = const libc::MSG_FASTOPEN, own = sym SENDMMSG, refused = sym refused
    )
}

pub(crate) extern "C" fn refused() -> ssize_t {
    returned(Err(libc::EOPNOTSUPP))
}

unsafe extern "C" fn sendto_itself(
    socket: c_int,
    data: *const c_void,
    length: usize,
    flags: c_int,
    to: *const sockaddr,
    address: socklen_t,
) -> ssize_t {
    let arguments = [socket as usize, data as usize, length, flags as usize, to as usize, address as usize];
    // SAFETY: the kernel says EFAULT where the program gave no memory.
    returned(unsafe { kernel::call(libc::SYS_sendto, arguments) })
}

unsafe extern "C" fn sendmsg_itself(socket: c_int, message: *const msghdr, flags: c_int) -> ssize_t {
    let arguments = [socket as usize, message as usize, flags as usize, 0, 0, 0];
    // SAFETY: the kernel says EFAULT where the program gave no memory.
    returned(unsafe { kernel::call(libc::SYS_sendmsg, arguments) })
}

unsafe extern "C" fn sendmmsg_itself(
    socket: c_int,
    messages: *mut mmsghdr,
    count: c_uint,
    flags: c_int,
) -> c_int {
    let arguments = [socket as usize, messages as usize, count as usize, flags as usize, 0, 0];
    // SAFETY: the kernel says EFAULT where the program gave no memory.
    returned_int(unsafe { kernel::call(libc::SYS_sendmmsg, arguments) })
}
