//! `cargo xtask tidy`: the rules of the house that no compiler knows. Exceptions stand in `tidy.toml`, each with its reason;
//! one that is no longer needed is a finding too, so that the list never grows old.

mod crates;
mod exceptions;
mod functions;
mod licence;
mod sources;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use exceptions::Exceptions;

/// Checks everything and prints what it found.
pub fn run() -> Result<()> {
    let root = crate::root();
    let text = fs::read_to_string(root.join("tidy.toml")).context("cannot read tidy.toml")?;
    let exceptions = Exceptions::parse(&text)?;
    let mut findings = Vec::new();
    sources::check(&root, &exceptions, &mut findings)?;
    crates::check(&root, &exceptions, &mut findings)?;
    findings.extend(exceptions.unused());
    for finding in &findings {
        println!("{finding}");
    }
    ensure!(findings.is_empty(), "tidy: {} findings", findings.len());
    Ok(())
}

/// A path as it is written in `tidy.toml` and in findings.
fn relative(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned()
}
