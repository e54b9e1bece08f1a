//! `tidy.toml`: sections of `name = "reason"`. That is all of TOML that it needs.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};

/// What may break a rule.
#[derive(Default)]
pub struct Exceptions {
    reasons: BTreeMap<(String, String), String>,
    used: RefCell<BTreeSet<(String, String)>>,
}

impl Exceptions {
    /// Reads the file; a reason is not optional.
    pub fn parse(text: &str) -> Result<Self> {
        let mut exceptions = Self::default();
        let mut section = String::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                section = name.to_owned();
                continue;
            }
            let place = || format!("tidy.toml, line {}", number + 1);
            let (name, reason) = line.split_once(" = ").with_context(place)?;
            let (name, reason) = (name.trim_matches('"'), reason.trim_matches('"'));
            ensure!(!reason.is_empty(), "{}: a reason is missing", place());
            exceptions.reasons.insert((section.clone(), name.to_owned()), reason.to_owned());
        }
        Ok(exceptions)
    }

    /// Whether `name` may break the rules of `section`; notes that it was asked for.
    pub fn allow(&self, section: &str, name: &str) -> bool {
        let key = (section.to_owned(), name.to_owned());
        let known = self.reasons.contains_key(&key);
        if known {
            self.used.borrow_mut().insert(key);
        }
        known
    }

    /// Findings about exceptions that nothing needs.
    pub fn unused(&self) -> Vec<String> {
        let used = self.used.borrow();
        let idle = self.reasons.keys().filter(|key| !used.contains(key));
        idle.map(|(section, name)| format!("tidy.toml: [{section}] {name} is no longer needed")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_have_reasons_and_are_used() {
        let text = "# why\n[length]\n\"a/b.rs\" = \"a table\"\nplain = \"x\"\n";
        let exceptions = Exceptions::parse(text).unwrap();
        assert!(exceptions.allow("length", "a/b.rs"));
        assert!(!exceptions.allow("other", "a/b.rs"));
        assert_eq!(exceptions.unused(), ["tidy.toml: [length] plain is no longer needed"]);
        assert!(Exceptions::parse("[x]\na = \"\"").is_err());
        assert!(Exceptions::parse("[x]\na").is_err());
    }
}
