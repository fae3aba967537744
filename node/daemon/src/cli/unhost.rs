//! `phantom unhost`: publish no longer.

use super::{
    Whom,
    host::{self, label},
    say,
};

/// End what `phantom host` began
///
/// All ports of the identity are published no longer, also after a restart. The identity itself is kept: hosted again, it has the same name.
/// A port that phantom.toml declares comes back at the next start or SIGHUP: remove it there, too.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The identity: what --as of `phantom host` said
    #[arg(value_name = "LABEL", default_value = host::LABEL, value_parser = label)]
    label: String,
    #[command(flatten)]
    whom: Whom,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    args.whom.connect().await?.unhost(&args.label).await?;
    Ok(say(&format!("{} is published no longer.\n", args.label))?)
}
