//! A runtime of one's own for a test: own name, own addresses, own directory, all gone at the end.
#![allow(dead_code)] // each test binary uses its part

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use corten_runtime::image::{ImageStore, StoreConfig};
use corten_sys::cgroups::{Cgroups, HostCgroups};
use corten_sys::mounts::{HostMounts, Mounts};
use k8s_cri::v1 as cri;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use sha2::{Digest, Sha256};
use tonic::Status;
use tonic::transport::Channel;

/// How long anything may take before the test fails; only ever used up by failures.
const PATIENCE: Duration = Duration::from_secs(120);
const IMAGE: &str = "test.local/busybox:1";

/// More than a program has tests.
const RANGES: u32 = 32;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Asks again and again until there is an answer.
pub async fn eventually<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < until, "waited in vain");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A client of one running runtime.
#[derive(Clone)]
pub struct Handle {
    pub cri: RuntimeServiceClient<Channel>,
    pub dir: Arc<tempfile::TempDir>,
    name: String,
    cidr: String,
}

/// The runtime; stopped and cleaned up when dropped.
pub struct Cluster {
    handle: Handle,
    server: Option<Child>,
}

impl std::ops::Deref for Cluster {
    type Target = Handle;
    fn deref(&self) -> &Handle {
        &self.handle
    }
}

impl std::ops::DerefMut for Cluster {
    fn deref_mut(&mut self) -> &mut Handle {
        &mut self.handle
    }
}

impl Cluster {
    /// `None` (with a word on stderr) where the host cannot run containers.
    pub async fn start(kind: &str) -> Option<Self> {
        let busybox = Path::new("/bin/busybox");
        if !nix::unistd::geteuid().is_root() || !busybox.exists() {
            eprintln!("passed over: needs root and /bin/busybox (package busybox-static)");
            return None;
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // A kind is one test's of a program; ranges are told apart by the number, for its tests run side by side.
        let pid = std::process::id();
        let name = format!("{kind}{}", pid % 10_000);
        let cidr = format!("10.{}.{}.0/24", 100 + pid % 100, (pid / 100 * RANGES + number) % 256);
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let images =
            ImageStore::open(StoreConfig { dir: dir.path().join("images"), insecure_registries: vec![] });
        let tar = dir.path().join("image.tar");
        write_image(&tar, &std::fs::read(busybox).unwrap());
        images.unwrap().import(&tar, Some(IMAGE)).unwrap();
        let cri = RuntimeServiceClient::new(channel(&dir.path().join("cri.sock")));
        let mut cluster = Self { handle: Handle { cri, dir, name, cidr }, server: None };
        cluster.start_server().await;
        Some(cluster)
    }

    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    pub async fn start_server(&mut self) {
        let mut command = self.handle.program("serve");
        self.server = Some(command.stdout(Stdio::null()).spawn().unwrap());
        let until = Instant::now() + PATIENCE;
        while self.handle.cri.version(cri::VersionRequest::default()).await.is_err() {
            assert!(Instant::now() < until, "the runtime does not come up");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// SIGTERM, and the wait for the end.
    pub fn terminate_server(&mut self) {
        if let Some(mut server) = self.server.take() {
            let pid = nix::unistd::Pid::from_raw(server.id() as i32);
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
            assert!(server.wait().unwrap().success());
        }
    }

    /// SIGKILL: the runtime gets no chance to tidy up.
    pub fn kill_server(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().unwrap();
            server.wait().unwrap();
        }
        let socket = self.handle.dir.path().join("cri.sock");
        self.handle.cri = RuntimeServiceClient::new(channel(&socket));
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
        let _ = self.handle.program("clean").status();
        let _ = HostMounts.unmount_below(self.handle.dir.path());
    }
}

fn channel(socket: &Path) -> Channel {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move {
            Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(
                tokio::net::UnixStream::connect(socket).await?,
            ))
        }
    });
    tonic::transport::Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector)
}

impl Handle {
    fn program(&self, what: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_corten-cri"));
        command.arg(what).arg(self.dir.path()).arg(&self.name).arg(&self.cidr);
        command
    }

    pub async fn run_pod(&mut self, name: &str, change: impl FnOnce(&mut cri::PodSandboxConfig)) -> String {
        let config = self.pod_config(name, change);
        let request = cri::RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() };
        self.cri.run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id
    }

    pub async fn try_run_pod(&mut self, name: &str) -> Result<String, Status> {
        let config = self.pod_config(name, |_| {});
        let request = cri::RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() };
        Ok(self.cri.run_pod_sandbox(request).await?.into_inner().pod_sandbox_id)
    }

    fn pod_config(
        &self,
        name: &str,
        change: impl FnOnce(&mut cri::PodSandboxConfig),
    ) -> cri::PodSandboxConfig {
        let options =
            cri::NamespaceOption { pid: cri::NamespaceMode::Container.into(), ..Default::default() };
        let context =
            cri::LinuxSandboxSecurityContext { namespace_options: Some(options), ..Default::default() };
        let mut config = cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata {
                name: name.into(),
                uid: format!("uid-{name}"),
                namespace: "default".into(),
                attempt: 0,
            }),
            hostname: name.into(),
            log_directory: self.dir.path().join("logs").join(name).display().to_string(),
            linux: Some(cri::LinuxPodSandboxConfig {
                cgroup_parent: format!("/{}/kubepods/pod{name}", self.name),
                security_context: Some(context),
                ..Default::default()
            }),
            ..Default::default()
        };
        change(&mut config);
        config
    }

    pub async fn create(
        &mut self,
        pod: &str,
        name: &str,
        command: &[&str],
        change: impl FnOnce(&mut cri::ContainerConfig),
    ) -> Result<String, Status> {
        let options =
            cri::NamespaceOption { pid: cri::NamespaceMode::Container.into(), ..Default::default() };
        let context =
            cri::LinuxContainerSecurityContext { namespace_options: Some(options), ..Default::default() };
        let mut config = cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata { name: name.into(), attempt: 0 }),
            image: Some(cri::ImageSpec { image: IMAGE.into(), ..Default::default() }),
            command: command.iter().map(|w| w.to_string()).collect(),
            log_path: format!("{name}.log"),
            linux: Some(cri::LinuxContainerConfig { security_context: Some(context), resources: None }),
            ..Default::default()
        };
        change(&mut config);
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: pod.into(),
            config: Some(config),
            sandbox_config: None,
        };
        Ok(self.cri.create_container(request).await?.into_inner().container_id)
    }

    pub async fn start_container(&mut self, id: &str) -> Result<(), Status> {
        let request = cri::StartContainerRequest { container_id: id.into() };
        self.cri.start_container(request).await.map(drop)
    }

    pub async fn run(
        &mut self,
        pod: &str,
        name: &str,
        command: &[&str],
        change: impl FnOnce(&mut cri::ContainerConfig),
    ) -> Result<String, Status> {
        let id = self.create(pod, name, command, change).await?;
        self.start_container(&id).await.map(|()| id)
    }

    pub async fn exec(
        &mut self,
        id: &str,
        command: &[&str],
        timeout: i64,
    ) -> Result<cri::ExecSyncResponse, Status> {
        let cmd = command.iter().map(|w| w.to_string()).collect();
        let request = cri::ExecSyncRequest { container_id: id.into(), cmd, timeout };
        Ok(self.cri.exec_sync(request).await?.into_inner())
    }

    pub async fn stop(&mut self, id: &str, timeout: i64) {
        let request = cri::StopContainerRequest { container_id: id.into(), timeout };
        self.cri.stop_container(request).await.unwrap();
    }

    pub async fn remove(&mut self, id: &str) {
        let request = cri::RemoveContainerRequest { container_id: id.into() };
        self.cri.remove_container(request).await.unwrap();
    }

    pub async fn status(&mut self, id: &str) -> cri::ContainerStatus {
        let request = cri::ContainerStatusRequest { container_id: id.into(), verbose: false };
        self.cri.container_status(request).await.unwrap().into_inner().status.unwrap()
    }

    pub async fn exited(&mut self, id: &str) -> cri::ContainerStatus {
        let until = Instant::now() + PATIENCE;
        loop {
            let status = self.status(id).await;
            if status.state() == cri::ContainerState::ContainerExited {
                return status;
            }
            assert!(Instant::now() < until, "the container does not end");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn pod_status(&mut self, id: &str) -> cri::PodSandboxStatus {
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: false };
        self.cri.pod_sandbox_status(request).await.unwrap().into_inner().status.unwrap()
    }

    pub async fn remove_pod(&mut self, id: &str) {
        let stop = cri::StopPodSandboxRequest { pod_sandbox_id: id.into() };
        self.cri.stop_pod_sandbox(stop).await.unwrap();
        let remove = cri::RemovePodSandboxRequest { pod_sandbox_id: id.into() };
        self.cri.remove_pod_sandbox(remove).await.unwrap();
    }

    /// Removes everything, as `make down` does.
    pub fn clean(&self) {
        assert!(self.program("clean").status().unwrap().success());
    }

    /// Whether the bridge or the control group root of this runtime is on the host.
    pub fn has_leftovers(&self) -> bool {
        let bridge = format!("/sys/class/net/{}0", self.name);
        Path::new(&bridge).exists() || HostCgroups::detect().unwrap().exists(&format!("/{}", self.name))
    }

    /// How many control groups of containers there are.
    pub fn container_groups(&self) -> usize {
        let cgroups = HostCgroups::detect().unwrap();
        let pods = format!("/{}/kubepods", self.name);
        let children = |path: &str| cgroups.children(path).unwrap_or_default();
        children(&pods).iter().map(|pod| children(&format!("{pods}/{pod}")).len()).sum()
    }

    /// No mounts, records, control groups of containers, interfaces or shims are left.
    pub async fn assert_clean(&mut self) {
        let dir = self.dir.path();
        assert_eq!(HostMounts.mounts_below(dir).unwrap(), Vec::<std::path::PathBuf>::new());
        for part in ["sandboxes", "containers"] {
            let left: Vec<_> =
                std::fs::read_dir(dir.join(part)).unwrap().flatten().map(|e| e.path()).collect();
            assert!(left.is_empty(), "{left:?}");
        }
        assert_eq!(self.container_groups(), 0);
        eventually(|| self.shims().is_empty().then_some(())).await;
    }

    /// The pids of this runtime's shims.
    pub fn shims(&self) -> Vec<i32> {
        self.processes("shim")
    }

    /// Shims in their second life. A shim becomes one by exec just after it reported the start, and has no command line
    /// at that moment.
    pub async fn watching_shims(&self) -> Vec<i32> {
        eventually(|| Some(self.processes("watch")).filter(|shims| !shims.is_empty())).await
    }

    /// Processes of this cluster with a word in their command line.
    fn processes(&self, word: &str) -> Vec<i32> {
        let mine = self.dir.path().display().to_string();
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let found = processes.filter(|process| {
            let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            line.contains(word) && line.contains(&mine)
        });
        found.filter_map(|process| process.file_name().to_str()?.parse().ok()).collect()
    }
}

/// An OCI layout in a tar file: one layer with busybox under all its usual names.
fn write_image(path: &Path, busybox: &[u8]) {
    let layer = layer(busybox);
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux",
        "config": {"Env": ["PATH=/usr/bin:/bin"], "Cmd": ["sh"], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
        "history": []
    });
    let config = config.to_string().into_bytes();
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)]
    });
    let manifest = manifest.to_string().into_bytes();
    let index = serde_json::json!({
        "schemaVersion": 2,
        "manifests": [descriptor("application/vnd.oci.image.manifest.v1+json", &manifest)]
    });
    let mut tar = tar::Builder::new(std::fs::File::create(path).unwrap());
    add(&mut tar, "oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#);
    add(&mut tar, "index.json", 0o644, index.to_string().as_bytes());
    for blob in [&layer, &config, &manifest] {
        add(&mut tar, &format!("blobs/sha256/{}", &digest(blob)[7..]), 0o644, blob);
    }
    tar.finish().unwrap();
}

fn layer(busybox: &[u8]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for dir in ["bin/", "etc/", "tmp/", "proc/", "sys/", "dev/", "root/"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(if dir == "tmp/" { 0o1777 } else { 0o755 });
        header.set_size(0);
        tar.append_data(&mut header, dir, std::io::empty()).unwrap();
    }
    add(&mut tar, "bin/busybox", 0o755, busybox);
    add(&mut tar, "etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n");
    add(&mut tar, "etc/group", 0o644, b"root:x:0:\n");
    let names = "sh sleep cat echo ls id hostname ip ps tail head touch pwd grep true false printf env nc stty mkdir kill unshare tty httpd readlink mknod";
    for name in names.split(' ') {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_mode(0o777);
        header.set_size(0);
        tar.append_link(&mut header, format!("bin/{name}"), "busybox").unwrap();
    }
    tar.into_inner().unwrap()
}

fn add(tar: &mut tar::Builder<impl std::io::Write>, name: &str, mode: u32, bytes: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_size(bytes.len() as u64);
    tar.append_data(&mut header, name, bytes).unwrap();
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

fn descriptor(kind: &str, bytes: &[u8]) -> serde_json::Value {
    serde_json::json!({"mediaType": kind, "digest": digest(bytes), "size": bytes.len()})
}
