//! `posix_spawn`, `posix_spawnp`.

use core::ffi::{c_char, c_int, c_void};

use super::{
    Row,
    environment::with_ours,
    held::{Place, is_held, is_held_along_path},
};

redhook::hook! {
    unsafe fn posix_spawn(
        process: *mut libc::pid_t, path: *const c_char, actions: *const c_void, attributes: *const c_void,
        arguments: Row, environment: Row
    ) -> c_int => spawn_in_run {
        let own = redhook::real!(posix_spawn);
        // SAFETY: as libc's, with another environment.
        unsafe {
            if let Err(errno) = is_held(Place::at(path)) {
                return errno;
            }
            with_ours(environment, |environment| own(process, path, actions, attributes, arguments, environment))
        }
    }
}

redhook::hook! {
    unsafe fn posix_spawnp(
        process: *mut libc::pid_t, file: *const c_char, actions: *const c_void, attributes: *const c_void,
        arguments: Row, environment: Row
    ) -> c_int => spawn_along_path_in_run {
        let own = redhook::real!(posix_spawnp);
        // SAFETY: as libc's, with another environment.
        unsafe {
            if let Err(errno) = is_held_along_path(file) {
                return errno;
            }
            with_ours(environment, |environment| own(process, file, actions, attributes, arguments, environment))
        }
    }
}

pub(super) fn find() {
    let _found = (redhook::real!(posix_spawn), redhook::real!(posix_spawnp));
}
