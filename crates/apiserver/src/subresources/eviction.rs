//! `pods/eviction`: a delete that disruption budgets may refuse.

use corten_api::status::Cause;
use corten_api::{Result, Status, Value, meta as rules, time};
use http::{Request, Response};

use crate::body::{Body, read_all};
use crate::call::Call;
use crate::candidate::Make;
use crate::delete::{self, DeleteOptions};
use crate::write::Write;
use crate::{ApiServer, decode, meta};

/// When to ask again after a refusal.
const RETRY_SECONDS: u32 = 10;

/// The condition of a pod that somebody ends before its time.
const DISRUPTED: &str = "DisruptionTarget";

/// POST to a pod's `eviction`.
pub(super) async fn serve(server: &ApiServer, call: &Call, request: Request<Body>) -> Result<Response<Body>> {
    let body = read_all(request.into_body()).await?;
    let mut eviction = decode::parse(crate::media::Format::of_body(&call.content_type)?, &body)?.value;
    let api_version = eviction.str_at(&["apiVersion"]).to_owned();
    if !matches!(api_version.as_str(), "" | "policy/v1" | "policy/v1beta1") {
        return Err(Status::bad_request(format!(
            "the API version in the data ({api_version}) does not match the expected API version (policy/v1)"
        )));
    }
    let name = call.info.name.as_str();
    let named = eviction.str_at(&["metadata", "name"]);
    if !named.is_empty() && named != name {
        return Err(Status::bad_request("name in URL does not match name in Eviction object"));
    }
    let wanted = eviction.object_at_mut(&[]).remove("deleteOptions").unwrap_or_default();
    let mut options = DeleteOptions::of_value(&wanted, call.dry_run()?)?;
    let pod =
        server.read_internal("pods", &call.info.namespace, name).await?.ok_or_else(|| call.not_found())?;
    let mut free = false;
    if !ignores_budgets(&pod) {
        free = spend_budget(server, call, &pod, options.dry_run).await? == Cost::Nothing;
    }
    // What costs nothing for not being ready must not have become ready meanwhile.
    let insists = free && options.insist_on(pod.str_at(&["metadata", "resourceVersion"]));
    if !options.dry_run && !is_over(&pod) && options.means_any_version_of(&pod) {
        tell_why(server, call).await?;
    }
    let pods = Call::internal(server, ("", "pods"), &call.info.namespace, name, "")?;
    match delete::remove(server, &pods, name, &options).await {
        Err(status) if status.code == 409 && insists => Err(refused("The pod has changed.")),
        outcome => outcome.and_then(|_| super::success(call)),
    }
}

/// What an eviction costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cost {
    /// It was paid, or no budget speaks of the pod.
    Paid,
    /// A budget speaks of it, but the pod does not do what the budget guards.
    Nothing,
}

/// Pods that are not ready are no loss where the budget says so, or where enough others are there (upstream's default).
fn is_no_loss(pod: &Value, budget: &Value) -> bool {
    let conditions = pod.items_at(&["status", "conditions"]).iter();
    let mut ready = conditions.filter(|c| c.str_at(&["type"]) == "Ready" && c.str_at(&["status"]) == "True");
    let number = |field: &str| budget.at(&["status", field]).and_then(Value::as_i64).unwrap_or(0);
    let enough = number("desiredHealthy") > 0 && number("currentHealthy") >= number("desiredHealthy");
    let always = budget.str_at(&["spec", "unhealthyPodEvictionPolicy"]) == "AlwaysAllow";
    ready.next().is_none() && (always || enough)
}

fn is_over(pod: &Value) -> bool {
    matches!(pod.str_at(&["status", "phase"]), "Succeeded" | "Failed")
}

/// Says in the pod's status why it goes, for those who look at how it ended (jobs with a policy about failures). Who insists
/// on a version of the pod means the one without.
async fn tell_why(server: &ApiServer, call: &Call) -> Result<()> {
    let (namespace, name) = (call.info.namespace.as_str(), call.info.name.as_str());
    let pods = Call::internal(server, ("", "pods"), namespace, name, "status")?;
    let now = time::rfc3339(server.now_ms());
    let edit = Make::Edit(Box::new(move |pod: &mut Value| {
        let fields = [
            ("type", DISRUPTED),
            ("status", "True"),
            ("reason", "EvictionByEvictionAPI"),
            ("message", "Eviction API: evicting"),
            ("lastTransitionTime", now.as_str()),
        ];
        let mut condition = Value::object();
        fields.into_iter().for_each(|(field, text)| condition.object_at_mut(&[]).set(field, text));
        let mut conditions = pod.items_at(&["status", "conditions"]).to_vec();
        conditions.retain(|one| one.str_at(&["type"]) != DISRUPTED);
        conditions.push(condition);
        pod.object_at_mut(&["status"]).set("conditions", Value::Array(conditions));
        Ok(())
    }));
    Write::new(server, &pods, name.to_owned(), edit)?.commit().await.map(drop)
}

/// Pods that run no more, or not yet, and pods that go anyway cost no budget.
fn ignores_budgets(pod: &Value) -> bool {
    meta::is_deleting(pod) || matches!(pod.str_at(&["status", "phase"]), "Succeeded" | "Failed" | "Pending")
}

async fn spend_budget(server: &ApiServer, call: &Call, pod: &Value, dry_run: bool) -> Result<Cost> {
    let namespace = call.info.namespace.as_str();
    let entries = server.list_group("policy", "poddisruptionbudgets", namespace).await?;
    let mut matching = Vec::new();
    for entry in &entries {
        let budget = server.tree(entry)?;
        let selected = budget
            .at(&["spec", "selector"])
            .is_some_and(|s| rules::selector_matches(s, pod.at(&["metadata", "labels"])));
        if selected {
            matching.push(budget);
        }
    }
    match matching.as_slice() {
        [] => Ok(Cost::Paid),
        [budget] if is_no_loss(pod, budget) => Ok(Cost::Nothing),
        [budget] => {
            let budget = budget.str_at(&["metadata", "name"]);
            let budgets =
                Call::internal(server, ("policy", "poddisruptionbudgets"), namespace, budget, "status")?;
            let query = crate::query::Query::parse(dry_run.then_some("dryRun=All"));
            let budgets = Call { query, ..budgets };
            let (pod, now) = (call.info.name.clone(), time::rfc3339(server.now_ms()));
            let edit = Make::Edit(Box::new(move |budget| disrupt(budget, &pod, &now)));
            Write::new(server, &budgets, budget.to_owned(), edit)?.commit().await.map(|_| Cost::Paid)
        }
        _ => Err(Status::internal(
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
        )),
    }
}

fn disrupt(budget: &mut Value, pod: &str, now: &str) -> Result<()> {
    let number = |path: &[&str]| budget.at(path).and_then(Value::as_i64).unwrap_or(0);
    let name = budget.str_at(&["metadata", "name"]).to_owned();
    if number(&["status", "observedGeneration"]) < number(&["metadata", "generation"]) {
        return Err(refused(&format!(
            "The disruption budget {name} is still being processed by the server."
        )));
    }
    let allowed = number(&["status", "disruptionsAllowed"]);
    if allowed <= 0 {
        let (needed, healthy) =
            (number(&["status", "desiredHealthy"]), number(&["status", "currentHealthy"]));
        let why =
            format!("The disruption budget {name} needs {needed} healthy pods and has {healthy} currently");
        return Err(refused(&why));
    }
    let status = budget.object_at_mut(&["status"]);
    status.set("disruptionsAllowed", allowed - 1);
    budget.object_at_mut(&["status", "disruptedPods"]).insert(pod, now);
    Ok(())
}

fn refused(why: &str) -> Box<Status> {
    let mut status = Status::too_many_requests(
        "Cannot evict pod as it would violate the pod's disruption budget.",
        RETRY_SECONDS,
    );
    status.causes.push(Cause {
        reason: "DisruptionBudget".into(),
        message: why.into(),
        field: String::new(),
    });
    status
}
