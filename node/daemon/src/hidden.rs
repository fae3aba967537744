//! What the log shows only to who asked for it: who a peer is, where it is, which name a program wants.
//!
//! A log is copied into reports of faults, and read by whoever seizes the machine. Unless the user has chosen
//! `--unsafe-logs`, nothing in it tells who speaks with whom.

use std::{
    fmt,
    sync::atomic::{AtomicBool, Ordering},
};

static SHOWN: AtomicBool = AtomicBool::new(false);

/// Lets this process show from now on what is hidden.
pub fn show() {
    SHOWN.store(true, Ordering::Relaxed);
}

/// Whether it does.
pub fn is_shown() -> bool {
    SHOWN.load(Ordering::Relaxed)
}

/// A value that the log shows only under `--unsafe-logs`.
pub struct Hidden<T>(pub T);

impl<T: fmt::Display> fmt::Display for Hidden<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if is_shown() { self.0.fmt(f) } else { f.write_str("[hidden]") }
    }
}

impl<T> fmt::Debug for Hidden<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hidden]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_hidden_is_not_printed() {
        assert_eq!(format!("{} {:?}", Hidden("198.51.100.7"), Hidden(7)), "[hidden] [hidden]");
    }
}
