use hctr2_rs::Hctr2_256;
use proptest::prelude::*;

use super::*;

fn body(seed: u8) -> Body {
    std::array::from_fn(|place| (place as u8).wrapping_mul(31).wrapping_add(seed))
}

/// HCTR2 over any length under a tweak of any length, of the same parts: the hop layer does not need it, but published
/// vectors do.
fn turn(mode: Mode, key: &[u8; 32], tweak: &[u8], message: &[u8]) -> Vec<u8> {
    let key = WideBlock::new(key);
    let mut message = message.to_vec();
    let (first, rest) = message.split_first_chunk_mut::<BLOCK>().unwrap();
    let (blocks, end) = rest.as_chunks_mut::<BLOCK>();
    let prefixed = key.bulk.absorb(0, &[prefix(tweak.len(), !end.is_empty())]);
    let (tweak_blocks, tweak_end) = tweak.as_chunks();
    let tweaked = key.bulk.absorb(prefixed, tweak_blocks);
    let tweaked =
        if tweak_end.is_empty() { tweaked } else { key.bulk.absorb(tweaked, &[padded(tweak_end, None)]) };
    let absorb_end = |state, end: &[u8]| {
        if end.is_empty() { state } else { key.bulk.absorb(state, &[padded(end, Some(1))]) }
    };
    let inner = u128::from_le_bytes(*first) ^ absorb_end(key.bulk.absorb(tweaked, blocks), end);
    let (outer, start) = key.turn_first(mode, inner);
    let state = key.bulk.turn_and_absorb(start, tweaked, blocks);
    let mut stream = Array::from((start ^ (blocks.len() as u128 + 1)).to_le_bytes());
    key.aes.encrypt_block(&mut stream);
    for (byte, key) in end.iter_mut().zip(stream) {
        *byte ^= key;
    }
    *first = (outer ^ absorb_end(state, end)).to_le_bytes();
    message
}

/// Less than a block, then what marks its end, then zeros.
fn padded(end: &[u8], mark: Option<u8>) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    for (to, from) in block.iter_mut().zip(end.iter().copied().chain(mark)) {
        *to = from;
    }
    block
}

/// Bodies with two, no, one and two passes.
#[test]
fn passes_in_a_chain_are_the_same_passes() {
    let keys = [1, 2].map(|seed| WideBlock::new(&[seed; 32]));
    let mut bodies = [4, 5, 6, 7].map(body);
    let pass = |place: usize, number: usize| {
        let mode = if (place + number).is_multiple_of(2) { Mode::Encipher } else { Mode::Decipher };
        let tweak = tweak(Direction::AtoB, place as u32);
        (number < [2, 0, 1, 2][place]).then(|| Pass::new(&keys[(place ^ number) % 2], mode, tweak))
    };
    let mut expected = bodies;
    for (place, body) in expected.iter_mut().enumerate() {
        (0..).map_while(|number| pass(place, number)).for_each(|pass| pass.turn(body));
    }
    let mut chain = Chain::default();
    for place in 0..bodies.len() {
        let (done, rest) = bodies.split_at_mut(place + 1);
        let next = rest.first().and_then(|body| Some((pass(place + 1, 0)?, body)));
        chain.turn((0..).map_while(|number| pass(place, number)), &mut done[place], next);
    }
    assert_eq!(bodies, expected);
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

/// Published vectors for HCTR2 with AES-256, by google/hctr2 and in Linux's crypto/testmgr.h: key, tweak, plaintext, ciphertext.
const PUBLISHED: [[&str; 4]; 6] = [
    [
        "7fc7152ae1f5fda4176769aec92bba82a314e7cfadfd8540da7b7d24bdf17d07",
        "",
        "9be382c65ac19fad4659b80bacc857a0",
        "596a76ff906fbe9b792767778fed2361",
    ],
    [
        "93ea527d3af227fc39a45851f4e0fda3d790112f8bd7ecaf583d93980800decd",
        "",
        "84ece276218ef95b3909227107a9d89192",
        "8e6816ce7b66973882fcb55200bb784fdb",
    ],
    [
        "d8f5b17d19d49745af795b045731b947a044b05d483183b4ed13b7f1a34bb48b",
        "f6",
        "f2b04b7301ffaf308e6db5002c91ffc30f",
        "65f0fc440045525df61c3a79eba78dadcf",
    ],
    [
        "676df1ab9a462ad6b5733f85f93602debdbe1ab843ae9db0e8ca5f3a1265505d",
        "ad",
        "94ccbbbb044bc2b69e91fdc4bfa7215dcd86fcc74ecd93c1d59c6628dd05e4c48df5c775434344dff2f3efa35bbb2270",
        "fe7aab24e62a91b1f0e7336e37f6d1ba55bf76267a59ce3e43123cfb27a26f071342a61ee1318ef8a3330af5af77fce9",
    ],
    [
        "a52824341a3cd8f705918fee851f357f803dfc9b94f6fc9e190900a904314f11",
        "a1ba4995ff346db8cd875d5efdea85db8a7b5eb25d57dd62aca98c41429475b7",
        "69b4e88c37e86782f1ec5d04e5149113dff2871b69811d71709e9c3bde497011a0a3db0d544f6669d7db80a7709268ce\
         81042cc6abaee56015e96fefaa8fa7a7638ff2f077f1a8eae1b71f9eab9e4b3f07875b6fcda8afb9fa700b52b8a8a79e\
         075fa60eb39b791379c33e8d1c2c68c8511d3c7b7d79772a5665c5542328b003",
        "ebf998863c409f168401f9060feb3ca94ca48e5dc38de5d3aea6e6ccd62d374f99c8a32146b869f2e31489d7b9f59e4e\
         07936f788e6bea8ffb43b83e9b4c1d7e209ac587eeaff6f946c5188ae869e79652555f001e1adccc13a5eeff4b27cadc\
         10a64876984394a3c7e2c9659b0814261d68fb150a33498484335a1b24463192",
    ],
    [
        "364511a2985f967cc6b494310a6709326c6f6f00f017cbaca5a9479e2e852ffa",
        "2888aa9b593b1e9782e55c9e6d1411196e388fd5402bcaf97b4ce4a3d0d28a13",
        "95d2f7711bcaa586d94801932f7955297113150ee612bc4d8a31e3402ac65e0d68bb4a628dc74577d2b8c71df1d25d97\
         cfac52e53277b6da3085cf2b98e9aa3462b5239eb7a6d4e0b458188c4dde4d01838924cafb11d482307a8135a0b4d4b6\
         84ea47918c198625a6068d78e6ed87ebdaea737cbf66b872e30ab80ccb1a73f1a7ca0ade572bbd2beb8b243822d30e1f\
         17a084983177fd346a4e3d844c0efbedc82a51fad873218adbb5fe1feec4e8655484dd966dfdd3317736526b804f9eb4\
         a255bf6641494e87a70ccae7a5c5f66f2756e24822dd5f593cf19f83e52dfb71add1ae1b205c47b73bd314ce8142b10a\
         f049fac2e786bfcdb0959f8f794154",
        "f65751c425612dfad6d93f9a8151dd8e3de7aa2db1dac8a69daa3cab62f280c32ce758721d44c5287fb4f9bc9cb2ab8e\
         fad14d72d979f5a0243e90253114384559c8f6e2c6f6c1a7b2f8a7a92b6f123ab081a4085759b1564c8f1855335fd66a\
         c6a04bd66b643e9efd6616e2dbeb5fb350503ede8d727601beccc952092d8de7d6c366db3608d177c87346262429bf68\
         2d2a99435655e493afae4de7554ac04526eb3b12907cdcd1d56f0ad0a9d74b890b07d886ada1c4691f5e8bc49e914125\
         569869783a9eae91d8d9fafbff812509fced2d87bc04629735e126c2461ccfd714ed0209a5b2b6aa274e61b3716b4716\
         b7e8d4af52eb6a6bdb4c65219e1c36",
    ],
];

#[test]
fn published_vectors_hold() {
    let hex = |text: &str| data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap();
    for [key, tweak, plaintext, ciphertext] in PUBLISHED {
        let key = hex(key).try_into().unwrap();
        assert_eq!(turn(Mode::Encipher, &key, &hex(tweak), &hex(plaintext)), hex(ciphertext));
        assert_eq!(turn(Mode::Decipher, &key, &hex(tweak), &hex(ciphertext)), hex(plaintext));
    }
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
