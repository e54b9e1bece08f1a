//! Stats and metrics: `/stats/summary`, `/metrics`, `/metrics/resource`.

use std::collections::HashMap;
use std::fmt::Write;

use http::{Response, StatusCode};
use jiff::Timestamp;
use k8s_cri::v1::{ContainerStats, UInt64Value};
use serde_json::{Value, json};

use super::{Body, Context, document, text};
use crate::labels;
use crate::node::machine;
use crate::pod::observed::time;
use crate::pod::spec;

fn number(value: Option<&UInt64Value>) -> u64 {
    value.map_or(0, |value| value.value)
}

struct Use {
    namespace: String,
    pod: String,
    uid: String,
    container: String,
    at: Timestamp,
    cpu_ns: u64,
    cpu_nano_cores: u64,
    working_set: u64,
    usage: u64,
    rss: u64,
    fs_used: u64,
}

fn used(stats: ContainerStats) -> Option<Use> {
    let attributes = stats.attributes?;
    let label = |name: &str| attributes.labels.get(name).cloned().unwrap_or_default();
    let cpu = stats.cpu.unwrap_or_default();
    let memory = stats.memory.unwrap_or_default();
    let layer = stats.writable_layer.unwrap_or_default();
    Some(Use {
        namespace: label(labels::POD_NAMESPACE),
        pod: label(labels::POD_NAME),
        uid: label(labels::POD_UID),
        container: label(labels::CONTAINER_NAME),
        at: time(cpu.timestamp).unwrap_or_else(Timestamp::now),
        cpu_ns: number(cpu.usage_core_nano_seconds.as_ref()),
        cpu_nano_cores: number(cpu.usage_nano_cores.as_ref()),
        working_set: number(memory.working_set_bytes.as_ref()),
        usage: number(memory.usage_bytes.as_ref()),
        rss: number(memory.rss_bytes.as_ref()),
        fs_used: number(layer.used_bytes.as_ref()),
    })
}

async fn all(context: &Context) -> Result<Vec<Use>, Response<Body>> {
    let stats = context.host.cri.container_stats(HashMap::new()).await;
    let stats = stats.map_err(|error| text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(stats.into_iter().filter_map(used).collect())
}

/// Summary of node and pods, as the metrics server reads it.
pub async fn summary(context: &Context) -> Response<Body> {
    let uses = match all(context).await {
        Ok(uses) => uses,
        Err(refusal) => return refusal,
    };
    let mut of_pods: HashMap<String, Vec<Use>> = HashMap::new();
    for one in uses {
        of_pods.entry(one.uid.clone()).or_default().push(one);
    }
    let pods: Vec<Value> = context
        .manager
        .pods()
        .iter()
        .map(|pod| {
            let uses = of_pods.remove(spec::uid(pod)).unwrap_or_default();
            let started = pod.status.as_ref().and_then(|status| status.start_time.clone());
            json!({
                "podRef": {"name": spec::name(pod), "namespace": spec::namespace(pod), "uid": spec::uid(pod)},
                "startTime": started,
                "containers": uses.iter().map(of_container).collect::<Vec<_>>(),
                "cpu": cpu(Timestamp::now(), sum(&uses, |u| u.cpu_nano_cores), sum(&uses, |u| u.cpu_ns)),
                "memory": memory(Timestamp::now(), &[sum(&uses, |u| u.usage), sum(&uses, |u| u.working_set), sum(&uses, |u| u.rss)]),
            })
        })
        .collect();
    document(&json!({"node": node(context), "pods": pods}))
}

fn sum(uses: &[Use], of: fn(&Use) -> u64) -> u64 {
    uses.iter().map(of).sum()
}

fn cpu(at: Timestamp, nano_cores: u64, nano_seconds: u64) -> Value {
    json!({"time": at, "usageNanoCores": nano_cores, "usageCoreNanoSeconds": nano_seconds})
}

fn memory(at: Timestamp, [usage, working_set, rss]: &[u64; 3]) -> Value {
    json!({"time": at, "usageBytes": usage, "workingSetBytes": working_set, "rssBytes": rss})
}

fn of_container(one: &Use) -> Value {
    json!({
        "name": one.container,
        "startTime": null,
        "cpu": cpu(one.at, one.cpu_nano_cores, one.cpu_ns),
        "memory": memory(one.at, &[one.usage, one.working_set, one.rss]),
        "rootfs": {"time": one.at, "usedBytes": one.fs_used},
    })
}

fn node(context: &Context) -> Value {
    let now = Timestamp::now();
    let (config, host) = (&context.host.config, &context.host);
    let available = machine::memory_available().unwrap_or(0);
    let working = u64::try_from(host.machine.memory_bytes - available).unwrap_or(0);
    let disk = machine::disk(&config.data_dir).unwrap_or_default();
    let file_system = json!({
        "time": now, "availableBytes": disk.available, "capacityBytes": disk.size,
        "usedBytes": disk.size - disk.available.min(disk.size),
        "inodes": disk.inodes, "inodesFree": disk.inodes_free,
    });
    json!({
        "nodeName": config.node_name,
        "cpu": cpu(now, 0, node_cpu_ns()),
        "memory": {"time": now, "availableBytes": available, "usageBytes": working, "workingSetBytes": working},
        "fs": file_system,
        "runtime": {"imageFs": file_system},
    })
}

/// CPU time of the whole machine, in nanoseconds, idle time left out.
fn node_cpu_ns() -> u64 {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks = stat.lines().next().map(|line| {
        let fields: Vec<u64> =
            line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
        // user nice system idle iowait irq softirq steal
        [0, 1, 2, 5, 6, 7].iter().filter_map(|at| fields.get(*at)).sum::<u64>()
    });
    ticks.unwrap_or(0).saturating_mul(10_000_000)
}

fn prometheus(body: String) -> Response<Body> {
    let mut answer = text(StatusCode::OK, body);
    let kind = http::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    answer.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    answer
}

fn seconds(nanoseconds: u64) -> f64 {
    std::time::Duration::from_nanos(nanoseconds).as_secs_f64()
}

/// Resource metrics of node, pods and containers, as the metrics server reads them.
pub async fn resource_metrics(context: &Context) -> Response<Body> {
    let uses = match all(context).await {
        Ok(uses) => uses,
        Err(refusal) => return refusal,
    };
    let mut cpu = String::from("# TYPE container_cpu_usage_seconds_total counter\n");
    let mut memory = String::from("# TYPE container_memory_working_set_bytes gauge\n");
    for one in &uses {
        let names =
            format!("container=\"{}\",namespace=\"{}\",pod=\"{}\"", one.container, one.namespace, one.pod);
        let at = one.at.as_millisecond();
        let _ = writeln!(cpu, "container_cpu_usage_seconds_total{{{names}}} {} {at}", seconds(one.cpu_ns));
        let _ = writeln!(memory, "container_memory_working_set_bytes{{{names}}} {} {at}", one.working_set);
    }
    let available = machine::memory_available().unwrap_or(0);
    let working = context.host.machine.memory_bytes - available;
    let node = format!(
        "# TYPE node_cpu_usage_seconds_total counter\nnode_cpu_usage_seconds_total {}\n\
         # TYPE node_memory_working_set_bytes gauge\nnode_memory_working_set_bytes {working}\n\
         # TYPE resource_scrape_error gauge\nresource_scrape_error 0\n",
        seconds(node_cpu_ns())
    );
    prometheus(cpu + &memory + &node)
}

/// Metrics of the kubelet itself.
pub async fn metrics(context: &Context) -> Response<Body> {
    let pods = context.manager.pods();
    let running = context.host.cri.containers(HashMap::new()).await.unwrap_or_default();
    let state = k8s_cri::v1::ContainerState::ContainerRunning as i32;
    let running = running.iter().filter(|c| c.state == state).count();
    prometheus(format!(
        "# TYPE kubelet_running_pods gauge\nkubelet_running_pods {}\n\
         # TYPE kubelet_running_containers gauge\nkubelet_running_containers{{container_state=\"running\"}} {running}\n\
         # TYPE kubelet_node_name gauge\nkubelet_node_name{{node=\"{}\"}} 1\n",
        pods.len(),
        context.host.config.node_name
    ))
}
