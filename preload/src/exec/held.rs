//! Programs into which we are not loaded are not started (`phantom_policy::program`): they would go past the run.
//!
//! The file is looked at before the kernel executes it. Whoever exchanges it in between is no program that does not know of us.

use core::ffi::{CStr, c_char, c_int};

use phantom_policy::program::{BEGINNING, Program, SCRIPTS, program};

use super::{own_environment, strings};
use crate::{
    kernel::{self, complain},
    run,
};

/// No path is longer for the kernel.
const PATH: usize = 4_096;

/// Where a program lies, as `execveat` takes it.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) folder: c_int,
    pub(super) path: *const c_char,
}

impl Place {
    pub(super) fn at(path: *const c_char) -> Place {
        Place { folder: libc::AT_FDCWD, path }
    }

    /// A file that is open.
    pub(super) fn open(file: c_int, space: &mut [u8; 32]) -> Place {
        let mut at = 14;
        space[..at].copy_from_slice(b"/proc/self/fd/");
        let mut digits = [0; 10];
        let (mut rest, mut count) = (file.unsigned_abs(), 0);
        while count == 0 || rest > 0 {
            digits[count] = b'0' + (rest % 10) as u8;
            (rest, count) = (rest / 10, count + 1);
        }
        for digit in digits[..count].iter().rev() {
            space[at] = *digit;
            at += 1;
        }
        space[at] = 0;
        Place::at(space.as_ptr().cast())
    }
}

/// Says whether it may be started; if not, with what error.
pub(super) fn is_held(place: Place) -> Result<(), c_int> {
    if run::begin().is_none() {
        // Then nothing is held back, either.
        return Ok(());
    }
    if looks_held(place) {
        return Ok(());
    }
    complain(
        b"phantom: a program was not started that the library cannot be loaded into: it is static, in Go, or of another kind.\n",
    );
    Err(libc::EACCES)
}

/// What cannot be found or executed is the kernel's to refuse.
fn looks_held(place: Place) -> bool {
    let mut space = [0; BEGINNING];
    let mut interpreter = [0; 256];
    let mut at = place;
    for _ in 0..SCRIPTS {
        let read = match kernel::read_program(at.folder, at.path, &mut space) {
            Ok(read) => read,
            // What may be executed, but not be looked at.
            Err(libc::EACCES | libc::EPERM) => return !kernel::is_executable(at.path),
            Err(_) => return true,
        };
        match program(space.get(..read).unwrap_or_default()) {
            Program::Held | Program::Nothing => return true,
            Program::NotHeld => return false,
            Program::Script(by) => {
                // The kernel takes no longer one.
                let Some(to) = interpreter.get_mut(..by.len() + 1) else { return true };
                if let Some((end, path)) = to.split_last_mut() {
                    path.copy_from_slice(by);
                    *end = 0;
                }
                at = Place::at(interpreter.as_ptr().cast());
            }
        }
    }
    true
}

/// The same for a program that is looked for along `PATH`, where libc will find it.
///
/// # Safety
/// It is a string.
pub(super) unsafe fn is_held_along_path(file: *const c_char) -> Result<(), c_int> {
    // SAFETY: as said.
    let name = unsafe { CStr::from_ptr(file) }.to_bytes();
    if name.contains(&b'/') || name.is_empty() {
        return is_held(Place::at(file));
    }
    // SAFETY: the process's own environment.
    let along =
        unsafe { strings(own_environment()) }.find_map(|string| string.to_bytes().strip_prefix(b"PATH="));
    let mut space = [0; PATH];
    for folder in along.unwrap_or(b"/bin:/usr/bin").split(|byte| *byte == b':') {
        let folder = if folder.is_empty() { b"." } else { folder };
        let length = folder.len() + 1 + name.len();
        let Some(to) = space.get_mut(..length + 1) else { continue };
        let (to_folder, to_name) = to.split_at_mut(folder.len());
        to_folder.copy_from_slice(folder);
        if let [slash, to_name @ .., end] = to_name {
            *slash = b'/';
            to_name.copy_from_slice(name);
            *end = 0;
        }
        if kernel::is_executable(space.as_ptr().cast()) {
            return is_held(Place::at(space.as_ptr().cast()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{ffi::CString, fs, os::unix::fs::PermissionsExt, path::PathBuf};

    use super::*;

    fn file(name: &str, content: &[u8]) -> PathBuf {
        let path = std::env::temp_dir().join(format!("phantom-held-{}-{name}", std::process::id()));
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn is_held_at(path: &str) -> bool {
        let path = CString::new(path).unwrap();
        looks_held(Place::at(path.as_ptr()))
    }

    #[test]
    fn programs_and_scripts_are_held_if_the_library_is_loaded() {
        let own = std::env::current_exe().unwrap();
        assert!(is_held_at(own.to_str().unwrap()) && is_held_at("/proc/self/exe"));
        assert!(is_held_at("/no/such/program") && is_held_at("/etc/passwd"), "the kernel says what is wrong");
        let mut of_another_kind = fs::read(own).unwrap();
        of_another_kind[4] = 1;
        let other = file("other", &of_another_kind);
        assert!(!is_held_at(other.to_str().unwrap()));
        for (line, held) in [(format!("#!{}\n", other.display()), false), ("#!/bin/sh\n".to_owned(), true)] {
            let script = file("script", line.as_bytes());
            let script_of_script = file("script-2", format!("#! {} -x", script.display()).as_bytes());
            assert_eq!(is_held_at(script.to_str().unwrap()), held);
            assert_eq!(is_held_at(script_of_script.to_str().unwrap()), held);
            fs::remove_file(script).unwrap();
            fs::remove_file(script_of_script).unwrap();
        }
        fs::remove_file(other).unwrap();
    }

    #[test]
    fn a_file_that_is_open_has_a_path() {
        for (number, path) in
            [(0, c"/proc/self/fd/0"), (17, c"/proc/self/fd/17"), (i32::MAX, c"/proc/self/fd/2147483647")]
        {
            let mut space = [0xff; 32];
            let place = Place::open(number, &mut space);
            // SAFETY: it ends with a zero.
            assert_eq!(unsafe { CStr::from_ptr(place.path) }, path);
        }
    }
}
