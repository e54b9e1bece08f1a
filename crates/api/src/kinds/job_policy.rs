//! When a job has failed, and when it has done enough: its policies, rule by rule.

use super::look::{Errors, given, int, items, not_negative, text};
use crate::Value;
use crate::field::{Error, Path, Quoted};
use crate::rules::{self, invalid_each};

const FAILURE_RULES_MAX: usize = 20;
const EXIT_CODES_MAX: usize = 255;
const CONDITIONS_MAX: usize = 20;
const SUCCESS_RULES_MAX: usize = 20;
const INDEXES_MAX_BYTES: usize = 64 * 1024;
const ACTIONS: &[&str] = &["Count", "FailIndex", "FailJob", "Ignore"];
const STATUSES: &[&str] = &["False", "True", "Unknown"];

fn valid(values: &[&str]) -> String {
    format!("valid values: [{}]", values.iter().map(|v| v.quoted()).collect::<Vec<_>>().join(" "))
}

/// What the end of a pod means for its job.
pub(super) fn failure(errors: &mut Errors, policy: &Value, spec: &Value, path: &Path<'_>) {
    let (rules, list) = (items(policy, "rules"), path.child("rules"));
    if rules.len() > FAILURE_RULES_MAX {
        errors.push(Error::too_many(&list, rules.len(), FAILURE_RULES_MAX));
    }
    for (i, rule) in rules.iter().enumerate() {
        let path = list.index(i);
        match text(rule, "action") {
            "" => errors.push(Error::required(&path.child("action"), valid(ACTIONS))),
            "FailIndex" if int(spec, "backoffLimitPerIndex").is_none() => {
                let detail = "requires the backoffLimitPerIndex to be set";
                errors.push(Error::invalid(&path.child("action"), "FailIndex", detail));
            }
            action if !ACTIONS.contains(&action) => {
                errors.push(Error::not_supported(&path.child("action"), action, ACTIONS));
            }
            _ => {}
        }
        let (codes, on_conditions) = (given(rule, "onExitCodes"), items(rule, "onPodConditions"));
        if let Some(codes) = codes {
            exit_codes(errors, codes, spec, &path.child("onExitCodes"));
        }
        conditions(errors, on_conditions, &path.child("onPodConditions"));
        match (codes, on_conditions.is_empty()) {
            (Some(_), false) => {
                let detail = "specifying both OnExitCodes and OnPodConditions is not supported";
                errors.push(Error::invalid_unshown(&path, detail));
            }
            (None, true) => {
                let detail = "specifying one of OnExitCodes and OnPodConditions is required";
                errors.push(Error::invalid_unshown(&path, detail));
            }
            _ => {}
        }
    }
}

fn exit_codes(errors: &mut Errors, codes: &Value, spec: &Value, path: &Path<'_>) {
    let (operator, list) = (text(codes, "operator"), path.child("values"));
    match operator {
        "" => errors.push(Error::required(&path.child("operator"), valid(&["In", "NotIn"]))),
        "In" | "NotIn" => {}
        other => errors.push(Error::not_supported(&path.child("operator"), other, &["In", "NotIn"])),
    }
    if let Some(name) = given(codes, "containerName").and_then(Value::as_str) {
        let known = ["containers", "initContainers"]
            .iter()
            .flat_map(|list| spec.items_at(&["template", "spec", list]))
            .any(|c| text(c, "name") == name);
        if !known {
            let detail = "must be one of the container or initContainer names in the pod template";
            errors.push(Error::invalid(&path.child("containerName"), name, detail));
        }
    }
    let values = items(codes, "values");
    if values.is_empty() {
        let shown = codes.get("values").cloned().unwrap_or_default();
        errors.push(Error::invalid(&list, shown, "at least one value is required"));
    } else if values.len() > EXIT_CODES_MAX {
        errors.push(Error::too_many(&list, values.len(), EXIT_CODES_MAX));
    }
    let number = |code: &Value| code.as_i64().unwrap_or(0);
    for (i, code) in values.iter().enumerate() {
        if operator == "In" && number(code) == 0 {
            let detail = "must not be 0 for the In operator";
            errors.push(Error::invalid(&list.index(i), 0, detail));
        }
        if values[..i].contains(code) {
            errors.push(Error::duplicate(&list.index(i), number(code)));
        }
    }
    if !values.is_sorted_by_key(number) {
        errors.push(Error::invalid(&list, Value::from(values.to_vec()), "must be ordered"));
    }
}

fn conditions(errors: &mut Errors, patterns: &[Value], list: &Path<'_>) {
    if patterns.len() > CONDITIONS_MAX {
        errors.push(Error::too_many(list, patterns.len(), CONDITIONS_MAX));
    }
    for (i, pattern) in patterns.iter().enumerate() {
        let (path, kind) = (list.index(i), text(pattern, "type"));
        invalid_each(errors, &path.child("type"), kind, rules::qualified_name(kind));
        match text(pattern, "status") {
            "" => errors.push(Error::required(&path.child("status"), valid(STATUSES))),
            status if !STATUSES.contains(&status) => {
                errors.push(Error::not_supported(&path.child("status"), status, STATUSES));
            }
            _ => {}
        }
    }
}

/// When a job of counted indexes is done before all of them are.
pub(super) fn success(errors: &mut Errors, policy: &Value, spec: &Value, path: &Path<'_>) {
    let (rules, list) = (items(policy, "rules"), path.child("rules"));
    // Without completions, which is told elsewhere, nothing can be compared.
    let completions = int(spec, "completions").unwrap_or(0);
    if rules.is_empty() {
        let detail = "at least one rules must be specified when the successPolicy is specified";
        errors.push(Error::required(&list, detail));
    }
    if rules.len() > SUCCESS_RULES_MAX {
        errors.push(Error::too_many(&list, rules.len(), SUCCESS_RULES_MAX));
    }
    for (i, rule) in rules.iter().enumerate() {
        let path = list.index(i);
        let indexes = given(rule, "succeededIndexes").and_then(Value::as_str);
        let count = int(rule, "succeededCount");
        if indexes.is_none() && count.is_none() {
            let detail = "at least one of succeededCount or succeededIndexes must be specified";
            errors.push(Error::required(&path, detail));
        }
        let named = indexes.map(|indexes| named_indexes(errors, indexes, completions, &path));
        let Some(count) = count else { continue };
        not_negative(errors, rule, "succeededCount", &path);
        let at = path.child("succeededCount");
        if count > completions {
            let detail =
                format!("must be less than or equal to {completions} (the number of specified completions)");
            errors.push(Error::invalid(&at, count, detail));
        }
        if let Some(named) = named.filter(|named| count > *named) {
            let detail = format!(
                "must be less than or equal to {named} (the number of indexes in the specified succeededIndexes field)"
            );
            errors.push(Error::invalid(&at, count, detail));
        }
    }
}

fn named_indexes(errors: &mut Errors, indexes: &str, completions: i64, path: &Path<'_>) -> i64 {
    let path = path.child("succeededIndexes");
    if indexes.len() > INDEXES_MAX_BYTES {
        errors.push(Error::too_long(&path, INDEXES_MAX_BYTES));
    }
    count_indexes(indexes, completions).unwrap_or_else(|why| {
        errors.push(Error::invalid(&path, indexes, format!("error parsing succeededIndexes: {why}")));
        0
    })
}

/// How many indexes `1,3-5` names.
fn count_indexes(indexes: &str, completions: i64) -> Result<i64, String> {
    let (mut total, mut last) = (0, None);
    for interval in indexes.split(',').filter(|_| !indexes.is_empty()) {
        let (first, end) = interval_of(interval, completions)?;
        if let Some(last) = last.filter(|last| *last >= first) {
            return Err(out_of_order(last, first));
        }
        total += end - first + 1;
        last = Some(end);
    }
    Ok(total)
}

fn out_of_order(previous: i64, current: i64) -> String {
    format!("non-increasing order, previous: {previous}, current: {current}")
}

fn interval_of(interval: &str, completions: i64) -> Result<(i64, i64), String> {
    let index = |part: &str| match part.parse::<i64>() {
        Err(_) => Err(format!("cannot convert string to integer for index: {}", part.quoted())),
        Ok(n) if n >= completions => Err(format!("too large index: {}", part.quoted())),
        Ok(n) => Ok(n),
    };
    let mut parts = interval.split('-');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(only), None, _) => index(only).map(|n| (n, n)),
        (Some(first), Some(end), None) => {
            let (first, end) = (index(first)?, index(end)?);
            if first >= end { Err(out_of_order(first, end)) } else { Ok((first, end)) }
        }
        _ => Err(format!(
            "the fragment {} violates the requirement that an index interval can have at most two parts separated by '-'",
            interval.quoted()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes() {
        let cases = [
            ("", Ok(0)),
            ("0", Ok(1)),
            ("0-2,4", Ok(4)),
            ("2,1", Err("non-increasing order, previous: 2, current: 1")),
            ("3-3", Err("non-increasing order, previous: 3, current: 3")),
            ("9", Err("too large index: \"9\"")),
            ("x", Err("cannot convert string to integer for index: \"x\"")),
            (
                "1-2-3",
                Err(
                    "the fragment \"1-2-3\" violates the requirement that an index interval can have at most two parts separated by '-'",
                ),
            ),
        ];
        for (indexes, wanted) in cases {
            assert_eq!(count_indexes(indexes, 9), wanted.map_err(str::to_owned), "{indexes}");
        }
    }
}
