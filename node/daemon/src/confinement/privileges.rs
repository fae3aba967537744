//! The user that a node runs as, and the capabilities that it does without.

use std::ffi::CString;

use caps::{CapSet, Capability};
use nix::{
    errno::Errno,
    sys::prctl::set_no_new_privs,
    unistd::{self, Gid, Uid, initgroups, setresgid, setresuid},
};

/// A user of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Its name.
    pub name: String,
    /// Its number.
    pub uid: Uid,
    gid: Gid,
}

/// Why a node cannot run as the user that was named.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// There is none.
    #[error("This machine has no user {0}. Make one: sudo useradd --system --shell /usr/sbin/nologin {0}")]
    Nobody(String),
    /// Only root becomes somebody else.
    #[error("Only root can run a node as {0}: start it with sudo, or as {0}, or without --user")]
    NotRoot(String),
    /// The system refuses.
    #[error("The node cannot run as {0}: {1}")]
    Refused(String, #[source] Errno),
}

impl User {
    /// The one that is called so.
    pub fn find(name: &str) -> Result<User, UserError> {
        let found = unistd::User::from_name(name).map_err(|error| UserError::Refused(name.into(), error))?;
        let found = found.ok_or_else(|| UserError::Nobody(name.into()))?;
        Ok(User { name: name.into(), uid: found.uid, gid: found.gid })
    }

    /// This process becomes the user, with its groups, for ever.
    pub fn enter(&self) -> Result<(), UserError> {
        if unistd::geteuid() == self.uid && unistd::getuid() == self.uid {
            return Ok(());
        }
        if !unistd::geteuid().is_root() {
            return Err(UserError::NotRoot(self.name.clone()));
        }
        let refused = |error| UserError::Refused(self.name.clone(), error);
        let name = CString::new(self.name.as_str()).map_err(|_| refused(Errno::EINVAL))?;
        // Without the right to, it stays as it is, and is of no use to a process without capabilities.
        let _ = caps::clear(None, CapSet::Bounding);
        initgroups(&name, self.gid).map_err(refused)?;
        setresgid(self.gid, self.gid, self.gid).map_err(refused)?;
        setresuid(self.uid, self.uid, self.uid).map_err(refused)
    }
}

/// Drops every capability of this thread, and all ways to new ones.
pub(super) fn drop_all() -> Result<(), String> {
    let failed = |what: &str, error: &dyn std::fmt::Display| format!("{what} could not be dropped: {error}");
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP).unwrap_or(false) {
        caps::clear(None, CapSet::Bounding).map_err(|error| failed("the bounding set", &error))?;
    }
    caps::clear(None, CapSet::Inheritable).map_err(|error| failed("inheritable capabilities", &error))?;
    // Those of the ambient set go with them.
    caps::clear(None, CapSet::Permitted).map_err(|error| failed("capabilities", &error))?;
    set_no_new_privs().map_err(|error| format!("new privileges cannot be refused: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_that_is_not_there_is_named_with_what_makes_it() {
        let error = User::find("no-such-user").unwrap_err().to_string();
        assert!(error.contains("useradd --system --shell /usr/sbin/nologin no-such-user"), "{error}");
        assert_eq!(User::find("root").unwrap().uid, Uid::from_raw(0));
    }

    #[test]
    fn who_is_the_user_already_has_nothing_to_do() {
        let own = unistd::User::from_uid(unistd::geteuid()).unwrap().unwrap();
        User::find(&own.name).unwrap().enter().unwrap();
        assert_eq!(unistd::geteuid(), own.uid);
    }
}
