//! The errors of the controllers.

/// What can go wrong in the controllers.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The Kubernetes API answered with an error or did not answer. The object is tried again with
    /// backoff; when it lasts, look at the API server.
    #[error("the Kubernetes API refused or failed")]
    Api(#[source] Box<kube::Error>),
    /// The kubeconfig cannot be used: check its path and what it names.
    #[error("the kubeconfig cannot be used")]
    Kubeconfig(#[source] Box<kube::Error>),
    /// An object has a field that no controller can work with, for example a selector with an unknown
    /// operator. Correct the object.
    #[error("{object} cannot be used: {why}")]
    Invalid {
        /// Kind, namespace and name.
        object: String,
        /// What is wrong with it.
        why: String,
    },
    /// The caches are behind our own writes, or somebody else wrote at the same time; tried again.
    #[error("not up to date yet")]
    Stale,
    /// Some of several writes failed; the first failure is the source.
    #[error("{failed} of {total} writes failed")]
    Partly {
        /// Number of writes that failed.
        failed: usize,
        /// Number of writes tried.
        total: usize,
        /// The first failure.
        #[source]
        first: Box<Error>,
    },
    /// A reconcile panicked: a defect. The object is tried again; please report it.
    #[error("reconcile panicked")]
    Panicked,
    /// A reconcile took longer than its deadline, usually because the API server does not answer.
    #[error("reconcile took too long")]
    TooSlow,
    /// A task of the controllers ended although nothing told it to: a defect. Restart the process.
    #[error("task {0} ended unexpectedly")]
    TaskEnded(String),
    /// The tasks did not end before the drain deadline and were aborted.
    #[error("not drained in time")]
    NotDrained,
}

impl Error {
    /// Did somebody else change the object first?
    pub(crate) fn is_conflict(&self) -> bool {
        match self {
            Self::Api(error) => {
                matches!(error.as_ref(), kube::Error::Api(s) if s.is_conflict() && !s.is_already_exists())
            }
            Self::Stale => true,
            Self::Partly { first, .. } => first.is_conflict(),
            _ => false,
        }
    }

    /// Is it something that happens in a healthy system and passes by itself?
    pub(crate) fn is_expected(&self) -> bool {
        self.is_conflict() || self.is_not_found() || self.is_namespace_terminating()
    }

    /// Is the object that was written to gone?
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Api(e) if matches!(e.as_ref(), kube::Error::Api(s) if s.is_not_found()))
    }

    /// Does an object with that name exist already?
    pub(crate) fn is_already_exists(&self) -> bool {
        matches!(self, Self::Api(e) if matches!(e.as_ref(), kube::Error::Api(s) if s.is_already_exists()))
    }

    /// Has the API said no (4xx), so that nothing was written? Otherwise it may have been written.
    pub(crate) fn is_refusal(&self) -> bool {
        let Self::Api(error) = self else { return false };
        matches!(error.as_ref(), kube::Error::Api(s) if (400..500).contains(&s.code) && s.code != 408)
    }

    /// Was a create refused because its namespace is being deleted?
    pub(crate) fn is_namespace_terminating(&self) -> bool {
        let Self::Api(error) = self else { return false };
        let kube::Error::Api(status) = error.as_ref() else { return false };
        status.is_forbidden() && status.message.contains("being terminated")
    }
}

impl From<kube::Error> for Error {
    fn from(error: kube::Error) -> Self {
        Self::Api(Box::new(error))
    }
}

/// For deletes: an object that is gone, or was replaced by another of the same name, is no failure.
pub(crate) fn ignore_gone<T>(result: kube::Result<T>) -> Result<Option<T>, Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(None),
        Err(error) => Err(error.into()),
    }
}
