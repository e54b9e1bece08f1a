//! The program as people call it: what it says. Clusters with containers are in `testkit`.

use std::process::{Command, Output};

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
