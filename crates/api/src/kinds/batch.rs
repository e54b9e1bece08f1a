//! Jobs, cron jobs and stateful sets.

use super::look::{
    Errors, IMMUTABLE, at_mut, given, int, int_or_zero, is_empty_map, is_true, items, items_mut,
    not_negative, one_of_given, same, set_empty, set_missing, text,
};
use super::networking::domain_prefixed_path;
use super::row::NO_HOOKS;
use super::{pod, schedule, workload};
use crate::field::{self, Error, Path};
use crate::kind::{Context, Hooks};
use crate::rules;
use crate::{Object, Value, meta};

const CRON_NAME_MAX_BYTES: usize = 52;
const MANAGED_BY_MAX_BYTES: usize = 63;
const INDEXED_PARALLELISM_MAX: i64 = 100_000;
const FAILURE_RULES_MAX: usize = 20;
const EXIT_CODES_MAX: usize = 255;
const CONTROLLER_UID: &str = "batch.kubernetes.io/controller-uid";
const JOB_NAME: &str = "batch.kubernetes.io/job-name";

pub(super) const JOB: Hooks = Hooks {
    default: Some(default_job),
    prepare_create: Some(prepare_job),
    validate: Some(validate_job),
    warnings: Some(pod::warnings::of_owner),
    selectable_value: Some(|job, path| {
        let succeeded = || job.at(&["status", "succeeded"]).and_then(Value::as_i64).unwrap_or(0);
        (path == "status.successful").then(|| succeeded().to_string())
    }),
    ..NO_HOOKS
};

pub(super) const CRON_JOB: Hooks = Hooks {
    default: Some(default_cron_job),
    validate: Some(validate_cron_job),
    warnings: Some(pod::warnings::of_cron_job),
    ..NO_HOOKS
};

pub(super) const STATEFUL_SET: Hooks = Hooks {
    default: Some(default_stateful_set),
    validate: Some(validate_stateful_set),
    warnings: Some(pod::warnings::of_owner),
    ..NO_HOOKS
};

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
        job_stays(&mut errors, job, old, &path);
    }
    errors
}

fn job_spec(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        not_negative(errors, spec, field, path);
    }
    if let Some(manager) = given(spec, "managedBy").and_then(Value::as_str) {
        domain_prefixed_path(errors, manager, &path.child("managedBy"));
        if manager.len() > MANAGED_BY_MAX_BYTES {
            errors.push(Error::too_long(&path.child("managedBy"), MANAGED_BY_MAX_BYTES));
        }
    }
    completion_mode(errors, spec, path);
    if let Some(policy) = given(spec, "podFailurePolicy") {
        failure_policy(errors, policy, spec, &path.child("podFailurePolicy"));
    }
    let replacements = &["Failed", "TerminatingOrFailed"];
    one_of_given(errors, spec, "podReplacementPolicy", replacements, path);
    let empty = Value::Null;
    let (template, path) = (spec.get("template").unwrap_or(&empty), path.child("template"));
    pod::template(errors, template, &path);
    let of_pods = path.child("spec");
    let restart = of_pods.child("restartPolicy");
    match template.str_at(&["spec", "restartPolicy"]) {
        "Always" => errors.push(Error::required(&restart, "valid values: \"OnFailure\", \"Never\"")),
        policy @ ("OnFailure" | "Never") => {
            if policy != "Never" && given(spec, "podFailurePolicy").is_some() {
                let detail = "only \"Never\" is supported when podFailurePolicy is specified";
                errors.push(Error::invalid(&restart, policy, detail));
            }
        }
        policy => errors.push(Error::not_supported(&restart, policy, &["OnFailure", "Never"])),
    }
}

fn completion_mode(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    one_of_given(errors, spec, "completionMode", &["NonIndexed", "Indexed"], path);
    if text(spec, "completionMode") == "Indexed" {
        if int(spec, "completions").is_none() {
            let detail = "when completion mode is Indexed";
            errors.push(Error::required(&path.child("completions"), detail));
        }
        if let Some(many) = int(spec, "parallelism").filter(|n| *n > INDEXED_PARALLELISM_MAX) {
            let detail = format!(
                "must be less than or equal to {INDEXED_PARALLELISM_MAX} when completion mode is Indexed"
            );
            errors.push(Error::invalid(&path.child("parallelism"), many, detail));
        }
    } else {
        for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if let Some(n) = int(spec, field) {
                errors.push(Error::invalid(&path.child(field), n, "requires indexed completion mode"));
            }
        }
    }
    if int(spec, "maxFailedIndexes").is_some() && int(spec, "backoffLimitPerIndex").is_none() {
        let detail = "when maxFailedIndexes is specified";
        errors.push(Error::required(&path.child("backoffLimitPerIndex"), detail));
    }
}

/// What the end of a pod means for its job, rule by rule.
fn failure_policy(errors: &mut Errors, policy: &Value, spec: &Value, path: &Path<'_>) {
    const ACTIONS: &[&str] = &["Count", "FailIndex", "FailJob", "Ignore"];
    let (rules, list) = (items(policy, "rules"), path.child("rules"));
    if rules.len() > FAILURE_RULES_MAX {
        errors.push(Error::too_many(&list, rules.len(), FAILURE_RULES_MAX));
    }
    for (i, rule) in rules.iter().enumerate() {
        let path = list.index(i);
        match text(rule, "action") {
            "" => errors.push(Error::required(
                &path.child("action"),
                "valid values: [Count FailIndex FailJob Ignore]",
            )),
            "FailIndex" if int(spec, "backoffLimitPerIndex").is_none() => {
                let detail = "requires the backoffLimitPerIndex to be set";
                errors.push(Error::invalid(&path.child("action"), "FailIndex", detail));
            }
            action if !ACTIONS.contains(&action) => {
                errors.push(Error::not_supported(&path.child("action"), action, ACTIONS));
            }
            _ => {}
        }
        let codes = given(rule, "onExitCodes");
        match (codes, items(rule, "onPodConditions").is_empty()) {
            (Some(_), false) => {
                let detail = "specifying both OnExitCodes and OnPodConditions is not supported";
                errors.push(Error::invalid(&path, rule.clone(), detail));
            }
            (None, true) => {
                let detail = "specifying one of OnExitCodes and OnPodConditions is required";
                errors.push(Error::invalid(&path, rule.clone(), detail));
            }
            _ => {}
        }
        if let Some(codes) = codes {
            exit_codes(errors, codes, spec, &path.child("onExitCodes"));
        }
    }
}

fn exit_codes(errors: &mut Errors, codes: &Value, spec: &Value, path: &Path<'_>) {
    let (operator, list) = (text(codes, "operator"), path.child("values"));
    match operator {
        "" => errors.push(Error::required(&path.child("operator"), "valid values: [In NotIn]")),
        "In" | "NotIn" => {}
        other => errors.push(Error::not_supported(&path.child("operator"), other, &["In", "NotIn"])),
    }
    if let Some(name) = given(codes, "containerName").and_then(Value::as_str) {
        let known = ["containers", "initContainers"]
            .iter()
            .flat_map(|list| spec.items_at(&["template", "spec", list]))
            .any(|c| text(c, "name") == name);
        if !known {
            let detail = "must be one of the container or initContainer names in the pod template";
            errors.push(Error::invalid(&path.child("containerName"), name, detail));
        }
    }
    let values = items(codes, "values");
    if values.is_empty() {
        errors.push(Error::invalid(&list, Value::from(Vec::new()), "at least one value is required"));
    } else if values.len() > EXIT_CODES_MAX {
        errors.push(Error::too_many(&list, values.len(), EXIT_CODES_MAX));
    }
    for (i, code) in values.iter().enumerate() {
        let number = code.as_i64().unwrap_or(0);
        if operator == "In" && number == 0 {
            let detail = "must not be 0 for the In operator";
            errors.push(Error::invalid(&list.index(i), number, detail));
        }
        if values[..i].contains(code) {
            errors.push(Error::duplicate(&list.index(i), number));
        }
        if i > 0 && values[i - 1].as_i64().unwrap_or(0) > number {
            let bad = Value::from(values.to_vec());
            errors.push(Error::invalid(&list, bad, "must be ordered"));
        }
    }
}

/// What decides which pods belong to a job may not change; where its pods may run only while it waits to be started.
fn job_stays(errors: &mut Errors, job: &Value, old_job: &Value, path: &Path<'_>) {
    let empty = Value::Null;
    let (new, old) = (job.get("spec").unwrap_or(&empty), old_job.get("spec").unwrap_or(&empty));
    let indexed = text(new, "completionMode") == "Indexed";
    if !same(new.get("completions"), old.get("completions")) {
        let bad = new.get("completions").cloned().unwrap_or_default();
        if !indexed {
            errors.push(Error::invalid(&path.child("completions"), bad, IMMUTABLE));
        } else if !same(new.get("completions"), new.get("parallelism")) {
            let detail = "can only be modified in tandem with spec.parallelism";
            errors.push(Error::invalid(&path.child("completions"), bad, detail));
        }
    }
    let waits = is_true(old, "suspend") && old_job.at(&["status", "startTime"]).is_none_or(Value::is_null);
    let fixed = |spec: &Value| {
        let mut template = spec.get("template").cloned().unwrap_or_default();
        if waits {
            for field in ["labels", "annotations"] {
                template.object_at_mut(&["metadata"]).remove(field);
            }
            for field in ["nodeSelector", "affinity", "tolerations", "schedulingGates"] {
                template.object_at_mut(&["spec"]).remove(field);
            }
        }
        template
    };
    if !same(Some(&fixed(new)), Some(&fixed(old))) {
        let bad = new.get("template").cloned().unwrap_or_default();
        errors.push(Error::invalid(&path.child("template"), bad, IMMUTABLE));
    }
    for field in [
        "selector",
        "completionMode",
        "podFailurePolicy",
        "backoffLimitPerIndex",
        "managedBy",
        "successPolicy",
    ] {
        if !same(new.get(field), old.get(field)) {
            let bad = new.get(field).cloned().unwrap_or_default();
            errors.push(Error::invalid(&path.child(field), bad, IMMUTABLE));
        }
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
            schedule::error(schedule).map(|detail| Error::invalid(&path.child("schedule"), schedule, detail)),
        ),
    }
    not_negative(&mut errors, spec, "startingDeadlineSeconds", &path);
    super::look::one_of(
        &mut errors,
        text(spec, "concurrencyPolicy"),
        &["Allow", "Forbid", "Replace"],
        &path.child("concurrencyPolicy"),
    );
    if let Some(zone) = given(spec, "timeZone").and_then(Value::as_str) {
        time_zone(&mut errors, zone, &path.child("timeZone"));
    }
    let job = path.child("jobTemplate");
    let (job_path, template) = (job.child("spec"), spec.at(&["jobTemplate", "spec"]).unwrap_or(&empty));
    job_spec(&mut errors, template, &job_path);
    if let Some(selector) = given(template, "selector") {
        let detail = "`selector` will be auto-generated";
        errors.push(Error::invalid(&job_path.child("selector"), selector.clone(), detail));
    }
    if is_true(template, "manualSelector") {
        errors.push(Error::not_supported(&job_path.child("manualSelector"), true, &["nil", "false"]));
    }
    not_negative(&mut errors, spec, "successfulJobsHistoryLimit", &path);
    not_negative(&mut errors, spec, "failedJobsHistoryLimit", &path);
    errors
}

fn time_zone(errors: &mut Errors, zone: &str, path: &Path<'_>) {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_+-/".contains(c);
    if zone.is_empty() {
        errors.push(Error::invalid(path, zone, "timeZone must be nil or non-empty string"));
    } else if zone.eq_ignore_ascii_case("local") {
        let detail = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        errors.push(Error::invalid(path, zone, detail));
    } else if !zone.chars().all(fits) || !is_known_zone(zone) {
        errors.push(Error::invalid(path, zone, format!("unknown time zone {zone}")));
    }
}

/// On a host without a time zone database every well-formed name is taken.
fn is_known_zone(zone: &str) -> bool {
    let database = jiff::tz::db();
    database.is_definitively_empty() || database.get(zone).is_ok()
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
    not_negative(&mut errors, spec, "revisionHistoryLimit", &path);
    if let Some(ordinals) = given(spec, "ordinals") {
        not_negative(&mut errors, ordinals, "start", &path.child("ordinals"));
    }
    if let Some(policy) = given(spec, "persistentVolumeClaimRetentionPolicy") {
        let path = path.child("persistentVolumeClaimRetentionPolicy");
        for field in ["whenDeleted", "whenScaled"] {
            one_of_given(&mut errors, policy, field, &["Retain", "Delete"], &path);
        }
    }
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

    const POD: &str = "{spec: {restartPolicy: Never, containers: [{name: c, image: i, terminationMessagePolicy: File, imagePullPolicy: \
                       Always}]}}";

    #[test]
    fn broken_jobs() {
        let cases = [
            (
                POD.replace("restartPolicy: Never, ", ""),
                "",
                vec![
                    "spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\"",
                ],
            ),
            (
                POD.to_owned(),
                "completionMode: Indexed, parallelism: 100001, ",
                vec![
                    "spec.completions: Required value: when completion mode is Indexed",
                    "spec.parallelism: Invalid value: 100001: must be less than or equal to 100000 when completion mode is Indexed",
                ],
            ),
            (
                POD.to_owned(),
                "backoffLimitPerIndex: 1, backoffLimit: -1, ",
                vec![
                    "spec.backoffLimit: Invalid value: -1: must be greater than or equal to 0",
                    "spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode",
                ],
            ),
            (
                POD.to_owned(),
                "podFailurePolicy: {rules: [{action: FailIndex, onExitCodes: {operator: In, values: [0, 1, 1]}}]}, ",
                vec![
                    "spec.podFailurePolicy.rules[0].action: Invalid value: \"FailIndex\": requires the backoffLimitPerIndex to be set",
                    "spec.podFailurePolicy.rules[0].onExitCodes.values[0]: Invalid value: 0: must not be 0 for the In operator",
                    "spec.podFailurePolicy.rules[0].onExitCodes.values[2]: Duplicate value: 1",
                ],
            ),
        ];
        for (template, more, wanted) in cases {
            let yaml = format!("{{metadata: {{name: j, uid: u}}, spec: {{{more}template: {template}}}}}");
            let mut job = defaulted("batch", "Job", &yaml);
            prepare_job(&mut job, &CONTEXT);
            let errors: Vec<String> =
                validate_job(&job, None, &CONTEXT).iter().map(ToString::to_string).collect();
            assert_eq!(errors, wanted, "{yaml}");
        }
    }

    #[test]
    fn cron_jobs() {
        let cases = [
            ("schedule: '* * * * *', timeZone: Etc/UTC", "", vec![]),
            (
                "schedule: '60 * * * *', timeZone: Local, concurrencyPolicy: Maybe",
                "manualSelector: true, ",
                vec![
                    "spec.schedule: Invalid value: \"60 * * * *\": end of range (60) above maximum (59): 60",
                    "spec.concurrencyPolicy: Unsupported value: \"Maybe\": supported values: \"Allow\", \"Forbid\", \"Replace\"",
                    "spec.timeZone: Invalid value: \"Local\": timeZone must be an explicit time zone as defined in \
                     https://www.iana.org/time-zones",
                    "spec.jobTemplate.spec.manualSelector: Unsupported value: true: supported values: \"nil\", \"false\"",
                ],
            ),
        ];
        for (spec, job, wanted) in cases {
            let yaml = format!(
                "{{metadata: {{name: c}}, spec: {{{spec}, jobTemplate: {{spec: {{{job}template: {POD}}}}}}}}}"
            );
            assert_eq!(create_errors("batch", "CronJob", &yaml), wanted, "{yaml}");
        }
    }

    #[test]
    fn waiting_jobs_may_be_placed() {
        let job = |suspend: bool, node: &str| {
            let template =
                POD.replace("restartPolicy", &format!("nodeSelector: {{a: {node}}}, restartPolicy"));
            format!(
                "{{metadata: {{name: j}}, spec: {{suspend: {suspend}, selector: {{}}, template: {template}}}}}"
            )
        };
        let errors = update_errors("batch", "Job", &job(true, "b"), &job(true, "c"));
        assert!(!errors.iter().any(|e| e.contains("immutable")), "{errors:?}");
        let errors = update_errors("batch", "Job", &job(false, "b"), &job(false, "c"));
        assert!(
            errors.iter().any(|e| e.starts_with("spec.template: ") && e.ends_with("field is immutable")),
            "{errors:?}"
        );
    }
}
