//! The node: it outlives crashes of its own process, carries all the pods it promises, and shares its host.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use corten_testkit::{
    Cluster, HostState, NODE, Namespace, Objects, Options, cluster, eventually, is_ready, state, within,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// Pods that run through the crashes.
const PODS: usize = 20;
/// What the node promises.
const FULL: usize = 110;
/// How long kubectl may say something that is no longer true after the node is Ready again. The aim is 2 s; machines that
/// run other tests at the same time are slower, and nothing but a failure uses this up.
const TRUTH: Duration = Duration::from_secs(180);
/// How long the node may take with all its pods.
const ALL: Duration = Duration::from_secs(600);

/// The tests that start many pods wait for one another: they measure the node, not the machine.
fn heavy() -> MutexGuard<'static, ()> {
    static HEAVY: Mutex<()> = Mutex::new(());
    HEAVY.lock().unwrap_or_else(PoisonError::into_inner)
}

fn own_cluster() -> Cluster {
    Cluster::start(Options { beside_others: true, ..Options::default() })
}

/// Replicas that write a line a second.
fn replicas(count: usize) -> String {
    let script = "trap exit TERM; i=0; while true; do i=$((i+1)); echo line $i; sleep 1 & wait $!; done";
    let container = json!({"name": "c", "image": "busybox:1.35", "command": ["sh", "-c", script]});
    let spec = json!({"terminationGracePeriodSeconds": 2, "containers": [container]});
    json!({"kind": "ReplicaSet", "apiVersion": "apps/v1", "metadata": {"name": "many"}, "spec": {
        "replicas": count, "selector": {"matchLabels": {"app": "many"}},
        "template": {"metadata": {"labels": {"app": "many"}}, "spec": spec}}})
    .to_string()
}

/// What must not change of a pod whose container goes on: its identity, its address and its container's.
fn identity(pod: &Value) -> Value {
    let status = &pod["status"]["containerStatuses"][0];
    json!([
        pod["metadata"]["uid"],
        pod["status"]["podIP"],
        pod["status"]["startTime"],
        status["containerID"],
        status["restartCount"],
        status["state"]["running"]["startedAt"],
    ])
}

fn identities(pods: &Objects) -> BTreeMap<String, Value> {
    pods.iter().map(|(name, pod)| (name.clone(), identity(pod))).collect()
}

/// Pods by name, as one list of the moment.
fn pods_of(ns: &Namespace<'_>) -> Objects {
    let list = ns.kubectl(&["get", "pods", "-o", "json"]).json();
    let items = list["items"].as_array().unwrap().clone();
    items.into_iter().map(|pod| (pod["metadata"]["name"].as_str().unwrap().to_owned(), pod)).collect()
}

fn all_ready(pods: &Objects, count: usize) -> bool {
    pods.len() == count && pods.values().all(is_ready)
}

/// Processes of the container.
fn processes_of(container_id: &str) -> Vec<i32> {
    let id = container_id.rsplit('/').next().unwrap();
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|text| text.contains(id)))
        .collect()
}

/// The container's first process: number 1 inside. Its end is the container's.
fn main_process(container_id: &str) -> i32 {
    let is_first = |pid: &i32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let mut numbers = status.lines().filter_map(|line| line.strip_prefix("NSpid:"));
        numbers.any(|numbers| numbers.split_whitespace().last() == Some("1"))
    };
    processes_of(container_id).into_iter().find(is_first).expect("the container runs")
}

/// The last line of a pod's log, as its number.
fn last_line(ns: &Namespace<'_>, pod: &str) -> Option<u64> {
    let output = ns.kubectl(&["logs", pod, "--tail=1"]);
    output.ok().trim().strip_prefix("line ")?.parse().ok()
}

/// Logs go on where they were, and commands run.
fn can_be_looked_into(ns: &Namespace<'_>, pod: &str) {
    let before = eventually("a line of the log", || last_line(ns, pod));
    eventually("the log goes on", || last_line(ns, pod).filter(|line| *line > before));
    let first = ns.kubectl(&["logs", pod]);
    assert!(first.ok().starts_with("line 1\n"), "what was written before is there: {first}");
    ns.kubectl(&["exec", pod, "--", "sh", "-c", "echo from $HOSTNAME; exit 7"])
        .says(&format!("from {pod}"))
        .says("exit code 7")
        .err();
}

#[test]
fn a_crash_and_a_restart_lose_nothing() {
    let _heavy = heavy();
    let cluster = own_cluster();
    {
        let ns = cluster.namespace("crash");
        ns.create_from(&replicas(PODS));
        let before = ns.watch(&["pods"], "all run", |pods| all_ready(pods, PODS));
        let names: Vec<String> = before.keys().cloned().collect();
        let [victim, deleted, looked_into, ..] = names.as_slice() else { panic!("{names:?}") };

        // One container dies while nobody looks.
        cluster.end(Signal::SIGKILL);
        let dead = identity(&before[victim])[3].as_str().unwrap().to_owned();
        kill(Pid::from_raw(main_process(&dead)), Signal::SIGKILL).unwrap();
        eventually("its processes end", || processes_of(&dead).is_empty().then_some(()));
        let alive = before.values().map(|pod| processes_of(identity(pod)[3].as_str().unwrap()).len());
        assert_eq!(alive.filter(|count| *count > 0).count(), PODS - 1, "containers outlive the process");

        cluster.up();
        let killed = within(TRUTH, "the death is told", || {
            let pod = ns.get(&format!("pod/{victim}"));
            (pod["status"]["containerStatuses"][0]["restartCount"] == 1 && is_ready(&pod)).then_some(pod)
        });
        let last = &killed["status"]["containerStatuses"][0]["lastState"]["terminated"];
        assert_eq!(last["exitCode"], 137, "{last}");
        assert_eq!(last["containerID"], identity(&before[victim])[3], "{last}");

        // A pod that is deleted right after the restart goes, and another comes.
        let goes = [&format!("pod/{deleted}"), "--timeout=180s"];
        ns.kubectl(&["delete", goes[0], goes[1]]).ok();
        let ended = identity(&before[deleted])[3].as_str().unwrap().to_owned();
        eventually("its processes are gone", || processes_of(&ended).is_empty().then_some(()));
        let after = ns.watch(&["pods"], "as many as before", |pods| all_ready(pods, PODS));
        let mut expected = identities(&before);
        let mut found = identities(&after);
        for changed in [victim, deleted] {
            expected.remove(changed);
        }
        found.retain(|name, _| expected.contains_key(name));
        assert_eq!(found, expected, "same containers, same start times, same restart counts");
        can_be_looked_into(&ns, looked_into);
        stopped_and_started(&cluster, &ns);
    }
    cluster.down(&["--purge"]).ok();
    let left = HostState::look();
    assert_eq!(left.about(cluster.name()), Vec::<&str>::new());
}

/// SIGTERM keeps containers, too.
fn stopped_and_started(cluster: &Cluster, ns: &Namespace<'_>) {
    let before = pods_of(ns);
    assert!(all_ready(&before, PODS));
    cluster.end(Signal::SIGTERM);
    let alive = before.values().map(|pod| processes_of(identity(pod)[3].as_str().unwrap()).len());
    assert_eq!(alive.filter(|count| *count > 0).count(), PODS, "containers outlive the process");
    cluster.up();
    within(TRUTH, "all are ready as before", || all_ready(&pods_of(ns), PODS).then_some(()));
    let name = before.keys().next().unwrap();
    can_be_looked_into(ns, name);
    // The kubelet sees to them again: one that ends is started again, the others are as they were.
    ns.kubectl(&["exec", name, "--", "kill", "1"]);
    ns.watch(&["pod", name], "it ended and was started again", |pods| {
        pods.values().any(|pod| corten_testkit::restarts(pod) == corten_testkit::restarts(&before[name]) + 1)
    });
    let (mut expected, mut found) = (identities(&before), identities(&pods_of(ns)));
    assert!(expected.remove(name).is_some() && found.remove(name).is_some());
    assert_eq!(found, expected);
}

/// What pods of this cluster have on the host at this moment.
fn traces(cluster: &Cluster) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut add = |kind: &str, what: &str| {
        found.insert(format!("{kind} {what}"));
    };
    let name = cluster.name();
    for interface in names_in(Path::new("/sys/class/net")) {
        // Pods' ends of the bridge: the cluster's name and eight digits.
        if interface.strip_prefix(name).is_some_and(|rest| rest.len() == 8) {
            add("interface", &interface);
        }
    }
    let node = cluster.data_dir().join("node");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    for mount in mounts.lines().filter_map(|line| line.split(' ').nth(4)) {
        if mount.starts_with(node.to_str().unwrap()) {
            add("mount", mount);
        }
    }
    for part in ["sandboxes", "containers", "pods", "logs", "network/sandboxes"] {
        for entry in names_in(&node.join(part)) {
            add(part, &entry);
        }
    }
    for root in cgroup_roots() {
        for class in ["kubepods", "kubepods/burstable", "kubepods/besteffort"] {
            let dir = root.join(name).join(class);
            for pod in names_in(&dir).into_iter().filter(|entry| entry.starts_with("pod")) {
                add("cgroup", dir.join(pod).to_str().unwrap());
            }
        }
    }
    for pid in names_in(Path::new("/proc")).into_iter().filter(|entry| entry.parse::<u32>().is_ok()) {
        let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).replace('\0', " ");
        let shim = words.contains(" shim ") && words.contains(node.to_str().unwrap());
        if shim || cgroup.contains(&format!("/{name}/kubepods")) {
            add("process", &format!("{pid} {words}"));
        }
    }
    found
}

fn names_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Where cgroup hierarchies are mounted, of either version.
fn cgroup_roots() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    fields.filter(|fields| fields[2].starts_with("cgroup")).map(|fields| PathBuf::from(fields[1])).collect()
}

#[test]
fn a_full_node() {
    let _heavy = heavy();
    let cluster = own_cluster();
    {
        let ns = cluster.namespace("full");
        ns.create_from(&replicas(FULL));
        let pods = ns
            .watch_for(ALL, &["pods"], |pods| all_ready(pods, FULL))
            .unwrap_or_else(|pods| panic!("{}", not_ready(&pods)));
        let addresses: BTreeSet<_> = pods.values().map(|pod| pod["status"]["podIP"].to_string()).collect();
        assert_eq!(addresses.len(), FULL, "every pod has an address of its own");
        assert!(pods.values().all(|pod| pod["spec"]["nodeName"] == NODE));
        assert!(traces(&cluster).len() > 5 * FULL, "the test sees what pods leave");

        // One more does not fit, and is told why.
        ns.kubectl(&["run", "surplus", "--image=busybox:1.35", "--", "sleep", "3600"]).ok();
        ns.watch(&["pod", "surplus"], "no room", |pods| {
            let conditions =
                pods.values().flat_map(|pod| pod["status"]["conditions"].as_array().into_iter().flatten());
            let mut unschedulable = conditions.filter(|condition| condition["reason"] == "Unschedulable");
            unschedulable.any(|condition| {
                condition["message"]
                    .as_str()
                    .is_some_and(|text| text.starts_with("0/1 nodes are available: 1 Too many pods."))
            })
        });
        ns.kubectl(&["delete", "pod", "surplus", "--wait=false"]).ok();
        ns.kubectl(&["delete", "replicaset", "many"]).ok();
        ns.watch_for(ALL, &["pods"], Objects::is_empty)
            .unwrap_or_else(|pods| panic!("left: {:?}", pods.keys()));
        nothing_left(&cluster);
    }
    cluster.down(&["--purge"]).ok();
    assert_eq!(HostState::look().about(cluster.name()), Vec::<&str>::new());
}

fn nothing_left(cluster: &Cluster) {
    let deadline = Instant::now() + ALL / 2;
    within(ALL, "nothing is left", || {
        let left = traces(cluster);
        assert!(left.is_empty() || Instant::now() < deadline, "left behind: {left:#?}");
        left.is_empty().then_some(())
    });
}

fn not_ready(pods: &Objects) -> String {
    let bad = pods.values().filter(|pod| !is_ready(pod));
    let lines = bad.map(|pod| format!("{} {}", pod["metadata"]["name"], state(pod, "")));
    format!("{} pods, of which not ready:\n{}", pods.len(), lines.collect::<Vec<_>>().join("\n"))
}

#[test]
fn two_clusters_side_by_side() {
    let one = cluster();
    let two = own_cluster();
    assert_ne!(one.name(), two.name());
    let ours = one.namespace("beside");
    let container = {
        let theirs = two.namespace("beside");
        for ns in [&ours, &theirs] {
            ns.kubectl(&["run", "same", "--image=busybox:1.35", "--", "sh", "-c", "echo in $C; sleep 3600"])
                .ok();
            ns.wait("pod/same", "condition=Ready");
        }
        let [a, b] = [&ours, &theirs].map(|ns| identity(&ns.get("pod/same")));
        assert!(a[0] != b[0] && a[1] != b[1] && a[3] != b[3], "{a} {b}");
        theirs.kubectl(&["create", "configmap", "only-here"]).ok();
        ours.kubectl(&["get", "configmap", "only-here"]).says("NotFound").err();
        for (ns, cluster) in [(&ours, one), (&theirs, &two)] {
            let images = cluster.image(&["ls"]);
            assert!(images.ok().contains("busybox"), "{images}");
            ns.kubectl(&["exec", "same", "--", "hostname"]).says("same").ok();
        }
        // Each admin is a stranger in the other's cluster.
        stranger(one, &two);
        a
    };
    two.down(&["--purge"]).ok();
    assert_eq!(HostState::look().about(two.name()), Vec::<&str>::new());
    assert_eq!(identity(&ours.get("pod/same")), container, "the other one goes on");
    ours.kubectl(&["exec", "same", "--", "hostname"]).says("same").ok();
}

/// The admin of `one` asks the server of `two`.
fn stranger(one: &Cluster, two: &Cluster) {
    let config = |cluster: &Cluster| cluster.kubectl(&["config", "view", "--raw", "-o", "json"]).json();
    let (mut mixed, other) = (config(one), config(two));
    mixed["clusters"][0]["cluster"] = other["clusters"][0]["cluster"].clone();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kubeconfig");
    fs::write(&path, mixed.to_string()).unwrap();
    let output =
        one.kubectl_command().env("KUBECONFIG", path).args(["get", "--raw", "/api/v1/nodes"]).output();
    let said = String::from_utf8(output.unwrap().stderr).unwrap();
    assert!(said.contains("Unauthorized"), "{said}");
}

#[test]
fn a_node_tells_about_itself() {
    // The lease is part of the description, and another test takes it away.
    let _turn = cluster().alone();
    // The taint of a node that is not ready goes by another hand, after the condition.
    let node = eventually("a node without taints", || {
        let node = cluster().kubectl(&["get", "node", NODE, "-o", "json"]).json();
        node["spec"]["taints"].is_null().then_some(node)
    });
    let status = &node["status"];
    let conditions = status["conditions"].as_array().unwrap();
    let told: BTreeMap<_, _> = conditions
        .iter()
        .map(|condition| {
            (
                condition["type"].as_str().unwrap(),
                ["status", "reason"].map(|field| condition[field].as_str().unwrap()),
            )
        })
        .collect();
    let expected = BTreeMap::from([
        ("MemoryPressure", ["False", "KubeletHasSufficientMemory"]),
        ("DiskPressure", ["False", "KubeletHasNoDiskPressure"]),
        ("PIDPressure", ["False", "KubeletHasSufficientPID"]),
        ("Ready", ["True", "KubeletReady"]),
    ]);
    assert_eq!(told, expected);
    let processors = std::thread::available_parallelism().unwrap().to_string();
    for amounts in ["capacity", "allocatable"] {
        assert_eq!(status[amounts]["pods"], FULL.to_string());
        assert_eq!(status[amounts]["cpu"], processors.as_str());
        let memory = status[amounts]["memory"].as_str().unwrap();
        assert!(
            memory.strip_suffix("Ki").is_some_and(|number| number.parse::<u64>().unwrap() > 0),
            "{memory}"
        );
    }
    let of_kind = |kind: &str| {
        status["addresses"].as_array().unwrap().iter().find(|address| address["type"] == kind).cloned()
    };
    assert_eq!(of_kind("Hostname").unwrap()["address"], NODE);
    let ip = of_kind("InternalIP").unwrap()["address"].as_str().unwrap().to_owned();
    assert_eq!(node["metadata"]["labels"]["kubernetes.io/hostname"], NODE);
    assert_eq!(node["metadata"]["labels"]["kubernetes.io/os"], "linux");
    assert!(status["nodeInfo"]["kubeletVersion"].as_str().unwrap().starts_with("v1.37."), "{status}");
    let row = cluster().kubectl(&["get", "node", "-o", "wide", "--no-headers"]);
    assert_eq!(row.rows()[0][..2], [NODE, "Ready"]);
    assert_eq!(row.rows()[0][5], ip);
    let parts = ["Conditions:", "KubeletReady", "Allocated resources:", "Non-terminated Pods:", "RenewTime:"];
    eventually("its description", || {
        let described = cluster().kubectl(&["describe", "node", NODE]);
        parts.iter().all(|part| described.ok().contains(part)).then_some(())
    });
}

#[test]
fn its_lease_is_renewed() {
    let _turn = cluster().alone();
    let lease = || {
        let output = cluster().kubectl(&["get", "lease", NODE, "-n", "kube-node-lease", "-o", "json"]);
        output.success().then(|| output.json())
    };
    // A kubelet whose node is not there yet names it as the owner later.
    let first = eventually("a lease of the node", || {
        lease().filter(|lease| lease["metadata"]["ownerReferences"].is_array())
    });
    assert_eq!(first["spec"]["holderIdentity"], NODE);
    assert_eq!(first["spec"]["leaseDurationSeconds"], 40);
    assert_eq!(first["metadata"]["ownerReferences"][0]["kind"], "Node");
    let renewed = eventually("the lease is renewed", || {
        lease().filter(|lease| lease["spec"]["renewTime"] != first["spec"]["renewTime"])
    });
    assert_eq!(renewed["metadata"]["uid"], first["metadata"]["uid"]);
    // Without the lease the node would be lost; a kubelet makes it anew.
    cluster().kubectl(&["delete", "lease", NODE, "-n", "kube-node-lease"]).ok();
    eventually("the lease is made anew", || {
        cluster().kubectl(&["get", "lease", NODE, "-n", "kube-node-lease"]).success().then_some(())
    });
}

/// A file system of a fixed size, gone with the value.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(size: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("corten-tdisk-").tempdir().unwrap();
        let options = format!("size={size}");
        let none = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("corten-test"), dir.path(), Some("tmpfs"), none, Some(options.as_str()))
            .unwrap();
        Self(dir)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

/// Writes until nothing more fits.
fn fill(path: &Path) {
    use std::io::Write;
    let mut file = fs::File::create(path).unwrap();
    let block = [0_u8; 4096];
    while file.write(&block).is_ok_and(|written| written > 0) {}
}

#[test]
fn a_full_disk_stops_what_needs_room_and_nothing_else() {
    let _heavy = heavy();
    let disk = SmallDisk::new("192m");
    let cluster = Cluster::start(Options {
        beside_others: true,
        data_dir: Some(disk.0.path().join("data")),
        ..Options::default()
    });
    let ns = cluster.namespace("full");
    let pod = |name: &str| {
        let script = "trap exit TERM; while true; do sleep 1 & wait $!; done";
        // Evictions for lack of disk space are another story: critical pods are left alone.
        let spec = json!({"terminationGracePeriodSeconds": 5, "priorityClassName": "system-node-critical",
            "containers": [{"name": "c", "image": "busybox:1.35", "command": ["sh", "-c", script]}]});
        json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name}, "spec": spec}).to_string()
    };
    for name in ["stays", "goes", "forced"] {
        ns.create_from(&pod(name));
        ns.wait(&format!("pod/{name}"), "condition=Ready");
    }
    let filler = disk.0.path().join("filler");
    fill(&filler);
    let big = format!("--from-literal=a={}", "x".repeat(64 << 10));
    eventually("a write is refused", || {
        let name = format!("full-{}", std::process::id());
        let refused = !ns.kubectl(&["create", "configmap", &name, &big]).success();
        ns.kubectl(&["delete", "configmap", &name, "--ignore-not-found"]).ok();
        refused.then_some(())
    });
    fill(&filler.with_extension("more"));
    ns.kubectl(&["create", "configmap", "no", &big]).says("no space left").err();
    ns.kubectl(&["exec", "stays", "--", "echo", "still", "there"]).says("still there").ok();
    ns.kubectl(&["get", "pod", "stays"]).says("Running").ok();
    ns.kubectl(&["delete", "pod", "goes", "--timeout=180s"]).ok();
    ns.kubectl(&["delete", "pod", "forced", "--grace-period=0", "--force", "--timeout=180s"]).ok();
    ns.kubectl(&["exec", "stays", "--", "echo", "still", "there"]).says("still there").ok();
    for name in ["filler", "filler.more"] {
        fs::remove_file(disk.0.path().join(name)).unwrap();
    }
    eventually("writes work again", || {
        ns.kubectl(&["create", "configmap", "yes", &big]).success().then_some(())
    });
    ns.create_from(&pod("after"));
    ns.wait("pod/after", "condition=Ready");
    drop(ns);
    cluster.down(&["--purge"]).ok();
}

#[test]
fn static_pods() {
    let _heavy = heavy();
    let manifests = tempfile::Builder::new().prefix("corten-tstatic-").tempdir().unwrap();
    let file = manifests.path().join("web.yaml");
    let manifest = |word: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: web, labels: {{app: web}}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  \
             containers:\n  - {{name: c, image: 'busybox:1.35', command: [sh, -c, 'echo {word}; sleep 100000']}}\n"
        )
    };
    fs::write(&file, manifest("first")).unwrap();
    let path = manifests.path().to_str().unwrap().to_owned();
    let cluster = Cluster::start(Options {
        beside_others: true,
        flags: vec!["--pod-manifest-path".to_owned(), path],
        ..Options::default()
    });
    let mirror = format!("web-{NODE}");
    let get = |path: &str| {
        let wanted = format!("jsonpath={path}");
        let output = cluster.kubectl(&["get", "pod", &mirror, "-o", &wanted]);
        output.success().then(|| output.ok().to_owned())
    };
    let running = |other_than: &str| {
        eventually("the mirror shows a running pod", || {
            let uid = get("{.metadata.uid}").filter(|uid| uid != other_than)?;
            (get("{.status.phase}/{.status.containerStatuses[0].ready}")? == "Running/true").then_some(uid)
        })
    };
    let first = running("");
    assert_eq!(get("{.metadata.annotations.kubernetes\\.io/config\\.source}").unwrap(), "file");
    assert_eq!(get("{.metadata.ownerReferences[0].kind}").unwrap(), "Node");
    let hash = get("{.metadata.annotations.kubernetes\\.io/config\\.mirror}").unwrap();
    assert!(!hash.is_empty() && hash != first, "the pod's own uid");
    eventually("the first container speaks", || {
        cluster.kubectl(&["logs", &mirror]).stdout.contains("first").then_some(())
    });
    cluster.kubectl(&["exec", &mirror, "--", "echo", "inside"]).says("inside").ok();
    // Deleting the mirror does nothing to the pod.
    let container = get("{.status.containerStatuses[0].containerID}").unwrap();
    cluster.kubectl(&["delete", "pod", &mirror, "--timeout=180s"]).ok();
    let second = running(&first);
    assert_eq!(get("{.status.containerStatuses[0].containerID}").unwrap(), container);
    // Changing the file replaces it.
    fs::write(&file, manifest("second")).unwrap();
    running(&second);
    eventually("the new container speaks", || {
        let output = cluster.kubectl(&["logs", &mirror]);
        (output.success() && output.ok().contains("second")).then_some(())
    });
    // Removing it ends the pod.
    fs::remove_file(&file).unwrap();
    eventually("the mirror goes", || get("{.metadata.name}").is_none().then_some(()));
    cluster.down(&["--purge"]).ok();
}
