use hctr2_rs::Hctr2_256;
use proptest::prelude::*;

use super::*;

fn body(seed: u8) -> Body {
    std::array::from_fn(|place| (place as u8).wrapping_mul(31).wrapping_add(seed))
}

/// HCTR2 over any length, which the hop layer does not need but published vectors do.
fn turn(mode: Mode, key: &[u8; 32], tweak: &[u8], message: &[u8]) -> Vec<u8> {
    let mut message = message.to_vec();
    let (first, rest) = message.split_first_chunk_mut().unwrap();
    WideBlock::new(key).turn(mode, tweak, first, rest);
    message
}

#[test]
fn deciphering_undoes_enciphering() {
    let wide_block = WideBlock::new(&[1; 32]);
    let mut turned = body(0);
    wide_block.encipher(&tweak(Direction::AtoB, 5), &mut turned);
    assert_ne!(turned, body(0));
    wide_block.decipher(&tweak(Direction::AtoB, 5), &mut turned);
    assert_eq!(turned, body(0));
}

#[test]
fn a_flipped_bit_or_another_tweak_makes_the_whole_body_random() {
    let wide_block = WideBlock::new(&[1; 32]);
    let here = tweak(Direction::AtoB, 5);
    let mut sent = body(0);
    wide_block.encipher(&here, &mut sent);
    let mut flipped = sent;
    flipped[BODY - 1] ^= 1;
    let elsewhere = [(here, flipped), (tweak(Direction::AtoB, 6), sent), (tweak(Direction::BtoA, 5), sent)];
    for (tweak, mut received) in elsewhere {
        wide_block.decipher(&tweak, &mut received);
        let same = received.iter().zip(body(0)).filter(|(a, b)| **a == *b).count();
        assert!(same < 30, "{same} bytes survived; chance leaves about 5");
    }
}

#[test]
fn tweaks_are_distinct() {
    assert_eq!(tweak(Direction::BtoA, 0x01020304)[..5], [1, 1, 2, 3, 4]);
    assert_eq!(Direction::AtoB.reverse(), Direction::BtoA);
}

proptest! {
    #[test]
    fn bodies_agree_with_the_reference(key: [u8; 32], tweak: [u8; TWEAK], seed: u8) {
        let mut ours = body(seed);
        let mut theirs = body(seed);
        WideBlock::new(&key).encipher(&tweak, &mut ours);
        Hctr2_256::new(&key).encrypt(&body(seed), &tweak, &mut theirs).unwrap();
        prop_assert_eq!(ours, theirs);
        WideBlock::new(&key).decipher(&tweak, &mut ours);
        prop_assert_eq!(ours, body(seed));
    }

    #[test]
    fn every_length_agrees_with_the_reference(
        key: [u8; 32],
        tweak in proptest::collection::vec(any::<u8>(), 0..50),
        message in proptest::collection::vec(any::<u8>(), 16..4000),
    ) {
        let reference = Hctr2_256::new(&key);
        let mut theirs = vec![0; message.len()];
        reference.encrypt(&message, &tweak, &mut theirs).unwrap();
        prop_assert_eq!(&turn(Mode::Encipher, &key, &tweak, &message), &theirs);
        reference.decrypt(&message, &tweak, &mut theirs).unwrap();
        prop_assert_eq!(&turn(Mode::Decipher, &key, &tweak, &message), &theirs);
    }
}
