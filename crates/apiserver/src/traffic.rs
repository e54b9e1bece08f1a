//! What one connection does, and when a client has been too slow: with the head of a request, with reading an answer or a watch, or
//! with anything at all. Nothing that a client does not do may hold memory for ever.
//!
//! The connection notes what happens here; [`Traffic::next`] says what follows, for a time that is passed in. A request's body is
//! bounded by the request's own timeout (`pipeline.rs`); a seat is given back with the head of the answer.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};

use crate::body::{Body, BoxError, boxed};

/// An answer up to this size is copied into the connection's buffers at once; a larger one waits for its reader.
const SMALL_BODY_BYTES: u64 = 64 * 1024;
/// Answers that have ended are forgotten when there are so many more of them than requests.
const SPARE_ANSWERS: usize = 16;

/// How long a client may take.
#[derive(Clone, Debug)]
pub struct Patience {
    /// For the head of a request, as upstream.
    pub head: Duration,
    /// Between two requests, as upstream.
    pub idle: Duration,
    /// Without taking a byte of what is there for it.
    pub stalled: Duration,
    /// A connection that was busy so shortly before the server ends may have its next request on the way.
    pub linger: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Patience {
            head: Duration::from_secs(32),
            idle: Duration::from_secs(90),
            stalled: Duration::from_secs(60),
            linger: Duration::from_millis(500),
        }
    }
}

impl Patience {
    fn shortest(&self, closing: bool) -> Duration {
        let shortest = self.head.min(self.idle).min(self.stalled);
        if closing { shortest.min(self.linger) } else { shortest }
    }
}

/// How an answer is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// All of it by then.
    By(Instant),
    /// Each part soon after it was there: a watch.
    Steady,
    /// As its reader likes, who may have stopped it to look: logs and what is passed on, as upstream.
    Free,
}

/// What is to be done with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Look again then, at the latest.
    At(Instant),
    /// Nothing runs on it and nothing comes: it may end in an orderly way.
    Leave,
    /// Its client is too slow; why.
    Cut(&'static str),
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Traffic {
    patience: Patience,
    /// Do requests share the connection? Then a slow reader loses its stream and the others go on.
    shared: bool,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    /// Requests that are answered now.
    open: usize,
    /// Has the head of a request begun?
    head: bool,
    /// When it began, or when the last request ended.
    since: Instant,
    /// Answers that their readers may stop.
    free: usize,
    /// The socket takes nothing since then.
    blocked: Option<Instant>,
    /// The server ends.
    closing: bool,
    /// Answers that wait for their readers.
    answers: Vec<Weak<Answer>>,
}

impl Traffic {
    /// A connection that was accepted now.
    pub fn new(patience: Patience, shared: bool, now: Instant) -> Self {
        let seen = Seen {
            open: 0,
            head: true,
            since: now,
            free: 0,
            blocked: None,
            closing: false,
            answers: Vec::new(),
        };
        Traffic { patience, shared, seen: Mutex::new(seen) }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes have come. Between requests of a connection that is not shared they begin the head of one.
    pub fn read(&self, now: Instant) {
        let mut seen = self.seen();
        if !self.shared && seen.open == 0 && !seen.head {
            (seen.head, seen.since) = (true, now);
        }
    }

    /// Bytes were to go, and the socket took some or none.
    pub fn wrote(&self, some: bool, now: impl FnOnce() -> Instant) {
        let mut seen = self.seen();
        match (some, seen.blocked) {
            (true, Some(_)) => seen.blocked = None,
            (false, None) => seen.blocked = Some(now()),
            _ => {}
        }
    }

    /// A request is answered as long as the guard lives.
    pub fn request(self: &Arc<Self>) -> Open {
        let mut seen = self.seen();
        seen.open += 1;
        seen.head = false;
        Open { traffic: self.clone(), free: false }
    }

    /// The server ends; what has just ended may be followed by one more request.
    pub fn close(&self) {
        self.seen().closing = true;
    }

    /// It was asked to end; a request that comes in nevertheless must not take long.
    pub fn leave(&self, now: Instant) {
        let mut seen = self.seen();
        (seen.head, seen.since) = (true, now);
    }

    /// Does the server end?
    pub fn closing(&self) -> bool {
        self.seen().closing
    }

    /// What is to be done now. Slow readers of a shared connection lose their answers here.
    pub fn next(&self, now: Instant) -> Next {
        let (mut cut, mut dropped) = (None, Vec::new());
        let mut seen = self.seen();
        if seen.free == 0 && seen.blocked.is_some_and(|since| now >= since + self.patience.stalled) {
            cut = Some("the client takes nothing");
        }
        seen.answers.retain(|answer| match answer.upgrade() {
            None => false,
            Some(answer) if answer.overdue(self.patience.stalled, now) => {
                dropped.push(answer.cut());
                false
            }
            Some(_) => true,
        });
        if !dropped.is_empty() && !self.shared {
            cut = Some("the client reads its answer too slowly");
        }
        let next = match cut {
            Some(why) => Next::Cut(why),
            None => seen.rest(&self.patience, now),
        };
        // What an answer held goes without the lock: its end is noted here.
        drop(seen);
        drop(dropped);
        next
    }
}

impl Seen {
    fn remember(&mut self, answer: &Arc<Answer>) {
        if self.answers.len() > 2 * self.open + SPARE_ANSWERS {
            self.answers.retain(|answer| answer.strong_count() > 0);
        }
        self.answers.push(Arc::downgrade(answer));
    }

    /// Where nothing was too slow: how long it may rest.
    fn rest(&self, patience: &Patience, now: Instant) -> Next {
        let again = Next::At(now + patience.shortest(self.closing));
        if self.open > 0 {
            return again;
        }
        let (limit, then) = match (self.head, self.closing) {
            (true, _) => (patience.head, Next::Cut("the head of a request takes too long")),
            (false, true) => (patience.linger, Next::Leave),
            (false, false) => (patience.idle, Next::Leave),
        };
        let end = self.since + limit;
        match again {
            _ if now >= end => then,
            Next::At(at) => Next::At(at.min(end)),
            other => other,
        }
    }
}

/// A request that is answered.
#[derive(Debug)]
pub(crate) struct Open {
    traffic: Arc<Traffic>,
    free: bool,
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut seen = self.traffic.seen();
        seen.open = seen.open.saturating_sub(1);
        seen.free = seen.free.saturating_sub(usize::from(self.free));
        seen.since = Instant::now();
    }
}

impl Open {
    /// The body of the request's answer.
    pub fn answer(mut self, body: Body, pace: Pace) -> Body {
        if body.size_hint().upper().is_some_and(|bytes| bytes <= SMALL_BODY_BYTES) {
            return body;
        }
        let held = Held { body: Some(body), handed: None };
        let answer = Arc::new(Answer { pace, held: Mutex::new(held) });
        let mut seen = self.traffic.seen();
        match pace {
            Pace::Free => seen.free += 1,
            _ => seen.remember(&answer),
        }
        drop(seen);
        self.free = pace == Pace::Free;
        boxed(Paced { answer, _open: self })
    }
}

/// An answer that waits for its reader.
#[derive(Debug)]
struct Answer {
    pace: Pace,
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    /// `None`: taken away.
    body: Option<Body>,
    /// A part was handed out then, and nobody has come for the next one.
    handed: Option<Instant>,
}

impl Answer {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn overdue(&self, stalled: Duration, now: Instant) -> bool {
        let waits = self.held().handed.is_some_and(|since| now >= since + stalled);
        waits || matches!(self.pace, Pace::By(end) if now >= end)
    }

    fn cut(&self) -> Option<Body> {
        self.held().body.take()
    }
}

/// The body of such an answer, as HTTP sees it.
struct Paced {
    answer: Arc<Answer>,
    _open: Open,
}

impl http_body::Body for Paced {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut held = self.answer.held();
        let Some(body) = &mut held.body else {
            return Poll::Ready(Some(Err("the answer was read too slowly".into())));
        };
        let frame = Pin::new(body).poll_frame(cx);
        held.handed = matches!(frame, Poll::Ready(Some(_))).then(Instant::now);
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.answer.held().body.as_ref().is_some_and(|body| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.answer.held().body.as_ref().map_or_else(SizeHint::default, |body| body.size_hint())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::{full, stream};
    use futures::FutureExt;
    use http_body_util::BodyExt;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn traffic(shared: bool, now: Instant) -> Arc<Traffic> {
        let patience =
            Patience { head: seconds(30), idle: seconds(90), stalled: seconds(60), linger: seconds(1) };
        Arc::new(Traffic::new(patience, shared, now))
    }

    /// Bytes without end.
    fn endless() -> Body {
        stream(futures::stream::repeat_with(|| Ok(Bytes::from_static(&[0; 1024]))))
    }

    #[test]
    fn heads_and_idle_connections() {
        let start = Instant::now();
        let traffic = traffic(false, start);
        assert_eq!(traffic.next(start), Next::At(start + seconds(30)));
        assert_eq!(traffic.next(start + seconds(29)), Next::At(start + seconds(30)));
        assert!(matches!(traffic.next(start + seconds(30)), Next::Cut(_)), "nothing came");
        let open = traffic.request();
        let hour = seconds(3600);
        assert_eq!(traffic.next(start + hour), Next::At(start + hour + seconds(30)), "it may take its time");
        drop(open);
        let ended = Instant::now();
        assert!(matches!(traffic.next(ended + seconds(80)), Next::At(at) if at <= ended + seconds(90)));
        assert_eq!(traffic.next(ended + seconds(90)), Next::Leave);
        traffic.read(ended + seconds(10));
        traffic.read(ended + seconds(30));
        assert!(matches!(traffic.next(ended + seconds(39)), Next::At(_)));
        assert!(matches!(traffic.next(ended + seconds(40)), Next::Cut(_)), "its bytes came one by one");
    }

    #[test]
    fn an_end_waits_for_what_may_be_on_its_way() {
        let traffic = traffic(false, Instant::now());
        let open = traffic.request();
        traffic.close();
        let now = Instant::now();
        assert_eq!(traffic.next(now), Next::At(now + seconds(1)));
        drop(open);
        let ended = Instant::now();
        assert!(matches!(traffic.next(now), Next::At(_)));
        assert_eq!(traffic.next(ended + seconds(1)), Next::Leave);
    }

    #[test]
    fn pings_begin_no_request() {
        let start = Instant::now();
        let traffic = traffic(true, start);
        drop(traffic.request());
        let ended = Instant::now();
        traffic.read(ended + seconds(1));
        assert!(matches!(traffic.next(ended + seconds(60)), Next::At(_)));
        assert_eq!(traffic.next(ended + seconds(90)), Next::Leave);
    }

    #[test]
    fn a_socket_that_takes_nothing() {
        let start = Instant::now();
        let traffic = traffic(true, start);
        let _open = traffic.request();
        traffic.wrote(false, || start);
        traffic.wrote(false, || start + seconds(50));
        assert!(matches!(traffic.next(start + seconds(60)), Next::Cut(_)));
        traffic.wrote(true, || start);
        assert!(matches!(traffic.next(start + seconds(600)), Next::At(_)));
    }

    #[test]
    fn a_reader_that_does_not_come_back() {
        for shared in [false, true] {
            let traffic = traffic(shared, Instant::now());
            let mut body = traffic.request().answer(endless(), Pace::Steady);
            let quiet = Instant::now() + seconds(3600);
            assert!(matches!(traffic.next(quiet), Next::At(_)), "it was never asked for anything");
            assert!(body.frame().now_or_never().flatten().is_some_and(|frame| frame.is_ok()));
            let read = Instant::now();
            assert!(matches!(traffic.next(read + seconds(59)), Next::At(_)));
            let next = traffic.next(read + seconds(60));
            assert_eq!(matches!(next, Next::Cut(_)), !shared, "{next:?}");
            assert!(body.frame().now_or_never().flatten().is_some_and(|frame| frame.is_err()));
            drop(body);
            assert!(traffic.seen().answers.is_empty() && traffic.seen().open == 0);
        }
    }

    #[test]
    fn a_watch_without_news_is_not_slow_but_an_answer_has_its_end() {
        let start = Instant::now();
        let traffic = traffic(false, start);
        let mut body = traffic.request().answer(stream(futures::stream::pending()), Pace::Steady);
        assert!(body.frame().now_or_never().is_none());
        assert!(matches!(traffic.next(start + seconds(7200)), Next::At(_)));
        let _late = traffic.request().answer(endless(), Pace::By(start + seconds(60)));
        assert!(matches!(traffic.next(start + seconds(61)), Next::Cut(_)));
    }

    #[test]
    fn a_log_may_be_stopped_by_its_reader() {
        let start = Instant::now();
        let traffic = traffic(false, start);
        let mut body = traffic.request().answer(endless(), Pace::Free);
        assert!(body.frame().now_or_never().flatten().is_some_and(|frame| frame.is_ok()));
        traffic.wrote(false, || start);
        assert!(matches!(traffic.next(start + seconds(7200)), Next::At(_)));
        drop(body);
        assert!(matches!(traffic.next(start + seconds(7200)), Next::Cut(_)));
    }

    #[test]
    fn small_answers_need_no_watching() {
        let traffic = traffic(false, Instant::now());
        let _body = traffic.request().answer(full("small"), Pace::By(Instant::now()));
        assert_eq!(traffic.seen().open, 0);
        assert!(traffic.seen().answers.is_empty());
    }
}
