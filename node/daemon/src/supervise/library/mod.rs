//! The preload library's way in (`phantom run --preload-only`): a socket of the run, to which the library inside of each
//! program connects for each call (`phantom_policy::call`).
//!
//! The program hands us its descriptor, and is answered by the same engine as a sealed one. What it does past libc, it does past us:
//! this is for places where the kernel's seal cannot be had.

mod place;

use std::{
    collections::VecDeque,
    env, fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::PermissionsExt, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        prctl::set_no_new_privs,
        socket::{getsockopt, sockopt::PeerCredentials},
    },
    unistd::{geteuid, mkdtemp},
};
use phantom_policy::{
    Errno as Told,
    call::{Answer as Said, Call as Asked, LONGEST},
};
use phantom_resolver::{Answers, Lookup, Transport};
use socket2::{Domain, SockAddr, Socket, Type};

pub use place::find;

use super::{
    Run,
    call::{Answer, Call, Caller, Given, Outcome, Reply},
    close_all_but_standard,
    engine::Engine,
};
use crate::{
    folders,
    frames::{receive, send},
};

/// What tells a program where its run is.
pub const VARIABLE: &str = "PHANTOM_RUN_SOCKET";
/// What tells the loader about the library.
const PRELOAD: &str = "LD_PRELOAD";
/// Calls of a run at once.
const WAITING: usize = 512;
/// Those that the kernel lets wait until we take them.
const QUEUE: i32 = 1_024;
/// Who has connected says at once what it wants.
const AT_ONCE: Duration = Duration::from_secs(10);

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
        let above = folders::runtime().unwrap_or_else(env::temp_dir);
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
    pub fn start(&self, mut command: Command) -> io::Result<Child> {
        let mut preload = self.file.clone().into_os_string();
        if let Some(others) = env::var_os(PRELOAD).filter(|others| !others.is_empty()) {
            preload.push(":");
            preload.push(others);
        }
        command.env(PRELOAD, preload).env(VARIABLE, self.folder.socket());
        let prepare = || {
            set_no_new_privs()?;
            close_all_but_standard()
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

/// Answers the library's calls until the socket fails. Blocks.
pub fn serve(entrance: &Entrance, run: Run, names: Arc<Answers<impl Lookup>>) -> io::Result<()> {
    let answering = Arc::new(Answering { engine: Arc::new(Engine::new(run)), names });
    let waiting = Arc::new(AtomicUsize::new(0));
    loop {
        let (conversation, _) = match entrance.0.accept() {
            // One that has gone, or that there is no descriptor for.
            Err(error) if error.kind() == io::ErrorKind::Interrupted || is_passing(&error) => continue,
            accepted => accepted?,
        };
        if waiting.load(Ordering::Relaxed) >= WAITING {
            say(&conversation, &Said::Failed(Told(libc::EAGAIN as u8)), None);
            continue;
        }
        let (answering, counted) = (answering.clone(), Counted::one_more(&waiting));
        // Without a thread the conversation is closed, which is an answer, too.
        let _started = thread::Builder::new().spawn(move || {
            let _counted = counted;
            answering.converse(conversation);
        });
    }
}

/// In time it may be otherwise.
fn is_passing(error: &io::Error) -> bool {
    let passing =
        matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ECONNABORTED));
    if passing {
        thread::sleep(Duration::from_millis(20));
    }
    passing
}

struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn one_more(of: &Arc<AtomicUsize>) -> Counted {
        of.fetch_add(1, Ordering::Relaxed);
        Counted(of.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Answering<L> {
    engine: Arc<Engine>,
    names: Arc<Answers<L>>,
}

impl<L: Lookup> Answering<L> {
    /// One call.
    fn converse(&self, conversation: Socket) {
        let Ok(who) = getsockopt(&conversation, PeerCredentials) else { return };
        // The folder keeps others out already.
        if who.uid() != geteuid().as_raw() || conversation.set_read_timeout(Some(AT_ONCE)).is_err() {
            return;
        }
        let (mut space, mut descriptors) = ([0; LONGEST], VecDeque::new());
        let Ok(length) = receive(&conversation, &mut space, &mut descriptors) else { return };
        let Some(asked) = space.get(..length).and_then(Asked::decode) else { return };
        match call(asked, descriptors.pop_front(), who.pid()) {
            Ok(Some(call)) => self.engine.handle(call, Reply::to(Waiting(conversation))),
            Ok(None) => self.answer_about_names(&conversation, asked),
            Err(errno) => say(&conversation, &failed(errno), None),
        }
    }

    fn answer_about_names(&self, conversation: &Socket, asked: Asked<'_>) {
        let node = self.engine.conversation();
        match asked {
            Asked::Name(name) => {
                let known = str::from_utf8(name).map_or(Ok(None), |name| node.addresses_of(name));
                let answer = match known {
                    Ok(Some((address, alias))) => Said::Addresses(address, alias),
                    Ok(None) => Said::Unknown,
                    Err(_) => Said::Again,
                };
                say(conversation, &answer, None);
            }
            Asked::Address(address) => match node.name_of(address) {
                Ok(Some(name)) => say(conversation, &Said::Name(name.as_bytes()), None),
                Ok(None) => say(conversation, &Said::Unknown, None),
                Err(_) => say(conversation, &Said::Again, None),
            },
            Asked::Question(question) => match self.names.respond(question, Transport::Tcp) {
                Some(answer) => say(conversation, &Said::Message(&answer), None),
                None => say(conversation, &failed(Errno::EINVAL), None),
            },
            _ => {}
        }
    }
}

/// The call as the engine knows it. Nothing if it is about names.
fn call(asked: Asked<'_>, descriptor: Option<OwnedFd>, process: i32) -> Result<Option<Call>, Errno> {
    let socket = || descriptor.ok_or(Errno::EBADF);
    Ok(Some(match asked {
        Asked::Socket { family, kind, protocol } => Call::Socket { family, kind, protocol },
        Asked::Connect(address) => {
            let to = Given::parse(address).ok_or(Errno::EINVAL)?;
            Call::Connect { socket: socket()?, to, thread: process }
        }
        Asked::Listen { backlog } => Call::Listen { socket: socket()?, backlog },
        Asked::SocketError => Call::Error { socket: socket()? },
        Asked::Stands => Call::PeerName { socket: socket()? },
        Asked::Name(_) | Asked::Address(_) | Asked::Question(_) => return Ok(None),
    }))
}

/// A program that waits in the library.
struct Waiting(Socket);

impl Caller for Waiting {
    fn waits(&self) -> bool {
        // Who has closed its end hears nothing any more.
        let mut asked = [PollFd::new(self.0.as_fd(), PollFlags::POLLHUP)];
        poll(&mut asked, PollTimeout::ZERO) == Ok(0)
    }

    fn answer(self: Box<Self>, outcome: Outcome) {
        match outcome {
            Ok(Answer::Done) => say(&self.0, &Said::Done, None),
            Ok(Answer::Socket { descriptor, .. }) => say(&self.0, &Said::Done, Some(&descriptor)),
            // An error number; else it was asked for nothing but whether there are any.
            Ok(Answer::Bytes(bytes)) => match bytes.try_into() {
                Ok(number) => say(&self.0, &Said::Number(i32::from_ne_bytes(number)), None),
                Err(_) => say(&self.0, &Said::Done, None),
            },
            Err(errno) => say(&self.0, &failed(errno), None),
        }
    }
}

fn failed(errno: Errno) -> Said<'static> {
    Said::Failed(Told(u8::try_from(errno as i32).unwrap_or(libc::EIO as u8)))
}

/// Who does not hear it has closed its end.
fn say(conversation: &Socket, answer: &Said<'_>, with: Option<&OwnedFd>) {
    let mut space = [0; LONGEST];
    // A longer one is a message of DNS.
    let said = answer.encode(&mut space).unwrap_or_default();
    let descriptors: Vec<_> = with.into_iter().map(AsFd::as_fd).collect();
    let _unheard = send(conversation, said, &descriptors);
}

/// Whether a program can be told of this file: the loader takes colons and blanks for the ends of names.
fn can_be_named(file: &Path) -> bool {
    !file.as_os_str().as_bytes().iter().any(|byte| b": \t\n".contains(byte))
}
