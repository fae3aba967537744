//! What can be wrong with the state folder, and what to do about it.

use std::{
    ffi::OsString,
    fs::Metadata,
    io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use thiserror::Error;

use crate::link::TlsError;

/// Why the state cannot be used. Each is a sentence that ends with what to do next.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Neither variable names an absolute path.
    #[error(
        "neither XDG_STATE_HOME nor HOME is set, so there is no place for the node's keys: name one with --state DIR"
    )]
    NoHome,
    /// A file stands where the folder should be.
    #[error("{folder} is a file, not a folder: name another one with --state DIR", folder = folder.display())]
    NotAFolder {
        /// The file.
        folder: PathBuf,
    },
    /// Others may read or write it.
    #[error(
        "{path} holds keys, but others may use it (mode {mode:04o}). If nobody has, run: chmod {wanted:o} '{path}'",
        path = path.display()
    )]
    LooseMode {
        /// The file or folder.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// What it should be.
        wanted: u32,
    },
    /// It belongs to somebody else.
    #[error(
        "{path} belongs to another user: be that one (sudo -u '#{uid}' phantom ...), or name another folder with --state DIR",
        path = path.display()
    )]
    OtherOwner {
        /// The file or folder.
        path: PathBuf,
        /// Its owner.
        uid: u32,
    },
    /// A node is running on it.
    #[error(
        "a Phantom node is already running on {folder}{}: use that one (`phantom status \
         --state '{folder}'`), stop it first, or name another folder with --state DIR",
        holder.map(|pid| format!(" (process {pid})")).unwrap_or_default(),
        folder = folder.display()
    )]
    Locked {
        /// The folder.
        folder: PathBuf,
        /// The process that has it.
        holder: Option<u32>,
    },
    /// There are files, but not ours.
    #[error(
        "{folder} is not empty and not Phantom's (it holds {found:?}): name an empty folder with --state DIR",
        folder = folder.display()
    )]
    NotOurs {
        /// The folder.
        folder: PathBuf,
        /// One of the files.
        found: OsString,
    },
    /// Made by another version.
    #[error(
        "{folder} was made by another version of Phantom (format {version}, this one has {ours}): use that version, or \
         name another folder with --state DIR. Nothing was changed",
        folder = folder.display()
    )]
    OtherVersion {
        /// The folder.
        folder: PathBuf,
        /// Its format.
        version: u32,
        /// Our format.
        ours: u32,
    },
    /// Made for another network.
    #[error(
        "{folder} belongs to a node of another Phantom network: name another folder with --state DIR. Nothing was \
         changed",
        folder = folder.display()
    )]
    OtherNetwork {
        /// The folder.
        folder: PathBuf,
    },
    /// A file does not hold what was written into it.
    #[error(
        "{file} is damaged ({why}). Nothing was changed: put a backup in its place, or move the file away and a new one \
         is made (a key in it is then lost, and the node or identity gets another address)",
        file = file.display()
    )]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// No room.
    #[error(
        "there is no room on the disk for {file}. The old content is still there: free some space and start again",
        file = file.display()
    )]
    DiskFull {
        /// The file.
        file: PathBuf,
    },
    /// A name that could not be a file's.
    #[error("{name:?} is not a name for an identity: use up to 64 of a-z, 0-9, - and _")]
    BadName {
        /// The name.
        name: String,
    },
    /// The name is in use.
    #[error("there is an identity {name:?} already, and it was left alone: choose another name")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// No such identity.
    #[error("there is no identity {name:?} in {folder}: `phantom identity list` shows those that are", folder = folder.display())]
    NoIdentity {
        /// The name.
        name: String,
        /// Where it was looked for.
        folder: PathBuf,
    },
    /// The certificate could not be made.
    #[error(transparent)]
    Tls(TlsError),
    /// Anything else that the system refuses.
    #[error(
        "cannot {what} {path}: {error}. Look at its permissions, or name another folder with --state DIR",
        path = path.display()
    )]
    Io {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
}

impl StoreError {
    pub(super) fn io(what: &'static str, path: &Path, error: io::Error) -> StoreError {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                StoreError::DiskFull { file: path.to_owned() }
            }
            _ => StoreError::Io { what, path: path.to_owned(), error },
        }
    }
}

/// Refuses what others may use.
pub(super) fn check_private(path: &Path, metadata: &Metadata) -> Result<(), StoreError> {
    let uid = nix::unistd::geteuid().as_raw();
    if metadata.uid() != uid {
        return Err(StoreError::OtherOwner { path: path.to_owned(), uid: metadata.uid() });
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        let wanted = if metadata.is_dir() { 0o700 } else { 0o600 };
        return Err(StoreError::LooseMode { path: path.to_owned(), mode, wanted });
    }
    Ok(())
}
