//! `listen`: the run knows who of it listens.
//!
//! `accept`, `accept4` and `getsockname` need no hook: a socket of the run listens where nobody but the run's visitors can
//! come, who have addresses of their own there, and so do both ends. Nor do `recv`, `recvfrom`, `recvmsg` and `recvmmsg`.
//! A hook would only take from them that a thread which waits in one can be cancelled.

use core::ffi::c_int;

use phantom_policy::{
    call::{Answer, Call},
    socket::{INET, INET6},
};

use crate::{
    kernel::{self, Outcome, returned_int},
    run::{Conversation, refusal},
};

redhook::hook! {
    unsafe fn listen(socket: c_int, backlog: c_int) -> c_int => listen_in_run {
        returned_int(listen_socket(socket, backlog))
    }
}

pub(crate) fn listen_socket(socket: c_int, backlog: c_int) -> Outcome {
    if !matches!(kernel::family(socket)?, INET | INET6) {
        // SAFETY: numbers only.
        return unsafe { kernel::call(libc::SYS_listen, [socket as usize, backlog as usize, 0, 0, 0, 0]) };
    }
    let conversation = Conversation::begin()?;
    conversation.say(&Call::Listen { backlog }, Some(socket))?;
    match conversation.hear_whatever_comes(&mut [0; 64])? {
        Answer::Done => Ok(0),
        refused => Err(refusal(refused)),
    }
}
