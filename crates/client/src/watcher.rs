//! List and watch without end, for all kinds: versions, bookmarks, pauses and new lists are known here, types are not. What is found goes
//! to a [`Feed`] as JSON.

use std::time::Duration;

use bytes::{Buf, BytesMut};
use http_body_util::BodyExt;
use kube::api::{ListParams, WatchParams};
use kube::client::Body;
use kube::core::Status;
use kube::core::request::Request;
use kube::{Client, Error};
use serde::Deserialize;
use serde::de::Error as _;
use tokio::time::Instant;

use crate::pause::Pauses;
use crate::{request, spans};

/// Objects in one page of a list.
const PAGE: u32 = 500;
/// A watch is asked anew after this without a word; servers end it a little earlier themselves.
const SILENCE: Duration = Duration::from_secs(295);
/// A watch that ended within this and told nothing is taken for one that broke.
const TOO_SHORT: Duration = Duration::from_secs(1);
/// Bytes of one event.
const MAX_EVENT: usize = 16 << 20;

/// Which objects are watched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Label selector.
    pub label_selector: Option<String>,
    /// Field selector.
    pub field_selector: Option<String>,
}

impl Config {
    /// Those that a field selector chooses.
    pub fn fields(mut self, selector: &str) -> Self {
        self.field_selector = Some(selector.to_owned());
        self
    }

    /// Those that a label selector chooses.
    pub fn labels(mut self, selector: &str) -> Self {
        self.label_selector = Some(selector.to_owned());
        self
    }
}

/// Takes what a watch finds.
pub(crate) trait Feed: Send {
    /// A list begins.
    fn list_begins(&mut self);
    /// An object of the list.
    fn listed(&mut self, json: &[u8]) -> serde_json::Result<()>;
    /// The list is whole: what was not in it is gone.
    fn list_ends(&mut self);
    /// A new or changed object; gives its version.
    fn changed(&mut self, json: &[u8]) -> serde_json::Result<Option<String>>;
    /// An object that is gone; gives the version of its end.
    fn deleted(&mut self, json: &[u8]) -> serde_json::Result<Option<String>>;
}

/// A list and watch.
pub(crate) struct Watcher {
    pub client: Client,
    pub request: Request,
    pub config: Config,
    pub feed: Box<dyn Feed>,
    /// What everything up to is known; none before the first list and when the server has forgotten it.
    pub version: Option<String>,
}

impl Watcher {
    /// Never ends.
    pub async fn run(mut self) {
        let mut pauses = Pauses::default();
        loop {
            if let Err(error) = self.round().await {
                tracing::debug!(path = self.request.url_path, %error, "watch broke, retrying");
                tokio::time::sleep(pauses.after_failure(Instant::now())).await;
            }
        }
    }

    /// One watch, and a list before it where one is needed. `Ok`: the server ended the watch in its time.
    async fn round(&mut self) -> Result<(), Error> {
        let version = match self.version.clone() {
            Some(version) => version,
            None => self.list().await?,
        };
        let result = self.watch(&version).await;
        if matches!(&result, Err(Error::Api(status)) if is_foreign(status)) {
            self.version = None;
        }
        result
    }

    async fn list(&mut self) -> Result<String, Error> {
        self.feed.list_begins();
        let mut page = ListParams {
            label_selector: self.config.label_selector.clone(),
            field_selector: self.config.field_selector.clone(),
            limit: Some(PAGE),
            ..ListParams::default()
        };
        loop {
            let json = request::ask(&self.client, self.request.list(&page)).await?;
            let (meta, items) = request::list(&json)?;
            for item in items {
                self.feed.listed(item).map_err(Error::SerdeError)?;
            }
            page.continue_token = meta.continue_.filter(|token| !token.is_empty());
            if page.continue_token.is_some() {
                continue;
            }
            let version = meta.resource_version.filter(|version| !version.is_empty());
            let version = version.ok_or_else(|| broken("a list without resourceVersion"))?;
            self.feed.list_ends();
            self.version = Some(version.clone());
            return Ok(version);
        }
    }

    async fn watch(&mut self, version: &str) -> Result<(), Error> {
        let how = WatchParams {
            label_selector: self.config.label_selector.clone(),
            field_selector: self.config.field_selector.clone(),
            ..WatchParams::default()
        };
        let begun = Instant::now();
        let mut lines = Lines {
            body: request::open(&self.client, self.request.watch(&how, version)).await?.into_body(),
            read: BytesMut::new(),
            searched: 0,
        };
        let mut told = false;
        while let Ok(line) = tokio::time::timeout(SILENCE, lines.next()).await {
            let Some(line) = line? else {
                let at_once = !told && begun.elapsed() < TOO_SHORT;
                return if at_once { Err(broken("the watch ended at once")) } else { Ok(()) };
            };
            told = true;
            self.take(&line)?;
        }
        Ok(())
    }

    fn take(&mut self, line: &[u8]) -> Result<(), Error> {
        let (mut event, mut object): (&[u8], &[u8]) = (b"", b"");
        for (name, value) in spans::members(line).ok_or_else(|| broken("this is not an event"))? {
            match name {
                b"type" => event = value,
                b"object" => object = value,
                _ => {}
            }
        }
        let version = match event {
            br#""ADDED""# | br#""MODIFIED""# => {
                self.feed.changed(object).or_else(|error| pass(object, &error))
            }
            br#""DELETED""# => self.feed.deleted(object).or_else(|error| pass(object, &error)),
            br#""BOOKMARK""# => version(object),
            _ => {
                let status = serde_json::from_slice::<Status>(object).map_err(Error::SerdeError)?;
                return Err(Error::Api(Box::new(status)));
            }
        };
        // Without a version nobody could say where to go on.
        self.version = version.map_err(Error::SerdeError)?.filter(|version| !version.is_empty());
        self.version.as_ref().map(drop).ok_or_else(|| broken("an event without resourceVersion"))
    }
}

/// Does the server not know the version: has it forgotten it, or did it never have it (it was set back to an older state)?
fn is_foreign(status: &Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    status.code == 410 || causes.into_iter().any(|cause| cause.reason == "ResourceVersionTooLarge")
}

/// An object that cannot be read is passed over: the same words would come again and again.
fn pass(object: &[u8], error: &serde_json::Error) -> serde_json::Result<Option<String>> {
    tracing::warn!(%error, "an object of a watch cannot be read");
    version(object)
}

fn version(object: &[u8]) -> serde_json::Result<Option<String>> {
    serde_json::from_slice::<Bookmark>(object).map(|at| at.metadata.resource_version)
}

fn broken(what: &str) -> Error {
    Error::SerdeError(serde_json::Error::custom(what))
}

#[derive(Deserialize)]
struct Bookmark {
    metadata: BookmarkMeta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BookmarkMeta {
    resource_version: Option<String>,
}

/// The lines of an answer.
struct Lines {
    body: Body,
    read: BytesMut,
    /// So much of `read` has no line end.
    searched: usize,
}

impl Lines {
    /// The next line that says something; `None` at the end, where a line that was cut off does not count.
    async fn next(&mut self) -> Result<Option<BytesMut>, Error> {
        loop {
            if let Some(length) = self.read[self.searched..].iter().position(|byte| *byte == b'\n') {
                let line = self.read.split_to(self.searched + length);
                self.read.advance(1);
                self.searched = 0;
                if !line.trim_ascii().is_empty() {
                    return Ok(Some(line));
                }
                continue;
            }
            self.searched = self.read.len();
            if self.searched > MAX_EVENT {
                return Err(broken("an event of too many bytes"));
            }
            match self.body.frame().await.transpose()? {
                Some(frame) => {
                    self.read.extend_from_slice(frame.data_ref().map_or(&[][..], |data| &data[..]))
                }
                None => return Ok(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use http::{Request, Response};
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::ResourceExt;
    use tokio::sync::watch;
    use tokio_util::sync::CancellationToken;
    use tower::{BoxError, service_fn};

    use super::*;
    use crate::{Api, Informer};

    /// A server that gives these answers one after another, then none; and what it was asked, as paths with queries.
    fn server(answers: &[(u16, &str)]) -> (Client, watch::Receiver<Vec<String>>) {
        let (asked, seen) = watch::channel(Vec::new());
        let left: Vec<_> = answers.iter().rev().map(|(code, body)| (*code, (*body).to_owned())).collect();
        let (asked, left) = (Arc::new(asked), Arc::new(Mutex::new(left)));
        let client = crate::in_process(service_fn(move |request: Request<Body>| {
            let next = left.lock().unwrap().pop();
            asked.send_modify(|all| all.push(request.uri().to_string()));
            async move {
                let Some((code, body)) = next else { return std::future::pending().await };
                let answer = Response::builder().status(code).body(Body::from(body.into_bytes()));
                answer.map_err(BoxError::from)
            }
        }));
        (client, seen)
    }

    fn event(kind: &str, name: &str, version: &str) -> String {
        let object = map(name, version);
        format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n")
    }

    fn map(name: &str, version: &str) -> String {
        format!(r#"{{"metadata":{{"name":"{name}","namespace":"ns","resourceVersion":"{version}"}}}}"#)
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_listed_is_followed_and_listed_anew_when_forgotten() {
        let page = |more: &str, version: &str, name: &str| {
            let item = map(name, version);
            format!(
                r#"{{"kind":"ConfigMapList","metadata":{{"resourceVersion":"{version}"{more}}},"items":[{item}]}}"#
            )
        };
        let bookmark =
            r#"{"type":"BOOKMARK","object":{"kind":"ConfigMap","metadata":{"resourceVersion":"8"}}}"#;
        let unreadable =
            r#"{"type":"ADDED","object":{"metadata":{"name":"x","resourceVersion":"10"},"data":1}}"#;
        let told = [
            event("ADDED", "c", "6"),
            format!("{bookmark}\n\n"),
            event("DELETED", "a", "9"),
            format!("{unreadable}\n"),
            event("MODIFIED", "cut off", "11")[..20].to_owned(),
        ];
        let gone = r#"{"type":"ERROR","object":{"kind":"Status","code":410,"message":"too old","reason":"Expired"}}"#;
        let (client, mut asked) = server(&[
            (503, "not yet"),
            (200, &page(r#","continue":"next""#, "5", "a")),
            (200, &page("", "5", "b")),
            (200, &told.concat()),
            (200, &format!("{gone}\n")),
            (200, &page("", "20", "c")),
        ]);
        let stop = CancellationToken::new();
        let informer =
            Informer::<ConfigMap>::start(Api::all(client), Config::default().fields("x=y"), stop.clone());
        let asked = asked.wait_for(|all| all.len() == 7).await.unwrap().clone();
        let names: Vec<String> = informer.list().iter().map(|object| object.name_any()).collect();
        assert_eq!(names, ["c"]);
        assert!(informer.has_synced());
        for (number, part) in [
            (0, "limit=500"),
            (1, "fieldSelector=x%3Dy"),
            (2, "continue=next"),
            (3, "resourceVersion=5"),
            (4, "resourceVersion=10"),
            (5, "limit=500"),
            (6, "resourceVersion=20"),
        ] {
            assert!(asked[number].contains(part), "{number}: {}", asked[number]);
        }
        stop.cancel();
    }

    #[tokio::test(start_paused = true)]
    async fn one_bad_object_and_a_server_that_was_set_back() {
        let list = |version: &str, items: &[String]| {
            let items = items.join(",");
            format!(
                r#"{{"kind":"ConfigMapList","metadata":{{"resourceVersion":"{version}"}},"items":[{items}]}}"#
            )
        };
        let unreadable = r#"{"metadata":{"name":"b","namespace":"ns","resourceVersion":"9"},"data":1}"#;
        let future = r#"{"kind":"Status","apiVersion":"v1","status":"Failure","code":504,"reason":"Timeout","message":"Too large resource version",
            "details":{"causes":[{"reason":"ResourceVersionTooLarge","message":"Too large resource version"}]}}"#;
        let (client, mut asked) = server(&[
            (200, &list("5", &[map("a", "4"), map("b", "5")])),
            (410, r#"{"kind":"Status","apiVersion":"v1","status":"Failure","code":410,"reason":"Expired"}"#),
            (200, &list("9", &[unreadable.to_owned(), map("c", "8")])),
            (504, future),
            (200, &list("3", &[map("d", "2")])),
        ]);
        let stop = CancellationToken::new();
        let informer = Informer::<ConfigMap>::start(Api::all(client), Config::default(), stop.clone());
        let names = || informer.list().iter().map(|object| object.name_any()).collect::<Vec<_>>();
        asked.wait_for(|all| all.len() == 4).await.unwrap();
        assert_eq!(names(), ["b", "c"], "what cannot be read is not gone");
        let asked = asked.wait_for(|all| all.len() == 6).await.unwrap().clone();
        assert_eq!(names(), ["d"]);
        assert!(asked[5].contains("resourceVersion=3"), "{}", asked[5]);
        stop.cancel();
    }
}
