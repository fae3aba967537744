//! `connect`: the run connects the program's own socket.
//!
//! A signal interrupts who waits; the run goes on connecting, as the kernel does, and a second call waits for the same end.
//! Unlike libc's, this one is no point at which a thread can be cancelled: a thread that is, ends at its next one.

use core::ffi::{c_int, c_void};

use libc::{sockaddr, socklen_t};
use phantom_policy::{
    call::{ADDRESS, Answer, CONNECT},
    socket::{INET, INET6, UNIX},
};

use crate::{
    kernel::{self, Outcome, returned_int},
    run::{Conversation, refusal},
};

redhook::hook! {
    unsafe fn connect(socket: c_int, to: *const sockaddr, length: socklen_t) -> c_int => connect_by_run {
        returned_int(connect_socket(socket, to.cast(), length))
    }
}

// Another name of it, which glibc has always had.
redhook::hook! {
    unsafe fn __connect(socket: c_int, to: *const sockaddr, length: socklen_t) -> c_int => connect_by_other_name {
        returned_int(connect_socket(socket, to.cast(), length))
    }
}

pub(crate) fn connect_socket(socket: c_int, to: *const c_void, length: socklen_t) -> Outcome {
    if !matches!(kernel::family(socket)?, UNIX | INET | INET6) {
        // SAFETY: the kernel says EFAULT where the program gave no memory.
        return unsafe {
            kernel::call(libc::SYS_connect, [socket as usize, to as usize, length as usize, 0, 0, 0])
        };
    }
    let length = length as usize;
    if !(2..=ADDRESS).contains(&length) {
        return Err(libc::EINVAL);
    }
    let conversation = Conversation::begin()?;
    let address = libc::iovec { iov_base: to.cast_mut(), iov_len: length };
    conversation.be_as_patient_as(socket);
    conversation.say_parts(&mut [kernel::part(&[CONNECT]), address], Some(socket))?;
    match conversation.hear(&mut [0; 64]) {
        Ok(Answer::Done) => Ok(0),
        Ok(refused) => Err(refusal(refused)),
        // Its own patience is at an end: it goes on without the program.
        Err(libc::EAGAIN) => Err(libc::EINPROGRESS),
        Err(errno) => Err(errno),
    }
}
