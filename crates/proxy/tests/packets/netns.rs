//! A network namespace without a name: a file holds it, threads enter it. It goes with the process, however
//! that ends, so that no test can leave one behind.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, unshare};

/// An open network namespace.
pub struct Netns {
    file: File,
}

impl Netns {
    /// A fresh one with its loopback up.
    pub fn new() -> Self {
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("packets need root");
            File::open("/proc/thread-self/ns/net").expect("the namespace's file")
        });
        let netns = Self { file: made.join().expect("a new network namespace") };
        netns.ip("link set lo up");
        netns
    }

    /// A path that programs this process starts can open, too.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()).into()
    }

    /// Runs `work` on a thread inside. Threads and programs that it starts are inside as well.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        match corten_sys::namespaces::run_in_netns(&self.path(), || {
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(work))
        }) {
            Ok(Ok(value)) => value,
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            Err(problem) => panic!("{problem}"),
        }
    }

    /// Lines for `ip -batch`.
    pub fn ip(&self, lines: &str) {
        self.feed(&["ip", "-batch", "-"], lines);
    }

    /// Runs a program inside with `input`; it must succeed. Returns what it printed.
    pub fn feed(&self, command: &[&str], input: &str) -> String {
        self.inside(|| {
            let mut child = Command::new(command[0])
                .args(&command[1..])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap_or_else(|problem| panic!("{command:?}: {problem}"));
            let mut stdin = child.stdin.take().expect("a pipe was asked for");
            stdin.write_all(input.as_bytes()).expect("the program reads its input");
            drop(stdin);
            let output = child.wait_with_output().expect("the program ends");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{command:?}: {said}\n{input}");
            String::from_utf8_lossy(&output.stdout).into_owned()
        })
    }

    /// Sets a sysctl of this namespace; slashes, because interface names may have dots.
    pub fn sysctl(&self, name: &str, value: &str) {
        self.inside(|| corten_sys::namespaces::write_sysctl(name, value)).expect("sysctl");
    }
}
