//! Rules about amounts: a pod must fit, and emptier, evenly used nodes are better.

use super::MAX_SCORE;
use crate::cycle::{Cycle, Reason, Verdict};
use crate::snapshot::NodeInfo;

/// Everything the pod asks for must be free.
pub fn fit(cx: &Cycle<'_>, node: &NodeInfo) -> Verdict {
    let (wanted, free, used) = (&cx.pod.requests, &node.allocatable, &node.requested);
    let mut short: Vec<Reason> = Vec::new();
    if node.pods.len() as i64 + 1 > node.allowed_pods {
        short.push("Too many pods".into());
    }
    let amounts = [
        ("cpu", wanted.milli_cpu, free.milli_cpu.saturating_sub(used.milli_cpu)),
        ("memory", wanted.memory, free.memory.saturating_sub(used.memory)),
        (
            "ephemeral-storage",
            wanted.ephemeral_storage,
            free.ephemeral_storage.saturating_sub(used.ephemeral_storage),
        ),
    ];
    short.extend(
        amounts.iter().filter(|(_, want, left)| *want > 0 && want > left).map(|(n, ..)| insufficient(n)),
    );
    for (name, want) in &wanted.scalar {
        let left = free.scalar.get(name).unwrap_or(&0).saturating_sub(*used.scalar.get(name).unwrap_or(&0));
        if *want > 0 && *want > left {
            short.push(insufficient(name));
        }
    }
    if short.is_empty() {
        return Verdict::Fits;
    }
    if exceeds_an_empty_node(cx, node) { Verdict::Never(short) } else { Verdict::Not(short) }
}

fn insufficient(name: &str) -> Reason {
    format!("Insufficient {name}").into()
}

fn exceeds_an_empty_node(cx: &Cycle<'_>, node: &NodeInfo) -> bool {
    let (wanted, all) = (&cx.pod.requests, &node.allocatable);
    wanted.milli_cpu > all.milli_cpu
        || wanted.memory > all.memory
        || wanted.ephemeral_storage > all.ephemeral_storage
        || wanted.scalar.iter().any(|(name, want)| want > all.scalar.get(name).unwrap_or(&0))
}

fn after(cx: &Cycle<'_>, node: &NodeInfo) -> [(i64, i64); 2] {
    let (used, pod, all) = (&node.scoring_requested, &cx.pod.scoring, &node.allocatable);
    [
        (used.milli_cpu.saturating_add(pod.milli_cpu), all.milli_cpu),
        (used.memory.saturating_add(pod.memory), all.memory),
    ]
}

/// The mean share of CPU and memory that stays free with the pod on the node.
pub fn least_allocated(cx: &Cycle<'_>, node: &NodeInfo) -> i64 {
    let share = |(used, all): &(i64, i64)| {
        if *all <= 0 || used > all { 0 } else { (all - used).saturating_mul(MAX_SCORE) / all }
    };
    let shares = after(cx, node);
    shares.iter().map(share).sum::<i64>() / shares.len() as i64
}

/// How close the used shares of CPU and memory are to each other with the pod on the node.
pub fn balanced(cx: &Cycle<'_>, node: &NodeInfo) -> i64 {
    let share = |(used, all): (i64, i64)| if all <= 0 { 1.0 } else { (used as f64 / all as f64).min(1.0) };
    let [cpu, memory] = after(cx, node).map(share);
    let deviation = (cpu - memory).abs() / 2.0;
    ((1.0 - deviation) * MAX_SCORE as f64) as i64
}
