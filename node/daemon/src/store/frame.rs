//! One file of the state folder: a frame that tells what is in it and whether it is whole.
//!
//! ```text
//! "phantom\n" 8 | content 1 | content's version 1 | length 4 | bytes | SHA-256 of all that 32
//! ```
//!
//! Files are replaced by writing another one beside it, syncing and renaming, so a crash leaves the old or the new.

use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::error::{StoreError, check_private};

const MAGIC: &[u8; 8] = b"phantom\n";
const CONTENT_VERSION: u8 = 1;
const CHECKSUM: usize = 32;
const PREFIX: usize = MAGIC.len() + 1 + 1 + 4;
/// No file of ours is longer.
const LONGEST: u64 = 16 << 20;
/// The end of the names of files that are being written.
pub(super) const UNFINISHED: &str = ".new";

/// What a file holds, so that no file is taken for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Content {
    NodeKey = 1,
    TlsKey = 2,
    TlsCertificate = 3,
    ApKey = 4,
    Building = 5,
    Nodes = 6,
    Services = 7,
    Visits = 8,
    Spending = 9,
}

/// The bytes in a file; `None` if there is none.
pub(super) fn read(file: &Path, content: Content) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
    let failed = |error| StoreError::io("read", file, error);
    let opened = match File::open(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(failed)?,
    };
    let metadata = opened.metadata().map_err(failed)?;
    check_private(file, &metadata)?;
    // Room for all of it at once: a growing buffer would leave copies of a key behind.
    let room = usize::try_from(metadata.len().min(LONGEST)).unwrap_or_default() + 1;
    let mut framed = Zeroizing::new(Vec::with_capacity(room));
    opened.take(LONGEST).read_to_end(&mut framed).map_err(failed)?;
    let bytes = open(&framed, content).map_err(|why| StoreError::Damaged { file: file.to_owned(), why })?;
    Ok(Some(Zeroizing::new(bytes.to_vec())))
}

/// Replaces the bytes in a file.
pub(super) fn write(file: &Path, content: Content, bytes: &[u8]) -> Result<(), StoreError> {
    let mut framed = Zeroizing::new(Vec::with_capacity(PREFIX + bytes.len() + CHECKSUM));
    framed.extend_from_slice(MAGIC);
    framed.extend_from_slice(&[content as u8, CONTENT_VERSION]);
    framed.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    framed.extend_from_slice(bytes);
    let checksum = Sha256::digest(framed.as_slice());
    framed.extend_from_slice(&checksum);
    replace(file, &framed)
}

/// Writes a file as a whole or not at all.
pub(super) fn replace(file: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let unfinished = beside(file);
    write_synced(&unfinished, bytes).and_then(|()| fs::rename(&unfinished, file)).map_err(|error| {
        // What is there of it is of no use; that it cannot be removed either is not the error to tell.
        let _ = fs::remove_file(&unfinished);
        StoreError::io("write", file, error)
    })?;
    // The name is on the disk when the folder is.
    let folder = file.parent().unwrap_or(Path::new("."));
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|error| StoreError::io("sync", folder, error))
}

fn write_synced(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    // A crash may have left one; it is nobody's.
    match fs::remove_file(file) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
    opened.write_all(bytes)?;
    opened.sync_all()
}

fn beside(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(UNFINISHED);
    PathBuf::from(name)
}

fn open(framed: &[u8], content: Content) -> Result<&[u8], String> {
    let Some((body, checksum)) = framed.split_last_chunk::<CHECKSUM>() else {
        return Err("it is too short".into());
    };
    let Some((prefix, bytes)) = body.split_first_chunk::<PREFIX>() else {
        return Err("it is too short".into());
    };
    let [magic @ .., kind, version, a, b, c, d] = prefix;
    if magic != MAGIC {
        return Err("it is not one of Phantom's files".into());
    }
    if Sha256::digest(body).as_slice() != checksum {
        return Err("its checksum is wrong".into());
    }
    if *kind != content as u8 {
        return Err("it holds something else than its name says".into());
    }
    if *version != CONTENT_VERSION {
        return Err(format!("its version is {version}, this program knows {CONTENT_VERSION}"));
    }
    if u32::from_be_bytes([*a, *b, *c, *d]) as usize != bytes.len() {
        return Err("it has a wrong length".into());
    }
    Ok(bytes)
}
