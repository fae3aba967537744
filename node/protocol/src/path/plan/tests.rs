//! The rules of the choice.

use std::net::{Ipv4Addr, SocketAddr};

use proptest::prelude::*;
use rand::{SeedableRng, rngs::ChaCha20Rng};

use super::*;
use crate::{
    crypto::seal::PathSecret,
    limits::GUARDS,
    netdb::view::Subnet,
    path::tests::{contact, node_id},
    wire::contact::TlsKeys,
};

const NOW: UnixTime = UnixTime(1_800_000_000);

fn key() -> PathPublic {
    PathSecret::generate(&mut ChaCha20Rng::from_seed([9; 32])).public().clone()
}

/// A node of the first `networks` test networks.
fn node(at: usize, networks: usize, key: &PathPublic) -> Candidate<'_> {
    let address = SocketAddr::from((Ipv4Addr::new(10, (at % networks) as u8, (at / networks) as u8, 1), 443));
    Candidate {
        contact: Contact::listed(node_id(at), address, TlsKeys::one([1; 32])),
        path_key: key,
        issued: NOW,
        first_seen: NOW,
        family: None,
    }
}

fn view(nodes: usize, key: &PathPublic) -> Vec<Candidate<'_>> {
    (1..=nodes).map(|at| node(at, 256, key)).collect()
}

struct Owner {
    guards: Guards,
    rng: ChaCha20Rng,
    kept: bool,
    avoid: BTreeMap<NodeId, u32>,
    avoid_terminals: BTreeSet<NodeId>,
}

impl Owner {
    fn new(seed: u8) -> Owner {
        Owner {
            guards: Guards::new(),
            rng: ChaCha20Rng::from_seed([seed; 32]),
            kept: false,
            avoid: BTreeMap::new(),
            avoid_terminals: BTreeSet::new(),
        }
    }

    fn draw(&mut self, now: UnixTime, view: &[Candidate<'_>], hops: usize) -> Result<Plan, PlanError> {
        let request = PlanRequest {
            hops,
            kept_identity: self.kept,
            avoid: &self.avoid,
            avoid_terminals: &self.avoid_terminals,
        };
        Plan::draw(now, &contact(0), view, &mut self.guards, &request, &mut self.rng)
    }
}

fn ids(plan: &Plan) -> Vec<NodeId> {
    plan.sequence().iter().map(|stop| stop.contact.id).collect()
}

fn guard_ids(plan: &Plan) -> BTreeSet<NodeId> {
    plan.guards().iter().map(|stop| stop.contact.id).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_plan_keeps_every_rule_or_says_what_is_missing(
        seed in any::<u8>(),
        nodes in 0usize..60,
        networks in 1usize..40,
        families in 1usize..60,
        hops in 1usize..=8,
        kept in any::<bool>(),
    ) {
        let key = key();
        let view: Vec<Candidate<'_>> = (1..=nodes)
            .map(|at| {
                let mut node = node(at, networks, &key);
                let family = at % families;
                node.family = (family < 5).then_some([family as u8; 16]);
                if at % 11 == 3 {
                    node.issued = UnixTime(NOW.0 - 700);
                }
                if at % 13 == 4 {
                    node.contact = Contact::unlisted(node.contact.id);
                }
                node
            })
            .collect();
        let mut owner = Owner::new(seed);
        owner.kept = kept;
        match owner.draw(NOW, &view, hops) {
            Ok(plan) => {
                let chosen: Vec<&Candidate<'_>> = ids(&plan)
                    .iter()
                    .map(|id| view.iter().find(|node| node.contact.id == *id).unwrap())
                    .collect();
                let length = [3, 5, 8, 11, 14, 17, 20, 23][hops - 1];
                let subnets: BTreeSet<Subnet> =
                    chosen.iter().map(|node| Subnet::of(node.contact.address.unwrap().ip())).collect();
                let families: Vec<Family> = chosen.iter().filter_map(|node| node.family).collect();
                prop_assert_eq!((chosen.len(), subnets.len()), (length, length));
                prop_assert_eq!(families.iter().collect::<BTreeSet<_>>().len(), families.len());
                prop_assert!(chosen.iter().all(|node| node.issued == NOW));
                prop_assert_eq!(guard_ids(&plan).len(), 3);
                prop_assert!(guard_ids(&plan).iter().all(|guard| plan.watched().contains(guard)));
                prop_assert_eq!(plan.path().count(), hops);
            }
            Err(PlanError::TooFewNodes { known, usable, stale, unlisted, alike, .. }) => {
                prop_assert_eq!(known, nodes);
                prop_assert_eq!(usable + stale + unlisted + alike, known);
            }
            // The sampled list may stand in its own way where families and networks overlap.
            Err(error) => prop_assert!(matches!(error, PlanError::TooFewGuards(_)), "{}", error),
        }
    }
}

#[test]
fn the_smallest_networks_suffice() {
    let key = key();
    for kept in [false, true] {
        for (hops, others) in [(1, 3), (2, 5), (3, 8), (3, 11), (8, 23), (8, 30)] {
            for seed in 0..20 {
                let mut owner = Owner::new(seed);
                owner.kept = kept;
                for _ in 0..5 {
                    assert!(
                        owner.draw(NOW, &view(others, &key), hops).is_ok(),
                        "{hops} hops, {others} others"
                    );
                }
            }
        }
    }
}

#[test]
fn the_error_counts_what_is_missing_by_cause() {
    let key = key();
    let mut view = view(12, &key);
    view[0].issued = UnixTime(NOW.0 - 601);
    view[1].issued = UnixTime(0);
    view[2].contact = Contact::unlisted(view[2].contact.id);
    view[3].contact.address = view[4].contact.address;
    view[5].family = Some([1; 16]);
    view[6].family = Some([1; 16]);
    // As close to the owner as one can be.
    view[7].contact.address = contact(0).address;
    let error = Owner::new(1).draw(NOW, &view, 3).err().unwrap();
    let expected =
        PlanError::TooFewNodes { hops: 3, needed: 8, usable: 6, known: 12, stale: 2, unlisted: 1, alike: 3 };
    assert_eq!(error, expected);
    assert!(error.to_string().contains("a path of 3 hops needs 8 other nodes"));
    assert!(error.to_string().contains("6 of 12 known nodes"));
}

#[test]
fn guards_are_the_same_four_in_all_circles_and_no_other_place_takes_them() {
    let key = key();
    let view = view(60, &key);
    let mut owner = Owner::new(2);
    let mut seen = BTreeSet::new();
    for _ in 0..100 {
        let plan = owner.draw(NOW, &view, 3).unwrap();
        let guards = guard_ids(&plan);
        assert_eq!(ids(&plan).iter().filter(|id| plan.watched().contains(id)).count(), 3);
        seen.extend(guards);
    }
    assert_eq!(seen.len(), GUARDS);
}

#[test]
fn all_other_nodes_get_their_turn() {
    let key = key();
    let view = view(60, &key);
    let mut owner = Owner::new(3);
    let seen: BTreeSet<NodeId> = (0..100).flat_map(|_| ids(&owner.draw(NOW, &view, 3).unwrap())).collect();
    assert_eq!(seen.len(), 60);
}

#[test]
fn the_neighbours_of_guards_in_circles_of_kept_identities_come_from_eight_nodes() {
    let key = key();
    let view = view(60, &key);
    let mut owner = Owner::new(4);
    owner.kept = true;
    let mut beside_guards = BTreeSet::new();
    let mut elsewhere = BTreeSet::new();
    for _ in 0..200 {
        let plan = owner.draw(NOW, &view, 4).unwrap();
        let sequence = ids(&plan);
        let beside = plan.layout.places_beside_guards();
        let guards = plan.layout.guard_places();
        for (place, id) in sequence.iter().enumerate().filter(|(place, _)| !guards.contains(place)) {
            if beside.contains(&place) {
                beside_guards.insert(*id)
            } else {
                elsewhere.insert(*id)
            };
        }
    }
    assert_eq!(beside_guards.len(), SECOND_SET);
    assert!(elsewhere.len() > 40);
}

#[test]
fn the_second_set_changes_within_a_fortnight_and_not_within_a_day() {
    let key = key();
    let mut owner = Owner::new(5);
    let mut set_at = |days: u64| -> BTreeSet<NodeId> {
        let now = UnixTime(NOW.0 + days * 86_400 - u64::from(days > 0));
        let mut view = view(60, &key);
        view.iter_mut().for_each(|node| node.issued = now);
        let mut set = owner.guards.second_set(now, &contact(0), &view, &mut owner.rng);
        set.drain(..).map(|node| node.contact.id).collect()
    };
    let first = set_at(0);
    assert_eq!(first.len(), SECOND_SET);
    assert_eq!(set_at(1), first);
    let week = set_at(7);
    assert!(week != first && !week.is_disjoint(&first));
    assert!(set_at(15).intersection(&first).count() < SECOND_SET / 2);
}

#[test]
fn nodes_seen_for_hours_come_first_if_there_are_enough_of_them() {
    let key = key();
    let mut owner = Owner::new(6);
    let mut view = view(60, &key);
    view.iter_mut().take(30).for_each(|node| node.first_seen = UnixTime(NOW.0 - SEASONED_SECS));
    let seasoned: BTreeSet<NodeId> = view.iter().take(30).map(|node| node.contact.id).collect();
    for _ in 0..30 {
        let plan = owner.draw(NOW, &view, 3).unwrap();
        let guards = guard_ids(&plan);
        assert!(ids(&plan).iter().all(|id| seasoned.contains(id) || guards.contains(id)));
    }
    // Too few of them would be the same few in every circle.
    view.iter_mut().for_each(|node| node.first_seen = NOW);
    view.iter_mut().take(10).for_each(|node| node.first_seen = UnixTime(NOW.0 - SEASONED_SECS));
    let seen: BTreeSet<NodeId> = (0..60).flat_map(|_| ids(&owner.draw(NOW, &view, 3).unwrap())).collect();
    assert!(seen.len() > 50);
}

#[test]
fn nodes_of_failed_circles_and_used_terminals_are_avoided_where_others_suffice() {
    let key = key();
    let large = view(60, &key);
    let mut owner = Owner::new(7);
    for _ in 0..30 {
        let plan = owner.draw(NOW, &large, 3).unwrap();
        let guards = guard_ids(&plan);
        assert!(ids(&plan).iter().all(|id| guards.contains(id) || !owner.avoid.contains_key(id)));
        assert!(!owner.avoid_terminals.contains(&plan.path().last().unwrap().contact.id));
        owner.avoid = ids(&plan).into_iter().map(|id| (id, 1)).collect();
        owner.avoid_terminals.insert(plan.path().last().unwrap().contact.id);
    }
    let small = view(8, &key);
    owner.guards = Guards::new();
    owner.avoid = small.iter().map(|node| (node.contact.id, 1)).collect();
    owner.avoid_terminals = owner.avoid.keys().copied().collect();
    assert!(owner.draw(NOW, &small, 3).is_ok());
}

#[test]
fn the_paths_of_a_kept_identity_end_at_different_nodes_whatever_their_length() {
    let key = key();
    let large = view(60, &key);
    for hops in 1..=8 {
        let mut owner = Owner::new(hops as u8);
        owner.kept = true;
        for _ in 0..20 {
            owner.avoid_terminals.clear();
            for _ in 0..3 {
                let plan = owner.draw(NOW, &large, hops).unwrap();
                let terminal = plan.path().last().unwrap().contact.id;
                assert!(owner.avoid_terminals.insert(terminal), "{hops} hops");
            }
        }
    }
}

#[test]
fn lengths_without_a_circle_are_refused() {
    let key = key();
    for hops in [0, 9] {
        assert_eq!(Owner::new(8).draw(NOW, &view(60, &key), hops).err(), Some(PlanError::Length(hops)));
    }
}
