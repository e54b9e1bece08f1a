//! Where functions begin and end, told from the indentation that rustfmt guarantees.

/// A function's name and its number of lines, signature and braces included.
#[derive(Debug, PartialEq)]
pub struct Function {
    pub name: String,
    pub lines: usize,
}

/// The functions of a formatted source. Those without a body (in traits) are left out.
pub fn functions(lines: &[&str]) -> Vec<Function> {
    lines.iter().enumerate().filter_map(|(at, line)| function(lines, at, line)).collect()
}

fn function(lines: &[&str], at: usize, line: &str) -> Option<Function> {
    let name = name(line.trim_start())?;
    let indent = &line[..line.len() - line.trim_start().len()];
    if line.ends_with('}') || line.ends_with(';') {
        return line.ends_with('}').then(|| Function { name: name.to_owned(), lines: 1 });
    }
    for (length, next) in (2..).zip(&lines[at + 1..]) {
        let Some(rest) = next.strip_prefix(indent) else { continue };
        if rest == "}" {
            return Some(Function { name: name.to_owned(), lines: length });
        }
        if rest.starts_with(')') && rest.ends_with(';') {
            return None;
        }
    }
    None
}

/// `pub(crate) async fn name<T>(…` is `name`.
fn name(line: &str) -> Option<&str> {
    let mut rest = line;
    loop {
        if let Some(after) = rest.strip_prefix("fn ") {
            return after.split(['(', '<']).next();
        }
        let (word, after) = rest.split_once(' ')?;
        let modifier = matches!(word, "pub" | "async" | "const" | "unsafe" | "extern" | "\"C\"");
        if !modifier && !word.starts_with("pub(") {
            return None;
        }
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_measured_from_name_to_brace() {
        let source = "\
pub(crate) async fn one<T>(
    a: T,
) -> T {
    a
}
trait X {
    fn two(
        &self,
    );
    fn three(&self);
    fn four() {}
    const fn five() -> u8 {
        if true {
            1
        }
    }
}
// fn six() {
let fn_like = 1;";
        let lines: Vec<&str> = source.lines().collect();
        let found: Vec<_> = functions(&lines).into_iter().map(|f| (f.name, f.lines)).collect();
        let expected = [("one", 5), ("four", 1), ("five", 5)];
        assert_eq!(found, expected.map(|(name, lines)| (name.to_owned(), lines)));
    }
}
