//! Slices that say what hand-made Endpoints say, for all that read only slices. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{self, EndpointAddress, EndpointSubset, Endpoints};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::packing::{Changes, Identity, Wanted, endpoints};
use super::ports::Ports;
use super::{MANAGED_BY, SERVICE_NAME, TRIGGER_TIME, facts};
use crate::claim;

/// The name of this controller in the managed-by label (upstream's).
pub const CONTROLLER: &str = "endpointslicemirroring-controller.k8s.io";
/// Most addresses of a subset that are mirrored (upstream's `--mirroring-max-endpoints-per-subset`).
pub const MOST: usize = 1000;
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What to do, and what could not be mirrored.
#[derive(Debug, Default)]
pub struct Plan {
    /// Writes of slices.
    pub changes: Changes,
    /// Addresses that are no IP addresses.
    pub invalid: usize,
    /// All that were left out, those included.
    pub skipped: usize,
}

/// One slice: address type and ports, and what it says.
type Slices = BTreeMap<(&'static str, Ports), (Vec<EndpointPort>, Wanted)>;

/// Plans the slices that mirror `from`. `existing` are those that this controller keeps for it.
pub fn plan(from: &Endpoints, existing: &[Arc<EndpointSlice>]) -> Plan {
    let (mut plan, mut slices) = (Plan::default(), Slices::new());
    for subset in from.subsets.iter().flatten() {
        mirror(subset, &mut slices, &mut plan);
    }
    let mut left: Vec<_> = existing.to_vec();
    for ((family, ports), (list, wanted)) in slices {
        let same = |s: &Arc<EndpointSlice>| {
            s.address_type == family && Ports::of(s.ports.as_deref().unwrap_or_default()) == ports
        };
        let present = left.iter().position(same).map(|index| left.remove(index));
        let slice = slice(from, family, list, wanted);
        match present {
            Some(present) if says_the_same(&present, &slice) => plan.changes.keep.push(present),
            Some(present) => plan.changes.update.push(in_place_of(&present, slice)),
            None => plan.changes.create.push(slice),
        }
    }
    plan.changes.delete = left;
    plan.changes.recycle(|_| true);
    plan
}

fn mirror(subset: &EndpointSubset, slices: &mut Slices, plan: &mut Plan) {
    let ports: Vec<_> = subset.ports.iter().flatten().map(port).collect();
    let ready = subset.addresses.iter().flatten().map(|a| (a, true));
    let all = ready.chain(subset.not_ready_addresses.iter().flatten().map(|a| (a, false)));
    let mut taken = 0;
    for (address, ready) in all {
        let endpoint = if taken < MOST { endpoint(address, ready) } else { None };
        let Some((family, endpoint)) = endpoint else {
            plan.skipped += 1;
            plan.invalid += usize::from(taken < MOST);
            continue;
        };
        taken += 1;
        let (list, wanted) = slices.entry((family, Ports::of(&ports))).or_default();
        list.clone_from(&ports);
        wanted.insert(Identity::of(&endpoint), endpoint);
    }
}

fn port(port: &v1::EndpointPort) -> EndpointPort {
    EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(port.port),
        protocol: Some(facts::protocol(port.protocol.as_deref()).to_owned()),
        app_protocol: port.app_protocol.clone(),
    }
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Option<(&'static str, Endpoint)> {
    let ip: IpAddr = address.ip.parse().ok()?;
    let endpoint = Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone().filter(|name| !name.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    };
    Some((if ip.is_ipv6() { "IPv6" } else { "IPv4" }, endpoint))
}

fn slice(from: &Endpoints, family: &str, ports: Vec<EndpointPort>, wanted: Wanted) -> EndpointSlice {
    let name = from.metadata.name.clone().unwrap_or_default();
    let mut labels = from.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.to_owned(), name.clone());
    labels.insert(MANAGED_BY.to_owned(), CONTROLLER.to_owned());
    let mut annotations = from.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|key, _| ![TRIGGER_TIME, LAST_APPLIED].contains(&key.as_str()));
    EndpointSlice {
        address_type: family.to_owned(),
        endpoints: Some(wanted.into_values().collect()),
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            namespace: from.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: Some(annotations).filter(|a| !a.is_empty()),
            owner_references: Some(vec![claim::reference(from)]),
            ..ObjectMeta::default()
        },
        ports: Some(ports),
    }
}

fn says_the_same(present: &EndpointSlice, wanted: &EndpointSlice) -> bool {
    let by_identity = |slice: &EndpointSlice| -> Wanted {
        endpoints(slice).iter().map(|e| (Identity::of(e), e.clone())).collect()
    };
    let notes = |s: &EndpointSlice| s.metadata.annotations.clone().unwrap_or_default();
    let owner =
        |s: &EndpointSlice| s.metadata.owner_references.iter().flatten().next().map(|o| o.uid.clone());
    present.metadata.labels == wanted.metadata.labels
        && notes(present) == notes(wanted)
        && owner(present) == owner(wanted)
        && by_identity(present) == by_identity(wanted)
}

fn in_place_of(present: &EndpointSlice, mut slice: EndpointSlice) -> EndpointSlice {
    slice.metadata.name = present.metadata.name.clone();
    slice.metadata.uid = present.metadata.uid.clone();
    slice.metadata.resource_version = present.metadata.resource_version.clone();
    slice
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, from_value, json, to_value};

    fn by_hand(subsets: Value) -> Endpoints {
        from_value(
            json!({ "metadata": { "name": "db", "namespace": "ns", "uid": "e1", "labels": { "a": "b" },
            "annotations": { LAST_APPLIED: "{}", "note": "x" } }, "subsets": subsets }),
        )
        .unwrap()
    }

    #[test]
    fn slices_say_what_endpoints_say() {
        let subsets = json!([{ "addresses": [{ "ip": "192.0.2.42", "hostname": "h" }, { "ip": "fd00::1" }],
            "notReadyAddresses": [{ "ip": "192.0.2.43" }, { "ip": "nonsense" }], "ports": [{ "port": 9376 }] }]);
        let plan = plan(&by_hand(subsets.clone()), &[]);
        assert_eq!((plan.invalid, plan.skipped, plan.changes.create.len()), (1, 1, 2));
        let told = to_value(&plan.changes.create[0]).unwrap();
        assert_eq!(
            told["metadata"]["labels"],
            json!({ "a": "b", SERVICE_NAME: "db", MANAGED_BY: CONTROLLER })
        );
        assert_eq!(told["metadata"]["annotations"], json!({ "note": "x" }));
        assert_eq!(told["metadata"]["ownerReferences"][0]["kind"], "Endpoints");
        assert_eq!(told["ports"], json!([{ "name": "", "port": 9376, "protocol": "TCP" }]));
        let ready: Vec<_> = endpoints(&plan.changes.create[0])
            .iter()
            .map(|e| (e.addresses[0].as_str(), e.conditions.as_ref().unwrap().ready.unwrap()))
            .collect();
        assert_eq!(ready, [("192.0.2.42", true), ("192.0.2.43", false)]);
    }

    #[test]
    fn equal_slices_stay_changed_ones_are_written_and_others_go() {
        let one = |ip: &str| by_hand(json!([{ "addresses": [{ "ip": ip }], "ports": [{ "port": 1 }] }]));
        let mut made = plan(&one("192.0.2.1"), &[]).changes.create.remove(0);
        made.metadata.name = Some("db-x".into());
        let present = [Arc::new(made)];
        let quiet = plan(&one("192.0.2.1"), &present).changes;
        assert_eq!((quiet.keep.len(), quiet.update.len(), quiet.create.len()), (1, 0, 0));
        let moved = plan(&one("192.0.2.2"), &present).changes;
        assert_eq!(moved.update[0].metadata.name.as_deref(), Some("db-x"));
        assert_eq!(plan(&by_hand(json!([])), &present).changes.delete.len(), 1);
    }

    #[test]
    fn no_more_than_a_thousand_of_a_subset() {
        let all: Vec<_> =
            (0..1100).map(|n| json!({ "ip": format!("10.1.{}.{}", n / 250, n % 250) })).collect();
        let plan = plan(&by_hand(json!([{ "addresses": all, "ports": [{ "port": 1 }] }])), &[]);
        assert_eq!((plan.invalid, plan.skipped), (0, 100));
        assert_eq!(endpoints(&plan.changes.create[0]).len(), MOST);
    }
}
