//! Garbage collection of images: above the high mark of the disk the least recently used ones go, down to
//! the low mark; images of containers stay.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_cri::v1::Image;

use crate::host::Host;
use crate::node::machine;

/// How often the disk is looked at (upstream's ImageGCPeriod).
const PERIOD: Duration = Duration::from_secs(300);
/// An image is not collected before it is this old.
const MIN_AGE: Duration = Duration::from_secs(120);

/// When images were first seen and last used.
#[derive(Default)]
struct Records(HashMap<String, (Timestamp, Timestamp)>);

/// Collects until the kubelet stops.
pub async fn run(host: Arc<Host>) {
    let mut records = Records::default();
    loop {
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => {}
            () = host.stop.cancelled() => return,
        }
        if let Err(error) = collect(&host, &mut records).await {
            let message = format!("Failed to garbage collect required amount of images: {error}");
            host.events.record(host.node_reference(), "Warning", "ImageGCFailed", message);
        }
    }
}

async fn collect(host: &Host, records: &mut Records) -> Result<(), String> {
    let images = host.cri.images().await.map_err(|error| error.to_string())?;
    let containers = host.cri.containers(HashMap::new()).await.map_err(|error| error.to_string())?;
    let used: BTreeSet<String> = containers.into_iter().flat_map(|c| [c.image_ref, c.image_id]).collect();
    let now = Timestamp::now();
    records.note(&images, &used, now);
    let disk = machine::disk(&host.config.data_dir).map_err(|error| error.to_string())?;
    if disk.used_percent() < host.config.image_gc_high_percent {
        return Ok(());
    }
    let target = disk.size / 100 * (100 - host.config.image_gc_low_percent.min(100));
    let wanted = target.saturating_sub(disk.available);
    let mut freed = 0;
    for image in records.victims(&images, &used, now) {
        if freed >= wanted {
            break;
        }
        host.cri.remove_image(&image.id).await.map_err(|error| error.to_string())?;
        freed += image.size;
    }
    if freed < wanted {
        return Err(format!("wanted to free {wanted} bytes, but freed {freed} bytes space"));
    }
    Ok(())
}

impl Records {
    fn note(&mut self, images: &[Image], used: &BTreeSet<String>, now: Timestamp) {
        self.0.retain(|id, _| images.iter().any(|image| image.id == *id));
        for image in images {
            let record = self.0.entry(image.id.clone()).or_insert((now, Timestamp::UNIX_EPOCH));
            if is_used(image, used) {
                record.1 = now;
            }
        }
    }

    /// Images that may go, the least recently used first.
    fn victims<'a>(&self, images: &'a [Image], used: &BTreeSet<String>, now: Timestamp) -> Vec<&'a Image> {
        let old = |image: &&Image| {
            let seen = self.0.get(&image.id).map_or(now, |record| record.0);
            Duration::try_from(now.duration_since(seen)).unwrap_or_default() >= MIN_AGE
        };
        let mut list: Vec<&Image> =
            images.iter().filter(|image| !image.pinned && !is_used(image, used)).filter(old).collect();
        list.sort_by_key(|image| self.0.get(&image.id).map(|(seen, last)| (*last, *seen)));
        list
    }
}

fn is_used(image: &Image, used: &BTreeSet<String>) -> bool {
    used.contains(&image.id)
        || image.repo_digests.iter().chain(&image.repo_tags).any(|name| used.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_go_first() {
        let image = |id: &str, pinned| Image { id: id.into(), pinned, size: 1, ..Image::default() };
        let images = [image("a", false), image("b", false), image("c", false), image("p", true)];
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut records = Records::default();
        let used = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<BTreeSet<_>>();
        records.note(&images, &used(&["a"]), at(1));
        records.note(&images, &used(&["b"]), at(100));
        let ids = |list: Vec<&Image>| list.iter().map(|image| image.id.clone()).collect::<Vec<_>>();
        assert_eq!(ids(records.victims(&images, &used(&["b"]), at(500))), ["c", "a"]);
        assert!(records.victims(&images, &used(&[]), at(60)).is_empty(), "too young");
    }
}
