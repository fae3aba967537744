//! The all-knowing watcher: it reads what every node can read, and looks for what nobody may learn (PROTOCOL §4).
//!
//! It knows the path keys that nodes begin with, so it opens every slot that its node can open, follows each circle, and
//! knows its owner. Then it checks, at every step:
//!
//! - a slot's plaintext holds neither id nor address of the owner, unless the node is its neighbour;
//! - no two nodes of a circle that are not neighbours find an equal value of 16 bytes in their slots, nor an equal
//!   connection or path id. Who is in the network is public and no such value;
//! - no 16 bytes of an array or of a tunnel's cell are seen on two links;
//! - no tunnel's cell and no AP entry shows the id of any node.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use phantom_protocol::{
    crypto::{
        Key,
        seal::{CIPHERTEXT, PathSecret, TAG, aead_open},
    },
    identity::NodeId,
    path::array::box_key,
    wire::{
        cell::{Command, LinkId, PathId},
        contact::Contact,
        control::{ControlMessage, Published, Round},
        setup::{Content, GoodieBox, SetupPackage},
    },
};
use rand::{SeedableRng, rngs::ChaCha20Rng};

use crate::whole::Freight;

type Value = [u8; 16];

/// One node's place in a circle.
pub struct Stop {
    pub node: NodeId,
    pub neighbours: BTreeSet<NodeId>,
    pub plaintexts: Vec<Vec<u8>>,
    pub ids: BTreeSet<PathId>,
    key: Option<Key>,
    next: (NodeId, PathId),
}

impl Stop {
    /// For tests of the checks themselves.
    pub fn new(
        node: NodeId,
        neighbours: BTreeSet<NodeId>,
        plaintexts: Vec<Vec<u8>>,
        ids: BTreeSet<PathId>,
    ) -> Stop {
        Stop { node, neighbours, plaintexts, ids, key: None, next: (node, PathId::default()) }
    }
}

/// One circle, as far as it came.
pub struct Circle {
    pub owner: Contact,
    pub stops: Vec<Stop>,
    pub returned: usize,
}

#[derive(Default)]
pub struct Watch {
    /// Everything is checked only while this is so: it costs.
    pub checks: bool,
    pub circles: Vec<Circle>,
    pub violations: Vec<String>,
    pub cells: u64,
    pub slots: u64,
    members: BTreeMap<NodeId, (Contact, PathSecret)>,
    public: HashSet<[u8; 8]>,
    ids: HashSet<[u8; 8]>,
    /// Who gets which array next, of which circle.
    expected: BTreeMap<(NodeId, NodeId, PathId), (usize, usize)>,
    blocks: HashMap<Value, LinkId>,
}

impl Watch {
    /// A node's first path key is the first thing that it draws.
    pub fn meet(&mut self, contact: Contact, seed: [u8; 32]) {
        let secret = PathSecret::generate(&mut ChaCha20Rng::from_seed(seed));
        self.public.extend(contact.to_bytes().array_windows::<8>());
        self.ids.extend(contact.id.as_bytes().first_chunk::<8>().copied());
        self.members.insert(contact.id, (contact, secret));
    }

    /// Something has arrived.
    pub fn see(&mut self, from: NodeId, to: NodeId, link: LinkId, freight: &Freight) {
        if !self.checks {
            return;
        }
        match freight {
            Freight::Cell(cell) => {
                self.cells += 1;
                let says_something = !matches!(cell.command(), Ok(Command::Close | Command::Destroy));
                if says_something {
                    self.see_blocks(link, cell.body());
                }
                self.look_for_ids(link, cell.body(), "a cell");
            }
            Freight::Message(ControlMessage::Setup { round, connection, array }) => {
                self.see_blocks(link, array.as_slice());
                self.see_array(from, to, *round, *connection, array.as_slice());
            }
            Freight::Message(ControlMessage::Records(records)) => {
                for record in records {
                    if let Published::ApEntry(entry) = record {
                        self.look_for_ids(link, entry, "an AP entry");
                    }
                }
            }
            Freight::Message(
                ControlMessage::Partner | ControlMessage::Knock(_) | ControlMessage::Knocked(_),
            ) => {}
        }
    }

    /// Of each eight values one is looked at, chosen by the value: the same everywhere.
    fn see_blocks(&mut self, link: LinkId, bytes: &[u8]) {
        for block in bytes.as_chunks::<16>().0 {
            if block[0] % 8 != 0 || !is_telling(block) {
                continue;
            }
            if let Some(other) = self.blocks.insert(*block, link) {
                self.violations.push(format!("16 bytes on {other:?} and again on {link:?}"));
            }
        }
    }

    fn look_for_ids(&mut self, link: LinkId, bytes: &[u8], what: &str) {
        if bytes.array_windows::<8>().any(|window| self.ids.contains(window)) {
            self.violations.push(format!("the id of a node in {what} on {link:?}"));
        }
    }

    fn see_array(&mut self, from: NodeId, to: NodeId, round: Round, connection: PathId, array: &[u8]) {
        let expected = self.expected.get(&(from, to, connection)).copied();
        let opened = match (round, expected) {
            (Round::One, _) => self.open_package(to, array),
            (Round::Two, Some((circle, at))) => {
                self.circles[circle].stops.get(at).and_then(|stop| open(array, stop.key.as_ref()?))
            }
            (Round::Two, None) => None,
        };
        let Some(content) = opened else {
            if let Some((circle, _)) = expected {
                let circle = &mut self.circles[circle];
                circle.returned += usize::from(circle.owner.id == to);
            }
            return;
        };
        self.slots += 1;
        let payload = Content::read(&content).unwrap().payload;
        match round {
            Round::One => {
                let Ok(package) = SetupPackage::decode(&payload) else { return };
                self.see_package(from, to, expected.map(|(circle, _)| circle), &package, payload.to_vec());
            }
            Round::Two => {
                let Some((circle, at)) = expected else { return };
                let Ok(goodies) = GoodieBox::decode(&payload) else { return };
                let stop = &mut self.circles[circle].stops[at];
                stop.plaintexts.push(payload.to_vec());
                if let GoodieBox::Hop(hop) = goodies {
                    for (contact, id) in hop.neighbours.into_iter().flatten() {
                        stop.neighbours.insert(contact.id);
                        stop.ids.insert(id);
                    }
                }
                self.check(circle, at);
            }
        }
    }

    fn open_package(&self, to: NodeId, array: &[u8]) -> Option<Vec<u8>> {
        let (ciphertext, rest) = array.split_first_chunk::<CIPHERTEXT>()?;
        let key = self.members.get(&to)?.1.decapsulate(ciphertext)?;
        open_slot(&rest[..phantom_protocol::limits::SLOT - CIPHERTEXT], &key)
    }

    fn see_package(
        &mut self,
        from: NodeId,
        to: NodeId,
        circle: Option<usize>,
        package: &SetupPackage,
        plaintext: Vec<u8>,
    ) {
        let circle = circle.unwrap_or_else(|| {
            // Nobody has passed this array on: who sends it has made it.
            let owner = self.members[&from].0;
            self.circles.push(Circle { owner, stops: Vec::new(), returned: 0 });
            self.circles.len() - 1
        });
        let (before, after) = (package.previous_connection, package.next_connection);
        let at = self.circles[circle].stops.len();
        self.circles[circle].stops.push(Stop {
            node: to,
            neighbours: BTreeSet::from([package.previous, package.next.id]),
            plaintexts: vec![plaintext],
            ids: BTreeSet::from([before, after]),
            key: Some(box_key(&package.secret, &before.to_bytes(), &after.to_bytes())),
            next: (package.next.id, after),
        });
        let next = self.circles[circle].stops[at].next;
        self.expected.insert((from, to, before), (circle, at));
        self.expected.insert((to, next.0, next.1), (circle, at + 1));
        self.check(circle, at);
    }

    /// A stop has learnt something.
    fn check(&mut self, circle: usize, at: usize) {
        let faults = faults(&self.circles[circle], at, &self.public);
        self.violations.extend(faults);
    }

    /// Fails with the first things that somebody could learn.
    pub fn assert_nothing_leaks(&self) {
        assert!(
            self.violations.is_empty(),
            "{} leaks: {:#?}",
            self.violations.len(),
            &self.violations[..self.violations.len().min(5)]
        );
    }
}

/// What a stop has learnt too much.
pub fn faults(circle: &Circle, at: usize, public: &HashSet<[u8; 8]>) -> Vec<String> {
    let stop = &circle.stops[at];
    let mut faults = Vec::new();
    if !stop.neighbours.contains(&circle.owner.id) {
        let contact = circle.owner.to_bytes();
        let (id, address) = (&contact[..32], &contact[33..39]);
        for plaintext in &stop.plaintexts {
            if plaintext.windows(32).any(|window| window == id) {
                faults.push(format!("{:?} has the owner's id", stop.node));
            }
            if plaintext.windows(6).any(|window| window == address) && address.iter().any(|byte| *byte != 0) {
                faults.push(format!("{:?} has the owner's address", stop.node));
            }
        }
    }
    let own: HashSet<Value> = stop.plaintexts.iter().flat_map(|plaintext| values(plaintext)).collect();
    let strangers = circle.stops.iter().enumerate().filter(|(other, stranger)| {
        *other != at && !stop.neighbours.contains(&stranger.node) && !stranger.neighbours.contains(&stop.node)
    });
    for (_, stranger) in strangers {
        let theirs = stranger.plaintexts.iter().flat_map(|plaintext| values(plaintext));
        if theirs.into_iter().any(|value| own.contains(&value) && !is_public(&value, public)) {
            faults.push(format!("{:?} and {:?} share a value", stop.node, stranger.node));
        }
        if stop.ids.intersection(&stranger.ids).next().is_some() {
            faults.push(format!("{:?} and {:?} share an id", stop.node, stranger.node));
        }
    }
    faults
}

/// All values of 16 bytes that are no filler.
fn values(bytes: &[u8]) -> impl Iterator<Item = Value> + '_ {
    bytes.array_windows::<16>().filter(|value| is_telling(value)).copied()
}

/// Half of it or more is part of somebody's contact.
fn is_public(value: &Value, public: &HashSet<[u8; 8]>) -> bool {
    value.as_chunks::<8>().0.iter().any(|half| public.contains(half))
}

/// Not mainly zeros, nor one byte over and over.
fn is_telling(value: &Value) -> bool {
    value.iter().filter(|byte| **byte == 0).count() <= 4 && value.iter().collect::<BTreeSet<_>>().len() > 6
}

fn open(array: &[u8], key: &Key) -> Option<Vec<u8>> {
    open_slot(&array[..phantom_protocol::limits::SLOT], key)
}

fn open_slot(sealed: &[u8], key: &Key) -> Option<Vec<u8>> {
    let (sealed, tag) = sealed.split_last_chunk::<TAG>()?;
    let mut content = sealed.to_vec();
    aead_open(key, &mut content, tag).then_some(content)
}
