//! The one binary: reads the command line and hands over. Holds no logic of the cluster itself.

mod agent;
mod alone;
mod api;
mod args;
mod cidrs;
mod detach;
mod dns;
mod down;
mod etcd;
mod host;
mod image;
mod join;
mod kube_flags;
mod kubeconfig;
mod layout;
mod node;
mod parts;
mod pid_file;
mod pki;
mod pod_network;
mod proxy;
mod ready;
mod renewal;
mod signals;
mod token;
mod tokens;
mod up;
mod verbosity;

use std::ffi::{OsStr, OsString};
use std::future::Future;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use args::{Cli, Command};
use clap::Parser;
use kube_flags::KubeArgs;
use tracing_subscriber::EnvFilter;
use up::With;

/// What still runs when everything was ended has so long before the process goes.
const LAST_PATIENCE: Duration = Duration::from_secs(2);
/// Threads that run the cluster's tasks; more only cost memory on large machines.
const MOST_THREADS: usize = 4;

fn main() -> ExitCode {
    // A shim must be alone in its process: nothing else may have started before it.
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let Some((first, rest)) = words.split_first()
        && first == "shim"
    {
        return corten_runtime::shim_main(rest);
    }
    let cli = Cli::parse_from(command_line(std::env::args_os().collect()));
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("corten: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Called by the name of an upstream program, it is that program.
fn command_line(mut words: Vec<OsString>) -> Vec<OsString> {
    let called = words.first().and_then(|word| Path::new(word).file_name()).and_then(OsStr::to_str);
    let command = match called {
        Some("kube-apiserver") => "apiserver",
        Some("etcd") => "etcd",
        _ => return words,
    };
    words.splice(..1, ["corten".into(), command.into()]);
    words
}

fn run(cli: Cli) -> Result<()> {
    let filter = EnvFilter::try_new(&cli.log).with_context(|| format!("--log {}", cli.log))?;
    // A log on a full disk is lost; complaining about that would panic.
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let log = log.log_internal_errors(false).with_filter_reloading();
    let filter = log.reload_handle();
    verbosity::keep(Arc::new(move |number| {
        filter.reload(EnvFilter::new(verbosity::level(number))).map_err(|e| e.to_string())
    }));
    log.init();
    // Fails only when a provider is there already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match cli.command {
        Command::Up(args) if args.detach => detach::detach(&args),
        Command::Up(args) => {
            block_on(up::up(args.server, KubeArgs::default(), With::Node(Box::new(args.node))))
        }
        Command::Server(args) => block_on(up::up(*args, KubeArgs::default(), With::ControlPlane)),
        Command::Apiserver(args) => block_on(up::apiserver(*args)),
        Command::Etcd(args) => block_on(etcd::etcd(args)),
        Command::Agent(args) => block_on(agent::agent(*args)),
        Command::Token(args) => block_on(tokens::token(args)),
        Command::Scheduler(args) => block_on(alone::scheduler(args)),
        Command::ControllerManager(args) => block_on(alone::controllers(args)),
        Command::Proxy(args) => block_on(proxy::alone(*args)),
        Command::Down(args) => down::down(&args),
        Command::Dns(args) => block_on(dns::alone(*args)),
        Command::Image(args) => block_on(image::image(args)),
        Command::Kubeconfig(args) => kubeconfig::print(&args),
        Command::Shim { .. } => Ok(()),
    }
}

fn block_on(work: impl Future<Output = Result<()>>) -> Result<()> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS);
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(threads).enable_all().build().context("cannot start threads")?;
    let outcome = runtime.block_on(work);
    // Dropping it would wait for blocking calls without end.
    runtime.shutdown_timeout(LAST_PATIENCE);
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_makes_another_program() {
        let line = |words: &[&str]| {
            let words = command_line(words.iter().map(OsString::from).collect());
            words.iter().map(|w| w.to_str().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(line(&["/a/kube-apiserver", "--help"]), "corten apiserver --help");
        assert_eq!(line(&["etcd"]), "corten etcd");
        assert_eq!(line(&["/usr/bin/corten", "up"]), "/usr/bin/corten up");
        assert_eq!(line(&[]), "");
    }
}
