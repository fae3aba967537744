//! Standard output.

use std::io::{self, ErrorKind, Write};

/// Prints what a command says. Who has read enough, as `head` does, has not met an error.
pub(super) fn say(text: &str) -> io::Result<()> {
    is_heard(text).map(|_| ())
}

/// The same, for who goes on speaking: false if nobody reads any more.
pub(super) fn is_heard(text: &str) -> io::Result<bool> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error),
    }
}
