//! `phantom shell`: a shell whose programs are all under the seal of `phantom run`.

use std::{env, ffi::OsString, io, process::ExitCode};

use nix::unistd::{User, getuid};

use super::run::{Options, seal};
use crate::supervise::Begun;

/// Open a shell, from which everything goes through the network, and nowhere else
///
/// As `phantom run` does with one program. The shell is that of $SHELL; PHANTOM_RUN=1 is in its environment, so that a prompt
/// can show where one is.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  phantom shell
  phantom shell -- -c 'curl http://NAME.ap/'
  PS1='${PHANTOM_RUN:+(ap) }'$PS1      in ~/.bashrc: the prompt shows it

Exit code: that of the shell.")]
pub(super) struct Args {
    #[command(flatten)]
    options: Options,
    /// What the shell is given
    #[arg(last = true, value_name = "ARGUMENT")]
    arguments: Vec<OsString>,
}

pub(super) async fn run(args: Args, island: io::Result<Begun>) -> anyhow::Result<ExitCode> {
    let shell = shell();
    if args.arguments.is_empty() {
        eprintln!(
            "phantom: {} under the seal: what you start here reaches names in .ap, and nothing else. `exit` ends it.",
            shell.display()
        );
    }
    seal(&args.options, island, &shell, &args.arguments).await
}

/// The user's.
fn shell() -> OsString {
    let of_user = || User::from_uid(getuid()).ok().flatten().map(|user| user.shell.into_os_string());
    let named = env::var_os("SHELL").or_else(of_user).filter(|shell| !shell.is_empty());
    named.unwrap_or_else(|| "/bin/sh".into())
}
