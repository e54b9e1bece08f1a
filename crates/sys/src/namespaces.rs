//! Namespaces that live without a process: made on a throw-away thread, pinned by a bind mount.
//!
//! `unshare` and `setns` change the calling thread only (for net, ipc and uts), so everything here runs
//! on a thread of its own that ends afterwards: no other code ever sees a changed namespace.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::statfs;

use crate::error::{Context, Error, Result};

/// `NSFS_MAGIC`: the file system that namespace files belong to.
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// A kind of namespace that a thread can enter by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Network: interfaces, routes, sockets, nftables.
    Net,
    /// System V IPC and POSIX message queues.
    Ipc,
    /// Host name.
    Uts,
}

impl Kind {
    /// File name below `/proc/<pid>/ns`, also used as the name of the pin.
    pub fn file_name(self) -> &'static str {
        match self {
            Kind::Net => "net",
            Kind::Ipc => "ipc",
            Kind::Uts => "uts",
        }
    }

    fn flag(self) -> CloneFlags {
        match self {
            Kind::Net => CloneFlags::CLONE_NEWNET,
            Kind::Ipc => CloneFlags::CLONE_NEWIPC,
            Kind::Uts => CloneFlags::CLONE_NEWUTS,
        }
    }
}

/// Makes new namespaces of `kinds` and pins each as `<dir>/<net|ipc|uts>`. `setup` runs inside them
/// (host name, sysctls) before they are pinned. On error nothing stays pinned.
pub fn create_pinned(kinds: &[Kind], dir: &Path, setup: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    let flags = kinds.iter().fold(CloneFlags::empty(), |all, kind| all | kind.flag());
    fs::create_dir_all(dir).doing(|| format!("create {}", dir.display()))?;
    let made = on_thread(|| {
        unshare(flags).doing(|| format!("unshare {flags:?}"))?;
        setup()?;
        kinds.iter().try_for_each(|kind| pin(*kind, &dir.join(kind.file_name())))
    });
    if made.is_err() {
        for kind in kinds {
            let _ = unpin(&dir.join(kind.file_name()));
        }
    }
    made
}

/// Runs `work` on a new thread that has entered the namespace file at `path`.
pub fn run_in<T: Send>(kind: Kind, path: &Path, work: impl FnOnce() -> T + Send) -> Result<T> {
    let file = File::open(path).doing(|| format!("open namespace {}", path.display()))?;
    on_thread(move || {
        setns(&file, kind.flag()).doing(|| format!("enter namespace {}", path.display()))?;
        Ok(work())
    })
}

/// Runs `work` on a new thread inside the network namespace at `path`.
pub fn run_in_netns<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> Result<T> {
    run_in(Kind::Net, path, work)
}

/// Binds a namespace of another process (`/proc/<pid>/ns/<name>`) to `target`, so that it outlives the path.
pub fn pin_path(source: &Path, target: &Path) -> Result<()> {
    File::create(target).doing(|| format!("create {}", target.display()))?;
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .doing(|| format!("pin {} at {}", source.display(), target.display()))
}

/// Removes a pin; a missing one is fine.
pub fn unpin(path: &Path) -> Result<()> {
    // A pin may be there twice after a crash between mount and record: unmount until nothing is left.
    while is_pinned(path) {
        umount2(path, MntFlags::MNT_DETACH).doing(|| format!("unpin {}", path.display()))?;
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Error { what: format!("remove {}", path.display()), source: e })
        }
        _ => Ok(()),
    }
}

/// Whether `path` is a live namespace pin (false after a reboot: then it is an empty file).
pub fn is_pinned(path: &Path) -> bool {
    statfs(path).is_ok_and(|s| s.filesystem_type().0 == NSFS_MAGIC)
}

/// Sets the host name of the calling thread's uts namespace.
pub fn set_hostname(name: &str) -> Result<()> {
    nix::unistd::sethostname(name).doing(|| format!("set host name {name}"))
}

/// Writes one sysctl (`net.core.somaxconn`, dots or slashes) as seen by the calling thread's namespaces.
pub fn write_sysctl(name: &str, value: &str) -> Result<()> {
    let path = sysctl_path(name);
    fs::write(&path, value).doing(|| format!("set sysctl {name}={value}"))
}

/// As sysctl(8): the first separator decides; with dots, a slash stands for a dot inside one element.
fn sysctl_path(name: &str) -> PathBuf {
    let dotted = name.find(['.', '/']).is_none_or(|at| name.as_bytes()[at] == b'.');
    let swapped: String = match dotted {
        true => name
            .chars()
            .map(|c| {
                if c == '.' {
                    '/'
                } else if c == '/' {
                    '.'
                } else {
                    c
                }
            })
            .collect(),
        false => name.to_owned(),
    };
    let safe: PathBuf = Path::new(&swapped)
        .components()
        .filter(|c| matches!(c, std::path::Component::Normal(part) if *part != ".."))
        .collect();
    Path::new("/proc/sys").join(safe)
}

fn pin(kind: Kind, target: &Path) -> Result<()> {
    // thread-self, not self: the process's main thread has kept the host's namespaces.
    let source = PathBuf::from("/proc/thread-self/ns").join(kind.file_name());
    pin_path(&source, target)
}

fn on_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let handle = std::thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, work)
            .doing(|| "start namespace thread".into())?;
        handle.join().unwrap_or_else(|_| {
            Err(Error {
                what: "namespace thread".into(),
                source: std::io::Error::other("the work in the namespace panicked"),
            })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysctl_names_become_paths() {
        for (name, path) in [
            ("net.core.somaxconn", "/proc/sys/net/core/somaxconn"),
            ("net/ipv4/conf/eth0.1/forwarding", "/proc/sys/net/ipv4/conf/eth0.1/forwarding"),
            ("net.ipv4.conf.eth0/1.forwarding", "/proc/sys/net/ipv4/conf/eth0.1/forwarding"),
            ("net/../../etc/passwd", "/proc/sys/net/etc/passwd"),
        ] {
            assert_eq!(sysctl_path(name), Path::new(path), "{name}");
        }
    }

    #[test]
    fn a_pinned_network_namespace_can_be_entered_and_removed() {
        if !nix::unistd::geteuid().is_root() {
            return eprintln!("passed over: needs root");
        }
        let dir = std::env::temp_dir().join(format!("corten-sys-ns-{}", std::process::id()));
        create_pinned(&[Kind::Net, Kind::Uts], &dir, || set_hostname("pinned")).unwrap();
        let name = run_in(Kind::Uts, &dir.join("uts"), || nix::unistd::gethostname().unwrap()).unwrap();
        assert_eq!(name.to_str(), Some("pinned"));
        let links =
            run_in_netns(&dir.join("net"), || fs::read_to_string("/proc/thread-self/net/dev").unwrap())
                .unwrap();
        assert_eq!(links.lines().skip(2).count(), 1, "only loopback: {links}");
        for kind in ["net", "uts"] {
            assert!(is_pinned(&dir.join(kind)));
            unpin(&dir.join(kind)).unwrap();
            assert!(!dir.join(kind).exists());
            unpin(&dir.join(kind)).unwrap();
        }
        fs::remove_dir(&dir).unwrap();
    }
}
