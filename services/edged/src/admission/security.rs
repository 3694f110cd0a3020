//! What a pod asks of the kernel, and may not have here. Part of [`super`].

use super::{Candidate, Refusal};
use crate::runtime::app_armor;

pub(super) fn sysctls(c: &Candidate<'_>) -> Option<Refusal> {
    c.kernel.sysctls.check(c.pod).err().map(|message| Refusal::new("SysctlForbidden", message))
}

pub(super) fn app_armor(c: &Candidate<'_>) -> Option<Refusal> {
    let missing = app_armor::is_required(c.pod) && !c.kernel.app_armor;
    missing.then(|| Refusal::new("AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host"))
}
