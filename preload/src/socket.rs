//! `socket`, `socketpair`: a socket is made by the run, where it can lead to nobody but the run.

use core::ffi::c_int;

use phantom_policy::{
    call::Call,
    socket::{UNIX, is_harmless, is_of_run},
};

use crate::{
    kernel::{self, Outcome, returned_int},
    run::Conversation,
};

redhook::hook! {
    unsafe fn socket(family: c_int, kind: c_int, protocol: c_int) -> c_int => socket_of_run {
        returned_int(make(family, kind, protocol))
    }
}

redhook::hook! {
    unsafe fn socketpair(family: c_int, kind: c_int, protocol: c_int, pair: *mut c_int) -> c_int => pair_of_run {
        // SAFETY: the kernel says EFAULT where the program gave no memory.
        returned_int(unsafe { make_pair(family, kind, protocol, pair) })
    }
}

pub(crate) fn make(family: c_int, kind: c_int, protocol: c_int) -> Outcome {
    if !is_of_run(family, protocol) && !is_harmless(family) {
        return Err(libc::EAFNOSUPPORT);
    }
    if !is_of_run(family, protocol) {
        // SAFETY: numbers only.
        return unsafe {
            kernel::call(libc::SYS_socket, [family as usize, kind as usize, protocol as usize, 0, 0, 0])
        };
    }
    let conversation = Conversation::begin()?;
    conversation.say(&Call::Socket { family, kind, protocol }, None)?;
    conversation.become_descriptor(kind & libc::SOCK_CLOEXEC != 0).map(|descriptor| descriptor as usize)
}

/// # Safety
/// As the system call: none.
pub(crate) unsafe fn make_pair(family: c_int, kind: c_int, protocol: c_int, pair: *mut c_int) -> Outcome {
    if family != UNIX {
        return Err(libc::EAFNOSUPPORT);
    }
    let arguments = [family as usize, kind as usize, protocol as usize, pair as usize, 0, 0];
    // SAFETY: the kernel says EFAULT where the program gave no memory.
    unsafe { kernel::call(libc::SYS_socketpair, arguments) }
}
