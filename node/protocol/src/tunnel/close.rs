//! How tunnels and paths end: from both ends, from the middle, with a link, with time (PROTOCOL §3, §4, §5).
//!
//! Whoever takes a tunnel out of the registry tells its ends, so each end is told once. A CLOSE for a tunnel that is
//! not there is dropped without effect; so is a DESTROY. Tunnels of a path that ends get no CLOSE inside the path:
//! the DESTROY says it; but the other terminal of a join is told.

use super::{
    Answer, Outlet, OwnedPathId, OwnerTunnelId, SwitchEvent, TunnelRef,
    hop::{End, PathEnd, lock},
    registry::{PathState, RoutingPath, Seat, Tunnel, TunnelState},
    switch::Switch,
};
use crate::{
    time::Moment,
    wire::cell::{Cell, Command, LinkId, PathId, TunnelId},
};

impl Switch {
    /// Closes a tunnel of ours.
    pub fn close_tunnel(&self, tunnel: OwnerTunnelId, out: &mut impl Outlet) {
        let Some(origin) = self.origin(tunnel) else { return };
        if let Some(state) = self.leave(origin.at) {
            self.tell_ends(&state, None, out);
        }
    }

    /// Ends a path that this node serves; either neighbour names it.
    pub fn end_hop_path(&self, link: LinkId, path: PathId, out: &mut impl Outlet) {
        let id = lock(&self.registry).path_number_at((link, path));
        if let Some(id) = id {
            self.take_path(id, None, out);
        }
    }

    /// Ends a path of ours. Its tunnels are reported as closed.
    pub fn end_owned_path(&self, path: OwnedPathId, out: &mut impl Outlet) {
        self.take_path(path.0, None, out);
    }

    /// Ends all paths of others that this node serves, in order.
    pub fn end_paths_of_others(&self, out: &mut impl Outlet) {
        let paths = lock(&self.registry).of_others();
        for path in paths {
            self.end_path(path, None, out);
        }
    }

    /// A link is gone, and with it everything that it carried.
    pub fn link_down(&self, link: LinkId, out: &mut impl Outlet) {
        let (paths, joins) = lock(&self.registry).link_down(link);
        for path in paths {
            self.end_path(path, Some(link), out);
        }
        for at in joins {
            let state = self.leave(at);
            if let Some(state) = state {
                self.tell_owner(&state, Some(Answer::Unreachable), out);
                self.tell_ends(&state, Some(link), out);
            }
        }
    }

    /// Closes what has been idle or unconfirmed for too long, ends paths whose time is over. To be called every
    /// [`SWITCH_SWEEP`](crate::limits::SWITCH_SWEEP).
    pub fn handle_timeout(&self, now: Moment, out: &mut impl Outlet) {
        let (paths, tunnels) = lock(&self.registry).sweep(now);
        for at in tunnels {
            self.close(at, None, None, out);
        }
        for path in paths {
            self.end_path(path, None, out);
        }
    }

    pub(super) fn handle_close(&self, end: End, out: &mut impl Outlet) {
        match self.seat(end) {
            Some(Seat::Relay(relay, _)) => self.close(relay.at, Some(end), None, out),
            Some(Seat::Origin(origin)) => self.close(origin.at, Some(end), None, out),
            Some(Seat::FromOwner(terminal)) => self.close(terminal.at, Some(end), None, out),
            Some(Seat::FromJoin(terminal)) => {
                self.close(terminal.at, Some(end), Some(Answer::Unknown), out);
            }
            None => {}
        }
    }

    pub(super) fn handle_destroy(&self, end: PathEnd, out: &mut impl Outlet) {
        let id = lock(&self.registry).path_number_at(end);
        if let Some(path) = id.and_then(|id| self.take_path(id, Some(end), out)) {
            report_end(&path, out);
        }
    }

    /// Closes a tunnel for what happened in the network. `from` has closed it and need not be told; `answer` is for
    /// an owner that has not got one.
    pub(super) fn close(
        &self,
        at: TunnelRef,
        from: Option<End>,
        answer: Option<Answer>,
        out: &mut impl Outlet,
    ) {
        let Some(state) = self.leave(at) else { return };
        self.tell_owner(&state, answer, out);
        for (end, _) in state.seats().into_iter().flatten() {
            if Some(end) != from {
                out.forward(end.0, &self.close_cell(end.1));
            }
        }
    }

    /// Ends a path for what happened in the network; `down` is a link that is gone.
    pub(super) fn end_path(&self, id: u64, down: Option<LinkId>, out: &mut impl Outlet) {
        let from = down.and_then(|link| {
            let registry = lock(&self.registry);
            registry.path(id)?.ends().into_iter().flatten().find(|end| end.0 == link)
        });
        if let Some(path) = self.take_path(id, from, out) {
            report_end(&path, out);
        }
    }

    /// Removes a path and tells everybody but `from` and the driver.
    fn take_path(&self, id: u64, from: Option<PathEnd>, out: &mut impl Outlet) -> Option<RoutingPath> {
        let PathState { path, tunnels, .. } = {
            let mut registry = lock(&self.registry);
            let state = registry.remove_path(id)?;
            state.tunnels.values().for_each(|tunnel| self.unseat(tunnel));
            state
        };
        for state in tunnels.values() {
            self.shut(state);
            if let Some(end) = state.join {
                out.forward(end.0, &self.close_cell(end.1));
            }
            if let Tunnel::Origin(origin) = &state.tunnel {
                out.report(SwitchEvent::TunnelClosed { tunnel: origin.id() });
            }
        }
        for end in path.ends().into_iter().flatten().filter(|end| Some(*end) != from) {
            out.forward(end.0, &self.destroy_cell(end.1));
        }
        Some(path)
    }

    /// Takes a tunnel out of the registry and the table. `None` if somebody else did.
    fn leave(&self, at: TunnelRef) -> Option<TunnelState> {
        let mut registry = lock(&self.registry);
        let state = registry.remove_tunnel(at)?;
        self.unseat(&state);
        drop(registry);
        self.shut(&state);
        Some(state)
    }

    /// Under the registry's lock, so that an id is not seen free before it is.
    fn unseat(&self, state: &TunnelState) {
        for (end, _) in state.seats().into_iter().flatten() {
            self.table.remove(&end);
        }
        if let Tunnel::Origin(origin) = &state.tunnel {
            self.owners.remove(&origin.id());
        }
    }

    fn shut(&self, state: &TunnelState) {
        if let Tunnel::Terminal(terminal) = &state.tunnel {
            terminal.shut(&self.held);
        }
    }

    /// The owner's side of an end: an answer if it is far, an event if it is here.
    fn tell_owner(&self, state: &TunnelState, answer: Option<Answer>, out: &mut impl Outlet) {
        match &state.tunnel {
            Tunnel::Terminal(terminal) => {
                if let Some(cell) = answer.and_then(|answer| terminal.answer(answer)) {
                    out.forward(terminal.owner.0, &cell);
                }
            }
            Tunnel::Origin(origin) => out.report(SwitchEvent::TunnelClosed { tunnel: origin.id() }),
            Tunnel::Relay(_) => {}
        }
    }

    /// CLOSE to all ends whose link is not down.
    fn tell_ends(&self, state: &TunnelState, down: Option<LinkId>, out: &mut impl Outlet) {
        for (end, _) in state.seats().into_iter().flatten() {
            if Some(end.0) != down {
                out.forward(end.0, &self.close_cell(end.1));
            }
        }
    }

    pub(super) fn close_cell(&self, tunnel: TunnelId) -> Cell {
        self.random_cell(Command::Close, tunnel)
    }

    fn destroy_cell(&self, path: PathId) -> Cell {
        let mut cell = self.random_cell(Command::Destroy, TunnelId::default());
        cell.set_path(path);
        cell
    }

    /// A cell that says all it has to say in its header.
    pub(super) fn random_cell(&self, command: Command, tunnel: TunnelId) -> Cell {
        let mut cell = Cell::new(command, tunnel);
        *cell.body_mut() = self.random();
        cell
    }
}

fn report_end(path: &RoutingPath, out: &mut impl Outlet) {
    out.report(match path {
        RoutingPath::Hop(hop) => SwitchEvent::HopPathEnded { neighbours: hop.neighbours },
        RoutingPath::Owned(owned) => SwitchEvent::OwnedPathEnded { path: OwnedPathId(owned.id) },
    });
}
