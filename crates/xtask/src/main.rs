//! Developer tasks: `cargo xtask TASK`. Everything that a person or CI runs on the project and that is more than one command.

mod check;
mod fuzz;
mod image;
mod ipvs;
mod tidy;
mod transcode;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// Developer tasks of Corten.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Task {
    /// Everything that must hold before a change lands: format, clippy without warnings, tidy.
    Check,
    /// The rules of the house that no compiler knows: lengths, layers, reasons beside dependencies, licences.
    Tidy,
    /// Build the images that examples and tests run, as OCI layouts in tar files.
    Image(image::Args),
    /// Packets through services in mode ipvs, in a virtual machine with Debian's kernel.
    Ipvs(ipvs::Args),
    /// Spoiled inputs into codecs, patches, apply, selectors and kinds, until one breaks or the time is over.
    Fuzz(fuzz::Args),
    /// Turn an API object from one format into another (json, yaml, pb, cbor by the files' endings).
    Transcode(transcode::Transcode),
}

fn main() -> ExitCode {
    match run(Task::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> anyhow::Result<()> {
    match task {
        Task::Check => check::run(),
        Task::Tidy => tidy::run(),
        Task::Image(args) => image::run(&args),
        Task::Ipvs(args) => ipvs::run(&args),
        Task::Fuzz(args) => fuzz::run(&args),
        Task::Transcode(task) => task.run(),
    }
}

/// The root of the workspace.
fn root() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).map(PathBuf::from).unwrap_or(here)
}

/// Where cargo puts what it builds: this program lies in `TARGET/PROFILE/`.
fn target_dir() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe()?;
    let target = program.ancestors().nth(2).map(PathBuf::from);
    target.ok_or_else(|| anyhow::anyhow!("{} is not in a target directory", program.display()))
}

/// Runs a program and fails when it fails; what it says goes to the terminal.
fn must(command: &mut std::process::Command) -> anyhow::Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.status().map_err(|error| anyhow::anyhow!("cannot run {program}: {error}"))?;
    anyhow::ensure!(status.success(), "{program} {} ({status})", arguments(command));
    Ok(())
}

fn arguments(command: &std::process::Command) -> String {
    command.get_args().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
