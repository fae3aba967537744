//! No connection id is seen on two tunnels (PROTOCOL §6): the first tunnel that carries a destination id keeps it.
//!
//! quinn alone does not promise this: a transmit that was buffered goes out with the old id after a migration, spare
//! ids run out, and a failed validation goes back. What would show an id again is dropped; QUIC repairs the loss.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, PoisonError},
};

/// Bytes of the connection ids that both ends choose in this version.
pub(super) const CID: usize = 8;
/// Ids that one tunnel carries at most: a handshake, one or two migrations' worth, stateless resets.
const PER_TUNNEL: usize = 32;
/// Tunnels whose ids are remembered. Far more than can live within the idle time-out of one identity's sessions.
const TUNNELS: usize = 8_192;

/// The leading bytes of a destination id; ids of a first Initial are longer, and random.
type Cid = [u8; CID];

/// Which tunnel carries which destination id; one for all sockets of an endpoint.
#[derive(Default)]
pub(super) struct Bindings(Mutex<Table>);

#[derive(Default)]
struct Table {
    carrier: HashMap<Cid, u64>,
    /// The ids of each tunnel, oldest tunnel first in `order`.
    carried: HashMap<u64, Vec<Cid>>,
    order: VecDeque<u64>,
}

impl Bindings {
    /// Whether `datagram` may leave through `tunnel`; binds its id to it if it is new.
    pub(super) fn may_carry(&self, tunnel: u64, datagram: &[u8]) -> bool {
        let Some(cid) = destination(datagram) else { return false };
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match table.carrier.get(&cid) {
            Some(carrier) => *carrier == tunnel,
            None => table.bind(tunnel, cid),
        }
    }
}

impl Table {
    fn bind(&mut self, tunnel: u64, cid: Cid) -> bool {
        if !self.carried.contains_key(&tunnel) {
            self.order.push_back(tunnel);
            if self.order.len() > TUNNELS {
                self.forget_oldest();
            }
        }
        let carried = self.carried.entry(tunnel).or_default();
        if carried.len() >= PER_TUNNEL {
            return false;
        }
        carried.push(cid);
        self.carrier.insert(cid, tunnel);
        true
    }

    fn forget_oldest(&mut self) {
        let Some(oldest) = self.order.pop_front() else { return };
        for cid in self.carried.remove(&oldest).unwrap_or_default() {
            self.carrier.remove(&cid);
        }
    }
}

/// Whether a datagram begins with a long header (RFC 9000 §17.2).
pub(super) fn has_long_header(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|first| first & 0x80 != 0)
}

/// The destination connection id of a datagram of this version, or its first bytes.
pub(super) fn destination(datagram: &[u8]) -> Option<Cid> {
    let start = if has_long_header(datagram) { 6 } else { 1 };
    datagram.get(start..start + CID)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn short(cid: u64) -> Vec<u8> {
        let mut datagram = vec![0x40];
        datagram.extend(cid.to_be_bytes());
        datagram.extend([7; 30]);
        datagram
    }

    #[test]
    fn an_id_stays_on_the_tunnel_that_carried_it_first() {
        let bindings = Bindings::default();
        assert!(bindings.may_carry(1, &short(5)));
        assert!(bindings.may_carry(1, &short(5)));
        assert!(!bindings.may_carry(2, &short(5)));
        assert!(bindings.may_carry(2, &short(6)));
        assert!(!bindings.may_carry(1, &short(6)));
    }

    #[test]
    fn long_headers_name_the_same_ids() {
        let bindings = Bindings::default();
        let mut long = vec![0xc0, 0, 0, 0, 1, 8];
        long.extend(5u64.to_be_bytes());
        long.extend([0; 20]);
        assert!(bindings.may_carry(1, &long));
        assert!(!bindings.may_carry(2, &short(5)));
    }

    #[test]
    fn a_peer_that_invents_ids_only_silences_its_own_tunnel() {
        let bindings = Bindings::default();
        let carried = (0..10_000).filter(|cid| bindings.may_carry(1, &short(*cid))).count();
        assert_eq!(carried, PER_TUNNEL);
        assert!(bindings.may_carry(2, &short(20_000)));
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_tunnels_go_first() {
        let bindings = Bindings::default();
        for tunnel in 0..2 * TUNNELS as u64 {
            assert!(bindings.may_carry(tunnel, &short(tunnel)));
        }
        let table = bindings.0.lock().unwrap();
        assert_eq!(table.carried.len(), TUNNELS);
        assert_eq!(table.carrier.len(), TUNNELS);
        assert!(!table.carried.contains_key(&0));
    }

    #[test]
    fn a_datagram_too_short_for_an_id_never_leaves() {
        assert!(!Bindings::default().may_carry(1, &[0x40, 1, 2]));
        assert!(!Bindings::default().may_carry(1, &[]));
    }
}
