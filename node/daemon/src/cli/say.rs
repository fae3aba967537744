//! Standard output.

use std::io::{self, ErrorKind, Write};

use serde::Serialize;

/// Prints what a command says. Who has read enough, as `head` does, has not met an error.
pub(super) fn say(text: &str) -> io::Result<()> {
    is_heard(text).map(|_| ())
}

/// Prints an answer: for programs, or for people.
pub(super) fn say_as<T: Serialize>(
    json: bool,
    answer: &T,
    for_people: impl FnOnce(&T) -> String,
) -> anyhow::Result<()> {
    Ok(say(&if json { as_json(answer)? } else { for_people(answer) })?)
}

/// An answer as programs read it.
pub(super) fn as_json(answer: &impl Serialize) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(answer)? + "\n")
}

/// Prints it, for who goes on speaking: false if nobody reads any more.
pub(super) fn is_heard(text: &str) -> io::Result<bool> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error),
    }
}
