//! What is given up, and what is not and why: a part of `phantom status`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One kind of what a node gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layer {
    /// Capabilities, and ways to new ones.
    Privileges,
    /// Files that are not the node's.
    Files,
    /// Signals to other processes, and their abstract sockets.
    Signals,
    /// System calls.
    Calls,
    /// One that a later version has.
    #[serde(other)]
    Unknown,
}

/// How far a node is confined. A field of JSON that is stable: others are added, none is renamed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// What it has given up.
    pub enforced: Vec<Layer>,
    /// What it has not.
    pub missing: Vec<Missing>,
}

/// Something that a node has not given up, or not wholly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// What.
    pub layer: Layer,
    /// Why.
    pub why: String,
}

impl Report {
    /// Nothing, as the user wishes.
    pub(super) fn off() -> Report {
        let why = || "it was switched off (--no-confinement)".to_owned();
        let layers = [Layer::Privileges, Layer::Files, Layer::Signals, Layer::Calls];
        Report { enforced: Vec::new(), missing: layers.map(|layer| Missing { layer, why: why() }).into() }
    }

    pub(super) fn add(&mut self, layer: Layer, result: Result<(), String>) {
        match result {
            Ok(()) => self.enforced.push(layer),
            Err(why) => self.missing.push(Missing { layer, why }),
        }
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Layer::Privileges => "privileges",
            Layer::Files => "files",
            Layer::Signals => "signals",
            Layer::Calls => "calls",
            Layer::Unknown => "more",
        })
    }
}

/// One line: what is given up, and after "not" what is not.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = Vec::new();
        if !self.enforced.is_empty() {
            parts.push(self.enforced.iter().map(Layer::to_string).collect::<Vec<_>>().join(", "));
        }
        let mut told: Vec<&str> = Vec::new();
        for Missing { why, .. } in &self.missing {
            if !told.contains(&why.as_str()) {
                let layers = self.missing.iter().filter(|other| other.why == *why);
                let layers: Vec<String> = layers.map(|other| other.layer.to_string()).collect();
                parts.push(format!("not {}: {why}", layers.join(", ")));
                told.push(why);
            }
        }
        f.write_str(if parts.is_empty() { "unknown" } else { "" })?;
        f.write_str(&parts.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_says_what_is_given_up_and_each_reason_once() {
        let mut report = Report::default();
        assert_eq!(report.to_string(), "unknown", "a node of an earlier version says nothing");
        report.add(Layer::Privileges, Ok(()));
        report.add(Layer::Calls, Ok(()));
        assert_eq!(report.to_string(), "privileges, calls");
        report.add(Layer::Files, Err("no landlock".into()));
        report.add(Layer::Signals, Err("no landlock".into()));
        assert_eq!(report.to_string(), "privileges, calls; not files, signals: no landlock");
        let off = Report::off().to_string();
        assert_eq!(off, "not privileges, files, signals, calls: it was switched off (--no-confinement)");
    }

    #[test]
    fn a_layer_of_a_later_version_is_no_error() {
        let read: Report = serde_json::from_str(r#"{"enforced": ["files", "thoughts"], "x": 1}"#).unwrap();
        assert_eq!(read.enforced, [Layer::Files, Layer::Unknown]);
        assert_eq!(serde_json::to_string(&Layer::Calls).unwrap(), "\"calls\"");
    }
}
