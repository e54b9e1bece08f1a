//! libFuzzer's way into the target `selectors`.
#![no_main]

#[allow(dead_code)]
#[path = "../../crates/xtask/src/fuzz/targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    targets::TARGETS.iter().filter(|t| t.name == "selectors").for_each(|t| (t.run)(input));
});
