//! Puts the controllers together and runs them until told to stop.
//!
//! Called by `skerry up`, which runs the whole system in one process, and by the binary of this crate. No
//! leader election: the embedded control plane has one process, and two of these at a time would only cost
//! conflicts, since every write is conditional or has a name that can exist once.
//!
//! Stop: nothing new begins, what has begun may finish for [`FINISH`]; then the tasks are aborted. Whatever was half done is found and finished by the
//! next process, because every controller works from what the API holds.

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use skerry_common::drain;
use skerry_telemetry::Readiness;

use crate::config::Options;
use crate::context::Context;
use crate::error::Error;
use crate::machinery::events::Recorder;
use crate::machinery::tasks::Tasks;
use crate::metrics::Metrics;
use crate::node::{eviction, lifecycle};
use crate::{
    daemonset, deployment, endpoints, gc, job, namespace, namespace_defaults, podgc, replicaset, scheduler, volumes,
};

/// How long a stop waits for what has begun. Shorter than the drain of a process.
const FINISH: Duration = Duration::from_secs(5);

/// The scheduler and all controllers, ready to run.
pub struct Controllers {
    /// The Kubernetes API: any cluster, or a client around the embedded API server's router.
    pub client: Client,
    /// The CA of the API server (PEM), published in every namespace as `kube-root-ca.crt`.
    pub root_ca_pem: String,
    /// Timings and limits.
    pub options: Options,
    /// Counters; `Metrics::default()` when nobody reads them.
    pub metrics: Metrics,
    /// Told when all caches have been filled once; until then nothing is done.
    pub readiness: Readiness,
}

impl std::fmt::Debug for Controllers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Controllers").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Controllers {
    /// Controllers with default options and no metrics.
    pub fn new(client: Client, root_ca_pem: impl Into<String>) -> Self {
        Self {
            client,
            root_ca_pem: root_ca_pem.into(),
            options: Options::default(),
            metrics: Metrics::default(),
            readiness: Readiness::new(),
        }
    }

    /// Runs until `stop` says so.
    ///
    /// # Errors
    /// When a task ends although it should not: a defect, upon which the process should end too.
    pub async fn run(self, mut stop: drain::Watch) -> Result<(), Error> {
        let mut tasks = Tasks::default();
        let (recorder, write_events) = Recorder::new(self.client.clone());
        tasks.spawn("events", write_events);
        let ctx = Context::new(self.client, self.options, self.metrics, recorder);
        let root_ca: Arc<str> = self.root_ca_pem.into();
        scheduler::install(&ctx, &mut tasks);
        deployment::install(&ctx, &mut tasks);
        replicaset::install(&ctx, &mut tasks);
        daemonset::install(&ctx, &mut tasks);
        job::install(&ctx, &mut tasks);
        namespace_defaults::install(&ctx, &mut tasks, root_ca);
        namespace::install(&ctx, &mut tasks);
        endpoints::install(&ctx, &mut tasks);
        gc::install(&ctx, &mut tasks);
        lifecycle::install(&ctx, &mut tasks);
        eviction::install(&ctx, &mut tasks);
        podgc::install(&ctx, &mut tasks);
        volumes::install(&ctx, &mut tasks);
        // Last: handlers see only what comes after they are registered.
        ctx.start_informers(&mut tasks);
        let (filled, synced) = (self.readiness.task("controllers' caches"), ctx.clone());
        tasks.spawn("readiness", async move {
            synced.wait_synced().await;
            filled.ready();
            std::future::pending().await
        });
        tracing::info!("controllers started");
        // The guard is held until the tasks are gone: a drain must not end before them.
        let (result, _guard) = tokio::select! {
            guard = stop.stopped() => (Ok(()), Some(guard)),
            name = tasks.watch() => (Err(Error::TaskEnded(name)), None),
        };
        // Calls that are dropped half way may still be carried out; better to know.
        if result.is_ok() && tokio::time::timeout(FINISH, ctx.gate.write()).await.is_err() {
            tracing::warn!("stopping although some calls have no answer");
        }
        tasks.abort().await;
        tracing::info!("controllers stopped");
        result
    }
}
