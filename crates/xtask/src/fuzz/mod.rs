//! `cargo xtask fuzz TARGET`: spoiled inputs into codecs, patches, apply, selectors and kinds until the time is over or one breaks.
//!
//! Nothing but the seed decides which inputs come, so a failure can be had again; the input that broke is kept in `fuzz/artifacts`.
//! With a nightly compiler and cargo-fuzz the same functions run under libFuzzer: `cargo +nightly fuzz run TARGET`.

mod corpus;
mod mutate;
mod targets;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use mutate::Random;
use targets::{TARGETS, Target};

/// The subcommand's arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to fuzz, or `all`; `list` names the targets.
    target: String,
    /// How long, for each target.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Where the generator starts.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only run this file, such as one from `fuzz/artifacts`.
    #[arg(long)]
    input: Option<PathBuf>,
}

/// Runs one target, or all after each other.
pub fn run(args: &Args) -> Result<()> {
    if args.target == "list" {
        TARGETS.iter().for_each(|target| println!("{}", target.name));
        return Ok(());
    }
    let wanted: Vec<&Target> =
        TARGETS.iter().filter(|t| args.target == "all" || t.name == args.target).collect();
    if wanted.is_empty() {
        bail!("no target is called {:?}; `cargo xtask fuzz list` names them", args.target);
    }
    if let Some(path) = &args.input {
        let input = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        wanted.iter().for_each(|target| (target.run)(&input));
        return Ok(());
    }
    std::panic::set_hook(Box::new(|_| {}));
    let outcome = wanted.iter().try_for_each(|target| fuzz(target, args));
    drop(std::panic::take_hook());
    outcome
}

fn fuzz(target: &Target, args: &Args) -> Result<()> {
    let seeds = corpus::seeds(target);
    let (mut random, started) = (Random::new(args.seed), Instant::now());
    let end = Duration::from_secs(args.seconds);
    let (mut runs, mut slowest) = (0u64, Duration::ZERO);
    for input in &seeds {
        slowest = slowest.max(attempt(target, input)?);
    }
    while started.elapsed() < end {
        let mut input = seeds[random.below(seeds.len())].clone();
        let other = &seeds[random.below(seeds.len())];
        mutate::mutate(&mut random, &mut input, other);
        slowest = slowest.max(attempt(target, &input)?);
        runs += 1;
    }
    println!(
        "{}: {} seeds, {runs} inputs in {:.0?}, slowest {slowest:.1?}, nothing broke",
        target.name,
        seeds.len(),
        started.elapsed()
    );
    Ok(())
}

/// One input. Returns how long it took.
fn attempt(target: &Target, input: &[u8]) -> Result<Duration> {
    let started = Instant::now();
    let Err(panic) = catch_unwind(AssertUnwindSafe(|| (target.run)(input))) else {
        return Ok(started.elapsed());
    };
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words");
    let path = keep(target, input)?;
    bail!("{}: {text}\nthe input is in {}", target.name, path.display())
}

fn keep(target: &Target, input: &[u8]) -> Result<PathBuf> {
    use sha2::Digest;
    let folder = crate::root().join("fuzz/artifacts").join(target.name);
    fs::create_dir_all(&folder)?;
    let path = folder.join(format!("crash-{}", &hex::encode(sha2::Sha256::digest(input))[..16]));
    fs::write(&path, input)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A short walk through every target: the long ones are run by people.
    #[test]
    fn every_target_stands_its_seeds_and_some_spoiled_ones() {
        for target in TARGETS {
            let (seeds, mut random) = (corpus::seeds(target), Random::new(7));
            for at in 0..100 {
                let mut input = seeds[at % seeds.len()].clone();
                (target.run)(&input);
                mutate::mutate(&mut random, &mut input, &seeds[0]);
                (target.run)(&input);
            }
        }
    }

    /// Every target of ours is one of cargo-fuzz too.
    #[test]
    fn cargo_fuzz_knows_them_all() {
        let manifest = fs::read_to_string(crate::root().join("fuzz/Cargo.toml")).unwrap();
        for target in TARGETS {
            assert!(manifest.contains(&format!("name = \"{}\"", target.name)), "{}", target.name);
            assert!(crate::root().join(format!("fuzz/fuzz_targets/{}.rs", target.name)).exists());
        }
    }
}
