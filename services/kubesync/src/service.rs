//! A controller as a service: its client, its start, and its tasks beside its server.
//!
//! Called by the controllers' `app`. A task that ends by itself ends the service, which a supervisor starts
//! again; on stop the server drains first, then the tasks are aborted: nobody writes any more by then, what
//! was answered is done and what was not comes again.

use std::path::Path;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use skerry_common::{Backoff, drain};
use tokio::task::JoinSet;

use crate::metrics::Metrics;

/// The service whose certificate callers of a controller must show.
pub const HUB_SERVICE: &str = "cloudhub";

/// How long [`patiently`] waits for an API server that does not answer yet.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// A client of the Kubernetes API of a kubeconfig; without one `KUBECONFIG`, the home folder, or the pod's
/// own account.
///
/// # Errors
/// When there is no configuration of a cluster, or it is wrong.
pub async fn kube_client(kubeconfig: Option<&Path>) -> Result<Client, Box<dyn std::error::Error + Send + Sync>> {
    let config = match kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path)?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?
        }
        None => Config::infer().await?,
    };
    Ok(Client::try_from(config)?)
}

/// Tries again while the API server cannot serve, for a minute. `later` tells of an error what was tried, if
/// trying again can help.
///
/// # Errors
/// The call's own, when it cannot help or the minute is over.
pub async fn patiently<T, E, F, Fut>(mut call: F, later: fn(&E) -> Option<&str>) -> Result<T, E>
where
    E: std::error::Error + 'static,
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(3));
    let started = tokio::time::Instant::now();
    loop {
        match call().await {
            Err(error) if later(&error).is_some() && started.elapsed() < START_PATIENCE => {
                let what = later(&error).unwrap_or_default();
                tracing::warn!(what, error = skerry_common::chain(&error), "the API server does not serve yet");
                tokio::time::sleep(backoff.jittered()).await;
            }
            result => return result,
        }
    }
}

/// A part of a service ended by itself.
#[derive(Debug)]
pub struct TaskEnded {
    /// Its name.
    pub task: &'static str,
    /// How.
    pub reason: String,
}

/// The tasks of a service.
#[derive(Debug, Default)]
pub struct Tasks(JoinSet<&'static str>);

impl Tasks {
    /// Starts one; it must not end.
    pub fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(async move {
            task.await;
            name
        });
    }

    /// Serves until told to stop.
    ///
    /// # Errors
    /// When the server or a task ended by itself.
    pub async fn serve<T, E: std::error::Error + 'static>(
        mut self,
        serve: impl Future<Output = Result<T, E>>,
        mut stop: drain::Watch,
        metrics: &Metrics,
    ) -> Result<(), TaskEnded> {
        tokio::pin!(serve);
        let ended = tokio::select! {
            served = &mut serve => served.map(drop).map_err(|e| TaskEnded {
                task: "server",
                reason: skerry_common::chain(&e),
            }),
            Some(task) = self.0.join_next() => {
                if stop.is_stopping() {
                    let _ = serve.await;
                    Ok(())
                } else {
                    if task.as_ref().is_err_and(tokio::task::JoinError::is_panic) {
                        metrics.panics.inc();
                    }
                    Err(match task {
                        Ok(task) => TaskEnded { task, reason: "it returned".to_owned() },
                        Err(error) => TaskEnded { task: "unknown", reason: error.to_string() },
                    })
                }
            }
        };
        self.0.abort_all();
        if ended.is_ok() {
            drop(stop.stopped().await);
        }
        ended
    }
}
