//! A few figures under upstream's names, written by hand: counters by verb and resource, latencies, requests in flight.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use corten_api::kinds::Snapshot;

use crate::ApiServer;
use crate::request::RequestInfo;

/// Most label sets that are kept apart; kinds times verbs times codes stay far below it.
const MAX_SERIES: usize = 4096;
/// Upper bounds of the latency buckets in seconds (a part of upstream's).
const BUCKETS: [f64; 10] = [0.001, 0.005, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 30.0];

/// What a request is counted under.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Labels {
    verb: &'static str,
    group: String,
    version: String,
    resource: String,
    subresource: String,
}

#[derive(Debug, Default)]
struct Latency {
    buckets: [u64; BUCKETS.len()],
    count: u64,
    seconds: f64,
}

#[derive(Debug, Default)]
struct Tables {
    requests: BTreeMap<(Labels, u16), u64>,
    latencies: BTreeMap<Labels, Latency>,
}

/// All figures of one server.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    tables: Mutex<Tables>,
    watchers: Arc<AtomicI64>,
    dropped: AtomicU64,
}

/// Counts one open watch for as long as it lives.
#[derive(Debug)]
pub(crate) struct OpenWatch(Arc<AtomicI64>);

impl Drop for OpenWatch {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Metrics {
    /// Counts a finished request.
    pub fn observe(&self, labels: Labels, code: u16, took: Duration) {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if tables.requests.len() >= MAX_SERIES {
            tables.requests.clear();
            tables.latencies.clear();
        }
        let seconds = took.as_secs_f64();
        let latency = tables.latencies.entry(labels.clone()).or_default();
        latency.count += 1;
        latency.seconds += seconds;
        for (bucket, bound) in latency.buckets.iter_mut().zip(BUCKETS) {
            *bucket += u64::from(seconds <= bound);
        }
        *tables.requests.entry((labels, code)).or_default() += 1;
    }

    /// Counts a request that found no place.
    pub fn dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// How many watches are open.
    pub fn watches(&self) -> i64 {
        self.watchers.load(Ordering::Relaxed)
    }

    /// Counts a watch while the guard lives.
    pub fn watcher(&self, _info: &RequestInfo) -> OpenWatch {
        self.watchers.fetch_add(1, Ordering::Relaxed);
        OpenWatch(self.watchers.clone())
    }
}

/// The text of `/metrics`.
pub(crate) fn text(server: &ApiServer) -> String {
    let mut out = String::with_capacity(16 * 1024);
    let metrics = server.metrics();
    let (reads, writes) = server.in_flight();
    let stats = server.config().store.stats();
    let gauges: [(&str, &str, String); 8] = [
        ("apiserver_current_inflight_requests{request_kind=\"readOnly\"}", "gauge", reads.to_string()),
        ("apiserver_current_inflight_requests{request_kind=\"mutating\"}", "gauge", writes.to_string()),
        (
            "apiserver_longrunning_requests{verb=\"WATCH\"}",
            "gauge",
            metrics.watchers.load(Ordering::Relaxed).to_string(),
        ),
        ("apiserver_dropped_requests_total", "counter", metrics.dropped.load(Ordering::Relaxed).to_string()),
        ("apiserver_storage_size_bytes", "gauge", stats.bytes.to_string()),
        ("corten_store_keys", "gauge", stats.keys.to_string()),
        ("corten_store_revision", "gauge", stats.revision.to_string()),
        ("corten_store_batches_total", "counter", stats.batches.to_string()),
    ];
    let mut last = "";
    for (name, kind, value) in &gauges {
        let base = name.split('{').next().unwrap_or_default();
        if base != last {
            let _ = writeln!(out, "# TYPE {base} {kind}");
            last = base;
        }
        let _ = writeln!(out, "{name} {value}");
    }
    write_requests(metrics, &mut out);
    write_flow(server, &mut out);
    write_process(&mut out);
    out
}

/// The kernel counts a process's time in hundredths of a second.
const TICKS_PER_SECOND: f64 = 100.0;
/// And its memory in pages.
const PAGE_BYTES: u64 = 4096;

/// What every Prometheus client tells of its process, as far as the kernel says it.
fn write_process(out: &mut String) {
    let build = crate::VERSION;
    let _ = writeln!(out, "# TYPE kubernetes_build_info gauge");
    let _ = writeln!(out, "kubernetes_build_info{{git_version=\"{build}\",major=\"1\",minor=\"37\"}} 1");
    let read = |file: &str| std::fs::read_to_string(format!("/proc/self/{file}")).unwrap_or_default();
    let stat = read("stat");
    // The second field is the program's name in brackets, which may hold spaces.
    let fields: Vec<&str> =
        stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
    let ticks = |at: usize| fields.get(at).and_then(|t| t.parse::<f64>().ok()).unwrap_or(0.0);
    let seconds = (ticks(11) + ticks(12)) / TICKS_PER_SECOND;
    let resident = read("statm").split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
    let descriptors = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    for (name, kind, value) in [
        ("process_cpu_seconds_total", "counter", seconds.to_string()),
        ("process_resident_memory_bytes", "gauge", (resident.unwrap_or(0) * PAGE_BYTES).to_string()),
        ("process_open_fds", "gauge", descriptors.to_string()),
    ] {
        let _ = writeln!(out, "# TYPE {name} {kind}\n{name} {value}");
    }
}

fn write_flow(server: &ApiServer, out: &mut String) {
    let figures = server.flow().figures();
    let mut all = |name: &str, kind: &str, of: fn(&crate::flow::Figures) -> u64| {
        let _ = writeln!(out, "# TYPE apiserver_flowcontrol_{name} {kind}");
        for level in &figures {
            let _ = writeln!(
                out,
                "apiserver_flowcontrol_{name}{{priority_level=\"{}\"}} {}",
                level.level,
                of(level)
            );
        }
    };
    all("nominal_limit_seats", "gauge", |level| level.nominal);
    all("upper_limit_seats", "gauge", |level| level.limit);
    all("current_executing_seats", "gauge", |level| level.taken);
    all("current_inqueue_requests", "gauge", |level| level.waiting as u64);
    all("dispatched_requests_total", "counter", |level| level.served);
    let _ = writeln!(out, "# TYPE apiserver_flowcontrol_rejected_requests_total counter");
    for level in &figures {
        for (why, count) in &level.refused {
            let _ = writeln!(
                out,
                "apiserver_flowcontrol_rejected_requests_total{{priority_level=\"{}\",reason=\"{why}\"}} {count}",
                level.level
            );
        }
    }
}

fn write_requests(metrics: &Metrics, out: &mut String) {
    let tables = metrics.tables.lock().unwrap_or_else(PoisonError::into_inner);
    let _ = writeln!(out, "# TYPE apiserver_request_total counter");
    for ((labels, code), count) in &tables.requests {
        let _ = writeln!(out, "apiserver_request_total{{{},code=\"{code}\"}} {count}", labels.text());
    }
    let _ = writeln!(out, "# TYPE apiserver_request_duration_seconds histogram");
    for (labels, latency) in &tables.latencies {
        let text = labels.text();
        for (bound, count) in BUCKETS.iter().zip(latency.buckets) {
            let _ =
                writeln!(out, "apiserver_request_duration_seconds_bucket{{{text},le=\"{bound}\"}} {count}");
        }
        let (count, seconds) = (latency.count, latency.seconds);
        let _ = writeln!(out, "apiserver_request_duration_seconds_bucket{{{text},le=\"+Inf\"}} {count}");
        let _ = writeln!(out, "apiserver_request_duration_seconds_sum{{{text}}} {seconds}");
        let _ = writeln!(out, "apiserver_request_duration_seconds_count{{{text}}} {count}");
    }
}

impl Labels {
    /// What a request is counted under. Anybody may ask for anything, and it is counted before it is known who asks: only
    /// what is served has a name here.
    pub fn new(info: &RequestInfo, kinds: &Snapshot) -> Self {
        let unknown = Labels { verb: info.verb, ..Labels::default() };
        let Some(kind) = kinds.resource(&info.group, &info.version, &info.resource) else { return unknown };
        let subresource = kind.subresource(&info.subresource).map_or("", |_| &info.subresource);
        Labels {
            group: info.group.clone(),
            version: info.version.clone(),
            resource: info.resource.clone(),
            subresource: subresource.to_owned(),
            ..unknown
        }
    }

    fn text(&self) -> String {
        let clean = |t: &str| t.replace(['"', '\\', '\n'], "_");
        format!(
            "verb=\"{}\",group=\"{}\",version=\"{}\",resource=\"{}\",subresource=\"{}\"",
            self.verb.to_uppercase(),
            clean(&self.group),
            clean(&self.version),
            clean(&self.resource),
            clean(&self.subresource)
        )
    }
}
