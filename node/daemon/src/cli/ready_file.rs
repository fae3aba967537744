//! The file of `--ready-file`: there while everything stands, for scripts that wait for that.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::Context;
use serde::Serialize;

/// A place that nobody may have asked for.
#[derive(Debug)]
pub(super) struct ReadyFile(Option<PathBuf>);

/// A file beside that place, open for writing. It goes away if it is never finished.
#[derive(Debug)]
pub(super) struct Unfinished(Option<(PathBuf, File)>);

impl ReadyFile {
    /// Removes what another run has left: somebody may be waiting for a new one.
    pub(super) fn at(place: Option<&Path>) -> anyhow::Result<ReadyFile> {
        let file = ReadyFile(place.map(Path::to_owned));
        file.remove()?;
        Ok(file)
    }

    /// Opens what will be there: a confined node opens no files in other folders than its own.
    pub(super) fn begin(&self) -> anyhow::Result<Unfinished> {
        let Some(file) = &self.0 else { return Ok(Unfinished(None)) };
        let mut unfinished = file.as_os_str().to_owned();
        unfinished.push(".unfinished");
        let unfinished = PathBuf::from(unfinished);
        let opened = open_new(&unfinished).with_context(|| self.cannot_be("written"))?;
        Ok(Unfinished(Some((unfinished, opened))))
    }

    /// Whoever finds the file finds it whole.
    pub(super) fn write(&self, mut begun: Unfinished, content: &impl Serialize) -> anyhow::Result<()> {
        let (Some(file), Some((unfinished, opened))) = (&self.0, &mut begun.0) else { return Ok(()) };
        let mut text = serde_json::to_vec_pretty(content)?;
        text.push(b'\n');
        opened
            .write_all(&text)
            .and_then(|()| fs::rename(unfinished, file))
            .with_context(|| self.cannot_be("written"))
    }

    /// At the end.
    pub(super) fn remove(&self) -> anyhow::Result<()> {
        let Some(file) = &self.0 else { return Ok(()) };
        remove_if_there(file).with_context(|| self.cannot_be("replaced"))
    }

    /// Where it is to be.
    pub(super) fn place(&self) -> Option<&Path> {
        self.0.as_deref()
    }

    fn cannot_be(&self, what: &str) -> String {
        let file = self.0.as_deref().unwrap_or(Path::new(""));
        format!("The ready file {} cannot be {what}", file.display())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some((unfinished, _)) = &self.0 {
            // When it was finished, it is not there.
            let _ = fs::remove_file(unfinished);
        }
    }
}

/// What stood there is gone; if it was a link, what it led to is left alone.
fn open_new(file: &Path) -> io::Result<File> {
    remove_if_there(file)?;
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)
}

fn remove_if_there(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_there_between_readiness_and_the_end_only() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("ready.json");
        fs::write(&place, "of another run").unwrap();
        let file = ReadyFile::at(Some(&place)).unwrap();
        assert!(!place.exists());
        drop(file.begin().unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        file.write(file.begin().unwrap(), &["here"]).unwrap();
        assert_eq!(fs::read_to_string(&place).unwrap(), "[\n  \"here\"\n]\n");
        file.remove().unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_file_is_private_and_written_through_no_link() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let folder = tempfile::tempdir().unwrap();
        let (place, other) = (folder.path().join("ready.json"), folder.path().join("other"));
        fs::write(&other, "of somebody").unwrap();
        symlink(&other, folder.path().join("ready.json.unfinished")).unwrap();
        let file = ReadyFile::at(Some(&place)).unwrap();
        file.write(file.begin().unwrap(), &1).unwrap();
        assert_eq!(fs::read_to_string(&other).unwrap(), "of somebody");
        let written = fs::symlink_metadata(&place).unwrap();
        assert!(written.is_file() && written.permissions().mode() & 0o777 == 0o600, "{written:?}");
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named() {
        let file = ReadyFile::at(Some(Path::new("/no/such/folder/ready.json"))).unwrap();
        let error = file.begin().unwrap_err().to_string();
        assert!(error.contains("/no/such/folder/ready.json"), "{error}");
    }
}
