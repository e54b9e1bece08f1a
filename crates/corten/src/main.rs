//! The one binary: reads the command line and hands over. Holds no logic of the cluster itself.

mod args;
mod kubeconfig;
mod pki;

use clap::Parser;

fn main() {
    let _ = args::Cli::parse();
}
