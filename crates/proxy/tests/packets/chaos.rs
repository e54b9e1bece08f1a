//! What happens to traffic when the proxy changes, dies, comes back, or comes back in another mode.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use corten_proxy::Mode;

use crate::echo::{Outcome, Talk, Transport};
use crate::proxies::Proxy;
use crate::table::{self, Case, State, Via};
use crate::world::{Family, Place, World};
use crate::{PATIENCE, can_run, check, must_be_empty, silence};

/// Questions that must be answered after a restart before the traffic ends.
const QUESTIONS_AFTER: usize = 20;

fn cases(endpoints: &'static [(Place, State)]) -> Vec<Case> {
    let spec = serde_json::json!({"type": "LoadBalancer"});
    vec![Case { name: "web", spec, endpoints, asks: &[] }]
}

fn who(world: &World, from: Place, via: Via, family: Family, transport: Transport) -> Outcome {
    world.ask(from, transport, table::target(0, via, family), PATIENCE)
}

fn name_of(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Answer { who, .. } => who,
        other => panic!("no answer: {other:?}"),
    }
}

/// Every way in, in both families and protocols, ends at `wanted`.
fn all_answered_by(world: &World, wanted: Place) {
    for family in [Family::V4, Family::V6] {
        for transport in [Transport::Tcp, Transport::Udp] {
            for (from, via) in [
                (Place::Caller, Via::Cluster),
                (Place::Client, Via::Port(Place::Node1)),
                (Place::Client, Via::Balancer),
                (Place::Client, Via::External),
            ] {
                let outcome = who(world, from, via, family, transport);
                assert_eq!(name_of(&outcome), wanted.name(), "{from:?} {via:?} {family:?} {transport:?}");
            }
        }
    }
}

/// One endpoint is replaced by another, and the service goes and comes: new connections see it at once, old ones live on.
pub fn changes(mode: Mode) {
    if !can_run(mode) {
        return;
    }
    let world = World::new();
    let mut proxy = Proxy::start(&world, Place::Node1, mode);
    proxy.sync_all(&cases(&[(Place::WebA, State::Ready)]));
    all_answered_by(&world, Place::WebA);
    let mut talk = talk(&world);
    // The old endpoint is on its way out, and serves until it is gone.
    proxy.change_to(&cases(&[(Place::WebA, State::Terminating), (Place::WebB, State::Ready)]));
    all_answered_by(&world, Place::WebB);
    assert_eq!(name_of(&talk.ask().unwrap()), "web-a", "an established connection stays where it is");
    proxy.change_to(&cases(&[(Place::Far, State::Ready)]));
    all_answered_by(&world, Place::Far);
    proxy.change_to(&cases(&[]));
    assert_eq!(who(&world, Place::Caller, Via::Cluster, Family::V4, Transport::Tcp), Outcome::Refused);
    proxy.change_to(&[]);
    proxy.change_to(&cases(&[(Place::WebA, State::Ready)]));
    all_answered_by(&world, Place::WebA);
}

fn talk(world: &World) -> Talk {
    let to = table::target(0, Via::Cluster, Family::V4);
    let mut talk = world.at(Place::Caller).inside(|| Talk::open(to, PATIENCE)).expect("a connection");
    talk.ask().expect("an answer");
    talk
}

/// The proxy is killed under traffic and comes back; then it comes back to a changed cluster.
pub fn restart(mode: Mode) {
    if !can_run(mode) {
        return;
    }
    let world = World::new();
    let before = cases(&[(Place::WebA, State::Ready)]);
    let mut proxy = Proxy::start(&world, Place::Node1, mode);
    proxy.sync_all(&before);
    let mut talk = talk(&world);
    let done = AtomicBool::new(false);
    let ((failed, longest), proxy) = std::thread::scope(|scope| {
        let traffic = scope.spawn(|| outage(&world, &done));
        proxy.kill();
        let mut proxy = Proxy::start(&world, Place::Node1, mode);
        proxy.sync_all(&before);
        done.store(true, Ordering::Release);
        (traffic.join().expect("traffic"), proxy)
    });
    println!("{}: {failed} failed, at most {longest:?} without an answer", mode.name());
    // Where a process carries the packets, connections wait for it.
    assert!(mode == Mode::Userspace || failed == 0, "{failed} new connections failed");
    if mode != Mode::Userspace {
        assert_eq!(name_of(&talk.ask().unwrap()), "web-a", "an established connection lives on");
    }
    proxy.kill();
    let mut proxy = Proxy::start(&world, Place::Node1, mode);
    proxy.sync_all(&cases(&[(Place::WebB, State::Ready)]));
    all_answered_by(&world, Place::WebB);
}

/// Asks one question after the other until the proxy is back and some have been answered: how many were not, and the longest
/// time without an answer.
fn outage(world: &World, done: &AtomicBool) -> (usize, Duration) {
    let (mut longest, mut last, mut left, mut failed) = (Duration::ZERO, Instant::now(), QUESTIONS_AFTER, 0);
    while left > 0 {
        let is_over = done.load(Ordering::Acquire);
        let to = table::target(0, Via::Cluster, Family::V4);
        if let Outcome::Answer { .. } = world.ask(Place::Caller, Transport::Tcp, to, PATIENCE) {
            longest = longest.max(last.elapsed());
            last = Instant::now();
            left -= usize::from(is_over);
        } else {
            failed += 1;
            assert!(last.elapsed() < PATIENCE * 3, "no answer any more");
        }
    }
    (failed, longest)
}

/// Somebody removes every rule of a node. The proxy hears of that, hears nothing of what it does itself, and writes everything anew.
pub fn robbed(mode: Mode) {
    if !can_run(mode) {
        return;
    }
    let world = World::new();
    let mut proxy = Proxy::start(&world, Place::Node1, mode);
    proxy.sync_all(&cases(&[(Place::WebA, State::Ready)]));
    proxy.change_to(&cases(&[(Place::WebB, State::Ready)]));
    assert!(!proxy.is_disturbed(silence()), "its own changes");
    world.at(Place::Node1).feed(&["nft", "flush", "ruleset"], "");
    assert!(proxy.is_disturbed(PATIENCE), "nobody told");
    let outcome =
        world.ask(Place::Caller, Transport::Tcp, table::target(0, Via::Cluster, Family::V4), silence());
    assert!(mode == Mode::Ipvs || !matches!(outcome, Outcome::Answer { .. }), "{outcome:?}");
    proxy.sync_all(&cases(&[(Place::WebB, State::Ready)]));
    all_answered_by(&world, Place::WebB);
    assert!(!proxy.is_disturbed(silence()), "its own repair");
    // Before it listens, it makes changes itself: what others did is not taken for its own.
    let chain = match mode {
        Mode::Nftables => ["ip", "packets-nft-proxy", "dispatch"],
        Mode::Iptables => ["ip", "nat", "packets-ipt-SERVICES"],
        Mode::Userspace => ["inet", "packets-usr-userspace", "lead"],
        Mode::Ipvs => ["inet", "packets-vs-ipvs", "guard"],
    };
    world.at(Place::Node1).feed(&[&["nft", "flush", "chain"][..], &chain].concat(), "");
    proxy.change_to(&cases(&[(Place::WebA, State::Ready)]));
    assert!(proxy.is_disturbed(PATIENCE), "forgotten");
    proxy.sync_all(&cases(&[(Place::WebA, State::Ready)]));
    all_answered_by(&world, Place::WebA);
}

/// What a mode leaves when it is killed goes when another one takes over, and services are reached by that one alone.
pub fn switch(from: Mode, to: Mode) {
    if !can_run(from) || !can_run(to) {
        return;
    }
    let world = World::new();
    let cases = cases(&[(Place::WebA, State::Ready)]);
    let mut old = Proxy::start_as(&world, Place::Node1, from, "packets");
    old.sync_all(&cases);
    all_answered_by(&world, Place::WebA);
    old.kill();
    let mut new = Proxy::start_as(&world, Place::Node1, to, "packets");
    new.sync_all(&cases);
    new.cleanup_others();
    all_answered_by(&world, Place::WebA);
    new.cleanup();
    let left = left_behind(&world);
    assert!(left.is_empty(), "{from:?} → {to:?} left {left:?}");
    let to = table::target(0, Via::Cluster, Family::V4);
    let outcome = world.ask(Place::Caller, Transport::Tcp, to, silence());
    assert!(!matches!(outcome, Outcome::Answer { .. }), "{to} is still led to {outcome:?}");
}

/// Whatever on the first node carries the cluster's name.
fn left_behind(world: &World) -> Vec<String> {
    let node = world.at(Place::Node1);
    let mut text = node.feed(&["nft", "list", "ruleset"], "");
    text += &node.feed(&["ip", "-o", "link"], "");
    text.lines().filter(|line| line.contains("packets")).map(str::to_owned).collect()
}

/// Two clusters side by side: the rules of one do not go with the other's. IPVS knows no owners: in that mode, the other
/// cluster is one of the default mode.
pub fn side_by_side(mode: Mode) {
    if !can_run(mode) {
        return;
    }
    let others = if mode == Mode::Ipvs { Mode::Nftables } else { mode };
    let world = World::new();
    let table = table::cases();
    let mut other = Proxy::start_as(&world, Place::Node1, others, "packets-two");
    let mut proxies = [Place::Node1, Place::Node2].map(|node| Proxy::start_as(&world, node, mode, "packets"));
    other.sync_all(&[]);
    proxies.iter_mut().for_each(|proxy| proxy.sync_all(&table[..3]));
    other.sync_all(&[]);
    other.cleanup();
    must_be_empty(&check(&world, mode, &table[..3]));
}
