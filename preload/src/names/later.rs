//! `getaddrinfo_a`: several at once, while the program goes on.
//!
//! What is asked here is on this machine and answers at once. So all is answered before the call returns, and the program is
//! told at once, too; libc's `gai_error`, `gai_suspend` and `gai_cancel` find nothing that is not done.

use core::{
    ffi::{c_char, c_int, c_void},
    ptr::{null, null_mut},
};

use libc::{addrinfo, pthread_t, sigevent, sigval};

use super::addrinfo::look_up;
use crate::kernel;

/// One request, as glibc has it.
#[repr(C)]
pub struct Request {
    name: *const c_char,
    service: *const c_char,
    hints: *const addrinfo,
    found: *mut addrinfo,
    outcome: c_int,
    reserved: [c_int; 5],
}

const GAI_WAIT: c_int = 0;
const GAI_NOWAIT: c_int = 1;
/// `SI_ASYNCNL`.
const NAMES_ARE_THERE: c_int = -60;

redhook::hook! {
    unsafe fn getaddrinfo_a(
        mode: c_int, requests: *const *mut Request, count: c_int, tell: *mut sigevent
    ) -> c_int => addresses_at_once {
        if ![GAI_WAIT, GAI_NOWAIT].contains(&mode) {
            return kernel::returned_int(Err(libc::EINVAL)).min(libc::EAI_SYSTEM);
        }
        for at in 0..usize::try_from(count).unwrap_or(0) {
            // SAFETY: so many requests of the program, some of which may be none.
            unsafe {
                if let Some(request) = (*requests.add(at)).as_mut() {
                    request.outcome = look_up(request.name, request.service, request.hints, &raw mut request.found);
                }
            }
        }
        if mode == GAI_NOWAIT {
            // SAFETY: the program's, or none.
            unsafe { notify(tell) };
        }
        0
    }
}

/// # Safety
/// As libc wants it.
unsafe fn notify(how: *mut sigevent) {
    // SAFETY: as said.
    let Some(how) = (unsafe { how.as_ref() }) else { return };
    match how.sigev_notify {
        libc::SIGEV_SIGNAL => send_signal(how.sigev_signo, how.sigev_value),
        libc::SIGEV_THREAD => {
            // SAFETY: as said.
            unsafe { start_thread(how) };
        }
        _ => {}
    }
}

/// `siginfo_t`, as far as it is about a signal that somebody sends.
#[repr(C)]
struct Signal {
    number: c_int,
    errno: c_int,
    code: c_int,
    padding: c_int,
    process: c_int,
    user: libc::uid_t,
    value: sigval,
    rest: [u64; 12],
}

fn send_signal(number: c_int, value: sigval) {
    // SAFETY: they have no arguments.
    let (process, user) = unsafe { (libc::getpid(), libc::getuid()) };
    let code = NAMES_ARE_THERE;
    let signal = Signal { number, errno: 0, code, padding: 0, process, user, value, rest: [0; 12] };
    let arguments = [process as usize, number as usize, &raw const signal as usize, 0, 0, 0];
    // SAFETY: the kernel reads one structure, which is as long as its own.
    let _if_it_is_a_signal = unsafe { kernel::call(libc::SYS_rt_sigqueueinfo, arguments) };
}

const _: () = assert!(size_of::<Signal>() == size_of::<libc::siginfo_t>());

/// What `sigevent` has behind its first fields: a function and attributes for its thread.
#[repr(C)]
struct OfThread {
    value: sigval,
    signal: c_int,
    notify: c_int,
    function: Option<extern "C" fn(sigval)>,
    attributes: *const libc::pthread_attr_t,
}

struct Told {
    function: extern "C" fn(sigval),
    value: sigval,
}

/// # Safety
/// As libc wants it.
unsafe fn start_thread(how: &sigevent) {
    // SAFETY: glibc's structure has these fields.
    let OfThread { value, function, attributes, .. } = unsafe { (&raw const *how).cast::<OfThread>().read() };
    let Some(function) = function else { return };
    extern "C" fn tell(told: *mut c_void) -> *mut c_void {
        // SAFETY: it is the box that was made for this thread.
        let told = unsafe { Box::from_raw(told.cast::<Told>()) };
        (told.function)(told.value);
        null_mut()
    }
    let told = Box::into_raw(Box::new(Told { function, value }));
    let mut thread: pthread_t = 0;
    // SAFETY: attributes are the program's, or none; the box is the thread's from now on.
    unsafe {
        let attributes = if attributes.is_null() { null() } else { attributes };
        if libc::pthread_create(&raw mut thread, attributes, tell, told.cast()) == 0 {
            libc::pthread_detach(thread);
        } else {
            drop(Box::from_raw(told));
        }
    }
}
