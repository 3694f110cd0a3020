//! Errors of this crate.
//!
//! [`ControllerError`] ends the process or a call of the command line's helpers; what single calls of the
//! API come to is in `api`. Display never contains the cause: print with `skerry_common::chain`.

use std::net::SocketAddr;

/// Why EdgeController could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// No kubeconfig and not in a cluster, or the kubeconfig is wrong: check `kubeconfig`.
    #[error("cannot find the Kubernetes API")]
    KubeConfig(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A call of the Kubernetes API failed for good: check its permissions and that it is reachable.
    #[error("the Kubernetes API refused to {what}")]
    Api {
        /// What was tried.
        what: String,
        /// What it answered.
        #[source]
        source: skerry_kubesync::ApiError,
    },
    /// The CA, a certificate or a credential file is not usable: the source says what to mend.
    #[error("identity: {what}")]
    Identity {
        /// What was tried.
        what: &'static str,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An object that EdgeController keeps in the cluster is damaged: restore or delete it.
    #[error("{object} is damaged: {reason}")]
    Damaged {
        /// Namespace and name.
        object: String,
        /// What is wrong.
        reason: String,
    },
    /// The address is in use or not of this machine: change `listen`.
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

impl ControllerError {
    /// Stable name.
    pub fn code(&self) -> &'static str {
        match self {
            Self::KubeConfig(_) => "kube_config",
            Self::Api { .. } => "api",
            Self::Identity { .. } => "identity",
            Self::Damaged { .. } => "damaged",
            Self::Bind { .. } => "bind",
            Self::Setting { .. } => "setting",
            Self::TaskEnded { .. } => "task_ended",
        }
    }

    pub(crate) fn api(what: impl Into<String>) -> impl FnOnce(skerry_kubesync::ApiError) -> Self {
        let what = what.into();
        move |source| Self::Api { what, source }
    }

    pub(crate) fn identity<E>(what: &'static str) -> impl FnOnce(E) -> Self
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        move |source| Self::Identity { what, source: source.into() }
    }

    pub(crate) fn bind<E>(address: SocketAddr) -> impl FnOnce(E) -> Self
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        move |source| Self::Bind { address: address.to_string(), source: source.into() }
    }
}
