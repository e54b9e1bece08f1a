//! Conditions as all newer kinds have them: what each must say, and none of them twice.

use super::look::{Errors, int_or_zero, one_of, text};
use crate::Value;
use crate::field::{Error, Path};
use crate::rules::{self, Messages, invalid_each};

const REASON_MAX_BYTES: usize = 1024;
const MESSAGE_MAX_BYTES: usize = 32 * 1024;

/// A list of conditions.
pub(super) fn validate(errors: &mut Errors, conditions: &[Value], path: &Path<'_>) {
    for (i, condition) in conditions.iter().enumerate() {
        let (kind, at) = (text(condition, "type"), path.index(i));
        if conditions[..i].iter().any(|other| text(other, "type") == kind) {
            errors.push(Error::duplicate(&at, kind));
        }
        one(errors, condition, &at);
    }
}

fn one(errors: &mut Errors, condition: &Value, path: &Path<'_>) {
    match text(condition, "type") {
        "" => errors.push(Error::required(&path.child("type"), "is required")),
        kind => invalid_each(errors, &path.child("type"), kind, rules::qualified_name(kind)),
    }
    one_of(errors, text(condition, "status"), &["False", "True", "Unknown"], &path.child("status"));
    let generation = int_or_zero(condition, "observedGeneration");
    if generation < 0 {
        let detail = "must be greater than or equal to zero";
        errors.push(Error::invalid(&path.child("observedGeneration"), generation, detail));
    }
    if text(condition, "lastTransitionTime").is_empty() {
        errors.push(Error::required(&path.child("lastTransitionTime"), ""));
    }
    let (reason, at) = (text(condition, "reason"), path.child("reason"));
    match reason {
        "" => errors.push(Error::required(&at, "")),
        reason => invalid_each(errors, &at, reason, reason_messages(reason)),
    }
    if reason.len() > REASON_MAX_BYTES {
        errors.push(Error::too_long(&at, REASON_MAX_BYTES));
    }
    if text(condition, "message").len() > MESSAGE_MAX_BYTES {
        errors.push(Error::too_long(&path.child("message"), MESSAGE_MAX_BYTES));
    }
}

fn reason_messages(reason: &str) -> Messages {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b',' | b':');
    let starts = reason.starts_with(|c: char| c.is_ascii_alphabetic());
    let ends = reason.ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    if starts && ends && reason.bytes().all(inner) {
        return Vec::new();
    }
    let message = "a condition reason must start with alphabetic character, optionally followed by a string of \
                   alphanumeric characters or '_,:', and must end with an alphanumeric character or '_'";
    let examples = &["my_name", "MY_NAME", "MyName", "ReasonA,ReasonB", "ReasonA:ReasonB"];
    vec![rules::pattern(message, "[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", examples)]
}
