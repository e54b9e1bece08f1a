//! Events as bytes, made once for all who watch: a hundred clients of one collection are sent the same frames.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use corten_api::Str;
use corten_store::{Event, Key};

/// Frames are kept for watchers that come a little later; those far behind make their own.
const MAX_FRAMES: usize = 64;
/// Bytes of all kept frames.
const MAX_BYTES: usize = 512 * 1024;

/// The frames of the last events, oldest first.
#[derive(Default)]
pub(crate) struct Frames(Mutex<Recent>);

#[derive(Default)]
struct Recent {
    frames: VecDeque<Frame>,
    bytes: usize,
}

struct Frame {
    revision: u64,
    key: Key,
    what: &'static str,
    form: Str,
    bytes: Bytes,
}

impl Frames {
    /// The frame of an event as `what` (`ADDED`) in a form that is the same for all who ask for it by this name.
    ///
    /// Errors: those of `make`.
    pub fn get<E>(
        &self,
        event: &Event,
        what: &'static str,
        form: &Str,
        make: impl FnOnce() -> Result<Vec<u8>, E>,
    ) -> Result<Bytes, E> {
        let wanted = |f: &&Frame| {
            f.revision == event.revision && f.key == event.key && f.what == what && f.form == *form
        };
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(frame) = lock().frames.iter().rev().find(wanted) {
            return Ok(frame.bytes.clone());
        }
        // Made without the lock; two that make the same one at once do no harm.
        let bytes = Bytes::from(make()?);
        let (revision, key) = (event.revision, event.key.clone());
        lock().keep(Frame { revision, key, what, form: form.clone(), bytes: bytes.clone() });
        Ok(bytes)
    }
}

impl Recent {
    fn keep(&mut self, frame: Frame) {
        self.bytes += frame.bytes.len();
        self.frames.push_back(frame);
        while self.frames.len() > MAX_FRAMES || self.bytes > MAX_BYTES {
            let Some(oldest) = self.frames.pop_front() else { return };
            self.bytes -= oldest.bytes.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(revision: u64, key: &str) -> Event {
        Event { revision, key: key.into(), entry: None, previous: None }
    }

    #[test]
    fn a_frame_is_made_once_for_each_form() {
        let (frames, form) = (Frames::default(), Str::from_static("v1"));
        let mut made = 0;
        for (event, what, form) in [
            (event(5, "/a"), "ADDED", &form),
            (event(5, "/a"), "ADDED", &form),
            (event(5, "/b"), "ADDED", &form),
            (event(5, "/a"), "MODIFIED", &form),
            (event(6, "/a"), "ADDED", &form),
            (event(5, "/a"), "ADDED", &Str::from_static("v2")),
            (event(5, "/a"), "ADDED", &form),
        ] {
            let text = format!("{} {} {what} {form}", event.revision, event.key);
            let make = || {
                made += 1;
                Ok::<_, ()>(text.clone().into_bytes())
            };
            assert_eq!(frames.get(&event, what, form, make).unwrap(), text.as_bytes());
        }
        assert_eq!(made, 5);
        assert_eq!(frames.get(&event(9, "/x"), "ADDED", &form, || Err("no")), Err("no"));
    }

    #[test]
    fn few_frames_are_kept() {
        let (frames, form) = (Frames::default(), Str::default());
        for revision in 0..1000 {
            frames.get(&event(revision, "/a"), "ADDED", &form, || Ok::<_, ()>(vec![0; 10])).unwrap();
        }
        let recent = frames.0.lock().unwrap();
        assert_eq!((recent.frames.len(), recent.bytes), (MAX_FRAMES, 10 * MAX_FRAMES));
        assert_eq!(recent.frames.back().map(|f| f.revision), Some(999));
    }

    #[test]
    fn large_frames_are_not_hoarded() {
        let (frames, form) = (Frames::default(), Str::default());
        for revision in 0..10 {
            frames
                .get(&event(revision, "/a"), "ADDED", &form, || Ok::<_, ()>(vec![0; MAX_BYTES / 2]))
                .unwrap();
        }
        assert_eq!(frames.0.lock().unwrap().frames.len(), 2);
        frames.get(&event(11, "/a"), "ADDED", &form, || Ok::<_, ()>(vec![0; MAX_BYTES + 1])).unwrap();
        let recent = frames.0.lock().unwrap();
        assert_eq!((recent.frames.len(), recent.bytes), (0, 0));
    }
}
