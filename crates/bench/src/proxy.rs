//! The service proxy by itself, in a network namespace of its own: how long the first sync and one changed endpoint take with many
//! services, and whether connecting through a cluster IP takes longer the more there are.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use corten_proxy::{Backend, Config, Node, Planner};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use nix::sched::{CloneFlags, unshare};
use serde_json::json;

use crate::args::ProxyBench;
use crate::report::{Outcome, Row, json_lines, table};

/// Every service has so many endpoints; the first service's is the namespace itself.
const ENDPOINTS: u32 = 3;
/// Where the first service's endpoint listens.
const LISTENER: &str = "10.9.0.1:8080";
/// A connection inside one machine that takes longer is lost.
const PATIENCE: Duration = Duration::from_secs(5);

/// The entry point: runs and prints. Must be called while the process has one thread: what is started later lives in the same
/// namespace, which goes with the process, however that ends.
pub fn run(args: &ProxyBench, json: bool) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("a network namespace of its own needs root")?;
    let rows = in_namespace(args)?;
    print!("{}", if json { json_lines(&rows) } else { table(&rows) });
    match rows.iter().map(Row::errors).sum::<usize>() {
        0 => Ok(()),
        errors => bail!("{errors} changes or connections failed"),
    }
}

fn in_namespace(args: &ProxyBench) -> Result<Vec<Row>> {
    for words in [
        "link set lo up",
        "link add out type veth peer name far",
        "link set out up",
        "link set far up",
        "addr add 10.9.0.1/32 dev lo",
        // Not the endpoint's own: that would be masqueraded, with ports that collide now and then.
        "addr add 10.9.0.2/32 dev lo",
        "route add default dev out src 10.9.0.2",
    ] {
        let status = Command::new("ip").args(words.split(' ')).status().context("ip")?;
        ensure!(status.success(), "ip {words}");
    }
    let listener = TcpListener::bind(LISTENER)?;
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut rows = Vec::new();
    for services in &args.services {
        rows.extend(runtime.block_on(with_services(args, *services))?);
    }
    Ok(rows)
}

async fn with_services(args: &ProxyBench, services: u32) -> Result<Vec<Row>> {
    let mut config = Config::new("bench", "here");
    config.mode = args.mode;
    config.cluster_cidrs = vec!["10.0.0.0/10".parse()?];
    let mut backend = corten_proxy::backend_of(&config)?;
    let mut planner = Planner::new(Node { name: "here".into(), zone: String::new() });
    let objects: Vec<(Service, EndpointSlice)> =
        (0..services).map(|n| object(n, ENDPOINTS)).collect::<Result<_>>()?;
    let begin = Instant::now();
    for (service, slice) in &objects {
        planner.set(&corten_client::Key::of(service), Some(service), &[slice]);
    }
    planner.take_change();
    let planned = begin.elapsed();
    let begin = Instant::now();
    backend.sync_all(planner.rules()).await?;
    let synced = begin.elapsed();
    let changes = change_one(args, services, &mut planner, &mut *backend).await?;
    let connects = connect(args.count)?;
    backend.cleanup().await?;
    let mode = args.mode.name();
    Ok(vec![
        Row::once(&format!("{mode}: plan {services} services"), planned),
        Row::once(&format!("{mode}: first sync of {services}"), synced),
        Row::many(format!("{mode}: one endpoint among {services}"), changes.0, changes.1, None),
        Row::many(format!("{mode}: connect, {services} services"), connects.0, connects.1, None),
    ])
}

/// One service in the middle gains and loses an endpoint: planned and carried out.
async fn change_one(
    args: &ProxyBench,
    services: u32,
    planner: &mut Planner,
    backend: &mut dyn Backend,
) -> Result<(Outcome, Duration)> {
    let mut outcome = Outcome::default();
    let all = Instant::now();
    for turn in 0..args.count {
        let (service, slice) = object(services / 2, ENDPOINTS + 1 - turn % 2)?;
        let begin = Instant::now();
        planner.set(&corten_client::Key::of(&service), Some(&service), &[&slice]);
        let change = planner.take_change();
        let done = backend.apply(&change, planner.rules()).await;
        outcome.add(done.map(|()| begin.elapsed()).map_err(Into::into));
    }
    Ok((outcome, all.elapsed()))
}

fn connect(count: u32) -> Result<(Outcome, Duration)> {
    let at: SocketAddr = format!("{}:80", cluster_ip(0)).parse()?;
    let (mut outcome, all) = (Outcome::default(), Instant::now());
    for _ in 0..count {
        let begin = Instant::now();
        let connected = TcpStream::connect_timeout(&at, PATIENCE);
        outcome.add(connected.map(|_| begin.elapsed()).map_err(Into::into));
    }
    Ok((outcome, all.elapsed()))
}

fn cluster_ip(n: u32) -> String {
    format!("10.96.{}.{}", n / 250, n % 250 + 1)
}

/// The n-th service and its slice.
fn object(n: u32, endpoints: u32) -> Result<(Service, EndpointSlice)> {
    let name = format!("service-{n}");
    let service = json!({
        "metadata": {"name": name, "namespace": "bench"},
        "spec": {"clusterIP": cluster_ip(n), "clusterIPs": [cluster_ip(n)], "ports": [{"port": 80}]},
    });
    let address = |e: u32| match n {
        0 => "10.9.0.1".to_owned(),
        _ => format!("10.{}.{}.{}", 10 + e, n / 250, n % 250 + 1),
    };
    let addresses: Vec<_> = (0..endpoints).map(|e| json!({"addresses": [address(e)]})).collect();
    let slice = json!({
        "metadata": {"name": format!("{name}-1"), "namespace": "bench", "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4", "ports": [{"name": "", "port": 8080}], "endpoints": addresses,
    });
    Ok((serde_json::from_value(service)?, serde_json::from_value(slice)?))
}
