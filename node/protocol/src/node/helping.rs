//! What a node does for other owners: it is a hop of their paths, and an exit of their tunnels (PROTOCOL §4.5, §5).

use std::time::Duration;

use super::{Node, Waiter};
use crate::{
    path::hop::{HopOutput, NewHop},
    time::Now,
    tunnel::{ExitTunnel, HopInstall, Outlet},
    wire::contact::Contact,
};

impl Node {
    /// Helps with other owners' paths.
    pub(super) fn drive_setups(&mut self, now: Now, out: &mut impl Outlet) {
        let mut installed = true;
        while let Some(output) = self.setups.poll_output() {
            match output {
                HopOutput::NeedLink(contact) => match self.neighbours.link(&contact.id) {
                    Some(link) => self.setups.handle_link(now, contact.id, Some(link)),
                    None => {
                        if contact.address.is_none() || !self.dial_for_stranger(now, contact, Waiter::Setups)
                        {
                            self.setups.handle_link(now, contact.id, None);
                        }
                    }
                },
                // The array of round 2 follows its hop: without the one the other stays, and the owner starts anew.
                HopOutput::Forward { link, round, connection, array } => {
                    if std::mem::replace(&mut installed, true) {
                        self.send_array(link, round, connection, array);
                    }
                }
                HopOutput::Install(hop) => installed = self.install_hop(now, hop, out),
            }
        }
    }

    /// False if the path cannot be served.
    pub(super) fn install_hop(&mut self, now: Now, hop: NewHop, out: &mut impl Outlet) -> bool {
        let neighbours = hop.neighbours.map(|side| side.map(|side| (side.link, side.path)));
        let life = Duration::from_secs(hop.expiry.0.saturating_sub(now.unix.0));
        let install = HopInstall {
            neighbours,
            secret: hop.secret,
            route_keys: hop.route_keys,
            expires: now.moment + life,
            idle: hop.idle,
        };
        let installed = self.switch.install_hop(now.moment, install);
        if !installed {
            // If an id is taken, both go: no honest owner draws one twice (PROTOCOL §4).
            for (link, path) in neighbours.into_iter().flatten() {
                self.switch.end_hop_path(link, path, out);
            }
        }
        installed
    }

    /// The exit's part of a join.
    pub(super) fn dial_for_exit(
        &mut self,
        now: Now,
        exit: ExitTunnel,
        entry: Contact,
        out: &mut impl Outlet,
    ) {
        match self.neighbours.link(&entry.id) {
            Some(link) => self.switch.exit_dialled(exit, Some(link), out),
            None => {
                if entry.address.is_none() || !self.dial_for_stranger(now, entry, Waiter::Exit(exit)) {
                    self.switch.exit_dialled(exit, None, out);
                }
            }
        }
    }
}
