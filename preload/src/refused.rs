//! What libc would do by itself, past all hooks: commands of old that find a host, and go there or ask who it is; names of
//! networks; sockets of other processes. They are refused.

use core::{
    ffi::{c_char, c_int, c_uint, c_void},
    ptr::null_mut,
};

use crate::{
    kernel::returned_int,
    names::{HOST_NOT_FOUND, not_found},
};

type Text = *const c_char;
type Host = *mut *mut c_char;

fn refused() -> c_int {
    returned_int(Err(libc::ENETUNREACH))
}

redhook::hook! {
    unsafe fn rcmd(_host: Host, _port: u16, _as_whom: Text, _whom: Text, _what: Text, _errors: *mut c_int) -> c_int
        => refused_rcmd { refused() }
}

redhook::hook! {
    unsafe fn rcmd_af(
        _host: Host, _port: u16, _as_whom: Text, _whom: Text, _what: Text, _errors: *mut c_int, _family: u16
    ) -> c_int => refused_rcmd_af { refused() }
}

redhook::hook! {
    unsafe fn rexec(_host: Host, _port: c_int, _whom: Text, _word: Text, _what: Text, _errors: *mut c_int) -> c_int
        => refused_rexec { refused() }
}

redhook::hook! {
    unsafe fn rexec_af(
        _host: Host, _port: c_int, _whom: Text, _word: Text, _what: Text, _errors: *mut c_int, _family: u16
    ) -> c_int => refused_rexec_af { refused() }
}

redhook::hook! {
    unsafe fn ruserok(_host: Text, _root: c_int, _whom: Text, _as_whom: Text) -> c_int => refused_ruserok { refused() }
}

redhook::hook! {
    unsafe fn ruserok_af(_host: Text, _root: c_int, _whom: Text, _as_whom: Text, _family: u16) -> c_int
        => refused_ruserok_af { refused() }
}

redhook::hook! {
    unsafe fn iruserok(_address: u32, _root: c_int, _whom: Text, _as_whom: Text) -> c_int => refused_iruserok { refused() }
}

redhook::hook! {
    unsafe fn iruserok_af(_address: *const c_void, _root: c_int, _whom: Text, _as_whom: Text, _family: u16) -> c_int
        => refused_iruserok_af { refused() }
}

redhook::hook! {
    unsafe fn getnetbyname(_name: Text) -> *mut c_void => no_network {
        not_found();
        null_mut()
    }
}

redhook::hook! {
    unsafe fn getnetbyaddr(_network: u32, _family: c_int) -> *mut c_void => no_network_of_number {
        not_found();
        null_mut()
    }
}

redhook::hook! {
    unsafe fn getnetbyname_r(
        _name: Text, _to: *mut c_void, _space: *mut c_char, _size: usize, found: *mut *mut c_void, error: *mut c_int
    ) -> c_int => no_network_told {
        // SAFETY: places of the program, as libc wants them.
        unsafe {
            *found = null_mut();
            *error = HOST_NOT_FOUND;
        }
        0
    }
}

redhook::hook! {
    unsafe fn getnetbyaddr_r(
        _network: u32, _family: c_int, _to: *mut c_void, _space: *mut c_char, _size: usize, found: *mut *mut c_void,
        error: *mut c_int
    ) -> c_int => no_network_of_number_told {
        // SAFETY: places of the program, as libc wants them.
        unsafe {
            *found = null_mut();
            *error = HOST_NOT_FOUND;
        }
        0
    }
}

redhook::hook! {
    unsafe fn pidfd_getfd(_process: c_int, _theirs: c_int, _flags: c_uint) -> c_int => refused_pidfd_getfd {
        returned_int(Err(libc::EPERM))
    }
}
