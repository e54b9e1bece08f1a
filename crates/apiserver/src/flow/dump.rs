//! What priority and fairness does at this moment, as upstream prints it for debugging: a row a level, a queue or a request. Needless
//! columns of upstream's algorithm are there and empty. Requests that need no seat are counted, not listed.

use std::fmt::Write;

use http::Method;
use jiff::Timestamp;

use super::Flow;
use super::seats::{Asked, LevelDump};
use crate::query::Query;
use crate::request::RequestInfo;

/// Upstream's zero of its virtual time, and of real time.
const NO_WORK: &str = "0.00000000ss";
const NEVER: &str = "0001-01-01T00:00:00Z";
/// A column is at least so wide.
const COLUMN: usize = 8;

const LEVELS: &[&str] = &[
    "PriorityLevelName",
    "ActiveQueues",
    "IsIdle",
    "IsQuiescing",
    "WaitingRequests",
    "ExecutingRequests",
    "DispatchedRequests",
    "RejectedRequests",
    "TimedoutRequests",
    "CancelledRequests",
];
const QUEUES: &[&str] = &[
    "PriorityLevelName",
    "Index",
    "PendingRequests",
    "ExecutingRequests",
    "SeatsInUse",
    "NextDispatchR",
    "InitialSeatsSum",
    "MaxSeatsSum",
    "TotalWorkSum",
];
const REQUESTS: &[&str] = &[
    "PriorityLevelName",
    "FlowSchemaName",
    "QueueIndex",
    "RequestIndexInQueue",
    "FlowDistingsher",
    "ArriveTime",
    "InitialSeats",
    "FinalSeats",
    "AdditionalLatency",
    "StartTime",
];
const DETAILS: &[&str] =
    &["UserName", "Verb", "APIPath", "Namespace", "Name", "APIVersion", "Resource", "SubResource"];

type Row = Vec<String>;

impl Flow {
    /// A row a level.
    pub fn dump_levels(&self) -> String {
        let (running, served) = self.exempt.counts();
        let exempt = LevelDump { name: "exempt".into(), taken: running, served, ..LevelDump::default() };
        let mut levels = self.seats.dump();
        levels.push(exempt);
        levels.sort_by(|a, b| a.name.cmp(&b.name));
        table(LEVELS, levels.iter().map(level_row).collect())
    }

    /// A row a queue.
    pub fn dump_queues(&self) -> String {
        let mut rows = Vec::new();
        for level in self.seats.dump() {
            for (index, queue) in level.queues.iter().enumerate() {
                let (waiting, running) = (queue.waiting.len().to_string(), queue.running.len().to_string());
                let sums = [waiting.clone(), waiting.clone(), NO_WORK.to_owned()];
                let mut row =
                    vec![level.name.to_string(), index.to_string(), waiting, running.clone(), running];
                row.push(NO_WORK.to_owned());
                row.extend(sums);
                rows.push(row);
            }
        }
        table(QUEUES, rows)
    }

    /// A row a request that waits or has a seat.
    pub fn dump_requests(&self, details: bool) -> String {
        let mut rows = Vec::new();
        for level in self.seats.dump() {
            let mut add = |queue: Option<usize>, place: Option<usize>, asked: &Asked| {
                rows.push(request_row(&level.name, queue, place, asked, details));
            };
            for (index, queue) in level.queues.iter().enumerate() {
                queue.waiting.iter().enumerate().for_each(|(at, asked)| add(Some(index), Some(at), asked));
                queue.running.iter().for_each(|asked| add(Some(index), None, asked));
            }
            level.queueless.iter().for_each(|asked| add(None, None, asked));
        }
        let more = if details { DETAILS } else { &[] };
        table(&[REQUESTS, more].concat(), rows)
    }
}

fn level_row(level: &LevelDump) -> Row {
    let active = level.queues.iter().filter(|queue| !queue.waiting.is_empty()).count();
    let idle = level.taken == 0 && level.waiting == 0;
    let counts = [level.waiting as u64, level.taken, level.served, level.rejected, level.timed_out];
    let mut row = vec![level.name.to_string(), active.to_string(), idle.to_string(), level.gone.to_string()];
    row.extend(counts.map(|count| count.to_string()));
    row.push(level.cancelled.to_string());
    row
}

fn request_row(level: &str, queue: Option<usize>, place: Option<usize>, asked: &Asked, details: bool) -> Row {
    let index = |at: Option<usize>| at.map_or_else(|| "-1".to_owned(), |at| at.to_string());
    let arrived =
        Timestamp::from_millisecond(asked.arrived_ms).map_or_else(|_| NEVER.into(), |t| t.to_string());
    let started = if place.is_none() { arrived.clone() } else { NEVER.to_owned() };
    let info = RequestInfo::new(&Method::GET, &asked.path, &Query::default());
    let distinguisher = asked.matched.distinguisher(&asked.user, &info).to_owned();
    let mut row = vec![level.to_owned(), asked.matched.schema.clone(), index(queue), index(place)];
    row.extend([distinguisher, arrived, "1".into(), "0".into(), "0s".into(), started]);
    if details {
        let version = match info.group.as_str() {
            "" => info.version.clone(),
            group => format!("{group}/{}", info.version),
        };
        row.extend([asked.user.name.clone(), asked.verb.to_owned(), info.path, info.namespace]);
        row.extend([info.name, version, info.resource, info.subresource]);
    }
    row
}

/// Columns side by side, with a comma after each but the last.
fn table(heads: &[&str], rows: Vec<Row>) -> String {
    let heads: Row = heads.iter().map(|head| (*head).to_owned()).collect();
    let width = |at: usize| {
        let cells = rows.iter().chain([&heads]).filter_map(|row| row.get(at));
        cells.map(|cell| cell.chars().count() + 2).max().unwrap_or(0).max(COLUMN)
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let mut out = String::new();
    for row in [&heads].into_iter().chain(&rows) {
        for (at, cell) in row.iter().enumerate() {
            if at + 1 == row.len() {
                out.push_str(cell);
            } else {
                let _ = write!(out, "{:<1$}", format!("{cell},"), widths[at]);
            }
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::metrics::Metrics;
    use crate::user::User;

    #[tokio::test]
    async fn who_sits_and_who_does_not() {
        let flow = Flow::new(600);
        let info = RequestInfo::new(&Method::GET, "/api/v1/namespaces/a/pods/p", &Query::default());
        let metrics = Metrics::default();
        let mut seats = Vec::new();
        for user in [User::new("me", [""; 0]), User::apiserver()] {
            let matched = flow.classify(&user, &info);
            seats.push(flow.seat(&matched, &Arc::new(user), &info, &metrics, 1_000).await.unwrap());
        }
        let line = |text: String, begin: &str| {
            let line = text.lines().find(|line| line.starts_with(begin)).unwrap_or_default().to_owned();
            line.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            line(flow.dump_levels(), "global-default"),
            "global-default, 0, false, false, 0, 1, 1, 0, 0, 0"
        );
        assert_eq!(line(flow.dump_levels(), "exempt"), "exempt, 0, false, false, 0, 1, 1, 0, 0, 0");
        assert_eq!(line(flow.dump_levels(), "system"), "system, 0, true, false, 0, 0, 0, 0, 0, 0");
        assert_eq!(
            line(flow.dump_queues(), "global-default"),
            "global-default, 0, 0, 0, 0, 0.00000000ss, 0, 0, 0.00000000ss"
        );
        let time = "1970-01-01T00:00:01Z";
        assert_eq!(
            line(flow.dump_requests(true), "global-default"),
            format!(
                "global-default, global-default, -1, -1, me, {time}, 1, 0, 0s, {time}, me, get, \
                 /api/v1/namespaces/a/pods/p, a, p, v1, pods,"
            )
        );
        assert_eq!(flow.dump_requests(false).lines().count(), 2);
        drop(seats);
        assert_eq!(flow.dump_requests(false).lines().count(), 1);
        assert_eq!(line(flow.dump_levels(), "exempt"), "exempt, 0, true, false, 0, 0, 1, 0, 0, 0");
    }

    #[test]
    fn columns_stand_below_each_other() {
        let text = table(&["A", "LongerName", "B"], vec![vec!["x".into(), "y".into(), "z".into()]]);
        assert_eq!(text, "A,      LongerName, B\nx,      y,          z\n");
    }
}
