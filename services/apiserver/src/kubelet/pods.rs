//! A pod's log, exec, attach and port-forward as paths of its node's kubelet. Pure but for the lookup.
//!
//! Options are those of the API (`PodLogOptions`, `PodExecOptions`, ...); the kubelet has other names for
//! some. Which container is meant when none is named is decided here, with Kubernetes' words.

use std::borrow::Cow;

use form_urlencoded::Serializer;
use serde_json::Value;
use skerry_apimachinery::json::{list_at, str_at};
use skerry_apimachinery::{About, ApiError, ResourcePath};

use crate::state::Api;

/// A stored pod.
#[derive(Debug)]
pub(super) struct Pod {
    namespace: String,
    name: String,
    value: Value,
}

type Pair<'a> = (Cow<'a, str>, Cow<'a, str>);

fn pairs(query: &str) -> impl Iterator<Item = Pair<'_>> {
    form_urlencoded::parse(query.as_bytes())
}

fn is_set(value: &str) -> bool {
    !matches!(value, "false" | "0")
}

impl Pod {
    pub(super) fn find(api: &Api, path: &ResourcePath) -> Result<Self, ApiError> {
        let missing = || ApiError::NotFound(About::new("", "pods", &path.name));
        let entry = api.storage.get("/pods", &path.namespace, &path.name).ok_or_else(missing)?;
        Ok(Self { namespace: path.namespace.clone(), name: path.name.clone(), value: entry.value() })
    }

    /// The node that it is bound to.
    pub(super) fn node(&self) -> Option<String> {
        Some(str_at(&self.value, "/spec/nodeName").to_owned()).filter(|node| !node.is_empty())
    }

    pub(super) fn host(&self) -> Result<String, ApiError> {
        let name = &self.name;
        self.node().ok_or_else(|| ApiError::BadRequest(format!("pod {name} does not have a host assigned")))
    }

    fn path(&self, what: &str, container: Option<&str>, query: &str) -> String {
        let container = container.map(|c| format!("/{c}")).unwrap_or_default();
        let query = if query.is_empty() { String::new() } else { format!("?{query}") };
        format!("/{what}/{}/{}{container}{query}", self.namespace, self.name)
    }

    /// The container that is meant.
    fn container(&self, query: &str) -> Result<String, ApiError> {
        let named = pairs(query).find(|(name, value)| name == "container" && !value.is_empty()).map(|(_, v)| v);
        let names =
            |list: &str| -> Vec<&str> { list_at(&self.value, list).iter().map(|c| str_at(c, "/name")).collect() };
        let (plain, init) = (names("/spec/containers"), names("/spec/initContainers"));
        let name = &self.name;
        if let Some(named) = named {
            let ephemeral = names("/spec/ephemeralContainers");
            if plain.iter().chain(&init).chain(&ephemeral).any(|c| **c == named) {
                return Ok(named.into_owned());
            }
            return Err(ApiError::BadRequest(format!("container {named} is not valid for pod {name}")));
        }
        match plain.as_slice() {
            [only] => Ok((*only).to_owned()),
            [] => Err(ApiError::BadRequest(format!("a container name must be specified for pod {name}"))),
            many => {
                let mut text =
                    format!("a container name must be specified for pod {name}, choose one of: [{}]", many.join(" "));
                if !init.is_empty() {
                    text = format!("{text} or one of the init containers: [{}]", init.join(" "));
                }
                Err(ApiError::BadRequest(text))
            }
        }
    }

    pub(super) fn log(&self, query: &str) -> Result<String, ApiError> {
        const PASSED: [&str; 8] =
            ["follow", "previous", "sinceSeconds", "sinceTime", "timestamps", "tailLines", "limitBytes", "stream"];
        let container = self.container(query)?;
        let mut out = Serializer::new(String::new());
        out.extend_pairs(pairs(query).filter(|(name, _)| PASSED.contains(&&**name)));
        Ok(self.path("containerLogs", Some(&container), &out.finish()))
    }

    pub(super) fn exec(&self, query: &str) -> Result<String, ApiError> {
        let container = self.container(query)?;
        let mut out = streams(query);
        out.extend_pairs(pairs(query).filter(|(name, _)| name == "command"));
        Ok(self.path("exec", Some(&container), &out.finish()))
    }

    pub(super) fn attach(&self, query: &str) -> Result<String, ApiError> {
        let container = self.container(query)?;
        Ok(self.path("attach", Some(&container), &streams(query).finish()))
    }

    pub(super) fn port_forward(&self, query: &str) -> String {
        let mut out = Serializer::new(String::new());
        out.extend_pairs(pairs(query).filter(|(name, _)| name == "ports").map(|(_, value)| ("port", value)));
        self.path("portForward", None, &out.finish())
    }
}

fn streams(query: &str) -> Serializer<'static, String> {
    const NAMES: [(&str, &str); 4] = [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")];
    let mut out = Serializer::new(String::new());
    for (name, theirs) in NAMES {
        if pairs(query).any(|(n, value)| n == name && is_set(&value)) {
            out.append_pair(theirs, "1");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn pod(containers: &[&str], init: &[&str]) -> Pod {
        let list = |names: &[&str]| names.iter().map(|n| json!({"name": n})).collect::<Vec<_>>();
        let spec = json!({"containers": list(containers), "initContainers": list(init),
            "ephemeralContainers": [{"name": "debug"}]});
        Pod { namespace: "a".into(), name: "p".into(), value: json!({"spec": spec}) }
    }

    #[test]
    fn options_in_the_kubelets_words() {
        let pod = pod(&["c"], &[]);
        assert_eq!(
            pod.exec("stdin=true&stdout=1&stderr=false&command=sh&command=-c&command=a%20%26b").unwrap(),
            "/exec/a/p/c?input=1&output=1&command=sh&command=-c&command=a+%26b"
        );
        assert_eq!(pod.attach("container=debug&stdout=true&tty=true").unwrap(), "/attach/a/p/debug?output=1&tty=1");
        assert_eq!(pod.port_forward("ports=80&ports=443"), "/portForward/a/p?port=80&port=443");
        assert_eq!(pod.port_forward(""), "/portForward/a/p");
        assert_eq!(
            pod.log("follow=true&tailLines=3&pretty=1&container=c").unwrap(),
            "/containerLogs/a/p/c?follow=true&tailLines=3"
        );
    }

    #[test]
    fn which_container() {
        let said = |pod: &Pod, query: &str| pod.log(query).unwrap_err().to_string();
        let two = pod(&["c", "d"], &["i"]);
        assert_eq!(
            said(&two, ""),
            "a container name must be specified for pod p, choose one of: [c d] or one of the init containers: [i]"
        );
        assert_eq!(said(&two, "container=x"), "container x is not valid for pod p");
        // A name is one of the pod's or nothing: it cannot make another path.
        assert_eq!(said(&two, "container=..%2F..%2Fpods"), "container ../../pods is not valid for pod p");
        assert_eq!(two.log("container=i").unwrap(), "/containerLogs/a/p/i");
        assert_eq!(said(&pod(&[], &[]), ""), "a container name must be specified for pod p");
        assert_eq!(two.host().unwrap_err().to_string(), "pod p does not have a host assigned");
    }
}
