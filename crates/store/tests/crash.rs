//! Killed at any point, the store comes back with every acknowledged write and without a half-written one.
//!
//! The test starts itself as a child that writes and reports on its standard output what it is about to write (`try`)
//! and what was acknowledged (`ack`), kills it at a random moment, opens the store and compares.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::{
    collections::{BTreeMap, HashMap},
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use corten_store::{Embedded, Entry, ListQuery, Options, Revision, Store, Txn};

const ROUNDS: u64 = 110;
const TASKS: u64 = 6;
const KEYS: u64 = 8;
const DIR: &str = "CORTEN_STORE_CRASH_DIR";
const ROUND: &str = "CORTEN_STORE_CRASH_ROUND";

/// A small generator of our own, so that a failing round can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// A value that tells its number and whether it is whole.
fn value(seq: u64, bytes: u64) -> String {
    let mut value = format!("{seq} {bytes} ");
    value.extend((0..bytes).map(|n| char::from(b'a' + ((seq + n) % 26) as u8)));
    value
}

fn seq_of(entry: &Entry) -> u64 {
    let text = std::str::from_utf8(&entry.value).unwrap();
    let mut words = text.split(' ');
    let mut number = || words.next().unwrap().parse().unwrap();
    let (seq, bytes) = (number(), number());
    assert_eq!(text, value(seq, bytes), "half-written value at {}", entry.key);
    seq
}

fn say(line: &str) {
    // One write call a line; a line that the kill cut off is not counted.
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\n!{line}\n").as_bytes()).and_then(|()| out.flush()).unwrap();
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Write_ {
    Put(u64),
    Deleted,
}

async fn child_task(store: Arc<Embedded>, task: u64, round: u64) {
    let mut random = Random(round * 1000 + task + 1);
    for n in 1.. {
        let seq = round * 1_000_000 + n;
        let pair = random.below(KEYS);
        let (a, b) = (format!("/{task}/{pair}/a"), format!("/{task}/{pair}/b"));
        let delete = random.below(5) == 0;
        let (what, txn) = if delete {
            ("del", Txn::default().remove(&*a).remove(&*b))
        } else {
            let sizes = (random.below(9000), random.below(500));
            ("put", Txn::default().put(&*a, value(seq, sizes.0)).put(&*b, value(seq, sizes.1)))
        };
        say(&format!("try {what} {task}/{pair} {seq} 0"));
        let revision = store.txn(txn).await.unwrap().revision;
        say(&format!("ack {what} {task}/{pair} {seq} {revision}"));
    }
}

fn child(dir: &Path, round: u64) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let options = Options { history_events: 300, ..Options::new(dir) };
        let store = Arc::new(Embedded::open(options).unwrap());
        let tasks: Vec<_> =
            (0..TASKS).map(|task| tokio::spawn(child_task(store.clone(), task, round))).collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
}

fn spawn(dir: &Path, round: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_killed_store_keeps_every_acknowledged_write", "--nocapture"])
        .env(DIR, dir)
        .env(ROUND, round.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What the child said, per pair of keys: acknowledged and, after that, tried.
#[derive(Default)]
struct Reports {
    acked: HashMap<String, Write_>,
    tried: HashMap<String, Write_>,
    revision: Revision,
    acks: usize,
}

impl Reports {
    fn hear(&mut self, line: &str) {
        let words: Vec<_> = line.split(' ').collect();
        let [kind, what, pair, seq, revision] = words[..] else { panic!("{line}") };
        let write = if what == "del" { Write_::Deleted } else { Write_::Put(seq.parse().unwrap()) };
        if kind == "try" {
            self.tried.insert(pair.into(), write);
        } else {
            self.tried.remove(pair);
            self.acked.insert(pair.into(), write);
            self.revision = self.revision.max(revision.parse().unwrap());
            self.acks += 1;
        }
    }
}

/// Kills it so long after its start, or after the first that it says: on a slow machine the start may take longer than that.
fn kill_after(mut child: Child, speaks: bool, delay: Duration, reports: &mut Reports) {
    let out = BufReader::new(child.stdout.take().unwrap());
    let (heard, hears) = std::sync::mpsc::channel();
    let killer = std::thread::spawn(move || {
        if speaks {
            // Nobody tells any more when the child has ended by itself, which is seen below.
            let _ = hears.recv();
        }
        // The moment is the subject of the test.
        std::thread::sleep(delay);
        child.kill().unwrap();
        child.wait().unwrap()
    });
    for line in out.split(b'\n') {
        let line = String::from_utf8(line.unwrap()).unwrap();
        // The last line may have been cut off; a whole one has five words and was followed by its line break.
        if let Some(report) = line.strip_prefix('!')
            && report.split(' ').count() == 5
        {
            reports.hear(report);
            let _ = heard.send(());
        }
    }
    drop(heard);
    let status = killer.join().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "the child ended by itself");
}

/// Opens the store, checks it against the reports and makes what it holds the new truth.
async fn check(dir: &Path, reports: &mut Reports) {
    let store = Embedded::open(Options::new(dir)).unwrap();
    let list = store.list(&ListQuery::default()).await.unwrap();
    assert!(
        list.revision >= reports.revision,
        "revision {} went back from {}",
        list.revision,
        reports.revision
    );
    let mut found: BTreeMap<String, Vec<&Entry>> = BTreeMap::new();
    for entry in &list.entries {
        let pair = entry.key[1..].rsplit_once('/').unwrap().0;
        found.entry(pair.into()).or_default().push(entry);
    }
    for task in 0..TASKS {
        for n in 0..KEYS {
            let pair = format!("{task}/{n}");
            let now = match found.get(&pair).map(|entries| &entries[..]) {
                None => Write_::Deleted,
                Some([a, b]) => {
                    assert_eq!(
                        (seq_of(a), a.mod_revision),
                        (seq_of(b), b.mod_revision),
                        "half a transaction"
                    );
                    Write_::Put(seq_of(a))
                }
                Some(_) => panic!("half a transaction at {pair}"),
            };
            let acked = reports.acked.get(&pair).copied().unwrap_or(Write_::Deleted);
            let tried = reports.tried.remove(&pair);
            assert!(now == acked || Some(now) == tried, "{pair}: {now:?}, not {acked:?} or {tried:?}");
            reports.acked.insert(pair, now);
        }
    }
    check_history(&store, &list.entries).await;
    reports.revision = list.revision;
}

/// The kept history leads from the oldest kept revision to what is there now.
async fn check_history(store: &Embedded, live: &[Arc<Entry>]) {
    let from = store.compact_revision().await.unwrap();
    let old = store.list(&ListQuery { at: Some(from), ..ListQuery::default() }).await;
    // A new store's floor lies before its first revision.
    let mut now: BTreeMap<_, _> = old.unwrap().entries.into_iter().map(|e| (e.key.clone(), e)).collect();
    let mut watcher = store.watch("", Some(from)).await.unwrap();
    let last = store.current_revision().await.unwrap();
    while watcher.progress() < last {
        for event in watcher.next().await.unwrap() {
            assert_eq!(now.remove(&event.key), event.previous);
            now.extend(event.entry.clone().map(|e| (e.key.clone(), e)));
        }
    }
    assert_eq!(now.values().cloned().collect::<Vec<_>>(), live);
}

#[test]
fn a_killed_store_keeps_every_acknowledged_write() {
    if let Some(dir) = std::env::var_os(DIR) {
        return child(Path::new(&dir), std::env::var(ROUND).unwrap().parse().unwrap());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut random = Random(0x5eed);
    let mut reports = Reports::default();
    for round in 1..=ROUNDS {
        let delay = Duration::from_millis(10 + random.below(120));
        kill_after(spawn(dir.path(), round), round % 2 == 0, delay, &mut reports);
        runtime.block_on(check(dir.path(), &mut reports));
    }
    eprintln!("{} acknowledged writes, revision {}", reports.acks, reports.revision);
    assert!(reports.acks as u64 > ROUNDS, "only {} writes: nothing was tested", reports.acks);
}
