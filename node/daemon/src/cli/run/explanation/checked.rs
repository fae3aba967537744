//! What has been looked at, for what is said of a program to be true.

use serde::Serialize;
use tokio::task::block_in_place;

use crate::supervise::{Findings, Inspector};

/// What has been looked at by now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Checked {
    /// The interfaces of the run's own network; nothing if it has none, and its sockets are bound to the loopback interface.
    pub(super) interfaces: Option<Vec<String>>,
    /// Looks at its processes.
    pub(super) looks: u64,
    /// The most at a time.
    pub(super) processes: u64,
    /// The most at a time.
    pub(super) sockets: u64,
    /// Those that were not of the run's network.
    pub(super) foreign: u64,
    /// Those that could not be looked at.
    pub(super) hidden: u64,
    /// Processes that could not be looked at.
    pub(super) hidden_processes: u64,
    /// Packets that went out by other interfaces of the run's own network than the loopback one; nothing if it has none.
    pub(super) packets_outside: Option<u64>,
}

impl Checked {
    /// The run's network is prepared while the program is on its way already.
    pub(super) fn look_by(&mut self, inspector: &Inspector) {
        self.interfaces = inspector.interfaces().or(self.interfaces.take());
        self.look(block_in_place(|| inspector.look()));
    }

    pub(super) fn look(&mut self, found: Findings) {
        self.looks += 1;
        let Findings { processes, sockets, foreign, hidden, hidden_processes, packets_outside } = found;
        self.processes = self.processes.max(processes);
        self.sockets = self.sockets.max(sockets);
        self.foreign = self.foreign.max(foreign);
        self.hidden = self.hidden.max(hidden);
        self.hidden_processes = self.hidden_processes.max(hidden_processes);
        self.packets_outside = self.packets_outside.max(packets_outside);
    }

    pub(super) fn sentences(&self, made: u64) -> String {
        let where_made = match &self.interfaces {
            Some(interfaces) => {
                format!(
                    "in a network of its own, of which no interface leads out ({})",
                    interfaces.join(", ")
                )
            }
            None => "bound to the loopback interface".to_owned(),
        };
        let mut said = format!("{made} sockets were made for it, {where_made}.");
        if let Some(packets) = self.packets_outside {
            said += &format!(" {packets} packets went elsewhere than to the loopback interface.");
        }
        if self.looks == 0 {
            return said + " It ended before its processes could be looked at.";
        }
        said += &format!(
            " {} looks at its processes (the most at a time: {} with {} sockets) found {} that could lead elsewhere.",
            self.looks, self.processes, self.sockets, self.foreign
        );
        if self.foreign > 0 {
            said += " Somebody who is not sealed has handed those over.";
        }
        if self.hidden > 0 {
            said += &format!(" {} could not be looked at.", self.hidden);
        }
        if self.hidden_processes > 0 {
            said += &format!(" Into {} of the processes nobody may look.", self.hidden_processes);
        }
        said
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn checked() -> Checked {
        let mut checked = Checked { interfaces: Some(vec!["lo".to_owned()]), ..Checked::default() };
        let found = Findings { packets_outside: Some(0), ..Findings::default() };
        checked.look(Findings { processes: 2, sockets: 4, ..found });
        checked.look(Findings { processes: 1, sockets: 7, ..found });
        checked
    }

    #[test]
    fn only_what_was_checked_is_said() {
        let unseen = Checked { interfaces: None, ..Checked::default() };
        let said = unseen.sentences(1);
        assert!(
            said.contains("bound to the loopback interface") && said.contains("before its processes could"),
            "{said}"
        );
        let mut found = checked();
        found.look(Findings {
            processes: 1,
            sockets: 1,
            foreign: 1,
            hidden: 2,
            hidden_processes: 3,
            packets_outside: Some(3),
        });
        let said = found.sentences(1);
        assert!(
            said.contains("found 1 that could lead")
                && said.contains("not sealed")
                && said.contains("2 could not")
                && said.contains("Into 3 of the processes")
                && said.contains("3 packets went elsewhere"),
            "{said}"
        );
    }
}
