//! Removes what a pod has on the host: control groups, logs, volumes, its directory, its range of ids.
//!
//! Called on blocking threads, by the worker of a pod whose containers are gone and by the agent for
//! what an earlier process left. Nothing but the uid is needed, since that agent knows no more.
//! Invariants: the pod's directory goes last, because it is how the rest is found after a crash; only
//! logs of that uid are removed. Succeeds when there is nothing.

use std::io;

use crate::context::Context;
use crate::logs;
use crate::volumes::{self, PodDir};

/// See the module documentation.
///
/// # Errors
/// When something is busy or cannot be removed; what could be removed is gone.
pub(crate) fn clean_up(context: &Context, uid: &str) -> io::Result<()> {
    context.cgroups.remove_pod(uid)?;
    logs::remove_pod(&context.log_dir, uid)?;
    volumes::clean_up(&PodDir::new(&context.root, uid))?;
    context.user_namespaces.release(uid);
    Ok(())
}
