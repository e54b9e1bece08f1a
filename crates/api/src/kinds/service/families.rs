//! IP families of a Service: what the client left open is filled in, what does not fit together or the cluster does not have
//! is refused. Upstream's order, so that of several mistakes the same one is told.

use crate::field::{Error, Path};
use crate::kinds::look::{Errors, is_empty_map, items, one_of_given, text};
use crate::rules::{self, invalid_each};
use crate::{Object, Value};

use super::{is_headless, needs_cluster_ip, same_list};

const FAMILIES: &[&str] = &["IPv4", "IPv6"];
const POLICIES: &[&str] = &["PreferDualStack", "RequireDualStack", "SingleStack"];

/// Fills in `ipFamilyPolicy` and `ipFamilies`. `configured` are the families of the cluster's service ranges, the default first.
///
/// Errors: the rules that the fields break, for a 422.
pub fn init_families(
    service: &mut Value,
    old: Option<&Value>,
    configured: &[&'static str],
) -> Result<(), Errors> {
    if service.str_at(&["spec", "type"]) == "ExternalName" || old.is_some_and(|old| is_settled(service, old))
    {
        return Ok(());
    }
    default_policy(service, old);
    let mut errors = Vec::new();
    let root = Path::root("spec");
    related(&mut errors, service.get("spec").unwrap_or(&Value::Null), &root);
    checked(errors)?;
    let mut errors = Vec::new();
    if let Some(old) = old {
        give_up_second(&mut errors, service, old);
    }
    single_stack_means_one(&mut errors, service);
    infer_from_addresses(&mut errors, service, configured);
    checked(errors)?;
    if is_headless(service.get("spec").unwrap_or(&Value::Null)) && has_no_selector(service) {
        complete(service, configured, FAMILIES);
        return Ok(());
    }
    checked(not_configured(service, configured))?;
    complete(service, configured, configured);
    Ok(())
}

fn checked(errors: Errors) -> Result<(), Errors> {
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

fn has_no_selector(service: &Value) -> bool {
    is_empty_map(service.at(&["spec", "selector"]))
}

fn policy(service: &Value) -> &str {
    service.str_at(&["spec", "ipFamilyPolicy"])
}

/// A dual-stack service that nobody asked to change stays as it is, whatever the cluster's ranges have become.
fn is_settled(service: &Value, old: &Value) -> bool {
    let (new, old) = (service.get("spec").unwrap_or(&Value::Null), old.get("spec").unwrap_or(&Value::Null));
    !text(new, "ipFamilyPolicy").is_empty()
        && text(new, "type") == text(old, "type")
        && needs_cluster_ip(old)
        && ["clusterIPs", "ipFamilies"].iter().all(|field| same_list(new, old, field))
        && text(new, "ipFamilyPolicy") == text(old, "ipFamilyPolicy")
}

fn default_policy(service: &mut Value, old: Option<&Value>) {
    if !policy(service).is_empty() {
        return;
    }
    let before = old.map(policy).unwrap_or_default();
    let chosen = match before {
        "" if service.str_at(&["spec", "clusterIP"]) == "None" && has_no_selector(service) => {
            Value::str("RequireDualStack")
        }
        "" => Value::str("SingleStack"),
        before => Value::from(before),
    };
    service.object_at_mut(&["spec"]).set("ipFamilyPolicy", chosen);
}

/// `SingleStack` on an update drops what came second; under other policies nothing may just go.
fn give_up_second(errors: &mut Errors, service: &mut Value, old: &Value) {
    let before = old.get("spec").unwrap_or(&Value::Null);
    for (field, what) in [("clusterIPs", "secondary cluster IP"), ("ipFamilies", "secondary IP family")] {
        let now = service.get("spec").unwrap_or(&Value::Null);
        let (count, had) = (items(now, field).len(), items(before, field).len());
        if policy(service) == "SingleStack" {
            if same_list(now, before, field) && count > 1 {
                let list = service.object_at_mut(&["spec"]).get_mut(field).and_then(Value::as_array_mut);
                if let Some(list) = list {
                    list.truncate(1);
                }
            }
        } else if count > 0 && count < had {
            let root = Path::root("spec");
            let detail = format!("must be 'SingleStack' to release the {what}");
            errors.push(Error::invalid(&root.child("ipFamilyPolicy"), policy(service), detail));
        }
    }
}

fn single_stack_means_one(errors: &mut Errors, service: &Value) {
    if policy(service) != "SingleStack" {
        return;
    }
    let (root, spec) = (Path::root("spec"), service.get("spec").unwrap_or(&Value::Null));
    for (field, what) in [("clusterIPs", "cluster IPs"), ("ipFamilies", "IP families")] {
        if items(spec, field).len() == 2 {
            let detail =
                format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified");
            errors.push(Error::invalid(&root.child("ipFamilyPolicy"), "SingleStack", detail));
        }
    }
}

fn infer_from_addresses(errors: &mut Errors, service: &mut Value, configured: &[&'static str]) {
    let addresses = service.items_at(&["spec", "clusterIPs"]).to_vec();
    let mut families = service.items_at(&["spec", "ipFamilies"]).to_vec();
    for (i, address) in addresses.iter().enumerate().skip(families.len()) {
        let address = address.as_str().unwrap_or_default();
        if address == "None" {
            break;
        }
        let family = family_of(address);
        if configured.contains(&family) {
            families.push(Value::str(family));
            continue;
        }
        let root = Path::root("spec");
        let list = root.child("clusterIPs");
        let detail = format!("{family} is not configured on this cluster");
        errors.push(Error::invalid(&list.index(i), Value::from(addresses.clone()), detail));
    }
    if !families.is_empty() {
        service.object_at_mut(&["spec"]).set("ipFamilies", families);
    }
}

fn family_of(address: &str) -> &'static str {
    if address.contains(':') { "IPv6" } else { "IPv4" }
}

fn not_configured(service: &Value, configured: &[&'static str]) -> Errors {
    let (mut errors, root) = (Vec::new(), Path::root("spec"));
    if policy(service) == "RequireDualStack" && configured.len() < 2 {
        let detail = "this cluster is not configured for dual-stack services";
        errors.push(Error::invalid(&root.child("ipFamilyPolicy"), policy(service), detail));
    }
    let list = root.child("ipFamilies");
    for (i, family) in service.items_at(&["spec", "ipFamilies"]).iter().enumerate() {
        let family = family.as_str().unwrap_or_default();
        if !configured.contains(&family) {
            errors.push(Error::invalid(&list.index(i), family, "not configured on this cluster"));
        }
    }
    errors
}

/// No family: the cluster's first. One, where two may be: the other as well.
fn complete(service: &mut Value, configured: &[&'static str], available: &[&'static str]) {
    let dual = policy(service) != "SingleStack" && available.len() == 2;
    let mut families = service.items_at(&["spec", "ipFamilies"]).to_vec();
    if families.is_empty() {
        families.push(Value::str(configured.first().copied().unwrap_or("IPv4")));
    }
    if let ([one], true) = (families.as_slice(), dual) {
        let other = if one.as_str() == Some("IPv4") { "IPv6" } else { "IPv4" };
        families.push(Value::str(other));
    }
    service.object_at_mut(&["spec"]).set("ipFamilies", families);
}

/// The rules between `clusterIP`, `clusterIPs`, `ipFamilies` and `ipFamilyPolicy`.
pub(super) fn related(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    if text(spec, "type") == "ExternalName" {
        return;
    }
    in_step(errors, spec, &path.child("clusterIPs"));
    let (families, list) = (items(spec, "ipFamilies"), path.child("ipFamilies"));
    for (i, family) in families.iter().enumerate() {
        let name = family.as_str().unwrap_or_default();
        if !FAMILIES.contains(&name) {
            errors.push(Error::not_supported(&list.index(i), name, FAMILIES));
        }
        if families[..i].contains(family) {
            errors.push(Error::duplicate(&list.index(i), name));
        }
    }
    one_of_given(errors, spec, "ipFamilyPolicy", POLICIES, path);
    let before = errors.len();
    well_formed(errors, spec, &path.child("clusterIPs"));
    if errors.len() == before {
        one_of_each(errors, spec, path);
    }
}

/// `clusterIP` is the first of `clusterIPs`, and neither is there without the other.
fn in_step(errors: &mut Errors, spec: &Value, list: &Path<'_>) {
    let (one, all) = (text(spec, "clusterIP"), items(spec, "clusterIPs"));
    let bad = || Value::from(all.to_vec());
    match (one, all.first()) {
        ("", None) => {}
        ("", Some(_)) => {
            errors.push(Error::invalid(list, bad(), "must be empty when `clusterIP` is not specified"));
        }
        (_, None) => errors.push(Error::required(list, "")),
        (one, Some(first)) if first.as_str() != Some(one) => {
            errors.push(Error::invalid(list, bad(), "first value must match `clusterIP`"));
        }
        _ => {}
    }
}

fn well_formed(errors: &mut Errors, spec: &Value, list: &Path<'_>) {
    let all = items(spec, "clusterIPs");
    for (i, address) in all.iter().enumerate() {
        let address = address.as_str().unwrap_or_default();
        if i == 0 && address == "None" {
            if all.len() > 1 {
                let detail = "'None' must be the first and only value";
                errors.push(Error::invalid(list, Value::from(all.to_vec()), detail));
            }
            continue;
        }
        invalid_each(errors, &list.index(i), address, rules::ip_address(address));
    }
    if all.len() > 2 {
        errors.push(Error::invalid(list, Value::from(all.to_vec()), "may only hold up to 2 values"));
    }
}

fn one_of_each(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    let (all, list) = (items(spec, "clusterIPs"), path.child("clusterIPs"));
    let families: Vec<&str> = all.iter().map(|ip| family_of(ip.as_str().unwrap_or_default())).collect();
    if let [first, second, ..] = families.as_slice()
        && first == second
    {
        let detail = "may specify no more than one IP for each IP family";
        errors.push(Error::invalid(&list, Value::from(all.to_vec()), detail));
    }
    if is_headless(spec) {
        return;
    }
    for (i, (family, wanted)) in families.iter().zip(items(spec, "ipFamilies")).enumerate() {
        let wanted = wanted.as_str().unwrap_or_default();
        if FAMILIES.contains(&wanted) && *family != wanted {
            let detail = format!("expected an {wanted} value as indicated by `ipFamilies[{i}]`");
            let address = all[i].as_str().unwrap_or_default();
            errors.push(Error::invalid(&list.index(i), address, detail));
        }
    }
}

/// What a service had first stays; what came second goes only under `SingleStack`.
pub(super) fn stays(errors: &mut Errors, new: &Value, old: &Value, path: &Path<'_>) {
    let external = |spec: &Value| text(spec, "type") == "ExternalName";
    if external(new) || external(old) || (is_headless(new) && is_headless(old)) {
        return;
    }
    list_stays(errors, new, old, ("clusterIPs", "clusterIP"), path);
    if is_headless(new) == is_headless(old) {
        list_stays(errors, new, old, ("ipFamilies", "ipFamily"), path);
    }
}

fn list_stays(errors: &mut Errors, new: &Value, old: &Value, (field, one): (&str, &str), path: &Path<'_>) {
    let (now, before, list) = (items(new, field), items(old, field), path.child(field));
    let bad = || Value::from(now.to_vec());
    if now.len() == before.len() {
        for i in (0..now.len()).filter(|i| now[*i] != before[*i]) {
            errors.push(Error::invalid(&list.index(i), bad(), "may not change once set"));
        }
        return;
    }
    if now.is_empty() {
        errors.push(Error::invalid(&list.index(0), bad(), format!("primary {one} can not be unset")));
    } else if !before.is_empty() && now[0] != before[0] {
        errors.push(Error::invalid(&list.index(0), bad(), "may not change once set"));
    }
    if now.len() == 1 && before.len() > 1 && text(new, "ipFamilyPolicy") != "SingleStack" {
        let detail = format!("must be set to 'SingleStack' when releasing the secondary {one}");
        errors.push(Error::invalid(&path.child("ipFamilyPolicy"), text(new, "ipFamilyPolicy"), detail));
    }
}

/// Where a client gives one of the pair `clusterIP` and `clusterIPs`, the other follows.
pub(super) fn follow(spec: &mut Object, old: Option<&Value>) {
    let now = spec.get("clusterIP").and_then(Value::as_str).unwrap_or_default().to_owned();
    let list = spec.get("clusterIPs").and_then(Value::as_array).cloned().unwrap_or_default();
    let Some(old) = old else {
        if !now.is_empty() && list.is_empty() {
            spec.set("clusterIPs", vec![Value::from(now)]);
        }
        return;
    };
    let (before, old_list) = (text(old, "clusterIP"), items(old, "clusterIPs"));
    if now == before {
        if list.is_empty() && !old_list.is_empty() {
            spec.set("clusterIPs", old_list.to_vec());
        }
    } else if list == old_list || list.is_empty() {
        match now.is_empty() {
            true => drop(spec.remove("clusterIPs")),
            false => spec.set("clusterIPs", vec![Value::from(now)]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::{texts, tree};

    const ONE: &[&str] = &["IPv4"];
    const TWO: &[&str] = &["IPv4", "IPv6"];

    #[test]
    fn families_are_filled_in() {
        let cases = [
            (ONE, "{}", "{ipFamilyPolicy: SingleStack, ipFamilies: [IPv4]}"),
            (TWO, "{}", "{ipFamilyPolicy: SingleStack, ipFamilies: [IPv4]}"),
            (
                ONE,
                "{ipFamilyPolicy: PreferDualStack}",
                "{ipFamilyPolicy: PreferDualStack, ipFamilies: [IPv4]}",
            ),
            (
                TWO,
                "{ipFamilyPolicy: PreferDualStack, ipFamilies: [IPv6]}",
                "{ipFamilyPolicy: PreferDualStack, ipFamilies: [IPv6, IPv4]}",
            ),
            (
                ONE,
                "{clusterIP: None, clusterIPs: [None]}",
                "{clusterIP: None, clusterIPs: [None], ipFamilyPolicy: RequireDualStack, ipFamilies: [IPv4, IPv6]}",
            ),
            (
                ONE,
                "{clusterIP: None, clusterIPs: [None], selector: {a: b}}",
                "{clusterIP: None, clusterIPs: [None], selector: {a: b}, ipFamilyPolicy: SingleStack, ipFamilies: [IPv4]}",
            ),
            (
                TWO,
                "{clusterIP: 'fd00::1', clusterIPs: ['fd00::1']}",
                "{clusterIP: 'fd00::1', clusterIPs: ['fd00::1'], ipFamilyPolicy: SingleStack, ipFamilies: [IPv6]}",
            ),
            (ONE, "{type: ExternalName}", "{type: ExternalName}"),
        ];
        for (configured, given, wanted) in cases {
            let mut service = tree(&format!("{{spec: {given}}}"));
            init_families(&mut service, None, configured).expect(given);
            assert_eq!(service.get("spec"), Some(&tree(wanted)), "{given}");
        }
    }

    #[test]
    fn families_that_are_refused() {
        let cases = [
            (
                "{ipFamilyPolicy: RequireDualStack}",
                "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services",
            ),
            (
                "{ipFamilies: [IPv6]}",
                "spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster",
            ),
            (
                "{ipFamilies: [IPv4, IPv6]}",
                "spec.ipFamilyPolicy: Invalid value: \"SingleStack\": must be 'RequireDualStack' or 'PreferDualStack' when \
                 multiple IP families are specified",
            ),
            ("{ipFamilies: [IPv4, IPv4]}", "spec.ipFamilies[1]: Duplicate value: \"IPv4\""),
            (
                "{clusterIPs: [10.0.0.1]}",
                "spec.clusterIPs: Invalid value: [\"10.0.0.1\"]: must be empty when `clusterIP` is not specified",
            ),
            (
                "{clusterIP: 'fd00::1', clusterIPs: ['fd00::1']}",
                "spec.clusterIPs[0]: Invalid value: [\"fd00::1\"]: IPv6 is not configured on this cluster",
            ),
            (
                "{clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1, 10.0.0.2]}",
                "spec.clusterIPs: Invalid value: [\"10.0.0.1\",\"10.0.0.2\"]: may specify no more than one IP for each IP family",
            ),
            (
                "{clusterIP: x, clusterIPs: [x]}",
                "spec.clusterIPs[0]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            ),
            (
                "{clusterIP: None, clusterIPs: [None, 10.0.0.1]}",
                "spec.clusterIPs: Invalid value: [\"None\",\"10.0.0.1\"]: 'None' must be the first and only value",
            ),
        ];
        for (given, wanted) in cases {
            let mut service = tree(&format!("{{spec: {given}}}"));
            let errors = init_families(&mut service, None, ONE).expect_err(given);
            assert_eq!(texts(&errors), [wanted], "{given}");
        }
    }

    #[test]
    fn second_addresses_come_and_go() {
        let old = "{spec: {clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1, 'fd00::1'], ipFamilies: [IPv4, IPv6], \
                   ipFamilyPolicy: RequireDualStack}}";
        let mut service = tree(&old.replace("RequireDualStack", "SingleStack"));
        init_families(&mut service, Some(&tree(old)), TWO).expect("a downgrade");
        assert_eq!(service.items_at(&["spec", "clusterIPs"]).len(), 1);
        assert_eq!(service.items_at(&["spec", "ipFamilies"]).len(), 1);
        let mut service = tree(&old.replace(", 'fd00::1'", ""));
        let errors = init_families(&mut service, Some(&tree(old)), TWO).expect_err("who asked for it?");
        assert_eq!(
            texts(&errors),
            [
                "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": must be 'SingleStack' to release the secondary \
                 cluster IP"
            ]
        );
    }
}
