//! Lists of completion indexes as the status says them: `0-2,5`. Pure.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;

use super::INDEX;

/// Reads a list; parts that make no sense and indexes from `end` on are passed over.
pub fn parse(text: &str, end: i32) -> BTreeSet<i32> {
    let mut all = BTreeSet::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) {
            all.extend(first.max(0)..=last.min(end - 1));
        }
    }
    all
}

/// Writes a list, the runs in it shortened.
pub fn write(all: &BTreeSet<i32>) -> String {
    let mut runs: Vec<(i32, i32)> = Vec::new();
    for index in all {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *index => *last = *index,
            _ => runs.push((*index, *index)),
        }
    }
    let part = |(first, last): &(i32, i32)| match last - first {
        0 => first.to_string(),
        1 => format!("{first},{last}"),
        _ => format!("{first}-{last}"),
    };
    runs.iter().map(part).collect::<Vec<_>>().join(",")
}

/// The index of a pod.
pub fn of_pod(pod: &Pod) -> Option<i32> {
    pod.metadata.annotations.as_ref()?.get(INDEX)?.parse().ok().filter(|index| *index >= 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_written() {
        for (text, count) in [("", 0), ("0", 1), ("0-2,5", 4), ("1,2", 2), ("0-3,5-7", 7)] {
            let all = parse(text, 100);
            assert_eq!((all.len(), write(&all).as_str()), (count, text));
        }
        assert_eq!(write(&parse("0-9,x,12", 5)), "0-4");
    }
}
