//! Standard output.

use std::io::{self, ErrorKind, Write};

/// Prints what a command says. Who has read enough, as `head` does, has not met an error.
pub(super) fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}
