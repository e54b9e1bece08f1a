use serde_json::{Value, json};

use super::super::memory::{Health, Problem};
use super::super::observed::Sandbox;
use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn pod(spec: Value) -> Pod {
    let value = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec});
    serde_json::from_value(value).unwrap()
}

fn one(policy: &str) -> Pod {
    pod(json!({"restartPolicy": policy, "containers": [{"name": "a", "image": "i"}]}))
}

fn sandbox(ready: bool, attempt: u32) -> Sandbox {
    Sandbox {
        id: format!("s{attempt}"),
        attempt,
        ready,
        created_at: at(i64::from(attempt)),
        ips: vec!["10.0.0.2".into()],
    }
}

fn container(name: &str, state: State, restarts: i32, exit_code: i32) -> Container {
    Container {
        id: format!("{name}{restarts}"),
        name: name.into(),
        sandbox: "s0".into(),
        state,
        created_at: at(0),
        started_at: Some(at(0)),
        finished_at: (state == State::Exited).then(|| at(5)),
        exit_code,
        reason: String::new(),
        message: String::new(),
        image: "i".into(),
        image_ref: "i".into(),
        restart_count: restarts,
        hash: String::new(),
        log_path: String::new(),
        user: None,
        termination: None,
        resources: None,
    }
}

fn running(name: &str) -> Container {
    container(name, State::Running, 0, 0)
}

fn exited(name: &str, code: i32) -> Container {
    container(name, State::Exited, 0, code)
}

fn observed(containers: Vec<Container>) -> Observed {
    let mut observed = Observed { sandboxes: vec![sandbox(true, 0)], containers };
    observed.sort();
    observed
}

fn ready() -> Memory {
    Memory { volumes: Volumes::Ready, ..Memory::default() }
}

fn plan(pod: &Pod, observed: &Observed, memory: &Memory, stop: Option<&Stop>) -> Plan {
    plan_pod(&Situation { pod, observed, memory, stop, now: at(6) })
}

/// Steps in short: `start a/1`, `kill a 30`, …
fn short(plan: &Plan) -> Vec<String> {
    let step = |step: &Step| match step {
        Step::Prepare { volumes, sandbox } => format!("prepare {volumes} {sandbox:?}"),
        Step::Resize { name, .. } => format!("resize {name}"),
        Step::Start { name, restart_count, .. } => format!("start {name}/{restart_count}"),
        Step::Kill { name, grace, .. } => format!("kill {name} {grace}"),
        Step::Remove { id } => format!("remove {id}"),
        Step::StopSandbox { id } => format!("stop {id}"),
        Step::RemoveSandbox { id } => format!("remove sandbox {id}"),
        Step::TakeDown => "take down".to_owned(),
        Step::Cleanup => "cleanup".to_owned(),
    };
    plan.steps.iter().map(step).collect()
}

#[test]
fn a_pod_from_nothing_to_running() {
    let pod = one("Always");
    let nothing = Observed::default();
    assert_eq!(short(&plan(&pod, &nothing, &Memory::default(), None)), ["prepare true Some(0)"]);
    assert_eq!(short(&plan(&pod, &nothing, &ready(), None)), ["prepare false Some(0)"]);
    assert_eq!(short(&plan(&pod, &observed(vec![]), &Memory::default(), None)), ["prepare true None"]);
    assert_eq!(short(&plan(&pod, &observed(vec![]), &ready(), None)), ["start a/0"]);
    assert_eq!(plan(&pod, &observed(vec![running("a")]), &ready(), None), Plan::default());
}

#[test]
fn what_follows_an_exit() {
    for (policy, code, expected) in [
        ("Always", 0, vec!["start a/1"]),
        ("Always", 1, vec!["start a/1"]),
        ("OnFailure", 1, vec!["start a/1"]),
        ("OnFailure", 0, vec!["stop s0"]),
        ("Never", 1, vec!["stop s0"]),
    ] {
        let plan = plan(&one(policy), &observed(vec![exited("a", code)]), &ready(), None);
        assert_eq!(short(&plan), expected, "{policy} {code}");
    }
}

#[test]
fn a_new_definition_does_not_wait_for_the_old_ones_back_off() {
    let mut memory = ready();
    memory.of("a").backoff.advance(at(0), at(0));
    let pod = one("Always");
    let known = spec::container_hash(&pod.spec.as_ref().unwrap().containers[0]);
    for (hash, expected) in [(known, vec![]), ("of another image".to_owned(), vec!["start a/1"])] {
        let ended = Container { hash, ..exited("a", 1) };
        assert_eq!(short(&plan(&pod, &observed(vec![ended]), &memory, None)), expected);
    }
}

#[test]
fn a_crash_loop_waits_for_its_back_off() {
    let mut memory = ready();
    memory.of("a").backoff.advance(at(0), at(0));
    let plan = plan(&one("Always"), &observed(vec![exited("a", 1)]), &memory, None);
    assert_eq!(plan.steps, []);
    assert_eq!(plan.wake, Some(at(15)));
    let waiting = &plan.waiting["a"];
    assert_eq!(waiting.reason, "CrashLoopBackOff");
    assert_eq!(waiting.message, "back-off 10s restarting failed container=a pod=p_n(u)");
}

#[test]
fn pull_errors_turn_into_back_off() {
    let mut memory = ready();
    memory.of("a").pull_backoff.advance(at(0), at(0));
    let waiting = Waiting::new("ErrImagePull", "not there");
    let problem = |since| Problem { waiting: waiting.clone(), retry_at: at(0), since, pull: true };
    memory.of("a").problem = Some(problem(at(5)));
    let fresh = plan(&one("Always"), &observed(vec![]), &memory, None);
    assert_eq!((fresh.waiting["a"].reason.as_str(), fresh.wake), ("ErrImagePull", Some(at(9))));
    memory.of("a").problem = Some(problem(at(0)));
    let later = plan(&one("Always"), &observed(vec![]), &memory, None);
    assert_eq!(later.waiting["a"].reason, "ImagePullBackOff");
    assert_eq!(later.waiting["a"].message, "Back-off pulling image \"i\": ErrImagePull: not there");
    assert_eq!(later.wake, Some(at(10)));
    memory.of("a").pulling = true;
    assert_eq!(plan(&one("Always"), &observed(vec![]), &memory, None).steps, []);
}

#[test]
fn init_containers_go_one_by_one() {
    let pod = pod(json!({"restartPolicy": "Never",
        "initContainers": [{"name": "i1", "image": "i"}, {"name": "i2", "image": "i"}],
        "containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]}));
    for (containers, expected) in [
        (vec![], vec!["start i1/0"]),
        (vec![running("i1")], vec![]),
        (vec![exited("i1", 0)], vec!["start i2/0"]),
        (vec![exited("i1", 0), exited("i2", 0)], vec!["start a/0", "start b/0"]),
        (vec![exited("i1", 0), exited("i2", 0), running("a")], vec!["start b/0"]),
        (vec![exited("i1", 1)], vec!["stop s0"]),
        (vec![running("a"), running("b")], vec![]),
    ] {
        let plan = plan(&pod, &observed(containers.clone()), &ready(), None);
        assert_eq!(short(&plan), expected, "{:?}", containers.iter().map(|c| &c.id).collect::<Vec<_>>());
    }
}

#[test]
fn sidecars_gate_what_follows_and_outlive_the_mains() {
    let pod = pod(json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 7,
        "initContainers": [
            {"name": "s1", "image": "i", "restartPolicy": "Always"},
            {"name": "s2", "image": "i", "restartPolicy": "Always"}],
        "containers": [{"name": "a", "image": "i"}]}));
    let mut memory = ready();
    assert_eq!(short(&plan(&pod, &observed(vec![running("s1")]), &memory, None)), Vec::<String>::new());
    for name in ["s1", "s2"] {
        memory.of(name).health =
            Some(Health { id: format!("{name}0"), started: true, ready: true, failed: None });
    }
    let plan_of = |containers| short(&plan(&pod, &observed(containers), &memory, None));
    assert_eq!(plan_of(vec![running("s1")]), ["start s2/0"]);
    assert_eq!(plan_of(vec![running("s1"), running("s2")]), ["start a/0"]);
    assert_eq!(plan_of(vec![running("s1"), exited("s2", 0), running("a")]), ["start s2/1"]);
    assert_eq!(plan_of(vec![running("s1"), running("s2"), exited("a", 0)]), ["kill s2 7"]);
    assert_eq!(plan_of(vec![running("s1"), exited("s2", 0), exited("a", 0)]), ["kill s1 7"]);
    assert_eq!(plan_of(vec![exited("s1", 0), exited("s2", 0), exited("a", 0)]), ["stop s0"]);
}

#[test]
fn a_failed_liveness_probe_restarts() {
    let mut memory = ready();
    let failed = super::super::memory::FailedProbe { probe: "liveness", grace: Some(3) };
    memory.of("a").health =
        Some(Health { id: "a0".into(), started: true, ready: true, failed: Some(failed) });
    let plan = plan(&one("Always"), &observed(vec![running("a")]), &memory, None);
    assert_eq!(short(&plan), ["kill a 3"]);
}

#[test]
fn deletion_in_order() {
    let stop = Stop::Deleted { grace: 30 };
    let pod = one("Always");
    let mut memory = ready();
    let runs = observed(vec![running("a")]);
    assert_eq!(short(&plan(&pod, &runs, &memory, Some(&stop))), ["kill a 30"]);
    memory.of("a").killing = Some(super::super::memory::Killing { id: "a0".into(), deadline: at(30) });
    assert_eq!(plan(&pod, &runs, &memory, Some(&stop)).steps, [], "one kill is enough");
    let sooner = Stop::Deleted { grace: 1 };
    assert_eq!(short(&plan(&pod, &runs, &memory, Some(&sooner))), ["kill a 1"], "unless it shall be sooner");
    let dead = observed(vec![exited("a", 143)]);
    assert_eq!(short(&plan(&pod, &dead, &memory, Some(&stop))), ["stop s0"]);
    let mut stopped = dead;
    stopped.sandboxes[0].ready = false;
    let last = plan(&pod, &stopped, &memory, Some(&stop));
    assert_eq!((short(&last), last.ended), (vec!["cleanup".to_owned()], true));
    let evicted = Stop::Ended { grace: 0 };
    assert_eq!(short(&plan(&pod, &stopped, &memory, Some(&evicted))), ["take down"]);
    memory.volumes = Volumes::Gone;
    let kept = plan(&pod, &stopped, &memory, Some(&evicted));
    assert_eq!((kept.steps, kept.ended), (vec![], true), "kept until it is deleted");
}

#[test]
fn a_dead_sandbox_is_replaced_and_its_containers_run_again() {
    let pod = pod(json!({"initContainers": [{"name": "i1", "image": "i"}],
        "containers": [{"name": "a", "image": "i"}]}));
    let mut seen = observed(vec![exited("i1", 0), exited("a", 255)]);
    seen.sandboxes[0].ready = false;
    assert_eq!(short(&plan(&pod, &seen, &ready(), None)), ["prepare false Some(1)"]);
    seen.sandboxes.insert(0, sandbox(true, 1));
    assert_eq!(short(&plan(&pod, &seen, &ready(), None)), ["start i1/1"]);
    seen.containers.clear();
    assert_eq!(
        short(&plan(&pod, &seen, &ready(), None)),
        ["start i1/0", "remove sandbox s0"],
        "nothing needs it"
    );
}

#[test]
fn old_dead_containers_go() {
    let mut list = vec![running("a")];
    list[0].restart_count = 3;
    list.extend((0..3).map(|count| Container {
        restart_count: count,
        id: format!("a{count}"),
        ..exited("a", 1)
    }));
    assert_eq!(short(&plan(&one("Always"), &observed(list), &ready(), None)), ["remove a1", "remove a0"]);
}

#[test]
fn a_changed_image_restarts() {
    let pod = one("Always");
    let mut c = running("a");
    c.hash = "other".into();
    assert_eq!(short(&plan(&pod, &observed(vec![c]), &ready(), None)), ["kill a 30"]);
}

#[test]
fn resources_change_in_place_or_by_a_restart() {
    let pod = |policy: &str| -> Pod {
        serde_json::from_value(serde_json::json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"containers": [{"name": "a", "image": "i", "resources": {"requests": {"cpu": "200m"}},
                "resizePolicy": [{"resourceName": "cpu", "restartPolicy": policy}]}]}}))
        .unwrap()
    };
    let has = |milli| k8s_cri::v1::LinuxContainerResources {
        cpu_shares: crate::resources::shares(milli),
        ..Default::default()
    };
    let with = |milli| observed(vec![Container { resources: Some(has(milli)), ..running("a") }]);
    let steps = |policy: &str, milli, memory: &Memory| short(&plan(&pod(policy), &with(milli), memory, None));
    assert_eq!(steps("NotRequired", 200, &ready()), Vec::<String>::new());
    assert_eq!(steps("NotRequired", 100, &ready()), ["resize a"]);
    assert_eq!(steps("RestartContainer", 100, &ready()), ["kill a 30"]);
    let mut failed = ready();
    failed.of("a").resize_failed = Some((at(60), "no".into()));
    assert_eq!(steps("NotRequired", 100, &failed), Vec::<String>::new(), "not before its time");
    let mut init = pod("NotRequired");
    let spec = init.spec.as_mut().unwrap();
    spec.init_containers = Some(std::mem::take(&mut spec.containers));
    assert_eq!(short(&plan(&init, &with(100), &ready(), None)), ["resize a"], "an init container, too");
}
