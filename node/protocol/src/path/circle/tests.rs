//! What the slots of one circle have in common.

use std::collections::BTreeMap;

use rand::{SeedableRng, rngs::ChaCha20Rng};

use super::*;
use crate::{
    crypto::seal::PathSecret,
    path::{
        guards::Guards,
        plan::{Candidate, PlanRequest},
        tests::{contact, node_id},
    },
};

const NOW: UnixTime = UnixTime(1_800_000_123);

fn circle(hops: usize, rng: &mut ChaCha20Rng) -> Circle {
    let secret = PathSecret::generate(rng);
    let view: Vec<Candidate<'_>> = (1..24)
        .map(|at| Candidate {
            contact: contact(at),
            path_key: secret.public(),
            issued: NOW,
            first_seen: NOW,
            family: None,
        })
        .collect();
    let (avoid, avoid_terminals) = Default::default();
    let request =
        PlanRequest { hops, kept_identity: false, avoid: &avoid, avoid_terminals: &avoid_terminals };
    let plan = Plan::draw(NOW, &contact(0), &view, &mut Guards::new(), &request, rng).unwrap();
    let purpose = PathUse { class: PathClass::Standard, route_keys: 3 };
    let links = GuardLinks { first: LinkId(2), last: LinkId(3), path: LinkId(4) };
    Circle::draw(NOW, contact(0), plan, purpose, links, rng)
}

/// Every value longer than a few bits that the node at `place` reads in both rounds.
fn values(circle: &Circle, place: usize) -> Vec<Vec<u8>> {
    let package = circle.packages().nth(place).unwrap().payload;
    let package = SetupPackage::decode(&package).unwrap();
    let mut values = vec![
        package.previous.as_bytes().to_vec(),
        package.previous_connection.to_bytes().to_vec(),
        package.next.to_bytes(),
        package.next.id.as_bytes().to_vec(),
        package.next_connection.to_bytes().to_vec(),
        package.secret.as_bytes().to_vec(),
    ];
    if let GoodieBox::Hop(hop) = GoodieBox::decode(&circle.goodies(place)).unwrap() {
        values.push(hop.secret.as_bytes().to_vec());
        values.extend(hop.route_keys.iter().map(|key| key.as_bytes().to_vec()));
        for (neighbour, path) in hop.neighbours.iter().flatten() {
            values.push(neighbour.to_bytes());
            values.push(neighbour.id.as_bytes().to_vec());
            values.push(path.to_bytes().to_vec());
        }
    }
    values
}

/// Whether two places of the circle are neighbours in the sequence or in the path.
fn are_neighbours(circle: &Circle, a: usize, b: usize) -> bool {
    let in_path = circle.plan.path_places().windows(2).any(|pair| pair == [a, b] || pair == [b, a]);
    a.abs_diff(b) == 1 || in_path
}

#[test]
fn no_value_occurs_in_the_slots_of_two_nodes_that_are_not_neighbours() {
    let mut rng = ChaCha20Rng::from_seed([1; 32]);
    for hops in 1..=8 {
        let circle = circle(hops, &mut rng);
        let nodes = circle.plan.sequence().len();
        // Names of nodes are not drawn: a node is named to all its neighbours, which need not be neighbours themselves.
        let names: Vec<Vec<u8>> =
            (0..24).flat_map(|at| [node_id(at).as_bytes().to_vec(), contact(at).to_bytes()]).collect();
        let mut holders: BTreeMap<Vec<u8>, Vec<usize>> = BTreeMap::new();
        for place in 0..nodes {
            for value in values(&circle, place) {
                let holders = holders.entry(value).or_default();
                if !holders.contains(&place) {
                    holders.push(place);
                }
            }
        }
        for (value, holders) in holders {
            for (a, b) in
                holders.iter().flat_map(|a| holders.iter().map(move |b| (*a, *b))).filter(|(a, b)| a < b)
            {
                assert!(are_neighbours(&circle, a, b) || names.contains(&value), "{value:?} at {a} and {b}");
            }
            assert!(holders.len() <= 2 || names.contains(&value));
        }
    }
}

#[test]
fn a_node_is_named_to_its_neighbours_only() {
    let mut rng = ChaCha20Rng::from_seed([2; 32]);
    for hops in 1..=8 {
        let circle = circle(hops, &mut rng);
        let sequence: Vec<NodeId> = circle.plan.sequence().iter().map(|stop| stop.contact.id).collect();
        let sees_owner = circle.plan.guards().map(|stop| stop.contact.id);
        for (place, reader) in sequence.iter().enumerate() {
            let values = values(&circle, place);
            for (other, named) in sequence.iter().enumerate() {
                let is_named = values.contains(&named.as_bytes().to_vec());
                assert_eq!(is_named, place != other && are_neighbours(&circle, place, other));
            }
            assert_eq!(values.contains(&node_id(0).as_bytes().to_vec()), sees_owner.contains(reader));
        }
    }
}

#[test]
fn expiries_are_drawn_for_each_slot_and_the_owner_uses_the_least() {
    let mut rng = ChaCha20Rng::from_seed([3; 32]);
    let circle = circle(8, &mut rng);
    let least = NOW.0 + 4 * 3_600;
    let mut expiries: Vec<u64> = circle.expiries.iter().map(|expiry| expiry.0).collect();
    assert!(expiries.iter().all(|expiry| (least..=least + 600 + 3_600).contains(expiry)));
    let hops: Vec<u64> = circle.plan.path_places().iter().map(|place| expiries[*place]).collect();
    expiries.sort();
    expiries.dedup();
    assert!(expiries.len() > 15);
    assert_eq!(circle.establish().unwrap().expiry.0, *hops.iter().min().unwrap());
}

#[test]
fn both_coins_fall() {
    let mut rng = ChaCha20Rng::from_seed([4; 32]);
    let heads: usize = (0..20).flat_map(|_| circle(8, &mut rng).hops).filter(|hop| hop.out_is_a_to_b).count();
    assert!((50..110).contains(&heads));
}

#[test]
fn a_path_of_length_zero_is_one_hop_on_the_node_itself() {
    let mut rng = ChaCha20Rng::from_seed([5; 32]);
    let purpose = PathUse { class: PathClass::Long, route_keys: 1 };
    let (path, hop) = own_terminal(NOW, contact(0), purpose, &mut rng);
    let [owned] = &path.hops[..] else { panic!("one hop") };
    assert!(owned.secret == hop.secret && path.route_keys == hop.route_keys && path.link == LinkId::LOOP_A);
    let [a, b] = hop.neighbours;
    let (inward, outward) = if owned.out_is_a_to_b { (a, b) } else { (b, a) };
    let expected = HopNeighbour { node: node_id(0), link: LinkId::LOOP_B, path: path.path };
    assert_eq!((inward, outward), (Some(expected), None));
}
