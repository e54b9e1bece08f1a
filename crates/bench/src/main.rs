//! The yardstick: a load generator for any Kubernetes API server. It speaks the public API over HTTPS and knows nothing
//! of Corten, so that the same run can be pointed at upstream.
//!
//! Every run works in a namespace of its own, removes it at the end, and prints one line per measurement: how many, how
//! fast, how late, and what it cost the server's processes.

mod all;
mod args;
mod dns;
mod http;
mod kubeconfig;
mod load;
mod objects;
mod podstart;
mod process;
mod proxy;
mod report;
mod session;
mod up;
mod watch;

#[cfg(test)]
mod fake;

use clap::Parser;

fn main() -> anyhow::Result<()> {
    let args = args::Args::parse();
    // Enters a network namespace, which must happen before there are threads.
    if let args::Command::Dns(dns) = &args.command {
        return dns::run(dns, args.json);
    }
    // Two threads: one machine carries the server too.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(all::run(args))
}
