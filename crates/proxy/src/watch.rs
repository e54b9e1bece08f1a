//! Hears when somebody else changes rules of ours, so that they are repaired at once and nobody has to look again and again.

use corten_sys::netfilter::{Changed, Changes, Socket, Taken};
use tokio::io::unix::AsyncFd;

/// A listener of one network namespace; deaf where the kernel does not tell.
#[derive(Debug)]
pub(crate) struct Watch {
    state: State,
    /// Somebody changed something while a program of ours did.
    is_disturbed: bool,
    /// So much happened while a program of ours ran that the kernel did not tell all of it.
    is_unsure: bool,
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
            Ok(changes) => Watch::new(State::Open(changes)),
            Err(error) => {
                tracing::debug!(%error, "changes by others are found by looking only");
                Watch::new(State::Deaf)
            }
        }
    }

    fn new(state: State) -> Self {
        Watch { state, is_disturbed: false, is_unsure: false }
    }

    /// Did it and will it tell everything?
    pub(crate) fn hears(&self) -> bool {
        !matches!(self.state, State::Deaf) && !self.is_unsure
    }

    /// Forgets what was heard so far.
    pub(crate) fn forget(&mut self) {
        self.take(|_| false);
        (self.is_disturbed, self.is_unsure) = (false, false);
    }

    /// Looks through what was heard while programs of ours, with these process ids, made changes. What others did meanwhile is
    /// told by `next`.
    pub(crate) fn sort_out(&mut self, own: &[u32], concerns: impl Fn(&Changed) -> bool) {
        let taken = self.take(|changed| !own.contains(&changed.sender) && concerns(changed));
        self.is_disturbed |= taken.is_concerned;
        self.is_unsure |= taken.is_lost;
    }

    fn take(&self, concerns: impl Fn(&Changed) -> bool) -> Taken {
        let changes = match &self.state {
            State::Deaf => return Taken::default(),
            State::Open(changes) => changes,
            State::Listening(changes) => changes.get_ref(),
        };
        changes.take(concerns).unwrap_or_else(|error| {
            tracing::debug!(%error, "changes by others");
            Taken { is_concerned: false, is_lost: true }
        })
    }

    /// Waits until somebody changes what `concerns` says, or so much that some of it was lost.
    pub(crate) async fn next(&mut self, concerns: impl Fn(&Changed) -> bool) {
        if std::mem::take(&mut self.is_disturbed) {
            return;
        }
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
            let taken = changes.get_ref().take(&concerns).map_err(std::io::Error::other)?;
            ready.clear_ready();
            if taken.any() {
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
