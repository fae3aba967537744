//! Programs that are started: whatever environment they are given, ours is in it.
//!
//! - [`environment`]: how it comes in. [`held`]: whether we are loaded. [`execute`]: the calls with an environment as an argument, and those without.
//! - [`list`]: those with arguments in a row (`execl`). [`spawn`]: `posix_spawn`. [`shell`]: `system`, `popen`, `wordexp`.

mod environment;
mod held;
mod list;
mod shell;
mod spawn;

use core::ffi::{CStr, c_char, c_int, c_uint};

use environment::with_ours;
use held::{Place, is_held, is_held_along_path};

use crate::kernel::{self, Outcome, returned_int};

/// Arguments, or an environment: ends with a null pointer.
pub(crate) type Row = *const *const c_char;

unsafe extern "C" {
    static environ: Row;
}

/// The environment of this process.
pub(crate) fn own_environment() -> Row {
    // SAFETY: a pointer is read; libc does it the same way.
    unsafe { (&raw const environ).read() }
}

/// Looks libc's own up.
pub(crate) fn find() {
    let _found = redhook::real!(execvpe);
    spawn::find();
    shell::find();
}

redhook::hook! {
    unsafe fn execve(path: *const c_char, arguments: Row, environment: Row) -> c_int => execve_in_run {
        // SAFETY: as libc's.
        returned_int(unsafe { execute(path, arguments, environment) })
    }
}

redhook::hook! {
    unsafe fn execv(path: *const c_char, arguments: Row) -> c_int => execv_in_run {
        // SAFETY: as libc's.
        returned_int(unsafe { execute(path, arguments, own_environment()) })
    }
}

redhook::hook! {
    unsafe fn execvpe(file: *const c_char, arguments: Row, environment: Row) -> c_int => execvpe_in_run {
        // SAFETY: as libc's, which looks for the file along PATH and does not come back to us.
        unsafe { search(file, arguments, environment) }
    }
}

redhook::hook! {
    unsafe fn execvp(file: *const c_char, arguments: Row) -> c_int => execvp_in_run {
        // SAFETY: as libc's.
        unsafe { search(file, arguments, own_environment()) }
    }
}

redhook::hook! {
    unsafe fn fexecve(file: c_int, arguments: Row, environment: Row) -> c_int => fexecve_in_run {
        // SAFETY: as libc's.
        returned_int(unsafe { execute_at(file, c"".as_ptr(), arguments, environment, libc::AT_EMPTY_PATH as c_uint) })
    }
}

redhook::hook! {
    unsafe fn execveat(
        folder: c_int, path: *const c_char, arguments: Row, environment: Row, flags: c_int
    ) -> c_int => execveat_in_run {
        // SAFETY: as libc's.
        returned_int(unsafe { execute_at(folder, path, arguments, environment, flags as c_uint) })
    }
}

/// # Safety
/// As `execve`.
pub(crate) unsafe fn execute(path: *const c_char, arguments: Row, environment: Row) -> Outcome {
    is_held(Place::at(path))?;
    // SAFETY: as said.
    unsafe {
        with_ours(environment, |environment| {
            let call = [path as usize, arguments as usize, environment as usize, 0, 0, 0];
            kernel::call(libc::SYS_execve, call)
        })
    }
}

/// # Safety
/// As `execveat`.
pub(crate) unsafe fn execute_at(
    folder: c_int,
    path: *const c_char,
    arguments: Row,
    environment: Row,
    flags: c_uint,
) -> Outcome {
    let mut space = [0; 32];
    let mut first = [0];
    kernel::copy_from(path.cast(), &mut first)?;
    let is_open = flags & libc::AT_EMPTY_PATH as c_uint != 0 && first == [0];
    is_held(if is_open { Place::open(folder, &mut space) } else { Place { folder, path } })?;
    // SAFETY: as said.
    unsafe {
        with_ours(environment, |environment| {
            let (arguments, environment) = (arguments as usize, environment as usize);
            let call = [folder as usize, path as usize, arguments, environment, flags as usize, 0];
            kernel::call(libc::SYS_execveat, call)
        })
    }
}

/// # Safety
/// As `execvpe`.
unsafe fn search(file: *const c_char, arguments: Row, environment: Row) -> c_int {
    let own = redhook::real!(execvpe);
    // SAFETY: as said.
    unsafe {
        if let Err(errno) = is_held_along_path(file) {
            return returned_int(Err(errno));
        }
        with_ours(environment, |environment| own(file, arguments, environment))
    }
}

/// The strings of a row.
///
/// # Safety
/// It ends with a null pointer, or is one, and each before that leads to a string.
unsafe fn strings<'a>(row: Row) -> impl Iterator<Item = &'a CStr> {
    let mut at = row;
    core::iter::from_fn(move || {
        if at.is_null() {
            return None;
        }
        // SAFETY: we have not come to its end yet.
        let string = unsafe { *at };
        if string.is_null() {
            return None;
        }
        // SAFETY: its end is not behind us.
        at = unsafe { at.add(1) };
        // SAFETY: as said.
        Some(unsafe { CStr::from_ptr(string) })
    })
}
