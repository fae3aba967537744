//! Waiting for a program as a terminal expects it of whoever started it.
//!
//! A shell under the seal has process groups of its own, and gives the terminal to one or another. When it stops as a whole,
//! so do we, for it is us whom the outer shell knows; when we go on, so does it. What ends without giving the terminal back,
//! has it given back by us.
//!
//! Processes that the program leaves behind are ours, also when they have ended: each keeps its place in the system's table
//! until somebody asks how.

use std::{io, os::fd::AsFd, process::Child};

use nix::{
    errno::Errno,
    sys::{
        signal::{SigSet, Signal, kill, killpg, raise},
        wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid},
    },
    unistd::{Pid, getpgid, getpgrp, tcgetpgrp, tcsetpgrp},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::spawn_blocking,
};

/// How a program ended, as a shell tells it: its code, or 128 and the number of the signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) code: u8,
    pub(super) signal: Option<Signal>,
}

/// Children of ours beside the program: those that it leaves behind, and the island's helper. That one's number stays its own
/// also when it has ended, for by its number we know the run's network.
#[derive(Clone, Copy, Debug)]
pub(super) struct Others {
    pub(super) helper: Option<Pid>,
}

/// What is asked of us: it is to be asked of the program. From the moment that this is there, nothing of it ends us.
#[derive(Debug)]
pub(super) struct Asked {
    by_terminal: [tokio::signal::unix::Signal; 2],
    others: [tokio::signal::unix::Signal; 4],
}

impl Asked {
    pub(super) fn listen() -> io::Result<Asked> {
        Ok(Asked {
            by_terminal: [signal(SignalKind::interrupt())?, signal(SignalKind::quit())?],
            others: [
                signal(SignalKind::terminate())?,
                signal(SignalKind::hangup())?,
                signal(SignalKind::user_defined1())?,
                signal(SignalKind::user_defined2())?,
            ],
        })
    }
}

/// Waits for a child to end. What is asked of us meanwhile is asked of it, but for what we keep to ourselves; a terminal asks
/// both by itself. Meanwhile nobody else may wait for one of the others.
pub(super) async fn wait_for(
    child: Child,
    others: Option<Others>,
    asked: Asked,
    ours: Option<Signal>,
) -> anyhow::Result<Ended> {
    let program = Pid::from_raw(i32::try_from(child.id())?);
    let mut ended = spawn_blocking(move || watch(program, others));
    let Asked { by_terminal: [mut interrupted, mut quit], others } = asked;
    let [mut terminated, mut hung_up, mut first, mut second] = others;
    loop {
        let asked = tokio::select! {
            ended = &mut ended => return Ok(ended??),
            _ = interrupted.recv() => continue,
            _ = quit.recv() => continue,
            _ = terminated.recv() => Signal::SIGTERM,
            _ = hung_up.recv() => Signal::SIGHUP,
            _ = first.recv() => Signal::SIGUSR1,
            _ = second.recv() => Signal::SIGUSR2,
        };
        if ours == Some(asked) {
            continue;
        }
        let _has_just_ended = kill(program, asked);
    }
}

fn watch(program: Pid, others: Option<Others>) -> io::Result<Ended> {
    let mut asks_for_all = others.is_some();
    let helper = others.and_then(|others| others.helper);
    let changed = WaitPidFlag::WEXITED | WaitPidFlag::WSTOPPED | WaitPidFlag::WNOWAIT;
    loop {
        let whom = if asks_for_all { Id::All } else { Id::Pid(program) };
        let status = match waitid(whom, changed) {
            Err(Errno::EINTR) => continue,
            told => told?,
        };
        match status.pid() {
            Some(child) if child == program => {
                if let Some(ended) = look_at(program)? {
                    return Ok(ended);
                }
            }
            Some(child) if Some(child) == helper => match status {
                WaitStatus::Stopped(..) => {
                    let _is_known = waitid(Id::Pid(child), WaitPidFlag::WSTOPPED | WaitPidFlag::WNOHANG);
                }
                // Without it there are no more sockets. It would be told of before all others, again and again.
                _ => asks_for_all = false,
            },
            Some(left_behind) => {
                let _is_known = waitpid(left_behind, Some(WaitPidFlag::WUNTRACED | WaitPidFlag::WNOHANG));
            }
            None => {}
        }
    }
}

/// The program has ended or stopped.
fn look_at(program: Pid) -> io::Result<Option<Ended>> {
    // As long as nobody has asked how it ended, it has a group.
    let group = getpgid(Some(program))?;
    match waitpid(program, Some(WaitPidFlag::WUNTRACED | WaitPidFlag::WNOHANG))? {
        WaitStatus::Exited(_, code) => {
            take_terminal_from(group);
            Ok(Some(Ended { code: u8::try_from(code).unwrap_or(1), signal: None }))
        }
        WaitStatus::Signaled(_, signal, _) => {
            take_terminal_from(group);
            let code = u8::try_from(128 + signal as i32).unwrap_or(1);
            Ok(Some(Ended { code, signal: Some(signal) }))
        }
        // One of our own group is stopped and woken by whoever does that to us.
        WaitStatus::Stopped(..) if group != getpgrp() => {
            raise(Signal::SIGSTOP)?;
            give_terminal_to(group);
            let _has_just_ended = killpg(group, Signal::SIGCONT);
            Ok(None)
        }
        _ => Ok(None),
    }
}

/// Only if it is ours.
fn give_terminal_to(group: Pid) {
    let terminal = io::stdin();
    if tcgetpgrp(terminal.as_fd()) == Ok(getpgrp()) {
        let _is_its_own_affair = tcsetpgrp(terminal.as_fd(), group);
    }
}

/// If this group has it still.
fn take_terminal_from(group: Pid) {
    let terminal = io::stdin();
    if group == getpgrp() || tcgetpgrp(terminal.as_fd()) != Ok(group) {
        return;
    }
    // Who is not in the foreground is stopped for this, unless the signal is blocked.
    let mut stops = SigSet::empty();
    stops.add(Signal::SIGTTOU);
    if stops.thread_block().is_ok() {
        let _is_gone = tcsetpgrp(terminal.as_fd(), getpgrp());
        let _as_before = stops.thread_unblock();
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    async fn ends(script: &str) -> Ended {
        let child = Command::new("sh").args(["-c", script]).spawn().unwrap();
        // Other tests have children, too.
        wait_for(child, None, Asked::listen().unwrap(), None).await.unwrap()
    }

    #[tokio::test]
    async fn a_program_ends_with_its_code_or_its_signal() {
        assert_eq!(ends("exit 7").await, Ended { code: 7, signal: None });
        assert_eq!(ends("kill -TERM $$").await, Ended { code: 143, signal: Some(Signal::SIGTERM) });
    }
}
