//! `$(VAR)` in commands, arguments, environment values and subPathExpr.

/// Replaces `$(NAME)` by what `lookup` answers. `$$` is one `$` (so `$$(NAME)` stays as text), an unknown
/// name stays as it was written, and so does an unfinished `$(`.
pub fn expand(input: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(input.len());
    let mut rest = input;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = reference(rest) {
            match lookup(name) {
                Some(value) => out.push_str(&value),
                None => out.extend(["$(", name, ")"]),
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

fn reference(rest: &str) -> Option<(&str, &str)> {
    rest.strip_prefix('(')?.split_once(')')
}

/// Names in `input` that `known` does not have; for subPathExpr, where that is an error.
pub fn unknown_references(input: &str, known: impl Fn(&str) -> bool) -> Vec<String> {
    let missing = std::cell::RefCell::new(Vec::new());
    expand(input, |name| {
        if !known(name) {
            missing.borrow_mut().push(name.to_owned());
        }
        None
    });
    missing.into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expansion_table() {
        let lookup = |name: &str| match name {
            "VAR_A" => Some("A".to_owned()),
            "VAR_B" => Some("B".to_owned()),
            "VAR_EMPTY" => Some(String::new()),
            "VAR_REF" => Some("$(VAR_A)".to_owned()),
            _ => None,
        };
        for (input, expected) in [
            ("$(VAR_A)", "A"),
            ("---$(VAR_A)---$(VAR_B)", "---A---B"),
            ("$(VAR_EMPTY)", ""),
            ("$$(VAR_A)", "$(VAR_A)"),
            ("$$$(VAR_A)", "$A"),
            ("$$$$(VAR_A)", "$$(VAR_A)"),
            ("$(UNKNOWN)", "$(UNKNOWN)"),
            ("$(VAR_REF)", "$(VAR_A)"),
            ("$VAR_A", "$VAR_A"),
            ("$(VAR_A", "$(VAR_A"),
            ("foo$", "foo$"),
            ("$", "$"),
            ("$$", "$"),
            ("$)(VAR_A)", "$)(VAR_A)"),
            ("", ""),
            ("ü$(VAR_A)ü", "üAü"),
        ] {
            assert_eq!(expand(input, lookup), expected, "{input}");
        }
    }

    #[test]
    fn unknown_names_are_found() {
        assert_eq!(unknown_references("$(A)/$(B)/$$(C)", |name| name == "A"), ["B"]);
    }
}
