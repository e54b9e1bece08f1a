//! The figures of services: the proxy and DNS measure themselves, each in a process with a network namespace of its own.

use std::{collections::HashMap, process::Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value};
use tokio::process::Command;

use crate::figure::{Figure, Part, at_least, at_most, told};

/// Services in all.
const SERVICES: [u32; 3] = [100, 1000, 10_000];

/// A connection may take so much longer with many services before we say that it grows: what two runs differ by anyway.
const GROWTH: f64 = 1.25;

/// DNS answers per second of one core.
const DNS_RATE: f64 = 100_000.0;

/// What a process measured, by name.
type Rows = HashMap<String, Map<String, Value>>;

/// Runs both.
pub async fn run() -> Result<Vec<Figure>> {
    let numbers = format!("1,{}", SERVICES.map(|n| n.to_string()).join(","));
    let proxy = measure(&["proxy", "--json", "--services", &numbers]).await?;
    let dns = measure(&["dns", "--json"]).await?;
    let mut figures = proxy_figures(&proxy)?;
    figures.extend(dns_figures(&dns)?);
    Ok(figures)
}

async fn measure(arguments: &[&str]) -> Result<Rows> {
    eprintln!("    {}", arguments[0]);
    let me = std::env::current_exe()?;
    let output = Command::new(me)
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .output()
        .await?;
    ensure!(output.status.success(), "{}: {}", arguments.join(" "), output.status);
    parse(std::str::from_utf8(&output.stdout)?)
}

fn parse(lines: &str) -> Result<Rows> {
    let row = |line: &str| -> Result<_> {
        let row: Map<String, Value> = serde_json::from_str(line).with_context(|| line.to_owned())?;
        Ok((row.get("name").and_then(Value::as_str).context("a row without a name")?.to_owned(), row))
    };
    lines.lines().map(row).collect()
}

fn number(rows: &Rows, row: &str, column: &str) -> Result<f64> {
    let value = rows.get(row).and_then(|row| row.get(column)).and_then(Value::as_f64);
    value.with_context(|| format!("no {column} of {row:?}"))
}

fn proxy_figures(rows: &Rows) -> Result<Vec<Figure>> {
    let milliseconds = |digits| vec![told(" ms", digits); SERVICES.len()];
    let each =
        |row: &dyn Fn(u32) -> Result<f64>| SERVICES.iter().map(|n| row(*n)).collect::<Result<Vec<_>>>();
    let first = each(&|n| {
        let plan = number(rows, &format!("nftables: plan {n} services"), "p50_ms")?;
        Ok(plan + number(rows, &format!("nftables: first sync of {n}"), "p50_ms")?)
    })?;
    let one = each(&|n| number(rows, &format!("nftables: one endpoint among {n}"), "p50_ms"))?;
    let connect = |n: u32| number(rows, &format!("nftables: connect, {n} services"), "p50_ms");
    let (few, many) = (connect(1)?, connect(10_000)?);
    let growth: Vec<Part> = vec![told(" ms", 3), at_most(few * GROWTH, " ms", 3)];
    Ok(vec![
        Figure::ours("first sync of 100 · 1,000 · 10,000 services", milliseconds(1), first),
        Figure::ours("one changed endpoint among 100 · 1,000 · 10,000 services, p50", milliseconds(2), one),
        Figure::ours(
            "connection through a VIP, p50, with 1 · 10,000 services (no growth)",
            growth,
            vec![few, many],
        ),
    ])
}

fn dns_figures(rows: &Rows) -> Result<Vec<Figure>> {
    let figure = |row: &str, work: &str, aim: bool| -> Result<Figure> {
        let rate = if aim { at_least(DNS_RATE, "/s", 0) } else { told("/s", 0) };
        let columns = ["per_core_second", "rate_per_second", "p99_ms"];
        let values = columns.iter().map(|column| number(rows, row, column)).collect::<Result<_>>()?;
        let work = format!("DNS, {work}: per core second · asked by one thread · p99");
        Ok(Figure::ours(work, vec![rate, told("/s", 0), told(" ms", 2)], values))
    };
    Ok(vec![
        figure("dns A of a service", "A of a service", true)?,
        figure("dns A, headless (10)", "A, headless with 10 endpoints", false)?,
        figure("dns SRV", "SRV", false)?,
        figure("dns NXDOMAIN", "NXDOMAIN", false)?,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::table;

    #[test]
    fn what_the_processes_print_becomes_figures() {
        let mut lines = String::new();
        for n in [1, 100, 1000, 10_000] {
            for name in [
                format!("plan {n} services"),
                format!("first sync of {n}"),
                format!("one endpoint among {n}"),
                format!("connect, {n} services"),
            ] {
                lines += &format!("{{\"name\":\"nftables: {name}\",\"p50_ms\":{n}}}\n");
            }
        }
        let text = table("services", &proxy_figures(&parse(&lines).unwrap()).unwrap());
        assert!(text.contains("200.0 ms · 2,000.0 ms · 20,000.0 ms"), "{text}");
        assert!(text.contains("≤ 1.250 ms") && text.contains("no"), "{text}");
        let error = dns_figures(&parse(&lines).unwrap()).unwrap_err().to_string();
        assert!(error.contains("dns A of a service"), "{error}");
        assert!(parse("{}").is_err() && parse("x").is_err());
    }
}
