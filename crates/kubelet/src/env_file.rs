//! Environment files: `fileKeyRef` takes a variable from a file that another container has left in a volume.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Longest environment file that is read.
const MAX_BYTES: u64 = 1 << 20;

/// The text of the file `path` in the volume at `root`; links must not lead out of the volume.
pub fn read(root: &Path, path: &str) -> Result<String, String> {
    let resolve = |path: &Path| path.canonicalize().map_err(|error| format!("{}: {error}", path.display()));
    let root = resolve(root)?;
    let file = resolve(&root.join(path.trim_start_matches('/')))?;
    if !file.starts_with(&root) {
        return Err(format!("{path} is outside of the volume"));
    }
    let failed = |error| format!("{}: {error}", file.display());
    let mut text = String::new();
    let opened = File::open(&file).map_err(failed)?;
    if !opened.metadata().map_err(failed)?.is_file() {
        return Err(format!("{path} is no file"));
    }
    let length = opened.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(failed)? as u64;
    if length > MAX_BYTES {
        return Err(format!("{path} is longer than {MAX_BYTES} bytes"));
    }
    Ok(text)
}

/// The value of `key`: `NAME='value'` a line, as upstream's kubelet reads it. A value is in single quotes and
/// may span lines; comments and empty lines are passed over; `NAME= …` sets nothing. Not there or empty is
/// `None`. Errors say which line before the key's is none of these.
pub fn value(text: &str, key: &str) -> Result<Option<String>, String> {
    let mut lines = text.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        let line = line.trim_start_matches([' ', '\t']);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |why: &str| Err(format!("line {}: {why}", index + 1));
        let Some((name, rest)) = line.split_once('=') else { return wrong("no '='") };
        if name.is_empty() || name.ends_with([' ', '\t']) {
            return wrong("no name right before '='");
        }
        if rest.starts_with([' ', '\t']) {
            if name == key {
                return Ok(None);
            }
            continue;
        }
        let Some(rest) = rest.strip_prefix('\'') else { return wrong("the value is not in single quotes") };
        let Some((value, after)) = quoted(rest, &mut lines) else { return wrong("the quote does not end") };
        let after = after.trim_start_matches([' ', '\t']);
        if !after.is_empty() && !after.starts_with('#') {
            return wrong("something follows the closing quote");
        }
        if name == key {
            return Ok(Some(value).filter(|value| !value.is_empty()));
        }
    }
    Ok(None)
}

/// What stands before the next quote, in this line or later ones, and what follows it in its line.
fn quoted<'a>(
    first: &'a str,
    lines: &mut impl Iterator<Item = (usize, &'a str)>,
) -> Option<(String, &'a str)> {
    let (mut value, mut rest) = (String::new(), first);
    loop {
        if let Some((last, after)) = rest.split_once('\'') {
            value.push_str(last);
            return Some((value, after));
        }
        value.push_str(rest);
        value.push('\n');
        rest = lines.next()?.1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn values() {
        let text = "# comment\n\n  A='1' # one\nMULTI='x\n y'\nSPACE= 'v'\nEMPTY=''\nLAST='z'\r\n";
        for (key, expected) in [
            ("A", Some("1")),
            ("MULTI", Some("x\n y")),
            ("SPACE", None),
            ("EMPTY", None),
            ("LAST", Some("z")),
            ("GONE", None),
        ] {
            assert_eq!(value(text, key).unwrap().as_deref(), expected, "{key}");
        }
    }

    #[test]
    fn lines_that_are_no_assignments() {
        for text in ["A", "='1'", "B ='1'", "B=1", "B=\"1\"", "B='1' 2", "B='1"] {
            assert!(value(text, "A").unwrap_err().starts_with("line 1: "), "{text}");
        }
        assert_eq!(value("A='1'\nbroken", "A").unwrap().as_deref(), Some("1"), "what follows is not read");
    }

    #[test]
    fn files_stay_in_their_volume() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("v");
        std::fs::create_dir_all(root.join("sub")).unwrap();
        std::fs::write(root.join("sub/env"), "A='1'").unwrap();
        std::fs::write(dir.path().join("secret"), "S='1'").unwrap();
        symlink("sub/env", root.join("link")).unwrap();
        symlink("../secret", root.join("out")).unwrap();
        for (path, there) in [
            ("sub/env", true),
            ("link", true),
            ("out", false),
            ("../secret", false),
            ("sub", false),
            ("x", false),
        ] {
            assert_eq!(read(&root, path).is_ok(), there, "{path}");
        }
    }
}
