//! Images: whether one is here, and fetching it when the policy says so.
//!
//! Called by a pod's worker before it creates a container. Pulls of all pods share a small number of
//! places, so that a node on a thin line finishes one image before the tenth begins; the delay
//! between attempts is the worker's. Reasons, messages and Events are the kubelet's.

use std::time::Instant;

use k8s_openapi::api::core::v1::{Container, Pod};
use skerry_proto::cri::v1::{Image, PodSandboxConfig};
use tokio::sync::Semaphore;

use crate::events::{Events, Kind, Subject};
use crate::pod::memory::Waiting;
use crate::runtime::Cri;

/// Pulls at a time on one node.
pub(crate) const PARALLEL_PULLS: usize = 2;

/// The policy that applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    Always,
    IfNotPresent,
    Never,
}

/// The given policy, or the default: `Always` for the tag `latest` or none.
pub(crate) fn policy(container: &Container) -> Policy {
    match container.image_pull_policy.as_deref() {
        Some("Always") => Policy::Always,
        Some("IfNotPresent") => Policy::IfNotPresent,
        Some("Never") => Policy::Never,
        _ => {
            let image = container.image.as_deref().unwrap_or_default();
            let last = image.rsplit('/').next().unwrap_or_default();
            let tagged = image.contains('@') || (last.contains(':') && !last.ends_with(":latest"));
            if tagged { Policy::IfNotPresent } else { Policy::Always }
        }
    }
}

/// Makes sure that the image is here.
///
/// # Errors
/// What the waiting container shows; the Events are recorded.
pub(crate) async fn ensure(
    cri: &Cri,
    pulls: &Semaphore,
    events: &Events,
    pod: &Pod,
    container: &Container,
    sandbox: PodSandboxConfig,
) -> Result<Image, Waiting> {
    let name = container.image.clone().unwrap_or_default();
    let subject = Subject::container(pod, &container.name);
    let inspect_failed =
        |message: String| Waiting::new("ImageInspectError", format!("Failed to inspect image {name:?}: {message}"));
    if name.is_empty() || name.contains(char::is_whitespace) {
        let message = format!(
            "Failed to apply default image tag {name:?}: couldn't parse image name {name:?}: invalid reference format"
        );
        events.record(&subject, Kind::Warning, "InspectFailed", &message);
        return Err(Waiting::new("InvalidImageName", message));
    }
    let present = cri.image(&name).await.map_err(|s| {
        let waiting = inspect_failed(s.message().to_owned());
        events.record(&subject, Kind::Warning, "InspectFailed", &waiting.message);
        waiting
    })?;
    match (policy(container), present) {
        (Policy::IfNotPresent | Policy::Never, Some(image)) => {
            let message = format!("Container image {name:?} already present on machine");
            events.record(&subject, Kind::Normal, "Pulled", &message);
            return Ok(image);
        }
        (Policy::Never, None) => {
            let message = format!("Container image {name:?} is not present with pull policy of Never");
            events.record(&subject, Kind::Warning, "ErrImageNeverPull", &message);
            return Err(Waiting::new("ErrImageNeverPull", message));
        }
        _ => {}
    }
    let waited = Instant::now();
    let Ok(_place) = pulls.acquire().await else {
        return Err(Waiting::new("ErrImagePull", "the agent is stopping"));
    };
    let began = Instant::now();
    events.record(&subject, Kind::Normal, "Pulling", &format!("Pulling image {name:?}"));
    let pulled = match cri.pull(&name, sandbox).await {
        Ok(_) => cri.image(&name).await,
        Err(status) => Err(status),
    };
    match pulled {
        Ok(Some(image)) => {
            let message = format!(
                "Successfully pulled image {name:?} in {:.3?} ({:.3?} including waiting). Image size: {} bytes.",
                began.elapsed(),
                waited.elapsed(),
                image.size
            );
            events.record(&subject, Kind::Normal, "Pulled", &message);
            Ok(image)
        }
        Ok(None) => Err(inspect_failed("the runtime pulled it and does not know it".into())),
        Err(status) => {
            let message = format!("failed to pull image {name:?}: {}", status.message());
            events.record(
                &subject,
                Kind::Warning,
                "Failed",
                &format!("Failed to pull image {name:?}: {}", status.message()),
            );
            events.record(&subject, Kind::Warning, "Failed", "Error: ErrImagePull");
            Err(Waiting::new("ErrImagePull", message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_policy_depends_on_the_tag() {
        let of = |image: &str, policy_name: Option<&str>| {
            policy(&Container {
                image: Some(image.into()),
                image_pull_policy: policy_name.map(Into::into),
                ..Container::default()
            })
        };
        for (image, want) in [
            ("a", Policy::Always),
            ("a:latest", Policy::Always),
            ("host:5000/a", Policy::Always),
            ("a:1", Policy::IfNotPresent),
            ("host:5000/a:1", Policy::IfNotPresent),
            ("a@sha256:00", Policy::IfNotPresent),
        ] {
            assert_eq!(of(image, None), want, "{image}");
        }
        assert_eq!(of("a", Some("Never")), Policy::Never);
    }
}
