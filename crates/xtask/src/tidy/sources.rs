//! Rules about source files: how they open, how long they and their functions are, what they never contain.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::exceptions::Exceptions;
use super::functions::functions;
use super::relative;

/// Longest file without its tests.
const MAX_FILE: usize = 800;
/// Longest function.
const MAX_FUNCTION: usize = 70;
/// Names that say nothing.
const EMPTY_NAMES: [&str; 6] = ["util", "utils", "common", "helper", "helpers", "misc"];
/// The one crate with `unsafe`.
const UNSAFE_ROOM: &str = "crates/sys/";

/// Checks every source file of the workspace.
pub fn check(root: &Path, exceptions: &Exceptions, findings: &mut Vec<String>) -> Result<()> {
    let mut files = Vec::new();
    walk(&root.join("crates"), &mut files)?;
    let mut sources = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        sources.push((file, text));
    }
    let tests = test_modules(&sources);
    for (file, text) in &sources {
        let path = relative(root, file);
        findings.extend(wording(&path, text));
        if !is_test(&path)
            && !tests.iter().any(|test| file.starts_with(test) || *file == test.with_extension("rs"))
        {
            findings.extend(lengths(&path, text, exceptions));
        }
    }
    Ok(())
}

fn walk(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let mut entries = fs::read_dir(dir)?.map(|e| Ok(e?.path())).collect::<Result<Vec<_>>>()?;
    entries.sort();
    for path in entries {
        if path.is_dir() {
            walk(&path, files)?;
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// Integration tests and benchmarks.
fn is_test(path: &str) -> bool {
    path.contains("/tests/") || path.contains("/benches/")
}

/// Modules that some file declares as `#[cfg(test)] mod name;`, as paths without ending.
fn test_modules(sources: &[(PathBuf, String)]) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for (file, text) in sources {
        let home = match file.file_stem().and_then(|stem| stem.to_str()) {
            Some("mod" | "lib" | "main") => file.with_file_name(""),
            _ => file.with_extension(""),
        };
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        for pair in lines.windows(2).filter(|pair| pair[0] == "#[cfg(test)]") {
            let declared = pair[1].rsplit_once("mod ").and_then(|(_, name)| name.strip_suffix(';'));
            found.extend(declared.map(|name| home.join(name)));
        }
    }
    found
}

fn wording(path: &str, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    let stem = Path::new(path).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    if EMPTY_NAMES.contains(&stem) {
        findings.push(format!("{path}: {stem} says nothing; name it after what is in it"));
    }
    // Written so that this file does not find itself.
    if text.contains(concat!("#[", "ignore")) {
        findings.push(format!("{path}: a test that is not run is no test"));
    }
    if !path.starts_with(UNSAFE_ROOM) && text.contains(concat!("allow(", "unsafe_code)")) {
        findings.push(format!("{path}: unsafe belongs in {UNSAFE_ROOM}"));
    }
    findings
}

fn lengths(path: &str, text: &str, exceptions: &Exceptions) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let code = &lines[..before_tests(&lines)];
    let mut findings = Vec::new();
    if code.len() > MAX_FILE && !exceptions.allow("file-length", path) {
        findings.push(format!("{path}: {} lines without tests, {MAX_FILE} at most", code.len()));
    }
    for function in functions(code).iter().filter(|function| function.lines > MAX_FUNCTION) {
        let name = &function.name;
        if !exceptions.allow("function-length", &format!("{path}::{name}")) {
            findings.push(format!("{path}: fn {name} has {} lines, {MAX_FUNCTION} at most", function.lines));
        }
    }
    findings
}

/// The number of lines in front of the test module.
fn before_tests(lines: &[&str]) -> usize {
    let module = lines
        .windows(2)
        .position(|pair| pair[0] == "#[cfg(test)]" && pair[1].contains("mod ") && pair[1].ends_with('{'));
    module.unwrap_or(lines.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_must_not_be() {
        assert!(wording("crates/a/src/x.rs", "fn a() {}\n").is_empty());
        let bad = concat!("fn a() {}\n#[", "ignore]\n#![allow(", "unsafe_code)]\n");
        assert_eq!(wording("crates/a/src/util.rs", bad).len(), 3);
        assert_eq!(wording("crates/sys/src/x.rs", bad).len(), 1);
    }

    #[test]
    fn tests_do_not_count() {
        let long = "x\n".repeat(MAX_FILE);
        let none = Exceptions::default();
        let tested = format!("{long}#[cfg(test)]\nmod tests {{\n}}\n");
        assert!(lengths("a", &tested, &none).is_empty());
        assert_eq!(lengths("a", &format!("{long}x\n"), &none).len(), 1);
        let sources = [(PathBuf::from("s/a.rs"), "#[cfg(test)]\nmod b;\n".to_owned())];
        assert_eq!(test_modules(&sources), BTreeSet::from([PathBuf::from("s/a/b")]));
    }

    #[test]
    fn long_functions_are_found() {
        let body = "    x();\n".repeat(MAX_FUNCTION);
        let source = format!("fn long() {{\n{body}}}\n");
        assert_eq!(lengths("a", &source, &Exceptions::default()).len(), 1);
        let allowed = Exceptions::parse("[function-length]\n\"a::long\" = \"a table\"").unwrap();
        assert!(lengths("a", &source, &allowed).is_empty());
    }
}
