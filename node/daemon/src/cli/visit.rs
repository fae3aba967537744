//! `phantom visit`: visit somebody under a kept identity.

use phantom_protocol::address::ApName;

use super::{
    Whom,
    host::label,
    say::{as_json, say},
};
use crate::doors::LABEL_RULE;

/// Visit a .ap name under an identity that is kept, or list who is visited so
///
/// Programs visit everybody under one-time identities, which nobody can link. Who is to be let in where only known visitors
/// are must show the same identity each time: this chooses one for one name, also after restarts. From then on all programs
/// of this node, of every isolation group, are one visitor to it, and what they do there can be linked. Connections that
/// are open already stay as they are.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  phantom visit NAME.ap --as anna        prints what the owner of NAME.ap gives to `phantom host ... --allow`
  phantom visit                          who is visited so
  phantom visit --forget NAME.ap         one-time identities again; the identity is kept")]
pub(super) struct Args {
    /// Who is visited
    #[arg(value_name = "NAME.ap", requires = "label")]
    to: Option<ApName>,
    #[arg(
        long = "as",
        value_name = "LABEL",
        requires = "to",
        value_parser = label,
        help = format!("The identity: {LABEL_RULE}; it is made when it is first used")
    )]
    label: Option<String>,
    /// Visit this name under one-time identities again
    #[arg(long, value_name = "NAME.ap", conflicts_with_all = ["to", "label"])]
    forget: Option<ApName>,
    /// For programs: fields are added in later versions, never renamed
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    whom: Whom,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let mut client = args.whom.connect().await?;
    let visits = match (&args.to, &args.label, &args.forget) {
        (Some(to), Some(label), _) => client.visit(to, label).await?,
        (_, _, Some(forget)) => client.forget_visit(forget).await?,
        _ => client.visits().await?,
    };
    if args.json {
        return Ok(say(&as_json(&visits)?)?);
    }
    let text = match (&args.to, &args.forget, visits.first()) {
        (Some(to), _, Some(visit)) => format!(
            "{to} is visited as {}, which is\n{}\nIts owner lets you in with: phantom host PORT --allow {}\n",
            visit.label, visit.name, visit.address
        ),
        (_, Some(forget), _) => format!("{forget} is visited under one-time identities again.\n"),
        (_, _, None) => "Nobody is visited under a kept identity.\n".to_owned(),
        _ => visits.iter().map(|visit| format!("{visit}\n")).collect(),
    };
    Ok(say(&text)?)
}
