//! What owners write comes back, and nothing else is taken.

use proptest::prelude::*;

use super::*;
use crate::wire::contact::tests::any_contact;

fn any_key() -> impl Strategy<Value = Key> {
    any::<[u8; 32]>().prop_map(Key::from_bytes)
}

fn any_path() -> impl Strategy<Value = PathId> {
    any::<u64>().prop_map(PathId::new)
}

prop_compose! {
    fn any_package()(
        previous in any::<[u8; 32]>(),
        previous_connection in any_path(),
        next in any_contact(),
        next_connection in any_path(),
        secret in any_key(),
        class in prop::sample::select(vec![PathClass::Short, PathClass::Standard, PathClass::Long]),
        expiry in any::<u64>(),
    ) -> SetupPackage {
        SetupPackage {
            previous: NodeId::from_bytes(previous),
            previous_connection,
            next,
            next_connection,
            secret,
            class,
            expiry: UnixTime(expiry),
        }
    }
}

prop_compose! {
    fn any_hop()(
        a in (any_contact(), any_path()),
        b in prop::option::of((any_contact(), any_path())),
        outside_first in any::<bool>(),
        secret in any_key(),
        keys in prop::collection::vec(any::<[u8; 32]>(), 0..=ROUTE_KEYS_PER_PATH),
    ) -> HopBox {
        let b = b.filter(|(contact, _)| contact.id != a.0.id);
        let route_keys = if b.is_none() { keys.into_iter().map(RouteKey::from_bytes).collect() } else { Vec::new() };
        let neighbours = if outside_first { [b, Some(a)] } else { [Some(a), b] };
        HopBox { neighbours, secret, route_keys }
    }
}

fn padded(payload: &[u8], zeros: usize) -> Vec<u8> {
    [payload, &vec![0; zeros]].concat()
}

proptest! {
    #[test]
    fn packages_come_back(package in any_package(), zeros in 0usize..500) {
        let payload = padded(&package.encode(), zeros);
        let read = SetupPackage::decode(&payload).unwrap();
        prop_assert_eq!(read.encode(), package.encode());
        prop_assert!(read.secret == package.secret && read.next == package.next && read.expiry == package.expiry);
    }

    #[test]
    fn boxes_come_back(hop in any_hop(), zeros in 0usize..500) {
        let goodies = GoodieBox::Hop(Box::new(hop.clone()));
        let payload = padded(&goodies.encode(), zeros);
        let Ok(GoodieBox::Hop(read)) = GoodieBox::decode(&payload) else { panic!("a hop") };
        prop_assert_eq!(read.neighbours, hop.neighbours);
        prop_assert!(read.secret == hop.secret && read.route_keys == hop.route_keys);
        prop_assert_eq!(read.is_terminal(), hop.neighbours.contains(&None));
    }

    #[test]
    fn what_parses_is_written_the_same_way(mut bytes in prop::collection::vec(any::<u8>(), 0..400), kind in 0u8..4) {
        if let Some(first) = bytes.first_mut() {
            *first = kind;
        }
        if let Ok(goodies) = GoodieBox::decode(&bytes) {
            prop_assert_eq!(padded(&goodies.encode(), 400)[..bytes.len()].to_vec(), bytes.clone());
        }
        if let Ok(package) = SetupPackage::decode(&bytes) {
            prop_assert_eq!(padded(&package.encode(), 400)[..bytes.len()].to_vec(), bytes);
        }
    }

    #[test]
    fn anything_behind_a_payload_that_is_not_zero_is_refused(package in any_package(), at in 0usize..300) {
        let mut payload = padded(&package.encode(), 300);
        let end = payload.len() - 300;
        payload[end + at] = 1;
        prop_assert!(SetupPackage::decode(&payload).is_err());
        let mut helper = padded(&GoodieBox::Helper.encode(), 300);
        helper[1 + at] = 1;
        prop_assert!(GoodieBox::decode(&helper).is_err());
    }
}

#[test]
fn the_largest_payloads_fit_into_a_slot() {
    let contact = Contact::unlisted(NodeId::from_bytes([1; 32]));
    let hop = HopBox {
        neighbours: [Some((contact, PathId::new(1))), None],
        secret: Key::from_bytes([2; 32]),
        route_keys: vec![RouteKey::from_bytes([3; 32]); ROUTE_KEYS_PER_PATH],
    };
    assert!(64 + GoodieBox::Hop(Box::new(hop)).encode().len() <= SLOT - TAG);
    let package = 32 + 5 + Contact::ENCODED + 5 + 32 + 1 + 8;
    assert!(64 + package <= SLOT - CIPHERTEXT - TAG);
}

#[test]
fn a_box_without_neighbours_with_one_twice_or_with_route_keys_between_two_is_refused() {
    let contact = |id| Contact::unlisted(NodeId::from_bytes([id; 32]));
    let side = |id| Some((contact(id), PathId::new(1)));
    let refused = |neighbours, route_keys| {
        let hop = HopBox { neighbours, secret: Key::from_bytes([2; 32]), route_keys };
        GoodieBox::decode(&GoodieBox::Hop(Box::new(hop)).encode()).is_err()
    };
    assert!(refused([None, None], vec![]));
    assert!(refused([side(1), side(1)], vec![]));
    assert!(refused([side(1), side(2)], vec![RouteKey::from_bytes([3; 32])]));
    assert!(!refused([side(1), side(2)], vec![]));
}

#[test]
fn an_array_has_one_size() {
    assert!(SetupArray::from_bytes(&vec![0; ARRAY]).is_some());
    assert!(SetupArray::from_bytes(&vec![0; ARRAY - 1]).is_none());
    assert!(SetupArray::from_bytes(&vec![0; ARRAY + 1]).is_none());
}
