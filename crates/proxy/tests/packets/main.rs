//! The data plane by real packets: the same table of cases for every mode, between network namespaces that play two nodes,
//! their pods and clients outside. Needs root; everything goes with the process.
//!
//! The kernel decides which modes can run: where there is no IPVS, its test says so and `cargo xtask ipvs` runs it in a
//! virtual machine.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should stop")]

mod chaos;
mod echo;
mod netns;
mod proxies;
mod table;
mod world;

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use corten_proxy::Mode;

use echo::{Outcome, Transport};
use proxies::Proxy;
use table::{Case, Expect, Source, Via};
use world::{Family, Place, World};

/// What lasts for so long is never answered. An emulated machine needs `CORTEN_PACKETS_SILENCE_MS`.
fn silence() -> Duration {
    let set = std::env::var("CORTEN_PACKETS_SILENCE_MS").ok().and_then(|text| text.parse().ok());
    Duration::from_millis(set.unwrap_or(800))
}

/// An answer that must come may take so long on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Questions until every endpoint must have answered: with three, one is missing by chance once in 10^10 times.
const TRIES: usize = 60;
/// Questions of one client that must all be answered by the same endpoint.
const STICKY_TRIES: usize = 10;
/// Questions under way at once.
const ASKERS: usize = 12;

/// One question of the table.
struct Row<'a> {
    case: &'a str,
    number: usize,
    from: Place,
    via: Via,
    transport: Transport,
    family: Family,
    expect: Expect,
}

/// All questions, each for both protocols and both families.
fn rows(cases: &[Case]) -> Vec<Row<'_>> {
    let mut rows = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        for (from, via, expect) in case.asks {
            for family in [Family::V4, Family::V6] {
                for transport in [Transport::Tcp, Transport::Udp] {
                    let (from, via, expect) = (*from, *via, *expect);
                    rows.push(Row { case: case.name, number, from, via, transport, family, expect });
                }
            }
        }
    }
    rows
}

/// How a mode differs from the table, by its nature.
fn expectation(mode: Mode, row: &Row<'_>) -> Expect {
    match (mode, row.expect) {
        // The process itself asks the endpoint.
        (Mode::Userspace, Expect::By(places, _)) => Expect::By(places, Source::Node),
        (_, expect) => expect,
    }
}

/// Asks everything; returns what went wrong.
fn check(world: &World, mode: Mode, cases: &[Case]) -> Vec<String> {
    let rows = rows(cases);
    let (next, problems) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..ASKERS.min(rows.len()) {
            scope.spawn(|| {
                while let Some(row) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let expect = expectation(mode, row);
                    if let Err(problem) = ask_row(world, row, expect) {
                        let Row { case, from, via, transport, family, .. } = row;
                        let line = format!(
                            "{case}: {from:?} → {via:?} {transport:?} {family:?}: {problem}, not {expect:?}"
                        );
                        problems.lock().unwrap().push(line);
                    }
                }
            });
        }
    });
    let mut problems = problems.into_inner().unwrap();
    problems.sort();
    println!("{}: {} questions, {} answered wrongly", mode.name(), rows.len(), problems.len());
    problems
}

fn ask_row(world: &World, row: &Row<'_>, expect: Expect) -> Result<(), String> {
    let to = table::target(row.number, row.via, row.family);
    let ask = |silence| world.ask(row.from, row.transport, to, silence);
    match expect {
        Expect::Dropped => same(&ask(silence()), &Outcome::Silent),
        Expect::Refused => same(&ask(PATIENCE), &Outcome::Refused),
        Expect::By(places, source) => answered_by_all(row, places, source, || ask(PATIENCE)),
        Expect::Sticky(places) => {
            let first = answerer(row, places, None, &ask(PATIENCE))?;
            for _ in 1..STICKY_TRIES {
                let other = answerer(row, places, None, &ask(PATIENCE))?;
                if other != first {
                    return Err(format!("first {first}, then {other}"));
                }
            }
            Ok(())
        }
    }
}

fn same(got: &Outcome, wanted: &Outcome) -> Result<(), String> {
    if got == wanted || *got == Outcome::Forbidden { Ok(()) } else { Err(format!("{got:?}")) }
}

fn answered_by_all(
    row: &Row<'_>,
    places: &[Place],
    source: Source,
    ask: impl Fn() -> Outcome,
) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for attempt in 0..TRIES {
        if attempt > 1 && seen.len() == places.len() {
            break;
        }
        seen.insert(answerer(row, places, Some(source), &ask())?);
    }
    if seen.len() == places.len() { Ok(()) } else { Err(format!("only {seen:?} in {TRIES} tries")) }
}

/// Who answered, when it was one of `places` and saw what it should see.
fn answerer(
    row: &Row<'_>,
    places: &[Place],
    wanted: Option<Source>,
    outcome: &Outcome,
) -> Result<String, String> {
    let Outcome::Answer { who, source } = outcome else { return Err(format!("{outcome:?}")) };
    let is_kept = *source == row.from.address(row.family);
    let is_nodes = world::node_addresses(row.family).contains(source);
    let is_right = match wanted {
        None | Some(Source::Either) => is_kept || is_nodes,
        Some(Source::Kept) => is_kept,
        Some(Source::Node) => is_nodes,
    };
    if is_right && places.iter().any(|place| place.name() == who) {
        Ok(who.clone())
    } else {
        Err(format!("{who} saw {source}"))
    }
}

fn must_be_empty(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

/// The whole table, on both nodes.
fn run_table(mode: Mode) {
    if !can_run(mode) {
        return;
    }
    let world = World::new();
    let cases = table::cases();
    let mut proxies = [Place::Node1, Place::Node2].map(|node| Proxy::start(&world, node, mode));
    for proxy in &mut proxies {
        proxy.sync_all(&cases);
    }
    must_be_empty(&check(&world, mode, &cases));
}

/// Only IPVS is missing from some kernels.
fn can_run(mode: Mode) -> bool {
    let must = std::env::var_os("CORTEN_PACKETS_IPVS").is_some();
    if must && mode == Mode::Iptables {
        println!("passed over: the virtual machine has no iptables");
        return false;
    }
    if mode != Mode::Ipvs || must || corten_sys::ipvs::Kernel::open().is_ok() {
        return true;
    }
    println!("passed over: this kernel has no IPVS; `cargo xtask ipvs` runs it in a virtual machine");
    false
}

/// The tests of one mode, each with machines of its own.
macro_rules! tests_of {
    ($mode:ident: $variant:expr) => {
        mod $mode {
            use corten_proxy::Mode;

            #[test]
            fn answers_the_table() {
                crate::run_table($variant);
            }

            #[test]
            fn follows_changes() {
                crate::chaos::changes($variant);
            }

            #[test]
            fn is_killed_and_comes_back_under_traffic() {
                crate::chaos::restart($variant);
            }

            #[test]
            fn hears_that_others_remove_its_rules() {
                crate::chaos::robbed($variant);
            }

            #[test]
            fn leaves_other_clusters_alone() {
                crate::chaos::side_by_side($variant);
            }

            #[test]
            fn takes_over_from_another_mode() {
                for old in Mode::ALL.into_iter().filter(|old| *old != $variant) {
                    crate::chaos::switch(old, $variant);
                }
            }
        }
    };
}

tests_of!(nftables: Mode::Nftables);
tests_of!(iptables: Mode::Iptables);
tests_of!(userspace: Mode::Userspace);
tests_of!(ipvs: Mode::Ipvs);
