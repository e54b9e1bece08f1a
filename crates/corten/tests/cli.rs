//! The program as people call it: what it says, and how it starts and stops. Clusters with containers are in `testkit`.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

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

/// A control plane in a directory of its own; killed when a test gives up.
struct Server(Child);

impl Server {
    /// Starts it and waits until it tells its kubeconfig.
    fn start(dir: &Path) -> (Self, String) {
        let dir = dir.to_str().expect("a path in plain letters");
        let mut command = corten(&["server", "--name", "cli", "--data-dir", dir, "--listen", "127.0.0.1:0"]);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the program can be run");
        let lines =
            BufReader::new(child.stdout.take().expect("its output is a pipe")).lines().map_while(Result::ok);
        let export = lines.into_iter().find(|line| line.starts_with("export KUBECONFIG="));
        (Server(child), export.expect("the server tells its kubeconfig"))
    }

    fn terminate(mut self) -> bool {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.0.id()).expect("process ids fit"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("it runs");
        self.0.wait().expect("it ends").success()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn help_names_every_command() {
    let help = text(&run(&["--help"]).stdout);
    for command in ["up", "server", "down", "image", "kubeconfig"] {
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

    assert!(server.terminate(), "SIGTERM ends it cleanly");
    let (server, _) = Server::start(dir.path());
    assert_eq!(std::fs::read(dir.path().join("pki/ca.crt")).unwrap(), first);
    assert!(server.terminate());
}
