//! ServiceCIDRs: each is Ready as soon as it is seen, and stays until no cluster IP needs it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use corten_client::{Api, Change, Key};

use crate::answer::gone_is_fine;
use crate::cluster::Cluster;
use crate::shell::Shell;

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
const MANAGER: &str = "service-cidr-controller";
/// An API server may still give away an address of a range whose end it has not seen.
const GRACE: Duration = Duration::from_secs(10);

/// What is to be done about one ServiceCIDR.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    Protect,
    Ready,
    /// Somebody needs it: say so.
    Blocked,
    Wait(Duration),
    Release,
}

/// Works until the cluster's stop.
pub async fn run(cluster: &Arc<Cluster>) {
    let ending = |cluster: &Arc<Cluster>| {
        let all = cluster.service_cidrs.list();
        all.iter().filter(|range| is_ending(range)).map(|range| Key::of(&**range)).collect::<Vec<_>>()
    };
    Shell::open(cluster, cluster.clone())
        .each(&cluster.service_cidrs)
        // Another range may hold the addresses of one that waits to go, and an address that went may have been the last.
        .wakes(&cluster.service_cidrs, move |cluster, _| ending(cluster))
        .wakes(&cluster.ip_addresses, move |cluster, change| match change {
            Change::Deleted(_) => ending(cluster),
            _ => Vec::new(),
        })
        .run(1, |cluster, key| async move { reconcile(&cluster, key).await })
        .await;
}

/// The ranges that addresses may be of; none where the cluster has no such objects.
pub(crate) fn ranges(cluster: &Cluster) -> Vec<IpNet> {
    cluster.service_cidrs.list().iter().flat_map(|range| nets(range)).collect()
}

fn nets(range: &ServiceCIDR) -> Vec<IpNet> {
    let texts = range.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten());
    texts.filter_map(|text| text.parse().ok()).collect()
}

fn is_ending(range: &ServiceCIDR) -> bool {
    range.metadata.deletion_timestamp.is_some()
}

async fn reconcile(cluster: &Cluster, key: Key) -> Result<Option<Duration>, kube::Error> {
    let Some(range) = cluster.service_cidrs.get(&key) else { return Ok(None) };
    let now = Timestamp::now();
    let step = plan(&range, &cluster.service_cidrs.list(), &cluster.ip_addresses.list(), now);
    let api: Api<ServiceCIDR> = Api::all(cluster.client.clone());
    let name = key.name.as_str();
    match step {
        Step::Nothing => {}
        Step::Wait(delay) => return Ok(Some(delay)),
        Step::Protect => {
            let patch = json!({ "metadata": { "finalizers": [FINALIZER] } });
            gone_is_fine(api.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await)?;
        }
        Step::Release => {
            let patch = json!({ "metadata": { "$deleteFromPrimitiveList/finalizers": [FINALIZER] } });
            gone_is_fine(api.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await)?;
        }
        Step::Ready => tell(&api, name, ("True", "", "Kubernetes Service CIDR is ready"), now).await?,
        Step::Blocked => {
            let text = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";
            tell(&api, name, ("False", "Terminating", text), now).await?;
        }
    }
    Ok(None)
}

async fn tell(
    api: &Api<ServiceCIDR>,
    name: &str,
    (status, reason, message): (&str, &str, &str),
    now: Timestamp,
) -> Result<(), kube::Error> {
    let condition = json!({ "type": "Ready", "status": status, "reason": reason, "message": message,
        "lastTransitionTime": k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now) });
    let status = json!({ "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": { "name": name },
        "status": { "conditions": [condition] } });
    let params = PatchParams::apply(MANAGER).force();
    gone_is_fine(api.patch_status(name, &params, &Patch::Apply(status)).await)
}

/// The Ready condition: its status and reason.
fn told(range: &ServiceCIDR) -> Option<(&str, &str)> {
    let conditions = range.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.filter(|c| c.type_ == "Ready").map(|c| (c.status.as_str(), c.reason.as_str())).next()
}

fn plan(range: &ServiceCIDR, all: &[Arc<ServiceCIDR>], addresses: &[Arc<IPAddress>], now: Timestamp) -> Step {
    let is_protected = range.metadata.finalizers.iter().flatten().any(|f| f == FINALIZER);
    let Some(since) = &range.metadata.deletion_timestamp else {
        return match (is_protected, told(range)) {
            (false, _) => Step::Protect,
            (true, Some(("True", _))) => Step::Nothing,
            _ => Step::Ready,
        };
    };
    if !is_protected {
        return Step::Nothing;
    }
    if is_needed(range, all, addresses) {
        return if told(range) == Some(("False", "Terminating")) { Step::Nothing } else { Step::Blocked };
    }
    let waited = Duration::try_from(now.duration_since(since.0)).unwrap_or_default();
    match GRACE.checked_sub(waited).filter(|left| !left.is_zero()) {
        Some(left) => Step::Wait(left),
        None => Step::Release,
    }
}

/// Would an address be left without a range? Not where other ranges hold all of this one.
fn is_needed(range: &ServiceCIDR, all: &[Arc<ServiceCIDR>], addresses: &[Arc<IPAddress>]) -> bool {
    let others: Vec<IpNet> = all
        .iter()
        .filter(|other| other.metadata.name != range.metadata.name)
        .flat_map(|other| nets(other))
        .collect();
    let own = nets(range);
    if own.iter().all(|net| others.iter().any(|other| other.contains(net))) {
        return false;
    }
    let names = addresses.iter().filter_map(|address| address.metadata.name.as_ref()?.parse::<IpAddr>().ok());
    let mut within = names.filter(|ip| own.iter().any(|net| net.contains(ip)));
    within.any(|ip| !others.iter().any(|net| net.contains(&ip)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, from_value};

    const NOW: &str = "2026-01-01T00:00:20Z";

    fn range(name: &str, cidrs: Value, meta: Value, ready: Option<(&str, &str)>) -> Arc<ServiceCIDR> {
        let mut whole = json!({ "metadata": { "name": name }, "spec": { "cidrs": cidrs } });
        whole["metadata"].as_object_mut().unwrap().extend(meta.as_object().unwrap().clone());
        if let Some((status, reason)) = ready {
            whole["status"] = json!({ "conditions": [{ "type": "Ready", "status": status, "reason": reason,
                "message": "", "lastTransitionTime": NOW }] });
        }
        Arc::new(from_value(whole).unwrap())
    }

    #[test]
    fn a_range_is_protected_then_ready_and_goes_when_nobody_needs_it() {
        let (protected, ending) = (
            json!({ "finalizers": [FINALIZER] }),
            |second: u8| json!({ "finalizers": [FINALIZER], "deletionTimestamp": format!("2026-01-01T00:00:{second:02}Z") }),
        );
        let cidrs = json!(["10.0.0.0/24"]);
        let large = range("large", json!(["10.0.0.0/16"]), json!({}), None);
        let part = range("part", json!(["10.0.0.0/25"]), json!({}), None);
        let address = |ip: &str| {
            let whole = json!({ "metadata": { "name": ip }, "spec": { "parentRef": { "resource": "services", "name": "a" } } });
            Arc::new(from_value::<IPAddress>(whole).unwrap())
        };
        let (inside, upper, outside) = (address("10.0.0.7"), address("10.0.0.200"), address("10.9.0.7"));
        let table = [
            ("new", json!({}), None, vec![], vec![], Step::Protect),
            ("protected", protected.clone(), None, vec![], vec![], Step::Ready),
            ("ready", protected, Some(("True", "")), vec![], vec![], Step::Nothing),
            (
                "goes at once without protection",
                json!({ "deletionTimestamp": NOW }),
                None,
                vec![],
                vec![],
                Step::Nothing,
            ),
            ("just ended", ending(15), None, vec![], vec![&outside], Step::Wait(Duration::from_secs(5))),
            ("ended", ending(5), None, vec![], vec![&outside], Step::Release),
            ("needed", ending(5), None, vec![], vec![&inside], Step::Blocked),
            (
                "needed and told",
                ending(5),
                Some(("False", "Terminating")),
                vec![],
                vec![&inside],
                Step::Nothing,
            ),
            ("within another", ending(5), None, vec![&large], vec![&inside], Step::Release),
            ("another has all that are given", ending(5), None, vec![&part], vec![&inside], Step::Release),
            ("another has only some", ending(5), None, vec![&part], vec![&inside, &upper], Step::Blocked),
        ];
        for (case, meta, ready, others, addresses, step) in table {
            let own = range("own", cidrs.clone(), meta, ready);
            let all: Vec<_> = others.into_iter().chain([&own]).cloned().collect();
            let addresses: Vec<_> = addresses.into_iter().cloned().collect();
            assert_eq!(plan(&own, &all, &addresses, NOW.parse().unwrap()), step, "{case}");
        }
    }
}
