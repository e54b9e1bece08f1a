//! How endpoints are spread over slices: existing slices keep what they have, the least number of slices is written, and slices
//! are never moved together for tidiness (upstream's rule). Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

/// What makes an endpoint the same in two versions of a slice: addresses, host name, and whose they are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    addresses: Vec<String>,
    hostname: Option<String>,
    target: [Option<String>; 3],
}

impl Identity {
    /// The identity of an endpoint.
    pub fn of(endpoint: &Endpoint) -> Self {
        let mut addresses = endpoint.addresses.clone();
        addresses.sort();
        let target = endpoint.target_ref.as_ref();
        let target = target.map(|t| [t.namespace.clone(), t.name.clone(), t.uid.clone()]).unwrap_or_default();
        Identity { addresses, hostname: endpoint.hostname.clone(), target }
    }
}

/// Endpoints of one list of ports and one address type.
pub type Wanted = BTreeMap<Identity, Endpoint>;

/// What to do with slices. Those to create have no name.
#[derive(Debug, Default)]
pub struct Changes {
    /// New ones.
    pub create: Vec<EndpointSlice>,
    /// With new content.
    pub update: Vec<EndpointSlice>,
    /// To be deleted.
    pub delete: Vec<Arc<EndpointSlice>>,
    /// Those that stay as they are.
    pub keep: Vec<Arc<EndpointSlice>>,
}

/// The endpoints of a slice.
pub fn endpoints(slice: &EndpointSlice) -> &[Endpoint] {
    slice.endpoints.as_deref().unwrap_or_default()
}

/// The same but for hints, which are decided over all slices together.
fn same(a: &Endpoint, b: &Endpoint) -> bool {
    let sorted = |e: &Endpoint| {
        let mut addresses = e.addresses.clone();
        addresses.sort();
        addresses
    };
    (&a.conditions, &a.hostname, &a.node_name, &a.target_ref, &a.zone)
        == (&b.conditions, &b.hostname, &b.node_name, &b.target_ref, &b.zone)
        && sorted(a) == sorted(b)
}

/// Spreads `wanted` over the slices that are there (all of one list of ports and one address type) and new ones of at most `most`
/// endpoints. `fresh` is an empty slice with the right labels.
pub fn pack(
    existing: &[Arc<EndpointSlice>],
    mut wanted: Wanted,
    most: usize,
    fresh: &EndpointSlice,
) -> Changes {
    let mut changes = Changes::default();
    for slice in existing {
        look_at(slice, &mut wanted, fresh, &mut changes);
    }
    // The fullest first: fewer slices then have room, and fewer are written the next time.
    changes.update.sort_by_key(|slice| std::cmp::Reverse(endpoints(slice).len()));
    for slice in &mut changes.update {
        fill(slice, &mut wanted, most);
    }
    while !wanted.is_empty() {
        let mut slice = match fullest_with_room(&changes.keep, wanted.len(), most) {
            Some(index) => (*changes.keep.remove(index)).clone(),
            None => fresh.clone(),
        };
        fill(&mut slice, &mut wanted, most);
        if slice.metadata.name.is_some() { &mut changes.update } else { &mut changes.create }.push(slice);
    }
    changes
}

/// Keeps the slice's wanted endpoints, and says what that makes of the slice.
fn look_at(slice: &Arc<EndpointSlice>, wanted: &mut Wanted, fresh: &EndpointSlice, changes: &mut Changes) {
    let (mut kept, mut changed) = (Vec::new(), false);
    for endpoint in endpoints(slice) {
        match wanted.remove(&Identity::of(endpoint)) {
            Some(now) if same(&now, endpoint) => kept.push(endpoint.clone()),
            Some(now) => {
                changed = true;
                kept.push(now);
            }
            None => changed = true,
        }
    }
    if kept.is_empty() && changed {
        changes.delete.push(slice.clone());
    } else if changed || slice.metadata.labels != fresh.metadata.labels {
        let mut renewed = (**slice).clone();
        renewed.endpoints = Some(kept);
        renewed.metadata.labels = fresh.metadata.labels.clone();
        changes.update.push(renewed);
    } else {
        changes.keep.push(slice.clone());
    }
}

fn fill(slice: &mut EndpointSlice, wanted: &mut Wanted, most: usize) {
    let into = slice.endpoints.get_or_insert_default();
    while into.len() < most
        && let Some((_, endpoint)) = wanted.pop_first()
    {
        into.push(endpoint);
    }
}

/// The slice that all of the rest fits into, leaving the least room.
fn fullest_with_room(slices: &[Arc<EndpointSlice>], rest: usize, most: usize) -> Option<usize> {
    let sizes = slices.iter().map(|slice| endpoints(slice).len()).enumerate();
    let fits = sizes.filter(|(_, size)| rest < most && size + rest <= most);
    fits.max_by_key(|(_, size)| *size).map(|(index, _)| index)
}

impl Changes {
    /// Adds the changes of another list of ports.
    pub fn add(&mut self, more: Changes) {
        self.create.extend(more.create);
        self.update.extend(more.update);
        self.delete.extend(more.delete);
        self.keep.extend(more.keep);
    }

    /// Slices that would go are used again for new ones: one write in place of two. Only slices of the same address type (which
    /// cannot change) for which `ours` holds.
    pub fn recycle(&mut self, ours: impl Fn(&EndpointSlice) -> bool) {
        let mut going = std::mem::take(&mut self.delete);
        let mut created = Vec::new();
        for mut slice in std::mem::take(&mut self.create) {
            let free = going.iter().position(|old| old.address_type == slice.address_type && ours(old));
            match free.map(|index| going.remove(index)) {
                Some(old) => {
                    slice.metadata.name = old.metadata.name.clone();
                    slice.metadata.resource_version = old.metadata.resource_version.clone();
                    slice.metadata.uid = old.metadata.uid.clone();
                    self.update.push(slice);
                }
                None => created.push(slice),
            }
        }
        (self.create, self.delete) = (created, going);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(number: usize, ready: bool) -> Endpoint {
        let mut endpoint = Endpoint {
            addresses: vec![format!("10.0.{}.{}", number / 250, number % 250)],
            ..Endpoint::default()
        };
        endpoint.conditions.get_or_insert_default().ready = Some(ready);
        endpoint
    }

    fn slice(name: Option<&str>, numbers: impl Iterator<Item = usize>) -> EndpointSlice {
        let mut slice = EndpointSlice { address_type: "IPv4".into(), ..EndpointSlice::default() };
        slice.metadata.name = name.map(str::to_owned);
        slice.endpoints = Some(numbers.map(|n| endpoint(n, true)).collect());
        slice
    }

    fn wanted(numbers: impl Iterator<Item = usize>) -> Wanted {
        numbers.map(|n| endpoint(n, true)).map(|e| (Identity::of(&e), e)).collect()
    }

    /// Sizes of created slices, then `name:size` of updated ones, then names of those deleted.
    fn told(changes: &Changes) -> (Vec<usize>, Vec<String>, Vec<String>) {
        let name = |s: &EndpointSlice| s.metadata.name.clone().unwrap_or_default();
        (
            changes.create.iter().map(|s| endpoints(s).len()).collect(),
            changes.update.iter().map(|s| format!("{}:{}", name(s), endpoints(s).len())).collect(),
            changes.delete.iter().map(|s| name(s)).collect(),
        )
    }

    #[test]
    fn endpoints_are_spread_with_few_writes() {
        let a = |numbers: std::ops::Range<usize>| Arc::new(slice(Some("a"), numbers));
        let b = |numbers: std::ops::Range<usize>| Arc::new(slice(Some("b"), numbers));
        let none: [&str; 0] = [];
        type Row<'a> = (&'a str, Vec<Arc<EndpointSlice>>, Wanted, Vec<usize>, Vec<&'a str>, Vec<&'a str>);
        let table: Vec<Row<'_>> = vec![
            ("all new", vec![], wanted(0..250), vec![100, 100, 50], none.to_vec(), none.to_vec()),
            ("nothing to do", vec![a(0..3)], wanted(0..3), vec![], none.to_vec(), none.to_vec()),
            (
                "fits into the fullest",
                vec![a(0..10), b(20..60)],
                wanted((0..10).chain(20..61)),
                vec![],
                vec!["b:41"],
                vec![],
            ),
            (
                "no room in one",
                vec![a(0..90), b(100..190)],
                wanted((0..90).chain(100..190).chain(200..220)),
                vec![20],
                vec![],
                vec![],
            ),
            (
                "one that changes anyway takes more",
                vec![a(0..90), b(100..190)],
                wanted((0..90).chain(100..189).chain(200..205)),
                vec![],
                vec!["b:94"],
                vec![],
            ),
            ("an empty one goes", vec![a(0..2), b(5..6)], wanted(0..2), vec![], vec![], vec!["b"]),
        ];
        for (what, existing, wanted, create, update, delete) in table {
            let changes = pack(&existing, wanted, 100, &slice(None, 0..0));
            let expected = (
                create,
                update.iter().map(|s| s.to_string()).collect(),
                delete.iter().map(|s| s.to_string()).collect(),
            );
            assert_eq!(told(&changes), expected, "{what}");
        }
    }

    #[test]
    fn a_changed_endpoint_stays_in_its_slice() {
        let existing = [Arc::new(slice(Some("a"), 0..3))];
        let mut all = wanted(0..3);
        all.values_mut().next().unwrap().conditions.get_or_insert_default().ready = Some(false);
        let changes = pack(&existing, all, 100, &slice(None, 0..0));
        assert_eq!(told(&changes).1, ["a:3"]);
        assert_eq!(endpoints(&changes.update[0])[0].conditions.as_ref().unwrap().ready, Some(false));
    }

    #[test]
    fn slices_that_go_are_used_again() {
        let mut changes = Changes {
            create: vec![slice(None, 0..1), slice(None, 1..2)],
            delete: vec![Arc::new(slice(Some("old"), 5..6))],
            ..Changes::default()
        };
        changes.recycle(|_| true);
        assert_eq!(told(&changes), (vec![1], vec!["old:1".to_owned()], vec![]));
    }
}
