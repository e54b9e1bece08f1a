//! Memory is what the values weigh, and little more: measured in a process of its own.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::{process::Command, sync::Arc};

use corten_store::{Embedded, ListQuery, Options, Store, Txn};

const DIR: &str = "CORTEN_STORE_MEMORY_DIR";
const OBJECTS: usize = 5000;
const OBJECT_BYTES: usize = 6000;

/// Resident kilobytes of this process.
fn resident_kb() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

async fn write_all(store: &Arc<Embedded>, round: usize) {
    for chunk in (0..OBJECTS).collect::<Vec<_>>().chunks(100) {
        let writes = chunk.iter().map(|n| {
            let (store, key) = (store.clone(), format!("/registry/pods/default/object-{n}"));
            let value = vec![b'a' + round as u8; OBJECT_BYTES];
            tokio::spawn(async move { store.txn(Txn::default().put(key, value)).await.unwrap() })
        });
        for write in writes.collect::<Vec<_>>() {
            write.await.unwrap();
        }
    }
}

async fn child(dir: &str) {
    let before = resident_kb();
    let store = Arc::new(Embedded::open(Options::new(dir)).unwrap());
    write_all(&store, 0).await;
    let created = resident_kb() - before;
    // Reads share the stored bytes.
    let list = store.list(&ListQuery::default()).await.unwrap();
    let listed = resident_kb() - before;
    assert_eq!(list.entries.len(), OBJECTS);
    drop(list);
    for round in 1..5 {
        write_all(&store, round).await;
    }
    let updated = resident_kb() - before;
    let history_kb = usize::try_from(store.stats().history_bytes).unwrap() / 1024;
    let opened = std::time::Instant::now();
    store.close().await.unwrap();
    drop(store);
    let store = Embedded::open(Options::new(dir)).unwrap();
    println!(
        "\n!{created} {listed} {updated} {history_kb} open {:?} {:?}",
        opened.elapsed(),
        store.stats().sync_latency
    );
}

#[test]
fn objects_cost_little_more_than_their_bytes() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    if let Ok(dir) = std::env::var(DIR) {
        return runtime.block_on(child(&dir));
    }
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "objects_cost_little_more_than_their_bytes", "--nocapture"])
        .env(DIR, dir.path())
        .output()
        .unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    let line = output.lines().find_map(|line| line.strip_prefix('!')).unwrap_or_else(|| panic!("{output}"));
    eprintln!("created, listed, updated, history KB: {line}");
    let figures: Vec<usize> = line.split(' ').take(4).map(|n| n.parse().unwrap()).collect();
    let [created, listed, updated, history] = figures[..] else { panic!("{line}") };
    let values = OBJECTS * OBJECT_BYTES / 1024;
    assert!(created < values * 5 / 4 + 4096, "{created} KB for {values} KB of values");
    assert!(listed < created + 1024, "{listed} KB while a list is held, {created} KB before");
    assert!(updated < (values + history) * 5 / 4 + 12 * 1024, "{updated} KB for {values} + {history} KB");
}
