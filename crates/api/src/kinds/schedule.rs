//! Schedules of cron jobs: five fields of ranges, or `@hourly` and its like; what is wrong with one in the words of the parser
//! that upstream uses.

/// Smallest and largest value of a field, and names for its values from the smallest on.
struct Field {
    low: u32,
    high: u32,
    names: &'static [&'static str],
}

const FIELDS: [Field; 5] = [
    Field { low: 0, high: 59, names: &[] },
    Field { low: 0, high: 23, names: &[] },
    Field { low: 1, high: 31, names: &[] },
    Field {
        low: 1,
        high: 12,
        names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    },
    Field { low: 0, high: 6, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] },
];
const WORDS: &[&str] = &["yearly", "annually", "monthly", "weekly", "daily", "midnight", "hourly"];

/// What is wrong with the schedule, if anything.
pub(super) fn error(schedule: &str) -> Option<String> {
    if schedule.contains("TZ") {
        return Some("cannot use TZ or CRON_TZ in schedule, use timeZone field instead".to_owned());
    }
    if let Some(word) = schedule.strip_prefix('@') {
        return descriptor(schedule, word);
    }
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        return Some(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    }
    fields.iter().zip(&FIELDS).find_map(|(text, field)| {
        text.split(',').filter(|range| !range.is_empty()).find_map(|range| check(range, field).err())
    })
}

fn descriptor(schedule: &str, word: &str) -> Option<String> {
    if WORDS.contains(&word) {
        return None;
    }
    match word.strip_prefix("every ") {
        Some(every) => crate::duration::nanos(every)
            .err()
            .map(|why| format!("failed to parse duration {schedule}: {why}")),
        None => Some(format!("unrecognized descriptor: {schedule}")),
    }
}

fn check(range: &str, field: &Field) -> Result<(), String> {
    let mut slashes = range.split('/');
    let (span, step) = (slashes.next().unwrap_or_default(), slashes.next());
    if slashes.next().is_some() {
        return Err(format!("too many slashes: {range}"));
    }
    let ends: Vec<&str> = span.split('-').collect();
    let (start, mut end) = match ends.as_slice() {
        ["*" | "?", ..] => (field.low, field.high),
        [one] => value(one, field).map(|n| (n, n))?,
        [low, high] => (value(low, field)?, value(high, field)?),
        _ => return Err(format!("too many hyphens: {range}")),
    };
    let step = match step {
        None => 1,
        Some(step) => {
            if ends.len() == 1 {
                end = field.high;
            }
            number(step)?
        }
    };
    if start < field.low {
        return Err(format!("beginning of range ({start}) below minimum ({}): {range}", field.low));
    }
    if end > field.high {
        return Err(format!("end of range ({end}) above maximum ({}): {range}", field.high));
    }
    if start > end {
        return Err(format!("beginning of range ({start}) beyond end of range ({end}): {range}"));
    }
    if step == 0 {
        return Err(format!("step of range should be a positive number: {range}"));
    }
    Ok(())
}

fn value(text: &str, field: &Field) -> Result<u32, String> {
    let lower = text.to_lowercase();
    match (field.low..).zip(field.names).find(|(_, name)| **name == lower) {
        Some((number, _)) => Ok(number),
        None => number(text),
    }
}

fn number(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| {
        format!("failed to parse int from {text}: strconv.Atoi: parsing \"{text}\": invalid syntax")
    })
}

#[cfg(test)]
mod tests {
    use super::error;

    #[test]
    fn schedules() {
        for good in [
            "* * * * *",
            "*/5 0-3 1,15 JAN MON",
            "@hourly",
            "@every 1h30m",
            "0 0 1-31/2 * sun-sat",
            "5/15 * * * ?",
        ] {
            assert_eq!(error(good), None, "{good}");
        }
        let cases = [
            ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
            ("@sometimes", "unrecognized descriptor: @sometimes"),
            ("@every soon", "failed to parse duration @every soon: time: invalid duration \"soon\""),
            ("a_b * * * *", "failed to parse int from a_b: strconv.Atoi: parsing \"a_b\": invalid syntax"),
            ("TZ=UTC * * * * *", "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"),
            ("61 * * * *", "end of range (61) above maximum (59): 61"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("* 5-3 * * *", "beginning of range (5) beyond end of range (3): 5-3"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
            ("1/2/3 * * * *", "too many slashes: 1/2/3"),
        ];
        for (bad, wanted) in cases {
            assert_eq!(error(bad).as_deref(), Some(wanted), "{bad}");
        }
    }
}
