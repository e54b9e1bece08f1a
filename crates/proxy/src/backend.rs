//! What carries a ruleset out: the trait that the four modes implement, and a fake that remembers what it was told.

use async_trait::async_trait;

use crate::ruleset::{Change, Ruleset};

/// How packets are led to endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Maps of nftables; the default.
    #[default]
    Nftables,
    /// Rules of iptables.
    Iptables,
    /// Virtual servers of the kernel's load balancer.
    Ipvs,
    /// This process accepts and copies.
    Userspace,
}

impl Mode {
    /// All modes, the default first.
    pub const ALL: [Mode; 4] = [Mode::Nftables, Mode::Iptables, Mode::Ipvs, Mode::Userspace];

    /// As flags and configuration files write it.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Nftables => "nftables",
            Mode::Iptables => "iptables",
            Mode::Ipvs => "ipvs",
            Mode::Userspace => "userspace",
        }
    }
}

impl std::str::FromStr for Mode {
    type Err = String;

    /// Empty means the default, as upstream.
    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "" => Ok(Mode::default()),
            _ => Mode::ALL
                .into_iter()
                .find(|mode| mode.name() == name)
                .ok_or_else(|| format!("unknown proxy mode {name:?}: nftables, iptables, ipvs or userspace")),
        }
    }
}

/// Why a change did not get through. The caller tries again, at last with [`Backend::sync_all`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused.
    #[error(transparent)]
    Sys(#[from] corten_sys::Error),
    /// A program failed, is missing, or hung.
    #[error("{program}: {why}")]
    Program {
        /// Its name.
        program: &'static str,
        /// Its last words.
        why: String,
    },
    /// A socket of our own.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// The answer.
        #[source]
        source: std::io::Error,
    },
    /// This kernel or this mode cannot do it.
    #[error("not possible here: {0}")]
    Unsupported(String),
}

/// Carries rulesets out on this host (or in the network namespace of the calling thread).
///
/// A change is all or nothing where the kernel allows it. After an error what is there is unknown: the next call is
/// `sync_all`.
#[async_trait]
pub trait Backend: Send {
    /// Brings the host to exactly `rules`, whatever an earlier process of the same cluster left there. Connections that stand
    /// live on.
    async fn sync_all(&mut self, rules: &Ruleset) -> Result<(), Error>;

    /// Carries out a difference. `rules` is the whole ruleset after it, for modes that need more than what changed.
    async fn apply(&mut self, change: &Change, rules: &Ruleset) -> Result<(), Error>;

    /// Removes everything that this mode put on the host for this cluster; fine when nothing is there.
    async fn cleanup(&mut self) -> Result<(), Error>;

    /// Returns when somebody else may have changed what is on the host for this mode: the next call is `sync_all`. Never
    /// returns where nobody tells. Giving up waiting loses nothing.
    async fn disturbed(&mut self) {
        std::future::pending().await
    }

    /// May the regular full sync be passed over, because [`Backend::disturbed`] hears of everything that anybody changes?
    fn hears_all(&self) -> bool {
        false
    }
}

/// A back end that remembers what it was told, and fails as often as it is told to.
#[derive(Debug, Default)]
pub struct Recorder {
    /// What the host would have now.
    pub rules: Ruleset,
    /// One entry a call that succeeded.
    pub calls: Vec<Call>,
    /// So many of the next calls fail.
    pub failures: usize,
}

/// A call that a [`Recorder`] got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// `sync_all`.
    SyncAll,
    /// `apply` with this change.
    Apply(Change),
    /// `cleanup`.
    Cleanup,
}

impl Recorder {
    fn record(&mut self, call: Call) -> Result<(), Error> {
        if self.failures > 0 {
            self.failures -= 1;
            return Err(Error::Unsupported("the fake was told to fail".into()));
        }
        self.calls.push(call);
        Ok(())
    }
}

#[async_trait]
impl Backend for Recorder {
    async fn sync_all(&mut self, rules: &Ruleset) -> Result<(), Error> {
        self.record(Call::SyncAll)?;
        self.rules = rules.clone();
        Ok(())
    }

    async fn apply(&mut self, change: &Change, rules: &Ruleset) -> Result<(), Error> {
        self.record(Call::Apply(change.clone()))?;
        self.rules = rules.clone();
        Ok(())
    }

    async fn cleanup(&mut self) -> Result<(), Error> {
        self.record(Call::Cleanup)?;
        self.rules = Ruleset::default();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_have_names() {
        for mode in Mode::ALL {
            assert_eq!(mode.name().parse(), Ok(mode));
        }
        assert_eq!("".parse(), Ok(Mode::Nftables));
        assert!("kernelspace".parse::<Mode>().is_err());
    }
}
