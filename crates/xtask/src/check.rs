//! `cargo xtask check`: everything that must hold before a change lands.

use std::process::Command;

use anyhow::Result;

/// Runs all checks, the quick ones first.
pub fn run() -> Result<()> {
    step("format", &["fmt", "--all", "--check"])?;
    println!("==> tidy");
    crate::tidy::run()?;
    step("clippy", &["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    println!("==> all good");
    Ok(())
}

fn step(name: &str, words: &[&str]) -> Result<()> {
    println!("==> {name}");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    crate::must(Command::new(cargo).args(words).current_dir(crate::root()))
}
