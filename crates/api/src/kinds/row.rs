//! The form of a built-in row: what differs from the usual kind, as one `const` expression.

use std::borrow::Cow;

use crate::kind::{Column, Conversion, Hooks, Kind, Scope, Subresource, Text, Verb, Version};

/// A built-in kind, without what follows from the rest of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    scope: Scope,
    singular: Option<&'static str>,
    short: &'static [&'static str],
    categories: &'static [&'static str],
    versions: &'static [RowVersion],
    verbs: &'static [Verb],
    subresources: &'static [Subresource],
    columns: &'static [Column],
    selectable: &'static [&'static str],
    prefix: &'static str,
    stored_as: Option<(&'static str, &'static str)>,
    has_generation: bool,
    keeps_status: bool,
    create_on_update: bool,
    unconditional_update: bool,
    hooks: Hooks,
}

/// A version of a built-in kind; the first is preferred and stored unless said otherwise.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowVersion {
    pub(crate) name: &'static str,
    pub(crate) storage: bool,
    pub(crate) convert: Option<Conversion>,
}

const V1: &[RowVersion] = &[RowVersion { name: "v1", storage: true, convert: None }];

const fn row(scope: Scope, group: &'static str, kind: &'static str, plural: &'static str) -> Row {
    Row {
        group,
        kind,
        plural,
        scope,
        singular: None,
        short: &[],
        categories: &[],
        versions: V1,
        verbs: Verb::ALL,
        subresources: &[],
        columns: &[],
        selectable: &[],
        prefix: plural,
        stored_as: None,
        has_generation: false,
        keeps_status: false,
        create_on_update: false,
        unconditional_update: true,
        hooks: NO_HOOKS,
    }
}

/// No hooks, in `const` form.
pub(crate) const NO_HOOKS: Hooks = Hooks {
    default: None,
    prepare_create: None,
    prepare_update: None,
    validate: None,
    warnings: None,
    graceful_delete: None,
    name_rule: None,
    row_conditions: None,
    selectable_value: None,
};

/// A namespaced kind.
pub(crate) const fn namespaced(group: &'static str, kind: &'static str, plural: &'static str) -> Row {
    row(Scope::Namespaced, group, kind, plural)
}

/// A kind without namespace.
pub(crate) const fn cluster(group: &'static str, kind: &'static str, plural: &'static str) -> Row {
    row(Scope::Cluster, group, kind, plural)
}

/// A cluster kind that only answers a POST.
pub(crate) const fn review(group: &'static str, kind: &'static str, plural: &'static str) -> Row {
    let mut row = row(Scope::Cluster, group, kind, plural);
    row.verbs = Verb::CREATE_ONLY;
    row
}

impl Row {
    pub(crate) const fn short(mut self, names: &'static [&'static str]) -> Self {
        self.short = names;
        self
    }
    /// In the category `all` of `kubectl get all`.
    pub(crate) const fn all(mut self) -> Self {
        self.categories = &["all"];
        self
    }
    pub(crate) const fn extension(mut self) -> Self {
        self.categories = &["api-extensions"];
        self
    }
    pub(crate) const fn versions(mut self, versions: &'static [RowVersion]) -> Self {
        self.versions = versions;
        self
    }
    pub(crate) const fn verbs(mut self, verbs: &'static [Verb]) -> Self {
        self.verbs = verbs;
        self
    }
    pub(crate) const fn subresources(mut self, subresources: &'static [Subresource]) -> Self {
        self.subresources = subresources;
        self
    }
    pub(crate) const fn status(self) -> Self {
        self.subresources(&[Subresource::Status])
    }
    pub(crate) const fn columns(mut self, columns: &'static [Column]) -> Self {
        self.columns = columns;
        self
    }
    pub(crate) const fn selectable(mut self, paths: &'static [&'static str]) -> Self {
        self.selectable = paths;
        self
    }
    pub(crate) const fn prefix(mut self, prefix: &'static str) -> Self {
        self.prefix = prefix;
        self
    }
    pub(crate) const fn stored_as(mut self, group: &'static str, plural: &'static str) -> Self {
        self.stored_as = Some((group, plural));
        self
    }
    pub(crate) const fn generation(mut self) -> Self {
        self.has_generation = true;
        self
    }
    pub(crate) const fn keeps_status(mut self) -> Self {
        self.keeps_status = true;
        self
    }
    pub(crate) const fn create_on_update(mut self) -> Self {
        self.create_on_update = true;
        self
    }
    /// Updates must name the resource version.
    pub(crate) const fn conditional(mut self) -> Self {
        self.unconditional_update = false;
        self
    }
    pub(crate) const fn hooks(mut self, hooks: Hooks) -> Self {
        self.hooks = hooks;
        self
    }

    fn message(&self, version: &str) -> String {
        let package = match self.group {
            "" => "io.k8s.api.core",
            "apiextensions.k8s.io" => "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions",
            "apiregistration.k8s.io" => "io.k8s.kube-aggregator.pkg.apis.apiregistration",
            group => {
                let first = group.split('.').next().unwrap_or(group);
                return format!("io.k8s.api.{first}.{version}.{}", self.kind);
            }
        };
        format!("{package}.{version}.{}", self.kind)
    }
}

fn texts(names: &'static [&'static str]) -> Cow<'static, [Text]> {
    names.iter().map(|name| Text::Borrowed(name)).collect::<Vec<_>>().into()
}

impl From<&Row> for Kind {
    fn from(row: &Row) -> Self {
        let version = |v: &RowVersion| Version {
            name: v.name.into(),
            served: true,
            storage: v.storage,
            message: row.message(v.name).into(),
            open_api: None,
            convert: v.convert,
        };
        Kind {
            group: row.group.into(),
            kind: row.kind.into(),
            plural: row.plural.into(),
            singular: row.singular.map_or_else(|| row.kind.to_lowercase().into(), Text::Borrowed),
            list_kind: format!("{}List", row.kind).into(),
            storage_prefix: row.prefix.into(),
            stored_as: row.stored_as.map(|(group, plural)| (group.into(), plural.into())),
            short_names: texts(row.short),
            categories: texts(row.categories),
            scope: row.scope,
            versions: row.versions.iter().map(version).collect::<Vec<_>>().into(),
            verbs: row.verbs.into(),
            subresources: row.subresources.into(),
            columns: row.columns.into(),
            selectable_fields: texts(row.selectable),
            has_generation: row.has_generation,
            keeps_status_on_create: row.keeps_status,
            create_on_update: row.create_on_update,
            unconditional_update: row.unconditional_update,
            hooks: row.hooks,
        }
    }
}
