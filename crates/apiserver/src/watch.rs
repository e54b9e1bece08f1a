//! WATCH: one store watcher a client, turned into a chunked body of events. Backpressure is the body's: a client that reads
//! too slowly makes the store's watcher lag, and gets an ERROR event with 410.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use corten_api::field::{Error, Path};
use corten_api::{Result, Status, Value, json};
use corten_store::{Entry, Event, ListQuery, StoreError, Watcher};
use http::Response;
use rand::Rng;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::ApiServer;
use crate::body::{self, Body};
use crate::call::Call;
use crate::encode::EventForm;
use crate::media::Format;
use crate::read::{narrowed, parse_version, store_error};
use crate::select::Selection;

/// Bookmarks come about this often, as upstream sends them.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// A watch ends after this time, however long it was asked for.
const LIFE_MAX: Duration = Duration::from_secs(365 * 24 * 3600);
/// Initial events are gathered into chunks of about this size.
const CHUNK_BYTES: usize = 32 * 1024;

/// How a watch was asked for.
struct WatchOptions {
    /// Start with the present objects?
    initial: bool,
    /// Events after this revision; `None` with `initial`.
    after: Option<u64>,
    /// Bookmarks?
    bookmarks: bool,
    /// Mark the end of the initial events with an annotated bookmark?
    mark_initial_end: bool,
    life: Duration,
}

impl WatchOptions {
    fn parse(server: &ApiServer, call: &Call) -> Result<Self> {
        let query = &call.query;
        let version = parse_version(query.str("resourceVersion"))?;
        let send_initial = query.flag_opt("sendInitialEvents");
        check_match(query.str("resourceVersionMatch"), send_initial)?;
        let seconds = query.number("timeoutSeconds")?.and_then(|s| u64::try_from(s).ok());
        let life = match seconds.filter(|s| *s > 0) {
            Some(seconds) => Duration::from_secs(seconds).min(LIFE_MAX),
            None => server.config().limits.watch_timeout.mul_f64(1.0 + rand::rng().random::<f64>()),
        };
        let bookmarks = query.flag("allowWatchBookmarks");
        let from_now = version.is_none_or(|v| v == 0);
        Ok(WatchOptions {
            initial: send_initial.unwrap_or(from_now),
            after: version.filter(|v| *v > 0),
            bookmarks,
            mark_initial_end: send_initial == Some(true) && bookmarks,
            life,
        })
    }
}

fn check_match(how: &str, send_initial: Option<bool>) -> Result<()> {
    let error = match (send_initial, how) {
        (None, "") | (Some(_), "NotOlderThan") => return Ok(()),
        (None, _) => Error::forbidden(
            &Path::root("resourceVersionMatch"),
            "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        ),
        (Some(_), "") => Error::forbidden(
            &Path::root("resourceVersionMatch"),
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ),
        (Some(_), other) => {
            Error::not_supported(&Path::root("resourceVersionMatch"), other, &["NotOlderThan"])
        }
    };
    Err(Status::invalid("meta.k8s.io", "ListOptions", "", &[error]))
}

/// WATCH on a collection or on one object.
pub(crate) async fn watch(server: &ApiServer, call: Arc<Call>) -> Result<Response<Body>> {
    if call.answer.format == Format::Yaml {
        return Err(Status::not_acceptable(&["application/json", "application/json;stream=watch"]));
    }
    let options = WatchOptions::parse(server, &call)?;
    let selection = Selection::of_call(&call)?;
    let prefix = narrowed(&call, &selection);
    let form = EventForm::new(call.clone());
    let started = start(server, &prefix, &options).await;
    let content_type = call.answer.format.stream_type();
    let (watcher, state) = match started {
        Ok((watcher, state)) => (Some(watcher), state),
        // Upstream opens the stream and tells it there.
        Err(StoreError::Compacted { asked, compact_revision }) => {
            let gone = store_error(StoreError::Compacted { asked, compact_revision });
            (None, State::Failed(gone))
        }
        Err(error) => return Err(store_error(error)),
    };
    let now = Instant::now();
    let mut stream = WatchStream {
        _open: server.metrics().watcher(&call.info),
        ending: Box::pin(server.ending().clone().cancelled_owned()),
        server: server.clone(),
        call,
        selection,
        form,
        watcher,
        state,
        bookmarks: options.bookmarks,
        mark_initial_end: options.mark_initial_end,
        bookmark_at: now + BOOKMARK_EVERY,
        end_at: now + options.life,
        alarm: Box::pin(sleep_until(now)),
        sent: 0,
    };
    stream.set_alarm();
    let chunks = futures::stream::unfold(stream, |mut stream| async move {
        let chunk = stream.next_chunk().await?;
        Some((Ok(chunk), stream))
    });
    Response::builder()
        .header("content-type", content_type)
        .body(body::stream(chunks))
        .map_err(Status::internal)
}

async fn start(
    server: &ApiServer,
    prefix: &str,
    options: &WatchOptions,
) -> Result<(Watcher, State), StoreError> {
    let store = &server.config().store;
    if !options.initial {
        let watcher = store.watch(prefix, options.after).await?;
        return Ok((watcher, State::Live));
    }
    let query = ListQuery { prefix: prefix.to_owned(), ..ListQuery::default() };
    let present = store.list(&query).await?;
    if let Some(asked) = options.after.filter(|v| *v > present.revision) {
        return Err(StoreError::Future { asked, current_revision: present.revision });
    }
    let watcher = store.watch(prefix, Some(present.revision)).await?;
    Ok((watcher, State::Initial(present.entries.into_iter(), present.revision)))
}

/// Where a watch is.
enum State {
    /// Telling what is there, at a revision.
    Initial(std::vec::IntoIter<Arc<Entry>>, u64),
    /// Waiting for what happens.
    Live,
    /// Telling what has happened.
    News(std::vec::IntoIter<Arc<Event>>),
    /// One last ERROR event.
    Failed(Box<Status>),
    /// Over.
    Ended,
}

struct WatchStream {
    _open: crate::metrics::OpenWatch,
    server: ApiServer,
    call: Arc<Call>,
    selection: Selection,
    form: EventForm,
    watcher: Option<Watcher>,
    state: State,
    bookmarks: bool,
    mark_initial_end: bool,
    bookmark_at: Instant,
    end_at: Instant,
    /// Goes off at the earlier of the two; it and `ending` live as long as the watch, which may wait a thousand times a second.
    alarm: Pin<Box<Sleep>>,
    ending: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Revision of the last bookmark.
    sent: u64,
}

impl WatchStream {
    /// The next bytes for the client; `None` ends the stream. One step of the state machine at a time.
    async fn next_chunk(&mut self) -> Option<Bytes> {
        loop {
            let mut out = Vec::new();
            match std::mem::replace(&mut self.state, State::Ended) {
                State::Initial(entries, revision) => self.initial(entries, revision, &mut out),
                State::Live => self.live(&mut out).await,
                State::News(events) => {
                    if let Some(frame) = self.tell(events) {
                        return Some(frame);
                    }
                }
                State::Failed(status) => self.form.error(&status, &mut out),
                State::Ended => return None,
            }
            if !out.is_empty() {
                return Some(out.into());
            }
        }
    }

    fn initial(&mut self, mut entries: std::vec::IntoIter<Arc<Entry>>, revision: u64, out: &mut Vec<u8>) {
        for entry in entries.by_ref() {
            if let Err(status) = self.push_initial(&entry, out) {
                self.state = State::Failed(status);
                return;
            }
            if out.len() >= CHUNK_BYTES {
                self.state = State::Initial(entries, revision);
                return;
            }
        }
        if self.mark_initial_end {
            self.form.bookmark(revision, true, out);
            self.sent = revision;
        }
        self.state = State::Live;
    }

    fn push_initial(&mut self, entry: &Entry, out: &mut Vec<u8>) -> Result<()> {
        if self.selection.matches(&self.call, &entry.value)? {
            self.form.event("ADDED", &entry.value, entry.mod_revision, out)?;
        }
        Ok(())
    }

    async fn live(&mut self, out: &mut Vec<u8>) {
        let Some(watcher) = &mut self.watcher else { return };
        tokio::select! {
            events = watcher.next() => self.state = match events {
                Ok(events) => State::News(events.into_iter()),
                Err(StoreError::Closed) => State::Ended,
                Err(error) => State::Failed(store_error(error)),
            },
            () = &mut self.alarm => self.alarmed(out),
            () = &mut self.ending => self.state = State::Ended,
        }
    }

    /// The end, or time for a bookmark.
    fn alarmed(&mut self, out: &mut Vec<u8>) {
        let now = Instant::now();
        if now >= self.end_at {
            return;
        }
        self.state = State::Live;
        self.bookmark_at = now + BOOKMARK_EVERY;
        self.set_alarm();
        let progress = self.watcher.as_ref().map_or(0, |watcher| watcher.progress());
        if progress > self.sent {
            self.sent = progress;
            self.form.bookmark(progress, false, out);
        }
    }

    fn set_alarm(&mut self) {
        let at = if self.bookmarks { self.end_at.min(self.bookmark_at) } else { self.end_at };
        self.alarm.as_mut().reset(at);
    }

    /// The frame of the first event that is this client's business; the others wait for the next call.
    fn tell(&mut self, mut events: std::vec::IntoIter<Arc<Event>>) -> Option<Bytes> {
        for event in events.by_ref() {
            match self.frame(&event) {
                Ok(None) => {}
                Ok(frame) => {
                    self.state = State::News(events);
                    return frame;
                }
                Err(status) => {
                    self.state = State::Failed(status);
                    return None;
                }
            }
        }
        self.state = State::Live;
        None
    }

    /// An object that begins to match is added for this client, one that ends to match is deleted.
    fn frame(&mut self, event: &Event) -> Result<Option<Bytes>> {
        let before = self.matching(event.previous.as_deref())?;
        let after = self.matching(event.entry.as_deref())?;
        let (what, entry) = match (before, after) {
            (None, None) => return Ok(None),
            (None, Some(entry)) => ("ADDED", entry),
            (Some(_), Some(entry)) => ("MODIFIED", entry),
            (Some(entry), None) => ("DELETED", entry),
        };
        let form = self.form.shared().cloned();
        let mut make = || {
            let mut out = Vec::new();
            self.form.event(what, &entry.value, event.revision, &mut out).map(|()| out)
        };
        match form {
            Some(form) => self.server.frames().get(event, what, &form, make).map(Some),
            None => Ok(Some(make()?.into())),
        }
    }

    fn matching<'e>(&self, entry: Option<&'e Entry>) -> Result<Option<&'e Entry>> {
        match entry {
            Some(entry) if self.selection.matches(&self.call, &entry.value)? => Ok(Some(entry)),
            _ => Ok(None),
        }
    }
}

/// `{"type":T,"object":` … `}` around an object that is already bytes.
pub(crate) fn frame(what: &str, out: &mut Vec<u8>, object: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(what.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    object(out);
    out.extend_from_slice(b"}\n");
}

/// The same around a tree.
pub(crate) fn frame_value(what: &str, value: &Value, out: &mut Vec<u8>) {
    frame(what, out, |out| json::write(value, out));
}
