//! What a namespace's status says about its end: five conditions, each of them always there. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::NamespaceCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

/// What one attempt to empty a namespace came upon.
#[derive(Debug, Default)]
pub struct Seen {
    /// Why the kinds could not be found out.
    pub undiscovered: Option<String>,
    /// Why kinds could not be deleted, one text a kind.
    pub failures: Vec<String>,
    /// How many objects are left, by `RESOURCE.GROUP` (`pods.`, `jobs.batch`).
    pub remaining: BTreeMap<String, usize>,
    /// How many of them wait for each finalizer.
    pub finalizers: BTreeMap<String, usize>,
}

impl Seen {
    /// What is in the way of the namespace's end, if anything.
    pub fn obstacle(&self) -> Option<String> {
        let failure = self.undiscovered.clone().or_else(|| self.failure());
        failure.or_else(|| self.left())
    }

    fn failure(&self) -> Option<String> {
        let mut texts = self.failures.clone();
        texts.sort();
        (!texts.is_empty()).then(|| {
            let (count, texts) = (texts.len(), texts.join(", "));
            format!("Failed to delete all resource types, {count} remaining: {texts}")
        })
    }

    fn left(&self) -> Option<String> {
        let told = told(&self.remaining, |kind, count| format!("{kind} has {count} resource instances"))?;
        Some(format!("Some resources are remaining: {told}"))
    }

    fn held(&self) -> Option<String> {
        let told = told(&self.finalizers, |name, count| format!("{name} in {count} resource instances"))?;
        Some(format!("Some content in the namespace has finalizers remaining: {told}"))
    }
}

fn told(counts: &BTreeMap<String, usize>, one: impl Fn(&str, usize) -> String) -> Option<String> {
    let mut told: Vec<String> = counts.iter().map(|(name, count)| one(name, *count)).collect();
    told.sort();
    (!told.is_empty()).then(|| told.join(", "))
}

/// A condition's type, its reason and text when all is well, and its reason when not.
const ROWS: [(&str, &str, &str, &str); 5] = [
    (
        "NamespaceDeletionDiscoveryFailure",
        "ResourcesDiscovered",
        "All resources successfully discovered",
        "DiscoveryFailed",
    ),
    // Kinds come parsed from discovery here, so this one is always well.
    (
        "NamespaceDeletionGroupVersionParsingFailure",
        "ParsedGroupVersions",
        "All legacy kube types successfully parsed",
        "GroupVersionParsingFailed",
    ),
    (
        "NamespaceDeletionContentFailure",
        "ContentDeleted",
        "All content successfully deleted, may be waiting on finalization",
        "ContentDeletionFailed",
    ),
    (
        "NamespaceContentRemaining",
        "ContentRemoved",
        "All content successfully removed",
        "SomeResourcesRemain",
    ),
    (
        "NamespaceFinalizersRemaining",
        "ContentHasNoFinalizers",
        "All content-preserving finalizers finished",
        "SomeFinalizersRemain",
    ),
];

/// The conditions after an attempt; `None` where they are as before. A time changes with its status alone.
pub fn after(old: &[NamespaceCondition], seen: &Seen, now: Timestamp) -> Option<Vec<NamespaceCondition>> {
    let wrong = [seen.undiscovered.clone(), None, seen.failure(), seen.left(), seen.held()];
    let conditions = ROWS.into_iter().zip(wrong).map(|((kind, well, text, ill), wrong)| {
        let before = old.iter().find(|condition| condition.type_ == kind);
        let (status, reason) = if wrong.is_some() { ("True", ill) } else { ("False", well) };
        let since = before.filter(|condition| condition.status == status);
        NamespaceCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(wrong.unwrap_or_else(|| text.to_owned())),
            last_transition_time: since.map_or(Some(Time(now)), |c| c.last_transition_time.clone()),
        }
    });
    let conditions: Vec<_> = conditions.collect();
    conditions.iter().any(|condition| !old.contains(condition)).then_some(conditions)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn shown(conditions: &[NamespaceCondition]) -> Vec<String> {
        let one = |c: &NamespaceCondition| {
            let message = c.message.as_deref().unwrap_or_default();
            let since = c.last_transition_time.as_ref().unwrap().0.as_second();
            format!("{} {} {} {since}: {message}", c.type_, c.status, c.reason.as_deref().unwrap_or_default())
        };
        conditions.iter().map(one).collect()
    }

    #[test]
    fn all_five_are_told_and_times_follow_the_status() {
        let counts = |pairs: &[(&str, usize)]| pairs.iter().map(|(n, c)| (n.to_string(), *c)).collect();
        let held = Seen {
            remaining: counts(&[("pods.", 2), ("jobs.batch", 1)]),
            finalizers: counts(&[("example.com/f", 2)]),
            failures: vec!["b".to_owned(), "a".to_owned()],
            ..Seen::default()
        };
        let first = after(&[], &held, at(1)).unwrap();
        assert_eq!(
            shown(&first),
            [
                "NamespaceDeletionDiscoveryFailure False ResourcesDiscovered 1: All resources successfully discovered",
                "NamespaceDeletionGroupVersionParsingFailure False ParsedGroupVersions 1: All legacy kube types successfully parsed",
                "NamespaceDeletionContentFailure True ContentDeletionFailed 1: Failed to delete all resource types, 2 remaining: a, b",
                "NamespaceContentRemaining True SomeResourcesRemain 1: Some resources are remaining: jobs.batch has 1 resource \
             instances, pods. has 2 resource instances",
                "NamespaceFinalizersRemaining True SomeFinalizersRemain 1: Some content in the namespace has finalizers \
             remaining: example.com/f in 2 resource instances",
            ]
        );
        assert_eq!(after(&first, &held, at(2)), None);
        let fewer = Seen { remaining: counts(&[("pods.", 1)]), ..Seen::default() };
        let second = shown(&after(&first, &fewer, at(3)).unwrap());
        assert_eq!(
            second[2..],
            [
                "NamespaceDeletionContentFailure False ContentDeleted 3: All content successfully deleted, may be waiting on \
             finalization",
                "NamespaceContentRemaining True SomeResourcesRemain 1: Some resources are remaining: pods. has 1 resource instances",
                "NamespaceFinalizersRemaining False ContentHasNoFinalizers 3: All content-preserving finalizers finished",
            ]
        );
    }

    #[test]
    fn what_is_in_the_way() {
        let text = |seen: Seen| seen.obstacle();
        assert_eq!(text(Seen::default()), None);
        let pods = || [("pods.".to_owned(), 1)].into();
        let left = Seen { remaining: pods(), ..Seen::default() };
        assert_eq!(left.obstacle().unwrap(), "Some resources are remaining: pods. has 1 resource instances");
        let failed = Seen { failures: vec!["no".to_owned()], remaining: pods(), ..Seen::default() };
        assert_eq!(failed.obstacle().unwrap(), "Failed to delete all resource types, 1 remaining: no");
        assert_eq!(text(Seen { undiscovered: Some("x".to_owned()), ..Seen::default() }).unwrap(), "x");
    }
}
