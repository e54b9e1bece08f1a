//! SIGTERM and SIGINT. As process 1 of a container nothing happens on them unless somebody asks.

use std::process;
use std::thread;

use nix::sys::signal::{SigSet, Signal};

use crate::args::Options;

/// Takes the signals away from all threads and gives them to one that acts as the options say.
/// Call it before any other thread exists: they inherit what is blocked.
pub fn watch(options: &Options) -> Result<(), nix::Error> {
    let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
    signals.thread_block()?;
    let options = options.clone();
    thread::spawn(move || {
        while let Ok(signal) = signals.wait() {
            if options.ignore_sigterm {
                println!("ignoring {signal}");
                continue;
            }
            println!("ending on {signal}");
            thread::sleep(options.term_delay);
            process::exit(options.exit_code.into());
        }
    });
    Ok(())
}
