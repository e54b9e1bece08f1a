//! Developer tasks: `cargo xtask TASK`.

mod transcode;

use clap::Parser;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Tasks for who works on Corten")]
enum Task {
    /// Turn an API object from one format into another (json, yaml, pb, cbor by the files' endings).
    Transcode(transcode::Transcode),
}

fn main() -> anyhow::Result<()> {
    match Task::parse() {
        Task::Transcode(task) => task.run(),
    }
}
