//! Finds the parts of a JSON document without reading them: what is inside is read later, once, by its own type. That keeps
//! lists and watches free of types, and so one program for all kinds.

/// The members of an object: names as they are written, without quotes, and values. `None`: not a whole object.
pub(crate) fn members(json: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    let mut at = after(json, 0, b'{')?;
    let mut found = Vec::new();
    if after(json, at, b'}').is_some() {
        return Some(found);
    }
    loop {
        let start = blank(json, at);
        let end = string(json, start)?;
        let value = blank(json, after(json, end, b':')?);
        let behind = skip(json, value)?;
        found.push((&json[start + 1..end - 1], &json[value..behind]));
        match after(json, behind, b',') {
            Some(next) => at = next,
            None => return after(json, behind, b'}').map(|_| found),
        }
    }
}

/// The elements of an array, none of `null`. `None`: not a whole array.
pub(crate) fn elements(json: &[u8]) -> Option<Vec<&[u8]>> {
    if json.trim_ascii() == b"null" {
        return Some(Vec::new());
    }
    let mut at = after(json, 0, b'[')?;
    let mut found = Vec::new();
    if after(json, at, b']').is_some() {
        return Some(found);
    }
    loop {
        let start = blank(json, at);
        let end = skip(json, start)?;
        found.push(&json[start..end]);
        match after(json, end, b',') {
            Some(next) => at = next,
            None => return after(json, end, b']').map(|_| found),
        }
    }
}

/// The position behind blanks.
fn blank(json: &[u8], at: usize) -> usize {
    let rest = json.get(at..).unwrap_or_default();
    at + rest.iter().take_while(|byte| byte.is_ascii_whitespace()).count()
}

/// The position behind blanks and this byte, where it is there.
fn after(json: &[u8], at: usize, byte: u8) -> Option<usize> {
    let at = blank(json, at);
    (json.get(at) == Some(&byte)).then_some(at + 1)
}

/// The position behind the string that begins at `at`.
fn string(json: &[u8], at: usize) -> Option<usize> {
    let mut at = after(json, at, b'"')?;
    loop {
        match json.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// The position behind the value that begins at `at`.
fn skip(json: &[u8], at: usize) -> Option<usize> {
    match json.get(at)? {
        b'"' => string(json, at),
        b'{' | b'[' => nested(json, at),
        _ => {
            let plain = |byte: &&u8| !byte.is_ascii_whitespace() && !matches!(**byte, b',' | b']' | b'}');
            let length = json[at..].iter().take_while(plain).count();
            (length > 0).then_some(at + length)
        }
    }
}

fn nested(json: &[u8], mut at: usize) -> Option<usize> {
    let mut depth = 0usize;
    loop {
        match json.get(at)? {
            b'"' => {
                at = string(json, at)?;
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            _ => {}
        }
        at += 1;
        if depth == 0 {
            return Some(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(parts: Option<Vec<&[u8]>>) -> Option<Vec<&str>> {
        parts.map(|parts| parts.into_iter().map(|part| std::str::from_utf8(part).unwrap()).collect())
    }

    #[test]
    fn elements_are_found_unread() {
        let table: [(&str, Option<Vec<&str>>); 10] = [
            ("[]", Some(vec![])),
            (" [ ] ", Some(vec![])),
            ("null", Some(vec![])),
            ("[1, true ,null]", Some(vec!["1", "true", "null"])),
            (r#"[{"a":[1,{}]},"],\"}"]"#, Some(vec![r#"{"a":[1,{}]}"#, r#""],\"}""#])),
            ("[1", None),
            ("[1,]", None),
            ("[\"\\", None),
            ("{}", None),
            ("", None),
        ];
        for (json, expected) in table {
            assert_eq!(texts(elements(json.as_bytes())), expected, "{json}");
        }
    }

    #[test]
    fn members_are_found_by_name() {
        let of = |json: &'static str| {
            members(json.as_bytes()).map(|found| {
                let text = |part| std::str::from_utf8(part).unwrap();
                found
                    .into_iter()
                    .map(|(name, value)| format!("{}={}", text(name), text(value)))
                    .collect::<Vec<_>>()
            })
        };
        let event = r#" {"type":"ADDED", "object" : {"a": "}"}}"#;
        assert_eq!(of(event).unwrap(), [r#"type="ADDED""#, r#"object={"a": "}"}"#]);
        assert_eq!(of("{ }").unwrap(), [""; 0]);
        for broken in ["", "[]", "{", r#"{"a"}"#, r#"{"a":}"#, r#"{"a":1"#, r#"{"a":1,}"#, r#"{a:1}"#] {
            assert!(of(broken).is_none(), "{broken}");
        }
    }
}
