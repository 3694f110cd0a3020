//! A service as a process would be: in a runtime of its own, which can be stopped in good order or killed.
//!
//! Killed means that every task of it is gone between two of its steps, whatever it was doing; only what it has
//! written is left. Files and sockets are let go of, as the kernel would.

use std::time::Duration;

use anyhow::Context as _;
use skerry_common::drain;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Longest time for a stop in good order, and for a runtime to let go of its threads.
const STOP: Duration = Duration::from_secs(10);

/// See the module documentation. Dropped, it is killed.
pub(crate) struct Part {
    name: &'static str,
    runtime: Option<Runtime>,
    trigger: Option<drain::Trigger>,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Part {
    /// Builds a service and runs it. Returns what the building gave.
    pub(crate) async fn start<T, R, B>(
        name: &'static str,
        build: impl FnOnce(drain::Watch) -> B + Send + 'static,
    ) -> anyhow::Result<(Self, T)>
    where
        T: Send + 'static,
        R: Future<Output = anyhow::Result<()>> + Send + 'static,
        B: Future<Output = anyhow::Result<(T, R)>> + Send + 'static,
    {
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name(name).enable_all().build()?;
        let (trigger, stop) = drain::channel(STOP);
        let (built, made) = oneshot::channel();
        let task = runtime.spawn(async move {
            let (made, run) = build(stop).await?;
            let _ = built.send(made);
            run.await
        });
        let mut part = Self { name, runtime: Some(runtime), trigger: Some(trigger), task };
        match made.await {
            Ok(made) => Ok((part, made)),
            Err(_) => {
                let ended = (&mut part.task).await.context(name)?;
                Err(ended.err().unwrap_or_else(|| anyhow::anyhow!("it ended"))).context(name)
            }
        }
    }

    /// Stops it in good order.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        if let Some(trigger) = self.trigger.take() {
            trigger.drain().await;
        }
        (&mut self.task).await.context(self.name)?.context(self.name)?;
        self.end().await
    }

    /// Ends it at once, as a crash.
    pub(crate) async fn kill(mut self) -> anyhow::Result<()> {
        self.end().await
    }

    /// Whether it has ended by itself, which it must not.
    pub(crate) fn ended(&self) -> bool {
        self.task.is_finished()
    }

    async fn end(&mut self) -> anyhow::Result<()> {
        let Some(runtime) = self.runtime.take() else { return Ok(()) };
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(STOP)).await.context(self.name)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
