//! Stopping: who is still working, how long may they, and what then.
//!
//! [`channel`] gives one [`Trigger`] and a [`Watch`] that every part of a process clones. A part that
//! must finish its work keeps a [`Guard`]; [`Trigger::drain`] tells all watches to stop, waits until
//! the last guard is gone or the deadline is over, and then tells those who are left to stop at once
//! ([`Watch::forced`]). The deadline lives here and nowhere else.

use std::time::Duration;

use tokio::sync::{mpsc, watch};

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// Every guard was released in time.
    Clean,
    /// The deadline passed; what was left was told to stop at once.
    Forced,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Phase {
    Running,
    Draining,
    Forced,
}

/// Starts the drain. Dropping it is the same as a forced stop.
#[derive(Debug)]
#[must_use]
pub struct Trigger {
    phase: watch::Sender<Phase>,
    alive: mpsc::Receiver<()>,
    // Until the drain begins, so that watches can make guards at any time.
    first: Guard,
    deadline: Duration,
}

/// Tells when to stop. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Watch {
    phase: watch::Receiver<Phase>,
    alive: mpsc::WeakSender<()>,
}

/// While it lives, the drain waits for its owner.
#[derive(Debug)]
#[must_use]
pub struct Guard(#[allow(dead_code, reason = "held for its drop")] Option<mpsc::Sender<()>>);

/// A trigger and its watch. The drain may take at most `deadline`.
pub fn channel(deadline: Duration) -> (Trigger, Watch) {
    let (phase_tx, phase_rx) = watch::channel(Phase::Running);
    let (alive_tx, alive_rx) = mpsc::channel(1);
    let watch = Watch { phase: phase_rx, alive: alive_tx.downgrade() };
    (Trigger { phase: phase_tx, alive: alive_rx, first: Guard(Some(alive_tx)), deadline }, watch)
}

impl Trigger {
    /// Tells every watch to stop and waits for the guards, at most for the deadline.
    pub async fn drain(mut self) -> Drained {
        self.phase.send_replace(Phase::Draining);
        drop(self.first);
        if tokio::time::timeout(self.deadline, self.alive.recv()).await.is_ok() {
            Drained::Clean
        } else {
            self.phase.send_replace(Phase::Forced);
            Drained::Forced
        }
    }
}

impl Watch {
    /// Resolves when the process is asked to stop. The guard keeps the drain waiting.
    pub async fn stopped(&mut self) -> Guard {
        let guard = self.guard();
        // An error means that the trigger is gone, which is a stop as well.
        let _ = self.phase.wait_for(|phase| *phase >= Phase::Draining).await;
        guard
    }

    /// Resolves when the deadline is over and nothing may be waited for any more.
    pub async fn forced(&mut self) {
        let _ = self.phase.wait_for(|phase| *phase >= Phase::Forced).await;
    }

    /// Whether a stop was asked for.
    pub fn is_stopping(&self) -> bool {
        *self.phase.borrow() >= Phase::Draining || self.phase.has_changed().is_err()
    }

    /// Keeps the drain waiting until it is dropped.
    pub fn guard(&self) -> Guard {
        Guard(self.alive.upgrade())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_drain_waits_for_guards() {
        let (trigger, mut watch) = channel(Duration::from_secs(30));
        let guard = watch.guard();
        let worker = tokio::spawn(async move {
            let _guard = watch.stopped().await;
            drop(guard);
            tokio::time::sleep(Duration::from_secs(10)).await;
        });
        tokio::task::yield_now().await;
        let started = tokio::time::Instant::now();
        assert_eq!(trigger.drain().await, Drained::Clean);
        assert_eq!(started.elapsed(), Duration::from_secs(10));
        assert!(worker.await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_ends_at_its_deadline() {
        let (trigger, mut watch) = channel(Duration::from_secs(30));
        let guard = watch.guard();
        let started = tokio::time::Instant::now();
        assert_eq!(trigger.drain().await, Drained::Forced);
        assert_eq!(started.elapsed(), Duration::from_secs(30));
        watch.forced().await;
        drop(guard);
    }

    #[tokio::test]
    async fn a_lost_trigger_is_a_stop() {
        let (trigger, mut watch) = channel(Duration::from_secs(30));
        drop(trigger);
        let _guard = watch.stopped().await;
        assert!(watch.is_stopping());
    }
}
