//! The environment, command and arguments of a container.
//!
//! The worker calls [`resolve`] before it creates a container. Sources, precedence, expansion and
//! the words of errors are the kubelet's; an error becomes `CreateContainerConfigError` on the
//! container. No IO: objects are read from memory.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, EnvVarSource, Pod, Service};
use skerry_common::kinds;

use crate::fields::{self, Facts};
use crate::objects::Objects;
use crate::pod::spec::PodExt;

/// Why a container cannot be configured now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Problem {
    /// The user must change something.
    Config(String),
    /// The object may still be on its way: the list of its kind is not complete yet.
    Pending(String),
}

impl Problem {
    /// An object that is not there: an error only if its kind's list is complete.
    pub(crate) fn missing(objects: &Objects, kind: &str, text: String) -> Self {
        if objects.in_sync(kind) { Self::Config(text) } else { Self::Pending(text) }
    }

    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Config(text) | Self::Pending(text) => text,
        }
    }
}

/// Names and values, and what was left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Environment {
    pub(crate) values: BTreeMap<String, String>,
    /// Messages for the Event `InvalidVariableNames`.
    pub(crate) skipped: Vec<String>,
}

/// See the module documentation.
pub(crate) fn resolve(
    pod: &Pod,
    container: &Container,
    objects: &Objects,
    facts: &Facts,
) -> Result<Environment, Problem> {
    let mut env = Environment::default();
    let services = service_variables(pod, objects);
    from_sources(pod, container, objects, &mut env)?;
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (_, Some(source)) => match from_reference(pod, container, source, objects, facts)? {
                Some(value) => value,
                None => continue,
            },
            (Some(value), None) => expand(value, |name| env.values.get(name).or_else(|| services.get(name)).cloned()),
            (None, None) => String::new(),
        };
        env.values.insert(variable.name.clone(), value);
    }
    for (name, value) in services {
        env.values.entry(name).or_insert(value);
    }
    Ok(env)
}

fn from_sources(pod: &Pod, container: &Container, objects: &Objects, env: &mut Environment) -> Result<(), Problem> {
    let namespace = pod.namespace();
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        let mut skipped = Vec::new();
        let (kind, name) = if let Some(from) = &source.config_map_ref {
            match objects.config_map(namespace, &from.name) {
                Some(map) => {
                    for (key, value) in map.data.iter().flatten() {
                        take(env, prefix, key, value.clone(), &mut skipped);
                    }
                }
                None if from.optional.unwrap_or(false) => {}
                None => return Err(no_config_map(objects, &from.name)),
            }
            ("configMap", &from.name)
        } else if let Some(from) = &source.secret_ref {
            match objects.secret(namespace, &from.name) {
                Some(secret) => {
                    for (key, value) in secret.data.iter().flatten() {
                        take(env, prefix, key, String::from_utf8_lossy(&value.0).into_owned(), &mut skipped);
                    }
                }
                None if from.optional.unwrap_or(false) => {}
                None => return Err(no_secret(objects, &from.name)),
            }
            ("secret", &from.name)
        } else {
            continue;
        };
        if !skipped.is_empty() {
            env.skipped.push(format!(
                "Keys [{}] from the EnvFrom {kind} {namespace}/{name} were skipped since they are considered invalid environment variable names.",
                skipped.join(", ")
            ));
        }
    }
    Ok(())
}

fn take(env: &mut Environment, prefix: &str, key: &str, value: String, skipped: &mut Vec<String>) {
    let name = format!("{prefix}{key}");
    // What the kernel and every shell can carry; Kubernetes allows all printable ASCII but '='.
    if !name.is_empty() && name.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=') {
        env.values.insert(name, value);
    } else {
        skipped.push(key.to_owned());
    }
}

pub(crate) fn no_config_map(objects: &Objects, name: &str) -> Problem {
    Problem::missing(objects, kinds::CONFIG_MAP, format!("configmap {name:?} not found"))
}

pub(crate) fn no_secret(objects: &Objects, name: &str) -> Problem {
    Problem::missing(objects, kinds::SECRET, format!("secret {name:?} not found"))
}

/// `None`: optional and not there, so the variable is not set.
fn from_reference(
    pod: &Pod,
    container: &Container,
    source: &EnvVarSource,
    objects: &Objects,
    facts: &Facts,
) -> Result<Option<String>, Problem> {
    let namespace = pod.namespace();
    if let Some(selector) = &source.field_ref {
        let value = fields::pod_field(pod, &selector.field_path, facts);
        let why = || Problem::Config(format!("field path {:?} is not supported", selector.field_path));
        return value.map(Some).ok_or_else(why);
    }
    if let Some(selector) = &source.resource_field_ref {
        let value = fields::resource_field(pod, Some(container), selector, facts);
        let why = || Problem::Config(format!("unsupported container resource: {}", selector.resource));
        return value.map(Some).ok_or_else(why);
    }
    if let Some(selector) = &source.config_map_key_ref {
        let optional = selector.optional.unwrap_or(false);
        let Some(map) = objects.config_map(namespace, &selector.name) else {
            return if optional { Ok(None) } else { Err(no_config_map(objects, &selector.name)) };
        };
        let value = map.data.as_ref().and_then(|d| d.get(&selector.key));
        return match value {
            Some(value) => Ok(Some(value.clone())),
            None if optional => Ok(None),
            None => Err(Problem::Config(format!(
                "couldn't find key {} in ConfigMap {namespace}/{}",
                selector.key, selector.name
            ))),
        };
    }
    if let Some(selector) = &source.secret_key_ref {
        let optional = selector.optional.unwrap_or(false);
        let Some(secret) = objects.secret(namespace, &selector.name) else {
            return if optional { Ok(None) } else { Err(no_secret(objects, &selector.name)) };
        };
        let value = secret.data.as_ref().and_then(|d| d.get(&selector.key));
        return match value {
            Some(value) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
            None if optional => Ok(None),
            None => Err(Problem::Config(format!(
                "couldn't find key {} in Secret {namespace}/{}",
                selector.key, selector.name
            ))),
        };
    }
    Err(Problem::Config("invalid valueFrom: no source is set".into()))
}

/// Replaces `$(NAME)`; `$$` is a dollar sign; what is not known stays as it is.
pub(crate) fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|a| a.split_once(')')) {
            match lookup(name) {
                Some(value) => out.push_str(&value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = tail;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

/// Variables for the services of the pod's namespace, and always for the API itself.
fn service_variables(pod: &Pod, objects: &Objects) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    let api = objects.services("default").into_iter().filter(|s| s.metadata.name.as_deref() == Some("kubernetes"));
    let links = pod.spec().enable_service_links.unwrap_or(true);
    let own = if links { objects.services(pod.namespace()) } else { Vec::new() };
    for service in api.chain(own) {
        add_service(&service, &mut env);
    }
    env
}

fn add_service(service: &Service, env: &mut BTreeMap<String, String>) {
    let (Some(name), Some(spec)) = (service.metadata.name.as_deref(), service.spec.as_ref()) else { return };
    let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None") else { return };
    let upper = |s: &str| s.to_uppercase().replace('-', "_");
    let prefix = upper(name);
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    for (index, port) in spec.ports.iter().flatten().enumerate() {
        let number = port.port;
        if index == 0 {
            env.insert(format!("{prefix}_SERVICE_HOST"), ip.to_owned());
            env.insert(format!("{prefix}_SERVICE_PORT"), number.to_string());
        }
        if let Some(port_name) = port.name.as_deref().filter(|n| !n.is_empty()) {
            env.insert(format!("{prefix}_SERVICE_PORT_{}", upper(port_name)), number.to_string());
        }
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let lower = protocol.to_lowercase();
        let url = format!("{lower}://{host}:{number}");
        if index == 0 {
            env.insert(format!("{prefix}_PORT"), url.clone());
        }
        let each = format!("{prefix}_PORT_{number}_{}", protocol.to_uppercase());
        env.insert(each.clone(), url);
        env.insert(format!("{each}_PROTO"), lower);
        env.insert(format!("{each}_PORT"), number.to_string());
        env.insert(format!("{each}_ADDR"), ip.to_owned());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::{Value, json};
    use skerry_common::Key;
    use skerry_hubclient::Change;

    fn objects(in_sync: bool) -> Objects {
        let objects = Objects::default();
        let put = |kind, namespace: &str, name: &str, body: Value| {
            let key = Key::new(namespace, name);
            objects.apply(Change::Upsert { kind, key, body: body.to_string().into() }).unwrap();
        };
        put(kinds::CONFIG_MAP, "ns", "cm", json!({"data": {"k": "v", "a=b": "bad"}}));
        put(kinds::SECRET, "ns", "s", json!({"data": {"k": "c2VjcmV0"}}));
        put(
            kinds::SERVICE,
            "ns",
            "my-db",
            json!({"metadata": {"name": "my-db"}, "spec": {"clusterIP": "10.0.0.9", "ports": [{"name": "sql", "port": 5432}]}}),
        );
        put(kinds::SERVICE, "ns", "none", json!({"metadata": {"name": "none"}, "spec": {"clusterIP": "None"}}));
        if in_sync {
            for kind in [kinds::CONFIG_MAP, kinds::SECRET] {
                objects.apply(Change::InSync { kind }).unwrap();
            }
        }
        objects
    }

    fn run(container: Value, in_sync: bool) -> Result<Environment, Problem> {
        let mut container = container;
        container["name"] = "c".into();
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": {"containers": [container]}
        }))
        .unwrap();
        resolve(&pod, &pod.containers()[0], &objects(in_sync), &Facts::default())
    }

    #[test]
    fn later_sources_win_and_values_expand() {
        let env = run(
            json!({
                "envFrom": [{"prefix": "P_", "configMapRef": {"name": "cm"}}, {"secretRef": {"name": "s"}}],
                "env": [
                    {"name": "A", "value": "1"},
                    {"name": "B", "value": "$(A)-$(P_k)-$(NONE)-$$(A)-$(MY_DB_SERVICE_HOST)"},
                    {"name": "k", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k"}}},
                    {"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "O", "valueFrom": {"secretKeyRef": {"name": "gone", "key": "k", "optional": true}}}
                ]
            }),
            true,
        )
        .unwrap();
        let get = |n: &str| env.values.get(n).map(String::as_str);
        assert_eq!(get("B"), Some("1-v-$(NONE)-$(A)-10.0.0.9"));
        assert_eq!(get("k"), Some("v"));
        assert_eq!(get("N"), Some("p"));
        assert_eq!(get("O"), None);
        assert_eq!(get("MY_DB_PORT_5432_TCP_ADDR"), Some("10.0.0.9"));
        assert_eq!(get("MY_DB_SERVICE_PORT_SQL"), Some("5432"));
        assert_eq!(get("NONE_SERVICE_HOST"), None);
        assert!(env.skipped[0].starts_with("Keys [a=b] from the EnvFrom configMap ns/cm"));
    }

    #[test]
    fn what_is_missing_is_said_as_the_kubelet_says_it() {
        let from = |source: Value| json!({"env": [{"name": "A", "valueFrom": source}]});
        for (container, want) in [
            (from(json!({"configMapKeyRef": {"name": "x", "key": "k"}})), "configmap \"x\" not found"),
            (from(json!({"configMapKeyRef": {"name": "cm", "key": "z"}})), "couldn't find key z in ConfigMap ns/cm"),
            (from(json!({"secretKeyRef": {"name": "x", "key": "k"}})), "secret \"x\" not found"),
            (from(json!({"secretKeyRef": {"name": "s", "key": "z"}})), "couldn't find key z in Secret ns/s"),
            (json!({"envFrom": [{"secretRef": {"name": "x"}}]}), "secret \"x\" not found"),
        ] {
            assert_eq!(run(container, true), Err(Problem::Config(want.into())));
        }
    }

    #[test]
    fn before_the_list_is_complete_nothing_is_missing() {
        let container = json!({"envFrom": [{"secretRef": {"name": "x"}}]});
        assert!(matches!(run(container, false), Err(Problem::Pending(_))));
    }

    #[test]
    fn expansion_follows_the_documented_syntax() {
        let lookup = |n: &str| (n == "A").then(|| "x".to_owned());
        for (text, want) in [
            ("$(A)", "x"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$x"),
            ("$(B)", "$(B)"),
            ("$A", "$A"),
            ("$(A", "$(A"),
            ("a$", "a$"),
            ("$()", "$()"),
            ("", ""),
        ] {
            assert_eq!(expand(text, lookup), want, "{text}");
        }
    }
}
