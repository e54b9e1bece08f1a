//! How long a service without endpoints takes to answer once its first pod is Ready: somebody on the node asks its cluster IP again and
//! again, and a watch says when the pod became Ready.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};
use tokio::{sync::oneshot, time::timeout};

use crate::{
    http::{Connection, Lines},
    report::{Outcome, Row},
    session::Session,
    watch,
};

/// A pod that is not Ready, or a service that does not answer, by then has failed.
const PATIENCE: Duration = Duration::from_secs(60);
/// A connection without an answer is given up after so long: before there is a rule, packets go nowhere.
const CONNECT: Duration = Duration::from_millis(20);
/// An answer takes no longer on one machine.
const ANSWER: Duration = Duration::from_secs(1);
/// Between two tries; the node has other things to do, too.
const PAUSE: Duration = Duration::from_micros(500);

/// One pod and service after the other.
pub async fn run(session: &Session, image: &str, count: u32) -> Result<Row> {
    let begun = Instant::now();
    let mut outcome = Outcome::default();
    for number in 0..count {
        outcome.add(one(session, image, number).await);
    }
    Ok(Row::many("pod Ready to first answer of its service".into(), outcome, begun.elapsed(), None))
}

async fn one(session: &Session, image: &str, number: u32) -> Result<Duration> {
    let name = format!("vip-{number:03}");
    let mut connection = session.endpoint.connect().await?;
    let made = post(&mut connection, &session.path("services"), &service(&name)).await?;
    let address = made["spec"]["clusterIP"].as_str().context("a service without an address")?;
    let asker = Asker::start(SocketAddr::new(address.parse()?, 80));
    let result = async {
        let pods = session.path("pods");
        let version = watch::current_version(&mut connection, &pods).await?;
        let watched = watch::open(session, &pods, &version).await?;
        post(&mut connection, &pods, &pod(&name, image)).await?;
        let ready = timeout(PATIENCE, ready(watched, &name)).await.context("the pod is not Ready")??;
        let answered = asker.answered().await?;
        Ok(answered.saturating_duration_since(ready))
    }
    .await;
    for path in [format!("pods/{name}?gracePeriodSeconds=0"), format!("services/{name}")] {
        connection.send(Method::DELETE, &session.path(&path), None).await?.ok()?;
    }
    result
}

async fn post(connection: &mut Connection, path: &str, object: &Value) -> Result<Value> {
    let body = Some(Bytes::from(object.to_string()));
    Ok(serde_json::from_slice(&connection.send(Method::POST, path, body).await?.ok()?)?)
}

fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"selector": {"vip": name}, "ports": [{"port": 80, "targetPort": 8080}]},
    })
}

fn pod(name: &str, image: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"vip": name}},
        "spec": {"containers": [{
            "name": "main", "image": image, "imagePullPolicy": "IfNotPresent",
            "readinessProbe": {"httpGet": {"path": "/readyz", "port": 8080}, "periodSeconds": 1},
        }]},
    })
}

/// Waits for the event that says so; when it came.
async fn ready((_connection, mut lines): (Connection, Lines), name: &str) -> Result<Instant> {
    loop {
        let mut found = false;
        let open = lines.next(|line| found |= says_ready(line, name)).await?;
        if found {
            return Ok(Instant::now());
        }
        if !open {
            bail!("the watch ended");
        }
    }
}

fn says_ready(line: &[u8], name: &str) -> bool {
    let Ok(event) = serde_json::from_slice::<Value>(line) else { return false };
    let conditions = event["object"]["status"]["conditions"].as_array();
    let ready = |condition: &Value| condition["type"] == "Ready" && condition["status"] == "True";
    event["object"]["metadata"]["name"] == name && conditions.is_some_and(|all| all.iter().any(ready))
}

/// A thread that asks until it is answered; it stops when this is dropped.
struct Asker {
    stop: Arc<AtomicBool>,
    answer: oneshot::Receiver<Instant>,
}

impl Asker {
    fn start(at: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, answer) = oneshot::channel();
        let stopped = stop.clone();
        thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                if ask(at).is_ok() {
                    // Nobody listens when the pod has failed.
                    let _ = sender.send(Instant::now());
                    return;
                }
                thread::sleep(PAUSE);
            }
        });
        Self { stop, answer }
    }

    async fn answered(mut self) -> Result<Instant> {
        let answer = timeout(PATIENCE, &mut self.answer).await;
        Ok(answer.context("the service does not answer")??)
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn ask(at: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&at, CONNECT)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.write_all(b"GET /hostname HTTP/1.0\r\n\r\n")?;
    stream.read_exact(&mut [0; 8])
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn events_say_when_a_pod_is_ready() {
        let event = |name: &str, kind: &str, status: &str| {
            json!({"object": {"metadata": {"name": name}, "status": {"conditions": [
                {"type": "Initialized", "status": "True"}, {"type": kind, "status": status}]}}})
            .to_string()
        };
        let cases = [
            (event("a", "Ready", "True"), true),
            (event("a", "Ready", "False"), false),
            (event("b", "Ready", "True"), false),
            (event("a", "ContainersReady", "True"), false),
            ("{}".to_owned(), false),
            ("x".to_owned(), false),
        ];
        for (line, expected) in cases {
            assert_eq!(says_ready(line.as_bytes(), "a"), expected, "{line}");
        }
    }

    #[tokio::test]
    async fn the_asker_waits_for_an_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let begun = Instant::now();
        let asker = Asker::start(listener.local_addr().unwrap());
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n").unwrap();
            // The question is read, or closing would reset what was said.
            let _ = stream.read(&mut [0; 64]);
        });
        assert!(asker.answered().await.unwrap() >= begun);
    }
}
