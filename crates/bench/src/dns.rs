//! Answers of a DNS server: how many in a second, how late, and what each costs its processor.
//!
//! Without `--server` the built-in one answers for a made-up cluster, in a network namespace of its own, on a core of its own. One
//! thread asks; when it has a core to itself it keeps up with a server on another.

use std::{
    fs,
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use corten_client::Informer;
use corten_dns::{
    Config, Inputs, Server, Upstreams,
    wire::{Name, query, rtype},
};
use nix::{
    sched::{CloneFlags, CpuSet, sched_setaffinity, unshare},
    unistd::Pid,
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{
    args::Dns,
    report::{Outcome, Row, json_lines, table},
};

/// An answer that has not come after so long is lost.
const LOST: Duration = Duration::from_millis(500);
/// The domain of the made-up cluster.
const ZONE: &str = "cluster.local";
/// Endpoints of each headless service: every tenth service is one.
const ENDPOINTS: usize = 10;
/// Questions that are prepared; asked in turn.
const QUESTIONS: usize = 4096;

/// The entry point: runs and prints.
pub fn run(args: &Dns, json: bool) -> Result<()> {
    let rows = match args.server {
        Some(server) => measure(args, server, None)?,
        None => with_own_server(args)?,
    };
    print!("{}", if json { json_lines(&rows) } else { table(&rows) });
    match rows.iter().map(Row::errors).sum::<usize>() {
        0 => Ok(()),
        errors => bail!("{errors} questions without the right answer"),
    }
}

/// Must be called while the process has one thread: what is started later lives in the same namespace.
fn with_own_server(args: &Dns) -> Result<Vec<Row>> {
    unshare(CloneFlags::CLONE_NEWNET).context("a network namespace of its own needs root")?;
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().context("ip")?;
    ensure!(up.success(), "ip link set lo up");
    // Threads inherit the core of who starts them.
    let cores = std::thread::available_parallelism()?.get();
    pin(0)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let stop = CancellationToken::new();
    let server = runtime.block_on(async { own_server(args, stop.clone()) })?;
    let address = server.addresses()[0];
    let responder = server.responder().clone();
    let running = runtime.spawn(server.run());
    while responder.zone.services() < args.services || !responder.zone.is_synced() {
        std::thread::sleep(Duration::from_millis(1));
    }
    pin(cores - 1)?;
    let rows = measure(args, address, Some("dns"));
    stop.cancel();
    runtime.block_on(running)??;
    rows
}

fn pin(core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core)?;
    sched_setaffinity(Pid::from_raw(0), &set).context("bind to a core")
}

fn own_server(args: &Dns, stop: CancellationToken) -> Result<Server> {
    let inputs = Inputs {
        services: Informer::detached(),
        slices: Informer::detached(),
        namespaces: Informer::detached(),
    };
    for number in 0..args.services {
        let (name, headless) = (format!("svc-{number}"), is_headless(number));
        let address = format!("10.{}.{}.{}", 96 + (number >> 16), number >> 8 & 255, number & 255);
        let address = if headless { "None".to_owned() } else { address };
        let service = json!({"metadata": {"name": name, "namespace": "bench"}, "spec": {"clusterIP": address,
            "clusterIPs": [address], "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}});
        inputs.services.apply(serde_json::from_value(service)?);
        if headless {
            let endpoints: Vec<_> = (0..ENDPOINTS)
                .map(|i| json!({"addresses": [format!("10.200.{}.{}", (number / 10) & 255, i)], "hostname": format!("web-{i}")}))
                .collect();
            let slice = json!({"metadata": {"name": format!("{name}-x"), "namespace": "bench",
                "labels": {"kubernetes.io/service-name": name}}, "addressType": "IPv4", "endpoints": endpoints,
                "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]});
            inputs.slices.apply(serde_json::from_value(slice)?);
        }
    }
    inputs.namespaces.apply(serde_json::from_value(json!({"metadata": {"name": "bench"}}))?);
    inputs.services.mark_synced();
    inputs.slices.mark_synced();
    inputs.namespaces.mark_synced();
    let config = Config {
        listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
        upstreams: Upstreams::Fixed(Vec::new()),
        ..Config::default()
    };
    Ok(Server::bind(inputs, &config, stop)?)
}

fn is_headless(number: usize) -> bool {
    number % 10 == 9
}

/// What is asked: mostly addresses of services, as pods do it.
fn questions(args: &Dns, what: What) -> Result<Vec<Vec<u8>>> {
    let one = |index: usize| {
        let number = index * 7919 % args.services;
        let number =
            if what == What::Headless { number / 10 * 10 + 9 } else { number / 10 * 10 + number % 9 };
        let (name, kind) = match what {
            What::Service | What::Headless => (format!("svc-{number}.bench.svc.{ZONE}"), rtype::A),
            What::Nothing => (format!("svc-{number}.bench.svc.{ZONE}.bench.svc.{ZONE}"), rtype::A),
            What::Srv => (format!("_http._tcp.svc-{number}.bench.svc.{ZONE}"), rtype::SRV),
        };
        let name = Name::from_text(&name).context("a name")?;
        Ok(query::build(0, &name, kind, false, false))
    };
    (0..QUESTIONS).map(one).collect()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Service,
    Headless,
    Srv,
    Nothing,
}

const ALL: [(What, &str, u8); 4] = [
    (What::Service, "dns A of a service", 0),
    (What::Headless, "dns A, headless (10)", 0),
    (What::Srv, "dns SRV", 0),
    (What::Nothing, "dns NXDOMAIN", 3),
];

fn measure(args: &Dns, server: SocketAddr, thread: Option<&str>) -> Result<Vec<Row>> {
    ensure!(args.services >= 10, "at least ten services");
    let mut rows = Vec::new();
    for (what, name, rcode) in ALL {
        let questions = questions(args, what)?;
        let before = thread.and_then(cpu_of_thread);
        let (outcome, elapsed) = ask(args, server, &questions, rcode)?;
        let mut row = Row::many(name.to_owned(), outcome, elapsed, None);
        if let Some((before, after)) = before.zip(thread.and_then(cpu_of_thread)) {
            let busy = (after - before).as_secs_f64();
            let rate = row.count() as f64 / busy;
            row = row.with_core_rate(rate).with_note(format!(
                "{rate:.0} answers per second of its core, which was {:.0} % busy",
                100.0 * busy / elapsed.as_secs_f64()
            ));
        }
        rows.push(row);
    }
    Ok(rows)
}

/// CPU time of this process' thread of that name.
fn cpu_of_thread(name: &str) -> Option<Duration> {
    for task in fs::read_dir("/proc/self/task").ok()?.flatten() {
        if fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim() == name) {
            let stat = fs::read_to_string(task.path().join("schedstat")).ok()?;
            return Some(Duration::from_nanos(stat.split_whitespace().next()?.parse().ok()?));
        }
    }
    None
}

/// Keeps `--in-flight` questions in flight for `--secs`.
fn ask(args: &Dns, server: SocketAddr, questions: &[Vec<u8>], rcode: u8) -> Result<(Outcome, Duration)> {
    let socket = UdpSocket::bind(SocketAddr::from(([0, 0, 0, 0], 0)))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(LOST))?;
    let mut asker =
        Asker { socket, questions: questions.to_vec(), sent: vec![None; questions.len()], next: 0 };
    let (mut outcome, begin) = (Outcome::default(), Instant::now());
    let until = begin + Duration::from_secs(args.secs);
    for _ in 0..args.in_flight {
        asker.send()?;
    }
    let mut open = args.in_flight;
    while open > 0 {
        match asker.receive(rcode) {
            Ok(latency) => outcome.add(latency),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                // All that are open are lost.
                (0..open).for_each(|_| outcome.add(Err(anyhow::anyhow!("no answer"))));
                if Instant::now() >= until {
                    break;
                }
                (0..open).try_for_each(|_| asker.send())?;
                continue;
            }
            Err(error) => return Err(error.into()),
        }
        if Instant::now() < until { asker.send()? } else { open -= 1 }
    }
    Ok((outcome, begin.elapsed()))
}

struct Asker {
    socket: UdpSocket,
    questions: Vec<Vec<u8>>,
    sent: Vec<Option<Instant>>,
    next: usize,
}

impl Asker {
    /// The id is the number of the question.
    fn send(&mut self) -> std::io::Result<()> {
        let index = self.next;
        self.next = (index + 1) % self.questions.len();
        let question = &mut self.questions[index];
        question[..2].copy_from_slice(&(index as u16).to_be_bytes());
        self.sent[index] = Some(Instant::now());
        self.socket.send(question).map(drop)
    }

    fn receive(&mut self, rcode: u8) -> std::io::Result<Result<Duration>> {
        let mut buffer = [0; 2048];
        let length = self.socket.recv(&mut buffer)?;
        let answer = &buffer[..length];
        let index = usize::from(u16::from_be_bytes([buffer[0], buffer[1]]));
        let Some(sent) = self.sent.get_mut(index).and_then(Option::take) else {
            return Ok(Err(anyhow::anyhow!("an answer to nothing")));
        };
        if length < 12 || answer[3] & 15 != rcode || (rcode == 0 && answer[7] == 0) {
            return Ok(Err(anyhow::anyhow!("response code {} with {} answers", answer[3] & 15, answer[7])));
        }
        Ok(Ok(sent.elapsed()))
    }
}
