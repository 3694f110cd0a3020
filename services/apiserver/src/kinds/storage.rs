//! Volumes, their classes and drivers, runtime classes and device claims: defaults, and what is fixed.
//!
//! Called by the tables of [`super`]. Nothing here binds, attaches or allocates: that is the business of
//! controllers. Invariants: those of [`super`]. Limits: none. Stateless.

use serde_json::{Value, json};
use skerry_apimachinery::FieldError;
use skerry_apimachinery::json::{as_map, default_to, map_mut, str_at};

/// Fields by storage that cannot change once an object exists, with Kubernetes' words for it.
const FIXED: &[(&str, &[&str])] = &[
    ("node.k8s.io/runtimeclasses", &["handler"]),
    ("resource.k8s.io/resourceclaims", &["spec"]),
    ("resource.k8s.io/resourceclaimtemplates", &["spec"]),
    ("resource.k8s.io/resourceslices", &["spec.driver", "spec.nodeName"]),
    ("storage.k8s.io/csistoragecapacities", &["storageClassName", "nodeTopology"]),
    ("storage.k8s.io/storageclasses", &["provisioner", "parameters", "reclaimPolicy", "volumeBindingMode"]),
    ("storage.k8s.io/volumeattachments", &["spec"]),
    ("storage.k8s.io/volumeattributesclasses", &["driverName", "parameters"]),
    ("/persistentvolumes", &["spec.hostPath", "spec.local", "spec.csi", "spec.nfs", "spec.volumeMode"]),
    ("/persistentvolumeclaims", &["spec.accessModes", "spec.selector", "spec.volumeMode", "spec.dataSource"]),
];

/// Fields by storage that must be there.
const REQUIRED: &[(&str, &str)] = &[
    ("node.k8s.io/runtimeclasses", "handler"),
    ("resource.k8s.io/resourceslices", "spec.driver"),
    ("storage.k8s.io/csistoragecapacities", "storageClassName"),
    ("storage.k8s.io/storageclasses", "provisioner"),
    ("storage.k8s.io/volumeattachments", "spec.attacher"),
    ("storage.k8s.io/volumeattachments", "spec.nodeName"),
    ("storage.k8s.io/volumeattributesclasses", "driverName"),
];

pub(super) fn defaults(storage: &str, object: &mut Value) {
    match storage {
        "/persistentvolumes" => {
            let spec = map_mut(object, &["spec"]);
            default_to(spec, "persistentVolumeReclaimPolicy", "Retain");
            default_to(spec, "volumeMode", "Filesystem");
        }
        "/persistentvolumeclaims" => default_to(map_mut(object, &["spec"]), "volumeMode", "Filesystem"),
        "storage.k8s.io/storageclasses" => {
            let map = as_map(object);
            default_to(map, "reclaimPolicy", "Delete");
            default_to(map, "volumeBindingMode", "Immediate");
        }
        "storage.k8s.io/csidrivers" => {
            let spec = map_mut(object, &["spec"]);
            default_to(spec, "attachRequired", true);
            default_to(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
            for flag in ["podInfoOnMount", "requiresRepublish", "seLinuxMount", "storageCapacity"] {
                default_to(spec, flag, false);
            }
            default_to(spec, "volumeLifecycleModes", json!(["Persistent"]));
        }
        _ => {}
    }
}

pub(super) fn validate(storage: &str, object: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    let pointer = |field: &str| format!("/{}", field.replace('.', "/"));
    for (_, field) in REQUIRED.iter().filter(|(of, _)| *of == storage) {
        if str_at(object, &pointer(field)).is_empty() {
            errors.push(FieldError::required(*field, ""));
        }
    }
    let Some(old) = old else { return };
    for field in FIXED.iter().filter(|(of, _)| *of == storage).flat_map(|(_, fields)| *fields) {
        let value = object.pointer(&pointer(field));
        if value != old.pointer(&pointer(field)) {
            errors.push(FieldError::invalid(*field, value.cloned().unwrap_or_default(), "field is immutable"));
        }
    }
    // A claim is bound once.
    if storage == "/persistentvolumeclaims" {
        let (before, after) = (str_at(old, "/spec/volumeName"), str_at(object, "/spec/volumeName"));
        if !before.is_empty() && before != after {
            errors.push(FieldError::invalid("spec.volumeName", after, "field is immutable"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(storage: &str, object: &Value, old: Option<&Value>) -> Vec<String> {
        let mut errors = Vec::new();
        validate(storage, object, old, &mut errors);
        errors.into_iter().map(|e| e.field).collect()
    }

    #[test]
    fn what_is_fixed_cannot_change_and_the_rest_can() {
        let class = json!({"provisioner": "p", "parameters": {"a": "b"}, "allowVolumeExpansion": false});
        let mut new = class.clone();
        as_map(&mut new).insert("allowVolumeExpansion".into(), true.into());
        assert!(faults("storage.k8s.io/storageclasses", &new, Some(&class)).is_empty());
        as_map(&mut new).insert("provisioner".into(), "q".into());
        assert_eq!(faults("storage.k8s.io/storageclasses", &new, Some(&class)), ["provisioner"]);
        assert_eq!(faults("storage.k8s.io/storageclasses", &json!({}), None), ["provisioner"]);
        let (one, two) =
            (json!({"spec": {"attacher": "a", "nodeName": "n"}}), json!({"spec": {"attacher": "a", "nodeName": "m"}}));
        assert_eq!(faults("storage.k8s.io/volumeattachments", &two, Some(&one)), ["spec"]);
    }

    #[test]
    fn a_claim_is_bound_once() {
        let claim =
            |volume: &str| json!({"spec": {"volumeName": volume, "resources": {"requests": {"storage": "1Gi"}}}});
        let storage = "/persistentvolumeclaims";
        assert!(faults(storage, &claim("a"), Some(&claim(""))).is_empty());
        assert_eq!(faults(storage, &claim("b"), Some(&claim("a"))), ["spec.volumeName"]);
    }
}
