//! Every fuzz target for a bounded time, on stable Rust: mutations of valid inputs, repeatable from a printed seed.
//!
//! `FUZZ_SECONDS` is the time for each target (1), `FUZZ_SEED` repeats a run. A fault prints the input in hex; it belongs
//! into `CASES` then, so that it never comes back.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    fmt::Write,
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use phantom_tests::fuzz::{TARGETS, Target};
use rand::{RngExt, SeedableRng, rngs::ChaCha20Rng, seq::IndexedRandom};

/// Inputs that were faults once: target and input in hex.
const CASES: &[(&str, &str)] = &[];

#[test]
fn old_faults_stay_away() {
    for (name, hex) in CASES {
        let target = TARGETS.iter().find(|target| target.name == *name).expect("a target of this name");
        run(target, &from_hex(hex), "an old case");
    }
}

#[test]
fn valid_inputs_are_taken() {
    for target in TARGETS {
        (target.seeds)().iter().for_each(|seed| run(target, seed, "a valid input"));
    }
}

#[test]
fn no_input_breaks_a_target() {
    let seconds = number("FUZZ_SECONDS").unwrap_or(1);
    let seed = number("FUZZ_SEED").unwrap_or_else(|| u64::from(std::process::id()) ^ now_nanos());
    println!("FUZZ_SEED={seed}");
    for target in TARGETS {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let (seeds, end) = ((target.seeds)(), Instant::now() + Duration::from_secs(seconds));
        let mut rounds = 0_u64;
        while Instant::now() < end {
            for _ in 0..64 {
                let input = mutate(seeds.choose(&mut rng).expect("a target has seeds"), &mut rng);
                run(target, &input, &format!("FUZZ_SEED={seed}"));
                rounds += 1;
            }
        }
        println!("{}: {rounds} inputs", target.name);
    }
}

fn run(target: &Target, input: &[u8], whence: &str) {
    if catch_unwind(AssertUnwindSafe(|| (target.run)(input))).is_err() {
        panic!("{} breaks ({whence}) at: {}", target.name, to_hex(input));
    }
}

/// A few changes of the kinds that parsers stumble over. Half of them near the front, where the lengths stand.
fn mutate(seed: &[u8], rng: &mut ChaCha20Rng) -> Vec<u8> {
    let mut input = seed.to_vec();
    for _ in 0..rng.random_range(0..4) {
        let reach = if rng.random() { input.len().min(80) } else { input.len() };
        let place = rng.random_range(0..=reach.saturating_sub(1));
        match rng.random_range(0..7) {
            0 => input.truncate(place),
            1 => input.extend((0..rng.random_range(1..40)).map(|_| 0)),
            2 => input.insert(place.min(input.len()), rng.random()),
            3 => input.extend_from_within(place.min(input.len())..),
            number => {
                if let Some(byte) = input.get_mut(place) {
                    *byte = match number {
                        4 => *byte ^ (1 << rng.random_range(0..8)),
                        5 => [0, 1, 0x7f, 0x80, 0xff][rng.random_range(0..5)],
                        _ => rng.random(),
                    };
                }
            }
        }
    }
    input
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a whole number"))
}

fn now_nanos() -> u64 {
    std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos() as u64)
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("a string takes everything");
        hex
    })
}

fn from_hex(hex: &str) -> Vec<u8> {
    hex.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).expect("hex"))
        .collect()
}
