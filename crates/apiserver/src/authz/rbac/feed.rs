//! Keeps the policy true. What the store has done since the last look is taken over before each decision, so a finished write counts
//! for every later request, and no request lists anything.

use std::sync::{Mutex, PoisonError};

use corten_api::Result;
use corten_store::{Entry, ListQuery, Revision, Store, StoreError, Watcher};
use futures::FutureExt;

use super::policy::{Policy, Table};
use crate::read::store_error;

/// Looks at the store anew when a feed has fallen behind, before the request is given up.
const MAX_TRIES: usize = 3;

/// The policy with its feed; empty until the first question.
#[derive(Default)]
pub(crate) struct Rbac(Mutex<Option<Feed>>);

struct Feed {
    policy: Policy,
    watchers: Vec<(Table, Watcher)>,
}

impl Rbac {
    /// Asks the policy as it stands now.
    ///
    /// Errors: the store cannot be read.
    pub async fn ask<T>(&self, store: &dyn Store, question: impl Fn(&Policy) -> T) -> Result<T> {
        for _ in 0..MAX_TRIES {
            if let Some(answer) = self.answer(&question) {
                return Ok(answer);
            }
            let feed = Feed::open(store).await.map_err(store_error)?;
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(feed);
        }
        Err(corten_api::Status::unavailable("roles and bindings change faster than they can be read"))
    }

    /// `None`: there is no feed, or it has fallen behind.
    fn answer<T>(&self, question: impl Fn(&Policy) -> T) -> Option<T> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.as_mut()?.catch_up().is_err() {
            *slot = None;
        }
        slot.as_ref().map(|feed| question(&feed.policy))
    }
}

fn prefix(table: Table) -> String {
    format!("/registry/{}/", table.plural())
}

impl Feed {
    async fn open(store: &dyn Store) -> Result<Self, StoreError> {
        let mut feed = Feed { policy: Policy::default(), watchers: Vec::new() };
        for table in Table::ALL {
            let revision = feed.load(store, table).await?;
            let watcher = store.watch(&prefix(table), Some(revision)).await?;
            feed.watchers.push((table, watcher));
        }
        Ok(feed)
    }

    async fn load(&mut self, store: &dyn Store, table: Table) -> Result<Revision, StoreError> {
        let query = ListQuery { prefix: prefix(table), ..ListQuery::default() };
        let page = store.list(&query).await?;
        for entry in &page.entries {
            self.policy.set(table, name(&entry.key, table), Some(&entry.value));
        }
        Ok(page.revision)
    }

    /// Takes over what has happened, without waiting.
    fn catch_up(&mut self) -> Result<(), StoreError> {
        for (table, watcher) in &mut self.watchers {
            while let Some(events) = watcher.next().now_or_never() {
                for event in events? {
                    let stored = event.entry.as_deref().map(|entry: &Entry| entry.value.as_ref());
                    self.policy.set(*table, name(&event.key, *table), stored);
                }
            }
        }
        Ok(())
    }
}

/// What follows the prefix in a key.
fn name(key: &str, table: Table) -> &str {
    let rest = key.strip_prefix("/registry/").and_then(|k| k.strip_prefix(table.plural()));
    rest.and_then(|k| k.strip_prefix('/')).unwrap_or_default()
}
