//! Reading a pod's spec with the defaults that the API server would have filled in.
//!
//! Used everywhere a pod is looked at. Pure.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::LazyLock;

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, PodSpec};

/// What a pod without `terminationGracePeriodSeconds` gets.
const DEFAULT_GRACE_SECONDS: i64 = 30;
const DEFAULT_MESSAGE_PATH: &str = "/dev/termination-log";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

/// Shorthands on a pod.
pub(crate) trait PodExt {
    fn name(&self) -> &str;
    fn namespace(&self) -> &str;
    fn uid(&self) -> &str;
    fn spec(&self) -> &PodSpec;
    fn restart_policy(&self) -> RestartPolicy;
    fn grace_seconds(&self) -> i64;
    fn init_containers(&self) -> &[Container];
    fn containers(&self) -> &[Container];
    /// Containers that were added to debug the pod, as ordinary ones.
    fn ephemeral_containers(&self) -> Vec<Container>;
    /// The container of that name, of whatever sort.
    fn container(&self, name: &str) -> Option<Cow<'_, Container>>;
    fn host_network(&self) -> bool;
    /// What the kubelet writes into messages: `name_namespace(uid)`.
    fn full_name(&self) -> String;
    /// The phase in the API is Succeeded or Failed: such a pod never runs again.
    fn ended_before(&self) -> bool;
}

/// A pod without a spec cannot come from an API server; it is treated as one that wants nothing.
static NO_SPEC: LazyLock<PodSpec> = LazyLock::new(PodSpec::default);

impl PodExt for Pod {
    fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }
    fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or_default()
    }
    fn uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }
    fn spec(&self) -> &PodSpec {
        self.spec.as_ref().unwrap_or(&NO_SPEC)
    }
    fn restart_policy(&self) -> RestartPolicy {
        match self.spec().restart_policy.as_deref() {
            Some("Never") => RestartPolicy::Never,
            Some("OnFailure") => RestartPolicy::OnFailure,
            _ => RestartPolicy::Always,
        }
    }
    fn grace_seconds(&self) -> i64 {
        self.spec().termination_grace_period_seconds.unwrap_or(DEFAULT_GRACE_SECONDS).max(0)
    }
    fn init_containers(&self) -> &[Container] {
        self.spec().init_containers.as_deref().unwrap_or_default()
    }
    fn containers(&self) -> &[Container] {
        &self.spec().containers
    }
    fn ephemeral_containers(&self) -> Vec<Container> {
        self.spec().ephemeral_containers.iter().flatten().map(ordinary).collect()
    }
    fn container(&self, name: &str) -> Option<Cow<'_, Container>> {
        let known = self.containers().iter().chain(self.init_containers()).find(|c| c.name == name);
        let mut ephemeral = self.spec().ephemeral_containers.iter().flatten();
        known.map(Cow::Borrowed).or_else(|| ephemeral.find(|c| c.name == name).map(|c| Cow::Owned(ordinary(c))))
    }
    fn host_network(&self) -> bool {
        self.spec().host_network.unwrap_or(false)
    }
    fn full_name(&self) -> String {
        format!("{}_{}({})", self.name(), self.namespace(), self.uid())
    }
    fn ended_before(&self) -> bool {
        let phase = self.status.as_ref().and_then(|s| s.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    }
}

/// An ephemeral container in the form of the others. What it must not have (ports, probes, hooks,
/// resources) the API server refuses.
fn ordinary(c: &EphemeralContainer) -> Container {
    let c = c.clone();
    Container {
        args: c.args,
        command: c.command,
        env: c.env,
        env_from: c.env_from,
        image: c.image,
        image_pull_policy: c.image_pull_policy,
        name: c.name,
        security_context: c.security_context,
        stdin: c.stdin,
        stdin_once: c.stdin_once,
        termination_message_path: c.termination_message_path,
        termination_message_policy: c.termination_message_policy,
        tty: c.tty,
        volume_devices: c.volume_devices,
        volume_mounts: c.volume_mounts,
        working_dir: c.working_dir,
        ..Container::default()
    }
}

/// The container that an ephemeral one of that name looks at.
pub(crate) fn target<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    let found = pod.spec().ephemeral_containers.iter().flatten().find(|c| c.name == name)?;
    found.target_container_name.as_deref().filter(|target| !target.is_empty())
}

/// An init container that goes on running beside the others.
pub(crate) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

pub(crate) fn message_path(container: &Container) -> &str {
    container.termination_message_path.as_deref().filter(|p| !p.is_empty()).unwrap_or(DEFAULT_MESSAGE_PATH)
}

/// The names that a pod refers to in its own namespace.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct References {
    pub(crate) config_maps: BTreeSet<String>,
    pub(crate) secrets: BTreeSet<String>,
    pub(crate) claims: BTreeSet<String>,
    pub(crate) tokens: bool,
}

pub(crate) fn references(pod: &Pod) -> References {
    let mut refs = References::default();
    let spec = pod.spec();
    let ephemeral = pod.ephemeral_containers();
    for container in spec.init_containers.iter().flatten().chain(&spec.containers).chain(&ephemeral) {
        for from in container.env_from.iter().flatten() {
            refs.config_maps.extend(from.config_map_ref.as_ref().map(|r| r.name.clone()));
            refs.secrets.extend(from.secret_ref.as_ref().map(|r| r.name.clone()));
        }
        for source in container.env.iter().flatten().filter_map(|e| e.value_from.as_ref()) {
            refs.config_maps.extend(source.config_map_key_ref.as_ref().map(|r| r.name.clone()));
            refs.secrets.extend(source.secret_key_ref.as_ref().map(|r| r.name.clone()));
        }
    }
    for volume in spec.volumes.iter().flatten() {
        refs.config_maps.extend(volume.config_map.as_ref().map(|r| r.name.clone()));
        refs.secrets.extend(volume.secret.as_ref().and_then(|r| r.secret_name.clone()));
        refs.claims.extend(volume.persistent_volume_claim.as_ref().map(|r| r.claim_name.clone()));
        // A generic ephemeral volume: the claim has the names of the pod and the volume.
        refs.claims.extend(volume.ephemeral.as_ref().map(|_| format!("{}-{}", pod.name(), volume.name)));
        for source in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
            refs.config_maps.extend(source.config_map.as_ref().map(|r| r.name.clone()));
            refs.secrets.extend(source.secret.as_ref().map(|r| r.name.clone()));
            refs.tokens |= source.service_account_token.is_some();
        }
    }
    refs.secrets.extend(spec.image_pull_secrets.iter().flatten().map(|r| r.name.clone()));
    refs
}
