//! What can be said about a program before it is started: whether it can be what it is under the seal.
//!
//! A sealed program never gains rights by what is written in its file (`PR_SET_NO_NEW_PRIVS`), and one of 32 bits makes calls
//! that the seal cannot judge. The kernel would start the one and end the other at its first call; a sentence is better.

use std::{
    env,
    ffi::{CString, OsStr},
    fmt,
    fs::{self, File},
    io::Read,
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use nix::{
    sys::statvfs::{FsFlags, statvfs},
    unistd::{AccessFlags, access, getegid, geteuid},
};
use phantom_policy::program as policy;

/// Interpreters of interpreters: the kernel follows no more.
const DEEPEST: usize = 5;
/// The kernel reads no more of a file to learn what it is.
const BEGINNING: usize = 256;

const SET_USER: u32 = 0o4000;
const SET_GROUP: u32 = 0o2000;
const GROUP_MAY_EXECUTE: u32 = 0o10;

/// Why a program is not started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unfit {
    program: PathBuf,
    why: Why,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    SetUser,
    SetGroup,
    Capabilities,
    Bits32,
    NotHeld,
}

impl fmt::Display for Unfit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.why {
            Why::NotHeld => {
                return write!(
                    out,
                    "{} is static, in Go, or for another libc than glibc: the library would not hold it. \
                     Run it without --preload-only.",
                    self.program.display()
                );
            }
            Why::Bits32 => {
                return write!(
                    out,
                    "{} is a program of 32 bits, whose calls the seal does not know. Run one of 64 bits.",
                    self.program.display()
                );
            }
            Why::SetUser => "runs as another user than who starts it (set-uid)",
            Why::SetGroup => "runs in another group than who starts it (set-gid)",
            Why::Capabilities => "has rights that who starts it has not (capabilities of its file)",
        };
        write!(
            out,
            "{} {what}. Under the seal nothing gains rights, so it would fail half-way. Run what needs no such rights, or \
             let somebody run it who has them.",
            self.program.display()
        )
    }
}

/// Looks at the program that would be started, and if that is a script, at who reads it. What cannot be looked at is left to
/// the kernel, which says why. Without the seal, the library alone holds it.
pub(super) fn check(name: &OsStr, by_library: bool) -> Result<(), Unfit> {
    let Some(mut program) = find(name) else { return Ok(()) };
    for _ in 0..DEEPEST {
        match kind(&beginning(&program, BEGINNING)) {
            Kind::Script(interpreter) => program = interpreter,
            Kind::Bits32 => return Err(Unfit { program, why: Why::Bits32 }),
            // Who may not read it may still execute it.
            Kind::Other => {
                let not_held = || (by_library && is_not_held(&program)).then_some(Why::NotHeld);
                return match gains(&program).or_else(not_held) {
                    Some(why) => Err(Unfit { program, why }),
                    None => Ok(()),
                };
            }
        }
    }
    Ok(())
}

/// Where the kernel will find it.
fn find(name: &OsStr) -> Option<PathBuf> {
    if name.as_bytes().contains(&b'/') {
        return Some(name.into());
    }
    let path = env::var_os("PATH")?;
    let is_executable = |place: &PathBuf| place.is_file() && access(place, AccessFlags::X_OK).is_ok();
    env::split_paths(&path).map(|folder| folder.join(name)).find(is_executable)
}

/// Whether the library would not be loaded into it. Of who may not be read, nobody knows.
fn is_not_held(program: &Path) -> bool {
    let beginning = beginning(program, policy::BEGINNING);
    program.is_file() && (beginning.is_empty() || policy::program(&beginning) == policy::Program::NotHeld)
}

fn beginning(program: &Path, most: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Not a pipe, which would wait for somebody to write.
    if program.is_file()
        && let Ok(file) = File::open(program)
    {
        let _what_was_read_counts = file.take(most as u64).read_to_end(&mut bytes);
    }
    bytes
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Script(PathBuf),
    Bits32,
    Other,
}

/// By how a file begins.
fn kind(bytes: &[u8]) -> Kind {
    const CLASS_32: u8 = 1;
    const I386: [u8; 2] = 3_u16.to_le_bytes();
    const X86_64: [u8; 2] = 62_u16.to_le_bytes();
    if let Some(line) = bytes.strip_prefix(b"#!") {
        let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii();
        let interpreter = line.split(|byte| matches!(byte, b' ' | b'\t')).next().unwrap_or_default();
        return Kind::Script(OsStr::from_bytes(interpreter).into());
    }
    let machine = bytes.get(18..20);
    let is_of_this_machine = machine == Some(&I386) || machine == Some(&X86_64);
    // Those of other machines run in an emulator, which has 64 bits.
    match bytes {
        [0x7f, b'E', b'L', b'F', CLASS_32, ..] if is_of_this_machine => Kind::Bits32,
        _ => Kind::Other,
    }
}

/// What the program's file would give it, if who starts it has it not.
fn gains(program: &Path) -> Option<Why> {
    let file = fs::metadata(program).ok()?;
    // There, files give nothing to anybody.
    if statvfs(program).is_ok_and(|place| place.flags().contains(FsFlags::ST_NOSUID)) {
        return None;
    }
    let (mode, user) = (file.permissions().mode(), geteuid());
    if mode & SET_USER != 0 && file.uid() != user.as_raw() {
        return Some(Why::SetUser);
    }
    let sets_group = mode & (SET_GROUP | GROUP_MAY_EXECUTE) == SET_GROUP | GROUP_MAY_EXECUTE;
    if sets_group && file.gid() != getegid().as_raw() {
        return Some(Why::SetGroup);
    }
    (!user.is_root() && has_capabilities(program)).then_some(Why::Capabilities)
}

#[allow(unsafe_code)]
fn has_capabilities(program: &Path) -> bool {
    let Ok(program) = CString::new(program.as_os_str().as_bytes()) else { return false };
    // SAFETY: both names end with zero; without a place for it, the kernel tells the length of the value.
    let length =
        unsafe { libc::getxattr(program.as_ptr(), c"security.capability".as_ptr(), std::ptr::null_mut(), 0) };
    length > 0
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::chown;

    use super::*;

    fn elf(class: u8, machine: u16) -> Vec<u8> {
        let mut bytes = vec![0x7f, b'E', b'L', b'F', class];
        bytes.resize(18, 0);
        bytes.extend(machine.to_le_bytes());
        bytes
    }

    fn file(folder: &Path, name: &str, content: &[u8], mode: u32) -> PathBuf {
        let place = folder.join(name);
        fs::write(&place, content).unwrap();
        fs::set_permissions(&place, fs::Permissions::from_mode(mode)).unwrap();
        place
    }

    #[test]
    fn programs_of_32_bits_are_known_by_their_head() {
        let (i386, arm, x86_64) = (3, 40, 62);
        assert_eq!(kind(&elf(1, i386)), Kind::Bits32);
        assert_eq!(kind(&elf(1, x86_64)), Kind::Bits32, "x32");
        for other in [elf(2, x86_64), elf(1, arm), elf(1, i386)[..19].to_vec(), Vec::new(), b"#".to_vec()] {
            assert_eq!(kind(&other), Kind::Other, "{other:?}");
        }
        assert_eq!(check(OsStr::new("/proc/self/exe"), false), Ok(()));
    }

    #[test]
    fn scripts_are_what_reads_them_is() {
        let folder = tempfile::tempdir().unwrap();
        let old = file(folder.path(), "old", &elf(1, 3), 0o755);
        let script = format!("#! \t{} -x\nmore\n", old.display());
        let script = file(folder.path(), "script", script.as_bytes(), 0o755);
        let outer = file(folder.path(), "outer", format!("#!{}", script.display()).as_bytes(), 0o755);
        assert_eq!(check(outer.as_os_str(), false), Err(Unfit { program: old, why: Why::Bits32 }));
        let endless = folder.path().join("endless");
        file(folder.path(), "endless", format!("#!{}\n", endless.display()).as_bytes(), 0o755);
        assert_eq!(check(endless.as_os_str(), false), Ok(()), "the kernel says what is wrong with it");
    }

    #[test]
    fn rights_that_one_has_already_are_not_gained() {
        let folder = tempfile::tempdir().unwrap();
        let own = file(folder.path(), "own", &elf(2, 62), 0o6755);
        assert_eq!(check(own.as_os_str(), false), Ok(()));
        if geteuid().is_root() {
            let theirs = file(folder.path(), "theirs", &elf(2, 62), 0o755);
            chown(&theirs, Some(65_534), None).unwrap();
            assert_eq!(check(theirs.as_os_str(), false), Ok(()), "another's, without the mark");
            fs::set_permissions(&theirs, fs::Permissions::from_mode(0o4755)).unwrap();
            let unfit = check(theirs.as_os_str(), false).unwrap_err();
            assert!(unfit.to_string().contains("set-uid"), "{unfit}");
            chown(&theirs, Some(0), Some(65_534)).unwrap();
            fs::set_permissions(&theirs, fs::Permissions::from_mode(0o2755)).unwrap();
            assert_eq!(check(theirs.as_os_str(), false).unwrap_err().why, Why::SetGroup);
        }
    }

    #[test]
    fn what_the_library_is_not_loaded_into_is_only_for_the_seal() {
        let folder = tempfile::tempdir().unwrap();
        let alone = file(folder.path(), "alone", &elf(2, 62), 0o755);
        let script = file(folder.path(), "script", format!("#!{}\n", alone.display()).as_bytes(), 0o755);
        assert_eq!(check(script.as_os_str(), false), Ok(()));
        let unfit = check(script.as_os_str(), true).unwrap_err();
        assert_eq!(unfit, Unfit { program: alone, why: Why::NotHeld });
        assert_eq!(check(OsStr::new("sh"), true), Ok(()));
    }

    #[test]
    fn what_is_not_there_is_left_to_the_kernel() {
        for name in ["no-such-program", "/no/such/program", "/proc", ""] {
            assert_eq!(check(OsStr::new(name), false), Ok(()), "{name}");
            assert_eq!(check(OsStr::new(name), true), Ok(()), "{name}");
        }
    }
}
