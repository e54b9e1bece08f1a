use serde_json::{Value, json};

use super::super::memory::{Health, Problem};
use super::super::observed::Sandbox;
use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn pod(spec: Value) -> Pod {
    let value =
        json!({"metadata": {"name": "p", "namespace": "n", "uid": "u", "generation": 3}, "spec": spec});
    serde_json::from_value(value).unwrap()
}

fn seen(name: &str, state: State, exit_code: i32, restarts: i32) -> Container {
    Container {
        id: format!("{name}{restarts}"),
        name: name.into(),
        sandbox: "s0".into(),
        state,
        created_at: at(0),
        started_at: Some(at(1)),
        finished_at: (state == State::Exited).then(|| at(5)),
        exit_code,
        reason: String::new(),
        message: String::new(),
        image: "img:1".into(),
        image_ref: "sha256:1".into(),
        restart_count: restarts,
        hash: String::new(),
        log_path: String::new(),
        user: None,
        termination: None,
        resources: None,
    }
}

struct Case {
    pod: Pod,
    observed: Observed,
    memory: Memory,
    waiting: BTreeMap<String, Waiting>,
    stopping: bool,
    ended: bool,
    verdict: Option<Verdict>,
}

impl Case {
    fn new(spec: Value, containers: Vec<Container>) -> Self {
        let sandbox = Sandbox {
            id: "s0".into(),
            attempt: 0,
            ready: true,
            created_at: at(0),
            ips: vec!["10.0.0.2".into()],
        };
        let mut observed = Observed { sandboxes: vec![sandbox], containers };
        observed.sort();
        let mut memory = Memory::default();
        for c in &observed.containers {
            memory.of(&c.name).health =
                Some(Health { id: c.id.clone(), started: true, ready: true, failed: None });
        }
        Self {
            pod: pod(spec),
            observed,
            memory,
            waiting: BTreeMap::new(),
            stopping: false,
            ended: false,
            verdict: None,
        }
    }

    fn status(&self) -> PodStatus {
        pod_status(&Sources {
            pod: &self.pod,
            last: None,
            observed: &self.observed,
            memory: &self.memory,
            waiting: &self.waiting,
            stopping: self.stopping,
            ended: self.ended,
            verdict: self.verdict.as_ref(),
            resize_pending: None,
            host_ips: &["192.168.0.1".to_owned()],
            runtime_name: "corten",
            now: at(9),
        })
    }
}

fn condition<'a>(status: &'a PodStatus, type_: &str) -> &'a PodCondition {
    status.conditions.as_ref().unwrap().iter().find(|c| c.type_ == type_).unwrap()
}

fn two() -> Value {
    json!({"containers": [{"name": "a", "image": "img"}, {"name": "b", "image": "img"}]})
}

#[test]
fn phases() {
    let with = |policy: &str| json!({"restartPolicy": policy, "containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]});
    let run = |name: &str| seen(name, State::Running, 0, 0);
    let ok = |name: &str| seen(name, State::Exited, 0, 0);
    let bad = |name: &str| seen(name, State::Exited, 1, 0);
    for (policy, containers, ended, expected) in [
        ("Always", vec![], false, "Pending"),
        ("Always", vec![run("a")], false, "Pending"),
        ("Always", vec![run("a"), run("b")], false, "Running"),
        ("Always", vec![run("a"), bad("b")], false, "Running"),
        ("Always", vec![bad("a"), bad("b")], false, "Running"),
        ("OnFailure", vec![ok("a"), bad("b")], false, "Running"),
        ("OnFailure", vec![ok("a"), ok("b")], true, "Succeeded"),
        ("Never", vec![ok("a"), bad("b")], true, "Failed"),
        ("Never", vec![ok("a"), run("b")], false, "Running"),
        ("Always", vec![ok("a"), ok("b")], true, "Succeeded"),
        ("Always", vec![], true, "Failed"),
    ] {
        let mut case = Case::new(with(policy), containers.clone());
        case.ended = ended;
        let names: Vec<_> = containers.iter().map(|c| (&c.name, c.exit_code)).collect();
        assert_eq!(case.status().phase.unwrap(), expected, "{policy} {names:?}");
    }
}

#[test]
fn a_container_that_restarts_by_its_own_rule_ends_no_pod() {
    let with = |own: serde_json::Value| {
        let mut container = json!({"name": "a", "image": "i"});
        container.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
        json!({"restartPolicy": "Never", "containers": [container]})
    };
    let on_42 = json!({"restartPolicy": "Never", "restartPolicyRules": [
        {"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]});
    for (own, code, expected) in [
        (json!({}), 1, "Failed"),
        (json!({"restartPolicy": "OnFailure"}), 1, "Running"),
        (json!({"restartPolicy": "OnFailure"}), 0, "Succeeded"),
        (json!({"restartPolicy": "Always"}), 0, "Running"),
        (on_42.clone(), 42, "Running"),
        (on_42, 1, "Failed"),
    ] {
        let case = Case::new(with(own.clone()), vec![seen("a", State::Exited, code, 0)]);
        assert_eq!(case.status().phase.unwrap(), expected, "{own} {code}");
    }
}

#[test]
fn a_running_pod() {
    let case = Case::new(two(), vec![seen("a", State::Running, 0, 0), seen("b", State::Running, 0, 0)]);
    let status = case.status();
    assert_eq!(status.pod_ip.as_deref(), Some("10.0.0.2"));
    assert_eq!(status.observed_generation, Some(3));
    for type_ in ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"] {
        assert_eq!(condition(&status, type_).status, "True", "{type_}");
    }
    let a = &status.container_statuses.as_ref().unwrap()[0];
    assert_eq!((a.ready, a.started, a.restart_count), (true, Some(true), 0));
    assert_eq!(a.container_id.as_deref(), Some("corten://a0"));
    assert_eq!(a.image_id, "sha256:1");
}

#[test]
fn a_crash_loop_shows_why_it_waits_and_how_it_ended() {
    let mut case = Case::new(two(), vec![seen("a", State::Exited, 7, 2), seen("b", State::Running, 0, 0)]);
    case.waiting.insert("a".into(), Waiting::new("CrashLoopBackOff", "back-off"));
    let status = case.status();
    let a = &status.container_statuses.as_ref().unwrap()[0];
    assert_eq!(
        a.state.as_ref().unwrap().waiting.as_ref().unwrap().reason.as_deref(),
        Some("CrashLoopBackOff")
    );
    let last = a.last_state.as_ref().unwrap().terminated.as_ref().unwrap();
    assert_eq!((last.exit_code, last.reason.as_deref()), (7, Some("Error")));
    assert_eq!(a.restart_count, 2);
    assert_eq!(status.phase.as_deref(), Some("Running"));
    let ready = condition(&status, "Ready");
    assert_eq!(ready.reason.as_deref(), Some("ContainersNotReady"));
    assert_eq!(ready.message.as_deref(), Some("containers with unready status: [a]"));
}

#[test]
fn waiting_reasons_before_the_first_start() {
    let with_init =
        json!({"initContainers": [{"name": "i", "image": "x"}], "containers": [{"name": "a", "image": "x"}]});
    let reason = |status: &ContainerStatus| {
        status.state.as_ref().unwrap().waiting.as_ref().unwrap().reason.clone().unwrap()
    };
    let status = Case::new(with_init, vec![seen("i", State::Running, 0, 0)]).status();
    assert_eq!(reason(&status.container_statuses.as_ref().unwrap()[0]), "PodInitializing");
    let initialized = condition(&status, "Initialized");
    assert_eq!(initialized.message.as_deref(), Some("containers with incomplete status: [i]"));
    let mut case = Case::new(two(), vec![]);
    assert_eq!(reason(&case.status().container_statuses.unwrap()[0]), "ContainerCreating");
    let waiting = Waiting::new("CreateContainerConfigError", "secret \"s\" not found");
    case.memory.of("a").problem = Some(Problem { waiting, retry_at: at(0), since: at(0), pull: false });
    assert_eq!(reason(&case.status().container_statuses.unwrap()[0]), "CreateContainerConfigError");
}

#[test]
fn transition_times_stay_until_the_status_changes() {
    let mut case = Case::new(two(), vec![seen("a", State::Running, 0, 0), seen("b", State::Running, 0, 0)]);
    let old = json!({"conditions": [
        {"type": "Ready", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z"},
        {"type": "Initialized", "status": "False", "lastTransitionTime": "2020-01-01T00:00:00Z"},
        {"type": "example.com/mine", "status": "True"}]});
    case.pod.status = Some(serde_json::from_value(old).unwrap());
    let status = case.status();
    let long_ago: Timestamp = "2020-01-01T00:00:00Z".parse().unwrap();
    assert_eq!(condition(&status, "Ready").last_transition_time.as_ref().unwrap().0, long_ago);
    assert_eq!(condition(&status, "Initialized").last_transition_time.as_ref().unwrap().0, at(9));
    assert_eq!(condition(&status, "example.com/mine").status, "True");
}

#[test]
fn readiness_gates() {
    let spec =
        json!({"readinessGates": [{"conditionType": "x/y"}], "containers": [{"name": "a", "image": "i"}]});
    let mut case = Case::new(spec, vec![seen("a", State::Running, 0, 0)]);
    let ready = condition(&case.status(), "Ready").clone();
    assert_eq!(ready.reason.as_deref(), Some("ReadinessGatesNotReady"));
    assert_eq!(
        ready.message.as_deref(),
        Some("corresponding condition of pod readiness gate \"x/y\" does not exist.")
    );
    let old = json!({"conditions": [{"type": "x/y", "status": "True"}]});
    case.pod.status = Some(serde_json::from_value(old).unwrap());
    assert_eq!(condition(&case.status(), "Ready").status, "True");
}

#[test]
fn terminal_phases_never_change() {
    let mut case = Case::new(two(), vec![seen("a", State::Running, 0, 0), seen("b", State::Running, 0, 0)]);
    case.pod.status = Some(serde_json::from_value(json!({"phase": "Failed", "reason": "Evicted"})).unwrap());
    let status = case.status();
    assert_eq!((status.phase.as_deref(), status.reason.as_deref()), (Some("Failed"), Some("Evicted")));
}

#[test]
fn a_refused_pod_says_nothing_of_its_containers() {
    let mut case = Case::new(two(), vec![]);
    case.verdict = Some(Verdict { reason: "OutOfcpu".into(), message: "m".into(), disruption: false });
    let status = case.status();
    assert_eq!((status.phase.as_deref(), status.reason.as_deref()), (Some("Failed"), Some("OutOfcpu")));
    assert_eq!(status.container_statuses, None);
    case.observed.containers.push(seen("a", State::Exited, 137, 0));
    assert!(case.status().container_statuses.is_some(), "one that ran shows how it ended");
}
