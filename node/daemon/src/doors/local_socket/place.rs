//! Where local sockets lie, and who may have one.
//!
//! A node's socket is `sock` in its state folder. It also has `$XDG_RUNTIME_DIR/phantom/sock`, if no other node answers
//! there: that is where commands look first. A socket file that nobody answers is left over from a node that was killed,
//! and is replaced.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{Flock, FlockArg},
    unistd::geteuid,
};
use tokio::net::{UnixListener, UnixStream};

use crate::folders;

/// Longer paths do not fit into a socket's address.
const LONGEST: usize = 107;

/// Where a node that keeps its state in `state` has its socket, the sure place first.
pub fn node_places(state: &Path) -> Vec<PathBuf> {
    [Some(state.join("sock")), shared_place()].into_iter().flatten().collect()
}

/// Where the demonstration has its socket: not in a state folder, for it keeps nothing.
pub fn demo_places() -> Vec<PathBuf> {
    let own = folders::state().map(|folder| folder.join("phantom-demo/sock"));
    [shared_place(), own].into_iter().flatten().take(1).collect()
}

/// Where a command looks for a node. A state folder that the user named for it is the only place; one that is configured for
/// nodes is the first after that of all commands.
pub fn client_places(named: Option<&Path>, configured: Option<&Path>) -> Vec<PathBuf> {
    if let Some(state) = named {
        return vec![state.join("sock")];
    }
    let own = |name| folders::state().map(|folder| folder.join(name));
    let folders =
        [configured.map(Path::to_owned), own("phantom"), own("phantom-demo"), folders::of_service()];
    shared_place()
        .into_iter()
        .chain(folders.into_iter().flatten().map(|folder| folder.join("sock")))
        .collect()
}

/// Makes the folders that a node's sockets lie in, and names those that are there. What is wrong with the others is said when
/// the socket is made.
pub fn make_folders(places: &[PathBuf]) -> Vec<PathBuf> {
    let folders = places.iter().filter_map(|place| place.parent());
    folders.filter(|folder| make_private(folder).is_ok()).map(Path::to_owned).collect()
}

fn shared_place() -> Option<PathBuf> {
    folders::runtime().map(|folder| folder.join("phantom/sock"))
}

/// Why a node has no local socket.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// There is one already.
    #[error(
        "A node is running already: it answers at {place}. Look at it with `phantom status --state '{folder}'`, end it \
         first, or give this one its own place: --state DIR",
        place = .0.display(), folder = .0.parent().unwrap_or(.0).display()
    )]
    Taken(PathBuf),
    /// The kernel's limit.
    #[error(
        "The path of the local socket, {0}, is longer than {LONGEST} bytes. Choose a shorter one: --state DIR"
    )]
    TooLong(PathBuf),
    /// Others could put something else there.
    #[error("{0} is open to other users. Close it: chmod 700 {0}")]
    Open(PathBuf),
    /// The folder of somebody else.
    #[error("{0} belongs to another user. Choose a folder of your own: --state DIR")]
    Foreign(PathBuf),
    /// Something that nobody should remove unasked.
    #[error(
        "{0} is in the way of the local socket and is no socket. Move it away, or choose another place: --state DIR"
    )]
    InTheWay(PathBuf),
    /// Anything else.
    #[error("The local socket {0} cannot be made: {1}.")]
    Io(PathBuf, #[source] io::Error),
}

/// A node's end of a local socket, not yet served. Its file goes with it.
#[derive(Debug)]
pub struct LocalSocket {
    pub(super) listener: UnixListener,
    file: OwnFile,
}

impl LocalSocket {
    /// Makes the socket, and the folder that it lies in.
    pub async fn bind(place: &Path) -> Result<LocalSocket, BindError> {
        if place.as_os_str().len() > LONGEST {
            return Err(BindError::TooLong(place.into()));
        }
        let failed = |error| BindError::Io(place.into(), error);
        let folder = place.parent().ok_or_else(|| failed(ErrorKind::InvalidInput.into()))?;
        make_private(folder)?;
        // Two nodes that find the same left-over file must not both replace it.
        let _turn = take_turn(place).map_err(failed)?;
        clear(place).await?;
        let listener = UnixListener::bind(place).map_err(failed)?;
        fs::set_permissions(place, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        let metadata = fs::symlink_metadata(place).map_err(failed)?;
        Ok(LocalSocket { listener, file: OwnFile { place: place.into(), inode: metadata.ino() } })
    }

    /// Whether commands come here first that do not say which node they mean.
    pub fn is_default(&self, configured: Option<&Path>) -> bool {
        client_places(None, configured).first() == Some(&self.file.place)
    }
}

fn make_private(folder: &Path) -> Result<(), BindError> {
    let failed = |error| BindError::Io(folder.join("sock"), error);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    let metadata = fs::metadata(folder).map_err(failed)?;
    if metadata.uid() != geteuid().as_raw() {
        return Err(BindError::Foreign(folder.into()));
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(BindError::Open(folder.into()));
    }
    Ok(())
}

fn take_turn(place: &Path) -> io::Result<Flock<fs::File>> {
    let file =
        fs::OpenOptions::new().create(true).truncate(false).write(true).open(place.with_extension("lock"))?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error.into())
}

/// Removes a socket that nobody answers.
async fn clear(place: &Path) -> Result<(), BindError> {
    match fs::symlink_metadata(place) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(BindError::Io(place.into(), error)),
        Ok(metadata) if !metadata.file_type().is_socket() => return Err(BindError::InTheWay(place.into())),
        Ok(_) => {}
    }
    match UnixStream::connect(place).await {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            fs::remove_file(place).map_err(|error| BindError::Io(place.into(), error))
        }
        // Also a busy one, whose queue is full.
        _ => Err(BindError::Taken(place.into())),
    }
}

/// Removes the file when dropped, unless it is another's by then.
#[derive(Debug)]
struct OwnFile {
    place: PathBuf,
    inode: u64,
}

impl Drop for OwnFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.place).is_ok_and(|metadata| metadata.ino() == self.inode) {
            let _ = fs::remove_file(&self.place);
        }
    }
}
