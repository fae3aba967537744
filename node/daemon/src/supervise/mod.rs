//! The supervisor of `phantom run`: whatever a program does, its sockets reach this machine's loopback interface and
//! nothing else; and what it connects to the network's parties, the node carries.
//!
//! The program runs under a [`filter`] of the kernel. At a call that could lead somewhere the kernel stops the calling
//! thread and tells us; we decide by `phantom_policy`, carry the call out ourselves on the program's own socket, and let it
//! return. We never let a call go on whose pointers we have read: the program could change what they lead to. It makes no
//! difference how a call is made, by libc, by a static binary or by inline assembly; children are under the same filter.
//! If the supervisor is gone, such calls fail: there is no way on which the filter lets them pass.
//!
//! - [`notify`]: the kernel's side: calls, answers, descriptors of other processes.
//! - [`program`]: the program's memory.
//! - [`calls`]: what becomes of each call.
//! - [`tunnel`]: sockets on their way through the node's door.
//! - [`listeners`]: who listens on this machine.
//! - [`unix`]: sockets of this machine.
//! - [`island`]: where datagram sockets live.

mod calls;
mod filter;
mod island;
mod listeners;
mod notify;
mod program;
mod raw;
mod tunnel;
mod unix;

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::SocketAddr,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    path::PathBuf,
    process::{Child, Command},
    sync::Arc,
};

use nix::{
    cmsg_space,
    sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg},
};
use phantom_policy::connect::Rules;

use calls::Supervisor;
pub use island::{HELPER, Island, help};
use notify::Listener;
pub use tunnel::Door;

/// What a run needs to know.
#[derive(Debug)]
pub struct Run {
    /// Where its connections go.
    pub door: Door,
    /// Who answers for names over TCP; over IPv6 it is the same port of `::1`.
    pub names: SocketAddr,
    /// Where datagram sockets are made; where there is none, none are.
    pub island: Option<Island>,
    /// What the user allows.
    pub rules: Rules,
    /// Where the node listens for commands: whoever gives it commands is not sealed.
    pub commands: Vec<PathBuf>,
}

/// A program that runs under the seal.
#[derive(Debug)]
pub struct Sealed {
    /// The program.
    pub child: Child,
    listener: Listener,
}

/// Starts a program under the seal. It does nothing until it is supervised.
#[allow(unsafe_code)]
pub fn start(mut command: Command) -> io::Result<Sealed> {
    let (ours, theirs) = UnixStream::pair()?;
    let filter = filter::program();
    let seal = move || {
        let listener = notify::seal(&filter)?;
        close_all_but_standard()?;
        send_descriptor(&theirs, &listener)
    };
    // SAFETY: between fork and exec the closure makes system calls on what it owns already; it allocates nothing but on an
    // error, which ends the child.
    unsafe { command.pre_exec(seal) };
    let child = command.spawn()?;
    drop(command);
    let listener = receive(&ours)?.into();
    Ok(Sealed { child, listener })
}

impl Sealed {
    /// Answers for the run until no process of it is left. Blocks.
    pub fn supervise(listener: SealedCalls, run: Run) -> io::Result<()> {
        let supervisor = Arc::new(Supervisor::new(listener.0, run));
        while let Some(call) = supervisor.listener.next()? {
            Supervisor::handle(&supervisor, call);
        }
        Ok(())
    }

    /// The program, and what is to be supervised.
    pub fn into_parts(self) -> (Child, SealedCalls) {
        (self.child, SealedCalls(self.listener))
    }
}

/// The calls of a sealed program.
#[derive(Debug)]
pub struct SealedCalls(Listener);

/// Nothing that was opened before comes along but standard input, output and error.
fn close_all_but_standard() -> io::Result<()> {
    #[allow(unsafe_code)]
    // SAFETY: numbers only; descriptors are marked, and closed by exec.
    let done = unsafe { libc::close_range(3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC as i32) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn send_descriptor(to: &UnixStream, descriptor: &OwnedFd) -> io::Result<()> {
    let descriptors = [descriptor.as_raw_fd()];
    let parts = [IoSlice::new(&[0])];
    let message = [ControlMessage::ScmRights(&descriptors)];
    sendmsg::<()>(to.as_raw_fd(), &parts, &message, MsgFlags::empty(), None)?;
    Ok(())
}

fn receive(from: &UnixStream) -> io::Result<OwnedFd> {
    let mut byte = [0];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let mut space = cmsg_space!([std::os::fd::RawFd; 1]);
    let message = recvmsg::<()>(from.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let descriptors = message.cmsgs()?.find_map(|part| match part {
        ControlMessageOwned::ScmRights(descriptors) => descriptors.first().copied(),
        _ => None,
    });
    let descriptor = descriptors.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
    #[allow(unsafe_code)]
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}
