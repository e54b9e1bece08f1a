//! Trust anchors of projected volumes: the certificates of ClusterTrustBundles, each once, as PEM. All bundles are watched from
//! when the first pod wants some until the last one is gone.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use corten_client::watcher;
use corten_client::{Api, Informer, Key, selector};
use k8s_openapi::api::certificates::v1::ClusterTrustBundle;
use k8s_openapi::api::core::v1::ClusterTrustBundleProjection;
use kube::Client;
use tokio_util::sync::{CancellationToken, DropGuard};
use x509_parser::pem::Pem;

use crate::objects::{FIRST_ANSWER, Notify};

/// Characters of base64 in a line of PEM.
const PEM_LINE: usize = 64;

/// Pods by uid.
type Users = Arc<Mutex<BTreeSet<String>>>;

struct Watch {
    informer: Informer<ClusterTrustBundle>,
    users: Users,
    _stop: DropGuard,
}

/// The cluster's bundles.
pub struct TrustBundles {
    client: Client,
    notify: Notify,
    watch: Mutex<Option<Watch>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl TrustBundles {
    /// Nothing is watched yet; `notify` is told of changes with the uids of the pods that use bundles.
    pub fn new(client: Client, notify: Notify) -> Self {
        Self { client, notify, watch: Mutex::default() }
    }

    /// What the projection shows to the pod with `uid`, which counts as a user of bundles from now on.
    pub async fn anchors(&self, uid: &str, wanted: &ClusterTrustBundleProjection) -> Result<String, String> {
        let informer = self.subscribe(uid);
        if !tokio::time::timeout(FIRST_ANSWER, informer.synced()).await.unwrap_or(false) {
            return Err("ClusterTrustBundle informer has not yet synced".to_owned());
        }
        match &wanted.name {
            Some(name) => {
                let found: Vec<_> = informer.get(&Key::new("", &**name)).into_iter().collect();
                chosen(wanted, &found)
            }
            None => chosen(wanted, &informer.list()),
        }
    }

    fn subscribe(&self, uid: &str) -> Informer<ClusterTrustBundle> {
        let mut watch = lock(&self.watch);
        let watch = watch.get_or_insert_with(|| self.start());
        lock(&watch.users).insert(uid.to_owned());
        watch.informer.clone()
    }

    fn start(&self) -> Watch {
        let stop = CancellationToken::new();
        let api = Api::all(self.client.clone());
        let informer = Informer::start(api, watcher::Config::default(), stop.clone());
        let users = Users::default();
        let (of_watch, notify, seen) = (users.clone(), self.notify.clone(), informer.clone());
        informer.on_change(move |_| {
            // the first answer is no change: those who asked for it wait for it
            if seen.has_synced() {
                let users = lock(&of_watch).clone();
                notify(&users);
            }
        });
        Watch { informer, users, _stop: stop.drop_guard() }
    }

    /// The pod with `uid` is gone.
    pub fn release(&self, uid: &str) {
        let mut watch = lock(&self.watch);
        let is_last = watch.as_ref().is_some_and(|watch| {
            let mut users = lock(&watch.users);
            users.remove(uid);
            users.is_empty()
        });
        if is_last {
            *watch = None;
        }
    }
}

/// The anchors of those of `bundles` that the projection means; upstream's words where it means none and insists on some.
fn chosen(
    wanted: &ClusterTrustBundleProjection,
    bundles: &[Arc<ClusterTrustBundle>],
) -> Result<String, String> {
    let optional = wanted.optional == Some(true);
    let is_meant = |bundle: &&Arc<ClusterTrustBundle>| match (&wanted.name, &wanted.signer_name) {
        (Some(name), _) => bundle.metadata.name.as_ref() == Some(name),
        (None, signer) => {
            let by_labels = wanted.label_selector.as_ref();
            bundle.spec.signer_name == *signer
                && by_labels.is_some_and(|by| selector::matches(by, bundle.metadata.labels.as_ref()))
        }
    };
    let meant: Vec<&str> =
        bundles.iter().filter(is_meant).map(|bundle| bundle.spec.trust_bundle.as_str()).collect();
    match (&wanted.name, &wanted.signer_name) {
        (None, None) => {
            Err("ClusterTrustBundle projection requires either name or signerName to be set".to_owned())
        }
        _ if !meant.is_empty() || optional => Ok(once_each(&meant)),
        (Some(name), _) => Err(format!(
            "while getting ClusterTrustBundle: clustertrustbundle.certificates.k8s.io \"{name}\" not found"
        )),
        (None, Some(_)) => {
            Err("combination of signerName and labelSelector matched zero ClusterTrustBundles".to_owned())
        }
    }
}

/// All certificates of the texts in an order that says nothing (that of their bytes).
fn once_each(texts: &[&str]) -> String {
    let blocks = texts.iter().flat_map(|text| Pem::iter_from_buffer(text.as_bytes()).flatten());
    let anchors: BTreeSet<Vec<u8>> = blocks.map(|block| block.contents).collect();
    anchors.iter().map(|der| certificate(der)).collect()
}

fn certificate(der: &[u8]) -> String {
    let base64 = STANDARD.encode(der);
    let mut text = "-----BEGIN CERTIFICATE-----\n".to_owned();
    for line in base64.as_bytes().chunks(PEM_LINE) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push('\n');
    }
    text + "-----END CERTIFICATE-----\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, from_value, json};

    #[test]
    fn bundles_are_chosen_by_name_or_signer_and_labels() {
        let bundle = |name: &str, signer: Option<&str>, labels: Value, anchors: &[u8]| {
            let text: String = anchors.iter().map(|byte| certificate(&[*byte])).collect();
            Arc::new(
                from_value::<ClusterTrustBundle>(json!({ "metadata": { "name": name, "labels": labels },
                    "spec": { "signerName": signer, "trustBundle": format!("no anchor\n{text}") } }))
                .unwrap(),
            )
        };
        let bundles = [
            bundle("free", None, json!({}), &[1, 2]),
            bundle("s:a", Some("x/s"), json!({ "t": "1" }), &[9, 3]),
            bundle("s:b", Some("x/s"), json!({ "t": "2" }), &[3, 4]),
            bundle("r:a", Some("x/r"), json!({ "t": "1" }), &[5]),
        ];
        let none = Err("combination of signerName and labelSelector matched zero ClusterTrustBundles");
        let missing =
            Err("while getting ClusterTrustBundle: clustertrustbundle.certificates.k8s.io \"no\" not found");
        let table = [
            (json!({ "name": "free" }), Ok(vec![1, 2])),
            (json!({ "name": "no" }), missing),
            (json!({ "name": "no", "optional": true }), Ok(vec![])),
            (json!({ "signerName": "x/s", "labelSelector": {} }), Ok(vec![3, 4, 9])),
            (
                json!({ "signerName": "x/s", "labelSelector": { "matchLabels": { "t": "2" } } }),
                Ok(vec![3, 4]),
            ),
            (json!({ "signerName": "x/s" }), none.clone()),
            (json!({ "signerName": "x/s", "optional": true }), Ok(vec![])),
            (json!({ "signerName": "x/q", "labelSelector": {} }), none),
        ];
        for (mut wanted, expected) in table {
            wanted["path"] = json!("anchors.pem");
            let told = chosen(&from_value(wanted.clone()).unwrap(), &bundles);
            let expected = expected
                .map(|bytes: Vec<u8>| bytes.iter().map(|byte| certificate(&[*byte])).collect::<String>())
                .map_err(str::to_owned);
            assert_eq!(told, expected, "{wanted}");
        }
    }

    #[test]
    fn long_certificates_have_lines() {
        let text = certificate(&[0; 50]);
        assert_eq!(text.lines().map(str::len).collect::<Vec<_>>(), [27, 64, 4, 25]);
    }
}
