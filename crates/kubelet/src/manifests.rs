//! Static pods: pods that a file on the node describes (`--pod-manifest-path`), which run without an API.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Toleration};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use sha2::{Digest, Sha256};
use tokio::io::unix::AsyncFd;

use crate::host::Host;
use crate::labels;
use crate::pod::manager::Manager;
use crate::pod::spec;

/// How often the directory is read although the kernel told of no change: it may have come to be only now, or lie where the
/// kernel sees no changes (upstream's fileCheckFrequency).
const LOOK_AGAIN: Duration = Duration::from_secs(20);
/// Pause after a change, so that a file that is being written is read once.
const SETTLE: Duration = Duration::from_millis(100);
/// Largest manifest, in bytes.
const MAX_MANIFEST: u64 = 1 << 20;
/// Digits of a static pod's uid.
const UID_DIGITS: usize = 32;

/// Namespace and name.
type Name = (String, String);

/// Makes the node run what the files below `path` say, until the kubelet stops.
pub async fn run(host: Arc<Host>, manager: Manager, path: PathBuf) {
    let mut source =
        Source { host: host.clone(), manager, path, files: BTreeMap::new(), placed: BTreeMap::new() };
    let mut changes = Changes::of(&source.path);
    loop {
        source.read();
        source.follow();
        tokio::select! {
            () = changes.next() => {}
            () = source.manager.some_ended() => {}
            () = tokio::time::sleep(LOOK_AGAIN) => changes = Changes::of(&source.path),
            () = host.stop.cancelled() => return,
        }
    }
}

struct Source {
    host: Arc<Host>,
    manager: Manager,
    path: PathBuf,
    /// What each file says; the last good reading of one that cannot be read now.
    files: BTreeMap<PathBuf, Arc<Pod>>,
    /// Pods handed to the manager and not gone yet, with their uids.
    placed: BTreeMap<Name, String>,
}

impl Source {
    fn read(&mut self) {
        let node = self.host.config.node_name.clone();
        let found = manifests(&self.path);
        self.files.retain(|file, _| found.contains(file));
        for file in found {
            match load(&file, &node) {
                Ok(pod) => drop(self.files.insert(file, Arc::new(pod))),
                Err(why) => tracing::warn!(file = %file.display(), why, "not a pod manifest"),
            }
        }
    }

    /// Ends pods whose file has gone or changed; starts those whose name is free.
    fn follow(&mut self) {
        let wanted: BTreeMap<Name, Arc<Pod>> =
            self.files.values().map(|pod| (name(pod), pod.clone())).collect();
        let manager = &self.manager;
        self.placed.retain(|_, uid| manager.has(uid));
        for (name, uid) in &self.placed {
            if wanted.get(name).is_none_or(|pod| spec::uid(pod) != uid) {
                manager.displace(uid);
            }
        }
        for (name, pod) in wanted {
            if let Entry::Vacant(free) = self.placed.entry(name) {
                free.insert(spec::uid(&pod).to_owned());
                manager.place(pod);
            }
        }
    }
}

fn name(pod: &Pod) -> Name {
    (spec::namespace(pod).to_owned(), spec::name(pod).to_owned())
}

/// The file itself, or the files in the directory but hidden ones.
fn manifests(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let hidden = |file: &Path| file.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
    let entries = fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> = entries.filter(|file| file.is_file() && !hidden(file)).collect();
    files.sort();
    files
}

fn load(file: &Path, node: &str) -> Result<Pod, String> {
    let size = fs::metadata(file).map_err(|error| error.to_string())?.len();
    if size > MAX_MANIFEST {
        return Err(format!("{size} bytes are too many"));
    }
    let text = fs::read_to_string(file).map_err(|error| error.to_string())?;
    parse(&text, &file.to_string_lossy(), node)
}

/// By way of JSON: a reader of typed objects for each format would be megabytes of program.
fn read(text: &str) -> Result<Pod, String> {
    let tree: serde_json::Value = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    let json = serde_json::to_vec(&tree).map_err(|error| error.to_string())?;
    serde_json::from_slice(&json).map_err(|error| error.to_string())
}

/// A pod from YAML or JSON, with what upstream's kubelet adds: its name ends with the node's, its uid is a hash of all that
/// it says and where, annotations tell where it came from, and no taint drives it away.
fn parse(text: &str, file: &str, node: &str) -> Result<Pod, String> {
    let mut pod = read(text)?;
    let name = pod.metadata.name.clone().filter(|name| !name.is_empty()).ok_or("it has no name")?;
    let spec = pod.spec.as_mut().filter(|spec| !spec.containers.is_empty()).ok_or("it has no containers")?;
    spec.node_name = Some(node.to_owned());
    spec.tolerations.get_or_insert_default().push(Toleration {
        operator: Some("Exists".to_owned()),
        effect: Some("NoExecute".to_owned()),
        ..Toleration::default()
    });
    let meta = &mut pod.metadata;
    meta.name = Some(format!("{name}-{}", node.to_lowercase()));
    meta.namespace.get_or_insert_with(|| "default".to_owned());
    let said = serde_json::to_string(&(&pod.metadata, &pod.spec)).map_err(|error| error.to_string())?;
    let hash = format!("{:x}", Sha256::digest(format!("{node}\n{file}\n{said}")));
    let uid = pod.metadata.uid.clone().filter(|uid| !uid.is_empty());
    let uid = uid.unwrap_or_else(|| hash[..UID_DIGITS].to_owned());
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(labels::CONFIG_SOURCE.to_owned(), "file".to_owned());
    annotations.insert(labels::CONFIG_HASH.to_owned(), uid.clone());
    pod.metadata.uid = Some(uid);
    pod.status = None;
    Ok(pod)
}

/// The kernel's word that something in a directory has changed.
struct Changes(Option<AsyncFd<Watched>>);

struct Watched(Inotify);

impl AsRawFd for Watched {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Changes {
    /// Without a directory there are no changes.
    fn of(path: &Path) -> Self {
        Self(Self::open(path).ok())
    }

    fn open(path: &Path) -> std::io::Result<AsyncFd<Watched>> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let kinds = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE;
        inotify.add_watch(path, kinds)?;
        // `register` is unsafe for descriptors that may be closed behind its back; an `Inotify`'s cannot be.
        #[allow(deprecated)]
        AsyncFd::new(Watched(inotify))
    }

    async fn next(&mut self) {
        let Some(watched) = &self.0 else { return std::future::pending().await };
        let Ok(mut guard) = watched.readable().await else { return std::future::pending().await };
        tokio::time::sleep(SETTLE).await;
        while watched.get_ref().0.read_events().is_ok_and(|events| !events.is_empty()) {}
        guard.clear_ready();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\n  namespace: kube-system\nspec:\n  containers:\n  - name: c\n    image: i\n";

    #[test]
    fn manifests_become_pods_of_this_node() {
        let pod = parse(MANIFEST, "/etc/web.yaml", "N1").unwrap();
        assert_eq!((spec::name(&pod), spec::namespace(&pod)), ("web-n1", "kube-system"));
        assert!(spec::is_static(&pod) && !spec::is_mirror(&pod));
        assert_eq!(spec::annotation(&pod, labels::CONFIG_HASH), Some(spec::uid(&pod)));
        assert_eq!(spec::uid(&pod).len(), UID_DIGITS);
        assert_eq!(parse(MANIFEST, "/etc/web.yaml", "N1").unwrap(), pod, "the same file is the same pod");
        let changed = parse(&MANIFEST.replace("image: i", "image: j"), "/etc/web.yaml", "N1").unwrap();
        assert_ne!(spec::uid(&changed), spec::uid(&pod));
        for bad in [
            "",
            "{",
            "kind: Pod\nspec: {containers: [{name: c}]}",
            "metadata: {name: a}\nspec: {containers: []}",
        ] {
            assert!(parse(bad, "f", "n").is_err(), "{bad}");
        }
    }

    #[test]
    fn hidden_files_are_none() {
        let dir = tempfile::tempdir().unwrap();
        for file in ["b.yaml", ".a.yaml", "a.json"] {
            fs::write(dir.path().join(file), "").unwrap();
        }
        fs::create_dir(dir.path().join("sub")).unwrap();
        assert_eq!(manifests(dir.path()), [dir.path().join("a.json"), dir.path().join("b.yaml")]);
        assert_eq!(manifests(&dir.path().join("none")), Vec::<PathBuf>::new());
    }
}
