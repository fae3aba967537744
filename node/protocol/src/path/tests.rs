//! Whole circles in memory: an owner and hop machines, every pair of them linked.

mod hops;
mod mishaps;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use proptest::prelude::*;
use rand::{RngExt, SeedableRng, rngs::ChaCha20Rng};

use super::{
    builder::{BuildFailure, EstablishedPath, PathUse},
    builds::{BuildId, BuildOutput, BuildRequest, Builds, StartError},
    guards::Guards,
    hop::{HopOutput, HopSetups, NewHop},
    keys::PathKeys,
    pacer::Pacer,
    plan::Candidate,
};
use crate::{
    crypto::seal::PathPublic,
    identity::NodeId,
    limits::{BETWEEN_ROUNDS, ROUND_TIMEOUT},
    time::{Moment, Now, UnixTime},
    wire::{
        cell::{LinkId, PathId},
        contact::{Contact, TlsKeys},
        setup::{PathClass, Round, SetupArray},
    },
};

const START: UnixTime = UnixTime(1_800_000_000);

/// Node `at` of a test network, each in a /16 of its own.
pub(super) fn contact(at: usize) -> Contact {
    let address = SocketAddr::from((Ipv4Addr::new(127, at as u8, 0, 1), 443));
    Contact::listed(node_id(at), address, TlsKeys::one([at as u8 + 1; 32]))
}

pub(super) fn node_id(at: usize) -> NodeId {
    let mut id = [0x55; 32];
    id[..8].copy_from_slice(&(at as u64).to_be_bytes());
    NodeId::from_bytes(id)
}

/// How every node numbers its link to node `at`.
fn link(at: usize) -> LinkId {
    LinkId(LinkId::FIRST + at as u64)
}

fn at_link(link: LinkId) -> usize {
    (link.0 - LinkId::FIRST) as usize
}

/// An array between two nodes.
#[derive(Clone)]
struct Message {
    from: usize,
    to: usize,
    round: Round,
    connection: PathId,
    array: SetupArray,
}

struct Helper {
    setups: HopSetups,
    keys: PathKeys,
    installed: Vec<NewHop>,
}

/// What the owner was told.
#[derive(Default)]
struct Told {
    installed: Vec<(BuildId, EstablishedPath)>,
    ready: Vec<BuildId>,
    failed: Vec<BuildFailure>,
}

/// Node 0 is the owner.
struct World {
    now: Now,
    rng: ChaCha20Rng,
    own: Contact,
    builds: Builds,
    helpers: BTreeMap<usize, Helper>,
    messages: VecDeque<Message>,
    /// Links that cannot be had.
    cut: BTreeSet<(usize, usize)>,
    told: Told,
}

impl World {
    fn new(nodes: usize, seed: u8) -> World {
        let mut rng = ChaCha20Rng::from_seed([seed; 32]);
        let helper = |at: usize| Helper {
            setups: HopSetups::new(node_id(at)),
            keys: PathKeys::new(START, &mut rng),
            installed: Vec::new(),
        };
        let helpers: BTreeMap<usize, Helper> = (1..nodes).zip((1..nodes).map(helper)).collect();
        World {
            now: Now { moment: Moment(0), unix: START },
            rng,
            own: contact(0),
            builds: Builds::new(Guards::new(), Pacer::new()),
            helpers,
            messages: VecDeque::new(),
            cut: BTreeSet::new(),
            told: Told::default(),
        }
    }

    fn start(&mut self, hops: usize) -> Result<BuildId, StartError> {
        let keys: Vec<(usize, PathPublic)> =
            self.helpers.iter().map(|(at, helper)| (*at, helper.keys.current().clone())).collect();
        let view: Vec<Candidate<'_>> = keys
            .iter()
            .map(|(at, path_key)| Candidate {
                contact: contact(*at),
                path_key,
                issued: self.now.unix,
                first_seen: START,
                family: None,
            })
            .collect();
        let request = BuildRequest {
            hops,
            kept_identity: false,
            avoid_terminals: &BTreeSet::new(),
            purpose: PathUse { class: PathClass::Standard, route_keys: 2 },
        };
        let build = self.builds.start(self.now, self.own, &view, &request, &mut self.rng)?;
        self.owner_outputs();
        Ok(build)
    }

    fn has_link(&self, a: usize, b: usize) -> bool {
        !self.cut.contains(&(a, b)) && !self.cut.contains(&(b, a))
    }

    fn owner_outputs(&mut self) {
        while let Some(output) = self.builds.poll_output() {
            match output {
                BuildOutput::NeedLink(node) => {
                    let at = (1..).find(|at| node_id(*at) == node.id).unwrap();
                    let link = self.has_link(0, at).then(|| link(at));
                    self.builds.handle_link(self.now, node.id, link, &mut self.rng);
                }
                BuildOutput::Send { link, round, connection, array } => {
                    self.messages.push_back(Message { from: 0, to: at_link(link), round, connection, array });
                }
                BuildOutput::Install { build, path } => self.told.installed.push((build, *path)),
                BuildOutput::Ready(build) => self.told.ready.push(build),
                BuildOutput::Failed { failure, .. } => self.told.failed.push(failure),
                BuildOutput::Notice(_) => {}
            }
        }
    }

    fn helper_outputs(&mut self, at: usize) {
        while let Some(output) = self.helpers.get_mut(&at).unwrap().setups.poll_output() {
            match output {
                HopOutput::NeedLink(node) => {
                    let other = (0..).find(|other| node_id(*other) == node.id).unwrap();
                    let link = self.has_link(at, other).then(|| link(other));
                    self.helpers.get_mut(&at).unwrap().setups.handle_link(self.now, node.id, link);
                }
                HopOutput::Forward { link, round, connection, array } => {
                    self.messages.push_back(Message {
                        from: at,
                        to: at_link(link),
                        round,
                        connection,
                        array,
                    });
                }
                HopOutput::Install(hop) => self.helpers.get_mut(&at).unwrap().installed.push(hop),
            }
        }
    }

    /// Delivers one message.
    fn deliver(&mut self, Message { from, to, round, connection, array }: Message) {
        if to == 0 {
            self.builds.handle_round(self.now, link(from), round, connection, array, &mut self.rng);
            return self.owner_outputs();
        }
        let helper = self.helpers.get_mut(&to).unwrap();
        helper.setups.handle_round(
            self.now,
            link(from),
            node_id(from),
            round,
            connection,
            array,
            &mut helper.keys,
        );
        self.helper_outputs(to);
    }

    /// Delivers until nothing is on its way.
    fn run(&mut self) {
        while let Some(message) = self.messages.pop_front() {
            self.deliver(message);
        }
    }

    fn wait(&mut self, time: Duration) {
        self.now.moment = self.now.moment + time;
        self.now.unix.0 += time.as_secs();
        self.builds.handle_timeout(self.now, &mut self.rng);
        self.owner_outputs();
        for helper in self.helpers.values_mut() {
            helper.setups.handle_timeout(self.now, &mut helper.keys);
        }
    }

    fn installed(&self) -> usize {
        self.helpers.values().map(|helper| helper.installed.len()).sum()
    }

    /// Whether the hops, asked from the owner outward, are the path that the owner knows.
    fn check_path(&self, path: &EstablishedPath) {
        let (mut inner, mut id) = (node_id(0), path.path);
        for (at, owned) in path.hops.iter().enumerate() {
            let (_, helper) = self.helpers.iter().find(|(at, _)| node_id(**at) == owned.node).unwrap();
            let [hop] = &helper.installed[..] else { panic!("one path, one hop") };
            assert_eq!(hop.secret, owned.secret);
            assert!(path.expiry <= hop.expiry && path.idle == hop.idle);
            let [a, b] = hop.neighbours;
            let (inward, outward) = if owned.out_is_a_to_b { (a, b) } else { (b, a) };
            assert_eq!(inward.map(|side| (side.node, side.path)), Some((inner, id)));
            assert_eq!(inward.map(|side| node_id(at_link(side.link))), Some(inner));
            assert_eq!(outward.is_none(), at + 1 == path.hops.len());
            assert_eq!(hop.route_keys == path.route_keys, outward.is_none());
            if let Some(outward) = outward {
                assert_eq!(outward.node, path.hops[at + 1].node);
                (inner, id) = (owned.node, outward.path);
            }
        }
    }
}

#[test]
fn a_circle_of_every_length_becomes_a_path_whose_hops_know_their_neighbours() {
    for hops in 1..=8 {
        for seed in 0..3 {
            let mut world = World::new(24, seed + 10 * hops as u8);
            let build = world.start(hops).unwrap();
            world.run();
            let [(installed, path)] = &world.told.installed[..] else {
                panic!("{hops} hops: {:?}", world.told.failed)
            };
            assert_eq!((*installed, path.hops.len(), path.route_keys.len()), (build, hops, 2));
            assert_eq!(path.terminal.id, path.hops[hops - 1].node);
            world.check_path(path);
            assert_eq!(world.installed(), hops);
            // Y-nodes have forgotten, X-nodes keep no setup either.
            assert!(world.helpers.values().all(|helper| helper.setups.is_empty()));
            world.builds.handle_echo(world.now, build, &mut world.rng);
            world.owner_outputs();
            assert_eq!(world.told.ready, [build]);
            assert!(world.builds.is_empty());
        }
    }
}

#[test]
fn twelve_nodes_are_enough_for_the_default_length_and_nine_for_a_lucky_owner() {
    for nodes in [9, 12] {
        let mut world = World::new(nodes, nodes as u8);
        world.start(3).unwrap();
        world.run();
        assert_eq!(world.told.installed.len(), 1);
    }
}

#[test]
fn an_unlisted_owner_is_found_by_its_link() {
    let mut world = World::new(12, 77);
    world.own = Contact::unlisted(node_id(0));
    world.start(3).unwrap();
    world.run();
    world.check_path(&world.told.installed[0].1);
}

#[test]
fn three_circles_at_once_do_not_disturb_each_other_and_a_fourth_must_wait() {
    let mut world = World::new(24, 5);
    (0..3).for_each(|_| _ = world.start(3).unwrap());
    assert!(matches!(world.start(3), Err(StartError::Paced(_))));
    world.run();
    assert_eq!(world.told.installed.len(), 3);
}

#[test]
fn an_unreachable_guard_ends_the_circle_at_once_and_another_one_stands_in() {
    let mut world = World::new(12, 6);
    let first_guards: BTreeSet<usize> = (0..40)
        .map(|_| {
            world.start(3).unwrap();
            let first = world.messages.pop_front().unwrap().to;
            world.wait(ROUND_TIMEOUT);
            world.wait(Duration::from_secs(301));
            first
        })
        .collect();
    assert_eq!(first_guards.len(), 4);
    let lost = *first_guards.first().unwrap();
    world.cut.insert((0, lost));
    world.told.failed.clear();
    for _ in 0..20 {
        if world.start(3).is_ok() {
            world.run();
        }
        world.wait(Duration::from_secs(3));
        if !world.told.failed.is_empty() {
            break;
        }
        world.wait(ROUND_TIMEOUT);
        world.told.failed.clear();
    }
    assert_eq!(world.told.failed, [BuildFailure::Unreachable(node_id(lost))]);
    world.start(3).unwrap();
    world.run();
    assert_eq!(world.told.failed.len(), 1);
}

#[test]
fn setups_over_a_broken_link_are_forgotten_and_an_owner_notices() {
    let mut world = World::new(12, 14);
    world.start(3).unwrap();
    let first = world.messages.pop_front().unwrap();
    let to = first.to;
    world.deliver(first);
    world.helpers.get_mut(&to).unwrap().setups.handle_link_down(link(0));
    assert!(world.helpers[&to].setups.is_empty());
    world.builds.handle_link_down(world.now, link(to), &mut world.rng);
    world.owner_outputs();
    assert_eq!(world.told.failed, [BuildFailure::LinkLost]);
}

#[test]
fn a_path_without_an_echo_fails() {
    let mut world = World::new(12, 15);
    world.start(3).unwrap();
    world.run();
    world.wait(ROUND_TIMEOUT);
    assert_eq!(world.told.failed, [BuildFailure::NoEcho]);
}

#[test]
fn guards_and_pace_outlive_a_restart() {
    let mut world = World::new(12, 16);
    world.start(3).unwrap();
    world.wait(ROUND_TIMEOUT);
    let state = world.builds.encode();
    assert_eq!(Builds::decode(&state).unwrap().encode(), state);
    for cut in 0..state.len() {
        assert!(Builds::decode(&state[..cut]).is_err());
    }
}
