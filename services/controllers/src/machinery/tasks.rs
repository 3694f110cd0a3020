//! The set of all tasks of the controllers.
//!
//! Every task runs until the process stops; one that ends by itself is a defect, and [`Tasks::watch`]
//! returns its name so that the caller can stop the process instead of limping on.

use tokio::task::JoinSet;

/// Named tasks; aborted when dropped.
#[derive(Default)]
pub(crate) struct Tasks {
    set: JoinSet<&'static str>,
}

impl Tasks {
    /// Starts a task that never ends by itself.
    pub(crate) fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.set.spawn(async move {
            task.await;
            name
        });
    }

    /// Waits for the first task that ends, and returns its name.
    pub(crate) async fn watch(&mut self) -> String {
        match self.set.join_next().await {
            Some(Ok(name)) => name.to_owned(),
            Some(Err(error)) => format!("a task that failed: {error}"),
            None => std::future::pending().await,
        }
    }

    /// Aborts all tasks and waits until they are gone.
    pub(crate) async fn abort(&mut self) {
        self.set.shutdown().await;
    }
}
