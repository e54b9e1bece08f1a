//! The pod's columns: READY, STATUS and RESTARTS exactly as people read them from `kubectl get pods`.

use crate::kind::{Cell, Column};
use crate::table::{AGE, NAME, column};
use crate::time::{human_duration, parse_ms};
use crate::{Object, Value};

const NONE: &str = "<none>";

pub(crate) const COLUMNS: &[Column] = &[
    NAME,
    column("Ready", "string", 0, Cell::Compute(|pod, _| Summary::of(pod).ready().into())),
    column("Status", "string", 0, Cell::Compute(|pod, _| Summary::of(pod).reason.into())),
    column("Restarts", "string", 0, Cell::Compute(|pod, now| Summary::of(pod).restarts(now).into())),
    AGE,
    column("IP", "string", 1, Cell::Compute(|pod, _| pod_ip(pod).into())),
    column("Node", "string", 1, Cell::Compute(|pod, _| or_none(pod.str_at(&["spec", "nodeName"])).into())),
    column(
        "Nominated Node",
        "string",
        1,
        Cell::Compute(|pod, _| or_none(pod.str_at(&["status", "nominatedNodeName"])).into()),
    ),
    column("Readiness Gates", "string", 1, Cell::Compute(|pod, _| readiness_gates(pod).into())),
];

/// `conditions` of the row of a pod that is done.
pub(super) fn row_conditions(pod: &Value) -> Option<Value> {
    let (reason, message) = match pod.str_at(&["status", "phase"]) {
        "Succeeded" => ("Succeeded", "The pod has completed successfully."),
        "Failed" => ("Failed", "The pod failed."),
        _ => return None,
    };
    let mut condition = Object::default();
    for (key, text) in [("type", "Completed"), ("status", "True"), ("reason", reason), ("message", message)] {
        condition.set(key, text);
    }
    Some(vec![Value::Object(condition)].into())
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { NONE } else { text }
}

fn pod_ip(pod: &Value) -> &str {
    or_none(pod.items_at(&["status", "podIPs"]).first().map_or("", |ip| ip.str_at(&["ip"])))
}

fn readiness_gates(pod: &Value) -> String {
    let gates = pod.items_at(&["spec", "readinessGates"]);
    if gates.is_empty() {
        return NONE.to_owned();
    }
    let conditions = pod.items_at(&["status", "conditions"]);
    let open = |gate: &&Value| {
        let wanted = gate.str_at(&["conditionType"]);
        conditions
            .iter()
            .find(|c| c.str_at(&["type"]) == wanted)
            .is_some_and(|c| c.str_at(&["status"]) == "True")
    };
    format!("{}/{}", gates.iter().filter(open).count(), gates.len())
}

/// What the first columns say of a pod.
#[derive(Debug, Default)]
struct Summary {
    ready: usize,
    total: usize,
    restarts: i64,
    last_restart_ms: Option<i64>,
    reason: String,
}

impl Summary {
    fn of(pod: &Value) -> Self {
        let mut summary = Summary {
            total: pod.items_at(&["spec", "containers"]).len(),
            reason: initial_reason(pod),
            ..Summary::default()
        };
        let (initializing, sidecars) = summary.init_containers(pod);
        let initialized = condition_is_true(pod, "Initialized");
        if !initializing || initialized {
            (summary.restarts, summary.last_restart_ms) = sidecars;
            summary.containers(pod);
        }
        summary.deletion(pod);
        summary
    }

    fn ready(&self) -> String {
        format!("{}/{}", self.ready, self.total)
    }

    fn restarts(&self, now_ms: i64) -> String {
        match self.last_restart_ms {
            Some(then) if self.restarts != 0 => {
                format!("{} ({} ago)", self.restarts, human_duration(now_ms - then))
            }
            _ => self.restarts.to_string(),
        }
    }

    /// Walks the init containers in order; the first that is not done names the status. Returns whether one did, and the
    /// restarts of sidecars, which count on when the pod runs.
    fn init_containers(&mut self, pod: &Value) -> (bool, (i64, Option<i64>)) {
        let specs = pod.items_at(&["spec", "initContainers"]);
        let is_sidecar = |name: &str| {
            specs.iter().any(|c| c.str_at(&["name"]) == name && c.str_at(&["restartPolicy"]) == "Always")
        };
        self.total += specs.iter().filter(|c| c.str_at(&["restartPolicy"]) == "Always").count();
        let mut sidecars = (0, None);
        for (i, status) in pod.items_at(&["status", "initContainerStatuses"]).iter().enumerate() {
            let (restarts, finished) = (restart_count(status), last_finished(status));
            self.restarts += restarts;
            self.last_restart_ms = self.last_restart_ms.max(finished);
            let sidecar = is_sidecar(status.str_at(&["name"]));
            if sidecar {
                sidecars = (sidecars.0 + restarts, sidecars.1.max(finished));
            }
            let terminated = state(status, "terminated");
            if terminated.is_some_and(|t| exit_code(t) == 0) {
                continue;
            }
            if sidecar && flag(status, "started") {
                self.ready += usize::from(flag(status, "ready"));
                continue;
            }
            self.reason = init_reason(status, i, specs.len());
            return (true, sidecars);
        }
        (false, sidecars)
    }

    fn containers(&mut self, pod: &Value) {
        let mut has_running = false;
        for status in pod.items_at(&["status", "containerStatuses"]).iter().rev() {
            self.restarts += restart_count(status);
            self.last_restart_ms = self.last_restart_ms.max(last_finished(status));
            let waiting = state(status, "waiting").map_or("", |w| w.str_at(&["reason"]));
            if !waiting.is_empty() {
                self.reason = waiting.to_owned();
            } else if let Some(terminated) = state(status, "terminated") {
                self.reason = terminated_reason(terminated);
            } else if flag(status, "ready") && state(status, "running").is_some() {
                has_running = true;
                self.ready += 1;
            }
        }
        if self.reason == "Completed" && has_running {
            self.reason = if condition_is_true(pod, "Ready") { "Running" } else { "NotReady" }.to_owned();
        }
    }

    fn deletion(&mut self, pod: &Value) {
        if pod.at(&["metadata", "deletionTimestamp"]).is_none_or(Value::is_null) {
            return;
        }
        if pod.str_at(&["status", "reason"]) == "NodeLost" {
            self.reason = "Unknown".to_owned();
        } else if !matches!(pod.str_at(&["status", "phase"]), "Succeeded" | "Failed") {
            self.reason = "Terminating".to_owned();
        }
    }
}

fn initial_reason(pod: &Value) -> String {
    let gated = pod
        .items_at(&["status", "conditions"])
        .iter()
        .any(|c| c.str_at(&["type"]) == "PodScheduled" && c.str_at(&["reason"]) == "SchedulingGated");
    match pod.str_at(&["status", "reason"]) {
        _ if gated => "SchedulingGated".to_owned(),
        "" => pod.str_at(&["status", "phase"]).to_owned(),
        reason => reason.to_owned(),
    }
}

fn init_reason(status: &Value, index: usize, total: usize) -> String {
    if let Some(terminated) = state(status, "terminated") {
        return format!("Init:{}", terminated_reason(terminated));
    }
    match state(status, "waiting").map_or("", |w| w.str_at(&["reason"])) {
        "" | "PodInitializing" => format!("Init:{index}/{total}"),
        reason => format!("Init:{reason}"),
    }
}

fn terminated_reason(terminated: &Value) -> String {
    match (terminated.str_at(&["reason"]), terminated.get("signal").and_then(Value::as_i64).unwrap_or(0)) {
        ("", 0) => format!("ExitCode:{}", exit_code(terminated)),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn exit_code(terminated: &Value) -> i64 {
    terminated.get("exitCode").and_then(Value::as_i64).unwrap_or(0)
}

fn restart_count(status: &Value) -> i64 {
    status.get("restartCount").and_then(Value::as_i64).unwrap_or(0)
}

fn last_finished(status: &Value) -> Option<i64> {
    parse_ms(status.str_at(&["lastState", "terminated", "finishedAt"]))
}

fn state<'a>(status: &'a Value, name: &str) -> Option<&'a Value> {
    status.at(&["state", name]).filter(|s| !s.is_null())
}

fn flag(status: &Value, name: &str) -> bool {
    status.get(name).and_then(Value::as_bool) == Some(true)
}

fn condition_is_true(pod: &Value, wanted: &str) -> bool {
    let conditions = pod.items_at(&["status", "conditions"]);
    conditions.iter().any(|c| c.str_at(&["type"]) == wanted && c.str_at(&["status"]) == "True")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::tree;

    const NOW_MS: i64 = 1_704_067_500_000; // 2024-01-01T00:05:00Z

    #[test]
    fn ready_status_and_restarts() {
        let cases: &[(&str, &str)] = &[
            ("{spec: {containers: [{name: a}]}, status: {phase: Pending}}", "0/1 Pending 0"),
            ("{spec: {containers: [{name: a}]}, status: {phase: Failed, reason: Evicted}}", "0/1 Evicted 0"),
            (
                "{spec: {containers: [{name: a}]}, status: {phase: Pending, conditions: \
                 [{type: PodScheduled, status: 'False', reason: SchedulingGated}]}}",
                "0/1 SchedulingGated 0",
            ),
            (
                "{spec: {containers: [{name: a}, {name: b}]}, status: {phase: Running, containerStatuses: \
                 [{name: a, ready: true, state: {running: {}}}, {name: b, ready: false, state: {running: {}}}]}}",
                "1/2 Running 0",
            ),
            (
                "{spec: {containers: [{name: a}]}, status: {phase: Running, containerStatuses: [{name: a, \
                 restartCount: 2, state: {waiting: {reason: CrashLoopBackOff}}, \
                 lastState: {terminated: {exitCode: 1, finishedAt: '2024-01-01T00:00:00Z'}}}]}}",
                "0/1 CrashLoopBackOff 2 (5m ago)",
            ),
            (
                "{spec: {containers: [{name: a}]}, status: {phase: Succeeded, containerStatuses: \
                 [{name: a, state: {terminated: {exitCode: 0, reason: Completed}}}]}}",
                "0/1 Completed 0",
            ),
            (
                "{spec: {containers: [{name: a}]}, status: {phase: Failed, containerStatuses: \
                 [{name: a, state: {terminated: {exitCode: 3}}}]}}",
                "0/1 ExitCode:3 0",
            ),
            (
                "{spec: {containers: [{name: a}]}, status: {phase: Failed, containerStatuses: \
                 [{name: a, state: {terminated: {exitCode: 137, signal: 9}}}]}}",
                "0/1 Signal:9 0",
            ),
            (
                "{spec: {containers: [{name: a}, {name: b}]}, status: {phase: Running, conditions: \
                 [{type: Ready, status: 'True'}], containerStatuses: \
                 [{name: a, state: {terminated: {reason: Completed}}}, {name: b, ready: true, state: {running: {}}}]}}",
                "1/2 Running 0",
            ),
            (
                "{spec: {containers: [{name: a}], initContainers: [{name: i}, {name: j}]}, status: {phase: Pending, \
                 initContainerStatuses: [{name: i, restartCount: 1, state: {terminated: {exitCode: 0}}}, \
                 {name: j, state: {waiting: {reason: PodInitializing}}}], \
                 containerStatuses: [{name: a, state: {waiting: {reason: PodInitializing}}}]}}",
                "0/1 Init:1/2 1",
            ),
            (
                "{spec: {containers: [{name: a}], initContainers: [{name: i}]}, status: {phase: Pending, \
                 initContainerStatuses: [{name: i, state: {terminated: {exitCode: 1, reason: Error}}}]}}",
                "0/1 Init:Error 0",
            ),
            (
                "{spec: {containers: [{name: a}], initContainers: [{name: i, restartPolicy: Always}]}, status: \
                 {phase: Running, initContainerStatuses: [{name: i, started: true, ready: true, restartCount: 1, \
                 state: {running: {}}}], containerStatuses: [{name: a, ready: true, state: {running: {}}}]}}",
                "2/2 Running 1",
            ),
            (
                "{metadata: {deletionTimestamp: x}, spec: {containers: [{name: a}]}, status: {phase: Running}}",
                "0/1 Terminating 0",
            ),
            (
                "{metadata: {deletionTimestamp: x}, spec: {containers: [{name: a}]}, \
                 status: {phase: Running, reason: NodeLost}}",
                "0/1 Unknown 0",
            ),
        ];
        for (pod, wanted) in cases {
            let summary = Summary::of(&tree(pod));
            assert_eq!(
                format!("{} {} {}", summary.ready(), summary.reason, summary.restarts(NOW_MS)),
                *wanted,
                "{pod}"
            );
        }
    }

    #[test]
    fn wide_columns() {
        let pod = tree(
            "{spec: {readinessGates: [{conditionType: x}, {conditionType: z}]}, status: {podIPs: [{ip: 10.0.0.1}], \
             conditions: [{type: x, status: 'True'}]}}",
        );
        assert_eq!((pod_ip(&pod), readiness_gates(&pod)), ("10.0.0.1", "1/2".to_owned()));
        assert_eq!((pod_ip(&Value::Null), readiness_gates(&Value::Null)), (NONE, NONE.to_owned()));
    }
}
