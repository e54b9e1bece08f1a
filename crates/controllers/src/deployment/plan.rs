//! The arithmetic of rollouts: how many pods each replica set should have now. Pure.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{DESIRED, hash};

/// A change of one replica set's size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scale {
    /// Name of the replica set.
    pub name: String,
    /// From how many pods.
    pub from: i32,
    /// To how many.
    pub to: i32,
}

/// How far a rollout may go above and below the wanted number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Pods wanted.
    pub wanted: i32,
    /// Pods more than that.
    pub surge: i32,
    /// Pods fewer than that.
    pub unavailable: i32,
}

impl Bounds {
    /// Those of a deployment. Surge is rounded up, unavailability down; both zero would stand still, so one may then be away.
    pub fn of(deployment: &Deployment) -> Self {
        let wanted = deployment.spec.replicas.unwrap_or(1);
        let rolling = deployment.spec.strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
        if is_recreate(deployment) {
            return Bounds { wanted, surge: 0, unavailable: wanted };
        }
        let quarter = IntOrString::String("25%".to_owned());
        let surge = rolling.and_then(|r| r.max_surge.as_ref()).unwrap_or(&quarter);
        let unavailable = rolling.and_then(|r| r.max_unavailable.as_ref()).unwrap_or(&quarter);
        let (surge, unavailable) =
            (share(surge, wanted, true), share(unavailable, wanted, false).min(wanted));
        Bounds { wanted, surge, unavailable: if surge == 0 && unavailable == 0 { 1 } else { unavailable } }
    }

    /// The most pods at any moment.
    pub fn most(self) -> i32 {
        self.wanted.saturating_add(self.surge)
    }

    /// The fewest available pods at any moment.
    pub fn fewest_available(self) -> i32 {
        self.wanted - self.unavailable
    }
}

/// Does the deployment end all old pods before it makes new ones?
pub fn is_recreate(deployment: &Deployment) -> bool {
    deployment.spec.strategy.as_ref().and_then(|s| s.type_.as_deref()) == Some("Recreate")
}

/// A number, or a percentage of `total` rounded up or down. What does not parse is 0: the API refuses it.
pub fn share(value: &IntOrString, total: i32, up: bool) -> i32 {
    match value {
        IntOrString::Int(n) => *n,
        IntOrString::String(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or_default();
            let product = percent * i64::from(total);
            i32::try_from(if up { (product + 99).div_euclid(100) } else { product.div_euclid(100) })
                .unwrap_or(i32::MAX)
        }
    }
}

/// Pods a replica set is told to have.
pub fn size(set: &ReplicaSet) -> i32 {
    set.spec.replicas.unwrap_or(1)
}

/// Available pods of a replica set, as its status tells.
pub fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|s| s.available_replicas).unwrap_or_default()
}

/// Pods that these replica sets are told to have together.
pub fn total<'a>(sets: impl IntoIterator<Item = &'a Arc<ReplicaSet>>) -> i32 {
    sets.into_iter().fold(0, |sum, set| sum.saturating_add(size(set)))
}

fn name(set: &ReplicaSet) -> String {
    set.metadata.name.clone().unwrap_or_default()
}

fn scale(set: &ReplicaSet, to: i32) -> Option<Scale> {
    let from = size(set);
    (from != to).then(|| Scale { name: name(set), from, to })
}

/// The replica set of the deployment's present template; of several (made by hand) the oldest.
pub fn newest<'a>(deployment: &Deployment, sets: &'a [Arc<ReplicaSet>]) -> Option<&'a Arc<ReplicaSet>> {
    let mut same: Vec<_> = sets
        .iter()
        .filter(|set| {
            set.spec.template.as_ref().is_some_and(|t| hash::same_template(t, &deployment.spec.template))
        })
        .collect();
    same.sort_by_key(|set| (set.metadata.creation_timestamp.clone(), name(set)));
    same.first().copied()
}

/// How many pods the new replica set should have: as many as the surge leaves room for.
pub fn new_size(bounds: Bounds, present: i32, all: i32) -> i32 {
    if present >= bounds.wanted {
        return bounds.wanted;
    }
    let room = bounds.most() - all;
    if room <= 0 { present } else { present + room.min(bounds.wanted - present) }
}

/// One step of a rolling update: first the new set grows, then the old ones shrink by what may be away.
pub fn roll(bounds: Bounds, new: &ReplicaSet, old: &[Arc<ReplicaSet>]) -> Vec<Scale> {
    let all = size(new).saturating_add(total(old));
    if let Some(grow) = scale(new, new_size(bounds, size(new), all)) {
        return vec![grow];
    }
    shrink_old(bounds, new, old, all)
}

fn shrink_old(bounds: Bounds, new: &ReplicaSet, old: &[Arc<ReplicaSet>], all: i32) -> Vec<Scale> {
    let new_unavailable = size(new) - available(new);
    let mut may_go = all - bounds.fewest_available() - new_unavailable;
    if may_go <= 0 {
        return Vec::new();
    }
    let mut sizes: Vec<i32> = old.iter().map(|s| size(s)).collect();
    // Pods that do not work anyway go first: they cost no availability.
    for (set, left) in old.iter().zip(&mut sizes) {
        let sick = (*left - available(set)).clamp(0, may_go);
        *left -= sick;
        may_go -= sick;
    }
    let working: i32 = old.iter().map(|s| available(s)).sum::<i32>() + available(new);
    let mut spare = (working - bounds.fewest_available()).max(0);
    for left in &mut sizes {
        let go = (*left).min(spare);
        *left -= go;
        spare -= go;
    }
    old.iter().zip(sizes).filter_map(|(set, to)| scale(set, to)).collect()
}

/// One step of a recreation: the old sets end; the new one starts when `old_pods_run` no more.
pub fn recreate(
    bounds: Bounds,
    new: Option<&ReplicaSet>,
    old: &[Arc<ReplicaSet>],
    old_pods_run: bool,
) -> Vec<Scale> {
    let down: Vec<Scale> = old.iter().filter_map(|set| scale(set, 0)).collect();
    if !down.is_empty() || old_pods_run {
        return down;
    }
    new.and_then(|set| scale(set, bounds.wanted)).into_iter().collect()
}

/// Was the deployment scaled since its replica sets were last told so?
pub fn was_scaled(deployment: &Deployment, sets: &[Arc<ReplicaSet>]) -> bool {
    let wanted = deployment.spec.replicas.unwrap_or(1);
    sets.iter().filter(|set| size(set) > 0).any(|set| {
        let told = set
            .metadata
            .annotations
            .as_ref()
            .and_then(|a| a.get(DESIRED))
            .and_then(|d| d.parse::<i32>().ok());
        told.is_some_and(|told| told != wanted)
    })
}

/// A deployment without pods is scaled while it is paused: its present replica set grows, or else the one before.
pub fn scale_from_nothing(
    bounds: Bounds,
    new: Option<&Arc<ReplicaSet>>,
    old: &[Arc<ReplicaSet>],
    revision: impl Fn(&ReplicaSet) -> i64,
) -> Option<Scale> {
    if total(old.iter().chain(new)) > 0 {
        return None;
    }
    scale(new.or_else(|| old.iter().max_by_key(|set| revision(set)))?, bounds.wanted)
}

/// Scales a deployment whose rollout stands still or is under way, in proportion to the sets' sizes, the largest first.
pub fn scale_in_proportion(bounds: Bounds, sets: &[Arc<ReplicaSet>]) -> Vec<Scale> {
    let mut active: Vec<&Arc<ReplicaSet>> = sets.iter().filter(|set| size(set) > 0).collect();
    if let [only] = active[..] {
        return scale(only, bounds.wanted).into_iter().collect();
    }
    active.sort_by_key(|set| {
        (std::cmp::Reverse(size(set)), std::cmp::Reverse(set.metadata.creation_timestamp.clone()))
    });
    let total = total(active.iter().copied());
    let allowed = if bounds.wanted > 0 { bounds.most() } else { 0 };
    let mut change = allowed - total;
    let mut to: Vec<i32> = Vec::with_capacity(active.len());
    for set in &active {
        let part = (f64::from(size(set)) * f64::from(allowed) / f64::from(total)).round() as i32 - size(set);
        let part = if change >= 0 { part.clamp(0, change) } else { part.clamp(change, 0) };
        change -= part;
        to.push(size(set) + part);
    }
    if let Some(first) = to.first_mut() {
        *first = (*first + change).max(0);
    }
    active.iter().zip(to).filter_map(|(set, to)| scale(set, to)).collect()
}

/// Old replica sets without pods beyond the limit of the history, oldest first.
pub fn surplus_history(
    limit: i32,
    old: &[Arc<ReplicaSet>],
    revision: impl Fn(&ReplicaSet) -> i64,
) -> Vec<&Arc<ReplicaSet>> {
    let mut unused: Vec<&Arc<ReplicaSet>> = old
        .iter()
        .filter(|set| {
            let counted = set.status.as_ref().map_or(0, |s| s.replicas);
            let seen = set.status.as_ref().and_then(|s| s.observed_generation).unwrap_or_default();
            size(set) == 0
                && counted == 0
                && seen >= set.metadata.generation.unwrap_or_default()
                && set.metadata.deletion_timestamp.is_none()
        })
        .collect();
    unused.sort_by_key(|set| revision(set));
    let keep = usize::try_from(limit).unwrap_or_default();
    unused.truncate(unused.len().saturating_sub(keep));
    unused
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    pub(crate) fn set(name: &str, size: i32, available: i32) -> Arc<ReplicaSet> {
        let object = json!({ "metadata": { "name": name }, "spec": { "replicas": size, "selector": {} },
            "status": { "replicas": size, "availableReplicas": available } });
        Arc::new(serde_json::from_value(object).unwrap())
    }

    #[test]
    fn percentages() {
        let percent = |text: &str| IntOrString::String(text.into());
        assert_eq!(share(&percent("25%"), 10, true), 3);
        assert_eq!(share(&percent("25%"), 10, false), 2);
        assert_eq!(share(&IntOrString::Int(4), 10, false), 4);
    }

    #[test]
    fn steps_of_a_rolling_update() {
        let bounds = Bounds { wanted: 4, surge: 1, unavailable: 1 };
        let table = [
            // New set grows by the surge.
            (set("new", 0, 0), set("old", 4, 4), vec![("new", 0, 1)]),
            // Its pod is not there yet: one old pod may go.
            (set("new", 1, 0), set("old", 4, 4), vec![("old", 4, 3)]),
            // Room for one more new pod.
            (set("new", 1, 0), set("old", 3, 3), vec![("new", 1, 2)]),
            // Nothing may move until a new pod is available.
            (set("new", 2, 0), set("old", 3, 3), vec![]),
            (set("new", 2, 2), set("old", 3, 3), vec![("old", 3, 1)]),
            // Sick old pods go at once.
            (set("new", 1, 0), set("old", 4, 1), vec![("old", 4, 3)]),
            (set("new", 4, 4), set("old", 0, 0), vec![]),
        ];
        for (new, old, expected) in table {
            let steps = roll(bounds, &new, std::slice::from_ref(&old));
            let steps: Vec<_> = steps.iter().map(|s| (s.name.as_str(), s.from, s.to)).collect();
            assert_eq!(steps, expected, "new {} old {}", size(&new), size(&old));
        }
    }

    #[test]
    fn what_is_paused_and_has_no_pods_is_scaled_too() {
        let bounds = Bounds { wanted: 3, surge: 1, unavailable: 1 };
        let (none, some) = (set("a-1", 0, 0), set("b-2", 0, 0));
        let revision = |set: &ReplicaSet| name(set)[2..].parse().unwrap();
        let grown = |new: Option<&Arc<ReplicaSet>>, old: &[Arc<ReplicaSet>]| {
            scale_from_nothing(bounds, new, old, revision).map(|step| (step.name, step.to))
        };
        let sets = [none.clone(), some.clone()];
        assert_eq!(grown(Some(&none), std::slice::from_ref(&some)), Some(("a-1".into(), 3)));
        assert_eq!(grown(None, &sets), Some(("b-2".into(), 3)));
        assert_eq!(grown(Some(&none), &[set("c-3", 1, 1)]), None);
        assert_eq!(grown(None, &[]), None);
    }

    #[test]
    fn a_surge_without_bound_is_no_surge_below_zero() {
        let bounds = Bounds { wanted: 3, surge: i32::MAX, unavailable: 0 };
        let steps = roll(bounds, &set("new", 0, 0), &[set("old", 3, 3)]);
        assert_eq!(steps, [Scale { name: "new".into(), from: 0, to: 3 }]);
    }

    proptest! {
        /// However pods come and go, no step leaves the bounds, and a rollout whose pods all work ends.
        #[test]
        fn a_rollout_keeps_within_its_bounds_and_ends(wanted in 1..12i32, surge in 0..4i32, unavailable in 0..4i32, order in proptest::collection::vec(any::<bool>(), 200)) {
            prop_assume!(surge + unavailable > 0);
            let bounds = Bounds { wanted, surge, unavailable: unavailable.min(wanted).max(i32::from(surge == 0)) };
            let (mut new, mut new_up, mut old) = (0, 0, wanted);
            for start in order.into_iter().chain(std::iter::repeat_n(true, 100)) {
                if start {
                    new_up = (new_up + 1).min(new);
                }
                for step in roll(bounds, &set("new", new, new_up), &[set("old", old, old)]) {
                    if step.name == "new" { new = step.to } else { old = step.to }
                }
                prop_assert!(new + old <= bounds.most());
                prop_assert!(new_up + old >= bounds.fewest_available());
            }
            prop_assert_eq!((new, old), (wanted, 0));
        }
    }

    #[test]
    fn scaling_during_a_rollout_keeps_the_proportion() {
        let bounds = Bounds { wanted: 20, surge: 4, unavailable: 0 };
        let steps = scale_in_proportion(bounds, &[set("a", 8, 8), set("b", 4, 4)]);
        let to: Vec<_> = steps.iter().map(|s| (s.name.as_str(), s.to)).collect();
        assert_eq!(to, [("a", 16), ("b", 8)]);
        assert_eq!(
            scale_in_proportion(
                Bounds { wanted: 0, surge: 0, unavailable: 0 },
                &[set("a", 8, 8), set("b", 4, 4)]
            )
            .len(),
            2
        );
    }

    #[test]
    fn recreation_waits_for_the_old_pods() {
        let bounds = Bounds { wanted: 2, surge: 0, unavailable: 2 };
        let (new, old) = (set("new", 0, 0), [set("old", 2, 2)]);
        assert_eq!(recreate(bounds, Some(&new), &old, true)[0].name, "old");
        assert_eq!(recreate(bounds, Some(&new), &[set("old", 0, 0)], true), []);
        assert_eq!(recreate(bounds, Some(&new), &[set("old", 0, 0)], false)[0].to, 2);
    }
}
