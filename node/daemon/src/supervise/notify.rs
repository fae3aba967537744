//! The kernel's way in: it tells of calls that the filter asks for, and is told what becomes of them.
#![allow(unsafe_code)] // system calls for which no safe wrapper exists; each says why it is sound

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use libc::{c_int, c_ulong, seccomp_notif, seccomp_notif_addfd, seccomp_notif_resp, sock_filter, sock_fprog};

/// Told of the calls of all processes of a run.
#[derive(Debug)]
pub(super) struct Listener {
    told: OwnedFd,
    /// See [`Sealed`].
    is_killable: bool,
}

/// One call that waits for its fate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Notification {
    /// Names it to the kernel.
    id: u64,
    /// The thread that made it.
    pub(super) thread: i32,
    /// Its number.
    pub(super) number: i64,
    /// As the program gave them.
    pub(super) arguments: [u64; 6],
}

impl Listener {
    /// By what [`seal`] has returned.
    pub(super) fn new(sealed: Sealed) -> Listener {
        let Sealed { listener: told, is_killable } = sealed;
        // SAFETY: numbers only.
        let _only_slower_without = unsafe { libc::ioctl(told.as_raw_fd(), SET_FLAGS, SYNC_WAKE_UP) };
        Listener { told, is_killable }
    }

    /// Whether nothing but its end takes a thread away from a call that we know of.
    pub(super) fn is_killable(&self) -> bool {
        self.is_killable
    }

    /// The next call. Nothing when no process of the run is left, from Linux 6.11; before, that may never show.
    pub(super) fn next(&self) -> io::Result<Option<Notification>> {
        loop {
            // SAFETY: a plain structure of numbers, for which zero is a value.
            let mut told: seccomp_notif = unsafe { std::mem::zeroed() };
            // SAFETY: the kernel writes one structure of this kind.
            let done =
                unsafe { libc::ioctl(self.told.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut told) };
            match check(done.into()) {
                Ok(_) => {
                    let seccomp_notif { id, pid, data, .. } = told;
                    let thread = pid as i32;
                    return Ok(Some(Notification {
                        id,
                        thread,
                        number: data.nr.into(),
                        arguments: data.args,
                    }));
                }
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                // It was given up before we came, by a signal or the end of its thread: of the last one, maybe.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                    if self.has_ended()? {
                        return Ok(None);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether no process of the run is left.
    fn has_ended(&self) -> io::Result<bool> {
        let mut poll = libc::pollfd { fd: self.told.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one initialised element, as said.
        check(unsafe { libc::poll(&raw mut poll, 1, 0) }.into()).or_else(interrupted)?;
        Ok(poll.revents & libc::POLLIN == 0 && poll.revents & libc::POLLHUP != 0)
    }

    /// Whether the call still waits: if so, what was learnt about its thread is about this thread and no later one.
    pub(super) fn still_waits(&self, call: &Notification) -> bool {
        // SAFETY: the kernel reads one number.
        let done = unsafe {
            libc::ioctl(self.told.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &raw const call.id)
        };
        done == 0
    }

    /// Lets the call return. If it does not wait any more, nothing happens.
    pub(super) fn answer(&self, call: &Notification, result: Result<i64, i32>) {
        let (val, error) = match result {
            Ok(value) => (value, 0),
            Err(errno) => (0, -errno),
        };
        let mut answer = seccomp_notif_resp { id: call.id, val, error, flags: 0 };
        // SAFETY: the kernel reads one structure of this kind.
        unsafe { libc::ioctl(self.told.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut answer) };
    }

    /// Gives the program a descriptor of ours, which is what the call returns. By then we have it no more: what the program closes,
    /// it closes for good. Where a signal may end the call before it returns, the program gets both at once or neither, and may
    /// go on before ours is closed.
    pub(super) fn hand_over(
        &self,
        call: &Notification,
        ours: OwnedFd,
        close_on_exec: bool,
    ) -> io::Result<()> {
        let newfd_flags = if close_on_exec { libc::O_CLOEXEC as u32 } else { 0 };
        let mut adds = seccomp_notif_addfd {
            id: call.id,
            flags: if self.is_killable { 0 } else { libc::SECCOMP_ADDFD_FLAG_SEND as u32 },
            srcfd: ours.as_raw_fd() as u32,
            newfd: 0,
            newfd_flags,
        };
        // SAFETY: the kernel reads one structure of this kind; `ours` is open.
        let done =
            unsafe { libc::ioctl(self.told.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ADDFD, &raw mut adds) };
        let theirs = check(done.into())?;
        drop(ours);
        if self.is_killable {
            self.answer(call, Ok(theirs));
        }
        Ok(())
    }
}

/// `SECCOMP_IOCTL_NOTIF_SET_FLAGS`, and the flag by which whoever makes a call gives us its processor (Linux 6.6).
const SET_FLAGS: libc::Ioctl = 0x4008_2104;
const SYNC_WAKE_UP: u64 = 1;

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.told.as_fd()
    }
}

/// Puts this thread, and whatever comes of it, under the filter for good. Makes system calls only, so a child may do it
/// between fork and exec.
pub(super) fn seal(program: &[sock_filter]) -> io::Result<Sealed> {
    let length = program.len().try_into().map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let program = sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    // SAFETY: numbers only.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }.into())?;
    // SAFETY: the kernel reads the program, which lives until it has returned.
    let install = |flags: c_ulong| {
        let set = libc::c_ulong::from(libc::SECCOMP_SET_MODE_FILTER);
        check(unsafe { libc::syscall(libc::SYS_seccomp, set, flags, &raw const program) })
    };
    let listens = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as c_ulong;
    let (listener, is_killable) = match install(listens | WAIT_KILLABLE) {
        Ok(listener) => (listener, true),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => (install(listens)?, false),
        Err(error) => return Err(error),
    };
    // SAFETY: the kernel has just made it for us.
    let listener = unsafe { OwnedFd::from_raw_fd(listener as RawFd) };
    Ok(Sealed { listener, is_killable })
}

/// A filter that is in force.
#[derive(Debug)]
pub(super) struct Sealed {
    /// It tells here of calls.
    pub(super) listener: OwnedFd,
    /// A signal does not interrupt a call that was told of (Linux 5.19), so none is cut in two: it is for us to let it return.
    pub(super) is_killable: bool,
}

/// `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`.
const WAIT_KILLABLE: c_ulong = 1 << 5;

fn check(result: i64) -> io::Result<i64> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn interrupted(error: io::Error) -> io::Result<i64> {
    if error.kind() == io::ErrorKind::Interrupted { Ok(0) } else { Err(error) }
}

/// A process, by any of its threads.
#[derive(Debug)]
pub(super) struct Process(OwnedFd);

/// The descriptor names a thread.
const PIDFD_THREAD: c_int = libc::O_EXCL;

impl Process {
    /// The process of this thread.
    pub(super) fn of(thread: i32) -> io::Result<Process> {
        Process::by_thread(thread).or_else(|_| Process::open(first_thread(thread), 0))
    }

    /// The process of this thread, by this thread: when the thread has ended, it leads nowhere, even if another one has the same
    /// number by then.
    pub(super) fn by_thread(thread: i32) -> io::Result<Process> {
        // Without the flag a thread has to be the first one of its process. A kernel before 6.9 does not know the flag.
        Process::open(thread, 0).or_else(|_| Process::open(thread, PIDFD_THREAD))
    }

    fn open(thread: i32, flags: c_int) -> io::Result<Process> {
        // SAFETY: numbers only.
        let opened = check(unsafe { libc::syscall(libc::SYS_pidfd_open, thread, flags) })?;
        // SAFETY: the kernel has just made it for us.
        Ok(Process(unsafe { OwnedFd::from_raw_fd(opened as RawFd) }))
    }

    /// What its descriptor stands for, as a descriptor of ours.
    pub(super) fn descriptor(&self, theirs: i32) -> io::Result<OwnedFd> {
        // SAFETY: numbers only.
        let ours = check(unsafe { libc::syscall(libc::SYS_pidfd_getfd, self.0.as_raw_fd(), theirs, 0) })?;
        // SAFETY: the kernel has just made it for us.
        Ok(unsafe { OwnedFd::from_raw_fd(ours as RawFd) })
    }
}

impl AsFd for Process {
    /// Readable as soon as the process has ended and let go of all that it had.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn first_thread(thread: i32) -> i32 {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
    line.and_then(|number| number.trim().parse().ok()).unwrap_or(thread)
}
