//! Defaults of pod specs, in pods and in templates.
//!
//! Invariant: defaulting twice changes nothing. Limits: none. Stateless.

use serde_json::{Map, Value, json};
use skerry_apimachinery::json::{as_map, default_to, str_at};

/// `0644`
const FILE_MODE: i64 = 420;

/// Fills the defaults of a pod spec.
pub(crate) fn pod_spec(spec: &mut Map<String, Value>) {
    default_to(spec, "restartPolicy", "Always");
    default_to(spec, "dnsPolicy", "ClusterFirst");
    default_to(spec, "terminationGracePeriodSeconds", 30);
    default_to(spec, "schedulerName", "default-scheduler");
    default_to(spec, "securityContext", json!({}));
    // The deprecated name and the new one always agree.
    let account = ["serviceAccountName", "serviceAccount"]
        .iter()
        .find_map(|f| spec.get(*f).and_then(Value::as_str).map(str::to_owned));
    if let Some(account) = account.filter(|a| !a.is_empty()) {
        spec.insert("serviceAccountName".into(), account.clone().into());
        spec.insert("serviceAccount".into(), account.into());
    }
    let host_network = spec.get("hostNetwork") == Some(&Value::Bool(true));
    for field in ["containers", "initContainers", "ephemeralContainers"] {
        for item in items(spec, field) {
            container(as_map(item), host_network);
        }
    }
    for item in items(spec, "volumes") {
        volume(as_map(item));
    }
}

fn items<'m>(map: &'m mut Map<String, Value>, field: &str) -> impl Iterator<Item = &'m mut Value> {
    map.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten().filter(|item| item.is_object())
}

fn container(container: &mut Map<String, Value>, host_network: bool) {
    default_to(container, "terminationMessagePath", "/dev/termination-log");
    default_to(container, "terminationMessagePolicy", "File");
    default_to(container, "resources", json!({}));
    let policy = pull_policy(container.get("image").and_then(Value::as_str).unwrap_or(""));
    default_to(container, "imagePullPolicy", policy);
    for item in items(container, "ports") {
        let port = as_map(item);
        default_to(port, "protocol", "TCP");
        if host_network && let Some(number) = port.get("containerPort").cloned() {
            default_to(port, "hostPort", number);
        }
    }
    for item in items(container, "env") {
        if let Some(field) = item.pointer_mut("/valueFrom/fieldRef") {
            default_to(as_map(field), "apiVersion", "v1");
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(Value::Object(probe)) = container.get_mut(name) else { continue };
        for (field, value) in
            [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
        {
            default_to(probe, field, value);
        }
        http_get(probe);
        if let Some(Value::Object(grpc)) = probe.get_mut("grpc") {
            default_to(grpc, "service", "");
        }
    }
    if let Some(Value::Object(lifecycle)) = container.get_mut("lifecycle") {
        for name in ["postStart", "preStop"] {
            if let Some(Value::Object(handler)) = lifecycle.get_mut(name) {
                http_get(handler);
            }
        }
    }
    // A limit without a request is the request.
    if let Some(Value::Object(resources)) = container.get_mut("resources")
        && let Some(Value::Object(limits)) = resources.get("limits").cloned()
    {
        let requests = as_map(resources.entry("requests").or_insert_with(|| json!({})));
        for (name, amount) in limits {
            requests.entry(name).or_insert(amount);
        }
    }
}

fn http_get(handler: &mut Map<String, Value>) {
    if let Some(Value::Object(get)) = handler.get_mut("httpGet") {
        default_to(get, "path", "/");
        default_to(get, "scheme", "HTTP");
    }
}

/// `Always` for `latest` and for no tag, as Kubernetes does.
fn pull_policy(image: &str) -> &'static str {
    if image.contains('@') {
        return "IfNotPresent";
    }
    let last = image.rsplit('/').next().unwrap_or("");
    match last.split_once(':') {
        None | Some((_, "latest")) => "Always",
        Some(_) => "IfNotPresent",
    }
}

fn volume(volume: &mut Map<String, Value>) {
    if volume.keys().all(|key| key == "name") {
        volume.insert("emptyDir".into(), json!({}));
    }
    for (source, field) in [
        ("configMap", "defaultMode"),
        ("secret", "defaultMode"),
        ("downwardAPI", "defaultMode"),
        ("projected", "defaultMode"),
    ] {
        if let Some(Value::Object(source)) = volume.get_mut(source) {
            default_to(source, field, FILE_MODE);
        }
    }
    if let Some(Value::Object(host)) = volume.get_mut("hostPath") {
        default_to(host, "type", "");
    }
    if let Some(Value::Object(down)) = volume.get_mut("downwardAPI") {
        field_refs(down);
    }
    if let Some(Value::Object(projected)) = volume.get_mut("projected") {
        for source in items(projected, "sources") {
            if let Some(Value::Object(token)) = source.get_mut("serviceAccountToken") {
                default_to(token, "expirationSeconds", 3600);
            }
            if let Some(Value::Object(down)) = source.get_mut("downwardAPI") {
                field_refs(down);
            }
        }
    }
}

fn field_refs(source: &mut Map<String, Value>) {
    for item in items(source, "items") {
        if !str_at(item, "/fieldRef/fieldPath").is_empty()
            && let Some(field) = item.get_mut("fieldRef")
        {
            default_to(as_map(field), "apiVersion", "v1");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pull_policies() {
        for (image, policy) in [
            ("busybox", "Always"),
            ("busybox:latest", "Always"),
            ("busybox:1.36", "IfNotPresent"),
            ("localhost:5000/a/b", "Always"),
            ("localhost:5000/a/b:1", "IfNotPresent"),
            ("a@sha256:00", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }

    #[test]
    fn defaulting_twice_changes_nothing() {
        let mut spec = json!({"hostNetwork": true, "containers": [{"name": "a", "image": "x:1", "ports": [{"containerPort": 80}],
            "livenessProbe": {"httpGet": {"port": 80}}, "resources": {"limits": {"cpu": "1"}}}],
            "volumes": [{"name": "v"}, {"name": "c", "configMap": {"name": "c"}}], "serviceAccountName": "x"});
        pod_spec(as_map(&mut spec));
        assert_eq!(spec.pointer("/containers/0/resources/requests/cpu"), Some(&json!("1")));
        assert_eq!(spec.pointer("/containers/0/ports/0/hostPort"), Some(&json!(80)));
        assert_eq!(spec.pointer("/volumes/0/emptyDir"), Some(&json!({})));
        let once = spec.clone();
        pod_spec(as_map(&mut spec));
        assert_eq!(once, spec);
    }
}
