//! Validation of what only containers on Windows have.

use crate::Value;
use crate::field::{Error, Path};
use crate::kinds::look::{Errors, given, is_true, items};
use crate::rules::{self, invalid_each};

const CREDENTIAL_MAX_KIB: usize = 64;
/// Longer domains than any DNS name are refused.
const DOMAIN_MAX_BYTES: usize = 256;
const USER_MAX_BYTES: usize = 104;
const NET_BIOS_MAX: usize = 15;

/// `windowsOptions` of a security context.
pub(super) fn options(errors: &mut Errors, context: &Value, path: &Path<'_>) {
    let Some(options) = given(context, "windowsOptions") else { return };
    let path = path.child("windowsOptions");
    let part = |field: &str| given(options, field).and_then(Value::as_str);
    if let Some(name) = part("gmsaCredentialSpecName") {
        invalid_each(errors, &path.child("gmsaCredentialSpecName"), name, rules::dns_subdomain(name));
    }
    if let Some(spec) = part("gmsaCredentialSpec") {
        let path = path.child("gmsaCredentialSpec");
        if spec.is_empty() {
            errors.push(Error::invalid(&path, spec, "gmsaCredentialSpec cannot be an empty string"));
        } else if spec.len() > CREDENTIAL_MAX_KIB * 1024 {
            let detail = format!("gmsaCredentialSpec size must be under {CREDENTIAL_MAX_KIB} KiB");
            errors.push(Error::invalid(&path, spec, detail));
        }
    }
    if let Some(user) = part("runAsUserName") {
        invalid_each(errors, &path.child("runAsUserName"), user, wrong_user(user));
    }
}

/// `DOMAIN\user` or `user`.
fn wrong_user(name: &str) -> Vec<String> {
    let one = |message: &str| vec![message.to_owned()];
    if name.is_empty() {
        return one("runAsUserName cannot be an empty string");
    }
    if name.bytes().any(|b| b.is_ascii_control()) {
        return one("runAsUserName cannot contain control characters");
    }
    let (domain, user) = match name.split_once('\\') {
        Some((_, user)) if user.contains('\\') => {
            return one("runAsUserName cannot contain more than one backslash");
        }
        Some((domain, user)) => (Some(domain), user),
        None => (None, name),
    };
    let mut wrong = domain.map_or_else(Vec::new, wrong_domain);
    if user.is_empty() {
        wrong.push("runAsUserName's User cannot be empty".to_owned());
    } else if user.len() > USER_MAX_BYTES {
        wrong
            .push(format!("runAsUserName's User length must not be longer than {USER_MAX_BYTES} characters"));
    }
    if !user.is_empty() && user.bytes().all(|b| matches!(b, b'.' | b' ')) {
        wrong.push("runAsUserName's User cannot contain only periods or spaces".to_owned());
    }
    if user.contains(|c: char| "\"/\\:;|=,+*?<>@[]".contains(c)) {
        let message = "runAsUserName's User cannot contain the following characters: \"/\\:;|=,+*?<>@[]";
        wrong.push(message.to_owned());
    }
    wrong
}

fn wrong_domain(domain: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if domain.len() >= DOMAIN_MAX_BYTES {
        wrong.push(format!("runAsUserName's Domain length must be under {DOMAIN_MAX_BYTES} characters"));
    }
    if !is_net_bios(domain) && !is_dns(domain) {
        wrong.push("runAsUserName's Domain doesn't match the NetBios nor the DNS format".to_owned());
    }
    wrong
}

fn is_net_bios(domain: &str) -> bool {
    (1..=NET_BIOS_MAX).contains(&domain.chars().count())
        && !domain.starts_with('.')
        && !domain.contains(|c: char| "\\/:*?\"<>|".contains(c))
}

fn is_dns(domain: &str) -> bool {
    domain.split('.').all(|label| {
        let plain = |b: u8| b.is_ascii_alphanumeric();
        let bytes = label.as_bytes();
        (1..=63).contains(&bytes.len())
            && bytes.first().is_some_and(|b| plain(*b))
            && bytes.last().is_some_and(|b| plain(*b))
            && bytes.iter().all(|&b| plain(b) || b == b'-')
    })
}

/// Containers that are processes of the host: all of a pod's or none, and on the host's network.
pub(super) fn host_process(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    let flag =
        |of: &Value| of.at(&["securityContext", "windowsOptions", "hostProcess"]).and_then(Value::as_bool);
    let pod = flag(spec);
    let (mut all, mut on_host) = (0, 0);
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        let place = path.child(list);
        for (i, container) in items(spec, list).iter().enumerate() {
            all += 1;
            let own = flag(container);
            if let (Some(pod), Some(own)) = (pod, own)
                && pod != own
            {
                let at = place.index(i);
                let (at, field) = (at.child("securityContext"), "windowsOptions");
                let at = at.child(field);
                let detail =
                    format!("pod hostProcess value must be identical if both are specified, was {pod}");
                errors.push(Error::invalid(&at.child("hostProcess"), own, detail));
            }
            on_host += usize::from(own.or(pod) == Some(true));
        }
    }
    if on_host == 0 {
        return;
    }
    if on_host != all {
        let detail =
            "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        errors.push(Error::invalid(path, "", detail));
    }
    if !is_true(spec, "hostNetwork") {
        let detail = "hostNetwork must be true if pod contains any hostProcess containers";
        errors.push(Error::invalid(&path.child("hostNetwork"), false, detail));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users() {
        let cases = [
            ("user", 0),
            ("DOMAIN\\user", 0),
            ("a.example.com\\user", 0),
            ("", 1),
            ("a\\b\\c", 1),
            ("\\user", 1),
            ("..", 1),
            ("a/b", 1),
            ("D\\", 1),
        ];
        for (user, wrong) in cases {
            assert_eq!(wrong_user(user).len(), wrong, "{user}");
        }
    }
}
