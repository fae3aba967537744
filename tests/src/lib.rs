//! What the tests of this folder share: the fuzz targets, for the bounded runs of `cargo test` and for libFuzzer.

#[path = "../fuzz/targets.rs"]
pub mod fuzz;
