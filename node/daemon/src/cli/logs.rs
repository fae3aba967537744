//! What is logged, on standard error: what `PHANTOM_LOG` says, or else `log` of phantom.toml, or else what is wrong.

use std::env;

use tracing_subscriber::{EnvFilter, filter::LevelFilter};

/// What is logged when nobody says anything.
const LOGGED: &str = "error,phantom_node=warn,phantom_proxy=warn";

/// The log of this process.
pub(super) struct Logs {
    is_set_by_environment: bool,
    change: Box<dyn Fn(EnvFilter)>,
}

impl Logs {
    /// Begins to log. A wish that cannot be read is no reason to do nothing, but it is said.
    pub(super) fn begin() -> Logs {
        let wish = env::var_os("PHANTOM_LOG").filter(|wish| !wish.is_empty());
        let wished = wish.as_ref().map(|wish| filter(&wish.to_string_lossy()));
        if let (Some(wish), Some(Err(expected))) = (&wish, &wished) {
            eprintln!("phantom: PHANTOM_LOG={} is not understood: {expected}", wish.display());
        }
        let wished = wished.and_then(Result::ok);
        let is_set_by_environment = wished.is_some();
        let log = tracing_subscriber::fmt()
            .with_env_filter(wished.unwrap_or_else(usual))
            .with_writer(std::io::stderr)
            .with_filter_reloading();
        let handle = log.reload_handle();
        log.init();
        let change = move |filter: EnvFilter| {
            if let Err(error) = handle.reload(filter) {
                tracing::warn!("what is logged cannot be changed: {error}");
            }
        };
        Logs { is_set_by_environment, change: Box::new(change) }
    }

    /// What a configuration says. The environment goes before it.
    pub(super) fn configure(&self, wish: Option<&str>) {
        if !self.is_set_by_environment {
            (self.change)(wish.and_then(|wish| filter(wish).ok()).unwrap_or_else(usual));
        }
    }
}

fn usual() -> EnvFilter {
    EnvFilter::new(LOGGED)
}

/// Reads a wish. A word alone is a level: as the name of a module, which it could be too, it would mostly be a mistake.
pub(super) fn filter(wish: &str) -> Result<EnvFilter, &'static str> {
    let expected =
        "it looks like debug, or phantom_node=debug; the levels are error, warn, info, debug and trace";
    let is_level = |text: &str| !text.trim().is_empty() && text.trim().parse::<LevelFilter>().is_ok();
    let is_clear = |part: &str| is_level(part.rsplit_once('=').map_or(part, |(_, level)| level));
    match EnvFilter::try_new(wish) {
        Ok(filter) if wish.split(',').all(is_clear) => Ok(filter),
        _ => Err(expected),
    }
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
}
