//! Several services in one process, with one end for all.
//!
//! `skerry cloud` and `skerry edge` spawn each service as a named task. A task that ends before it
//! was told to is a failure of the process, never a log line: the process drains and ends, and its
//! supervisor starts it again. SIGTERM or SIGINT drains; what is not done by the deadline is dropped.

use std::net::SocketAddr;
use std::time::Duration;

use skerry_common::{drain, shutdown};
use skerry_telemetry::admin::Admin;
use skerry_telemetry::{Readiness, Registry};
use tokio::task::JoinSet;

use crate::failure::{Context as _, Failure, Result};

/// The tasks of one process.
pub(crate) struct Tasks {
    set: JoinSet<(&'static str, Result<()>)>,
    trigger: drain::Trigger,
    watch: drain::Watch,
}

impl Tasks {
    /// No tasks yet. All of them together may take `deadline` to stop.
    pub(crate) fn new(deadline: Duration) -> Self {
        let (trigger, watch) = drain::channel(deadline);
        Self { set: JoinSet::new(), trigger, watch }
    }

    /// What tells a task to stop.
    pub(crate) fn stop(&self) -> drain::Watch {
        self.watch.clone()
    }

    /// Adds a task.
    pub(crate) fn spawn(&mut self, name: &'static str, task: impl Future<Output = Result<()>> + Send + 'static) {
        self.set.spawn(async move { (name, task.await) });
    }

    /// Adds an admin server for a service, and gives what the service counts with. The server answers
    /// until the deadline of the drain, so that the end of a process can be watched.
    pub(crate) async fn admin(&mut self, address: SocketAddr) -> Result<(Registry, Readiness)> {
        let (registry, readiness) = (Registry::new(), Readiness::new());
        let admin = Admin::bind(address, registry.clone(), readiness.clone()).await.map_err(|error| {
            Failure::usage("cannot start an admin server").because(&error).cure("stop who uses the port, or change it")
        })?;
        let mut stop = self.watch.clone();
        let ready = readiness.clone();
        tokio::spawn(admin.serve(async move {
            drop(stop.stopped().await);
            ready.drain();
            stop.forced().await;
        }));
        Ok((registry, readiness))
    }

    /// Waits for a signal or for a task that ends, whichever is first; then stops everything.
    pub(crate) async fn run(mut self) -> Result<()> {
        let outcome = tokio::select! {
            signal = shutdown::requested() => {
                let signal = signal.or_fail(|| "cannot listen for signals".into())?;
                tracing::info!(signal, "stopping");
                Ok(())
            }
            Some(ended) = self.set.join_next() => Err(match ended {
                Ok((name, Ok(()))) => Failure::new(format!("{name} ended without being told to")),
                Ok((name, Err(failure))) => Failure::new(format!("{name} failed")).cause(failure.line()),
                Err(error) => Failure::new("a service failed").because(&error),
            }),
        };
        if let Err(failure) = &outcome {
            tracing::error!(%failure, "stopping");
        }
        skerry_common::notify::notify("STOPPING=1");
        if self.trigger.drain().await == drain::Drained::Forced {
            tracing::warn!("not everything stopped in time");
        }
        // What is left is cut off here: the deadline is over.
        while let Some(ended) = self.set.try_join_next() {
            if let Ok((name, Err(failure))) = ended {
                tracing::warn!(name, %failure, "a service failed while it stopped");
            }
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_task_that_ends_is_a_failure_and_stops_the_others() {
        let mut tasks = Tasks::new(Duration::from_secs(5));
        let mut stop = tasks.stop();
        let (told, heard) = tokio::sync::oneshot::channel();
        tasks.spawn("steady", async move {
            let _guard = stop.stopped().await;
            let _ = told.send(());
            Ok(())
        });
        tasks.spawn("broken", async { Err(Failure::new("no disk").cause("gone")) });
        let failure = tasks.run().await.unwrap_err().to_string();
        assert_eq!(failure, "error: broken failed: no disk: gone");
        heard.await.unwrap();
    }
}
