//! What is logged, on standard error: what `PHANTOM_LOG` says, or else `log` of phantom.toml, or else what is wrong.
//!
//! Without `--unsafe-logs` only Phantom's own parts are logged, whose every line was written with care for who is in it
//! ([`crate::hidden`]); the libraries inside name addresses, names and more. For the same reason a fault of this program
//! is told by its place alone: its message may hold anything.

use std::{env, panic};

use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use crate::hidden;

/// What is logged when nobody says anything.
const LOGGED: &str = "error,phantom_node=warn,phantom_proxy=warn";
/// All targets of Phantom begin so, and no library's does.
const OWN: &str = "phantom";

/// The log of this process.
pub(super) struct Logs {
    /// What the environment says, if it can be read.
    wished: Option<String>,
    change: Box<dyn Fn(EnvFilter)>,
}

impl Logs {
    /// Begins to log. A wish that cannot be read is no reason to do nothing, but it is said.
    pub(super) fn begin() -> Logs {
        let wish = env::var_os("PHANTOM_LOG").filter(|wish| !wish.is_empty());
        let mut wished = wish.as_ref().map(|wish| wish.to_string_lossy().into_owned());
        if let (Some(wish), Some(Err(expected))) = (&wish, wished.as_deref().map(filter)) {
            eprintln!("phantom: PHANTOM_LOG={} is not understood: {expected}", wish.display());
            wished = None;
        }
        let log = tracing_subscriber::fmt()
            .with_env_filter(permitted(wished.as_deref().unwrap_or(LOGGED)))
            .with_writer(std::io::stderr)
            .with_filter_reloading();
        let handle = log.reload_handle();
        log.init();
        keep_faults_short();
        let change = move |filter: EnvFilter| {
            if let Err(error) = handle.reload(filter) {
                tracing::warn!("what is logged cannot be changed: {error}");
            }
        };
        Logs { wished, change: Box::new(change) }
    }

    /// What a configuration says. The environment goes before it.
    pub(super) fn configure(&self, wish: Option<&str>) {
        (self.change)(permitted(self.wished.as_deref().or(wish).unwrap_or(LOGGED)));
    }
}

/// What of a wish may be logged.
fn permitted(wish: &str) -> EnvFilter {
    EnvFilter::new(if hidden::is_shown() { wish.to_owned() } else { of_our_own(wish) })
}

/// A wish, as far as it is about Phantom's own parts.
fn of_our_own(wish: &str) -> String {
    let own = |part: &str| match part.trim() {
        part if part.starts_with(OWN) => Some(part.to_owned()),
        level if is_level(level) => Some(format!("{OWN}={level}")),
        _ => None,
    };
    let parts: Vec<String> = wish.split(',').filter_map(own).collect();
    if parts.is_empty() { "off".to_owned() } else { parts.join(",") }
}

/// Reads a wish. A word alone is a level: as the name of a module, which it could be too, it would mostly be a mistake.
pub(super) fn filter(wish: &str) -> Result<EnvFilter, &'static str> {
    let expected =
        "it looks like debug, or phantom_node=debug; the levels are error, warn, info, debug and trace";
    let is_clear = |part: &str| is_level(part.rsplit_once('=').map_or(part, |(_, level)| level));
    match EnvFilter::try_new(wish) {
        Ok(filter) if wish.split(',').all(is_clear) => Ok(filter),
        _ => Err(expected),
    }
}

fn is_level(text: &str) -> bool {
    !text.trim().is_empty() && text.trim().parse::<LevelFilter>().is_ok()
}

fn keep_faults_short() {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |fault| {
        if hidden::is_shown() {
            usual(fault);
        } else {
            let place = fault.location().map(ToString::to_string).unwrap_or_default();
            eprintln!("phantom: a fault at {place}. Please report it; --unsafe-logs shows more.");
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_modules_with_levels_are_understood_and_stray_words_are_not() {
        for right in ["debug", "WARN", "info,phantom_node=trace", "phantom_node::link=off", LOGGED] {
            assert!(filter(right).is_ok(), "{right}");
        }
        for wrong in ["", "everything", "info,everything", "phantom_node=loud", "="] {
            assert!(filter(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_our_own_parts_are_logged_whatever_is_wished() {
        for (wish, permitted) in [
            ("trace", "phantom=trace"),
            ("info,quinn=trace,phantom_node::link=debug", "phantom=info,phantom_node::link=debug"),
            ("quinn=trace", "off"),
            ("hickory_server=debug,[span]=info", "off"),
        ] {
            assert_eq!(of_our_own(wish), permitted, "{wish}");
        }
    }
}
