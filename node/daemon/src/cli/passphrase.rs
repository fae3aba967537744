//! Passphrases: from a terminal, which does not show them, or from a file.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::MetadataExt,
    path::Path,
    sync::Arc,
};

use anyhow::{Context, bail, ensure};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use tokio::task::spawn_blocking;
use zeroize::Zeroizing;

use super::{Usage, running::Asked};

/// No passphrase is longer, in bytes.
const LONGEST: usize = 1024;
/// What seals for long is not shorter, in characters.
const SHORTEST: usize = 8;

/// Erased when it is dropped.
pub(super) type Passphrase = Zeroizing<Vec<u8>>;

/// One to open something with.
pub(super) async fn known(file: Option<&Path>) -> anyhow::Result<Passphrase> {
    match file {
        Some(file) => from_file(file),
        None => from_terminal("Passphrase: ").await,
    }
}

/// One to seal something with: on a terminal it is asked for twice.
pub(super) async fn new(file: Option<&Path>) -> anyhow::Result<Passphrase> {
    let Some(file) = file else {
        let first = long_enough(from_terminal("New passphrase: ").await?)?;
        let second = from_terminal("The same again: ").await?;
        ensure!(*first == *second, "The two passphrases differ. Nothing was written: start again.");
        return Ok(first);
    };
    long_enough(from_file(file)?)
}

fn long_enough(passphrase: Passphrase) -> anyhow::Result<Passphrase> {
    let characters = String::from_utf8_lossy(&passphrase).chars().count();
    ensure!(
        characters >= SHORTEST,
        "A passphrase of fewer than {SHORTEST} characters is guessed soon. Take some words that do not belong together."
    );
    Ok(passphrase)
}

/// The first line of a file that nobody else can read.
fn from_file(file: &Path) -> anyhow::Result<Passphrase> {
    let read = || -> std::io::Result<(u32, Passphrase)> {
        let opened = File::open(file)?;
        let mode = opened.metadata()?.mode();
        let mut bytes = Zeroizing::new(Vec::with_capacity(LONGEST + 1));
        opened.take(LONGEST as u64 + 1).read_to_end(&mut bytes)?;
        Ok((mode, bytes))
    };
    let (mode, bytes) =
        read().with_context(|| format!("The passphrase file {} cannot be read", file.display()))?;
    ensure!(
        mode & 0o044 == 0,
        "The passphrase file {file} can be read by other users of this machine. If nobody has, run: chmod 600 '{file}'",
        file = file.display()
    );
    first_line(bytes).with_context(|| format!("The passphrase file {} cannot be used", file.display()))
}

/// Cuts off what follows the first line.
fn first_line(mut bytes: Passphrase) -> anyhow::Result<Passphrase> {
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    ensure!(end <= LONGEST, "A passphrase has at most {LONGEST} bytes");
    bytes.truncate(end);
    if bytes.last() == Some(&b'\r') {
        bytes.pop();
    }
    ensure!(!bytes.is_empty(), "The passphrase is empty");
    Ok(bytes)
}

async fn from_terminal(prompt: &str) -> anyhow::Result<Passphrase> {
    let Ok(terminal) = OpenOptions::new().read(true).write(true).open("/dev/tty") else {
        return Err(Usage(
            "There is no terminal to ask for the passphrase. Give the file that holds it: --passphrase-file FILE".into(),
        )
        .into());
    };
    let terminal = Arc::new(terminal);
    let _silence = Silence::begin(Arc::clone(&terminal)).context("The terminal cannot be made silent")?;
    (&*terminal).write_all(prompt.as_bytes())?;
    let reading = spawn_blocking(move || {
        let mut line = Zeroizing::new(vec![0; LONGEST + 1]);
        // A terminal gives one line, or as much of it as there is room for.
        let length = (&*terminal).read(&mut line)?;
        line.truncate(length);
        Ok::<_, std::io::Error>(line)
    });
    let mut asked = Asked::new()?;
    tokio::select! {
        line = reading => first_line(line??),
        () = asked.until_end() => bail!("Nothing was done."),
    }
}

/// The terminal shows nothing of what is typed but the end of a line, until this is dropped.
struct Silence {
    terminal: Arc<File>,
    before: Termios,
}

impl Silence {
    fn begin(terminal: Arc<File>) -> nix::Result<Silence> {
        let before = tcgetattr(&terminal)?;
        let mut silent = before.clone();
        silent.local_flags.remove(LocalFlags::ECHO);
        silent.local_flags.insert(LocalFlags::ECHONL | LocalFlags::ICANON);
        // What was typed before the question is no answer to it.
        tcsetattr(&terminal, SetArg::TCSAFLUSH, &silent)?;
        Ok(Silence { terminal, before })
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        // What was typed too much is not for the shell to run and to show.
        let _ = tcsetattr(&self.terminal, SetArg::TCSAFLUSH, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn said(bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        new(Some(file.path())).await.map(|passphrase| passphrase.to_vec())
    }

    #[tokio::test]
    async fn a_file_gives_its_first_line() {
        for file in ["correct horse", "correct horse\n", "correct horse\r\n", "correct horse\nmore\n"] {
            assert_eq!(said(file.as_bytes()).await.unwrap(), b"correct horse", "{file:?}");
        }
    }

    #[tokio::test]
    async fn a_file_that_others_can_read_is_refused() {
        use std::{fs::Permissions, os::unix::fs::PermissionsExt};
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "correct horse").unwrap();
        for (mode, is_good) in [(0o604, false), (0o640, false), (0o600, true), (0o400, true)] {
            std::fs::set_permissions(file.path(), Permissions::from_mode(mode)).unwrap();
            match known(Some(file.path())).await {
                Ok(_) => assert!(is_good, "{mode:o}"),
                Err(error) => {
                    assert!(!is_good && error.to_string().contains("chmod 600 "), "{mode:o}: {error}")
                }
            }
        }
    }

    #[tokio::test]
    async fn what_is_empty_short_or_endless_is_refused() {
        for (file, word) in
            [("", "empty"), ("\n", "empty"), ("short", "8 characters"), ("äöüäöü\n", "8 characters")]
        {
            let error = format!("{:#}", said(file.as_bytes()).await.unwrap_err());
            assert!(error.contains(word), "{file:?}: {error}");
        }
        let error = format!("{:#}", said(&[b'x'; 5000]).await.unwrap_err());
        assert!(error.contains("1024"), "{error}");
        assert_eq!(said(&[b'x'; LONGEST]).await.unwrap().len(), LONGEST);
    }
}
