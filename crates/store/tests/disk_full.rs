//! A full disk costs the writes that find it full, and nothing else.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::{io::Write, path::Path, sync::Arc};

use corten_store::{Embedded, ListQuery, Options, Store, StoreError, Txn};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

/// Runs `test` with a small tmpfs on `dir`. The mount lives in a mount namespace of this thread (and of the threads
/// it starts), so the kernel removes it however the test ends.
fn on_small_disk(megabytes: u64, test: impl FnOnce(&Path) + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("mounting a tmpfs needs root: nothing tested");
        return;
    }
    let thread = std::thread::spawn(move || {
        let dir = tempfile::tempdir().unwrap();
        let none = None::<&str>;
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        mount(
            Some("tmpfs"),
            dir.path(),
            Some("tmpfs"),
            MsFlags::empty(),
            Some(&*format!("size={megabytes}m")),
        )
        .unwrap();
        test(dir.path());
        nix::mount::umount2(dir.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// The store looks for room once a second.
async fn eventually<T, F: Future<Output = Result<T, StoreError>>>(mut attempt: impl FnMut() -> F) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(120);
    while let Err(error) = attempt().await {
        assert!(std::time::Instant::now() < deadline, "no room again: {error}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

async fn fill(store: &Embedded) -> usize {
    for n in 0..100 {
        let before = store.current_revision().await.unwrap();
        match store.txn(Txn::create(format!("/full/{n:03}"), vec![b'x'; 50_000])).await {
            Ok(_) => (),
            Err(StoreError::StorageFull(_)) => {
                assert_eq!(store.current_revision().await.unwrap(), before);
                assert_eq!(store.get(&format!("/full/{n:03}"), None).await.unwrap(), None);
                return n;
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("5 MB fit on a disk of 2 MiB");
}

async fn full_and_free_again(dir: &Path) {
    let filler = dir.join("filler");
    std::fs::write(&filler, vec![1; 500_000]).unwrap();
    let store = Arc::new(Embedded::open(Options::new(dir.join("store"))).unwrap());
    let mut watcher = store.watch("/", None).await.unwrap();
    let written = fill(&store).await;
    assert!(written > 2, "{written}");
    // The transactions that wait together fail together; reads and watches go on.
    let waiting = (0..20).map(|n| {
        let store = store.clone();
        tokio::spawn(async move { store.txn(Txn::create(format!("/no/{n}"), vec![0; 50_000])).await })
    });
    for write in waiting.collect::<Vec<_>>() {
        assert!(matches!(write.await.unwrap(), Err(StoreError::StorageFull(_))));
    }
    assert_eq!(store.list(&ListQuery::default()).await.unwrap().entries.len(), written);
    let mut seen = 0;
    while seen < written {
        seen += watcher.next().await.unwrap().len();
    }
    assert!(store.stats().failed_batches > 0);

    std::fs::remove_file(&filler).unwrap();
    eventually(|| store.txn(Txn::create("/full/after", vec![0; 50_000]))).await;
    let live = store.list(&ListQuery::default()).await.unwrap();
    assert_eq!(live.entries.len(), written + 1);
    drop((store, watcher));
    let store = Embedded::open(Options::new(dir.join("store"))).unwrap();
    assert_eq!(store.list(&ListQuery::default()).await.unwrap(), live);
}

/// What is urgent gets through a disk without a free byte, and only that.
async fn deletions_get_through(dir: &Path) {
    let store = Arc::new(Embedded::open(Options::new(dir.join("store"))).unwrap());
    for n in 0..100 {
        store.txn(Txn::create(format!("/pods/{n:03}"), vec![b'x'; 3000])).await.unwrap();
    }
    let mut filler = std::fs::File::create(dir.join("filler")).unwrap();
    while filler.write_all(&[1; 4096]).is_ok() {}
    drop(filler);
    let written = fill(&store).await;
    // Marked, updated, removed: as a pod goes. Others that come at the same time are refused.
    for n in 0..100 {
        let key = format!("/pods/{n:03}");
        for _ in 0..2 {
            let revision = store.get(&key, None).await.unwrap().unwrap().mod_revision;
            store.txn(Txn::update(key.as_str(), vec![b'y'; 3200], revision).urgent(true)).await.unwrap();
        }
        let revision = store.get(&key, None).await.unwrap().unwrap().mod_revision;
        let ordinary = store.txn(Txn::create(format!("/no/{n}"), vec![b'z'; 10]));
        let (ordinary, deleted) = tokio::join!(ordinary, store.txn(Txn::delete(key, revision).urgent(true)));
        assert!(matches!(ordinary, Err(StoreError::StorageFull(_))), "{ordinary:?}");
        deleted.unwrap();
    }
    assert_eq!(store.list(&ListQuery::default()).await.unwrap().entries.len(), written);
    std::fs::remove_file(dir.join("filler")).unwrap();
    eventually(|| store.txn(Txn::create("/again", vec![0; 50_000]))).await;
    let live = store.list(&ListQuery::default()).await.unwrap();
    drop(store);
    let store = Embedded::open(Options::new(dir.join("store"))).unwrap();
    assert_eq!(store.list(&ListQuery::default()).await.unwrap(), live);
}

async fn update(store: &Embedded, times: usize) {
    for n in 0..times {
        let value = vec![n as u8; 400];
        store.txn(Txn::default().put(format!("/small/{}", n % 5), value)).await.unwrap();
    }
}

/// Updates go on when the disk has room for a little write-ahead log only.
async fn little_room(dir: &Path) {
    let options = Options { history_events: 20, ..Options::new(dir.join("store")) };
    let store = Embedded::open(options.clone()).unwrap();
    update(&store, 1500).await;
    store.close().await.unwrap();
    drop(store);

    let filler = dir.join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    let bytes = file.metadata().unwrap().len();
    file.set_len(bytes - 300_000).unwrap();
    let store = Embedded::open(options).unwrap();
    update(&store, 1500).await;
    assert_eq!(store.stats().failed_batches, 0);
}

fn block_on(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(test);
}

#[test]
fn a_full_disk_fails_its_batch_and_nothing_else() {
    on_small_disk(2, |dir| block_on(full_and_free_again(dir)));
}

#[test]
fn a_full_disk_can_be_emptied() {
    on_small_disk(16, |dir| block_on(deletions_get_through(dir)));
}

#[test]
fn the_write_ahead_log_makes_room_for_itself() {
    on_small_disk(8, |dir| block_on(little_room(dir)));
}
