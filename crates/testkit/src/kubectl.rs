//! kubectl as people run it, and what it said.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cluster::Cluster;
use crate::wait::PATIENCE;

/// What a program printed and how it ended.
#[derive(Clone, Debug)]
pub struct Output {
    /// What was typed.
    pub command: String,
    /// The exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Runs the command to its end.
    pub(crate) fn of(command: &mut Command, input: Option<&str>) -> Self {
        let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
        let line = format!("{} {}", command.get_program().to_string_lossy(), words.join(" "));
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {line}: {error}"));
        let feeder = child.stdin.take().zip(input.map(str::to_owned)).map(|(mut stdin, input)| {
            std::thread::spawn(move || {
                // A program that refuses its input early closes the pipe.
                let _ = stdin.write_all(input.as_bytes());
            })
        });
        let output = child.wait_with_output().expect("its output can be read");
        if let Some(feeder) = feeder {
            let _ = feeder.join();
        }
        Self {
            command: line,
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Whether it ended with 0.
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }

    /// Its standard output; panics unless it succeeded.
    #[track_caller]
    pub fn ok(&self) -> &str {
        assert!(self.success(), "{self}");
        &self.stdout
    }

    /// Its standard error; panics if it succeeded.
    #[track_caller]
    pub fn err(&self) -> &str {
        assert!(!self.success(), "should have failed: {self}");
        &self.stderr
    }

    /// Its standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(self.ok()).unwrap_or_else(|error| panic!("{error}: {self}"))
    }

    /// Panics unless the output (both streams) contains `text`.
    #[track_caller]
    pub fn says(&self, text: &str) -> &Self {
        assert!(self.stdout.contains(text) || self.stderr.contains(text), "no {text:?} in {self}");
        self
    }

    /// The words of each line of standard output.
    pub fn rows(&self) -> Vec<Vec<&str>> {
        self.stdout.lines().map(|line| line.split_whitespace().collect()).collect()
    }
}

impl fmt::Display for Output {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{}\n  code {:?}\n  stdout: {}\n  stderr: {}",
            self.command, self.code, self.stdout, self.stderr
        )
    }
}

/// A watch that says nothing for so long is checked against a list.
const SILENCE: Duration = Duration::from_secs(1);

/// Objects by name, as a watch sees them.
pub type Objects = BTreeMap<String, Value>;

/// A namespace for one test.
pub struct Namespace<'a> {
    /// Where it is.
    pub cluster: &'a Cluster,
    /// What it is called.
    pub name: String,
}

impl<'a> Namespace<'a> {
    pub(crate) fn create(cluster: &'a Cluster, name: &str) -> Self {
        cluster.kubectl(&["create", "namespace", name]).ok();
        let namespace = Self { cluster, name: name.to_owned() };
        let timeout = format!("--timeout={}s", PATIENCE.as_secs());
        namespace.kubectl(&["wait", "--for=create", "serviceaccount/default", &timeout]).ok();
        namespace
    }

    fn words<'w>(&'w self, words: &[&'w str]) -> Vec<&'w str> {
        let mut all = vec!["-n", self.name.as_str()];
        all.extend(words);
        all
    }

    /// Runs kubectl in this namespace.
    pub fn kubectl(&self, words: &[&str]) -> Output {
        self.cluster.kubectl(&self.words(words))
    }

    /// Runs kubectl in this namespace with something on its standard input.
    pub fn kubectl_with(&self, words: &[&str], input: &str) -> Output {
        self.cluster.kubectl_with(&self.words(words), input)
    }

    /// Runs another client's program: it finds the cluster in `$KUBECONFIG` and this namespace in `$NAMESPACE`.
    pub fn run(&self, command: &mut Command) -> Output {
        command.env("KUBECONFIG", self.cluster.kubeconfig()).env("NAMESPACE", &self.name);
        Output::of(command.stdin(Stdio::null()), None)
    }

    /// Starts kubectl and leaves it running.
    pub fn spawn(&self, words: &[&str]) -> Running {
        let mut command = self.cluster.kubectl_command();
        command.args(self.words(words)).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Running(command.spawn().expect("kubectl can be run"))
    }

    /// Creates what the manifest says.
    #[track_caller]
    pub fn create_from(&self, manifest: &str) {
        self.kubectl_with(&["create", "-f", "-"], manifest).ok();
    }

    /// One object.
    #[track_caller]
    pub fn get(&self, what: &str) -> Value {
        self.kubectl(&["get", what, "-o", "json"]).json()
    }

    /// `kubectl wait`.
    #[track_caller]
    pub fn wait(&self, what: &str, condition: &str) {
        let timeout = format!("--timeout={}s", PATIENCE.as_secs());
        let output = self.kubectl(&["wait", &format!("--for={condition}"), &timeout, what]);
        assert!(output.success(), "{output}\n{}", self.describe(what));
    }

    /// What a person would look at next.
    pub fn describe(&self, what: &str) -> String {
        let pods = self.kubectl(&["describe", what]).stdout;
        let events = self.kubectl(&["get", "events", "--sort-by=.lastTimestamp"]).stdout;
        format!("{pods}\n{events}\nlog of the cluster:\n{}", self.cluster.log_tail())
    }

    /// Watches objects (`kubectl get WORDS -w`) until `done` holds of all of them together; returns them.
    #[track_caller]
    pub fn watch(&self, words: &[&str], what: &str, done: impl FnMut(&Objects) -> bool) -> Objects {
        match self.watch_for(PATIENCE, words, done) {
            Ok(objects) => objects,
            Err(objects) => panic!(
                "waited in vain: {what}\n{}\n{}",
                objects.values().map(|o| o["status"].to_string()).collect::<Vec<_>>().join("\n"),
                self.describe(words.first().unwrap_or(&"pods")),
            ),
        }
    }

    /// Like [`Namespace::watch`] with a deadline; `Err` holds what there was at the end.
    pub fn watch_for(
        &self,
        patience: Duration,
        words: &[&str],
        mut done: impl FnMut(&Objects) -> bool,
    ) -> Result<Objects, Objects> {
        let deadline = Instant::now() + patience;
        let mut objects = self.list(words).unwrap_or_default();
        while !done(&objects) {
            let mut all = vec!["get"];
            all.extend(words);
            all.extend(["-o", "json", "-w", "--output-watch-events"]);
            let mut running = self.spawn(&all);
            let events = running.json_stream();
            // What was there at first is told again as ADDED. What went between our list and kubectl's own is told by nobody:
            // the first event, and a silent stream, ask for a list that is newer than kubectl's.
            let mut listed = false;
            loop {
                let left = deadline.saturating_duration_since(Instant::now());
                match events.recv_timeout(left.min(SILENCE)) {
                    Ok(event) => {
                        if !std::mem::replace(&mut listed, true) {
                            objects = self.list(words).unwrap_or(objects);
                        }
                        take(&mut objects, &event);
                    }
                    Err(RecvTimeoutError::Timeout) if left.is_zero() => return Err(objects),
                    Err(RecvTimeoutError::Timeout) => objects = self.list(words).unwrap_or(objects),
                    Err(RecvTimeoutError::Disconnected) => break,
                }
                if done(&objects) {
                    return Ok(objects);
                }
            }
            if Instant::now() >= deadline {
                return Err(objects);
            }
            objects = self.list(words).unwrap_or(objects);
        }
        Ok(objects)
    }

    /// `None` where nobody answers: that is not the same as nothing.
    fn list(&self, words: &[&str]) -> Option<Objects> {
        let mut all = vec!["get"];
        all.extend(words);
        all.extend(["-o", "json"]);
        let list = self.kubectl(&all);
        if !list.success() {
            return list.stderr.contains("(NotFound)").then(Objects::new);
        }
        let list = list.json();
        let items = match &list["items"] {
            Value::Array(items) => items.clone(),
            _ if list["kind"].is_string() => vec![list],
            _ => Vec::new(),
        };
        Some(items.into_iter().map(|item| (name(&item), item)).collect())
    }
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        // A failed test leaves its containers to others otherwise; waiting for the end would only cost time.
        self.kubectl(&["delete", "pods", "--all", "--grace-period=0", "--force", "--wait=false"]);
        self.cluster.kubectl(&["delete", "namespace", &self.name, "--wait=false"]);
    }
}

fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

/// Applies an event unless the objects are newer: those of a list that was made after the watch began.
fn take(objects: &mut Objects, event: &Value) {
    let object = &event["object"];
    let deleted = event["type"] == "DELETED";
    let is_old = match objects.get(&name(object)) {
        Some(known) if deleted => version(known) > version(object),
        Some(known) => {
            version(known) >= version(object) && known["metadata"]["uid"] == object["metadata"]["uid"]
        }
        // Not in the newer list, and ending or older than something in it: gone. What is new is newer than all.
        None => {
            object["metadata"]["deletionTimestamp"].is_string()
                || objects.values().any(|known| version(known) > version(object))
        }
    };
    if is_old || !object["metadata"]["name"].is_string() {
        return;
    }
    if deleted {
        objects.remove(&name(object));
    } else {
        objects.insert(name(object), object.clone());
    }
}

fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().and_then(|v| v.parse().ok()).unwrap_or_default()
}

/// A program in the background, ended with the value.
pub struct Running(Child);

impl Running {
    /// Its process.
    pub fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    /// The JSON documents that it prints, as they come.
    pub fn json_stream(&mut self) -> mpsc::Receiver<Value> {
        let out = self.0.stdout.take().expect("its output is a pipe");
        let (send, receive) = mpsc::channel();
        std::thread::spawn(move || {
            for event in serde_json::Deserializer::from_reader(out).into_iter::<Value>() {
                let Ok(event) = event else { break };
                if send.send(event).is_err() {
                    break;
                }
            }
        });
        receive
    }

    /// The lines that it prints, as they come.
    pub fn lines(&mut self) -> mpsc::Receiver<String> {
        use std::io::BufRead;
        let out = self.0.stdout.take().expect("its output is a pipe");
        let (send, receive) = mpsc::channel();
        std::thread::spawn(move || {
            for line in std::io::BufReader::new(out).lines() {
                let Ok(line) = line else { break };
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        receive
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn events_change_what_is_there() {
        let mut objects = Objects::new();
        let event = |kind: &str, name: &str| json!({"type": kind, "object": {"metadata": {"name": name}}});
        for (kind, name, left) in
            [("ADDED", "a", 1), ("MODIFIED", "b", 2), ("DELETED", "a", 1), ("BOOKMARK", "", 1)]
        {
            let mut event = event(kind, name);
            if kind == "BOOKMARK" {
                event["object"]["metadata"] = json!({"resourceVersion": "1"});
            }
            take(&mut objects, &event);
            assert_eq!(objects.len(), left, "{kind} {name}");
        }
    }
}
