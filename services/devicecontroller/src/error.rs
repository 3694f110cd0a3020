//! Errors of this crate. Display never contains the cause: print with `skerry_common::chain`.

use skerry_kubesync::{ApiError, TaskEnded};

/// Why DeviceController could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum DeviceControllerError {
    /// No kubeconfig and not in a cluster, or the kubeconfig is wrong: check `kubeconfig`.
    #[error("cannot find the Kubernetes API")]
    KubeConfig(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The Kubernetes API cannot be read: check its permissions and that it is reachable.
    #[error("the Kubernetes API refused to list the leases of nodes")]
    Api(#[source] ApiError),
    /// The certificate is not usable: EdgeController issues it, see `credentials`.
    #[error("the credentials cannot be used")]
    Credentials(#[source] skerry_identity::IdentityError),
    /// The folder has no credentials: EdgeController keeps them there when its `credentials` names the folder.
    #[error("there are no credentials in {0}")]
    NoCredentials(String),
    /// The address is in use or not of this machine: change it.
    #[error("cannot bind {address}")]
    Bind {
        /// The address.
        address: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A setting is out of its range.
    #[error("setting {name}: {reason}")]
    Setting {
        /// Which one.
        name: &'static str,
        /// Why it was refused.
        reason: String,
    },
    /// A task that must not end has ended. The process should exit and be started again.
    #[error("task {task} ended: {reason}")]
    TaskEnded {
        /// Its name.
        task: &'static str,
        /// How.
        reason: String,
    },
}

impl DeviceControllerError {
    /// Stable name.
    pub fn code(&self) -> &'static str {
        match self {
            Self::KubeConfig(_) => "kube_config",
            Self::Api(_) => "api",
            Self::Credentials(_) | Self::NoCredentials(_) => "credentials",
            Self::Bind { .. } => "bind",
            Self::Setting { .. } => "setting",
            Self::TaskEnded { .. } => "task_ended",
        }
    }
}

impl From<TaskEnded> for DeviceControllerError {
    fn from(TaskEnded { task, reason }: TaskEnded) -> Self {
        Self::TaskEnded { task, reason }
    }
}
