//! The runtime as a kubelet sees it: a process that serves CRI, real containers, and nothing left behind.
//! Needs root and a static busybox on the host; without them the tests say so and pass over.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]
#![allow(clippy::large_futures, reason = "tests have stack enough")]

mod harness;

use std::time::Duration;

use harness::{Cluster, eventually};
use k8s_cri::v1 as cri;
use k8s_cri::v1::security_profile::ProfileType;
use k8s_cri::v1::{ContainerEventType, ContainerState, PodSandboxState};
use tonic::Code;

const RUNNING: i32 = ContainerState::ContainerRunning as i32;
const EXITED: i32 = ContainerState::ContainerExited as i32;

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_lives_and_leaves_nothing_behind() {
    let Some(mut cluster) = Cluster::start("live").await else { return };
    let mut events = cluster.cri.get_container_events(cri::GetEventsRequest {}).await.unwrap().into_inner();
    let pod = cluster.run_pod("web", |_| {}).await;
    let status = cluster.pod_status(&pod).await;
    assert_eq!(status.state, PodSandboxState::SandboxReady as i32);
    let ip = status.network.unwrap().ip;
    assert!(ip.parse::<std::net::Ipv4Addr>().is_ok(), "{ip:?}");

    let script = "echo to-out; echo to-err >&2; printf no-newline; exec sleep 1000";
    let id = cluster.run(&pod, "main", &["sh", "-c", script], |_| {}).await.unwrap();
    let running = cluster.status(&id).await;
    assert_eq!(running.state, RUNNING);
    assert!(running.started_at >= running.created_at && running.created_at > 0);
    let log = running.log_path.clone();
    // Two pipes are read in any order.
    let both = |text: &String| text.contains(" stdout F to-out\n") && text.contains(" stderr F to-err\n");
    eventually(|| std::fs::read_to_string(&log).ok().filter(both)).await;

    let out = cluster
        .exec(&id, &["sh", "-c", "hostname; cat /etc/hostname; id -u; echo oops >&2; exit 3"], 10)
        .await;
    let out = out.unwrap();
    assert_eq!((out.exit_code, out.stderr.as_slice()), (3, &b"oops\n"[..]));
    assert_eq!(String::from_utf8(out.stdout).unwrap(), "web\nweb\n0\n");
    let addresses = cluster.exec(&id, &["ip", "-o", "addr"], 10).await.unwrap();
    assert!(String::from_utf8_lossy(&addresses.stdout).contains(&ip));
    let missing = cluster.exec(&id, &["no-such-command"], 10).await.unwrap_err();
    assert!(
        missing.message().contains("\"no-such-command\": executable file not found in $PATH"),
        "{missing}"
    );
    let slow = cluster.exec(&id, &["sleep", "60"], 1).await.unwrap_err();
    assert_eq!(slow.code(), Code::DeadlineExceeded, "{slow}");

    std::fs::rename(&log, format!("{log}.1")).unwrap();
    let reopen = cri::ReopenContainerLogRequest { container_id: id.clone() };
    cluster.cri.reopen_container_log(reopen).await.unwrap();
    assert!(std::path::Path::new(&log).exists());

    let stats =
        cluster.cri.pod_sandbox_stats(cri::PodSandboxStatsRequest { pod_sandbox_id: pod.clone() }).await;
    let linux = stats.unwrap().into_inner().stats.unwrap().linux.unwrap();
    assert!(linux.containers[0].memory.as_ref().unwrap().working_set_bytes.unwrap().value > 0);
    assert_eq!(linux.network.unwrap().default_interface.unwrap().name, "eth0");

    // A first process without a handler does not hear SIGTERM: the grace period must end it.
    cluster.stop(&id, 1).await;
    let exited = cluster.status(&id).await;
    assert_eq!((exited.state, exited.exit_code, exited.reason.as_str()), (EXITED, 137, "Error"));
    assert_eq!(cluster.container_groups(), 0, "an ended container has no control group");
    assert!(exited.finished_at >= exited.started_at);
    cluster.stop(&id, 1).await;
    cluster.remove(&id).await;
    cluster.remove(&id).await;
    let gone = cluster
        .cri
        .container_status(cri::ContainerStatusRequest { container_id: id.clone(), verbose: false });
    assert_eq!(gone.await.unwrap_err().code(), Code::NotFound);

    let want = [
        (pod.as_str(), ContainerEventType::ContainerCreatedEvent),
        (pod.as_str(), ContainerEventType::ContainerStartedEvent),
        (id.as_str(), ContainerEventType::ContainerCreatedEvent),
        (id.as_str(), ContainerEventType::ContainerStartedEvent),
        (id.as_str(), ContainerEventType::ContainerStoppedEvent),
        (id.as_str(), ContainerEventType::ContainerDeletedEvent),
    ];
    for (id, kind) in want {
        let event = events.message().await.unwrap().unwrap();
        assert_eq!((event.container_id.as_str(), event.container_event_type()), (id, kind));
        assert!(event.pod_sandbox_status.is_some());
    }
    cluster.remove_pod(&pod).await;
    cluster.remove_pod(&pod).await;
    cluster.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_start_says_why() {
    let Some(mut cluster) = Cluster::start("fail").await else { return };
    let pod = cluster.run_pod("fails", |_| {}).await;
    for (command, words) in [
        (&["no-such-command"][..], "exec: \"no-such-command\": executable file not found in $PATH"),
        (&["/no/such/file"], "exec: \"/no/such/file\": stat /no/such/file: no such file or directory"),
        (&["/etc/passwd"], "exec: \"/etc/passwd\": permission denied"),
    ] {
        let id = cluster.create(&pod, "main", command, |_| {}).await.unwrap();
        let error = cluster.start_container(&id).await.unwrap_err();
        assert!(error.message().contains(words), "{error}");
        let status = cluster.status(&id).await;
        assert_eq!((status.state, status.exit_code, status.reason.as_str()), (EXITED, 128, "StartError"));
        assert!(status.message.contains(words), "{}", status.message);
        cluster.remove(&id).await;
    }
    let absent = cluster
        .create(&pod, "main", &["true"], |c| c.image.as_mut().unwrap().image = "absent:1".into())
        .await;
    assert_eq!(absent.unwrap_err().code(), Code::NotFound);
    let no_pod = cluster.create("feed", "main", &["true"], |_| {}).await;
    assert_eq!(no_pod.unwrap_err().code(), Code::NotFound);
    let file = cluster.create(&pod, "main", &["true"], |c| {
        c.mounts.push(cri::Mount {
            container_path: "/proc/bad".into(),
            host_path: "/tmp".into(),
            ..Default::default()
        });
    });
    let id = file.await.unwrap();
    let error = cluster.start_container(&id).await.unwrap_err();
    assert!(error.message().contains("/proc"), "the cause is told: {error}");
    cluster.remove_pod(&pod).await;
    cluster.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_a_read_only_volume() {
    let Some(mut cluster) = Cluster::start("imgvol").await else { return };
    let pod = cluster.run_pod("p", |_| {}).await;
    let with = |name: String| {
        move |c: &mut cri::ContainerConfig| {
            let image = cri::ImageSpec { image: name, ..Default::default() };
            let mount =
                cri::Mount { container_path: "/image".into(), image: Some(image), ..Default::default() };
            c.mounts.push(mount);
        }
    };
    let gone = cluster.create(&pod, "gone", &["true"], with("absent:1".into())).await;
    assert_eq!(gone.unwrap_err().code(), Code::NotFound);
    let look = "test -e /image/bin/sh && ! touch /image/x 2>/dev/null";
    let same = |c: &mut cri::ContainerConfig| {
        let own = c.image.as_ref().unwrap().image.clone();
        with(own)(c);
    };
    let id = cluster.run(&pod, "look", &["sh", "-c", look], same).await.unwrap();
    assert_eq!(cluster.exited(&id).await.exit_code, 0);
    cluster.remove_pod(&pod).await;
    cluster.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_and_the_oom_killer_is_named() {
    let Some(mut cluster) = Cluster::start("oom").await else { return };
    let pod = cluster.run_pod("hungry", |_| {}).await;
    let limit = |c: &mut cri::ContainerConfig| {
        c.linux.as_mut().unwrap().resources = Some(cri::LinuxContainerResources {
            memory_limit_in_bytes: 32 << 20,
            cpu_shares: 512,
            cpu_quota: 50_000,
            cpu_period: 100_000,
            oom_score_adj: 500,
            ..Default::default()
        });
    };
    let id = cluster.run(&pod, "eater", &["tail", "/dev/zero"], limit).await.unwrap();
    let status = cluster.exited(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
    let calm = cluster
        .run(&pod, "calm", &["sh", "-c", "cat /proc/self/oom_score_adj; exec sleep 1000"], limit)
        .await
        .unwrap();
    let more = cri::LinuxContainerResources { memory_limit_in_bytes: 64 << 20, ..Default::default() };
    let update = cri::UpdateContainerResourcesRequest {
        container_id: calm.clone(),
        linux: Some(more),
        ..Default::default()
    };
    cluster.cri.update_container_resources(update).await.unwrap();
    let resources = cluster.status(&calm).await.resources.unwrap().linux.unwrap();
    assert_eq!((resources.memory_limit_in_bytes, resources.cpu_shares), (64 << 20, 512));
    let shown = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null";
    let shown = cluster.exec(&calm, &["sh", "-c", shown], 10).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&shown.stdout).trim(), (64 << 20).to_string());
    let denied =
        "echo 1000000000 > /sys/fs/cgroup/memory/memory.limit_in_bytes || echo 1 > /sys/fs/cgroup/memory.max";
    assert_ne!(cluster.exec(&calm, &["sh", "-c", denied], 10).await.unwrap().exit_code, 0);
    cluster.remove_pod(&pod).await;
    cluster.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_outlive_the_runtime_and_are_found_again() {
    let Some(mut cluster) = Cluster::start("adopt").await else { return };
    let pod = cluster.run_pod("stays", |_| {}).await;
    let steady = cluster
        .run(&pod, "steady", &["sh", "-c", "while read x; do echo got $x; done"], |c| c.stdin = true)
        .await
        .unwrap();
    let shared = cluster.dir.path().join("shared").display().to_string();
    let mount = cri::Mount { container_path: "/shared".into(), host_path: shared, ..Default::default() };
    let script = "while [ ! -e /shared/go ]; do sleep 0.05; done; exit 7";
    let ends = cluster.run(&pod, "ends", &["sh", "-c", script], |c| c.mounts.push(mount)).await.unwrap();
    let waiting = cluster.create(&pod, "waiting", &["sleep", "1000"], |_| {}).await.unwrap();
    let before = cluster.status(&steady).await;

    cluster.kill_server();
    std::fs::write(cluster.dir.path().join("shared/go"), "").unwrap();
    let record = cluster.dir.path().join("containers").join(&ends).join("exit.json");
    eventually(|| record.exists().then_some(())).await;
    cluster.start_server().await;

    let after = cluster.status(&steady).await;
    assert_eq!((after.state, after.started_at), (RUNNING, before.started_at));
    let ended = cluster.status(&ends).await;
    assert_eq!((ended.state, ended.exit_code), (EXITED, 7));
    assert_eq!(cluster.pod_status(&pod).await.state, PodSandboxState::SandboxReady as i32);
    assert_eq!(cluster.exec(&steady, &["true"], 10).await.unwrap().exit_code, 0);
    cluster.start_container(&waiting).await.unwrap();
    // Its end is heard over the new connection to the old shim.
    cluster.stop(&steady, 0).await;
    assert_eq!(cluster.status(&steady).await.exit_code, 137);
    cluster.remove_pod(&pod).await;
    cluster.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_pid_namespace_needs_no_container() {
    let Some(mut cluster) = Cluster::start("pids").await else { return };
    let share = |linux: &mut cri::LinuxPodSandboxConfig| {
        let context = linux.security_context.as_mut().unwrap();
        context.namespace_options.as_mut().unwrap().pid = cri::NamespaceMode::Pod.into();
    };
    let pod = cluster.run_pod("shares", |c| share(c.linux.as_mut().unwrap())).await;
    let shared = |c: &mut cri::ContainerConfig| {
        let context = c.linux.as_mut().unwrap().security_context.as_mut().unwrap();
        context.namespace_options.as_mut().unwrap().pid = cri::NamespaceMode::Pod.into();
    };
    let one = cluster.run(&pod, "one", &["sh", "-c", "sleep 1001 & exec sleep 1000"], shared).await.unwrap();
    let two = cluster.run(&pod, "two", &["sleep", "2000"], shared).await.unwrap();
    let seen = cluster.exec(&two, &["ps"], 10).await.unwrap();
    let seen = String::from_utf8_lossy(&seen.stdout).into_owned();
    assert!(
        seen.contains("sleep 1000") && seen.contains("sleep 1001") && seen.contains("sleep 2000"),
        "{seen}"
    );
    cluster.stop(&one, 0).await;
    // Killed is not yet gone.
    let until = std::time::Instant::now() + Duration::from_secs(120);
    loop {
        let seen = cluster.exec(&two, &["ps"], 10).await.unwrap();
        let seen = String::from_utf8_lossy(&seen.stdout).into_owned();
        assert!(seen.contains("sleep 2000"), "the other container goes on: {seen}");
        if !seen.contains("sleep 1001") {
            break;
        }
        assert!(std::time::Instant::now() < until, "the rest of a container ends with it: {seen}");
    }
    cluster.remove_pod(&pod).await;
    cluster.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn security_settings_reach_the_process() {
    let Some(mut cluster) = Cluster::start("fence").await else { return };
    let pod = cluster.run_pod("fenced", |_| {}).await;
    let id = cluster
        .run(&pod, "main", &["sleep", "1000"], |c| {
            let context = c.linux.as_mut().unwrap().security_context.as_mut().unwrap();
            context.run_as_user = Some(cri::Int64Value { value: 1234 });
            context.run_as_group = Some(cri::Int64Value { value: 99 });
            context.supplemental_groups = vec![555];
            context.readonly_rootfs = true;
            context.no_new_privs = true;
            context.masked_paths = vec!["/proc/kcore".into(), "/sys/firmware".into()];
            context.capabilities =
                Some(cri::Capability { drop_capabilities: vec!["ALL".into()], ..Default::default() });
            c.working_dir = "/made/here".into();
            c.envs = vec![cri::KeyValue { key: "GREETING".into(), value: "a b=c".into() }];
        })
        .await
        .unwrap();
    let script =
        "id -u; id -g; id -G; pwd; echo $GREETING; grep -E 'CapBnd|NoNewPrivs' /proc/1/status; touch /x";
    let out = cluster.exec(&id, &["sh", "-c", script], 10).await.unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    assert_eq!(
        text,
        "1234\n99\n99 555\n/made/here\na b=c\nCapBnd:\t0000000000000000\nNoNewPrivs:\t1\n",
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    assert!(String::from_utf8_lossy(&out.stderr).contains("Read-only file system"));
    let users = cluster.status(&id).await.user.unwrap().linux.unwrap();
    assert_eq!((users.uid, users.gid), (1234, 99));
    cluster.remove_pod(&pod).await;
    cluster.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn system_call_filters_hold_for_the_program_and_for_exec() {
    let Some(mut cluster) = Cluster::start("calls").await else { return };
    let pod = cluster.run_pod("calls", |_| {}).await;
    let profile = cluster.dir.path().join("profile.json");
    let text = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_ERRNO","errnoRet":5}]}"#;
    std::fs::write(&profile, text).unwrap();
    let local = profile.display().to_string();
    for (kind, reference, no_new_privs, mkdir_fails) in [
        (ProfileType::Unconfined, "", false, false),
        (ProfileType::RuntimeDefault, "", false, false),
        (ProfileType::RuntimeDefault, "", true, false),
        (ProfileType::Localhost, local.as_str(), false, true),
    ] {
        let name = format!("{kind:?}-{no_new_privs}").to_lowercase();
        let filtered = |c: &mut cri::ContainerConfig| {
            let context = c.linux.as_mut().unwrap().security_context.as_mut().unwrap();
            let profile =
                cri::SecurityProfile { profile_type: kind.into(), localhost_ref: reference.to_owned() };
            context.seccomp = Some(profile);
            context.no_new_privs = no_new_privs;
        };
        let id = cluster.run(&pod, &name, &["sleep", "1000"], filtered).await.unwrap();
        let script = "grep -E '^(Seccomp|CapEff|CapBnd):' /proc/1/status; mkdir /tmp/x && echo made; unshare -U true && echo unshared";
        let out = cluster.exec(&id, &["sh", "-c", script], 10).await.unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let confined = kind != ProfileType::Unconfined;
        assert!(text.contains(if confined { "Seccomp:\t2" } else { "Seccomp:\t0" }), "{name}: {text}");
        assert_eq!(text.contains("made"), !mkdir_fails, "{name}: {text}");
        assert_eq!(text.contains("unshared"), kind != ProfileType::RuntimeDefault, "{name}: {text}");
        // What installing took has been given back: the default set, without CAP_SYS_ADMIN.
        assert!(
            text.contains("CapEff:\t00000000a80425fb") && text.contains("CapBnd:\t00000000a80425fb"),
            "{text}"
        );
    }
    let absent = cluster.create(&pod, "absent", &["true"], |c| {
        let context = c.linux.as_mut().unwrap().security_context.as_mut().unwrap();
        let profile = cri::SecurityProfile {
            profile_type: ProfileType::Localhost.into(),
            localhost_ref: "/none".into(),
        };
        context.seccomp = Some(profile);
    });
    assert!(absent.await.unwrap_err().message().contains("seccomp profile: /none"));
    cluster.remove_pod(&pod).await;
    cluster.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_harmless_devices_can_be_used() {
    let Some(mut cluster) = Cluster::start("devs").await else { return };
    let pod = cluster.run_pod("devices", |_| {}).await;
    let plain = cluster.run(&pod, "plain", &["sleep", "1000"], |_| {}).await.unwrap();
    let given = |c: &mut cri::ContainerConfig| {
        let (container_path, host_path) = ("/dev/given".into(), "/dev/kmsg".into());
        c.devices.push(cri::Device { container_path, host_path, permissions: "rw".into() });
    };
    let given = cluster.run(&pod, "given", &["sleep", "1000"], given).await.unwrap();
    for (id, script, works) in [
        (&plain, "mknod /tmp/n c 1 3 && echo x > /tmp/n && head -c 8 /dev/urandom > /dev/null", true),
        (&plain, "mknod /tmp/k c 1 11 && echo x > /tmp/k", false),
        (&given, "echo x > /dev/given", true),
    ] {
        let out = cluster.exec(id, &["sh", "-c", script], 10).await.unwrap();
        assert_eq!(out.exit_code == 0, works, "{script}: {}", String::from_utf8_lossy(&out.stderr));
    }
    cluster.remove_pod(&pod).await;
    cluster.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_can_be_shared_on_purpose() {
    let Some(mut cluster) = Cluster::start("host").await else { return };
    let node = cri::NamespaceMode::Node.into();
    let options = cri::NamespaceOption { network: node, pid: node, ipc: node, ..Default::default() };
    let host = Some(options);
    let pod = cluster.run_pod("host", |c| {
        let context = c.linux.as_mut().unwrap().security_context.as_mut().unwrap();
        context.namespace_options = host.clone();
        c.hostname = String::new();
    });
    let pod = pod.await;
    let ready = cluster.pod_status(&pod).await;
    assert_eq!(ready.network.unwrap().ip, "", "the kubelet knows the node's address");
    let privileged = |c: &mut cri::ContainerConfig| {
        let context = c.linux.as_mut().unwrap().security_context.as_mut().unwrap();
        context.namespace_options = host.clone();
        context.privileged = true;
    };
    let id =
        cluster.run(&pod, "main", &["sh", "-c", "sleep 1001 & exec sleep 1000"], privileged).await.unwrap();
    let script = "for n in net uts pid; do readlink /proc/self/ns/$n; done; [ -e /dev/kmsg ] && grep CapEff /proc/self/status";
    let out = cluster.exec(&id, &["sh", "-c", script], 10).await.unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    for kind in ["net", "uts", "pid"] {
        let own = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        assert!(text.contains(own.to_str().unwrap()), "{kind}: {text}");
    }
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let all = own.lines().find(|line| line.starts_with("CapEff")).unwrap();
    assert!(text.contains(all), "all that we have, {all}: {text}");
    // With the host's processes in sight, the container's group says which ones end with it.
    let use_kmsg = "mknod /tmp/k c 1 11 && echo seen > /tmp/k";
    assert_eq!(cluster.exec(&id, &["sh", "-c", use_kmsg], 10).await.unwrap().exit_code, 0, "all devices");
    cluster.stop(&id, 0).await;
    assert_eq!(cluster.container_groups(), 0);
    cluster.remove_pod(&pod).await;
    cluster.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_the_runtime_waits_for_no_listener_and_cleaning_up_leaves_nothing() {
    let Some(mut cluster) = Cluster::start("down").await else { return };
    let mut events = cluster.cri.get_container_events(cri::GetEventsRequest {}).await.unwrap().into_inner();
    let pod = cluster.run_pod("stays", |_| {}).await;
    cluster.run(&pod, "main", &["sleep", "1000"], |_| {}).await.unwrap();
    // If it waited for the listener, this would not come back.
    cluster.terminate_server();
    while let Ok(Some(_)) = events.message().await {}
    cluster.clean();
    cluster.assert_clean().await;
    assert!(!cluster.has_leftovers());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_whose_shim_is_killed_is_reported_and_gone() {
    let Some(mut cluster) = Cluster::start("lost").await else { return };
    let pod = cluster.run_pod("lost", |_| {}).await;
    let id = cluster.run(&pod, "main", &["sleep", "1000"], |_| {}).await.unwrap();
    for shim in cluster.watching_shims().await {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim), nix::sys::signal::Signal::SIGKILL).unwrap();
    }
    let status = cluster.exited(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (255, "Unknown"));
    assert_eq!(cluster.container_groups(), 0, "its processes are gone, too");
    cluster.remove_pod(&pod).await;
    cluster.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_the_runtime_leaves_only_what_remove_removes() {
    let Some(mut cluster) = Cluster::start("crash").await else { return };
    for round in 0..16u64 {
        let mut own = cluster.handle();
        let work = tokio::spawn(async move {
            let pod = own.try_run_pod(&format!("pod{round}")).await?;
            let id = own.run(&pod, "main", &["sleep", "1000"], |_| {}).await?;
            own.cri.remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id: pod }).await?;
            Ok::<_, tonic::Status>(id)
        });
        // Spread over the whole of such a life, which takes about 100 ms.
        tokio::time::sleep(Duration::from_millis(round * 9)).await;
        cluster.kill_server();
        let _ = work.await.unwrap();
        cluster.start_server().await;
    }
    let pods =
        cluster.cri.list_pod_sandbox(cri::ListPodSandboxRequest { filter: None }).await.unwrap().into_inner();
    for pod in pods.items {
        cluster.remove_pod(&pod.id).await;
    }
    let left =
        cluster.cri.list_containers(cri::ListContainersRequest { filter: None }).await.unwrap().into_inner();
    for container in left.containers {
        cluster.remove(&container.id).await;
    }
    cluster.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once() {
    let Some(cluster) = Cluster::start("many").await else { return };
    let cluster = std::sync::Arc::new(cluster);
    let mut tasks = tokio::task::JoinSet::new();
    for index in 0..10 {
        let mut own = cluster.handle();
        tasks.spawn(async move {
            let begun = std::time::Instant::now();
            let pod = own.run_pod(&format!("pod{index}"), |_| {}).await;
            let id = own.run(&pod, "main", &["sleep", "1000"], |_| {}).await.unwrap();
            let took = begun.elapsed();
            assert_eq!(own.exec(&id, &["true"], 60).await.unwrap().exit_code, 0);
            own.remove_pod(&pod).await;
            took
        });
    }
    let mut all: Vec<Duration> = tasks.join_all().await;
    all.sort();
    eprintln!("10 pods at once: {all:?}");
    cluster.handle().assert_clean().await;
}
