//! Security settings of a pod and a container in the runtime's terms. Pure.
//!
//! A container's own setting wins over its pod's. What the runtime cannot do is its error, which the
//! user sees; what must be refused here (`runAsNonRoot`) gives the kubelet's message.

use super::app_armor;
use k8s_openapi::api::core::v1::{AppArmorProfile, Container, Pod, SeccompProfile};
use skerry_proto::cri::v1::security_profile::ProfileType;
use skerry_proto::cri::v1::{
    Capability, IdMapping, Image, Int64Value, LinuxContainerSecurityContext, LinuxSandboxSecurityContext,
    NamespaceMode, NamespaceOption, SeLinuxOption, SecurityProfile, SupplementalGroupsPolicy, UserNamespace,
};

use crate::pod::spec::PodExt;

/// What an unprivileged container does not see of /proc and /sys: the defaults of every runtime.
const MASKED: [&str; 10] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
/// What it sees but cannot write.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
/// Where profiles of type Localhost lie, below the root directory.
const SECCOMP_DIR: &str = "seccomp";

fn number(value: Option<i64>) -> Option<Int64Value> {
    value.map(|value| Int64Value { value })
}

/// Which namespaces the pod's containers share, with each other or with the host.
pub(crate) fn namespaces(pod: &Pod, user_ids: Option<IdMapping>) -> NamespaceOption {
    let spec = pod.spec();
    let host = |wanted: Option<bool>, other: NamespaceMode| {
        if wanted.unwrap_or(false) { NamespaceMode::Node } else { other }.into()
    };
    let shared = spec.share_process_namespace.unwrap_or(false);
    NamespaceOption {
        network: host(spec.host_network, NamespaceMode::Pod),
        pid: host(spec.host_pid, if shared { NamespaceMode::Pod } else { NamespaceMode::Container }),
        ipc: host(spec.host_ipc, NamespaceMode::Pod),
        userns_options: user_ids.map(|ids| UserNamespace {
            mode: NamespaceMode::Pod.into(),
            uids: vec![ids],
            gids: vec![ids],
        }),
        ..NamespaceOption::default()
    }
}

fn groups(pod: &Pod) -> (Vec<i64>, i32) {
    let context = pod.spec().security_context.as_ref();
    let mut groups: Vec<i64> = context.and_then(|c| c.supplemental_groups.clone()).unwrap_or_default();
    groups.extend(context.and_then(|c| c.fs_group));
    let strict = context.and_then(|c| c.supplemental_groups_policy.as_deref()) == Some("Strict");
    let policy = if strict { SupplementalGroupsPolicy::Strict } else { SupplementalGroupsPolicy::Merge };
    (groups, policy.into())
}

fn is_privileged(container: &Container) -> bool {
    container.security_context.as_ref().and_then(|c| c.privileged).unwrap_or(false)
}

/// For the sandbox.
pub(crate) fn of_sandbox(pod: &Pod, user_ids: Option<IdMapping>) -> LinuxSandboxSecurityContext {
    let context = pod.spec().security_context.as_ref();
    let (supplemental_groups, supplemental_groups_policy) = groups(pod);
    let all = pod.containers().iter().chain(pod.init_containers());
    LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod, user_ids)),
        run_as_user: number(context.and_then(|c| c.run_as_user)),
        // Refused by the runtime without a user.
        run_as_group: number(context.filter(|c| c.run_as_user.is_some()).and_then(|c| c.run_as_group)),
        supplemental_groups,
        supplemental_groups_policy,
        privileged: all.into_iter().any(is_privileged),
        // Its own process only waits, whatever the pod's containers need.
        seccomp: Some(profile(ProfileType::RuntimeDefault, String::new())),
        selinux_options: context.and_then(|c| c.se_linux_options.as_ref()).map(selinux),
        ..LinuxSandboxSecurityContext::default()
    }
}

/// For a container whose image is known.
///
/// # Errors
/// The kubelet's message when the container must not run as root but would, or its seccomp profile
/// has no file.
pub(crate) fn of_container(
    pod: &Pod,
    container: &Container,
    image: &Image,
    root: &str,
    user_ids: Option<IdMapping>,
) -> Result<LinuxContainerSecurityContext, String> {
    let of_pod = pod.spec().security_context.as_ref();
    let own = container.security_context.as_ref();
    let privileged = is_privileged(container);
    let user = own.and_then(|c| c.run_as_user).or(of_pod.and_then(|c| c.run_as_user));
    let group = own.and_then(|c| c.run_as_group).or(of_pod.and_then(|c| c.run_as_group));
    let must_not_be_root =
        own.and_then(|c| c.run_as_non_root).or(of_pod.and_then(|c| c.run_as_non_root)).unwrap_or(false);
    let image_user = image.uid.as_ref().map(|u| u.value);
    if must_not_be_root {
        check_not_root(pod, container, user, image_user, &image.username)?;
    }
    let (supplemental_groups, supplemental_groups_policy) = groups(pod);
    let unmasked = privileged || own.and_then(|c| c.proc_mount.as_deref()) == Some("Unmasked");
    let paths = |list: &[&str]| if unmasked { Vec::new() } else { list.iter().map(|p| (*p).to_owned()).collect() };
    let capabilities = own.and_then(|c| c.capabilities.as_ref()).map(|c| Capability {
        add_capabilities: c.add.clone().unwrap_or_default(),
        drop_capabilities: c.drop.clone().unwrap_or_default(),
        add_ambient_capabilities: Vec::new(),
    });
    let filter = own.and_then(|c| c.seccomp_profile.as_ref()).or(of_pod.and_then(|c| c.seccomp_profile.as_ref()));
    let labels = own.and_then(|c| c.se_linux_options.as_ref()).or(of_pod.and_then(|c| c.se_linux_options.as_ref()));
    Ok(LinuxContainerSecurityContext {
        capabilities: capabilities.or_else(|| Some(Capability::default())),
        privileged,
        namespace_options: Some(namespaces(pod, user_ids)),
        selinux_options: labels.map(selinux),
        run_as_user: number(user.or(image_user.filter(|_| group.is_some()))),
        run_as_group: number(group),
        run_as_username: if user.is_none() && image_user.is_none() { image.username.clone() } else { String::new() },
        readonly_rootfs: own.and_then(|c| c.read_only_root_filesystem).unwrap_or(false),
        supplemental_groups,
        supplemental_groups_policy,
        no_new_privs: own.and_then(|c| c.allow_privilege_escalation) == Some(false),
        masked_paths: paths(&MASKED),
        readonly_paths: paths(&READ_ONLY),
        seccomp: Some(if privileged { unconfined() } else { seccomp(filter, root)? }),
        apparmor: app_armor::profile(pod, container).as_ref().map(app_armor_profile),
    })
}

/// Puts a container into the process namespace of another one, unless it shares one with more than that.
pub(crate) fn see_processes_of(context: &mut LinuxContainerSecurityContext, target: Option<String>) {
    let alone = |o: &&mut NamespaceOption| o.pid() == NamespaceMode::Container;
    if let (Some(id), Some(options)) = (target, context.namespace_options.as_mut().filter(alone)) {
        options.set_pid(NamespaceMode::Target);
        options.target_id = id;
    }
}

fn check_not_root(
    pod: &Pod,
    container: &Container,
    user: Option<i64>,
    image_user: Option<i64>,
    image_username: &str,
) -> Result<(), String> {
    let at = format!("(pod: \"{}\", container: {})", pod.full_name(), container.name);
    match (user, image_user) {
        (Some(0), _) => Err(format!("container's runAsUser breaks non-root policy {at}")),
        (Some(_), _) => Ok(()),
        (None, Some(0)) => Err(format!("container has runAsNonRoot and image will run as root {at}")),
        (None, Some(_)) => Ok(()),
        (None, None) if !image_username.is_empty() => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({image_username}), cannot verify user is non-root {at}"
        )),
        (None, None) => Err(format!("container has runAsNonRoot and image will run as root {at}")),
    }
}

fn profile(kind: ProfileType, localhost_ref: String) -> SecurityProfile {
    SecurityProfile { profile_type: kind.into(), localhost_ref }
}

fn unconfined() -> SecurityProfile {
    profile(ProfileType::Unconfined, String::new())
}

fn seccomp(wanted: Option<&SeccompProfile>, root: &str) -> Result<SecurityProfile, String> {
    let Some(wanted) = wanted else { return Ok(unconfined()) };
    match wanted.type_.as_str() {
        "RuntimeDefault" => Ok(profile(ProfileType::RuntimeDefault, String::new())),
        "Localhost" => {
            let name = wanted.localhost_profile.as_deref().unwrap_or_default();
            if name.is_empty() {
                return Err("localhostProfile must be set if seccompProfile type is Localhost.".into());
            }
            if name.starts_with('/') || name.split('/').any(|part| part == "..") {
                return Err(format!("localhostProfile {name:?} must be a path below the node's seccomp directory"));
            }
            Ok(profile(ProfileType::Localhost, format!("{root}/{SECCOMP_DIR}/{name}")))
        }
        _ => Ok(unconfined()),
    }
}

fn app_armor_profile(wanted: &AppArmorProfile) -> SecurityProfile {
    let kind = match wanted.type_.as_str() {
        "Unconfined" => ProfileType::Unconfined,
        "Localhost" => ProfileType::Localhost,
        _ => ProfileType::RuntimeDefault,
    };
    profile(kind, wanted.localhost_profile.clone().unwrap_or_default())
}

fn selinux(options: &k8s_openapi::api::core::v1::SELinuxOptions) -> SeLinuxOption {
    SeLinuxOption {
        user: options.user.clone().unwrap_or_default(),
        role: options.role.clone().unwrap_or_default(),
        r#type: options.type_.clone().unwrap_or_default(),
        level: options.level.clone().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use serde_json::{Value, json};

    fn context(pod: &Value, container: &Value, image: &Image) -> Result<LinuxContainerSecurityContext, String> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
            "spec": {"securityContext": pod, "containers": [{"name": "c", "securityContext": container}]}
        }))
        .unwrap();
        of_container(&pod, &pod.containers()[0], image, "/root", None)
    }

    #[test]
    fn the_container_wins_over_its_pod() {
        let got =
            context(&json!({"runAsUser": 1, "runAsGroup": 2}), &json!({"runAsUser": 3}), &Image::default()).unwrap();
        assert_eq!((got.run_as_user.unwrap().value, got.run_as_group.unwrap().value), (3, 2));
        assert!(!got.masked_paths.is_empty());
        let got = context(&json!({}), &json!({"privileged": true}), &Image::default()).unwrap();
        assert!(got.privileged && got.masked_paths.is_empty());
    }

    #[test]
    fn non_root_is_checked_against_spec_and_image() {
        let image =
            |uid: Option<i64>, name: &str| Image { uid: number(uid), username: name.into(), ..Image::default() };
        let must = json!({"runAsNonRoot": true});
        for (container, image, ok) in [
            (json!({}), image(Some(1000), ""), true),
            (json!({}), image(Some(0), ""), false),
            (json!({}), image(None, ""), false),
            (json!({}), image(None, "nobody"), false),
            (json!({"runAsUser": 5}), image(Some(0), ""), true),
            (json!({"runAsUser": 0}), image(Some(5), ""), false),
            (json!({"runAsNonRoot": false}), image(Some(0), ""), true),
        ] {
            assert_eq!(context(&must, &container, &image).is_ok(), ok, "{container}");
        }
    }

    #[test]
    fn a_seccomp_profile_stays_in_its_directory() {
        let got = |own: Value| context(&json!({}), &own, &Image::default()).map(|c| c.seccomp.unwrap());
        let local = |p: &str| got(json!({"seccompProfile": {"type": "Localhost", "localhostProfile": p}}));
        assert_eq!(local("dir/a.json").unwrap().localhost_ref, "/root/seccomp/dir/a.json");
        for bad in ["", "../a.json", "a/../../b", "/etc/passwd"] {
            assert!(local(bad).is_err(), "{bad}");
        }
        let kind = |own: Value| got(own).unwrap().profile_type();
        assert_eq!(kind(json!({})), ProfileType::Unconfined);
        let default = json!({"type": "RuntimeDefault"});
        assert_eq!(kind(json!({"seccompProfile": default})), ProfileType::RuntimeDefault);
        assert_eq!(kind(json!({"seccompProfile": default, "privileged": true})), ProfileType::Unconfined);
    }

    #[test]
    fn namespaces_and_groups_follow_the_pod() {
        let pod = |spec: Value| -> Pod {
            let mut whole = json!({"containers": [{"name": "c"}]});
            whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
            serde_json::from_value(json!({"metadata": {}, "spec": whole})).unwrap()
        };
        use NamespaceMode::{Container, Node, Pod as OfPod};
        for (spec, network, pid, ipc) in [
            (json!({}), OfPod, Container, OfPod),
            (json!({"shareProcessNamespace": true}), OfPod, OfPod, OfPod),
            (json!({"hostPID": true, "hostIPC": true, "hostNetwork": true}), Node, Node, Node),
        ] {
            let got = namespaces(&pod(spec.clone()), None);
            assert_eq!((got.network(), got.pid(), got.ipc()), (network, pid, ipc), "{spec}");
            assert_eq!(got.userns_options, None);
        }
        let ids = IdMapping { host_id: 65_536, container_id: 0, length: 65_536 };
        let user = namespaces(&pod(json!({})), Some(ids)).userns_options.unwrap();
        assert_eq!((user.mode(), user.uids, user.gids), (OfPod, vec![ids], vec![ids]));
        let of = of_sandbox(
            &pod(
                json!({"securityContext": {"fsGroup": 7, "supplementalGroups": [5], "supplementalGroupsPolicy": "Strict"}}),
            ),
            None,
        );
        assert_eq!(of.supplemental_groups, [5, 7]);
        assert_eq!(of.supplemental_groups_policy(), SupplementalGroupsPolicy::Strict);
    }

    #[test]
    fn capabilities_privileges_and_masks_are_passed_on() {
        let own = json!({"capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]}, "allowPrivilegeEscalation": false,
                         "readOnlyRootFilesystem": true, "seLinuxOptions": {"level": "s0:c1"}});
        let got = context(&json!({}), &own, &Image::default()).unwrap();
        let capabilities = got.capabilities.unwrap();
        assert_eq!(
            (capabilities.add_capabilities, capabilities.drop_capabilities),
            (vec!["NET_ADMIN".into()], vec!["ALL".into()])
        );
        assert!(got.no_new_privs && got.readonly_rootfs && !got.readonly_paths.is_empty());
        assert_eq!(got.selinux_options.unwrap().level, "s0:c1");
        let unmasked = context(&json!({}), &json!({"procMount": "Unmasked"}), &Image::default()).unwrap();
        assert!(unmasked.masked_paths.is_empty() && unmasked.readonly_paths.is_empty() && !unmasked.no_new_privs);
    }
}
