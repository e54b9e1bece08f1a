//! Jobs, cron jobs and stateful sets.

use super::look::{
    Errors, IMMUTABLE, Zero, at_mut, given, int, int_or_zero, internal, is_empty_map, is_true, items,
    items_mut, not_negative, one_of_given, same, set_empty, set_missing, text,
};
use super::networking::domain_prefixed_path;
use super::row::NO_HOOKS;
use super::{job_policy, pod, schedule, workload};
use crate::field::{self, Error, Path};
use crate::kind::{Context, Hooks};
use crate::rules;
use crate::{Object, Value, meta};

const CRON_NAME_MAX_BYTES: usize = 52;
const MANAGED_BY_MAX_BYTES: usize = 63;
const INDEXED_PARALLELISM_MAX: i64 = 100_000;
const MANY_COMPLETIONS: i64 = 100_000;
const MAX_FAILED_INDEXES: i64 = 100_000;
const OF_MANY_MAX: i64 = 10_000;
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
    warnings: Some(stateful_warnings),
    name_rule: Some(rules::name_is_label),
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
    default_conditions(spec);
    pod::defaults::template(spec, "template");
}

/// A condition of a pod that a failure policy names is one that holds.
fn default_conditions(spec: &mut Value) {
    let Some(policy) = at_mut(spec, &["podFailurePolicy"]) else { return };
    for rule in items_mut(policy, "rules") {
        items_mut(rule, "onPodConditions").for_each(|pattern| set_empty(pattern, "status", "True"));
    }
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
    if old.is_none() {
        generated_selector(&mut errors, job, spec, &path.child("selector"));
    }
    job_spec(&mut errors, spec, &path);
    if given(spec, "selector").is_none() {
        errors.push(Error::required(&path.child("selector"), ""));
    }
    meta::label_selector(&mut errors, given(spec, "selector"), &path.child("selector"));
    let labels = spec.at(&["template", "metadata", "labels"]);
    let matches = |s: &Value| !meta::selector_is_sound(s) || meta::selector_matches(s, labels);
    if !given(spec, "selector").is_some_and(matches) {
        let bad = labels.cloned().unwrap_or_default();
        let path = path.child("template");
        let path = path.child("metadata");
        let detail = "`selector` does not match template `labels`";
        errors.push(Error::invalid(&path.child("labels"), bad, detail));
    }
    match old {
        Some(old) => job_stays(&mut errors, job, old, &path),
        None => names_of_pods(&mut errors, job, spec),
    }
    errors
}

/// The pods of an indexed job are named after it and their index.
fn names_of_pods(errors: &mut Errors, job: &Value, spec: &Value) {
    let completions = int(spec, "completions").filter(|n| *n > 0);
    let Some(last) = completions.filter(|_| text(spec, "completionMode") == "Indexed") else { return };
    let name = job.str_at(&["metadata", "name"]);
    let pod = format!("{name}-{}", last - 1);
    if !rules::dns_label(&pod).is_empty() {
        let path = Path::root("metadata");
        let detail = format!("will not able to create pod with invalid DNS label: {pod}");
        errors.push(Error::invalid(&path.child("name"), name, detail));
    }
}

/// A selector that the server made may not be mixed with one of the author's.
fn generated_selector(errors: &mut Errors, job: &Value, spec: &Value, path: &Path<'_>) {
    let Some(selector) = given(spec, "selector").filter(|_| !is_true(spec, "manualSelector")) else { return };
    let mut labels = Object::default();
    for (key, part) in
        [(CONTROLLER_UID, "uid"), (JOB_NAME, "name"), ("controller-uid", "uid"), ("job-name", "name")]
    {
        let wanted = job.str_at(&["metadata", part]);
        labels.set(key, wanted);
        let at = Path::root("spec");
        let (at, field) = (at.child("template"), "metadata");
        let at = at.child(field);
        let at = at.child("labels");
        match spec.at(&["template", "metadata", "labels", key]).and_then(Value::as_str) {
            Some(value) if value == wanted => {}
            Some(value) => {
                errors.push(Error::invalid(&at.key(key), value, format!("must be '{wanted}'")));
            }
            None => errors.push(Error::required(&at.key(key), format!("must be '{wanted}'"))),
        }
    }
    let labels = Value::Object(labels);
    if meta::selector_is_sound(selector) && !meta::selector_matches(selector, Some(&labels)) {
        errors.push(Error::invalid(path, selector.clone(), "`selector` not auto-generated"));
    }
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
    if int(spec, "maxFailedIndexes").is_some() && int(spec, "backoffLimitPerIndex").is_none() {
        let detail = "when maxFailedIndexes is specified";
        errors.push(Error::required(&path.child("backoffLimitPerIndex"), detail));
    }
    if let Some(manager) = given(spec, "managedBy").and_then(Value::as_str) {
        domain_prefixed_path(errors, manager, &path.child("managedBy"));
        if manager.len() > MANAGED_BY_MAX_BYTES {
            errors.push(Error::too_long(&path.child("managedBy"), MANAGED_BY_MAX_BYTES));
        }
    }
    completion_mode(errors, spec, path);
    if let Some(policy) = given(spec, "podFailurePolicy") {
        job_policy::failure(errors, policy, spec, &path.child("podFailurePolicy"));
    }
    if let Some(policy) = given(spec, "successPolicy") {
        let at = path.child("successPolicy");
        if text(spec, "completionMode") == "Indexed" {
            job_policy::success(errors, policy, spec, &at);
        } else {
            errors.push(Error::invalid(&at, success_shown(policy), "requires indexed completion mode"));
        }
    }
    let all: &[&str] = &["Failed", "TerminatingOrFailed"];
    let replacements = if given(spec, "podFailurePolicy").is_some() { &all[..1] } else { all };
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
        many_indexes(errors, spec, path);
    }
    if matches!(given(spec, "completionMode").and_then(Value::as_str), None | Some("NonIndexed")) {
        for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if let Some(n) = int(spec, field) {
                errors.push(Error::invalid(&path.child(field), n, "requires indexed completion mode"));
            }
        }
    }
}

/// What is remembered of each index bounds how many there may be.
fn many_indexes(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    let (completions, failed) = (int(spec, "completions"), int(spec, "maxFailedIndexes"));
    let at = path.child("maxFailedIndexes");
    if let (Some(all), Some(n)) = (completions, failed)
        && n > all
    {
        errors.push(Error::invalid(&at, n, "must be less than or equal to completions"));
    }
    if let Some(n) = failed.filter(|n| *n > MAX_FAILED_INDEXES) {
        errors.push(Error::invalid(&at, n, format!("must be less than or equal to {MAX_FAILED_INDEXES}")));
    }
    if completions.is_none_or(|n| n <= MANY_COMPLETIONS) || int(spec, "backoffLimitPerIndex").is_none() {
        return;
    }
    if failed.is_none() {
        let detail = format!("must be specified when completions is above {MANY_COMPLETIONS}");
        errors.push(Error::required(&at, detail));
    }
    for field in ["parallelism", "maxFailedIndexes"] {
        if let Some(n) = int(spec, field).filter(|n| *n > OF_MANY_MAX) {
            let detail = format!(
                "must be less than or equal to {OF_MANY_MAX} when completions are above {MANY_COMPLETIONS} and used with \
                 backoff limit per index"
            );
            errors.push(Error::invalid(&path.child(field), n, detail));
        }
    }
}

fn success_shown(policy: &Value) -> Value {
    const RULE: &[(&str, &str, Zero)] = &[
        ("succeededIndexes", "SucceededIndexes", Zero::Null),
        ("succeededCount", "SucceededCount", Zero::Null),
    ];
    let rules: Vec<Value> = items(policy, "rules").iter().map(|rule| internal(rule, RULE)).collect();
    let mut shown = Value::object();
    let rules = if rules.is_empty() { Value::Null } else { Value::from(rules) };
    shown.object_at_mut(&[]).set("Rules", rules);
    shown
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
        default_conditions(job);
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

fn stateful_warnings(set: &Value, old: Option<&Value>) -> Vec<String> {
    // The name is a label by its rule.
    let mut warnings = pod::warnings::of_owner(set, Some(old.unwrap_or(&Value::Null)));
    let root = Path::root("spec");
    let list = root.child("volumeClaimTemplates");
    for (i, claim) in set.items_at(&["spec", "volumeClaimTemplates"]).iter().enumerate() {
        super::warn::claim_spec(&mut warnings, claim.get("spec").unwrap_or(&Value::Null), &list.index(i));
    }
    if int(set.get("spec").unwrap_or(&Value::Null), "revisionHistoryLimit").is_some_and(|n| n < 0) {
        let path = root.child("revisionHistoryLimit");
        warnings.push(format!(
            "{path}: a negative value retains all historical revisions; a value >= 0 is recommended"
        ));
    }
    warnings
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
            set_missing(rolling, "maxUnavailable", 1);
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
        let claim_of = claim.object_at_mut(&[]);
        claim_of.set("apiVersion", Value::str("v1"));
        claim_of.set("kind", Value::str("PersistentVolumeClaim"));
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
    match text(spec, "podManagementPolicy") {
        "" => errors.push(Error::required(&path.child("podManagementPolicy"), "")),
        "OrderedReady" | "Parallel" => {}
        policy => {
            let detail = "must be 'OrderedReady' or 'Parallel'";
            errors.push(Error::invalid(&path.child("podManagementPolicy"), policy, detail));
        }
    }
    stateful_strategy(
        &mut errors,
        spec.get("updateStrategy").unwrap_or(&empty),
        &path.child("updateStrategy"),
    );
    if let Some(policy) = given(spec, "persistentVolumeClaimRetentionPolicy") {
        let path = path.child("persistentVolumeClaimRetentionPolicy");
        for field in ["whenDeleted", "whenScaled"] {
            one_of_given(&mut errors, policy, field, &["Retain", "Delete"], &path);
        }
    }
    if old.is_none() {
        let list = path.child("volumeClaimTemplates");
        for (i, claim) in items(spec, "volumeClaimTemplates").iter().enumerate() {
            let claim = claim.get("spec").unwrap_or(&empty);
            super::storage::claim_spec(&mut errors, claim, &list.index(i).child("spec"));
        }
    }
    not_negative(&mut errors, spec, "replicas", &path);
    not_negative(&mut errors, spec, "minReadySeconds", &path);
    if let Some(ordinals) = given(spec, "ordinals") {
        // One field to upstream, dot and all.
        let start = int_or_zero(ordinals, "start");
        if start < 0 {
            errors.push(Error::invalid(&path.child("ordinals.start"), start, rules::NOT_NEGATIVE));
        }
    }
    let service = text(spec, "serviceName");
    let service_stays = old.is_some_and(|old| old.str_at(&["spec", "serviceName"]) == service);
    if !service.is_empty() && !service_stays {
        rules::invalid_each(&mut errors, &path.child("serviceName"), service, rules::dns_label(service));
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
                let shown = internal(rolling, STATEFUL_ROLLING);
                errors.push(Error::invalid(&path.child("rollingUpdate"), shown, detail));
            }
        }
        "RollingUpdate" => {
            if let Some(rolling) = rolling {
                stateful_rolling(errors, rolling, &path.child("rollingUpdate"));
            }
        }
        "" => errors.push(Error::required(path, "")),
        _ => {
            let detail = "must be 'RollingUpdate' or 'OnDelete'";
            let mut shown = internal(
                strategy,
                &[("type", "Type", Zero::Text), ("rollingUpdate", "RollingUpdate", Zero::Null)],
            );
            if let Some(rolling) = rolling {
                shown.object_at_mut(&[]).set("RollingUpdate", internal(rolling, STATEFUL_ROLLING));
            }
            errors.push(Error::invalid(path, shown, detail));
        }
    }
}

fn stateful_rolling(errors: &mut Errors, rolling: &Value, path: &Path<'_>) {
    not_negative(errors, rolling, "partition", path);
    let Some(unavailable) = given(rolling, "maxUnavailable") else { return };
    let path = path.child("maxUnavailable");
    workload::int_or_percent(errors, Some(unavailable), &path);
    if workload::is_zero(Some(unavailable)) {
        errors.push(Error::invalid(&path, unavailable.clone(), "cannot be 0"));
    }
    workload::at_most_whole(errors, Some(unavailable), &path);
}

const STATEFUL_ROLLING: &[(&str, &str, Zero)] =
    &[("partition", "Partition", Zero::Number), ("maxUnavailable", "MaxUnavailable", Zero::Null)];

/// The template with the volumes that the claim templates will bring, those first; the controller names its pods itself.
fn stateful_template(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    let mut whole = spec.clone();
    let template = whole.object_at_mut(&["template", "spec"]);
    template.remove("hostname");
    template.remove("subdomain");
    let mut volumes: Vec<Value> = Vec::new();
    let mut add = |name: &str, volume: Value| {
        if volumes.iter().all(|v| text(v, "name") != name) {
            volumes.push(volume);
        }
    };
    for claim in items(spec, "volumeClaimTemplates") {
        let name = claim.str_at(&["metadata", "name"]);
        let mut source = Object::default();
        source.set("claimName", name);
        let mut volume = Object::default();
        volume.set("name", name);
        volume.set("persistentVolumeClaim", source);
        add(name, volume.into());
    }
    if !items(spec, "volumeClaimTemplates").is_empty() {
        let own = spec.items_at(&["template", "spec", "volumes"]);
        let brought = |v: &&Value| {
            items(spec, "volumeClaimTemplates")
                .iter()
                .any(|c| c.str_at(&["metadata", "name"]) == text(v, "name"))
        };
        volumes.extend(own.iter().filter(|v| !brought(v)).cloned());
        whole.object_at_mut(&["template", "spec"]).set("volumes", volumes);
    }
    workload::selected_template(errors, &whole, "StatefulSet", path);
}

/// What a set is made of stays: its pods are found and its claims named by it.
fn stateful_stays(errors: &mut Errors, new: &Value, old: &Value, path: &Path<'_>) {
    for field in ["selector", "volumeClaimTemplates", "serviceName", "podManagementPolicy"] {
        if !same(new.get(field), old.get(field)) {
            let missing = || if field == "serviceName" { Value::str("") } else { Value::Null };
            let bad = new.get(field).cloned().unwrap_or_else(missing);
            errors.push(Error::invalid(&path.child(field), bad, IMMUTABLE));
        }
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
                    volumeClaimTemplates: [{metadata: {name: v}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}]}}";
        assert_eq!(create_errors("apps", "StatefulSet", yaml), Vec::<String>::new());
        let set = defaulted("apps", "StatefulSet", yaml);
        assert_eq!(set.str_at(&["spec", "podManagementPolicy"]), "OrderedReady");
        assert_eq!(
            set.at(&["spec", "updateStrategy"]),
            Some(&tree("{type: RollingUpdate, rollingUpdate: {partition: 0, maxUnavailable: 1}}"))
        );
        let errors =
            update_errors("apps", "StatefulSet", yaml, &yaml.replace("serviceName: s", "serviceName: t"));
        assert_eq!(errors, ["spec.serviceName: Invalid value: \"t\": field is immutable"]);
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
