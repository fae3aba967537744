//! A wall between a sealed program and processes that are not sealed: it reaches into none of them, however much its user may.
//!
//! Otherwise it could have another program of its user make connections for it: by `ptrace`, by writing into its memory, by
//! taking its descriptors. The filter sees numbers only, and cannot tell processes apart; landlock can: who is behind its wall
//! reaches, in these ways, only into those who are behind it, too. As a rule that makes the wall, it is forbidden to connect by
//! TCP, which sealed programs never do themselves.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use landlock::{AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetError};

/// The wall, not yet around anybody. Nothing where the kernel has none (before Linux 6.7).
#[derive(Debug)]
pub(super) struct Wall(Option<OwnedFd>);

impl Wall {
    pub(super) fn new() -> Result<Wall, RulesetError> {
        let asked = Ruleset::default().set_compatibility(CompatLevel::BestEffort);
        Ok(Wall(asked.handle_access(AccessNet::ConnectTcp)?.create()?.into()))
    }

    /// Puts this thread, and whatever comes of it, behind the wall for good. Makes a system call only, so a child may do it
    /// between fork and exec.
    #[allow(unsafe_code)]
    pub(super) fn enclose(&self) -> io::Result<()> {
        let Some(rules) = &self.0 else { return Ok(()) };
        // SAFETY: numbers only.
        let done = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules.as_raw_fd(), 0) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}
