//! What of this machine decides how its programs resolve names. Only read, never changed.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Nothing that is read here is longer.
const LONGEST: usize = 1 << 20;

/// What was found. Files that are not there are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Machine {
    pub(super) resolv_conf: String,
    pub(super) nsswitch: String,
    /// All configuration of NetworkManager, in the order in which it counts.
    pub(super) network_manager: String,
    /// The names of all processes, cut to 15 characters as the kernel does.
    pub(super) processes: BTreeSet<String>,
    /// The version of systemd.
    pub(super) systemd: Option<u32>,
    /// Which of the files that we propose are there, and what they say.
    pub(super) ours: Vec<(PathBuf, String)>,
}

impl Machine {
    /// Reads the machine whose files are below `root`.
    pub(super) fn read(root: &Path, proposed: &[&str]) -> Machine {
        let text = |file: &str| text_of(&root.join(file.trim_start_matches('/')));
        let mut network_manager = text("etc/NetworkManager/NetworkManager.conf");
        for file in files_in(&root.join("etc/NetworkManager/conf.d")) {
            network_manager = network_manager + "\n" + &text_of(&file);
        }
        let processes = files_in(&root.join("proc")).into_iter().map(|folder| text_of(&folder.join("comm")));
        let ours = proposed.iter().map(|file| (PathBuf::from(file), text(file)));
        Machine {
            resolv_conf: text("etc/resolv.conf"),
            nsswitch: text("etc/nsswitch.conf"),
            network_manager,
            processes: processes.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect(),
            systemd: None,
            ours: ours.filter(|(_, text)| !text.is_empty()).collect(),
        }
    }

    /// Asks systemd for its version.
    pub(super) fn with_systemd(self) -> Machine {
        let said = Command::new("systemctl").arg("--version").output();
        let said = said.map(|said| String::from_utf8_lossy(&said.stdout).into_owned()).unwrap_or_default();
        Machine { systemd: systemd_version(&said), ..self }
    }
}

/// Of "systemd 257 (257.7-1)".
fn systemd_version(said: &str) -> Option<u32> {
    said.split_whitespace().nth(1)?.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn text_of(file: &Path) -> String {
    let mut bytes = fs::read(file).unwrap_or_default();
    bytes.truncate(LONGEST);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What lies in a folder, sorted by name.
fn files_in(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_systemd_is_the_first_number() {
        assert_eq!(systemd_version("systemd 257 (257.7-1)\n+PAM"), Some(257));
        assert_eq!(systemd_version("systemd 258~rc1 (x)"), Some(258));
        assert_eq!(systemd_version(""), None);
        assert_eq!(systemd_version("no systemd here"), None);
    }

    #[test]
    fn a_machine_without_any_of_it_is_empty() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(Machine::read(root.path(), &["/etc/x"]), Machine::default());
    }
}
