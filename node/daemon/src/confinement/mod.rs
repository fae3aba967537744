//! What a node gives up before it speaks to anybody, so that whoever takes it over gets little: an attacker's bytes reach
//! its parsers, and its keys are in its memory, but nothing else of the machine need be.
//!
//! | Layer | By | Given up |
//! |---|---|---|
//! | privileges | `capset`, `no_new_privs` | all capabilities, and gaining any by running another program |
//! | files | landlock | every file but those of [`Files`]; all of executing |
//! | signals | landlock | signals to other processes, abstract sockets of theirs |
//! | calls | seccomp | every system call but those of [`calls`] |
//!
//! All of this belongs to a thread and is inherited by those that it starts, so [`confine`] runs before there are any
//! others. What needs a right that goes, such as a port below 1024, is opened before it. None of it can be taken back.

mod calls;
mod files;
mod privileges;
mod report;

pub use self::{
    files::Files,
    privileges::{User, UserError},
    report::{Layer, Missing, Report},
};

/// How much the user wants of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Extent {
    /// Nothing.
    Off,
    /// What this kernel can do; the rest is said.
    #[default]
    Usual,
    /// All of it, or no node.
    Required,
}

/// Why the node must not start.
#[derive(Debug, thiserror::Error)]
pub enum ConfinementError {
    /// Required, and not to be had.
    #[error(
        "This machine cannot confine the node as confinement = \"required\" demands: {0}. Use a newer kernel, or take the line \
         out: the node then does what it can, and `phantom status` says what that is"
    )]
    Incomplete(Report),
    /// A mistake of ours: other threads would keep what this one gives up.
    #[error("there are {0} threads already, of which only one could be confined")]
    Threads(usize),
}

/// Gives up everything that a node does not need. What it has open stays open.
pub fn confine(files: &Files, extent: Extent) -> Result<Report, ConfinementError> {
    if extent == Extent::Off {
        return Ok(Report::off());
    }
    let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads > 1 {
        return Err(ConfinementError::Threads(threads));
    }
    let mut report = Report::default();
    // The last one closes the way to the others.
    report.add(Layer::Privileges, privileges::drop_all());
    files.close_others(&mut report);
    report.add(Layer::Calls, calls::refuse_others());
    if extent == Extent::Required && !report.missing.is_empty() {
        return Err(ConfinementError::Incomplete(report));
    }
    Ok(report)
}
