//! What a pod's security context may say.
//!
//! Called with the rest of a pod's validation, also for templates. Whether a node allows it is the
//! node's own decision. Stateless.

use serde_json::Value;
use skerry_apimachinery::FieldError;
use skerry_apimachinery::json::{list_at, str_at};
use std::collections::HashSet;

/// Longest name of a kernel parameter.
const MAX_SYSCTL: usize = 253;
const SYSCTL_RULE: &str = "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
/// Largest user and group.
const MAX_ID: i64 = 2_147_483_647;

/// Validates the pod's own context and those of its containers.
pub(super) fn validate(spec: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let mut seen = HashSet::new();
    for (index, sysctl) in list_at(spec, "/securityContext/sysctls").iter().enumerate() {
        let name = str_at(sysctl, "/name");
        let at = format!("{path}.securityContext.sysctls[{index}].name");
        if name.is_empty() {
            errors.push(FieldError::required(at, ""));
        } else if !is_sysctl(name) {
            errors.push(FieldError::invalid(at, name, SYSCTL_RULE));
        } else if !seen.insert(name) {
            errors.push(FieldError::duplicate(at, name));
        }
    }
    ids(spec, path, errors);
    for field in ["containers", "initContainers"] {
        for (index, container) in list_at(spec, &format!("/{field}")).iter().enumerate() {
            let at = format!("{path}.{field}[{index}]");
            ids(container, &at, errors);
            let context = |name: &str| container.pointer(&format!("/securityContext/{name}"));
            let escalates = context("allowPrivilegeEscalation") == Some(&Value::Bool(false));
            if escalates && context("privileged") == Some(&Value::Bool(true)) {
                let why = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
                errors.push(FieldError::invalid(format!("{at}.securityContext"), "", why));
            }
        }
    }
}

fn ids(object: &Value, at: &str, errors: &mut Vec<FieldError>) {
    for field in ["runAsUser", "runAsGroup", "fsGroup"] {
        let id = object.pointer(&format!("/securityContext/{field}")).and_then(Value::as_i64);
        if let Some(id) = id.filter(|id| !(0..=MAX_ID).contains(id)) {
            let why = "must be between 0 and 2147483647, inclusive";
            errors.push(FieldError::invalid(format!("{at}.securityContext.{field}"), id, why));
        }
    }
}

/// Levels of lower case letters, digits, dashes and underlines, separated by dots or slashes.
fn is_sysctl(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let level = |level: &str| {
        level.starts_with(plain) && level.ends_with(plain) && level.chars().all(|c| plain(c) || c == '-' || c == '_')
    };
    name.len() <= MAX_SYSCTL && name.split(['.', '/']).all(level)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn bad_contexts_are_named() {
        let spec = json!({
            "securityContext": {"runAsUser": -1, "sysctls": [
                {"name": "foo-"}, {"name": "kernel.shmmax"}, {"name": "safe-and-unsafe"}, {"name": "bar.."},
                {"name": "net/ipv4/tcp_syncookies"}, {"name": "kernel.shmmax"}, {"name": ""}
            ]},
            "containers": [{"name": "c", "securityContext": {"privileged": true, "allowPrivilegeEscalation": false}}]
        });
        let mut errors = Vec::new();
        validate(&spec, "spec", &mut errors);
        let fields: Vec<&str> = errors.iter().map(|e| e.field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "spec.securityContext.sysctls[0].name",
                "spec.securityContext.sysctls[3].name",
                "spec.securityContext.sysctls[5].name",
                "spec.securityContext.sysctls[6].name",
                "spec.securityContext.runAsUser",
                "spec.containers[0].securityContext"
            ]
        );
    }
}
