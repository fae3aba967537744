//! `phantom completions`: what a shell needs to finish words.

use clap::{CommandFactory, ValueEnum};
use clap_complete::Shell;

use super::{Cli, say};

/// Print what a shell needs to finish the words of this command
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  phantom completions bash > ~/.local/share/bash-completion/completions/phantom
  phantom completions zsh > ~/.zfunc/_phantom      (with fpath+=~/.zfunc before compinit in ~/.zshrc)
  phantom completions fish > ~/.config/fish/completions/phantom.fish")]
pub(super) struct Args {
    /// The shell
    shell: Known,
}

/// Those that people of this system use.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Known {
    Bash,
    Zsh,
    Fish,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    Ok(say(&script(args.shell))?)
}

fn script(shell: Known) -> String {
    let shell = match shell {
        Known::Bash => Shell::Bash,
        Known::Zsh => Shell::Zsh,
        Known::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "phantom", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shell_learns_every_command() {
        for (shell, mark) in [
            (Known::Bash, "complete -F"),
            (Known::Zsh, "#compdef phantom"),
            (Known::Fish, "complete -c phantom"),
        ] {
            let script = script(shell);
            assert!(script.contains(mark), "{shell:?}");
            for command in Cli::command().get_subcommands() {
                assert!(script.contains(command.get_name()), "{shell:?} {}", command.get_name());
            }
        }
    }
}
