//! Where files of this user lie when nobody says otherwise: the folders of the XDG base directory specification, and the one of
//! the machine's own node.

use std::{
    env, fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use nix::unistd::geteuid;

/// The state folder of the node that is a service of the machine, as its unit says.
const SERVICE: &str = "/var/lib/phantom";

/// `$XDG_STATE_HOME` or `~/.local/state`.
pub fn state() -> Option<PathBuf> {
    named("XDG_STATE_HOME").or_else(|| Some(named("HOME")?.join(".local/state")))
}

/// `$XDG_CONFIG_HOME` or `~/.config`.
pub fn configuration() -> Option<PathBuf> {
    named("XDG_CONFIG_HOME").or_else(|| Some(named("HOME")?.join(".config")))
}

/// `$XDG_RUNTIME_DIR`: for what goes when the user logs out.
pub fn runtime() -> Option<PathBuf> {
    named("XDG_RUNTIME_DIR")
}

/// The state folder of the machine's own node, for those who may use it: its user, and root.
pub fn of_service() -> Option<PathBuf> {
    let owner = fs::metadata(SERVICE).ok()?.uid();
    (geteuid().is_root() || geteuid().as_raw() == owner).then(|| Path::new(SERVICE).to_owned())
}

/// A variable that names a folder. The specification says to ignore relative ones.
fn named(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute())
}
