//! How many replicas a metric asks for. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use corten_api::quantity::Quantity;
use corten_client::Key;
use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricStatus, MetricSpec, MetricStatus, MetricTarget, MetricValueStatus,
    ResourceMetricStatus,
};
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use k8s_openapi::jiff::Timestamp;

use super::metrics::PodUse;
use crate::pods;

/// A use that differs from its target by less is good enough (upstream's `--horizontal-pod-autoscaler-tolerance`).
const TOLERANCE: f64 = 0.1;

/// The use of CPU of a pod that is not ready says nothing for so long after its start, in seconds (upstream's
/// `--horizontal-pod-autoscaler-cpu-initialization-period`).
const STARTING: i64 = 300;
/// A pod that turned not ready within so many seconds of its start was never ready (upstream's
/// `--horizontal-pod-autoscaler-initial-readiness-delay`).
const FIRST_READY: i64 = 30;

/// What a metric says.
#[derive(Clone, Debug, PartialEq)]
pub struct Proposal {
    /// Replicas.
    pub replicas: i32,
    /// What was measured.
    pub status: MetricStatus,
    /// Its name for people.
    pub name: String,
}

/// A resource of pods, or of one container of each.
struct Source<'a> {
    resource: &'a str,
    container: Option<&'a str>,
    target: &'a MetricTarget,
}

fn source(metric: &MetricSpec) -> Result<Source<'_>, String> {
    if let Some(of) = &metric.resource {
        return Ok(Source { resource: &of.name, container: None, target: &of.target });
    }
    match &metric.container_resource {
        Some(of) => Ok(Source { resource: &of.name, container: Some(&of.container), target: &of.target }),
        None => Err(format!(
            "metrics of type {} need a metrics API that this cluster does not have",
            metric.type_
        )),
    }
}

impl Source<'_> {
    fn containers<'p>(&'p self, pod: &'p Pod) -> impl Iterator<Item = &'p Container> {
        let all = pod.spec.iter().flat_map(|spec| &spec.containers);
        all.filter(|c| self.container.is_none_or(|name| name == c.name))
    }

    /// What is asked for, in the metric's smallest unit.
    fn request(&self, pod: &Pod) -> Result<i64, String> {
        let mut sum = 0;
        for container in self.containers(pod) {
            let request = container.resources.as_ref().and_then(|r| r.requests.as_ref()?.get(self.resource));
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            let missing = || {
                format!("missing request for {} in container {} of Pod {name}", self.resource, container.name)
            };
            sum += self.amount(&request.ok_or_else(missing)?.0)?;
        }
        Ok(sum)
    }

    fn amount(&self, text: &str) -> Result<i64, String> {
        let quantity = Quantity::parse(text).map_err(|_| format!("{text} is no quantity"))?;
        Ok(if self.resource == "cpu" { quantity.milli() } else { quantity.value() })
    }

    /// What is used; `None` when some container's use is not known.
    fn usage(&self, pod: &Pod, uses: &HashMap<Key, PodUse>) -> Option<i64> {
        let of_pod = uses.get(&Key::of(pod))?;
        let one = |c: &Container| {
            let used = of_pod.get(&c.name)?;
            if self.resource == "cpu" { used.milli_cpu } else { Some(used.memory) }
        };
        self.containers(pod).map(one).sum()
    }

    fn quantity(&self, amount: i64) -> Text {
        use corten_api::quantity::Format;
        let quantity = match self.resource {
            "cpu" => Quantity::from_milli(amount),
            _ => Quantity::from_value(amount, Format::DecimalSI),
        };
        Text(quantity.to_string())
    }

    fn status(&self, utilization: Option<i32>, average: i64) -> MetricStatus {
        let current = MetricValueStatus {
            average_utilization: utilization,
            average_value: Some(self.quantity(average)),
            value: None,
        };
        let name = self.resource.to_owned();
        match self.container {
            None => MetricStatus {
                type_: "Resource".to_owned(),
                resource: Some(ResourceMetricStatus { current, name }),
                ..MetricStatus::default()
            },
            Some(container) => MetricStatus {
                type_: "ContainerResource".to_owned(),
                container_resource: Some(ContainerResourceMetricStatus {
                    container: container.to_owned(),
                    current,
                    name,
                }),
                ..MetricStatus::default()
            },
        }
    }
}

/// The pods by what is known of them: use and target of each.
#[derive(Default)]
struct Groups {
    measured: Vec<(i64, i64)>,
    missing: Vec<i64>,
    unready: Vec<i64>,
}

impl Groups {
    fn ratio(pods: &[(i64, i64)]) -> f64 {
        let (used, wanted) = pods.iter().fold((0i64, 0i64), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        if wanted == 0 { 1.0 } else { used as f64 / wanted as f64 }
    }

    /// Upstream's rule: what is not known counts so that it holds the change back, never so that it turns it round.
    fn replicas(&self, current: i32) -> i32 {
        let ratio = Self::ratio(&self.measured);
        let up =
            (|pods: usize, ratio: f64| (pods as f64 * ratio - 1e-9).ceil() as i32) as fn(usize, f64) -> i32;
        let is_fine = |ratio: f64| (1.0 - ratio).abs() <= TOLERANCE;
        let rest = &self.missing;
        if rest.is_empty() && (self.unready.is_empty() || ratio <= 1.0) {
            return if is_fine(ratio) { current } else { up(self.measured.len(), ratio) };
        }
        let mut all = self.measured.clone();
        if ratio < 1.0 {
            all.extend(rest.iter().map(|target| (*target, *target)));
        } else if ratio > 1.0 {
            all.extend(rest.iter().chain(&self.unready).map(|target| (0, *target)));
        }
        let careful = Self::ratio(&all);
        let turned = (ratio < 1.0 && careful > 1.0) || (ratio > 1.0 && careful < 1.0);
        if is_fine(careful) || turned {
            return current;
        }
        let replicas = up(all.len(), careful);
        let other_way = (careful < 1.0 && replicas > current) || (careful > 1.0 && replicas < current);
        if other_way { current } else { replicas }
    }
}

/// Is the pod not ready because it starts? One that stops being ready later is measured: it may be the load that it does not stand.
fn is_starting(pod: &Pod, now: Timestamp) -> bool {
    let status = pod.status.as_ref();
    let ready = status.iter().flat_map(|s| s.conditions.iter().flatten()).find(|c| c.type_ == "Ready");
    let turned = ready.and_then(|c| c.last_transition_time.as_ref()).map(|t| t.0.as_second());
    let started = status.and_then(|s| s.start_time.as_ref()).map(|t| t.0.as_second());
    let (false, Some(started), Some(turned)) = (pods::is_ready(pod), started, turned) else {
        return !pods::is_ready(pod);
    };
    now.as_second() < started + STARTING || turned < started + FIRST_READY
}

/// What one metric asks for. The error says what is not known.
pub fn propose(
    metric: &MetricSpec,
    pods: &[Arc<Pod>],
    uses: &HashMap<Key, PodUse>,
    current: i32,
    now: Timestamp,
) -> Result<Proposal, String> {
    let source = source(metric)?;
    let percent = source.target.average_utilization;
    let average = source.target.average_value.as_ref().map(|q| source.amount(&q.0)).transpose()?;
    let (mut groups, mut requested) = (Groups::default(), 0);
    for pod in pods.iter().filter(|pod| pods::is_active(pod)) {
        let request = if percent.is_some() { source.request(pod)? } else { 0 };
        let wanted = match (percent, average) {
            (Some(percent), _) => request * i64::from(percent) / 100,
            (None, Some(average)) => average,
            (None, None) => {
                return Err("invalid metric target: neither utilization nor average value".to_owned());
            }
        };
        let pending = pods::phase(pod) == "Pending" || (source.resource == "cpu" && is_starting(pod, now));
        match source.usage(pod, uses) {
            _ if pending => groups.unready.push(wanted),
            Some(used) => {
                requested += request;
                groups.measured.push((used, wanted));
            }
            None => groups.missing.push(wanted),
        }
    }
    let resource = source.resource;
    if groups.measured.is_empty() {
        return Err(format!(
            "unable to get metrics for resource {resource}: no metrics returned from resource metrics API"
        ));
    }
    let used: i64 = groups.measured.iter().map(|(used, _)| used).sum();
    let count = i64::try_from(groups.measured.len()).unwrap_or(i64::MAX);
    let utilization = percent.and_then(|_| i32::try_from((used * 100).checked_div(requested)?).ok());
    let name = match percent {
        Some(_) => format!("{resource} resource utilization (percentage of request)"),
        None => format!("{resource} resource"),
    };
    Ok(Proposal {
        replicas: groups.replicas(current),
        status: source.status(utilization, used / count),
        name,
    })
}

#[cfg(test)]
mod tests {
    use super::super::metrics::Use;
    use super::*;
    use serde_json::{Value, from_value, json};

    fn pod(name: &str, ready: bool) -> Arc<Pod> {
        let ready = if ready { "True" } else { "False" };
        let containers =
            json!([{ "name": "c", "resources": { "requests": { "cpu": "100m", "memory": "1000" } } }]);
        Arc::new(
            from_value(
                json!({ "metadata": { "name": name, "namespace": "ns" }, "spec": { "containers": containers },
                "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": ready }] } }),
            )
            .unwrap(),
        )
    }

    /// `uses`: milli-CPUs of each pod; -1: not known, -2: not ready.
    fn asked(metric: Value, uses: &[i64]) -> Result<(i32, Option<i32>), String> {
        let pods: Vec<_> =
            uses.iter().enumerate().map(|(n, used)| pod(&n.to_string(), *used != -2)).collect();
        let known = uses.iter().enumerate().filter(|(_, used)| **used >= 0).map(|(n, used)| {
            let used = Use { milli_cpu: Some(*used), memory: *used };
            (Key::new("ns", n.to_string()), HashMap::from([("c".to_owned(), used)]))
        });
        let current = i32::try_from(uses.len()).unwrap();
        let now = Timestamp::UNIX_EPOCH;
        let proposal = propose(&from_value(metric).unwrap(), &pods, &known.collect(), current, now)?;
        let current = proposal.status.resource.unwrap().current;
        Ok((proposal.replicas, current.average_utilization))
    }

    fn cpu(percent: i32) -> Value {
        let target = json!({ "type": "Utilization", "averageUtilization": percent });
        json!({ "type": "Resource", "resource": { "name": "cpu", "target": target } })
    }

    #[test]
    fn a_pod_that_stops_being_ready_under_load_is_measured() {
        // Started at 0: when it turned, what it is, now.
        let table = [
            (10, "False", 100, true),
            (200, "False", 250, true),
            (10, "False", 400, true),
            (200, "False", 400, false),
            (200, "True", 250, false),
        ];
        for (turned, ready, now, starting) in table {
            let time = |second| Timestamp::from_second(second).unwrap();
            let condition =
                json!({ "type": "Ready", "status": ready, "lastTransitionTime": time(turned).to_string() });
            let status = json!({ "startTime": time(0).to_string(), "conditions": [condition] });
            let pod: Pod = from_value(json!({ "metadata": {}, "status": status })).unwrap();
            assert_eq!(is_starting(&pod, time(now)), starting, "{turned} {ready} {now}");
        }
    }

    #[test]
    fn replicas_follow_the_use() {
        let table: Vec<(&[i64], i32)> = vec![
            (&[50, 50], 2),
            (&[54, 54], 2),
            (&[100, 100], 4),
            (&[60, 80], 3),
            (&[10, 10, 10], 1),
            // Not known: full when going down, idle when going up.
            (&[10, 10, -1], 2),
            (&[100, -1], 2),
            (&[200, -1], 4),
            // Not ready: idle when going up, nothing when going down.
            (&[100, 100, -2], 4),
            (&[100, -2], 2),
            (&[10, 10, -2], 1),
        ];
        for (uses, expected) in table {
            assert_eq!(asked(cpu(50), uses).map(|(replicas, _)| replicas), Ok(expected), "{uses:?}");
        }
        assert_eq!(asked(cpu(50), &[60, 80]).unwrap().1, Some(70));
    }

    #[test]
    fn average_values_and_what_cannot_be_known() {
        let value = json!({ "type": "AverageValue", "averageValue": "30m" });
        let metric = json!({ "type": "Resource", "resource": { "name": "cpu", "target": value } });
        assert_eq!(asked(metric, &[60, 60]), Ok((4, None)));
        let why = "unable to get metrics for resource cpu: no metrics returned from resource metrics API";
        assert_eq!(asked(cpu(50), &[-1]), Err(why.to_owned()));
        let gpu = json!({ "type": "Resource", "resource": { "name": "gpu", "target":
            { "type": "Utilization", "averageUtilization": 50 } } });
        assert_eq!(asked(gpu, &[5]), Err("missing request for gpu in container c of Pod 0".to_owned()));
        assert!(asked(json!({ "type": "External" }), &[5]).unwrap_err().contains("External"));
    }
}
