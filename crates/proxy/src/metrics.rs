//! Figures of the proxy under upstream's names, in Prometheus' text form.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use corten_client::k8s_openapi::jiff::Timestamp;

use crate::backend::Mode;

/// Bounds of the first bucket of a sync and the factor from one to the next, in seconds; 15 buckets.
const FIRST_SYNC_BOUND: f64 = 0.001;
const SYNC_BUCKETS: i32 = 15;

/// All figures of one proxy.
#[derive(Debug)]
pub(crate) struct Metrics {
    mode: Mode,
    figures: Mutex<Figures>,
}

#[derive(Debug)]
struct Figures {
    every: Histogram,
    full: Histogram,
    partial: Histogram,
    programming: Histogram,
    synced: Option<Timestamp>,
    queued: Option<Timestamp>,
    services: Counted,
    endpoints: Counted,
    failures: u64,
    repairs: u64,
    /// By what stands after the last underscore: `healthz` and `livez`, and status code.
    asked: BTreeMap<(&'static str, u16), u64>,
}

/// Changes so far, and those of them that are not carried out.
#[derive(Debug, Default)]
struct Counted {
    total: u64,
    pending: u64,
}

#[derive(Debug)]
struct Histogram {
    bounds: Vec<f64>,
    counts: Vec<u64>,
    count: u64,
    sum: f64,
}

impl Histogram {
    fn new(bounds: Vec<f64>) -> Self {
        Histogram { counts: vec![0; bounds.len()], bounds, count: 0, sum: 0.0 }
    }

    fn of_syncs() -> Self {
        Histogram::new((0..SYNC_BUCKETS).map(|n| FIRST_SYNC_BOUND * 2f64.powi(n)).collect())
    }

    fn of_programming() -> Self {
        let seconds = (1..60).chain((60..=115).step_by(5)).chain((120..=300).step_by(30)).map(f64::from);
        Histogram::new([0.0, 0.25, 0.5].into_iter().chain(seconds).collect())
    }

    fn observe(&mut self, seconds: f64) {
        self.count += 1;
        self.sum += seconds;
        for (count, bound) in self.counts.iter_mut().zip(&self.bounds) {
            *count += u64::from(seconds <= *bound);
        }
    }
}

impl Metrics {
    pub(crate) fn new(mode: Mode) -> Self {
        let figures = Figures {
            every: Histogram::of_syncs(),
            full: Histogram::of_syncs(),
            partial: Histogram::of_syncs(),
            programming: Histogram::of_programming(),
            synced: None,
            queued: None,
            services: Counted::default(),
            endpoints: Counted::default(),
            failures: 0,
            repairs: 0,
            asked: BTreeMap::new(),
        };
        Metrics { mode, figures: Mutex::new(figures) }
    }

    fn figures(&self) -> MutexGuard<'_, Figures> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A service changed in the API.
    pub(crate) fn service_changed(&self, at: Timestamp) {
        let mut figures = self.figures();
        figures.queued = Some(at);
        figures.services.add();
    }

    /// A slice changed in the API.
    pub(crate) fn endpoints_changed(&self, at: Timestamp) {
        let mut figures = self.figures();
        figures.queued = Some(at);
        figures.endpoints.add();
    }

    /// A sync is done that took so long. `triggers` say when what it carries out happened in the cluster.
    pub(crate) fn synced(&self, is_full: bool, took: Duration, now: Timestamp, triggers: &[Timestamp]) {
        let mut figures = self.figures();
        let seconds = took.as_secs_f64();
        figures.every.observe(seconds);
        if is_full {
            figures.full.observe(seconds)
        } else {
            figures.partial.observe(seconds)
        }
        for trigger in triggers {
            figures.programming.observe(now.duration_since(*trigger).as_secs_f64().max(0.0));
        }
        figures.synced = Some(now);
        (figures.services.pending, figures.endpoints.pending) = (0, 0);
    }

    /// A sync did not get through.
    pub(crate) fn failed(&self) {
        self.figures().failures += 1;
    }

    /// Somebody else changed what is ours.
    pub(crate) fn disturbed(&self) {
        self.figures().repairs += 1;
    }

    /// Somebody asked for health.
    pub(crate) fn asked(&self, path: &str, status: u16) {
        let Some(kind) = ["healthz", "livez"].into_iter().find(|kind| path.strip_prefix('/') == Some(kind))
        else {
            return;
        };
        *self.figures().asked.entry((kind, status)).or_default() += 1;
    }

    /// As Prometheus reads it.
    pub(crate) fn text(&self) -> String {
        let figures = self.figures();
        let mut text = Text::default();
        let prefix = "sync_proxy_rules";
        text.histogram(&format!("{prefix}_duration_seconds"), "Time that a sync took.", &figures.every);
        text.histogram(
            "sync_full_proxy_rules_duration_seconds",
            "Time that a full sync took.",
            &figures.full,
        );
        let help = "Time that a sync of what changed took.";
        text.histogram("sync_partial_proxy_rules_duration_seconds", help, &figures.partial);
        let help = "Time from a change in the cluster to its being carried out here.";
        text.histogram("network_programming_duration_seconds", help, &figures.programming);
        let seconds = |at: Option<Timestamp>| at.map_or(0.0, |at| at.as_duration().as_secs_f64());
        let help = "When rules were brought up to date last.";
        text.value(&format!("{prefix}_last_timestamp_seconds"), "gauge", help, "", seconds(figures.synced));
        let help = "When a change came in last.";
        text.value(
            &format!("{prefix}_last_queued_timestamp_seconds"),
            "gauge",
            help,
            "",
            seconds(figures.queued),
        );
        for (name, counted) in [("service", &figures.services), ("endpoint", &figures.endpoints)] {
            let name = format!("{prefix}_{name}_changes");
            text.value(&format!("{name}_pending"), "gauge", "Changes that wait.", "", counted.pending as f64);
            text.value(&format!("{name}_total"), "counter", "Changes so far.", "", counted.total as f64);
        }
        let failures = match self.mode {
            Mode::Nftables => "nftables_sync_failures_total",
            Mode::Iptables => "iptables_restore_failures_total",
            Mode::Ipvs | Mode::Userspace => "failures_total",
        };
        let help = "Syncs that did not get through.";
        text.value(&format!("{prefix}_{failures}"), "counter", help, "", figures.failures as f64);
        let help = "Syncs because somebody else changed rules of the proxy.";
        text.value(&format!("{prefix}_repairs_total"), "counter", help, "", figures.repairs as f64);
        for kind in ["healthz", "livez"] {
            let name = format!("proxy_{kind}_total");
            let mut of_kind = figures.asked.iter().filter(|((k, _), _)| *k == kind).peekable();
            if of_kind.peek().is_some() {
                text.head(&name, "counter", "Answers about the proxy's health.");
            }
            for ((_, code), count) in of_kind {
                text.line(&name, &format!("{{code=\"{code}\"}}"), *count as f64);
            }
        }
        text.out
    }
}

impl Counted {
    fn add(&mut self) {
        self.total += 1;
        self.pending += 1;
    }
}

/// The text form, line by line.
#[derive(Default)]
struct Text {
    out: String,
}

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.out, "# HELP kubeproxy_{name} {help}\n# TYPE kubeproxy_{name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &str, value: f64) {
        let _ = writeln!(self.out, "kubeproxy_{name}{labels} {value}");
    }

    fn value(&mut self, name: &str, kind: &str, help: &str, labels: &str, value: f64) {
        self.head(name, kind, help);
        self.line(name, labels, value);
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.head(name, "histogram", help);
        for (bound, count) in histogram.bounds.iter().zip(&histogram.counts) {
            self.line(&format!("{name}_bucket"), &format!("{{le=\"{bound}\"}}"), *count as f64);
        }
        self.line(&format!("{name}_bucket"), "{le=\"+Inf\"}", histogram.count as f64);
        self.line(&format!("{name}_sum"), "", histogram.sum);
        self.line(&format!("{name}_count"), "", histogram.count as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_upstreams_names() {
        let metrics = Metrics::new(Mode::Nftables);
        let at = Timestamp::from_second(1_000).unwrap();
        metrics.service_changed(at);
        metrics.endpoints_changed(at);
        metrics.endpoints_changed(at);
        let now = Timestamp::from_second(1_003).unwrap();
        metrics.synced(true, Duration::from_millis(3), now, &[at]);
        metrics.endpoints_changed(now);
        metrics.synced(false, Duration::from_millis(1), now, &[]);
        metrics.failed();
        metrics.asked("/healthz", 200);
        metrics.asked("/elsewhere", 404);
        metrics.endpoints_changed(now);
        let text = metrics.text();
        for line in [
            "# TYPE kubeproxy_sync_proxy_rules_duration_seconds histogram",
            "kubeproxy_sync_proxy_rules_duration_seconds_bucket{le=\"0.001\"} 1",
            "kubeproxy_sync_proxy_rules_duration_seconds_bucket{le=\"0.004\"} 2",
            "kubeproxy_sync_proxy_rules_duration_seconds_bucket{le=\"+Inf\"} 2",
            "kubeproxy_sync_full_proxy_rules_duration_seconds_count 1",
            "kubeproxy_sync_partial_proxy_rules_duration_seconds_count 1",
            "kubeproxy_network_programming_duration_seconds_bucket{le=\"2\"} 0",
            "kubeproxy_network_programming_duration_seconds_bucket{le=\"3\"} 1",
            "kubeproxy_sync_proxy_rules_last_timestamp_seconds 1003",
            "kubeproxy_sync_proxy_rules_service_changes_total 1",
            "kubeproxy_sync_proxy_rules_endpoint_changes_total 4",
            "kubeproxy_sync_proxy_rules_endpoint_changes_pending 1",
            "kubeproxy_sync_proxy_rules_nftables_sync_failures_total 1",
            "kubeproxy_proxy_healthz_total{code=\"200\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        assert!(!text.contains("livez_total"));
    }
}
