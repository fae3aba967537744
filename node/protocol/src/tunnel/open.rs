//! How tunnels come to be: openers in both directions, joins (PROTOCOL §5).
//!
//! An opener is permuted without any lock; the registry is taken only to find the path before, and to enter the
//! tunnel after. A tunnel is entered before its OPEN or JOIN leaves, so that no answer can be early.

use std::sync::{Arc, MutexGuard};

use super::{
    Answer, ExitTunnel, Kind, Opener, Outlet, OwnedPathId, OwnerTunnelId, PeerMisbehaved, Side, SwitchEvent,
    TunnelRef,
    hop::{End, HopPath, Novelty, Relay, lock},
    layer::Layer,
    origin::{Layers, OpenerRefused, Origin, OwnedPath, Purpose},
    registry::{Refused, Registry, Room, RoutingPath, Seat, Tunnel, TunnelState},
    switch::Switch,
    terminal::{Role, Terminal},
};
use crate::{
    crypto::proof::Token,
    identity::NodeId,
    time::Moment,
    wire::{
        cell::{Body, Cell, Command, LinkId, PathId, TunnelId},
        opener,
    },
};

impl Switch {
    /// Opens a tunnel through a path of ours. Datagrams may follow at once. `None` if the path is gone or full, or if
    /// the opener is not an owner's to send or too long.
    pub fn open_tunnel(
        &self,
        now: Moment,
        path: OwnedPathId,
        opener: &Opener,
        out: &mut impl Outlet,
    ) -> Option<OwnerTunnelId> {
        let purpose = match opener {
            Opener::Echo => Purpose::Echo,
            Opener::Publish { .. } => Purpose::Publish,
            Opener::Join { .. } => Purpose::Join,
            Opener::Incoming => return None,
        };
        let Some(RoutingPath::Owned(owned)) = lock(&self.registry).path(path.0).cloned() else { return None };
        let mut body = opener.encode(&self.random()).ok()?;
        let layers = match owned.wrap_opener(&mut body) {
            Ok(layers) => layers,
            Err(OpenerRefused::Repeated) => return None,
            Err(OpenerRefused::Full) => {
                self.end_path(owned.id, None, out);
                return None;
            }
        };
        let origin = self.enter_origin(now, &owned, None, purpose, layers).ok()?;
        out.forward(owned.end.0, &open_cell(origin.end.1, owned.end.1, body));
        Some(origin.id())
    }

    /// The link that a [`SwitchEvent::Dial`] asked for, or `None` if there is none to be had.
    pub fn exit_dialled(&self, exit: ExitTunnel, link: Option<LinkId>, out: &mut impl Outlet) {
        let at = exit.0;
        match link.and_then(|link| self.enter_join(at, link)) {
            Some((terminal, end)) => terminal.connect(end, &self.held, out),
            None => self.close(at, None, Some(Answer::Unreachable), out),
        }
    }

    /// Gives a waiting exit its second end. `None` if the link or the tunnel is gone.
    fn enter_join(&self, at: TunnelRef, link: LinkId) -> Option<(Arc<Terminal>, End)> {
        let mut registry = lock(&self.registry);
        let terminal = match registry.tunnel(at)? {
            TunnelState { tunnel: Tunnel::Terminal(terminal), join: None } => Arc::clone(terminal),
            _ => return None,
        };
        let end = (link, registry.pick(link).ok()?);
        registry.set_join(at, end);
        self.table.insert(end, Seat::FromJoin(Arc::clone(&terminal)));
        Some((terminal, end))
    }

    pub(super) fn handle_open(&self, now: Moment, from: LinkId, cell: &mut Cell, out: &mut impl Outlet) {
        let (end, path_end) = ((from, cell.tunnel()), (from, cell.path()));
        let path = {
            let registry = lock(&self.registry);
            if !self.may_pick(&registry, end) {
                return out
                    .report(SwitchEvent::Misbehaved { link: from, what: PeerMisbehaved::ForeignTunnelId });
            }
            registry.path_at(path_end).cloned()
        };
        match path {
            Some(RoutingPath::Hop(hop)) => {
                if let Some(side) = hop.side_of(path_end) {
                    self.open_at_hop(now, &hop, side, end, cell.body_mut(), out);
                }
            }
            Some(RoutingPath::Owned(owned)) => self.open_at_owner(now, &owned, end, cell.body_mut(), out),
            // The path was ended here while the opener was on its way.
            None => {}
        }
    }

    /// PROTOCOL §3: the id is one that the peer picks from, and not in use. Whoever sends an opener or a join a second time
    /// fails here, before it is asked what the cell says: the refusal of a repeated opener would close the tunnel that
    /// the first one has opened.
    fn may_pick(&self, registry: &Registry, end: End) -> bool {
        registry.is_peers_pick(end.0, end.1) && !self.table.contains_key(&end)
    }

    fn open_at_hop(
        &self,
        now: Moment,
        hop: &HopPath,
        side: Side,
        end: End,
        body: &mut Body,
        out: &mut impl Outlet,
    ) {
        let layers = match hop.turn_opener(side, body) {
            Ok(layers) => layers,
            Err(Novelty::Full) => {
                self.end_path(hop.id, None, out);
                return;
            }
            Err(_) => {
                out.report(SwitchEvent::Misbehaved { link: end.0, what: PeerMisbehaved::RepeatedOpener });
                return self.refuse(end, out);
            }
        };
        match hop.neighbour(side.other()) {
            Some((link, path)) => self.open_relay(now, hop.id, side, end, (link, path), layers, body, out),
            None => self.open_terminal(now, hop.id, side, end, layers, body, out),
        }
    }

    #[allow(clippy::too_many_arguments)] // an opener's way through a relay is all of these
    fn open_relay(
        &self,
        now: Moment,
        path: u64,
        side: Side,
        end: End,
        next: (LinkId, PathId),
        layers: [Layer; 2],
        body: &Body,
        out: &mut impl Outlet,
    ) {
        let entered = self.enter(now, path, Some(end), None, |registry, at| {
            let onward = (next.0, registry.pick(next.0)?);
            let ends = match side {
                Side::A => [end, onward],
                Side::B => [onward, end],
            };
            Ok((Tunnel::Relay(Arc::new(Relay::new(at, ends, layers, now))), onward))
        });
        match entered {
            Ok(onward) => out.forward(onward.0, &open_cell(onward.1, next.1, *body)),
            Err(refused) => self.refused(end, refused, out),
        }
    }

    #[allow(clippy::too_many_arguments)] // an opener's way into a terminal is all of these
    fn open_terminal(
        &self,
        now: Moment,
        path: u64,
        side: Side,
        end: End,
        layers: [Layer; 2],
        body: &Body,
        out: &mut impl Outlet,
    ) {
        let (role, opener) = match Opener::decode(body) {
            Ok(opener @ Opener::Join { .. }) => (Role::Exit, opener),
            Ok(opener @ (Opener::Echo | Opener::Publish { .. })) => (Role::Echo, opener),
            Ok(Opener::Incoming) | Err(_) => return self.refuse(end, out),
        };
        let entered = self.enter(now, path, Some(end), None, |_, at| {
            let mut terminal = Terminal::new(at, role, end, side, layers, now);
            if let Opener::Join { token, .. } = &opener {
                terminal = terminal.dialling(*token);
            }
            let terminal = Arc::new(terminal);
            Ok((Tunnel::Terminal(Arc::clone(&terminal)), terminal))
        });
        match entered {
            Ok(terminal) => self.obey(&terminal, opener, out),
            Err(refused) => self.refused(end, refused, out),
        }
    }

    /// Does what the opener of a terminal's new tunnel asks for.
    fn obey(&self, terminal: &Terminal, opener: Opener, out: &mut impl Outlet) {
        let exit = ExitTunnel(terminal.at);
        match opener {
            Opener::Join { entry, .. } if entry.id == self.own => {
                self.exit_dialled(exit, Some(LinkId::LOOP_A), out);
            }
            Opener::Join { entry, .. } => out.report(SwitchEvent::Dial { exit, entry }),
            Opener::Echo => out.forward(terminal.owner.0, &terminal.speak(Kind::Echo, &[])),
            Opener::Publish { entry } => {
                out.report(SwitchEvent::Publish { link: terminal.owner.0, entry });
                let answer = terminal.speak(Kind::Answer, &[Answer::Published as u8]);
                out.forward(terminal.owner.0, &answer);
            }
            // Refused before it got a tunnel.
            Opener::Incoming => {}
        }
    }

    fn open_at_owner(
        &self,
        now: Moment,
        owned: &OwnedPath,
        end: End,
        body: &mut Body,
        out: &mut impl Outlet,
    ) {
        if !owned.accepts {
            return self.refuse(end, out);
        }
        let layers = match owned.unwrap_opener(body) {
            Ok(layers) if matches!(Opener::decode(body), Ok(Opener::Incoming)) => layers,
            Ok(_) => return self.refuse(end, out),
            Err(OpenerRefused::Repeated) => {
                out.report(SwitchEvent::Misbehaved { link: end.0, what: PeerMisbehaved::RepeatedOpener });
                return self.refuse(end, out);
            }
            Err(OpenerRefused::Full) => {
                self.end_path(owned.id, None, out);
                return;
            }
        };
        match self.enter_origin(now, owned, Some(end), Purpose::Incoming, layers) {
            Ok(origin) => {
                let (path, tunnel) = (OwnedPathId(owned.id), origin.id());
                out.report(SwitchEvent::Incoming { path, tunnel });
            }
            Err(refused) => self.refused(end, refused, out),
        }
    }

    pub(super) fn handle_join(&self, now: Moment, from: LinkId, cell: &Cell, out: &mut impl Outlet) {
        let end = (from, cell.tunnel());
        let (peer, accepting) = {
            let mut registry = lock(&self.registry);
            let Some(peer) = registry.peer(from) else { return };
            if !self.may_pick(&registry, end) {
                return out
                    .report(SwitchEvent::Misbehaved { link: from, what: PeerMisbehaved::ForeignTunnelId });
            }
            if !registry.may_join(now, from) {
                drop(registry);
                return self.refuse(end, out);
            }
            (peer, registry.accepting())
        };
        let hop = opener::read_join(cell.body())
            .ok()
            .and_then(|token| self.accepting_path(&accepting, &token, &peer))
            .filter(|hop| self.make_room(hop.id, from, out));
        match hop {
            Some(hop) => self.let_in(now, hop, end, out),
            None => self.refuse(end, out),
        }
    }

    /// The path whose owner accepts the token, if the token is new there.
    fn accepting_path<'a>(
        &self,
        accepting: &'a [Arc<HopPath>],
        token: &Token,
        exit: &NodeId,
    ) -> Option<&'a HopPath> {
        let fits = |found, hop: &'a Arc<HopPath>| {
            if hop.accepts(token, exit, &self.own) { Some(&**hop) } else { found }
        };
        accepting.iter().fold(None, fits).filter(|hop| hop.redeem(token))
    }

    /// Applies the flood rules; false if a visitor from this exit has no place.
    fn make_room(&self, path: u64, exit: LinkId, out: &mut impl Outlet) -> bool {
        let room = lock(&self.registry).room_for_visitor(path, exit);
        match room {
            Room::Free => true,
            Room::InPlaceOf(oldest) => {
                self.close(oldest, None, None, out);
                true
            }
            Room::Full => false,
        }
    }

    /// An entry opens a tunnel towards the owner who accepts the token.
    fn let_in(&self, now: Moment, hop: &HopPath, join: End, out: &mut impl Outlet) {
        let Some(outside) = hop.outside() else { return self.refuse(join, out) };
        let Some((link, path)) = hop.neighbour(outside.other()) else { return self.refuse(join, out) };
        let Ok(mut body) = Opener::Incoming.encode(&self.random()) else { return self.refuse(join, out) };
        let layers = match hop.turn_opener(outside, &mut body) {
            Ok(layers) => layers,
            Err(_) => {
                self.refuse(join, out);
                self.end_path(hop.id, None, out);
                return;
            }
        };
        let entered = self.enter(now, hop.id, Some(join), Some(join), |registry, at| {
            let owner = (link, registry.pick(link)?);
            let terminal = Terminal::new(at, Role::Entry, owner, outside.other(), layers, now).joined(join);
            Ok((Tunnel::Terminal(Arc::new(terminal)), owner.1))
        });
        match entered {
            Ok(tunnel) => {
                out.forward(link, &open_cell(tunnel, path, body));
                out.forward(join.0, &self.random_cell(Command::Joined, join.1));
            }
            Err(refused) => self.refused(join, refused, out),
        }
    }

    pub(super) fn handle_joined(&self, end: End, out: &mut impl Outlet) {
        let Some(seat) = self.seat(end) else { return };
        match seat {
            Seat::FromJoin(terminal) => match terminal.answer(Answer::Joined) {
                Some(answer) => out.forward(terminal.owner.0, &answer),
                None => {
                    out.report(SwitchEvent::Misbehaved { link: end.0, what: PeerMisbehaved::BadJoin });
                    self.close(terminal.at, None, None, out);
                }
            },
            Seat::Relay(..) | Seat::FromOwner(_) | Seat::Origin(_) => {
                out.report(SwitchEvent::Misbehaved { link: end.0, what: PeerMisbehaved::BadJoin });
            }
        }
    }

    fn enter_origin(
        &self,
        now: Moment,
        owned: &OwnedPath,
        incoming: Option<End>,
        purpose: Purpose,
        layers: Layers,
    ) -> Result<Arc<Origin>, Refused> {
        let first = u32::from_be_bytes(self.random());
        self.enter(now, owned.id, incoming, None, |registry, at| {
            let end = match incoming {
                Some(end) => end,
                None => (owned.end.0, registry.pick(owned.end.0)?),
            };
            let origin = Arc::new(Origin::new(at, end, purpose, layers, first, now));
            self.owners.insert(origin.id(), Arc::clone(&origin));
            Ok((Tunnel::Origin(Arc::clone(&origin)), origin))
        })
    }

    /// Enters a tunnel into the registry and the table. `picked` is the end whose id the peer picked.
    fn enter<T>(
        &self,
        now: Moment,
        path: u64,
        picked: Option<End>,
        join: Option<End>,
        build: impl FnOnce(&mut Registry, TunnelRef) -> Result<(Tunnel, T), Refused>,
    ) -> Result<T, Refused> {
        let mut registry: MutexGuard<'_, Registry> = lock(&self.registry);
        if picked.is_some_and(|end| self.table.contains_key(&end)) {
            return Err(Refused::InUse);
        }
        let at = registry.next_tunnel(path)?;
        let (tunnel, result) = build(&mut registry, at)?;
        let state = TunnelState { tunnel, join };
        for (end, seat) in state.seats().into_iter().flatten() {
            self.table.insert(end, seat);
        }
        registry.add_tunnel(now, at, state);
        Ok(result)
    }

    /// Answers a tunnel that the peer wanted to open and this node did not enter.
    fn refused(&self, end: End, refused: Refused, out: &mut impl Outlet) {
        match refused {
            Refused::Gone | Refused::Full => self.refuse(end, out),
            Refused::InUse => {
                out.report(SwitchEvent::Misbehaved { link: end.0, what: PeerMisbehaved::ForeignTunnelId });
            }
        }
    }

    fn refuse(&self, end: End, out: &mut impl Outlet) {
        out.forward(end.0, &self.close_cell(end.1));
    }
}

fn open_cell(tunnel: TunnelId, path: PathId, body: Body) -> Cell {
    let mut cell = Cell::new(Command::Open, tunnel);
    cell.set_path(path);
    *cell.body_mut() = body;
    cell
}
