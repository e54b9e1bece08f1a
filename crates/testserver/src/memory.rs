//! Memory taken on purpose, so that limits can be seen to bite.

use std::thread;
use std::time::Duration;

const MEGABYTE: usize = 1 << 20;

/// Takes so many megabytes, touching every page: memory that is never written to is never counted.
pub fn eat(megabytes: usize) -> Vec<Vec<u8>> {
    (0..megabytes).map(|_| vec![b'x'; MEGABYTE]).collect()
}

/// Takes memory and keeps it until somebody ends the process.
pub fn eat_and_hold(megabytes: usize) {
    let held = eat(megabytes);
    println!("holding {} MB", held.len());
    loop {
        thread::sleep(Duration::from_secs(3600));
    }
}
