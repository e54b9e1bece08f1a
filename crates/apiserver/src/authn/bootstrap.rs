//! Bootstrap tokens: `ID.SECRET`, kept as Secrets `bootstrap-token-ID` of their own type in kube-system. Who has one may join a node.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use corten_api::Value;
use jiff::Timestamp;

use super::constant_time_eq;
use crate::ApiServer;
use crate::user::User;

/// Where they are.
const NAMESPACE: &str = "kube-system";
/// Type of their Secrets.
const TYPE: &str = "bootstrap.kubernetes.io/token";
/// Group of everybody who shows one; more groups of a token begin with it and a colon.
const GROUP: &str = "system:bootstrappers";
const ID_LENGTH: usize = 6;
const SECRET_LENGTH: usize = 16;
/// Most letters of a group behind `system:bootstrappers:`.
const LONGEST_GROUP: usize = 256;

impl ApiServer {
    /// The user of a bootstrap token that is in force.
    pub(super) async fn authenticate_bootstrap_token(&self, token: &str) -> Option<User> {
        let (id, secret) = parse(token)?;
        let name = format!("bootstrap-token-{id}");
        let kept = self.read_internal("secrets", NAMESPACE, &name).await.ok()??;
        user_of(&kept, id, secret, self.now_ms())
    }
}

/// Both parts, if it looks like such a token at all.
fn parse(token: &str) -> Option<(&str, &str)> {
    let plain = |text: &str, length| {
        text.len() == length && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    token.split_once('.').filter(|(id, secret)| plain(id, ID_LENGTH) && plain(secret, SECRET_LENGTH))
}

/// Upstream's rules: the Secret says the same id and secret, is not being deleted, has not run out, and is meant for this use. A
/// time or a group that cannot be read makes it void.
fn user_of(kept: &Value, id: &str, secret: &str, now_ms: i64) -> Option<User> {
    let field = |name: &str| {
        let bytes = STANDARD.decode(kept.str_at(&["data", name])).ok()?;
        String::from_utf8(bytes).ok()
    };
    let is_kept = kept.str_at(&["type"]) == TYPE
        && kept.str_at(&["metadata", "deletionTimestamp"]).is_empty()
        && constant_time_eq(&field("token-secret")?, secret)
        && field("token-id")? == id
        && field("usage-bootstrap-authentication")? == "true";
    let until = field("expiration")?;
    let in_force =
        until.is_empty() || until.parse::<Timestamp>().is_ok_and(|until| now_ms < until.as_millisecond());
    if !is_kept || !in_force {
        return None;
    }
    let groups = field("auth-extra-groups")?;
    let more: Vec<&str> = groups.split(',').map(str::trim).filter(|group| !group.is_empty()).collect();
    let good = more.iter().all(|group| is_group(group));
    let all = [GROUP].into_iter().chain(more).map(str::to_owned).collect::<Vec<_>>();
    good.then(|| User::new(format!("system:bootstrap:{id}"), all))
}

/// `system:bootstrappers:` and lower-case letters, digits, colons and dashes, the last a letter or digit.
fn is_group(group: &str) -> bool {
    let Some(rest) = group.strip_prefix(GROUP).and_then(|rest| rest.strip_prefix(':')) else { return false };
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    rest.len() <= LONGEST_GROUP
        && rest.bytes().all(|b| plain(b) || b == b':' || b == b'-')
        && rest.bytes().last().is_some_and(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: i64 = 1_700_000_000_000;

    fn secret(changes: &[(&str, &str)], type_: &str) -> Value {
        let mut data = vec![
            ("token-id", "abcdef"),
            ("token-secret", "0123456789abcdef"),
            ("usage-bootstrap-authentication", "true"),
        ];
        for (name, value) in changes {
            data.retain(|(known, _)| known != name);
            data.push((name, value));
        }
        let data: Vec<String> =
            data.iter().map(|(name, value)| format!(r#""{name}":"{}""#, STANDARD.encode(value))).collect();
        let text = format!(
            r#"{{"apiVersion":"v1","kind":"Secret","metadata":{{"name":"x"}},"type":"{type_}","data":{{{}}}}}"#,
            data.join(",")
        );
        crate::decode::json(bytes::Bytes::from(text)).unwrap()
    }

    #[test]
    fn which_tokens_are_believed() {
        let good = "system:bootstrappers:kubeadm:default-node-token";
        let cases: &[(&[(&str, &str)], Option<usize>)] = &[
            (&[], Some(1)),
            (&[("expiration", "2023-11-14T22:13:21Z")], Some(1)),
            (&[("expiration", "2023-11-14T22:13:20Z")], None),
            (&[("expiration", "2023-11-14T23:13:21+01:00")], Some(1)),
            (&[("expiration", "tomorrow")], None),
            (&[("token-id", "abcdeg")], None),
            (&[("token-secret", "0123456789abcdee")], None),
            (&[("usage-bootstrap-authentication", "yes")], None),
            (&[("auth-extra-groups", good)], Some(2)),
            (&[("auth-extra-groups", "system:bootstrappers:a,system:bootstrappers:b")], Some(3)),
            (&[("auth-extra-groups", "system:masters")], None),
            (&[("auth-extra-groups", "system:bootstrappers:")], None),
        ];
        for (changes, groups) in cases {
            let user = user_of(&secret(changes, TYPE), "abcdef", "0123456789abcdef", NOW_MS);
            assert_eq!(
                user.map(|user| user.groups.iter().filter(|g| g.starts_with(GROUP)).count()),
                *groups,
                "{changes:?}"
            );
        }
        assert!(user_of(&secret(&[], "Opaque"), "abcdef", "0123456789abcdef", NOW_MS).is_none());
    }

    #[test]
    fn what_looks_like_a_token() {
        assert_eq!(parse("abcdef.0123456789abcdef"), Some(("abcdef", "0123456789abcdef")));
        for other in
            ["", "abcdef", "ABCDEF.0123456789abcdef", "abcdef.0123456789abcdef0", "../../.0123456789abcdef"]
        {
            assert!(parse(other).is_none(), "{other}");
        }
    }
}
