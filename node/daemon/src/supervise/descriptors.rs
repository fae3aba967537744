//! How many descriptors a process may hold. The supervisor has some for each connection that is under way in any process of a
//! run, and each of these may have as many as its user lets one process have: so it takes all that it may have itself, which
//! is not for the program. Programs that still use `select` rely on it that theirs are few.

use std::io;

use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};

/// What the user has set: the limit, and how far it may be raised. Nothing if that could not be learnt.
#[derive(Clone, Copy, Debug)]
pub struct Descriptors(Option<(rlim_t, rlim_t)>);

impl Descriptors {
    /// Lets this process have as many as it may.
    pub fn raise() -> Descriptors {
        let before = getrlimit(Resource::RLIMIT_NOFILE).ok();
        let raised = before.filter(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, *most, *most).is_ok());
        Descriptors(raised)
    }

    /// Lets this process have as many as its user wants. A system call, so a child may do it.
    pub(super) fn restore(self) -> io::Result<()> {
        let Some((limit, most)) = self.0 else { return Ok(()) };
        Ok(setrlimit(Resource::RLIMIT_NOFILE, limit, most)?)
    }
}
