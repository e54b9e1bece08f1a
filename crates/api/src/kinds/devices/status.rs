//! What of devices a claim was given, and who uses it.

use super::claim::{request_name, request_names};
use super::{
    LIST_MAX, at_most, binding_conditions, configuration, driver_name, pool_name, raw_object, tolerations,
};
use crate::Value;
use crate::field::{Error, Path};
use crate::kinds::look::{Errors, Zero, given, immutable, internal, items, one_of, text};
use crate::kinds::pod::affinity::node_selector;
use crate::rules::{self, invalid_each};

const CONSUMERS_MAX: usize = 256;
const CONDITIONS_MAX: usize = 8;
const ADDRESSES_MAX: usize = 16;
const INTERFACE_MAX_BYTES: usize = 256;
const HARDWARE_ADDRESS_MAX_BYTES: usize = 128;

/// A change of a claim's status.
pub(super) fn validate(errors: &mut Errors, claim: &Value, old: &Value) {
    let (empty, path) = (Value::Null, Path::root("status"));
    let (status, before) = (claim.get("status").unwrap_or(&empty), old.get("status").unwrap_or(&empty));
    let devices = claim.at(&["spec", "devices"]).unwrap_or(&empty);
    let deleted = claim.at(&["metadata", "deletionTimestamp"]).is_some();
    let list = path.child("reservedFor");
    consumers(errors, items(status, "reservedFor"), &list);
    device_states(errors, status, &path.child("devices"));
    if !items(status, "reservedFor").is_empty() {
        let is_new = |one: &Value| !items(before, "reservedFor").contains(one);
        if given(status, "allocation").is_none() {
            errors.push(Error::forbidden(&list, "may not be specified when `allocated` is not set"));
        } else if deleted && items(status, "reservedFor").iter().any(is_new) {
            let detail =
                "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
            errors.push(Error::forbidden(&list, detail));
        }
    }
    match (given(status, "allocation"), given(before, "allocation")) {
        (Some(_), Some(_)) => immutable(errors, status, before, "allocation", &path),
        (Some(allocation), None) => allocated(errors, allocation, devices, &path.child("allocation")),
        (None, _) => {}
    }
}

fn consumers(errors: &mut Errors, consumers: &[Value], path: &Path<'_>) {
    if !at_most(errors, consumers, CONSUMERS_MAX, path) {
        return;
    }
    for (i, one) in consumers.iter().enumerate() {
        for field in ["resource", "name", "uid"] {
            super::super::look::required(errors, one, field, &path.index(i));
        }
    }
    super::duplicate_keys(errors, consumers, "uid", path);
}

const ID_IN_GO: &[(&str, &str, Zero)] = &[
    ("driver", "Driver", Zero::Text),
    ("pool", "Pool", Zero::Text),
    ("device", "Device", Zero::Text),
    ("shareID", "ShareID", Zero::Text),
];

/// What names a device: driver, pool, device and share.
fn id(device: &Value) -> [&str; 4] {
    ["driver", "pool", "device", "shareID"].map(|field| text(device, field))
}

fn device_states(errors: &mut Errors, status: &Value, list: &Path<'_>) {
    let states = items(status, "devices");
    let results = status.items_at(&["allocation", "devices", "results"]);
    for (i, state) in states.iter().enumerate() {
        let path = list.index(i);
        driver_name(errors, text(state, "driver"), &path.child("driver"));
        pool_name(errors, text(state, "pool"), &path.child("pool"));
        let name = text(state, "device");
        invalid_each(errors, &path.child("device"), name, rules::dns_label(name));
        share(errors, state, &path);
        if !results.iter().any(|result| id(result) == id(state)) {
            let shown = internal(state, ID_IN_GO);
            errors.push(Error::invalid(&path, shown, "must be an allocated device in the claim"));
        }
        let (at, conditions) = (path.child("conditions"), items(state, "conditions"));
        at_most(errors, conditions, CONDITIONS_MAX, &at);
        super::super::conditions::validate(errors, conditions, &at);
        if let Some(data) = given(state, "data") {
            raw_object(errors, Some(data), false, &path.child("data"));
        }
        if let Some(network) = given(state, "networkData") {
            network_data(errors, network, &path.child("networkData"));
        }
        if states[..i].iter().any(|other| id(other) == id(state)) {
            errors.push(Error::duplicate(&path, state.clone()));
        }
    }
}

fn network_data(errors: &mut Errors, data: &Value, path: &Path<'_>) {
    for (field, most) in
        [("interfaceName", INTERFACE_MAX_BYTES), ("hardwareAddress", HARDWARE_ADDRESS_MAX_BYTES)]
    {
        if text(data, field).len() > most {
            errors.push(Error::too_long(&path.child(field), most));
        }
    }
    let (list, addresses) = (path.child("ips"), items(data, "ips"));
    if at_most(errors, addresses, ADDRESSES_MAX, &list) {
        for (i, address) in addresses.iter().enumerate() {
            let text = address.as_str().unwrap_or_default();
            invalid_each(errors, &list.index(i), text, rules::interface_address(text));
        }
        super::duplicates(errors, addresses, &list);
    }
}

fn share(errors: &mut Errors, of: &Value, path: &Path<'_>) {
    let Some(id) = given(of, "shareID").and_then(Value::as_str) else { return };
    if !is_uuid(id) {
        let detail = "must be a lowercase UUID in 8-4-4-4-12 format";
        errors.push(Error::invalid(&path.child("shareID"), id, detail));
    }
}

fn is_uuid(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    parts.iter().map(|part| part.len()).eq([8, 4, 4, 4, 12])
        && parts.iter().all(|part| part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)))
}

fn allocated(errors: &mut Errors, allocation: &Value, wanted: &Value, path: &Path<'_>) {
    let (empty, devices) = (Value::Null, path.child("devices"));
    let given_devices = allocation.get("devices").unwrap_or(&empty);
    let (list, results) = (devices.child("results"), items(given_devices, "results"));
    if at_most(errors, results, LIST_MAX, &list) {
        for (i, one) in results.iter().enumerate() {
            result(errors, one, wanted, &list.index(i));
        }
    }
    let (list, configs) = (devices.child("config"), items(given_devices, "config"));
    if at_most(errors, configs, 2 * LIST_MAX, &list) {
        for (i, config) in configs.iter().enumerate() {
            let path = list.index(i);
            one_of(errors, text(config, "source"), &["FromClaim", "FromClass"], &path.child("source"));
            request_names(errors, config, wanted, &path);
            configuration(errors, config, false, &path);
        }
    }
    if let Some(selector) = given(allocation, "nodeSelector") {
        node_selector(errors, selector, &path.child("nodeSelector"));
    }
}

fn result(errors: &mut Errors, result: &Value, wanted: &Value, path: &Path<'_>) {
    request_name(errors, text(result, "request"), wanted, &path.child("request"));
    super::caseless_driver_name(errors, text(result, "driver"), &path.child("driver"));
    pool_segments(errors, text(result, "pool"), &path.child("pool"));
    let name = text(result, "device");
    invalid_each(errors, &path.child("device"), name, rules::dns_label(name));
    binding_conditions(errors, result, path);
    tolerations(errors, result, path);
    share(errors, result, path);
}

/// The name of a pool in the words of rules that upstream generates.
fn pool_segments(errors: &mut Errors, name: &str, path: &Path<'_>) {
    if name.is_empty() {
        errors.push(Error::required(path, ""));
    }
    for (i, part) in name.split('/').enumerate().filter(|_| !name.is_empty()) {
        let told = rules::dns_subdomain(part).into_iter().map(|message| format!("segment {i}: {message}"));
        invalid_each(errors, path, name, told.collect());
    }
}
