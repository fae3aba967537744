//! `phantom new-identity`: nothing that comes after can be linked to what was before.

use super::{Whom, say};

/// Let programs start afresh: other paths, other sessions
///
/// All isolation groups end their sessions and the paths that they have used; connections of programs that are open are cut.
/// What they do from then on goes through new paths and speaks from new one-time identities. What is hosted goes on. What a
/// program itself remembers, such as a browser's cookies, it still remembers.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  phantom new-identity

Exit codes: 0 done, 1 could not be done (no node is running, ...), 2 wrong usage.")]
pub(super) struct Args {
    #[command(flatten)]
    whom: Whom,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let ended = args.whom.connect().await?.new_identity().await?;
    Ok(say(&format!("Programs start afresh. Ended: {} sessions, {} paths.\n", ended.sessions, ended.paths))?)
}
