//! What the OCI document says for a CRI request; root is not needed.

use std::collections::HashMap;

use k8s_cri::v1::{KeyValue, LinuxContainerConfig, Mount, NamespaceOption};
use oci_spec::image::{ConfigBuilder, ImageConfigurationBuilder, RootFsBuilder};

use super::*;

struct Case {
    root: PathBuf,
    config: ContainerConfig,
    image: ImageConfiguration,
    version: Version,
}

impl Case {
    fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("corten-spec-{name}-{}", std::process::id()));
        std::fs::create_dir_all(root.join("etc")).unwrap();
        let inner = ConfigBuilder::default()
            .entrypoint(vec!["/entry".to_owned()])
            .cmd(vec!["default".to_owned()])
            .env(vec!["A=image".to_owned(), "B=image".to_owned()])
            .working_dir("/work/here".to_owned())
            .build()
            .unwrap();
        let rootfs = RootFsBuilder::default().typ("layers").diff_ids(Vec::<String>::new()).build().unwrap();
        let image = ImageConfigurationBuilder::default()
            .config(inner)
            .architecture("amd64")
            .os("linux")
            .rootfs(rootfs)
            .history(Vec::new())
            .build()
            .unwrap();
        let context = LinuxContainerSecurityContext {
            namespace_options: Some(NamespaceOption {
                pid: NamespaceMode::Container.into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let linux = LinuxContainerConfig { security_context: Some(context), ..Default::default() };
        let config = ContainerConfig { linux: Some(linux), ..Default::default() };
        Self { root, config, image, version: Version::V1 }
    }

    fn context(&mut self) -> &mut LinuxContainerSecurityContext {
        self.config.linux.as_mut().unwrap().security_context.as_mut().unwrap()
    }

    fn build(&self) -> Result<Output> {
        let host = Host {
            cgroups: self.version,
            cgroup_mounts: vec![("memory".into(), "/sys/fs/cgroup/memory".into())],
            swap_limits: false,
            hostname: "node".into(),
            least_oom_score_adj: 0,
        };
        let pod = Pod { dir: "/pod".into(), hostname: "pod-name".into() };
        build(&Input {
            config: &self.config,
            image: &self.image,
            rootfs: &self.root,
            pod: &pod,
            host: &host,
            cgroup: "/c/kubepods/pod1/abc",
            target_pid: None,
        })
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| s.to_string()).collect()
}

#[test]
fn command_and_arguments_follow_kubernetes() {
    for (command, args, want) in [
        (&[][..], &[][..], &["/entry", "default"][..]),
        (&[], &["x"], &["/entry", "x"]),
        (&["/c"], &[], &["/c"]),
        (&["/c"], &["x"], &["/c", "x"]),
    ] {
        let mut case = Case::new("command");
        case.config.command = strings(command);
        case.config.args = strings(args);
        assert_eq!(case.build().unwrap().spec["process"]["args"], json!(want));
    }
}

#[test]
fn the_document_is_one_that_libcontainer_reads() {
    for version in [Version::V1, Version::V2] {
        let mut case = Case::new("whole");
        case.version = version;
        case.config.envs = vec![KeyValue { key: "B".into(), value: "pod=1".into() }];
        case.config.tty = true;
        let out = case.build().unwrap();
        let spec: oci_spec::runtime::Spec = serde_json::from_value(out.spec.clone()).unwrap();
        let env = spec.process().as_ref().unwrap().env().clone().unwrap();
        assert_eq!(env[1..], strings(&["HOSTNAME=pod-name", "TERM=xterm", "A=image", "B=pod=1"]));
        assert!(case.root.join("work/here").is_dir());
        assert!(!out.shares_pids);
        let kinds: Vec<_> = out.spec["linux"]["namespaces"]
            .as_array()
            .unwrap()
            .iter()
            .map(|n| n["type"].as_str().unwrap())
            .collect();
        assert_eq!(kinds.contains(&"cgroup"), version == Version::V2);
        assert!(kinds.contains(&"pid") && kinds.contains(&"network"));
    }
}

#[test]
fn mounts_asked_for_replace_defaults_and_come_after_their_parents() {
    let mut case = Case::new("mounts");
    let source = case.root.display().to_string();
    let ask =
        |path: &str| Mount { container_path: path.into(), host_path: source.clone(), ..Mount::default() };
    case.config.mounts = vec![ask("/data/inner"), ask("/data"), ask("/dev/shm"), ask("/etc/hosts/")];
    let out = case.build().unwrap();
    let places: Vec<&str> =
        out.spec["mounts"].as_array().unwrap().iter().map(|m| m["destination"].as_str().unwrap()).collect();
    let at = |path: &str| places.iter().position(|p| *p == path).unwrap();
    assert!(at("/data") < at("/data/inner") && at("/sys") < at("/sys/fs/cgroup"));
    for once in ["/dev/shm", "/etc/hosts"] {
        assert_eq!(places.iter().filter(|p| **p == once).count(), 1, "{once}");
    }
    assert!(out.spec["linux"]["readonlyPaths"].to_string().contains("/sys/fs/cgroup"));
}

#[test]
fn privileged_means_no_fences() {
    let mut case = Case::new("privileged");
    case.context().privileged = true;
    case.context().masked_paths = strings(&["/proc/kcore"]);
    let spec = case.build().unwrap().spec;
    assert_eq!(spec["linux"]["maskedPaths"], json!([]));
    assert_eq!(spec["linux"]["resources"]["devices"][0], json!({"allow": true, "access": "rwm"}));
}

#[test]
fn exec_runs_another_command_as_the_same_user() {
    let mut case = Case::new("exec");
    case.context().run_as_user = Some(k8s_cri::v1::Int64Value { value: 7 });
    let spec = case.build().unwrap().spec;
    let process = exec_process(&spec, &strings(&["ls", "-l"]), true);
    assert_eq!((&process["args"], &process["user"]["uid"]), (&json!(["ls", "-l"]), &json!(7)));
    assert!(has_variable(&process["env"], "TERM="));
    let _: HashMap<String, Value> = serde_json::from_value(process).unwrap();
}

/// A host without CAP_SYS_RESOURCE refuses -997, what a guaranteed pod asks for; the container starts with what it may have.
#[test]
fn oom_scores_stay_within_what_the_host_allows() {
    for (asked, given) in [(-997, 0), (0, 0), (1000, 1000)] {
        let mut case = Case::new(&format!("oom{asked}"));
        let resources = LinuxContainerResources { oom_score_adj: asked, ..Default::default() };
        case.config.linux.as_mut().unwrap().resources = Some(resources);
        assert_eq!(case.build().unwrap().spec["process"]["oomScoreAdj"], given, "{asked}");
    }
}
