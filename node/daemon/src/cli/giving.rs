//! What a node gives to others: how its user writes that.

use phantom_protocol::node::Relay;

/// Whether it serves in the paths of others.
pub(super) fn relay(text: &str) -> Result<Relay, String> {
    match text {
        "auto" => Ok(Relay::Auto),
        "always" => Ok(Relay::Always),
        "never" => Ok(Relay::Never),
        _ => Err("it is auto, always or never".to_owned()),
    }
}
