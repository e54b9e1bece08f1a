//! How fast an autoscaler may go: policies for a period, and looking back over a window before going. Pure.

use k8s_openapi::api::autoscaling::v2::{HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscaler};
use k8s_openapi::jiff::Timestamp;

/// How long scaling down waits, where nothing is said (upstream's `--horizontal-pod-autoscaler-downscale-stabilization`).
const DOWN_WINDOW: i64 = 300;
/// The longest window and period that the API allows.
const LONGEST: i64 = 3600;

/// What was recommended and done before, newest last.
#[derive(Clone, Debug, Default)]
pub struct Past {
    /// Recommendations.
    pub recommended: Vec<(Timestamp, i32)>,
    /// Changes that were carried out: more (positive) or fewer replicas.
    pub changed: Vec<(Timestamp, i32)>,
}

impl Past {
    /// Forgets what no window reaches.
    pub fn forget(&mut self, now: Timestamp) {
        self.recommended.retain(|(at, _)| since(*at, now) <= LONGEST);
        self.changed.retain(|(at, _)| since(*at, now) <= LONGEST);
    }
}

fn since(at: Timestamp, now: Timestamp) -> i64 {
    now.as_second() - at.as_second()
}

fn rules(hpa: &HorizontalPodAutoscaler, up: bool) -> (Vec<HPAScalingPolicy>, i64, Option<String>) {
    let behavior = hpa.spec.behavior.as_ref();
    let given = behavior.and_then(|b| if up { b.scale_up.clone() } else { b.scale_down.clone() });
    let HPAScalingRules { policies, select_policy, stabilization_window_seconds, .. } =
        given.unwrap_or_default();
    let policy = |kind: &str, value| HPAScalingPolicy { period_seconds: 15, type_: kind.to_owned(), value };
    let usual = || match up {
        true => vec![policy("Pods", 4), policy("Percent", 100)],
        false => vec![policy("Percent", 100)],
    };
    let window = stabilization_window_seconds.map_or(if up { 0 } else { DOWN_WINDOW }, i64::from);
    (policies.filter(|p| !p.is_empty()).unwrap_or_else(usual), window, select_policy)
}

/// The size after looking back: no more than the least, and no less than the most, that was recommended within the windows.
pub fn stabilized(
    hpa: &HorizontalPodAutoscaler,
    past: &Past,
    wanted: i32,
    current: i32,
    now: Timestamp,
) -> i32 {
    let within = |up: bool| {
        let window = rules(hpa, up).1;
        past.recommended.iter().filter(move |(at, _)| since(*at, now) < window).map(|(_, n)| *n)
    };
    let most = within(true).chain([wanted]).min().unwrap_or(wanted);
    let least = within(false).chain([wanted]).max().unwrap_or(wanted);
    current.max(most).min(least.max(most))
}

/// The size that the policies allow now. `true`: they hold it back.
pub fn limited(
    hpa: &HorizontalPodAutoscaler,
    past: &Past,
    wanted: i32,
    current: i32,
    now: Timestamp,
) -> (i32, bool) {
    let up = wanted > current;
    if wanted == current {
        return (wanted, false);
    }
    let (policies, _, select) = rules(hpa, up);
    if select.as_deref() == Some("Disabled") {
        return (current, true);
    }
    let reach = policies.iter().map(|policy| bound(policy, past, current, up, now));
    let least_change = select.as_deref() == Some("Min");
    let bound = if up != least_change { reach.max() } else { reach.min() }.unwrap_or(wanted);
    let allowed = if up { wanted.min(bound.max(current)) } else { wanted.max(bound.min(current)) };
    (allowed, allowed != wanted)
}

/// How far one policy reaches from the size at the beginning of its period.
fn bound(policy: &HPAScalingPolicy, past: &Past, current: i32, up: bool, now: Timestamp) -> i32 {
    let period = i64::from(policy.period_seconds);
    let within = past.changed.iter().filter(|(at, by)| since(*at, now) < period && (*by > 0) == up);
    let changed: i32 = within.map(|(_, by)| *by).sum();
    let start = current.saturating_sub(changed);
    let percent = |of: i32, by: i64| i32::try_from((i64::from(of) * by + if up { 99 } else { 0 }) / 100);
    match (policy.type_.as_str(), up) {
        ("Pods", true) => start.saturating_add(policy.value),
        ("Pods", false) => start.saturating_sub(policy.value),
        (_, true) => percent(start, 100 + i64::from(policy.value)).unwrap_or(i32::MAX),
        (_, false) => percent(start, 100 - i64::from(policy.value)).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, from_value, json};

    fn hpa(behavior: Value) -> HorizontalPodAutoscaler {
        let target = json!({ "kind": "Deployment", "name": "d" });
        from_value(json!({ "spec": { "maxReplicas": 100, "scaleTargetRef": target, "behavior": behavior } }))
            .unwrap()
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(100_000 + seconds).unwrap()
    }

    #[test]
    fn policies_hold_back() {
        let pods = |value: i32| json!({ "type": "Pods", "value": value, "periodSeconds": 60 });
        let percent = |value: i32| json!({ "type": "Percent", "value": value, "periodSeconds": 60 });
        let up = |rules: Value| json!({ "scaleUp": rules });
        let down = |rules: Value| json!({ "scaleDown": rules });
        let table = [
            (json!({}), 2, 20, (6, true)),
            (json!({}), 10, 40, (20, true)),
            (json!({}), 10, 1, (1, false)),
            (up(json!({ "policies": [pods(2)] })), 4, 20, (6, true)),
            (up(json!({ "policies": [pods(2), percent(100)], "selectPolicy": "Min" })), 4, 20, (6, true)),
            (up(json!({ "selectPolicy": "Disabled" })), 4, 20, (4, true)),
            (down(json!({ "policies": [percent(10)] })), 100, 1, (90, true)),
            (down(json!({ "policies": [pods(5), percent(10)], "selectPolicy": "Min" })), 20, 1, (18, true)),
        ];
        for (behavior, current, wanted, expected) in table {
            let told = limited(&hpa(behavior.clone()), &Past::default(), wanted, current, at(0));
            assert_eq!(told, expected, "{behavior} {current} {wanted}");
        }
        let past = Past { changed: vec![(at(-30), 2)], ..Past::default() };
        let two_a_minute = hpa(up(json!({ "policies": [pods(2)] })));
        assert_eq!(limited(&two_a_minute, &past, 20, 6, at(0)), (6, true), "the period's share is used up");
        assert_eq!(limited(&two_a_minute, &past, 20, 6, at(40)), (8, true));
    }

    #[test]
    fn going_down_waits_for_the_window() {
        let past = Past { recommended: vec![(at(-200), 8), (at(-100), 3)], ..Past::default() };
        let plain = hpa(json!({}));
        assert_eq!(stabilized(&plain, &past, 2, 10, at(0)), 8);
        assert_eq!(stabilized(&plain, &past, 2, 10, at(150)), 3);
        assert_eq!(stabilized(&plain, &past, 12, 10, at(0)), 12);
        let slow = hpa(json!({ "scaleUp": { "stabilizationWindowSeconds": 300 } }));
        assert_eq!(stabilized(&slow, &past, 12, 2, at(0)), 3);
    }
}
