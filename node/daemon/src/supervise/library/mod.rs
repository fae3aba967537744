//! The preload library's way in (`phantom run --preload-only`): a socket of the run, to which the library inside of each
//! program connects for each call (`phantom_policy::call`).
//!
//! The program hands us its descriptor, and is answered by the same engine as a sealed one. What it does past libc, it does
//! past us: this is for places where the kernel's seal cannot be had.
//!
//! - [`place`]: where the library lies. [`serving`]: from a call to its answer.

mod place;
mod serving;

use std::{
    env, fs, io,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command},
};

use nix::{sys::prctl::set_no_new_privs, unistd::mkdtemp};
use socket2::{Domain, SockAddr, Socket, Type};

pub use place::find;
pub use serving::serve;

use super::{Descriptors, close_all_but_standard};
use crate::folders;

/// What tells a program where its run is.
const VARIABLE: &str = "PHANTOM_RUN_SOCKET";
/// What tells the loader about the library.
const PRELOAD: &str = "LD_PRELOAD";
/// Calls that the kernel lets wait until we take them.
const QUEUE: i32 = 1_024;

/// The run's side, before anybody is served. Its socket goes with it.
#[derive(Debug)]
pub struct Library {
    file: PathBuf,
    folder: Folder,
    listener: Socket,
}

#[derive(Debug)]
struct Folder(PathBuf);

impl Library {
    /// Makes the run's socket, for programs with this library. It lies in a folder that nobody else may look into.
    pub fn new(file: PathBuf) -> io::Result<Library> {
        Library::within(&folders::runtime().unwrap_or_else(env::temp_dir), file)
    }

    fn within(above: &Path, file: PathBuf) -> io::Result<Library> {
        let folder = Folder(mkdtemp(&above.join("phantom-run-XXXXXX"))?);
        let listener = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
        listener.bind(&SockAddr::unix(folder.socket())?)?;
        fs::set_permissions(folder.socket(), fs::Permissions::from_mode(0o600))?;
        listener.listen(QUEUE)?;
        Ok(Library { file, folder, listener })
    }

    /// Where calls come in.
    pub fn entrance(&self) -> io::Result<Entrance> {
        self.listener.try_clone().map(Entrance)
    }

    /// Starts a program with the library before all others. Privileges that are written on files do not count, for who gets
    /// them gets no library.
    #[allow(unsafe_code)]
    pub fn start(&self, mut command: Command, descriptors: Descriptors) -> io::Result<Child> {
        let mut preload = self.file.clone().into_os_string();
        if let Some(others) = env::var_os(PRELOAD).filter(|others| !others.is_empty()) {
            preload.push(":");
            preload.push(others);
        }
        command.env(PRELOAD, preload).env(VARIABLE, self.folder.socket());
        let prepare = move || {
            set_no_new_privs()?;
            close_all_but_standard(libc::CLOSE_RANGE_CLOEXEC)?;
            descriptors.restore()
        };
        // SAFETY: between fork and exec the closure makes system calls, and allocates nothing but on an error, which ends the child.
        unsafe { command.pre_exec(prepare) };
        command.spawn()
    }
}

/// Where calls come in.
#[derive(Debug)]
pub struct Entrance(Socket);

impl Folder {
    fn socket(&self) -> PathBuf {
        self.0.join("sock")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _has_gone = fs::remove_dir_all(&self.0);
    }
}
