//! AppArmor: a pod that asks for a profile runs only where the kernel enforces it. Pure but for
//! [`is_enabled`].

use std::fs;

use k8s_openapi::api::core::v1::{AppArmorProfile, Container, Pod};

use crate::pod::spec::PodExt;

/// Before there was a field: one annotation per container.
const ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";

/// Whether the kernel of this machine has it switched on.
pub(crate) fn is_enabled() -> bool {
    fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|v| v.trim().eq_ignore_ascii_case("y"))
}

/// The profile of a container: its own field, its annotation, its pod's field.
pub(crate) fn profile(pod: &Pod, container: &Container) -> Option<AppArmorProfile> {
    let own = container.security_context.as_ref().and_then(|c| c.app_armor_profile.clone());
    let of_pod = || pod.spec().security_context.as_ref().and_then(|c| c.app_armor_profile.clone());
    own.or_else(|| annotated(pod, &container.name)).or_else(of_pod)
}

fn annotated(pod: &Pod, container: &str) -> Option<AppArmorProfile> {
    let text = pod.metadata.annotations.as_ref()?.get(&format!("{ANNOTATION}{container}"))?;
    let (type_, localhost_profile) = match text.as_str() {
        "runtime/default" => ("RuntimeDefault", None),
        "unconfined" => ("Unconfined", None),
        other => ("Localhost", Some(other.strip_prefix("localhost/")?.to_owned())),
    };
    Some(AppArmorProfile { type_: type_.into(), localhost_profile })
}

/// Whether a container of the pod asks for a profile.
pub(crate) fn is_required(pod: &Pod) -> bool {
    let all = pod.containers().iter().chain(pod.init_containers());
    all.into_iter().filter_map(|c| profile(pod, c)).any(|p| p.type_ != "Unconfined")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use serde_json::{Value, json};

    fn pod(annotation: Option<&str>, of_pod: Value, own: Value) -> Pod {
        let context = |profile: Value| json!({"appArmorProfile": profile});
        let annotations = annotation.map(|a| json!({ (format!("{ANNOTATION}c")): a }));
        serde_json::from_value(json!({
            "metadata": {"annotations": annotations},
            "spec": {"securityContext": context(of_pod), "containers": [{"name": "c", "securityContext": context(own)}]}
        }))
        .unwrap()
    }

    #[test]
    fn the_container_wins_over_annotation_and_pod() {
        let typed = |t: &str| json!({"type": t});
        for (annotation, of_pod, own, want) in [
            (None, Value::Null, Value::Null, None),
            (None, typed("RuntimeDefault"), Value::Null, Some("RuntimeDefault")),
            (Some("unconfined"), typed("RuntimeDefault"), Value::Null, Some("Unconfined")),
            (Some("localhost/x"), typed("RuntimeDefault"), typed("Unconfined"), Some("Unconfined")),
            (Some("runtime/default"), Value::Null, Value::Null, Some("RuntimeDefault")),
        ] {
            let pod = pod(annotation, of_pod, own);
            let got = profile(&pod, &pod.containers()[0]);
            assert_eq!(got.as_ref().map(|p| p.type_.as_str()), want, "{annotation:?}");
            assert_eq!(is_required(&pod), want.is_some_and(|w| w != "Unconfined"));
        }
        let local = pod(Some("localhost/x"), Value::Null, Value::Null);
        assert_eq!(profile(&local, &local.containers()[0]).unwrap().localhost_profile.as_deref(), Some("x"));
    }
}
