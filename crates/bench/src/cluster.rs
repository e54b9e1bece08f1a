//! The figures of a whole cluster on this machine: start, cost when idle, pods, and a service's first answer.

use anyhow::Result;

use crate::{
    args::{Figures, Target},
    figure::{Figure, Part, at_most, told},
    podstart::{self, Series},
    report::Row,
    session::Session,
    up::Cluster,
    vip,
};

/// Starts the cluster, measures, and stops it; figures that were measured before a failure are in `figures`.
pub async fn run(args: &Figures, figures: &mut Vec<Figure>) -> Result<()> {
    eprintln!("    cluster: start, {} s idle", args.up.idle_secs);
    let (cluster, ready) = Cluster::start(&args.up).await?;
    figures.extend(start_figures(&ready));
    let idle = cluster.idle(&args.up).await?;
    let usage = idle.usage();
    let share = 100.0 * usage.cpu_secs / args.up.idle_secs.max(1) as f64;
    let memory = usage.pss_kb as f64 / 1024.0;
    figures.push(Figure::ours(
        "idle memory, all processes (PSS)",
        vec![at_most(80.0, " MB", 1)],
        vec![memory],
    ));
    let work = format!("idle CPU over {} s, share of a core", args.up.idle_secs);
    figures.push(Figure::ours(work, vec![at_most(1.0, " %", 2)], vec![share]));
    let target = Target {
        kubeconfig: Some(cluster.kubeconfig()),
        server_pids: vec![cluster.pid()?],
        ..Target::default()
    };
    let session = Session::open(&target).await?;
    let result = pods(&session, args, figures).await;
    let closed = session.close().await;
    let stopped = cluster.stop().await;
    result.and(closed)?;
    figures.push(Figure::ours(
        "SIGTERM to the process' end",
        vec![told(" ms", 0)],
        vec![stopped?.at_most_ms(50)],
    ));
    Ok(())
}

fn start_figures(ready: &[Row]) -> Vec<Figure> {
    let names =
        [("corten up to /readyz ok, first start", 500.0), ("corten up to node Ready, first start", 2000.0)];
    let figure = |((name, limit), row): ((&str, f64), &Row)| {
        Figure::ours(name, vec![at_most(limit, " ms", 0)], vec![row.at_most_ms(50)])
    };
    names.into_iter().zip(ready).map(figure).collect()
}

async fn pods(session: &Session, args: &Figures, figures: &mut Vec<Figure>) -> Result<()> {
    let options = args.pods();
    for (count, together) in [(args.one_by_one, false), (args.burst, true), (args.full, true)] {
        if count > 0 {
            let how = if together {
                format!("{count} pods at once")
            } else {
                format!("{count} pods one at a time")
            };
            eprintln!("    {how}");
            let series = podstart::series(session, &options, count, together).await?;
            figures.extend(series_figures(&how, count < args.full, series));
        }
    }
    if args.answers > 0 {
        eprintln!("    first answers of {} services", args.answers);
        let row = vip::run(session, &args.image, args.answers).await?;
        let parts = vec![told(" ms", 1), at_most(150.0, " ms", 1)];
        let values = vec![row.at_most_ms(50), row.at_most_ms(99)];
        let work = format!("pod Ready to first answer through the VIP, {} times: p50 · p99", args.answers);
        figures.push(figure(&row, work, parts, values));
    }
    Ok(())
}

/// `aimed`: the aim is not for pods that fill a node and queue behind each other.
fn series_figures(how: &str, aimed: bool, series: Series) -> Vec<Figure> {
    let tail = |row: &Row, what: &str, aim: bool| {
        let first = if aim { at_most(300.0, " ms", 0) } else { told(" ms", 0) };
        let values = [50, 99, 100].map(|percent| row.at_most_ms(percent)).to_vec();
        let work = format!("{how}, {what}: p50 · p99 · last");
        figure(row, work, vec![first, told(" ms", 0), told(" ms", 0)], values)
    };
    let mut figures = vec![
        tail(&series.start, "create to Running", aimed),
        tail(&series.stop, "delete to gone from the API", false),
    ];
    let ended = series.ended.iter();
    figures.extend(ended.map(|row| tail(row, "delete to the container's end (grace 30 s)", false)));
    figures
}

/// Failures are told, so that good numbers of a few do not hide them; a figure with failures is never met.
fn figure(row: &Row, work: String, parts: Vec<Part>, values: Vec<f64>) -> Figure {
    match row.failure() {
        None => Figure::ours(work, parts, values),
        Some(failure) => {
            eprintln!("    {failure}");
            let work = format!("{work} ({} of {} FAILED)", row.errors(), row.errors() + row.count());
            Figure::ours(work, parts, if row.count() > 0 { values } else { Vec::new() }).failed()
        }
    }
}
