//! `/debug`: where the processor's time goes, what runs, what waits, and how much the log says. Only administrators may ask, by the
//! same rules as for every other path.

mod profile;

use std::fmt::Write;
use std::time::Duration;

use corten_api::{Result, Status};
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE, HeaderName, LOCATION};
use http::{Method, Request, Response, StatusCode};

use crate::ApiServer;
use crate::body::{self, Body, read_all};
use crate::query::Query;
use crate::request::RequestInfo;

const PLAIN: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
/// Go's default for a profile of the processor.
const SECONDS: u64 = 30;
/// The longest one.
const MOST_SECONDS: u64 = 600;
/// What there is below `/debug/pprof/`.
const PROFILES: &[(&str, &str)] = &[
    ("profile", "Where the processor's time goes, in pprof's form; seconds=N says for how long to look."),
    ("goroutine", "Tasks, threads, and what is answered now, as text."),
    ("heap", "Memory of the process, as text."),
    ("threadcreate", "Threads, as text."),
    ("symbol", "Names of program counters."),
];

/// Answers `/debug/…`.
///
/// Errors: 404 for what there is not.
pub(crate) async fn serve(
    server: &ApiServer,
    request: Request<Body>,
    info: &RequestInfo,
    query: &Query,
) -> Result<Response<Body>> {
    let segments: Vec<&str> = info.path.split('/').filter(|s| !s.is_empty()).skip(1).collect();
    let flow = server.flow();
    match segments.as_slice() {
        ["api_priority_and_fairness", "dump_priority_levels"] => text(flow.dump_levels()),
        ["api_priority_and_fairness", "dump_queues"] => text(flow.dump_queues()),
        ["api_priority_and_fairness", "dump_requests"] => {
            text(flow.dump_requests(!query.str("includeRequestDetails").is_empty()))
        }
        _ if !server.config().profiling => Err(Status::no_route()),
        ["flags", "v"] => verbosity(server, request).await,
        ["flags", ..] => answer(StatusCode::OK, HTML, FLAGS),
        ["pprof"] if !info.path.ends_with('/') => moved("/debug/pprof/"),
        ["pprof"] => answer(StatusCode::OK, HTML, index()),
        ["pprof", "profile"] => cpu(query).await,
        ["pprof", "goroutine"] => text(tasks(server)),
        ["pprof", "threadcreate"] => text(threads()),
        ["pprof", "heap"] => text(memory()),
        ["pprof", "symbol"] => symbols(request).await,
        ["pprof", ..] => answer(StatusCode::NOT_FOUND, PLAIN, "Unknown profile\n"),
        _ => Err(Status::no_route()),
    }
}

const FLAGS: &str = "<html>\n<head><title>/debug/flags/</title></head>\n<body>\n/debug/flags/<br>\nflags:<br>\nv<br>\n</body>\n</html>\n";

fn answer(
    code: StatusCode,
    content_type: &'static str,
    content: impl Into<bytes::Bytes>,
) -> Result<Response<Body>> {
    Response::builder()
        .status(code)
        .header(CONTENT_TYPE, content_type)
        .header(HeaderName::from_static("x-content-type-options"), "nosniff")
        .body(body::full(content))
        .map_err(Status::internal)
}

fn text(content: String) -> Result<Response<Body>> {
    answer(StatusCode::OK, PLAIN, content)
}

fn moved(to: &'static str) -> Result<Response<Body>> {
    let mut response = answer(StatusCode::FOUND, HTML, format!("<a href=\"{to}\">Found</a>.\n"))?;
    response.headers_mut().insert(LOCATION, http::HeaderValue::from_static(to));
    Ok(response)
}

fn index() -> String {
    let mut page = String::from("<html>\n<head><title>/debug/pprof/</title></head>\n<body>\n<table>\n");
    for (name, what) in PROFILES {
        let _ = writeln!(page, "<tr><td><a href=\"{name}\">{name}</a></td><td>{what}</td></tr>");
    }
    page + "</table>\n</body>\n</html>\n"
}

/// `PUT /debug/flags/v` with a number.
async fn verbosity(server: &ApiServer, request: Request<Body>) -> Result<Response<Body>> {
    if request.method() != Method::PUT {
        return answer(StatusCode::NOT_ACCEPTABLE, "text/plain", "unsupported http method\n");
    }
    let body = read_all(request.into_body()).await?;
    let asked = String::from_utf8_lossy(&body).into_owned();
    let set = |level: u32| match &server.config().verbosity {
        Some(set) => set(level),
        None => Err("the log of this process cannot be changed".to_owned()),
    };
    let outcome = asked.trim().parse::<u32>().map_err(|e| format!("parsing {asked:?}: {e}")).and_then(set);
    match outcome {
        Ok(()) => {
            let said = format!("successfully set klog.logging.verbosity to {}\n", asked.trim());
            answer(StatusCode::OK, "text/plain", said)
        }
        Err(why) => answer(StatusCode::BAD_REQUEST, "text/plain", format!("{why}\n")),
    }
}

async fn cpu(query: &Query) -> Result<Response<Body>> {
    let seconds = query.str("seconds").parse().ok().filter(|s| *s > 0).unwrap_or(SECONDS);
    if seconds > MOST_SECONDS {
        let why = format!("a profile takes at most {MOST_SECONDS} seconds\n");
        return answer(StatusCode::BAD_REQUEST, PLAIN, why);
    }
    match profile::take(Duration::from_secs(seconds)).await {
        Ok(profile) => {
            let mut response = answer(StatusCode::OK, "application/octet-stream", profile)?;
            let name = http::HeaderValue::from_static("attachment; filename=\"profile\"");
            response.headers_mut().insert(CONTENT_DISPOSITION, name);
            Ok(response)
        }
        Err(why) => {
            let why = format!("Could not enable CPU profiling: {why}\n");
            answer(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, why)
        }
    }
}

/// Tasks have no stacks of their own: how many there are, what they serve, and the threads that run them.
fn tasks(server: &ApiServer) -> String {
    let runtime = tokio::runtime::Handle::current().metrics();
    let (reads, writes) = server.in_flight();
    let mut out = format!("tasks: {}\n", runtime.num_alive_tasks());
    let _ = writeln!(out, "workers: {}", runtime.num_workers());
    let _ = writeln!(out, "tasks that wait for a worker: {}", runtime.global_queue_depth());
    let _ = writeln!(out, "requests that read: {reads}\nrequests that write: {writes}");
    let _ = writeln!(out, "watches: {}\n", server.metrics().watches());
    out + &threads()
}

/// Threads by name and state.
fn threads() -> String {
    let entries = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let mut lines = Vec::new();
    for entry in entries {
        let read = |file: &str| std::fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        let state = read("stat").rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).unwrap_or('?');
        lines.push(format!("{} {} {state}", entry.file_name().to_string_lossy(), read("comm").trim_end()));
    }
    lines.sort();
    format!("threads: {}\n{}\n", lines.len(), lines.join("\n"))
}

/// What the kernel says of the process's memory; the allocator keeps no profile.
fn memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let wanted = ["VmPeak", "VmSize", "VmHWM", "VmRSS", "RssAnon", "RssFile", "VmData", "VmStk"];
    let is_wanted = |line: &&str| wanted.iter().any(|name| line.starts_with(name));
    let lines: Vec<&str> = status.lines().filter(is_wanted).collect();
    lines.join("\n") + "\n"
}

/// `0x1+0x2` in the body or the query, as pprof asks.
async fn symbols(request: Request<Body>) -> Result<Response<Body>> {
    let asked = match request.method() {
        &Method::POST => String::from_utf8_lossy(&read_all(request.into_body()).await?).into_owned(),
        _ => request.uri().query().unwrap_or_default().to_owned(),
    };
    let mut out = String::from("num_symbols: 1\n");
    for word in asked.split('+').take(profile::MOST_ADDRESSES) {
        let address = word.trim().trim_start_matches("0x");
        if let Some(name) = u64::from_str_radix(address, 16).ok().and_then(profile::name) {
            let _ = writeln!(out, "0x{address} {name}");
        }
    }
    text(out)
}
