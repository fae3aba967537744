//! The state folder: what a node keeps over restarts.
//!
//! One process at a time has it. The folder is 0700 and its files 0600; anything looser is refused, not mended in
//! silence. A file is replaced as a whole or not at all, and carries a checksum; what is damaged, or belongs to another
//! version or network, is never overwritten.
//!
//! ```text
//! format             text: version of the folder, network
//! lock               text: id of the process that has the folder
//! identities.lock    held for a moment by whoever changes identities
//! node.key  tls.key  tls.cert  guards  nodes  services  visits    framed, see [`frame`]
//! identities/NAME    AP identities that are kept, framed
//! ```

mod error;
mod frame;
mod identities;
mod lock;
pub mod sealed;

use std::{
    fs::{self, DirBuilder},
    io::ErrorKind,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use phantom_protocol::{
    identity::{NODE_SECRET, NodeSecret},
    network::Network,
    time::UnixTime,
};
use rand::CryptoRng;
use zeroize::Zeroizing;

pub use self::{error::StoreError, identities::Identities};
use self::{frame::Content, lock::Lock};
use crate::{folders, link::TlsIdentity};

/// The version of the folder's layout.
const VERSION: u32 = 1;
const FORMAT: &str = "format";
const LOCK: &str = "lock";

/// The state folder of a running node; the lock goes with it.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    work: u32,
    identities: Identities,
    _lock: Lock,
}

/// What the node writes down from time to time, in a form of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Notes {
    /// Guards, and how builds of paths went.
    Building,
    /// Records of nodes, to come back without an invitation.
    Nodes,
    /// Ports that are hosted.
    Services,
    /// Who is visited under a kept identity.
    Visits,
    /// What was carried, by month.
    Spending,
}

impl Notes {
    fn file(self) -> (&'static str, Content) {
        match self {
            Notes::Building => ("guards", Content::Building),
            Notes::Nodes => ("nodes", Content::Nodes),
            Notes::Services => ("services", Content::Services),
            Notes::Visits => ("visits", Content::Visits),
            Notes::Spending => ("spending", Content::Spending),
        }
    }
}

/// Where the state is if nobody says otherwise: `$XDG_STATE_HOME/phantom` or `~/.local/state/phantom`.
pub fn default_folder() -> Result<PathBuf, StoreError> {
    folders::state().map(|state| state.join("phantom")).ok_or(StoreError::NoHome)
}

impl Store {
    /// Opens the folder for one network, or makes it, and locks it.
    pub fn open(folder: &Path, network: &Network) -> Result<Store, StoreError> {
        make_folder(folder)?;
        let lock = Lock::take(&folder.join(LOCK))?;
        check_format(folder, network)?;
        let identities = Identities::beside(folder)?;
        Ok(Store { folder: folder.to_owned(), work: network.work, identities, _lock: lock })
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The node's key; made when there is none, with the work that the network asks for.
    pub fn node_secret(&self, rng: &mut impl CryptoRng) -> Result<NodeSecret, StoreError> {
        let file = self.folder.join("node.key");
        if let Some(bytes) = frame::read(&file, Content::NodeKey)? {
            let bytes = exactly::<NODE_SECRET>(&file, &bytes)?;
            return Ok(NodeSecret::from_bytes(&bytes));
        }
        let secret = NodeSecret::generate_with_work(rng, self.work);
        frame::write(&file, Content::NodeKey, secret.to_bytes().as_slice())?;
        Ok(secret)
    }

    /// The TLS key and certificate; made when there are none.
    pub fn tls_identity(&self, now: UnixTime) -> Result<TlsIdentity, StoreError> {
        let (key_file, certificate_file) = (self.folder.join("tls.key"), self.folder.join("tls.cert"));
        let key = frame::read(&key_file, Content::TlsKey)?;
        let certificate = frame::read(&certificate_file, Content::TlsCertificate)?;
        match (key, certificate) {
            (Some(key), Some(certificate)) => TlsIdentity::from_der(certificate.to_vec(), key)
                .map_err(|why| StoreError::Damaged { file: key_file, why: why.to_string() }),
            // The certificate is written last: without it, the key has never been shown to anybody.
            (_, None) => {
                let made = TlsIdentity::generate(now).map_err(StoreError::Tls)?;
                frame::write(&key_file, Content::TlsKey, made.key_der())?;
                frame::write(&certificate_file, Content::TlsCertificate, made.certificate_der())?;
                Ok(made)
            }
            (None, Some(_)) => Err(StoreError::Damaged {
                file: key_file,
                why: "it is missing, but tls.cert is there".into(),
            }),
        }
    }

    /// The AP identities that are kept here.
    pub fn identities(&self) -> &Identities {
        &self.identities
    }

    /// What was last written with [`Self::write_notes`].
    pub fn read_notes(&self, notes: Notes) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        frame::read(&self.notes_file(notes), notes.file().1)
    }

    /// Replaces the notes.
    pub fn write_notes(&self, notes: Notes, bytes: &[u8]) -> Result<(), StoreError> {
        frame::write(&self.notes_file(notes), notes.file().1, bytes)
    }

    /// Where they are.
    pub fn notes_file(&self, notes: Notes) -> PathBuf {
        self.folder.join(notes.file().0)
    }
}

fn exactly<const N: usize>(file: &Path, bytes: &[u8]) -> Result<Zeroizing<[u8; N]>, StoreError> {
    let bytes = <[u8; N]>::try_from(bytes).map(Zeroizing::new);
    bytes.map_err(|_| StoreError::Damaged { file: file.to_owned(), why: "it has a wrong length".into() })
}

/// Makes a folder that is for its owner alone, or makes sure that it is.
pub fn make_folder(folder: &Path) -> Result<(), StoreError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => StoreError::NotAFolder { folder: folder.to_owned() },
        _ => StoreError::io("make", folder, error),
    })?;
    let metadata = fs::metadata(folder).map_err(|error| StoreError::io("read", folder, error))?;
    error::check_private(folder, &metadata)
}

/// Reads the folder's `format`, or writes it into an empty one.
fn check_format(folder: &Path, network: &Network) -> Result<(), StoreError> {
    let file = folder.join(FORMAT);
    let network = data_encoding::HEXLOWER.encode(&network.id().0);
    let expected = format!("phantom state {VERSION}\nnetwork {network}\n");
    match fs::read_to_string(&file) {
        Ok(found) if found == expected => Ok(()),
        Ok(found) => Err(other_format(folder, &found)),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let entries = fs::read_dir(folder).map_err(|error| StoreError::io("read", folder, error))?;
            let foreign = entries.flatten().map(|entry| entry.file_name()).find(|name| !is_leftover(name));
            match foreign {
                Some(name) => Err(StoreError::NotOurs { folder: folder.to_owned(), found: name }),
                None => frame::replace(&file, expected.as_bytes()),
            }
        }
        Err(error) if error.kind() == ErrorKind::InvalidData => {
            Err(StoreError::Damaged { file, why: "it is not text".into() })
        }
        Err(error) => Err(StoreError::io("read", &file, error)),
    }
}

/// What a first start leaves that was interrupted before it wrote `format`, or who made identities before it.
fn is_leftover(name: &std::ffi::OsStr) -> bool {
    name == LOCK || identities::is_part(name) || name.to_string_lossy().ends_with(frame::UNFINISHED)
}

fn other_format(folder: &Path, found: &str) -> StoreError {
    let mut lines = found.lines();
    let version = lines.next().and_then(|line| line.strip_prefix("phantom state ")?.parse::<u32>().ok());
    let network = lines.next().and_then(|line| line.strip_prefix("network "));
    match (version, network) {
        (Some(VERSION), Some(_)) => StoreError::OtherNetwork { folder: folder.to_owned() },
        (Some(version), _) if version != VERSION => {
            StoreError::OtherVersion { folder: folder.to_owned(), version, ours: VERSION }
        }
        _ => StoreError::Damaged { file: folder.join(FORMAT), why: "it does not parse".into() },
    }
}

#[cfg(test)]
mod tests;
