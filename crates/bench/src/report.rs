//! Measurements and the table they are printed in.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::process::Usage;

/// Latencies in microseconds; four bytes each, because a fan-out has millions of them.
#[derive(Clone, Debug, Default)]
pub struct Latencies(Vec<u32>);

impl Latencies {
    pub fn add(&mut self, latency: Duration) {
        self.0.push(u32::try_from(latency.as_micros()).unwrap_or(u32::MAX));
    }

    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// For percentiles.
    pub fn sort(&mut self) {
        self.0.sort_unstable();
    }

    /// The smallest latency that so many percent of all do not exceed, in milliseconds; the latencies must be sorted.
    pub fn percentile_ms(&self, percent: usize) -> Option<f64> {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0.get(rank - 1).map(|us| f64::from(*us) / 1000.0)
    }
}

/// One measurement.
#[derive(Clone, Debug, Default)]
pub struct Row {
    name: String,
    latencies: Latencies,
    errors: usize,
    first_error: Option<String>,
    elapsed: Duration,
    usage: Option<Usage>,
    core_rate: Option<f64>,
    bytes: usize,
    note: String,
}

impl Row {
    /// Something that happened once.
    pub fn once(name: &str, took: Duration) -> Self {
        let mut row = Self { name: name.into(), ..Self::default() };
        row.latencies.add(took);
        row
    }

    /// A remark without latencies.
    pub fn remark(name: &str, usage: Usage, note: String) -> Self {
        Self { name: name.into(), usage: Some(usage), note, ..Self::default() }
    }

    /// Many requests; `usage` is what they cost the server.
    pub fn many(name: String, outcome: Outcome, elapsed: Duration, usage: Option<Usage>) -> Self {
        let Outcome { mut latencies, errors, first_error, bytes } = outcome;
        latencies.sort();
        Self { name, latencies, errors, first_error, elapsed, usage, bytes, ..Self::default() }
    }

    /// With how many a second the server's core would do if it were never idle.
    pub fn with_core_rate(mut self, rate: f64) -> Self {
        self.core_rate = Some(rate);
        self
    }

    /// With a remark.
    pub fn with_note(mut self, note: String) -> Self {
        self.note = note;
        self
    }

    /// Requests that were answered well.
    pub fn count(&self) -> usize {
        self.latencies.len()
    }

    /// Requests that were not.
    pub fn errors(&self) -> usize {
        self.errors
    }

    /// The first error, as an error.
    pub fn sound(self) -> anyhow::Result<Self> {
        match self.failure() {
            None => Ok(self),
            Some(failure) => anyhow::bail!(failure),
        }
    }

    /// What went wrong, if anything did.
    pub fn failure(&self) -> Option<String> {
        let error = self.first_error.as_ref()?;
        Some(format!("{}: {} of {} failed: {error}", self.name, self.errors, self.errors + self.count()))
    }

    /// Such a share of all was at most so late, in milliseconds; 0 when there was none.
    pub fn at_most_ms(&self, percent: usize) -> f64 {
        self.latencies.percentile_ms(percent).unwrap_or(0.0)
    }

    /// Size of an answer, where it was counted.
    pub fn bytes_each(&self) -> usize {
        self.bytes.checked_div(self.count()).unwrap_or(0)
    }

    /// From the first request to the last answer.
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// What it cost, and the memory behind it.
    pub fn usage(&self) -> Usage {
        self.usage.unwrap_or_default()
    }

    /// Good answers in a second.
    pub fn rate(&self) -> Option<f64> {
        let secs = self.elapsed.as_secs_f64();
        (secs > 0.0).then(|| self.count() as f64 / secs)
    }

    /// The server's CPU time for one, in milliseconds: as many seconds for a thousand.
    pub fn cpu_ms_each(&self) -> Option<f64> {
        let usage = self.usage.filter(|_| self.count() > 0)?;
        Some(usage.cpu_secs * 1000.0 / self.count() as f64)
    }

    /// Numbers in the order of [`COLUMNS`]; what was not measured is absent.
    fn numbers(&self) -> [Option<f64>; COLUMNS.len()] {
        let mb = |kb: u64| kb as f64 / 1024.0;
        let measured = |n: usize| (self.count() + self.errors > 0).then_some(n as f64);
        [
            measured(self.count()),
            measured(self.errors),
            self.rate(),
            self.latencies.percentile_ms(50),
            self.latencies.percentile_ms(90),
            self.latencies.percentile_ms(99),
            self.latencies.percentile_ms(100),
            self.usage.map(|usage| usage.cpu_secs),
            self.cpu_ms_each(),
            self.usage.map(|usage| mb(usage.pss_kb)),
            self.usage.map(|usage| mb(usage.rss_kb)),
        ]
    }

    fn remarks(&self) -> String {
        let error = self.first_error.as_ref().map(|error| format!("first error: {error}"));
        [Some(self.note.clone()).filter(|note| !note.is_empty()), error]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join("; ")
    }
}

/// What some requests came to.
#[derive(Debug, Default)]
pub struct Outcome {
    pub latencies: Latencies,
    pub errors: usize,
    pub first_error: Option<String>,
    /// Size of all answers, where they were only counted.
    pub bytes: usize,
}

impl Outcome {
    /// Counts one request.
    pub fn add(&mut self, result: anyhow::Result<Duration>) {
        match result {
            Ok(latency) => self.latencies.add(latency),
            Err(error) => {
                self.errors += 1;
                self.first_error.get_or_insert_with(|| format!("{error:#}"));
            }
        }
    }

    /// Adds another client's requests.
    pub fn merge(&mut self, other: Self) {
        self.latencies.extend(other.latencies);
        self.bytes += other.bytes;
        self.errors += other.errors;
        self.first_error = self.first_error.take().or(other.first_error);
    }
}

/// (heading, name in JSON, digits after the point).
const COLUMNS: [(&str, &str, usize); 11] = [
    ("count", "count", 0),
    ("errors", "errors", 0),
    ("rate/s", "rate_per_second", 1),
    ("p50 ms", "p50_ms", 2),
    ("p90 ms", "p90_ms", 2),
    ("p99 ms", "p99_ms", 2),
    ("max ms", "max_ms", 2),
    ("cpu s", "cpu_seconds", 2),
    ("cpu ms/op", "cpu_ms_per_op", 3),
    ("PSS MB", "pss_mb", 1),
    ("RSS MB", "rss_mb", 1),
];

/// The rows as one JSON object per line.
pub fn json_lines(rows: &[Row]) -> String {
    let line = |row: &Row| {
        let numbers = COLUMNS.iter().zip(row.numbers());
        let numbers = numbers.filter_map(|((_, name, _), n)| Some(((*name).to_owned(), json!(n?))));
        let mut object = Map::from_iter([("name".to_owned(), json!(row.name))]);
        object.extend(numbers);
        if let Some(rate) = row.core_rate {
            object.insert("per_core_second".into(), json!(rate));
        }
        if !row.remarks().is_empty() {
            object.insert("remarks".into(), json!(row.remarks()));
        }
        format!("{}\n", Value::Object(object))
    };
    rows.iter().map(line).collect()
}

/// The rows as a table.
pub fn table(rows: &[Row]) -> String {
    let heading = std::iter::once("measurement".to_owned())
        .chain(COLUMNS.iter().map(|(title, ..)| (*title).to_owned()));
    let mut lines = vec![(heading.collect::<Vec<_>>(), String::new())];
    for row in rows {
        let digits = COLUMNS.iter().map(|(_, _, digits)| *digits);
        let cells = row.numbers().into_iter().zip(digits);
        let cells = cells.map(|(n, digits)| n.map_or("-".to_owned(), |n| format!("{n:.digits$}")));
        lines.push((std::iter::once(row.name.clone()).chain(cells).collect(), row.remarks()));
    }
    let columns = 0..=COLUMNS.len();
    let width = |at: usize| lines.iter().map(|(cells, _)| cells[at].len()).max().unwrap_or(0);
    let widths: Vec<usize> = columns.map(width).collect();
    lines.iter().map(|(cells, remarks)| line(cells, &widths, remarks)).collect()
}

fn line(cells: &[String], widths: &[usize], remarks: &str) -> String {
    let mut line = format!("{:<width$}", cells[0], width = widths[0]);
    for (cell, width) in cells.iter().zip(widths).skip(1) {
        line += &format!("  {cell:>width$}");
    }
    format!("{}\n", format!("{line}  {remarks}").trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        let mut outcome = Outcome::default();
        (1..=200).rev().for_each(|ms| outcome.add(Ok(Duration::from_millis(ms))));
        outcome.add(Err(anyhow::anyhow!("no")));
        let usage = Usage { cpu_secs: 0.4, pss_kb: 2048, rss_kb: 4096, processes: 1 };
        Row::many("create pods".into(), outcome, Duration::from_secs(4), Some(usage))
    }

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let expected = [200.0, 1.0, 50.0, 100.0, 180.0, 198.0, 200.0, 0.4, 2.0, 2.0, 4.0];
        assert_eq!(row().numbers(), expected.map(Some));
        assert_eq!(Latencies::default().percentile_ms(50), None);
    }

    #[test]
    fn a_table_is_aligned_and_json_has_what_was_measured() {
        let rows = [row(), Row::once("ready", Duration::from_micros(1500))];
        let table = table(&rows);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[0].starts_with("measurement  count  errors  rate/s"), "{}", lines[0]);
        assert!(lines[1].ends_with("4.0  first error: no"), "{}", lines[1]);
        assert!(lines[2].contains("  1.50  "), "{}", lines[2]);
        let json = json_lines(&rows);
        let second: Value = serde_json::from_str(json.lines().nth(1).unwrap()).unwrap();
        assert_eq!(
            second,
            json!({"name": "ready", "count": 1.0, "errors": 0.0, "p50_ms": 1.5, "p90_ms": 1.5,
            "p99_ms": 1.5, "max_ms": 1.5})
        );
    }
}
