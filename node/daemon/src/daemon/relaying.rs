//! Whether this node serves in the paths of others, as its user reads it.

use std::net::SocketAddr;

use phantom_protocol::node::{QuotaStatus, Relaying};

/// "yes", "proving" or "no", and for the last two why, with what to do about it.
pub(super) fn said(
    relaying: Relaying,
    listen: Option<SocketAddr>,
    quota: Option<&QuotaStatus>,
) -> (&'static str, Option<String>) {
    let address = listen.map_or_else(String::new, |address| address.to_string());
    let (name, why) = match relaying {
        Relaying::Yes => return ("yes", None),
        Relaying::Proving => ("proving", format!("no other node has reached {address} yet")),
        Relaying::Unreached => (
            "no",
            format!("nobody could reach {address}: open the port in the firewall, or leave out --listen"),
        ),
        Relaying::Spent => {
            let renewed = quota.map_or(String::new(), |quota| format!(" until {} 00:00 UTC", quota.renewed));
            ("no", format!("the monthly quota is spent{renewed}"))
        }
        Relaying::Unwanted => ("no", "it was started with --relay never".to_owned()),
        Relaying::Unlisted => ("no", "it only dials; --listen ADDR changes that".to_owned()),
    };
    (name, Some(why))
}
