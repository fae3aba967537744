//! The isolation groups of this node's programs: which number each has in the core, and in which own paths its last
//! tunnels to a peer ran. The books are bounded: what was not used for longest is forgotten, and begins afresh.

use std::collections::BTreeMap;

use phantom_protocol::{identity::ApPublic, node::GroupId, tunnel::OwnedPathId};

use crate::session::Group;

/// Groups that are known at once. A program that draws new credentials for each connection makes as many as it likes.
const GROUPS: usize = 1_024;
/// Peers of one group.
const PEERS: usize = 256;
/// Own paths that a session's replacement tunnels stay away from.
const AVOIDED_PATHS: usize = 3;

/// All of them.
pub(super) struct Groups<P = OwnedPathId> {
    known: BTreeMap<Group, Known<P>>,
    /// Numbers groups, and orders uses.
    counter: u64,
}

struct Known<P> {
    id: GroupId,
    used: u64,
    peers: BTreeMap<ApPublic, Recent<P>>,
}

/// Own paths that tunnels to a peer ran in, newest last.
struct Recent<P> {
    used: u64,
    paths: Vec<P>,
}

impl<P> Default for Groups<P> {
    fn default() -> Groups<P> {
        Groups { known: BTreeMap::new(), counter: 0 }
    }
}

impl<P> Groups<P> {
    /// The number of a group, which is new if it was not used lately.
    pub(super) fn id(&mut self, group: &Group) -> GroupId {
        let used = self.tick();
        if !self.known.contains_key(group) {
            make_room(&mut self.known, GROUPS, |known| known.used);
        }
        let new = || Known { id: GroupId(used), used, peers: BTreeMap::new() };
        let known = self.known.entry(group.clone()).or_insert_with(new);
        known.used = used;
        known.id
    }

    /// The paths of the last tunnels to this peer, oldest first.
    pub(super) fn recent(&self, group: &Group, peer: &ApPublic) -> &[P] {
        let recent = self.known.get(group).and_then(|known| known.peers.get(peer));
        recent.map_or(&[], |recent| recent.paths.as_slice())
    }

    /// A new session with this peer begins: what its tunnels ran in before does not matter.
    pub(super) fn forget_recent(&mut self, group: &Group, peer: &ApPublic) {
        if let Some(known) = self.known.get_mut(group) {
            known.peers.remove(peer);
        }
    }

    /// A tunnel to this peer runs in that path.
    pub(super) fn note(&mut self, group: &Group, peer: ApPublic, path: P) {
        let used = self.tick();
        let Some(known) = self.known.get_mut(group) else { return };
        if !known.peers.contains_key(&peer) {
            make_room(&mut known.peers, PEERS, |recent| recent.used);
        }
        let new = || Recent { used, paths: Vec::new() };
        let recent = known.peers.entry(peer).or_insert_with(new);
        recent.used = used;
        recent.paths.push(path);
        if recent.paths.len() > AVOIDED_PATHS {
            recent.paths.remove(0);
        }
    }

    /// No more of them; which there were. New ones have new numbers.
    pub(super) fn end(&mut self) -> Vec<Group> {
        std::mem::take(&mut self.known).into_keys().collect()
    }

    fn tick(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }
}

/// Forgets what was used longest ago if the book is full.
fn make_room<K: Ord + Clone, V>(book: &mut BTreeMap<K, V>, most: usize, used: impl Fn(&V) -> u64) {
    if book.len() >= most {
        let oldest = book.iter().min_by_key(|(_, value)| used(value)).map(|(key, _)| key.clone());
        oldest.iter().for_each(|key| _ = book.remove(key));
    }
}

#[cfg(test)]
mod tests {
    use phantom_protocol::identity::ApSecret;

    use super::*;

    fn group(number: usize) -> Group {
        Group::new(&format!("group {number}"))
    }

    fn peer(number: u64) -> ApPublic {
        let mut seed = [7; 32];
        seed[..8].copy_from_slice(&number.to_be_bytes());
        ApSecret::from_bytes(&seed).public()
    }

    #[test]
    fn a_group_keeps_its_number_while_it_is_used_and_the_book_is_bounded() {
        let mut groups = Groups::<u8>::default();
        let kept = groups.id(&group(0));
        for number in 1..3 * GROUPS {
            groups.id(&group(number));
            assert_eq!(groups.id(&group(0)), kept);
        }
        assert_eq!(groups.known.len(), GROUPS);
        let before = groups.id(&group(3 * GROUPS - 1));
        assert_ne!(groups.id(&group(1)), before, "numbers are given once");
    }

    #[test]
    fn the_last_paths_to_a_peer_are_known_and_the_book_is_bounded() {
        let mut groups = Groups::<u8>::default();
        groups.id(&group(0));
        for number in 0..2 * PEERS as u64 {
            for path in 0..5 {
                groups.note(&group(0), peer(number), path);
            }
        }
        let last = peer(2 * PEERS as u64 - 1);
        assert_eq!(groups.recent(&group(0), &last), [2, 3, 4]);
        assert!(groups.recent(&group(0), &peer(0)).is_empty());
        assert_eq!(groups.known[&group(0)].peers.len(), PEERS);
        groups.forget_recent(&group(0), &last);
        assert!(groups.recent(&group(0), &last).is_empty());
    }

    #[test]
    fn groups_that_start_afresh_have_new_numbers() {
        let mut groups = Groups::<u8>::default();
        let before = groups.id(&group(0));
        assert_eq!(groups.end(), [group(0)]);
        assert_ne!(groups.id(&group(0)), before);
    }
}
