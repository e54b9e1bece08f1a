//! Who a container's program runs as, from CRI's numbers and names and the image's passwd and group files.

use std::path::Path;

use k8s_cri::v1::{LinuxContainerSecurityContext, SupplementalGroupsPolicy};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Result, SpecError, rootfs};

/// A resolved user.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct User {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// All groups of the process, the primary one first.
    pub groups: Vec<u32>,
}

impl User {
    pub(super) fn to_oci(&self) -> Value {
        // The agent's own umask must not decide what containers' files look like.
        json!({"uid": self.uid, "gid": self.gid, "additionalGids": self.groups, "umask": 0o022})
    }
}

/// One line of /etc/passwd.
struct Passwd<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
}

/// CRI's order: numeric user, user name, image's user (`user[:group]`, names or numbers), root.
pub(super) fn resolve(
    root: &Path,
    context: &LinuxContainerSecurityContext,
    image_user: &str,
) -> Result<User> {
    let read =
        |path| rootfs::read(root, path).map_err(|e| SpecError(format!("read {path} of the image: {e}")));
    let passwd = read("/etc/passwd")?.unwrap_or_default();
    let group = read("/etc/group")?.unwrap_or_default();
    from_files(&passwd, &group, context, image_user)
}

fn from_files(
    passwd: &str,
    group: &str,
    context: &LinuxContainerSecurityContext,
    image_user: &str,
) -> Result<User> {
    let wanted = match &context.run_as_user {
        Some(id) => id.value.to_string(),
        None if !context.run_as_username.is_empty() => context.run_as_username.clone(),
        None => image_user.to_owned(),
    };
    let (user, image_group) = wanted.split_once(':').unwrap_or((&wanted, ""));
    let entry = find_user(passwd, user);
    let uid = match (&entry, user) {
        (Some(entry), _) => entry.uid,
        (None, "") => 0,
        (None, user) => user.parse().map_err(|_| {
            SpecError(format!("unable to find user {user}: no matching entries in passwd file"))
        })?,
    };
    let gid = match (&context.run_as_group, image_group) {
        (Some(id), _) => u32::try_from(id.value).map_err(|e| SpecError(format!("run_as_group: {e}")))?,
        (None, "") => entry.as_ref().map_or(0, |e| e.gid),
        (None, name) => find_group(group, name).ok_or_else(|| {
            SpecError(format!("unable to find group {name}: no matching entries in group file"))
        })?,
    };
    let mut groups = vec![gid];
    if context.supplemental_groups_policy() == SupplementalGroupsPolicy::Merge {
        groups.extend(entry.iter().flat_map(|entry| groups_of(group, entry.name)));
    }
    groups.extend(context.supplemental_groups.iter().filter_map(|g| u32::try_from(*g).ok()));
    let mut seen = std::collections::HashSet::new();
    groups.retain(|g| seen.insert(*g));
    Ok(User { uid, gid, groups })
}

/// By name first, then by number; the empty name is user 0.
fn find_user<'a>(passwd: &'a str, wanted: &str) -> Option<Passwd<'a>> {
    let wanted = if wanted.is_empty() { "0" } else { wanted };
    let entries = || {
        passwd.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
            Some(Passwd { name, uid, gid })
        })
    };
    let number = wanted.parse::<u32>().ok();
    entries().find(|e| e.name == wanted).or_else(|| entries().find(|e| Some(e.uid) == number))
}

fn group_lines(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        Some((name, fields.nth(1)?.parse().ok()?, fields.next().unwrap_or("")))
    })
}

fn find_group(group: &str, wanted: &str) -> Option<u32> {
    let named = group_lines(group).find(|(name, ..)| *name == wanted).map(|(_, gid, _)| gid);
    named.or_else(|| wanted.parse().ok())
}

fn groups_of(group: &str, user: &str) -> Vec<u32> {
    let member = |members: &str| members.split(',').any(|m| m == user);
    group_lines(group).filter(|(_, _, members)| member(members)).map(|(_, gid, _)| gid).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_cri::v1::Int64Value;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/srv:/bin/false\nbroken\n7:x:70:71::/:\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:\nlogs:x:90:root,web\nextra:x:91:web\n";

    fn user(uid: Option<i64>, name: &str, gid: Option<i64>, groups: &[i64], image: &str) -> Result<User> {
        let number = |value| Int64Value { value };
        let context = LinuxContainerSecurityContext {
            run_as_user: uid.map(number),
            run_as_username: name.into(),
            run_as_group: gid.map(number),
            supplemental_groups: groups.to_vec(),
            ..Default::default()
        };
        from_files(PASSWD, GROUP, &context, image)
    }

    #[test]
    fn users_and_groups_by_number_name_and_image() {
        let is = |uid, gid, groups: &[u32]| User { uid, gid, groups: groups.to_vec() };
        for (got, want) in [
            (user(None, "", None, &[], ""), is(0, 0, &[0, 90])),
            (user(None, "", None, &[], "web"), is(33, 34, &[34, 90, 91])),
            (user(None, "", None, &[], "33"), is(33, 34, &[34, 90, 91])),
            (user(None, "", None, &[], "web:logs"), is(33, 90, &[90, 91])),
            (user(None, "", None, &[], "1000:1001"), is(1000, 1001, &[1001])),
            (user(Some(1000), "", None, &[5, 5, 6], "web"), is(1000, 0, &[0, 5, 6])),
            (user(Some(33), "", Some(8), &[], ""), is(33, 8, &[8, 90, 91])),
            (user(None, "web", None, &[34], "root"), is(33, 34, &[34, 90, 91])),
            (user(None, "", None, &[], "7"), is(70, 71, &[71])),
        ] {
            assert_eq!(got.unwrap(), want);
        }
        assert!(
            user(None, "nobody", None, &[], "")
                .unwrap_err()
                .to_string()
                .contains("unable to find user nobody")
        );
        assert!(user(None, "", None, &[], "web:nogroup").is_err());
    }
}
