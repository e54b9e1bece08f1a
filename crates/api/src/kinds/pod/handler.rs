//! Validation of probes and lifecycle handlers.

use super::spec::Scope;
use crate::Value;
use crate::field::{Error, Path};
use crate::kinds::look::{
    Errors, given, int, int_or_zero, items, not_negative, port_or_name, required, text,
};
use crate::rules::{self, invalid_each};

/// `livenessProbe`, `readinessProbe`, `startupProbe`.
pub(super) fn probe(errors: &mut Errors, probe: &Value, kind: &str, scope: &Scope<'_>, path: &Path<'_>) {
    handler(errors, probe, &["exec", "httpGet", "tcpSocket", "grpc"], scope, path);
    for field in
        ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
    {
        not_negative(errors, probe, field, path);
    }
    let grace = int(probe, "terminationGracePeriodSeconds");
    let grace_path = path.child("terminationGracePeriodSeconds");
    if let Some(seconds) = grace.filter(|s| *s <= 0) {
        errors.push(Error::invalid(&grace_path, seconds, "must be greater than 0"));
    }
    if kind == "readinessProbe" {
        if let Some(seconds) = grace {
            errors.push(Error::invalid(&grace_path, seconds, "must not be set for readinessProbes"));
        }
    } else if int_or_zero(probe, "successThreshold") != 1 {
        let threshold = int_or_zero(probe, "successThreshold");
        errors.push(Error::invalid(&path.child("successThreshold"), threshold, "must be 1"));
    }
}

/// `lifecycle`
pub(super) fn lifecycle(errors: &mut Errors, lifecycle: &Value, scope: &Scope<'_>, path: &Path<'_>) {
    for event in ["postStart", "preStop"] {
        if let Some(action) = given(lifecycle, event) {
            handler(errors, action, &["exec", "httpGet", "tcpSocket", "sleep"], scope, &path.child(event));
        }
    }
    if let Some(signal) = given(lifecycle, "stopSignal").and_then(Value::as_str) {
        stop_signal(errors, signal, scope, &path.child("stopSignal"));
    }
}

fn handler(errors: &mut Errors, handler: &Value, kinds: &[&str], scope: &Scope<'_>, path: &Path<'_>) {
    let mut seen = false;
    for &kind in kinds {
        let Some(action) = given(handler, kind) else { continue };
        let path = path.child(kind);
        if seen {
            errors.push(Error::forbidden(&path, "may not specify more than 1 handler type"));
            continue;
        }
        seen = true;
        match kind {
            "exec" if items(action, "command").is_empty() => {
                errors.push(Error::required(&path.child("command"), ""))
            }
            "httpGet" => http_get(errors, action, &path),
            "tcpSocket" => port_or_name(errors, action.get("port"), &path.child("port")),
            "grpc" => {
                let port = int_or_zero(action, "port");
                invalid_each(errors, &path.child("port"), port, rules::port_number(port));
            }
            "sleep" => sleep(errors, int_or_zero(action, "seconds"), scope, &path),
            _ => {}
        }
    }
    if !seen {
        errors.push(Error::required(path, "must specify a handler type"));
    }
}

fn http_get(errors: &mut Errors, action: &Value, path: &Path<'_>) {
    required(errors, action, "path", path);
    port_or_name(errors, action.get("port"), &path.child("port"));
    let scheme = text(action, "scheme");
    if !matches!(scheme, "HTTP" | "HTTPS") {
        errors.push(Error::not_supported(&path.child("scheme"), scheme, &["HTTP", "HTTPS"]));
    }
    for header in items(action, "httpHeaders") {
        let name = text(header, "name");
        invalid_each(errors, &path.child("httpHeaders"), name, rules::http_header_name(name));
    }
}

fn sleep(errors: &mut Errors, seconds: i64, scope: &Scope<'_>, path: &Path<'_>) {
    if let Some(grace) = scope.grace_seconds.filter(|grace| seconds < 0 || seconds > *grace) {
        let detail = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        errors.push(Error::invalid(path, seconds, detail));
    }
}

const SIGNALS: &[&str] = &[
    "SIGABRT",
    "SIGALRM",
    "SIGBUS",
    "SIGCHLD",
    "SIGCLD",
    "SIGCONT",
    "SIGFPE",
    "SIGHUP",
    "SIGILL",
    "SIGINT",
    "SIGIO",
    "SIGIOT",
    "SIGKILL",
    "SIGPIPE",
    "SIGPOLL",
    "SIGPROF",
    "SIGPWR",
    "SIGQUIT",
    "SIGRTMAX",
    "SIGRTMAX-1",
    "SIGRTMAX-10",
    "SIGRTMAX-11",
    "SIGRTMAX-12",
    "SIGRTMAX-13",
    "SIGRTMAX-14",
    "SIGRTMAX-2",
    "SIGRTMAX-3",
    "SIGRTMAX-4",
    "SIGRTMAX-5",
    "SIGRTMAX-6",
    "SIGRTMAX-7",
    "SIGRTMAX-8",
    "SIGRTMAX-9",
    "SIGRTMIN",
    "SIGRTMIN+1",
    "SIGRTMIN+10",
    "SIGRTMIN+11",
    "SIGRTMIN+12",
    "SIGRTMIN+13",
    "SIGRTMIN+14",
    "SIGRTMIN+15",
    "SIGRTMIN+2",
    "SIGRTMIN+3",
    "SIGRTMIN+4",
    "SIGRTMIN+5",
    "SIGRTMIN+6",
    "SIGRTMIN+7",
    "SIGRTMIN+8",
    "SIGRTMIN+9",
    "SIGSEGV",
    "SIGSTKFLT",
    "SIGSTOP",
    "SIGSYS",
    "SIGTERM",
    "SIGTRAP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGUSR1",
    "SIGUSR2",
    "SIGVTALRM",
    "SIGWINCH",
    "SIGXCPU",
    "SIGXFSZ",
];

fn stop_signal(errors: &mut Errors, signal: &str, scope: &Scope<'_>, path: &Path<'_>) {
    let supported = match scope.os {
        None => {
            errors.push(Error::forbidden(path, "may not be set for containers with empty `spec.os.name`"));
            return;
        }
        Some("windows") => &["SIGKILL", "SIGTERM"],
        Some("linux") => SIGNALS,
        Some(_) => return,
    };
    if !supported.contains(&signal) {
        errors.push(Error::not_supported(path, signal, supported));
    }
}
