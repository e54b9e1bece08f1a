//! ResourceQuota: what is made is charged to the quotas of its namespace before it is stored, by compare-and-swap on their
//! status. What a failed write was charged, and what goes, is given back by the controller that counts anew.

use std::collections::BTreeSet;

use corten_api::kind::Scope;
use corten_api::kinds::usage::{self, Usage};
use corten_api::quantity::Quantity;
use corten_api::{Object, Result, Status, Value};
use futures::FutureExt;
use futures::future::BoxFuture;

use super::{Attributes, Operation};
use crate::call::Call;
use crate::candidate::Make;
use crate::write::Write;

/// Everything that is made costs; of changes only those of services and claims can.
pub(super) fn wants(a: &Attributes<'_>) -> bool {
    let own = a.call.info.subresource.is_empty() && a.call.kind.scope == Scope::Namespaced;
    own && match a.operation {
        Operation::Create => true,
        Operation::Update => a.is("services", "") || a.is("persistentvolumeclaims", ""),
        Operation::Delete => false,
    }
}

pub(super) fn validate<'a>(a: &'a Attributes<'a>, object: &'a Value) -> BoxFuture<'a, Result<()>> {
    async move {
        let namespace = a.call.info.namespace.as_str();
        let entries = a.server.list_raw("resourcequotas", namespace).await?;
        if entries.is_empty() {
            return Ok(());
        }
        let kind = a.call.edge().storage_kind;
        let before = a.old.map(|old| usage::of(kind, old)).unwrap_or_default();
        let wanted = usage::growth(&usage::of(kind, object), &before);
        if wanted.is_empty() {
            return Ok(());
        }
        let mut quotas = Vec::new();
        for entry in &entries {
            let quota = a.server.tree(entry)?;
            if usage::counts(&quota, kind, object) {
                explicit(a, object, &quota)?;
                quotas.push(quota);
            }
        }
        // All are asked before one is charged.
        let mut charges = Vec::new();
        for quota in quotas {
            let wanted = counted(&quota, &wanted);
            if !wanted.is_empty() {
                let found = found(a, &quota, &wanted).await?;
                spend(&mut quota.clone(), &wanted, &found).map_err(|why| a.forbidden(object, &why))?;
                charges.push((quota.str_at(&["metadata", "name"]).to_owned(), wanted, found));
            }
        }
        for (name, wanted, found) in charges {
            charge(a, object, name, wanted, found).await?;
        }
        Ok(())
    }
    .boxed()
}

/// The part of the usage that the quota limits.
fn counted(quota: &Value, wanted: &Usage) -> Usage {
    let limited = |name: &String| hard(quota, name).is_some();
    wanted.iter().filter(|(name, _)| limited(name)).map(|(name, amount)| (name.clone(), *amount)).collect()
}

/// A limit counts as soon as it is there; upstream waits until the controller has seen it.
fn hard(quota: &Value, name: &str) -> Option<Quantity> {
    amount(quota, "spec", "hard", name)
}

fn amount(quota: &Value, part: &str, field: &str, name: &str) -> Option<Quantity> {
    let text = match quota.at(&[part, field, name])? {
        Value::Int(n) => n.to_string(),
        other => other.as_str()?.to_owned(),
    };
    Quantity::parse(&text).ok()
}

fn explicit(a: &Attributes<'_>, pod: &Value, quota: &Value) -> Result<()> {
    if !a.is("pods", "") {
        return Ok(());
    }
    let limits = quota.at(&["spec", "hard"]).and_then(Value::as_object);
    let names: BTreeSet<&str> = limits.into_iter().flat_map(Object::keys).map(|name| name.as_str()).collect();
    match usage::unsaid(pod, &names) {
        None => Ok(()),
        Some(list) => {
            let name = quota.str_at(&["metadata", "name"]);
            Err(a.forbidden(pod, &format!("failed quota: {name}: must specify {list}")))
        }
    }
}

async fn charge(a: &Attributes<'_>, object: &Value, name: String, wanted: Usage, found: Usage) -> Result<()> {
    if a.call.dry_run()? {
        return Ok(());
    }
    let namespace = a.call.info.namespace.as_str();
    let call = Call::internal(a.server, ("", "resourcequotas"), namespace, &name, "status")?;
    let refusal = a.forbidden(object, "");
    let edit = Make::Edit(Box::new(move |quota: &mut Value| {
        spend(quota, &wanted, &found).map_err(|why| {
            let mut refusal: Box<Status> = refusal.clone();
            refusal.message += &why;
            refusal
        })
    }));
    match Write::new(a.server, &call, name, edit)?.commit().await {
        Ok(_) => Ok(()),
        // Deleted meanwhile: nothing to charge.
        Err(status) if status.code == 404 => Ok(()),
        Err(status) => Err(status),
    }
}

/// What the stored objects cost, if the quota does not say it of all that is wanted.
async fn found(a: &Attributes<'_>, quota: &Value, wanted: &Usage) -> Result<Usage> {
    let known = wanted.keys().all(|name| amount(quota, "status", "used", name).is_some());
    if known { Ok(Usage::new()) } else { recount(a, quota).await }
}

/// What the stored objects cost, where nobody has counted them yet.
async fn recount(a: &Attributes<'_>, quota: &Value) -> Result<Usage> {
    let kind = a.call.edge().storage_kind;
    let mut total = Usage::new();
    for entry in a.server.list_group(&kind.group, &kind.plural, &a.call.info.namespace).await? {
        let object = a.server.tree(&entry)?;
        if usage::counts(quota, kind, &object) {
            for (name, amount) in usage::of(kind, &object) {
                let slot = total.entry(name).or_default();
                *slot = *slot + amount;
            }
        }
    }
    Ok(total)
}

/// Adds to what is used.
///
/// Errors: upstream's sentence when that is more than there is.
fn spend(quota: &mut Value, wanted: &Usage, found: &Usage) -> Result<(), String> {
    let used = |name: &str| {
        amount(quota, "status", "used", name).or_else(|| found.get(name).copied()).unwrap_or_default()
    };
    let (mut requested, mut held, mut limited, mut new) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (name, more) in wanted {
        let Some(limit) = hard(quota, name) else { continue };
        let (before, after) = (used(name), used(name) + *more);
        if after > limit {
            requested.push(format!("{name}={more}"));
            held.push(format!("{name}={before}"));
            limited.push(format!("{name}={limit}"));
        }
        new.push((name.clone(), after));
    }
    if !requested.is_empty() {
        let name = quota.str_at(&["metadata", "name"]);
        let (requested, held, limited) = (requested.join(","), held.join(","), limited.join(","));
        return Err(format!(
            "exceeded quota: {name}, requested: {requested}, used: {held}, limited: {limited}"
        ));
    }
    if quota.at(&["status", "hard"]).is_none()
        && let Some(limits) = quota.at(&["spec", "hard"]).cloned()
    {
        quota.object_at_mut(&["status"]).set("hard", limits);
    }
    let used = quota.object_at_mut(&["status", "used"]);
    for (name, amount) in new {
        used.insert(name.as_str(), amount.to_string());
    }
    Ok(())
}
