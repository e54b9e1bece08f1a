//! Managers seen through `/scale`: there the replicas are called `spec.replicas` of `autoscaling/v1`, whatever the object
//! calls them. A write to scale reads its managers with [`scale_entries`] and gives them back with [`parent_entries`].

use super::managed::{Managed, Owner};
use super::path::PathElement;
use super::set::Set;
use crate::{Str, Value};

const SCALE_VERSION: &str = "autoscaling/v1";
const REPLICAS: &[&[&str]] = &[&["spec", "replicas"]];

/// Where an object of a version (`apps/v1`) has its replicas: `Some(&["spec", "replicas"])`; `None` where that version is
/// not served or has no scale.
pub type ReplicasPath<'a, 'p> = &'a (dyn Fn(&str) -> Option<&'p [&'p str]> + 'a);

fn path(names: &[&str]) -> Vec<PathElement> {
    names.iter().map(|name| PathElement::Field(Str::from(*name))).collect()
}

/// The managers of an object that own its replicas, as managers of its scale.
pub fn scale_entries(parent: &[Value], replicas: ReplicasPath<'_, '_>) -> Result<Vec<Value>, String> {
    let mut managed = Managed::read(parent)?;
    managed.owners.retain_mut(|owner| {
        let names = replicas(&owner.identity.api_version);
        let owns = names.is_some_and(|names| owner.set().has(&path(names)));
        if owns {
            owner.identity.api_version = Str::from_static(SCALE_VERSION);
            owner.replace_set(Set::of_fields(REPLICAS));
        }
        owns
    });
    Ok(managed.write())
}

/// The managers of an object after a write to its scale: who lost the replicas there loses them here. As upstream, who comes
/// to own them there has no time here.
pub fn parent_entries(
    parent: &[Value],
    scale: &[Value],
    api_version: &str,
    replicas: ReplicasPath<'_, '_>,
) -> Result<Vec<Value>, String> {
    let (mut managed, mut scale) = (Managed::read(parent)?, Managed::read(scale)?);
    managed.owners.retain_mut(|owner| {
        let Some(names) = replicas(&owner.identity.api_version) else { return false };
        if owner.set().has(&path(names)) && take_same(&mut scale, owner).is_none() {
            owner.lose(&Set::of_fields(&[names]));
        }
        !owner.set().is_empty()
    });
    let names = replicas(api_version).unwrap_or_default();
    let new = scale.owners.into_iter().filter(|owner| owner.set().has(&path(REPLICAS[0])));
    for mut owner in new.collect::<Vec<_>>() {
        owner.identity.api_version = Str::from(api_version);
        owner.time = None;
        owner.replace_set(Set::of_fields(&[names]));
        if let Some(before) = managed.take(&owner.identity) {
            owner.keep(before);
        }
        managed.owners.push(owner);
    }
    Ok(managed.write())
}

/// The scale's entry of the same manager, whose version differs by nature.
fn take_same(scale: &mut Managed, owner: &Owner) -> Option<Owner> {
    let mut identity = owner.identity.clone();
    identity.api_version = Str::from_static(SCALE_VERSION);
    scale.take(&identity)
}
