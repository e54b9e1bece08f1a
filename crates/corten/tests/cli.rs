//! The program as people call it: what it says, and how it starts and stops. Clusters with containers are in `testkit`.

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

/// What people and scripts call.
const COMMANDS: &[&str] = &[
    "up",
    "server",
    "agent",
    "token",
    "apiserver",
    "scheduler",
    "controller-manager",
    "proxy",
    "down",
    "image",
    "kubeconfig",
];
/// Longer than the program gives its parts to end: whoever needs more hangs.
const END: Duration = Duration::from_secs(120);

fn corten(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_corten"));
    command.args(words).env("CORTEN_LOG", "error");
    command
}

fn run(words: &[&str]) -> Output {
    corten(words).output().expect("the program can be run")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A cluster's process; killed when a test gives up.
struct Server(Child);

impl Server {
    /// Starts a control plane and waits until it tells its kubeconfig.
    fn start(dir: &Path) -> (Self, String) {
        let dir = dir.to_str().expect("a path in plain letters");
        let mut command = corten(&["server", "--name", "cli", "--data-dir", dir, "--listen", "127.0.0.1:0"]);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the program can be run");
        let lines =
            BufReader::new(child.stdout.take().expect("its output is a pipe")).lines().map_while(Result::ok);
        let export = lines.into_iter().find(|line| line.starts_with("export KUBECONFIG="));
        (Server(child), export.expect("the server tells its kubeconfig"))
    }

    /// SIGTERM, and how it ended.
    fn terminate(mut self) -> ExitStatus {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.0.id()).expect("process ids fit"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("it runs");
        let deadline = Instant::now() + END;
        loop {
            if let Some(status) = self.0.try_wait().expect("it is our child") {
                return status;
            }
            assert!(Instant::now() < deadline, "SIGTERM did not end it");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A whole cluster on this host, cleaned up in any case.
struct Host {
    name: String,
    dir: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        Host { name: format!("c{}", std::process::id()), dir: tempfile::tempdir().expect("a directory") }
    }

    fn words<'a>(&'a self, command: &'a str) -> Vec<&'a str> {
        vec![command, "--name", &self.name, "--data-dir", self.dir.path().to_str().expect("plain letters")]
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let down = run(&[self.words("down"), vec!["--purge"]].concat());
        assert!(down.status.success() || std::thread::panicking(), "{}", text(&down.stderr));
    }
}

#[test]
fn help_names_every_command() {
    let help = text(&run(&["--help"]).stdout);
    for command in COMMANDS {
        assert!(help.lines().any(|line| line.trim_start().starts_with(command)), "{command} in {help}");
        assert!(run(&[command, "--help"]).status.success(), "{command} --help");
    }
    assert!(!help.contains("shim"), "the shim is nobody's business");
}

#[test]
fn wrong_words_are_refused_with_the_reason() {
    let cases: &[(&[&str], &str)] = &[
        (&["up", "--name", "Too_Long_A_Name"], "1 to 11 lower-case letters"),
        (&["up", "--service-cidr", "10.96.0.0"], "--service-cidr"),
        (&["fly"], "unrecognized subcommand"),
        (&["kubeconfig", "--data-dir", "/nonexistent"], "no kubeconfig at /nonexistent/kubeconfig"),
    ];
    for (words, reason) in cases {
        let output = run(words);
        assert!(!output.status.success(), "{words:?}");
        assert!(text(&output.stderr).contains(reason), "{words:?}: {}", text(&output.stderr));
    }
}

#[test]
fn a_server_starts_stops_and_starts_again_with_its_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let (server, export) = Server::start(dir.path());
    assert_eq!(export, format!("export KUBECONFIG={}/kubeconfig", dir.path().display()));
    let first = std::fs::read(dir.path().join("pki/ca.crt")).unwrap();

    let words =
        ["server", "--name", "cli", "--data-dir", dir.path().to_str().unwrap(), "--listen", "127.0.0.1:0"];
    let second = run(&words);
    assert!(text(&second.stderr).contains("running already"), "{}", text(&second.stderr));

    assert!(server.terminate().success(), "SIGTERM ends it cleanly");
    let (server, _) = Server::start(dir.path());
    assert_eq!(std::fs::read(dir.path().join("pki/ca.crt")).unwrap(), first);
    assert!(server.terminate().success());
}

/// Whether the process has a handler of SIGTERM by now.
fn catches_sigterm(pid: u32) -> bool {
    const BIT: u64 = 1 << (15 - 1);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or_default();
    u64::from_str_radix(mask.trim(), 16).is_ok_and(|caught| caught & BIT != 0)
}

#[test]
fn sigterm_ends_it_at_any_moment_of_its_start() {
    let host = Host::new();
    let block = 229 + std::process::id() % 20;
    let (pods, services) = (format!("10.{block}.0.0/16"), format!("10.{}.0.0/16", 91 + block % 4));
    let more = ["--listen", "127.0.0.1:0", "--kubelet-port", "0", "--node-name", "n1"];
    let ranges = ["--cluster-cidr", &pods, "--service-cidr", &services];
    let words = [host.words("up"), more.into(), ranges.into()].concat();
    for moment in [0, 10, 25, 50, 100, 150, 200, 300, 400, 500] {
        let server = Server(corten(&words).stdout(Stdio::null()).spawn().expect("the program can be run"));
        std::thread::sleep(Duration::from_millis(moment));
        // Before the program is there to catch it, the signal does what it does to everybody.
        let catches = catches_sigterm(server.0.id());
        let status = server.terminate();
        let too_early = !catches && status.signal() == Some(15);
        assert!(status.success() || too_early, "SIGTERM after {moment} ms: {status}");
    }
}
