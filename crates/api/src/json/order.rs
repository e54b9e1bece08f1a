//! In which order strict findings stand in a body: upstream finds repeated and unknown fields in one pass over the text,
//! while here the parser finds the ones and the schema the others.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The findings of one body as upstream words them, in the order of the body: `duplicates` count where they are repeated.
/// What is repeated within an unknown field was never looked at, so nothing is said of it.
pub fn in_order(body: &[u8], duplicates: &[String], unknown: &[String]) -> Vec<String> {
    let known = duplicates.iter().filter(|path| !unknown.iter().any(|field| is_within(path, field)));
    let mut wanted: Vec<Wanted<'_>> = known.map(|path| Wanted { path, needed: 2, seen: 0 }).collect();
    wanted.extend(unknown.iter().map(|path| Wanted { path, needed: 1, seen: 0 }));
    let ways: Vec<Way<'_>> = wanted.iter().enumerate().map(|(id, one)| (one.path, id)).collect();
    let mut found = Found { wanted, order: Vec::new() };
    // A text that this second reader refuses (it stops at 128 levels) keeps the rest in the order in which it came.
    let _ =
        Look { ways: &ways, found: &mut found }.deserialize(&mut serde_json::Deserializer::from_slice(body));
    let rest: Vec<usize> = (0..found.wanted.len()).filter(|id| !found.order.contains(id)).collect();
    found.order.iter().chain(&rest).map(|id| found.wanted[*id].to_string()).collect()
}

fn is_within(path: &str, field: &str) -> bool {
    path.strip_prefix(field).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

struct Wanted<'a> {
    path: &'a str,
    /// At which occurrence it becomes a finding.
    needed: usize,
    seen: usize,
}

impl fmt::Display for Wanted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.needed > 1 { "duplicate" } else { "unknown" };
        write!(f, "{what} field \"{}\"", self.path)
    }
}

struct Found<'a> {
    wanted: Vec<Wanted<'a>>,
    order: Vec<usize>,
}

impl Found<'_> {
    fn here(&mut self, id: usize) {
        self.wanted[id].seen += 1;
        if self.wanted[id].seen == self.wanted[id].needed {
            self.order.push(id);
        }
    }
}

/// What is left of a wanted path below the value at hand, and whose it is.
type Way<'a> = (&'a str, usize);

/// Follows the wanted paths down a value; everything else is passed over.
struct Look<'a, 'w, 'f> {
    ways: &'w [Way<'a>],
    found: &'f mut Found<'a>,
}

impl<'a> Look<'a, '_, '_> {
    /// The ways that lead through `step`; those that end there are found.
    fn below(&mut self, step: &str) -> Vec<Way<'a>> {
        let mut below = Vec::new();
        for (way, id) in self.ways {
            match way.strip_prefix(step) {
                Some("") => self.found.here(*id),
                Some(rest) if rest.starts_with('.') => below.push((&rest[1..], *id)),
                Some(rest) if rest.starts_with('[') => below.push((rest, *id)),
                _ => {}
            }
        }
        below
    }
}

impl<'de> DeserializeSeed<'de> for Look<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Look<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            let ways = self.below(&key);
            if ways.is_empty() {
                map.next_value::<IgnoredAny>()?;
            } else {
                map.next_value_seed(Look { ways: &ways, found: self.found })?;
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
        for index in 0.. {
            let ways = self.below(&format!("[{index}]"));
            if list.next_element_seed(Look { ways: &ways, found: self.found })?.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::in_order;

    #[test]
    fn findings_stand_as_the_body_has_them() {
        let cases: &[(&str, &[&str], &[&str], &[&str])] = &[
            (r#"{"s":{"x":1,"r":1,"r":2}}"#, &["s.r"], &["s.x"], &["unknown s.x", "duplicate s.r"]),
            (r#"{"s":{"r":1,"r":2,"x":1}}"#, &["s.r"], &["s.x"], &["duplicate s.r", "unknown s.x"]),
            (r#"{"s":{"r":1,"x":1,"r":2}}"#, &["s.r"], &["s.x"], &["unknown s.x", "duplicate s.r"]),
            (
                r#"{"l":[{"x":0},{"a":1,"a":null}],"y":""}"#,
                &["l[1].a"],
                &["l[0].x", "y"],
                &["unknown l[0].x", "duplicate l[1].a", "unknown y"],
            ),
            // within what is unknown, and the unknown itself
            (r#"{"x":{"a":1,"a":2},"x":3}"#, &["x.a", "x"], &["x"], &["unknown x"]),
            (r#"{"x":1,"xa":1,"xa":1}"#, &["xa"], &["x"], &["unknown x", "duplicate xa"]),
            // keys with points in them
            (
                r#"{"l":{"a.b/c":"1","a.b/c":"2"},"x":1}"#,
                &["l.a.b/c"],
                &["x"],
                &["duplicate l.a.b/c", "unknown x"],
            ),
        ];
        for (body, duplicates, unknown, wanted) in cases {
            let owned = |paths: &[&str]| paths.iter().map(ToString::to_string).collect::<Vec<_>>();
            let wanted: Vec<String> = wanted
                .iter()
                .filter_map(|one| one.split_once(' '))
                .map(|(what, path)| format!("{what} field \"{path}\""))
                .collect();
            assert_eq!(in_order(body.as_bytes(), &owned(duplicates), &owned(unknown)), wanted, "{body}");
        }
    }

    #[test]
    fn what_cannot_be_read_again_is_told_nevertheless() {
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        let told = in_order(deep.as_bytes(), &["a".to_owned()], &["b".to_owned()]);
        assert_eq!(told, ["duplicate field \"a\"", "unknown field \"b\""]);
    }
}
