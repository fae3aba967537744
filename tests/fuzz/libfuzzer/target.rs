//! All targets behind one binary: `FUZZ_TARGET=name`, or the first byte of the input chooses.

#![no_main]

use libfuzzer_sys::fuzz_target;
use phantom_tests::fuzz::TARGETS;

fuzz_target!(|input: &[u8]| {
    let named = std::env::var("FUZZ_TARGET").ok();
    if let Some(name) = named {
        let target = TARGETS.iter().find(|target| target.name == name).expect("no such target");
        (target.run)(input);
    } else if let Some((first, rest)) = input.split_first() {
        (TARGETS[usize::from(*first) % TARGETS.len()].run)(rest);
    }
});
