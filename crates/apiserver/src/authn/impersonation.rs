//! Becoming another user: the `Impersonate-…` headers, each of which has to be allowed.

use std::sync::Arc;

use corten_api::{Result, Status};
use http::HeaderMap;

use crate::ApiServer;
use crate::authz::Attributes;
use crate::query;
use crate::user::{ANONYMOUS, AUTHENTICATED, UNAUTHENTICATED, User};

/// All of them begin so.
const ALL: &str = "impersonate-";
const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";
/// API group of what is neither user, group nor service account.
const AUTHENTICATION: &str = "authentication.k8s.io";

/// Whom the headers ask for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    user: String,
    groups: Vec<String>,
    uid: String,
    extra: Vec<(String, Vec<String>)>,
}

impl Wanted {
    /// Errors: 400 for a value that is no text. Passed over, it would leave the request to the user who asks, who may do more.
    fn of(headers: &HeaderMap) -> Result<Self> {
        let mut wanted = Wanted::default();
        for (name, value) in headers.iter().filter(|(name, _)| name.as_str().starts_with(ALL)) {
            let value = std::str::from_utf8(value.as_bytes())
                .map_err(|_| Status::bad_request(format!("the header {name} is no UTF-8")))?;
            match name.as_str() {
                // As upstream, the first of several counts.
                USER if wanted.user.is_empty() => wanted.user = value.to_owned(),
                UID if wanted.uid.is_empty() => wanted.uid = value.to_owned(),
                GROUP => wanted.groups.push(value.to_owned()),
                other => {
                    let Some(key) = other.strip_prefix(EXTRA) else { continue };
                    wanted.add_extra(query::decode(key, false), value);
                }
            }
        }
        Ok(wanted)
    }

    fn add_extra(&mut self, key: String, value: &str) {
        match self.extra.iter_mut().find(|(known, _)| *known == key) {
            Some((_, values)) => values.push(value.to_owned()),
            None => self.extra.push((key, vec![value.to_owned()])),
        }
    }

    /// What the asking user must be allowed.
    fn checks(&self) -> Vec<Attributes> {
        let of = |group: &str, resource: &str, subresource: &str, name: &str| Attributes {
            verb: "impersonate".into(),
            group: group.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            name: name.into(),
            ..Attributes::default()
        };
        let target = User { name: self.user.clone(), ..User::default() };
        let mut checks = vec![match target.account() {
            Some((namespace, name)) => {
                Attributes { namespace: namespace.into(), ..of("", "serviceaccounts", "", name) }
            }
            None => of("", "users", "", &self.user),
        }];
        checks.extend(self.groups.iter().map(|group| of("", "groups", "", group)));
        for (key, values) in &self.extra {
            checks.extend(values.iter().map(|value| of(AUTHENTICATION, "userextras", key, value)));
        }
        if !self.uid.is_empty() {
            checks.push(of(AUTHENTICATION, "uids", "", &self.uid));
        }
        checks
    }

    /// The user, with the groups that follow from what was said.
    fn into_user(self) -> User {
        let mut user = User { name: self.user, uid: self.uid, groups: self.groups, extra: self.extra };
        if let (Some((namespace, _)), true) = (user.account(), user.groups.is_empty()) {
            user.groups =
                vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
        }
        let everybody = [AUTHENTICATED, UNAUTHENTICATED];
        if user.name == ANONYMOUS {
            if !user.is_in(UNAUTHENTICATED) {
                user.groups.push(UNAUTHENTICATED.into());
            }
        } else if !everybody.iter().any(|group| user.is_in(group)) {
            user.groups.push(AUTHENTICATED.into());
        }
        user
    }
}

impl ApiServer {
    /// Becomes another user where the headers ask for it and the user may.
    ///
    /// Errors: 400 where no user is named or a header is no text, 403.
    pub(crate) async fn impersonate(&self, user: Arc<User>, headers: &HeaderMap) -> Result<Arc<User>> {
        let wanted = Wanted::of(headers)?;
        if wanted == Wanted::default() {
            return Ok(user);
        }
        if wanted.user.is_empty() {
            return Err(Status::bad_request("requested impersonation without impersonating a user"));
        }
        for attributes in wanted.checks() {
            self.authorise(&user, &attributes).await?;
        }
        Ok(Arc::new(wanted.into_user()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(headers: &[(&'static str, &str)]) -> Wanted {
        let pairs = headers.iter().map(|(k, v)| (http::HeaderName::from_static(k), v.parse().unwrap()));
        Wanted::of(&pairs.collect()).unwrap()
    }

    #[test]
    fn what_the_headers_say() {
        let value = |bytes: &[u8]| http::HeaderValue::from_bytes(bytes).unwrap();
        let mut headers = HeaderMap::new();
        headers.append(USER, value("Ünal".as_bytes()));
        headers.append(USER, value(b"second"));
        assert_eq!(Wanted::of(&headers).unwrap().user, "Ünal");
        headers.insert(USER, value(b"\xff"));
        assert_eq!(Wanted::of(&headers).unwrap_err().code, 400);
    }

    #[test]
    fn who_comes_of_it() {
        let groups = |headers: &[(&'static str, &str)]| wanted(headers).into_user().groups;
        assert_eq!(groups(&[(USER, "bob")]), [AUTHENTICATED]);
        assert_eq!(groups(&[(USER, "bob"), (GROUP, "devs")]), ["devs", AUTHENTICATED]);
        assert_eq!(groups(&[(USER, "bob"), (GROUP, UNAUTHENTICATED)]), [UNAUTHENTICATED]);
        assert_eq!(groups(&[(USER, ANONYMOUS)]), [UNAUTHENTICATED]);
        assert_eq!(
            groups(&[(USER, "system:serviceaccount:a:b")]),
            ["system:serviceaccounts", "system:serviceaccounts:a", AUTHENTICATED]
        );
        assert_eq!(groups(&[(USER, "system:serviceaccount:a:b"), (GROUP, "x")]), ["x", AUTHENTICATED]);
    }

    #[test]
    fn what_must_be_allowed() {
        let headers = [
            (USER, "system:serviceaccount:a:b"),
            (GROUP, "g"),
            (UID, "1"),
            ("impersonate-extra-example.com%2fscopes", "view"),
        ];
        let checks: Vec<String> = wanted(&headers)
            .checks()
            .iter()
            .map(|a| format!("{} {} {} {}", a.group, a.full_resource(), a.namespace, a.name))
            .collect();
        assert_eq!(
            checks,
            [
                " serviceaccounts a b",
                " groups  g",
                "authentication.k8s.io userextras/example.com/scopes  view",
                "authentication.k8s.io uids  1"
            ]
        );
    }
}
