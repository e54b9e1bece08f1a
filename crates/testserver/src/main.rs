//! A small server for tests to run in containers: it tells what it sees of its surroundings and misbehaves on demand.
//!
//! Linked statically, so that its image needs nothing else. Blocking threads and the standard library are enough.

mod args;
mod client;
mod http;
mod memory;
mod serve;
mod state;
mod term;

use std::process::ExitCode;

use args::Command;

fn main() -> ExitCode {
    let command = match args::parse(std::env::args().skip(1)) {
        Ok(command) => command,
        Err(problem) => {
            eprintln!("testserver: {problem}\n\n{}", args::USAGE);
            return ExitCode::from(2);
        }
    };
    match command {
        Command::Help => println!("{}", args::USAGE),
        Command::Exit(code) => return ExitCode::from(code),
        Command::Eat(megabytes) => memory::eat_and_hold(megabytes),
        Command::Get(request) => return client::run(&request),
        Command::Serve(options) => return serve::run(options),
    }
    ExitCode::SUCCESS
}
