//! The handle on the kernel: applies states, repairs what was damaged, removes everything.
//!
//! One task owns a [`Netfilter`]; calls take turns. [`apply`](Netfilter::apply) sends the difference to the state that
//! it applied last. Whenever it does not know what the kernel has (at the start, after an error, after a cancelled
//! call) it asks: a table of an earlier run is adopted, so that an upgrade moves nobody, and a table that is not whole is
//! made anew in one transaction. What the kernel has stays there when this is dropped or killed: flows go on, and new
//! ones to backends too. Only [`remove`](Netfilter::remove) takes it away.

use std::collections::BTreeSet;
use std::io;

use crate::config::{Config, ProxyPorts};
use crate::conntrack::{Changes, Flows};
use crate::error::Error;
use crate::nft::layout::Branch;
use crate::nft::transaction::{self, Step, Transaction};
use crate::nft::{affinity, observed};
use crate::owner::{ClaimError, Owner};
use crate::ruleset::Nft;
use crate::state::{Family, Service, Slot, State};

/// Looks at learned clients after a change: the second finds those that came in between, the third nobody.
const FORGET_ROUNDS: usize = 3;

/// What a call did to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It was so already.
    None,
    /// Elements were changed.
    Updated,
    /// The whole table was made anew: at the first start, because it was damaged, or because a state needs a chain that
    /// was not there. Clients of session affinity are learned anew.
    Rebuilt,
}

/// The rules of this network namespace, and the only handle on them.
#[derive(Debug)]
pub struct Netfilter {
    config: Config,
    nft: Nft,
    known: Option<Known>,
    _owner: Owner,
}

/// What the kernel is known to have.
#[derive(Debug)]
struct Known {
    state: State,
    branches: BTreeSet<Branch>,
}

impl Netfilter {
    /// Claims the rules and finds out whether this kernel can have them. Nothing is changed yet.
    ///
    /// # Errors
    /// [`Error::Taken`] when another agent has them, [`Error::NoProgram`] and [`Error::Refused`] when this machine
    /// lacks something.
    pub async fn open(config: Config) -> Result<Self, Error> {
        let owner = Owner::claim().map_err(|error| match error {
            ClaimError::Taken(pid) => Error::Taken { pid },
            ClaimError::Io(source) => Error::Claim(source),
        })?;
        let nft = Nft::find().ok_or(Error::NoProgram)?;
        nft.check(&transaction::install(&config, &State::default()).transaction).await?;
        Ok(Self { config, nft, known: None, _owner: owner })
    }

    /// Makes the kernel do `state`, and forget what does not fit it any more.
    ///
    /// # Errors
    /// The kernel has the state before or the new one, and the next call finds out which. With [`Error::Conntrack`] it
    /// has the new one.
    pub async fn apply(&mut self, state: State) -> Result<Change, Error> {
        self.proxied(&state)?;
        // Taken, and put back at the end: a call that is cancelled or fails leaves nothing known.
        let Some(Known { state: before, branches }) = self.known.take() else {
            return self.resync(None, state).await;
        };
        let step = transaction::update(&self.config, &branches, &before, &state);
        if let Err(error) = self.nft.commit(&step.transaction).await {
            tracing::warn!(%error, "the table is not what it was, looking at all of it");
            return self.resync(Some(before), state).await;
        }
        self.finish(Some(before), state, step).await
    }

    /// Compares the kernel with the state that was applied last, and repairs it. To be called now and then: others on
    /// this machine may flush what is not theirs.
    ///
    /// # Errors
    /// As of [`apply`](Self::apply).
    pub async fn verify(&mut self) -> Result<Change, Error> {
        match self.known.take() {
            Some(Known { state, .. }) => self.resync(Some(state.clone()), state).await,
            None => Ok(Change::None),
        }
    }

    /// Takes the table away: the rules are as they were before there was one. Connections through
    /// Services that are open then may end.
    ///
    /// # Errors
    /// The table is still there.
    pub async fn remove(self) -> Result<(), Error> {
        self.nft.commit(&transaction::delete()).await
    }

    async fn resync(&mut self, before: Option<State>, state: State) -> Result<Change, Error> {
        let found = self.nft.list().await?;
        let whole = found.as_ref().and_then(|found| Some((found, found.branches(&self.config)?)));
        let step = match whole {
            Some((found, branches)) => transaction::repair(&self.config, &branches, &found.elements, &state),
            None => transaction::install(&self.config, &state),
        };
        self.nft.commit(&step.transaction).await?;
        self.finish(before, state, step).await
    }

    /// After a commit: nobody is sent to backends that have gone, by what the kernel remembers of clients and flows.
    async fn finish(&mut self, before: Option<State>, state: State, step: Step) -> Result<Change, Error> {
        if before.as_ref().is_none_or(|before| affinity::concerned(before, &state)) {
            self.forget_clients(before.as_ref(), &state).await?;
        }
        let proxy = self.config.proxy;
        let forget = tokio::task::spawn_blocking(move || {
            let forgotten = forget_flows(before.as_ref(), &state, proxy);
            (state, forgotten)
        });
        let (state, forgotten) = forget.await.map_err(|error| Error::Conntrack(io::Error::other(error)))?;
        let change = changed(&step);
        self.known = Some(Known { state, branches: step.branches });
        match forgotten {
            Ok(0) => {}
            Ok(flows) => tracing::debug!(flows, "forgot flows of removed backends"),
            Err(error) => return Err(Error::Conntrack(error)),
        }
        Ok(change)
    }

    /// A connection that began before the commit may be learned after it, hence more than one look.
    async fn forget_clients(&self, before: Option<&State>, state: &State) -> Result<(), Error> {
        for _ in 0..FORGET_ROUNDS {
            let stale = affinity::stale(&self.nft.learned().await?, before, state);
            if stale.is_empty() {
                break;
            }
            let mut transaction = Transaction::default();
            transaction.forget(observed::LEARNED, &stale);
            self.nft.commit(&transaction).await?;
        }
        Ok(())
    }

    fn proxied(&self, state: &State) -> Result<(), Error> {
        if self.config.proxy.is_some() {
            return Ok(());
        }
        let proxied = |service: &Service| service.all_slots().any(|slot| *slot == Slot::Proxy);
        match state.iter().find(|(_, service)| proxied(service)) {
            Some((frontend, _)) => Err(Error::NoProxy(*frontend)),
            None => Ok(()),
        }
    }
}

fn forget_flows(before: Option<&State>, after: &State, proxy: Option<ProxyPorts>) -> io::Result<usize> {
    let changes = Changes::new(before, after, proxy);
    if changes.is_empty() {
        return Ok(0);
    }
    let mut flows = Flows::open()?;
    let mut forgotten = 0;
    for family in Family::ALL {
        forgotten += flows.forget(family, |flow| changes.stale(flow))?;
    }
    Ok(forgotten)
}

fn changed(step: &Step) -> Change {
    match step {
        Step { anew: true, .. } => Change::Rebuilt,
        Step { transaction, .. } if transaction.is_empty() => Change::None,
        Step { .. } => Change::Updated,
    }
}
