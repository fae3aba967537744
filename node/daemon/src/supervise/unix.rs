//! Connections to sockets of this machine's file system. They pass, but for those of resolvers, which ask outside.

use std::{
    ffi::OsStr,
    fs,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, open},
    sys::stat::Mode,
};
use phantom_policy::socket;

use super::raw;

/// Whoever listens here asks name servers of the Internet for others.
const RESOLVERS: [&str; 8] = [
    "/run/systemd/resolve",
    "/run/nscd",
    "/var/run/nscd",
    "/run/avahi-daemon",
    "/run/nslcd",
    "/run/samba/winbindd",
    "/var/lib/sss",
    "/run/dnsmasq",
];

/// Connects a program's socket to an address of `AF_UNIX`; not to one of `closed`.
pub(super) fn connect(
    thread: i32,
    program: &OwnedFd,
    address: &[u8],
    closed: &[PathBuf],
) -> Result<(), Errno> {
    // We connect with rights of our own, which must not be more than the program has.
    if rights_of(&thread.to_string())? != rights_of("self")? {
        return Err(Errno::EACCES);
    }
    let family = address.first_chunk::<2>().map_or(0, |family| u16::from_ne_bytes(*family));
    let path = address.get(2..).unwrap_or_default();
    if i32::from(family) != socket::UNIX || path.first().is_none_or(|first| *first == 0) {
        // Without a path it is a name of this machine's kernel; of another family, the kernel knows what is wrong with it.
        return raw::connect_to(program.as_fd(), address);
    }
    let path = path.split(|byte| *byte == 0).next().unwrap_or_default();
    // Opened once, so that it is the same that is looked at and connected to.
    let found = open(
        &as_seen_by(thread, Path::new(OsStr::from_bytes(path))),
        OFlag::O_PATH | OFlag::O_CLOEXEC,
        Mode::empty(),
    )?;
    let place = format!("/proc/self/fd/{}", found.as_raw_fd());
    let is_closed = closed.iter().any(|closed| is_same(&place, closed));
    if is_closed || fs::read_link(&place).is_ok_and(|true_path| is_resolver(&true_path)) {
        return Err(Errno::ECONNREFUSED);
    }
    let mut address = socket::UNIX.to_ne_bytes()[..2].to_vec();
    address.extend(place.as_bytes());
    address.push(0);
    raw::connect_to(program.as_fd(), &address)
}

/// A path of a program that may have another root and another working folder.
fn as_seen_by(thread: i32, path: &Path) -> PathBuf {
    match path.strip_prefix("/") {
        Ok(path) => PathBuf::from(format!("/proc/{thread}/root")).join(path),
        Err(_) => PathBuf::from(format!("/proc/{thread}/cwd")).join(path),
    }
}

fn is_same(opened: &str, path: &Path) -> bool {
    let number = |file: fs::Metadata| (file.dev(), file.ino());
    match (fs::metadata(opened), fs::metadata(path)) {
        (Ok(one), Ok(other)) => number(one) == number(other),
        _ => false,
    }
}

/// As whom a process acts, and in which groups.
fn rights_of(process: &str) -> Result<Vec<String>, Errno> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).map_err(|_| Errno::EACCES)?;
    let says_so =
        |line: &&str| ["Uid:", "Gid:", "Groups:", "CapEff:"].iter().any(|what| line.starts_with(what));
    Ok(status.lines().filter(says_so).map(str::to_owned).collect())
}

fn is_resolver(path: &Path) -> bool {
    RESOLVERS.iter().any(|resolver| path.starts_with(resolver))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_of_resolvers_are_known_by_where_they_are() {
        for path in ["/run/systemd/resolve/io.systemd.Resolve", "/run/nscd/socket", "/var/run/nscd/socket"] {
            assert!(is_resolver(Path::new(path)), "{path}");
        }
        for path in ["/run/user/0/bus", "/tmp/.X11-unix/X0", "/run/systemd/resolve2/x"] {
            assert!(!is_resolver(Path::new(path)), "{path}");
        }
    }
}
