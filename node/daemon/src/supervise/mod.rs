//! The supervisor of `phantom run`: whatever a program does, its sockets reach this machine's loopback interface and
//! nothing else; and what it connects to the network's parties, the node carries.
//!
//! The program runs under a [`filter`] of the kernel. At a call that could lead somewhere the kernel stops the calling
//! thread and tells us; we decide by `phantom_policy`, carry the call out ourselves on the program's own socket, and let it
//! return. We never let a call go on whose pointers we have read: the program could change what they lead to. It makes no
//! difference how a call is made, by libc, by a static binary or by inline assembly; children are under the same filter.
//! If the supervisor is gone, such calls fail: there is no way on which the filter lets them pass.
//!
//! - [`engine`]: what becomes of each [`call`], whichever way we are told of it. [`pool`]: threads for those that wait.
//! - [`calls`]: those that the kernel tells of; [`notify`]: how it does; [`program`]: the program's memory.
//! - [`library`]: those that the preload library tells of, where there is no seal.
//! - [`land`]: where sockets live; mostly in an [`island`], which a [`helper`] prepares by [`netlink`], so that programs take
//!   themselves for online ([`presence`]).
//! - [`connections`]: from a connect to its outcome, by [`deadlines`] if need be; [`quiet`]: where programs' sockets wait for it;
//!   [`meeting`]: where we get the far ends of those to services of this machine, [`peers`]: for whom sockets stand.
//! - [`flows`]: datagrams to parties, for which those outside of flows are [`capture`]d.
//! - [`conversation`]: with the node. [`circle`]: what of a run is isolated from what.
//! - [`names`]: the name server of an island. [`relay`]: to services of this machine.
//! - [`listeners`]: who listens where. [`visits`]: others come to the program's servers. [`unix`]: sockets of this machine's file system.
//! - [`descriptors`]: how many the supervisor has, and how many the program. [`wall`]: between the program and what is not sealed. [`account`], [`inspection`]: for who asks what it did, and what it has.

mod account;
mod call;
mod calls;
mod capture;
mod circle;
mod connections;
mod conversation;
mod deadlines;
mod descriptors;
mod engine;
mod families;
mod filter;
mod flows;
mod helper;
mod inspection;
mod island;
mod land;
mod library;
mod listeners;
mod meeting;
mod names;
mod netlink;
mod notify;
mod peers;
mod pool;
mod presence;
mod program;
mod quiet;
mod raw;
mod relay;
mod unix;
mod visits;
mod wall;

use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    path::PathBuf,
    process::{Child, Command},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use nix::errno::Errno;
use phantom_policy::connect::Rules;
use phantom_resolver::{Answers, Lookup};
use tokio::runtime::Handle;

use crate::frames::{receive, send};
pub use account::{Account, Deed, Kept, News, number};
pub use circle::{Circles, Parted};
pub use conversation::{Addresses, Again, Conversation};
pub use descriptors::Descriptors;
use engine::Engine;
pub use inspection::{Findings, Inspector};
pub use island::Begun;
pub use land::{Land, NameServers};
pub use library::{Entrance, Library, find as find_library, serve};
use notify::Listener;
use peers::Peers;
pub(crate) use raw::namespace;
pub use visits::Open;
use wall::Wall;

/// What a run needs to know.
#[derive(Debug)]
pub struct Run {
    /// Where its sockets live.
    pub land: Arc<Land>,
    /// With the node.
    pub conversation: Arc<Conversation>,
    /// What the user allows.
    pub rules: Rules,
    /// Where others can come in.
    pub open: Open,
    /// What shares paths and sessions.
    pub circles: Arc<Circles>,
    /// What the program did.
    pub account: Arc<Account>,
    /// Where nodes listen for commands: whoever gives them commands is not sealed.
    pub commands: Vec<PathBuf>,
    /// Where bytes of services of this machine are carried.
    pub runtime: Handle,
}

/// A program that runs under the seal.
#[derive(Debug)]
pub struct Sealed {
    /// The program.
    pub child: Child,
    listener: Listener,
}

/// Why no program runs.
#[derive(Debug)]
pub enum NotStarted {
    /// The kernel does not let us put it under a seal.
    NoSeal(io::Error),
    /// It cannot be executed, or whatever it needs is not to be had.
    Program(io::Error),
}

impl From<io::Error> for NotStarted {
    fn from(error: io::Error) -> NotStarted {
        NotStarted::Program(error)
    }
}

/// What a child says of its seal: there is none, or how calls wait under it.
const NO_SEAL: u8 = 1;
const INTERRUPTIBLE: u8 = 2;
const KILLABLE: u8 = 3;

/// Starts a program under the seal. It does nothing until it is supervised.
#[allow(unsafe_code)]
pub fn start(mut command: Command, in_island: bool, descriptors: Descriptors) -> Result<Sealed, NotStarted> {
    let (ours, theirs) = UnixStream::pair()?;
    let filter = filter::program(in_island);
    let wall = Wall::new().map_err(io::Error::other)?;
    let seal = move || {
        let sealed = notify::seal(&filter).inspect_err(|_| {
            let _then_nobody_knows = send(&theirs, &[NO_SEAL], &[]);
        })?;
        wall.enclose()?;
        close_all_but_standard(libc::CLOSE_RANGE_CLOEXEC)?;
        let said = if sealed.is_killable { KILLABLE } else { INTERRUPTIBLE };
        send(&theirs, &[said], &[sealed.listener.as_fd()])?;
        descriptors.restore()
    };
    // SAFETY: between fork and exec the closure makes system calls on what it owns already; what it allocates is small, and of
    // this thread alone.
    unsafe { command.pre_exec(seal) };
    let spawned = command.spawn();
    // The last one that has the other end of what we read from.
    drop(command);
    let (mut received, mut said) = (VecDeque::new(), [0]);
    let heard = receive(&ours, &mut said, &mut received);
    match spawned {
        Err(error) if matches!(heard, Ok(1)) && said == [NO_SEAL] => Err(NotStarted::NoSeal(error)),
        Err(error) => Err(error.into()),
        Ok(child) => {
            heard?;
            let listener: OwnedFd =
                received.pop_front().ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
            let sealed = notify::Sealed { listener, is_killable: said == [KILLABLE] };
            Ok(Sealed { child, listener: Listener::new(sealed) })
        }
    }
}

impl Sealed {
    /// The program, and what is to be supervised.
    pub fn into_parts(self) -> (Child, SealedCalls) {
        (self.child, SealedCalls(self.listener))
    }
}

/// The calls of a sealed program.
#[derive(Debug)]
pub struct SealedCalls(Listener);

/// Answers for a run as long as there is one. What is needed for it is made ready at the first call, for many programs make
/// none. When no process of the run is left, it rests: to let go of what it has takes longer than the end of this process.
pub fn supervise(calls: SealedCalls, ready: impl FnOnce() -> io::Result<Run>) -> io::Result<Infallible> {
    let Some(first) = calls.0.next()? else { rest() };
    let engine = Arc::new(Engine::new(ready()?, Peers::known())?);
    Engine::receive_visitors(&engine);
    calls::answer_all(calls.0, first, &engine)?;
    rest()
}

fn rest() -> ! {
    loop {
        thread::park();
    }
}

/// Answers questions for names that come to these sockets, in threads that end with the process.
pub fn serve_names(sockets: Vec<OwnedFd>, answers: &Arc<Answers<impl Lookup>>) -> io::Result<()> {
    for socket in sockets {
        let answers = answers.clone();
        thread::Builder::new().name("names".to_owned()).spawn(move || {
            let error = names::serve(&socket, &answers);
            tracing::error!("names are not answered any more: {error}");
        })?;
    }
    Ok(())
}

/// Nothing that was opened before comes along but standard input, output and error. A child may do it that is about to execute
/// a program, or to go on with what it opens from now on.
fn close_all_but_standard(flags: u32) -> io::Result<()> {
    #[allow(unsafe_code)]
    // SAFETY: numbers only; nobody in the child owns what is closed.
    let done = unsafe { libc::close_range(3, u32::MAX, flags as i32) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}
