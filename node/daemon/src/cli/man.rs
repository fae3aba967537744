//! `phantom man`: the manual, a page for each command, made from what `--help` says.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::Context;
use clap::CommandFactory;

use super::{Cli, say};

/// Write the manual: one page for each command
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  phantom man ~/.local/share/man/man1    then: man phantom, man phantom-host
  phantom man /tmp/pages                 then: man -l /tmp/pages/phantom.1")]
pub(super) struct Args {
    /// The folder to write the pages into; it is made if it is not there, and pages in it are replaced
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let count = write(&args.folder).with_context(|| {
        format!(
            "The manual cannot be written into {}. Name a folder that you may write to",
            args.folder.display()
        )
    })?;
    Ok(say(&format!("{count} pages are in {}.\n", args.folder.display()))?)
}

fn write(folder: &Path) -> io::Result<usize> {
    fs::create_dir_all(folder)?;
    clap_mangen::generate_to(Cli::command().disable_help_subcommand(true), folder)?;
    Ok(fs::read_dir(folder)?.flatten().filter(|page| is_ours(&page.file_name().to_string_lossy())).count())
}

fn is_ours(page: &str) -> bool {
    page.starts_with("phantom") && page.ends_with(".1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_has_a_page_with_its_examples() {
        let folder = tempfile::tempdir().unwrap();
        write(&folder.path().join("a/man1")).unwrap();
        let page = |name: &str| fs::read_to_string(folder.path().join("a/man1").join(name)).unwrap();
        assert!(page("phantom.1").contains("Exit codes"), "{}", page("phantom.1"));
        for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let page = page(&format!("phantom-{}.1", command.get_name()));
            assert!(page.contains(".SH NAME"), "{page}");
        }
        assert!(page("phantom-host.1").contains("phantom host 80"));
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = run(&Args { folder: file.path().join("man1") }).unwrap_err();
        assert!(format!("{error:#}").contains(&file.path().display().to_string()), "{error:#}");
    }
}
