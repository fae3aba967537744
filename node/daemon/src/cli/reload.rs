//! SIGHUP: the configuration is read again. Services, visits and the log follow it at once; what else has changed is named.

use std::{io::ErrorKind, path::PathBuf};

use super::{
    configuration::{Configuration, ConfigurationError},
    logs::Logs,
};
use crate::daemon::Daemon;

/// What a running node was told by its configuration.
pub(super) struct Reload<'a> {
    pub(super) daemon: &'a Daemon,
    pub(super) logs: &'a Logs,
    /// What `--config` names.
    pub(super) file: Option<PathBuf>,
    /// What it said when the node started: what a restart would change is told against this.
    pub(super) started_with: &'a Configuration,
}

impl Reload<'_> {
    /// Does it, and says what became of it.
    pub(super) async fn run(&self) {
        let new = match Configuration::find(self.file.as_deref()) {
            Ok((new, _)) => new,
            Err(error) => {
                eprintln!(
                    "The configuration was read again, and nothing was changed. {error}{}",
                    hint(&error)
                );
                return;
            }
        };
        self.logs.configure(new.log.as_deref());
        if let Err(error) = self.daemon.declare_visits(&new.visits()).await {
            eprintln!("The configuration was read again, but not all [[visit]] could be followed: {error:#}");
        }
        if let Err(error) = self.daemon.declare(&new.services()).await {
            eprintln!("The configuration was read again, but not all services could be published: {error:#}");
            return;
        }
        println!("The configuration was read again: services, visits and log are what it says.");
        let waiting = self.started_with.differences(&new);
        if !waiting.is_empty() {
            println!(
                "Other keys have changed, too; they count from the next start on: {}",
                waiting.join(", ")
            );
        }
    }
}

/// What a user thinks of last.
fn hint(error: &ConfigurationError) -> &'static str {
    match error {
        ConfigurationError::Unreadable(_, error) if error.kind() == ErrorKind::PermissionDenied => {
            ". The user that the node runs as must be able to read it; a confined node can read a file that was put in its \
             place only in a folder of its own, with no further folder in it"
        }
        _ => "",
    }
}
