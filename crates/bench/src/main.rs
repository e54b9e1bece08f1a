//! The yardstick: a load generator for any Kubernetes API server. It speaks the public API over HTTPS and knows nothing
//! of Corten, so that the same run can be pointed at upstream.
//!
//! Every run works in a namespace of its own, removes it at the end, and prints one line per measurement: how many, how
//! fast, how late, and what it cost the server's processes.

mod all;
mod args;
mod cluster;
mod dns;
mod figure;
mod http;
mod kubeconfig;
mod load;
mod objects;
mod pki;
mod podprocesses;
mod podstart;
mod process;
mod profile;
mod proxy;
mod report;
mod server;
mod services;
mod session;
mod speed;
mod up;
mod vip;
mod watch;

#[cfg(test)]
mod fake;

use clap::Parser;

fn main() -> anyhow::Result<()> {
    let args = args::Args::parse();
    // These enter a network namespace, which must happen before there are threads.
    match &args.command {
        args::Command::Dns(dns) => return dns::run(dns, args.json),
        args::Command::Proxy(proxy) => return proxy::run(proxy, args.json),
        _ => {}
    }
    // Two threads: one machine carries the server too.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(all::run(args));
    // After an interruption nobody waits for threads that wait for something.
    runtime.shutdown_background();
    result
}
