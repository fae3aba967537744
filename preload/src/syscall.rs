//! `syscall`: the calls that have hooks, by their numbers.
//!
//! It has no fixed number of arguments in C; the kernel takes six, so we do. What has no hook is made as libc makes it, without
//! a place on the stack: some calls return twice.

use core::{
    arch::naked_asm,
    ffi::{c_int, c_long, c_uint, c_void},
};

use libc::socklen_t;

use crate::{
    bind::bind_socket,
    connect::connect_socket,
    exec,
    kernel::{self, Arguments, Outcome, returned},
    listen::listen_socket,
    peer, set_option, socket,
};

/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn syscall(
    _number: c_long,
    _a: usize,
    _b: usize,
    _c: usize,
    _d: usize,
    _e: usize,
    _f: usize,
) -> c_long {
    // The numbers that have a hook lie in rows: one look at each row, and the hook sorts them out.
    naked_asm!(
        "cmp rdi, {socket}", "jb 3f", "cmp rdi, {get_option}", "jbe 2f",
        "cmp rdi, {execve}", "je 2f",
        "cmp rdi, {sendmmsg}", "je 2f",
        "cmp rdi, {execveat}", "je 2f",
        "cmp rdi, {io_uring_setup}", "jb 3f", "cmp rdi, {io_uring_register}", "jbe 2f",
        "cmp rdi, {pidfd_getfd}", "je 2f",
        "3:",
        "mov rax, rdi", "mov rdi, rsi", "mov rsi, rdx", "mov rdx, rcx",
        "mov r10, r8", "mov r8, r9", "mov r9, [rsp + 8]",
        "syscall",
        "cmp rax, -4095", "jae 4f", "ret",
        "4:", "neg eax", "mov edi, eax", "jmp {failed}",
        "2:", "jmp {hooked}",
        socket = const libc::SYS_socket, get_option = const libc::SYS_getsockopt,
        execve = const libc::SYS_execve, sendmmsg = const libc::SYS_sendmmsg, execveat = const libc::SYS_execveat,
        io_uring_setup = const libc::SYS_io_uring_setup, io_uring_register = const libc::SYS_io_uring_register,
        pidfd_getfd = const libc::SYS_pidfd_getfd, failed = sym failed, hooked = sym hooked
    )
}

extern "C" fn failed(errno: c_int) -> c_long {
    returned(Err(errno)) as c_long
}

extern "C" fn hooked(number: c_long, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> c_long {
    // SAFETY: the program's own memory, as the kernel wants it.
    returned(unsafe { make(number, [a, b, c, d, e, f]) }) as c_long
}

/// # Safety
/// As the call itself says.
unsafe fn make(number: c_long, arguments: Arguments) -> Outcome {
    let [a, b, c, d, e, _] = arguments;
    let (first, second, third) = (a as c_int, b as c_int, c as c_int);
    // SAFETY: each is handed what the kernel would be.
    unsafe {
        match number {
            libc::SYS_socket => socket::make(first, second, third),
            libc::SYS_socketpair => socket::make_pair(first, second, third, d as *mut c_int),
            libc::SYS_connect => connect_socket(first, b as *const c_void, c as socklen_t),
            libc::SYS_bind => bind_socket(first, b as *const c_void, c as socklen_t),
            libc::SYS_listen => listen_socket(first, second),
            libc::SYS_getpeername => peer::peer_name(first, b as *mut c_void, c as *mut socklen_t),
            libc::SYS_getsockopt => peer::option(first, second, third, d as *mut c_void, e as *mut socklen_t),
            libc::SYS_setsockopt => set_option::set(first, second, third, d as *const c_void, e as socklen_t),
            libc::SYS_sendto if is_fast_open(d) => Err(libc::EOPNOTSUPP),
            libc::SYS_sendmsg if is_fast_open(c) => Err(libc::EOPNOTSUPP),
            libc::SYS_sendmmsg if is_fast_open(d) => Err(libc::EOPNOTSUPP),
            libc::SYS_execve => exec::execute(a as *const _, b as *const _, c as *const _),
            libc::SYS_execveat => {
                exec::execute_at(first, b as *const _, c as *const _, d as *const _, e as c_uint)
            }
            // Its operations would meet no hook.
            libc::SYS_io_uring_setup | libc::SYS_io_uring_enter | libc::SYS_io_uring_register => {
                Err(libc::ENOSYS)
            }
            // Sockets of others.
            libc::SYS_pidfd_getfd => Err(libc::EPERM),
            _ => kernel::call(number, arguments),
        }
    }
}

fn is_fast_open(flags: usize) -> bool {
    flags as c_int & libc::MSG_FASTOPEN != 0
}
