//! Images: whether one is here, fetching it when the policy says so, and which may go again.
//!
//! [`ensure`] is called by a pod's worker before it creates a container; the delay between attempts is
//! the worker's. [`pull`] keeps pulls few and moving, [`keyring`] finds credentials, [`gc`] decides
//! what may be removed. Reasons, messages and Events are the kubelet's.

mod gc;
mod keyring;
mod pull;
mod reference;

pub(crate) use gc::{Ages, InUse, to_free};
pub(crate) use pull::Pulls;

use std::sync::Arc;
use std::time::Instant;

use k8s_openapi::api::core::v1::{Container, Pod};
use skerry_proto::cri::v1::{AuthConfig, Image, PodSandboxConfig};
use tonic::Status;

use crate::context::Context;
use crate::events::{Kind, Subject};
use crate::pod::memory::Waiting;
use crate::pod::spec::PodExt;
use keyring::Keyring;
use reference::Reference;

/// Reason of a failed pull whose cause is the image or the credentials.
pub(crate) const ERR_PULL: &str = "ErrImagePull";
/// Reason of a failed pull whose cause is that nobody answers.
pub(crate) const REGISTRY_UNAVAILABLE: &str = "RegistryUnavailable";

/// Whether the reason of a waiting container is that of a pull that has just failed.
pub(crate) fn is_pull_error(reason: &str) -> bool {
    matches!(reason, ERR_PULL | REGISTRY_UNAVAILABLE)
}

/// What a runtime says when a registry is not there, in the words of the network's library. A name that
/// nobody knows is not among them: it is wrong, or was never right.
const UNAVAILABLE: [&str; 10] = [
    "connection refused",
    "connection reset",
    "network is unreachable",
    "no route to host",
    "i/o timeout",
    "TLS handshake timeout",
    "server misbehaving",
    "502 Bad Gateway",
    "503 Service Unavailable",
    "504 Gateway",
];
/// What it says when what arrived is not what the manifest names.
const CORRUPT: [&str; 6] = [
    "unexpected commit digest",
    "failed size validation",
    "unexpected EOF",
    "invalid tar header",
    "invalid header",
    "failed to extract layer",
];

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
            match Reference::parse(image) {
                Some(r) if !r.digest.is_empty() || r.tag != "latest" => Policy::IfNotPresent,
                _ => Policy::Always,
            }
        }
    }
}

/// One container's wish for an image.
struct Wish<'a> {
    context: &'a Arc<Context>,
    pod: &'a Pod,
    subject: Subject,
    name: String,
}

/// Makes sure that the image is here.
///
/// # Errors
/// What the waiting container shows; the Events are recorded.
pub(crate) async fn ensure(
    context: &Arc<Context>,
    pod: &Pod,
    container: &Container,
    sandbox: PodSandboxConfig,
) -> Result<Image, Waiting> {
    let name = container.image.clone().unwrap_or_default();
    let wish = Wish { context, pod, subject: Subject::container(pod, &container.name), name };
    let name = &wish.name;
    let Some(reference) = Reference::parse(name) else {
        let message = format!(
            "Failed to apply default image tag {name:?}: couldn't parse image name {name:?}: invalid reference format"
        );
        wish.warn("InspectFailed", &message);
        return Err(Waiting::new("InvalidImageName", message));
    };
    let policy = policy(container);
    match (policy, wish.present().await?) {
        (Policy::IfNotPresent | Policy::Never, Some(image)) => {
            wish.say("Pulled", &format!("Container image {name:?} already present on machine"));
            Ok(image)
        }
        (Policy::Never, None) => {
            let message = format!("Container image {name:?} is not present with pull policy of Never");
            wish.warn("ErrImageNeverPull", &message);
            Err(Waiting::new("ErrImageNeverPull", message))
        }
        _ => wish.pull(&reference, policy, sandbox).await,
    }
}

impl Wish<'_> {
    fn say(&self, reason: &str, message: &str) {
        self.context.events.record(&self.subject, Kind::Normal, reason, message);
    }

    fn warn(&self, reason: &str, message: &str) {
        self.context.events.record(&self.subject, Kind::Warning, reason, message);
    }

    fn inspect_failed(&self, why: &str) -> Waiting {
        let waiting = Waiting::new("ImageInspectError", format!("Failed to inspect image {:?}: {why}", self.name));
        self.warn("InspectFailed", &waiting.message);
        waiting
    }

    async fn present(&self) -> Result<Option<Image>, Waiting> {
        self.context.cri.image(&self.name).await.map_err(|s| self.inspect_failed(s.message()))
    }

    async fn pull(&self, reference: &Reference, policy: Policy, sandbox: PodSandboxConfig) -> Result<Image, Waiting> {
        let (context, name) = (self.context, &self.name);
        let credentials = self.credentials(reference);
        let waited = Instant::now();
        let Some(place) = context.pulls.place().await else {
            return Err(Waiting::new(ERR_PULL, "the agent is stopping"));
        };
        // Another pod may have fetched it meanwhile.
        if policy == Policy::IfNotPresent
            && let Some(image) = self.present().await?
        {
            self.say("Pulled", &format!("Container image {name:?} already present on machine"));
            return Ok(image);
        }
        let began = Instant::now();
        self.say("Pulling", &format!("Pulling image {name:?}"));
        let image_root = context.stats.image_root(context).await;
        match context.pulls.pull(&context.cri, name, &sandbox, credentials, image_root, place).await {
            Ok(_) => {
                let image = self.present().await?;
                let image = image.ok_or_else(|| self.inspect_failed("the runtime pulled it and does not know it"))?;
                let message = format!(
                    "Successfully pulled image {name:?} in {:.3?} ({:.3?} including waiting). Image size: {} bytes.",
                    began.elapsed(),
                    waited.elapsed(),
                    image.size
                );
                self.say("Pulled", &message);
                Ok(image)
            }
            Err(status) => {
                let waiting = explain(name, &status);
                self.warn("Failed", &format!("Failed to pull image {name:?}: {}", status.message()));
                self.warn("Failed", &format!("Error: {}", waiting.reason));
                Err(waiting)
            }
        }
    }

    /// Credentials from the pod's pull secrets that fit the image.
    fn credentials(&self, reference: &Reference) -> Vec<AuthConfig> {
        let mut keyring = Keyring::default();
        let mut missing = Vec::new();
        for secret in self.pod.spec().image_pull_secrets.iter().flatten() {
            match self.context.objects.secret(self.pod.namespace(), &secret.name) {
                Some(found) => {
                    if let Err(why) = keyring.add(&found) {
                        self.warn("FailedToRetrieveImagePullSecret", &format!("Secret {}: {why}", secret.name));
                    }
                }
                None => missing.push(secret.name.as_str()),
            }
        }
        if !missing.is_empty() {
            let message = format!(
                "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                missing.join(", ")
            );
            self.warn("FailedToRetrieveImagePullSecret", &message);
        }
        keyring.find(reference)
    }
}

/// Reason and message for the container that waits.
fn explain(name: &str, status: &Status) -> Waiting {
    let text = status.message();
    let has = |words: &[&str]| words.iter().any(|w| text.contains(w));
    if has(&UNAVAILABLE) {
        return Waiting::new(
            REGISTRY_UNAVAILABLE,
            format!("image pull failed for {name} because the registry is unavailable: {text}"),
        );
    }
    if has(&CORRUPT) {
        let why = "what the registry sent is corrupt";
        return Waiting::new(ERR_PULL, format!("failed to pull image {name:?}: {why}: {text}"));
    }
    Waiting::new(ERR_PULL, format!("failed to pull image {name:?}: {text}"))
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
        let digest = format!("a@sha256:{}", "0".repeat(64));
        for (image, want) in [
            ("a", Policy::Always),
            ("a:latest", Policy::Always),
            ("host:5000/a", Policy::Always),
            ("a:1", Policy::IfNotPresent),
            ("host:5000/a:1", Policy::IfNotPresent),
            (digest.as_str(), Policy::IfNotPresent),
        ] {
            assert_eq!(of(image, None), want, "{image}");
        }
        assert_eq!(of("a", Some("Never")), Policy::Never);
    }

    #[test]
    fn the_cause_of_a_failed_pull_is_named() {
        let of = |text: &str| explain("a:1", &Status::unknown(text));
        assert_eq!(of("dial tcp 1.2.3.4:443: connect: connection refused").reason, REGISTRY_UNAVAILABLE);
        let corrupt = of("failed commit on ref \"layer\": unexpected commit digest sha256:1, expected sha256:2");
        assert_eq!(corrupt.reason, ERR_PULL);
        assert!(corrupt.message.contains("corrupt"));
        assert_eq!(of("dial tcp: lookup registry.invalid: no such host").reason, ERR_PULL);
        assert_eq!(of("not found").message, "failed to pull image \"a:1\": not found");
    }
}
