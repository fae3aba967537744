//! What the user sees while something takes time: a spinner on a terminal, plain lines elsewhere.

use std::{
    io::{IsTerminal, stderr},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};

/// Ends, and leaves no trace on a terminal, when dropped.
pub(super) struct Progress {
    spinner: Option<ProgressBar>,
    last: String,
}

impl Progress {
    pub(super) fn new() -> Progress {
        let spinner = stderr().is_terminal().then(|| {
            let spinner = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
                spinner.set_style(style);
            }
            spinner.enable_steady_tick(Duration::from_millis(120));
            spinner
        });
        Progress { spinner, last: String::new() }
    }

    /// What is going on now. Said once, however often it is repeated.
    pub(super) fn say(&mut self, what: impl Into<String>) {
        let what = what.into();
        if what == self.last {
            return;
        }
        match &self.spinner {
            Some(spinner) => spinner.set_message(what.clone()),
            None => eprintln!("{what}"),
        }
        self.last = what;
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
    }
}
