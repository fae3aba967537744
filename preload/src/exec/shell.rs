//! `system`, `popen`, `wordexp`: libc starts a shell with the environment that the process has, in which the program may have
//! left nothing of ours.

use core::{
    ffi::{CStr, c_char, c_int, c_void},
    ptr::null_mut,
};
use std::ffi::CString;

use super::{
    environment::{has_ours, with_ours},
    held::{Place, is_held},
    own_environment, strings,
};
use crate::{kernel::returned_int, run::carried};

redhook::hook! {
    unsafe fn system(command: *const c_char) -> c_int => system_in_run {
        if let Err(errno) = prepare() {
            return returned_int(Err(errno));
        }
        // SAFETY: as libc's.
        unsafe { redhook::real!(system)(command) }
    }
}

redhook::hook! {
    unsafe fn popen(command: *const c_char, kind: *const c_char) -> *mut c_void => popen_in_run {
        if let Err(errno) = prepare() {
            returned_int(Err(errno));
            return null_mut();
        }
        // SAFETY: as libc's.
        unsafe { redhook::real!(popen)(command, kind) }
    }
}

redhook::hook! {
    unsafe fn wordexp(words: *const c_char, to: *mut c_void, flags: c_int) -> c_int => wordexp_in_run {
        // WRDE_NOSPACE, for it knows no better word.
        let Ok(()) = prepare() else { return 1 };
        // SAFETY: as libc's.
        unsafe { redhook::real!(wordexp)(words, to, flags) }
    }
}

pub(super) fn find() {
    let _found = (redhook::real!(system), redhook::real!(popen), redhook::real!(wordexp));
}

/// The shell that libc starts.
fn prepare() -> Result<(), c_int> {
    is_held(Place::at(c"/bin/sh".as_ptr()))?;
    put_ours_back();
    Ok(())
}

/// These functions are not for signal handlers, nor for what comes after `vfork`: here memory may be allocated.
fn put_ours_back() {
    let Some(ours) = carried() else { return };
    // SAFETY: the process's own environment, as it stands.
    unsafe {
        if has_ours(own_environment(), &ours) {
            return;
        }
        let full = with_ours(own_environment(), |environment| {
            strings(environment).filter(|string| sets_ours(string)).map(CString::from).collect::<Vec<_>>()
        });
        for string in full {
            let mut parts = string.to_bytes().splitn(2, |byte| *byte == b'=');
            let parts = [parts.next(), parts.next()].map(|part| CString::new(part.unwrap_or_default()));
            if let [Ok(name), Ok(value)] = parts {
                libc::setenv(name.as_ptr(), value.as_ptr(), 1);
            }
        }
    }
}

fn sets_ours(string: &CStr) -> bool {
    [&b"LD_PRELOAD="[..], b"PHANTOM_RUN_SOCKET="].iter().any(|name| string.to_bytes().starts_with(name))
}
