//! Hears when somebody else changes rules of ours, so that they are repaired at once and nobody has to look again and again.

use corten_sys::netfilter::{Changed, Changes, Socket};
use tokio::io::unix::AsyncFd;

/// A listener of one network namespace; deaf where the kernel does not tell.
#[derive(Debug)]
pub(crate) struct Watch {
    state: State,
}

#[derive(Debug)]
enum State {
    Deaf,
    /// Not known to a runtime yet: back ends are also made outside of one.
    Open(Changes),
    Listening(AsyncFd<Changes>),
}

impl Watch {
    /// Listens to everybody but `own`, from now on.
    pub(crate) fn open(own: Option<&Socket>) -> Self {
        match Changes::open(own) {
            Ok(changes) => Watch { state: State::Open(changes) },
            Err(error) => {
                tracing::debug!(%error, "changes by others are found by looking only");
                Watch { state: State::Deaf }
            }
        }
    }

    /// Will it tell?
    pub(crate) fn hears(&self) -> bool {
        !matches!(self.state, State::Deaf)
    }

    /// Forgets what was heard so far.
    pub(crate) fn forget(&self) {
        let changes = match &self.state {
            State::Deaf => return,
            State::Open(changes) => changes,
            State::Listening(changes) => changes.get_ref(),
        };
        if let Err(error) = changes.take(|_| false) {
            tracing::debug!(%error, "changes by others");
        }
    }

    /// Waits until somebody changes what `concerns` says, or so much that some of it was lost.
    pub(crate) async fn next(&mut self, concerns: impl Fn(&Changed) -> bool) {
        if let Err(error) = self.listen(concerns).await {
            tracing::warn!(%error, "changes by others are found by looking only from now on");
            self.state = State::Deaf;
            std::future::pending().await
        }
    }

    async fn listen(&mut self, concerns: impl Fn(&Changed) -> bool) -> std::io::Result<()> {
        self.state = match std::mem::replace(&mut self.state, State::Deaf) {
            State::Deaf => std::future::pending().await,
            State::Open(changes) => State::Listening(registered(changes)?),
            listening => listening,
        };
        let State::Listening(changes) = &self.state else { return std::future::pending().await };
        loop {
            let mut ready = changes.readable().await?;
            let is_concerned = changes.get_ref().take(&concerns).map_err(std::io::Error::other)?;
            ready.clear_ready();
            if is_concerned {
                return Ok(());
            }
        }
    }
}

/// `register` is unsafe for descriptors that may be closed behind its back; one of [`Changes`] cannot be.
fn registered(changes: Changes) -> std::io::Result<AsyncFd<Changes>> {
    #[allow(deprecated)]
    AsyncFd::new(changes)
}
