//! Whether the first program of a run will have the library in it. The library itself looks at those that come after it.

use std::{
    env,
    ffi::OsStr,
    fs::File,
    io::Read,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use nix::unistd::{AccessFlags, access};
use phantom_policy::program::{BEGINNING, Program, SCRIPTS, program};

/// What cannot be found or executed is said when it is started.
pub(super) fn is_held(name: &OsStr) -> bool {
    let Some(mut path) = found(name) else { return true };
    for _ in 0..SCRIPTS {
        let mut beginning = Vec::new();
        let Ok(file) = File::open(&path) else { return false };
        if file.take(BEGINNING as u64).read_to_end(&mut beginning).is_err() {
            return true;
        }
        path = match program(&beginning) {
            Program::Held | Program::Nothing => return true,
            Program::NotHeld => return false,
            Program::Script(by) => OsStr::from_bytes(by).into(),
        };
    }
    true
}

/// Where it lies, as a shell finds it.
fn found(name: &OsStr) -> Option<PathBuf> {
    let can_be_executed = |path: &PathBuf| path.is_file() && access(path, AccessFlags::X_OK).is_ok();
    if name.as_bytes().contains(&b'/') {
        return Some(PathBuf::from(name)).filter(can_be_executed);
    }
    let along = env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
    env::split_paths(&along).map(|folder| folder.join(Path::new(name))).find(can_be_executed)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn programs_are_found_along_the_path_and_looked_at() {
        assert!(found("sh".as_ref()).is_some() && found("no-such-program".as_ref()).is_none());
        assert!(is_held("sh".as_ref()) && is_held("no-such-program".as_ref()));
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &[u8]| {
            let path = folder.path().join(name);
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            path
        };
        let of_nobody = file("static", b"\x7fELF\x02\x01\x01 and so on");
        let script = file("script", format!("#!{}\n", of_nobody.display()).as_bytes());
        let by_shell = file("by-shell", b"#!/bin/sh\n");
        assert!(!is_held(of_nobody.as_os_str()) && !is_held(script.as_os_str()));
        assert!(is_held(by_shell.as_os_str()));
    }
}
