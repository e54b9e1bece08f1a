//! Jobs, cron jobs and stateful sets.

use super::look::{
    Errors, IMMUTABLE, at_mut, given, int, int_or_zero, is_empty_map, is_true, items, items_mut,
    not_negative, one_of_given, same, set_empty, set_missing, text,
};
use super::row::NO_HOOKS;
use super::{pod, workload};
use crate::field::{self, Error, Path};
use crate::kind::{Context, Hooks};
use crate::rules;
use crate::{Object, Value, meta};

const CRON_NAME_MAX_BYTES: usize = 52;
const CONTROLLER_UID: &str = "batch.kubernetes.io/controller-uid";
const JOB_NAME: &str = "batch.kubernetes.io/job-name";

pub(super) const JOB: Hooks = Hooks {
    default: Some(default_job),
    prepare_create: Some(prepare_job),
    validate: Some(validate_job),
    selectable_value: Some(|job, path| {
        let succeeded = || job.at(&["status", "succeeded"]).and_then(Value::as_i64).unwrap_or(0);
        (path == "status.successful").then(|| succeeded().to_string())
    }),
    ..NO_HOOKS
};

pub(super) const CRON_JOB: Hooks =
    Hooks { default: Some(default_cron_job), validate: Some(validate_cron_job), ..NO_HOOKS };

pub(super) const STATEFUL_SET: Hooks =
    Hooks { default: Some(default_stateful_set), validate: Some(validate_stateful_set), ..NO_HOOKS };

fn default_job(job: &mut Value) {
    let labels = job.at(&["spec", "template", "metadata", "labels"]).filter(|l| !l.is_null()).cloned();
    if let Some(labels) = labels.filter(|_| is_empty_map(job.at(&["metadata", "labels"]))) {
        job.object_at_mut(&["metadata"]).set("labels", labels);
    }
    job.object_at_mut(&["spec"]);
    if let Some(spec) = job.get_mut("spec") {
        default_job_spec(spec);
    }
}

fn default_job_spec(spec: &mut Value) {
    if int(spec, "completions").is_none() && int(spec, "parallelism").is_none() {
        set_missing(spec, "completions", 1);
    }
    set_missing(spec, "parallelism", 1);
    let retries = if int(spec, "backoffLimitPerIndex").is_some() { i64::from(i32::MAX) } else { 6 };
    set_missing(spec, "backoffLimit", retries);
    set_missing(spec, "completionMode", Value::str("NonIndexed"));
    set_missing(spec, "suspend", false);
    let replace = if given(spec, "podFailurePolicy").is_some() { "Failed" } else { "TerminatingOrFailed" };
    set_missing(spec, "podReplacementPolicy", Value::str(replace));
    set_missing(spec, "manualSelector", false);
    pod::defaults::template(spec, "template");
}

/// The selector of a job is its own uid, unless its author insists on another.
fn prepare_job(job: &mut Value, _cx: &Context<'_>) {
    if job.get("spec").is_some_and(|spec| is_true(spec, "manualSelector")) {
        return;
    }
    let uid = job.str_at(&["metadata", "uid"]).to_owned();
    let name = job.str_at(&["metadata", "name"]).to_owned();
    let labels = job.object_at_mut(&["spec", "template", "metadata", "labels"]);
    for (key, value) in
        [(CONTROLLER_UID, &uid), (JOB_NAME, &name), ("controller-uid", &uid), ("job-name", &name)]
    {
        if !labels.contains_key(key) {
            labels.set(key, value.as_str());
        }
    }
    job.object_at_mut(&["spec", "selector", "matchLabels"]).set(CONTROLLER_UID, uid);
}

fn validate_job(job: &Value, old: Option<&Value>, cx: &Context<'_>) -> Vec<field::Error> {
    let mut errors = Vec::new();
    let (empty, path) = (Value::Null, Path::root("spec"));
    if cx.subresource == "status" {
        return errors;
    }
    let spec = job.get("spec").unwrap_or(&empty);
    job_spec(&mut errors, spec, &path);
    if given(spec, "selector").is_none() {
        errors.push(Error::required(&path.child("selector"), ""));
    }
    meta::label_selector(&mut errors, given(spec, "selector"), &path.child("selector"));
    let labels = spec.at(&["template", "metadata", "labels"]);
    if given(spec, "selector").is_some_and(|s| !meta::selector_matches(s, labels)) {
        let bad = labels.cloned().unwrap_or_default();
        let path = path.child("template");
        let path = path.child("metadata");
        let detail = "`selector` does not match template `labels`";
        errors.push(Error::invalid(&path.child("labels"), bad, detail));
    }
    if let Some(old) = old {
        job_stays(&mut errors, spec, old.get("spec").unwrap_or(&empty), &path);
    }
    errors
}

fn job_spec(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    for field in
        ["parallelism", "completions", "activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished"]
    {
        not_negative(errors, spec, field, path);
    }
    one_of_given(errors, spec, "completionMode", &["Indexed", "NonIndexed"], path);
    if text(spec, "completionMode") == "Indexed" && int(spec, "completions").is_none() {
        let detail = "when completion mode is Indexed";
        errors.push(Error::required(&path.child("completions"), detail));
    }
    let empty = Value::Null;
    let (template, path) = (spec.get("template").unwrap_or(&empty), path.child("template"));
    pod::template(errors, template, &path);
    let policy = template.str_at(&["spec", "restartPolicy"]);
    if !matches!(policy, "OnFailure" | "Never") {
        let path = path.child("spec");
        errors.push(Error::not_supported(&path.child("restartPolicy"), policy, &["OnFailure", "Never"]));
    }
}

/// What decides which pods belong to a job may not change; its template only while it has not started.
fn job_stays(errors: &mut Errors, new: &Value, old: &Value, path: &Path<'_>) {
    let completions_may = text(new, "completionMode") == "Indexed";
    let may_not: &[&'static str] = if completions_may {
        &["selector", "template", "completionMode", "podFailurePolicy", "backoffLimitPerIndex"]
    } else {
        &["completions", "selector", "template", "completionMode", "podFailurePolicy", "backoffLimitPerIndex"]
    };
    for field in may_not.iter().filter(|field| !same(new.get(field), old.get(field))) {
        let bad = new.get(field).cloned().unwrap_or_default();
        errors.push(Error::invalid(&path.child(field), bad, IMMUTABLE));
    }
}

fn default_cron_job(cron: &mut Value) {
    cron.object_at_mut(&["spec"]);
    let Some(spec) = cron.get_mut("spec") else { return };
    set_empty(spec, "concurrencyPolicy", "Allow");
    set_missing(spec, "suspend", false);
    set_missing(spec, "successfulJobsHistoryLimit", 3);
    set_missing(spec, "failedJobsHistoryLimit", 1);
    if let Some(job) = at_mut(spec, &["jobTemplate", "spec"]) {
        pod::defaults::template(job, "template");
    }
}

fn validate_cron_job(cron: &Value, old: Option<&Value>, _cx: &Context<'_>) -> Vec<field::Error> {
    let mut errors = Vec::new();
    let (empty, path) = (Value::Null, Path::root("spec"));
    let name = cron.str_at(&["metadata", "name"]);
    if old.is_none() && name.len() > CRON_NAME_MAX_BYTES {
        let path = Path::root("metadata");
        let detail = format!("must be no more than {CRON_NAME_MAX_BYTES} characters");
        errors.push(Error::invalid(&path.child("name"), name, detail));
    }
    let spec = cron.get("spec").unwrap_or(&empty);
    match text(spec, "schedule") {
        "" => errors.push(Error::required(&path.child("schedule"), "")),
        schedule => errors.extend(
            schedule_error(schedule).map(|detail| Error::invalid(&path.child("schedule"), schedule, detail)),
        ),
    }
    not_negative(&mut errors, spec, "startingDeadlineSeconds", &path);
    super::look::one_of(
        &mut errors,
        text(spec, "concurrencyPolicy"),
        &["Allow", "Forbid", "Replace"],
        &path.child("concurrencyPolicy"),
    );
    let job = path.child("jobTemplate");
    job_spec(&mut errors, spec.at(&["jobTemplate", "spec"]).unwrap_or(&empty), &job.child("spec"));
    not_negative(&mut errors, spec, "successfulJobsHistoryLimit", &path);
    not_negative(&mut errors, spec, "failedJobsHistoryLimit", &path);
    errors
}

/// What is wrong with a schedule: five fields, or `@hourly` and its like.
fn schedule_error(schedule: &str) -> Option<String> {
    if schedule.contains("TZ") {
        return Some("cannot use TZ or CRON_TZ in schedule, use timeZone field instead".to_owned());
    }
    if let Some(word) = schedule.strip_prefix('@') {
        let known = ["yearly", "annually", "monthly", "weekly", "daily", "midnight", "hourly"];
        let every = word.strip_prefix("every ").is_some_and(|d| !d.trim().is_empty());
        return (!known.contains(&word) && !every).then(|| format!("unrecognized descriptor: {schedule}"));
    }
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    if fields.len() != 5 {
        return Some(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '*' | '/' | ',' | '-' | '?');
    let bad = fields.iter().find(|field| !field.chars().all(plain));
    bad.map(|field| {
        format!("failed to parse int from {field}: strconv.Atoi: parsing \"{field}\": invalid syntax")
    })
}

fn default_stateful_set(set: &mut Value) {
    set.object_at_mut(&["spec"]);
    let Some(spec) = set.get_mut("spec") else { return };
    set_empty(spec, "podManagementPolicy", "OrderedReady");
    set_missing(spec, "updateStrategy", Object::default());
    if let Some(strategy) = spec.get_mut("updateStrategy") {
        if text(strategy, "type").is_empty() {
            set_empty(strategy, "type", "RollingUpdate");
            set_missing(strategy, "rollingUpdate", Object::default());
        }
        if let Some(rolling) = at_mut(strategy, &["rollingUpdate"]) {
            set_missing(rolling, "partition", 0);
        }
    }
    set_missing(spec, "persistentVolumeClaimRetentionPolicy", Object::default());
    if let Some(policy) = spec.get_mut("persistentVolumeClaimRetentionPolicy") {
        set_empty(policy, "whenDeleted", "Retain");
        set_empty(policy, "whenScaled", "Retain");
    }
    set_missing(spec, "replicas", 1);
    set_missing(spec, "revisionHistoryLimit", 10);
    for claim in items_mut(spec, "volumeClaimTemplates") {
        set_empty(claim, "apiVersion", "v1");
        set_empty(claim, "kind", "PersistentVolumeClaim");
        super::storage::default_claim(claim);
    }
    pod::defaults::template(spec, "template");
}

fn validate_stateful_set(set: &Value, old: Option<&Value>, cx: &Context<'_>) -> Vec<field::Error> {
    let mut errors = Vec::new();
    let (empty, path) = (Value::Null, Path::root("spec"));
    if cx.subresource == "status" {
        workload::status_counts(
            &mut errors,
            set,
            old,
            &["replicas", "readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"],
        );
        return errors;
    }
    let spec = set.get("spec").unwrap_or(&empty);
    let policy = text(spec, "podManagementPolicy");
    if !matches!(policy, "OrderedReady" | "Parallel") {
        let detail = "must be 'OrderedReady' or 'Parallel'";
        errors.push(Error::invalid(&path.child("podManagementPolicy"), policy, detail));
    }
    stateful_strategy(
        &mut errors,
        spec.get("updateStrategy").unwrap_or(&empty),
        &path.child("updateStrategy"),
    );
    not_negative(&mut errors, spec, "replicas", &path);
    not_negative(&mut errors, spec, "minReadySeconds", &path);
    workload::selector(&mut errors, spec, "statefulset", &path);
    stateful_template(&mut errors, spec, &path);
    if let Some(old) = old {
        stateful_stays(&mut errors, spec, old.get("spec").unwrap_or(&empty), &path);
    }
    errors
}

fn stateful_strategy(errors: &mut Errors, strategy: &Value, path: &Path<'_>) {
    let rolling = given(strategy, "rollingUpdate");
    match text(strategy, "type") {
        "OnDelete" => {
            if let Some(rolling) = rolling {
                let detail = "only allowed for updateStrategy 'RollingUpdate'";
                errors.push(Error::invalid(&path.child("rollingUpdate"), rolling.clone(), detail));
            }
        }
        "RollingUpdate" => {
            let partition = rolling.map_or(0, |r| int_or_zero(r, "partition"));
            if partition < 0 {
                let path = path.child("rollingUpdate");
                errors.push(Error::invalid(&path.child("partition"), partition, rules::NOT_NEGATIVE));
            }
        }
        _ => {
            let detail = "must be 'RollingUpdate' or 'OnDelete'";
            errors.push(Error::invalid(path, strategy.clone(), detail));
        }
    }
}

/// The template with the volumes that the claim templates will bring.
fn stateful_template(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    let mut whole = spec.clone();
    for claim in items(spec, "volumeClaimTemplates") {
        let name = claim.str_at(&["metadata", "name"]);
        let mut source = Object::default();
        source.set("claimName", name);
        let mut volume = Object::default();
        volume.set("name", name);
        volume.set("persistentVolumeClaim", source);
        let volumes = whole.object_at_mut(&["template", "spec"]).entry("volumes");
        match volumes {
            Value::Array(list) if list.iter().all(|v| text(v, "name") != name) => list.push(volume.into()),
            Value::Array(_) => {}
            other => *other = vec![Value::Object(volume)].into(),
        }
    }
    workload::selected_template(errors, &whole, "StatefulSet", path);
}

fn stateful_stays(errors: &mut Errors, new: &Value, old: &Value, path: &Path<'_>) {
    const MAY: &[&str] = &[
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    ];
    let masked = |spec: &Value| {
        let mut spec = spec.clone();
        if let Some(spec) = spec.as_object_mut() {
            spec.retain(|key, _| !MAY.contains(&key));
        }
        spec
    };
    if !same(Some(&masked(new)), Some(&masked(old))) {
        let detail = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
                      'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
                      'minReadySeconds' are forbidden";
        errors.push(Error::forbidden(path, detail));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::{CONTEXT, create_errors, defaulted, tree, update_errors};

    #[test]
    fn a_job_selects_its_own_pods() {
        let mut job = defaulted(
            "batch",
            "Job",
            "{metadata: {name: j, uid: u}, spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: i}]}}}}",
        );
        prepare_job(&mut job, &CONTEXT);
        assert_eq!(job.at(&["spec", "selector", "matchLabels", CONTROLLER_UID]), Some(&tree("u")));
        assert_eq!(job.at(&["spec", "completions"]), Some(&tree("1")));
        assert!(validate_job(&job, None, &CONTEXT).is_empty());
    }

    #[test]
    fn schedules() {
        for good in ["* * * * *", "*/5 0-3 1,15 JAN MON", "@hourly", "@every 5m"] {
            assert_eq!(schedule_error(good), None, "{good}");
        }
        for bad in ["* * * *", "@sometimes", "a_b * * * *", "TZ=UTC * * * * *"] {
            assert!(schedule_error(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn stateful_sets() {
        let yaml = "{metadata: {name: s}, spec: {selector: {matchLabels: {a: b}}, serviceName: s, template: {metadata: \
                    {labels: {a: b}}, spec: {containers: [{name: c, image: i, volumeMounts: [{name: v, mountPath: /v}]}]}}, \
                    volumeClaimTemplates: [{metadata: {name: v}, spec: {accessModes: [ReadWriteOnce]}}]}}";
        assert_eq!(create_errors("apps", "StatefulSet", yaml), Vec::<String>::new());
        let set = defaulted("apps", "StatefulSet", yaml);
        assert_eq!(set.str_at(&["spec", "podManagementPolicy"]), "OrderedReady");
        assert_eq!(
            set.at(&["spec", "updateStrategy"]),
            Some(&tree("{type: RollingUpdate, rollingUpdate: {partition: 0}}"))
        );
        let errors =
            update_errors("apps", "StatefulSet", yaml, &yaml.replace("serviceName: s", "serviceName: t"));
        assert_eq!(errors.len(), 1, "{errors:?}");
    }
}
