//! MirrorPod: what the API shows of a pod that a node runs from a file of its own.
//!
//! By the rules of Kubernetes' NodeRestriction: the pod carries the annotation of a mirror pod, is bound to
//! the node that reports it, and refers to no secrets, configuration, claims or service accounts. Its owner
//! is the Node, which is written here whatever the report says. A name that another pod has is not taken.

use serde_json::{Map, Value, json};
use skerry_common::Key;

use skerry_kubesync::{ApiError, Applied, Job, Kind, Verb, of_pod};

use super::Applier;

/// Its value is the uid that the pod has on its node.
const MIRROR: &str = "kubernetes.io/config.mirror";

impl Applier {
    pub(super) async fn mirror_pod(&self, job: &Job) -> Applied {
        self.try_mirror_pod(job).await.unwrap_or_else(|answer| answer)
    }

    async fn try_mirror_pod(&self, job: &Job) -> Result<Applied, Applied> {
        self.allowed(job, Verb::Register, Kind::Pod, &job.key).await?;
        let mut pod = checked(job.node.as_str(), &job.key, &job.body).map_err(Applied::rejected)?;
        self.turn(&self.statuses, job).await?;
        let node = self.api.get(Kind::Node, &Key::new("", job.node.as_str())).await.map_err(|e| Applied::failed(&e))?;
        // Not registered yet, or deleted: the registration that comes before it is on its way.
        let node = node.and_then(|n| n.metadata.uid).ok_or_else(|| Applied::failed(&ApiError::NotFound))?;
        if let Some(meta) = pod.get_mut("metadata").and_then(Value::as_object_mut) {
            let owner = json!({
                "apiVersion": "v1", "kind": "Node", "name": job.node.as_str(), "uid": node, "controller": true
            });
            meta.insert("ownerReferences".to_owned(), json!([owner]));
        }
        match self.api.create(Kind::Pod, &job.key.namespace, pod).await {
            Ok(_) => Ok(Applied::Committed),
            Err(ApiError::AlreadyExists) => {
                self.prove(Kind::Pod, &job.key).await?;
                // Whoever has the name: the node looks at it and knows what to do.
                self.subs.wake(&job.node, Kind::Pod, &job.key);
                Ok(Applied::Committed)
            }
            Err(error) => Err(Applied::failed(&error)),
        }
    }
}

/// The pod without what a node may not say.
fn checked(node: &str, key: &Key, body: &Value) -> Result<Value, String> {
    let meta = body.get("metadata").and_then(Value::as_object).ok_or("the report has no metadata")?;
    let spec = body.get("spec").and_then(Value::as_object).ok_or("the report has no spec")?;
    let text =
        |map: &Map<String, Value>, field: &str| map.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    if text(meta, "name") != *key.name || text(meta, "namespace") != *key.namespace {
        return Err("the name in the body is not the name of the report".to_owned());
    }
    let annotations = meta.get("annotations").and_then(Value::as_object);
    if annotations.is_none_or(|a| text(a, MIRROR).is_empty()) {
        return Err("denied: a node may create mirror pods only".to_owned());
    }
    if text(spec, "nodeName") != node {
        return Err("denied: a mirror pod belongs to its own node".to_owned());
    }
    let refs = of_pod(&key.namespace, &key.name, "", &Value::Object(spec.clone()));
    let others = refs.objects.iter().any(|(kind, _)| !matches!(kind, Kind::Namespace | Kind::RuntimeClass));
    let account = ["serviceAccountName", "serviceAccount"].iter().any(|field| !text(spec, field).is_empty());
    if others || account || !refs.tokens.is_empty() || spec.get("resourceClaims").is_some_and(|c| !c.is_null()) {
        return Err("denied: a mirror pod may not refer to other objects".to_owned());
    }
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": &*key.name, "namespace": &*key.namespace, "annotations": annotations,
            "labels": meta.get("labels").cloned().unwrap_or(Value::Null),
        },
        "spec": spec,
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn body(patch: &Value) -> Value {
        let mut body = json!({
            "metadata": {"name": "web-edge-1", "namespace": "ns", "annotations": {MIRROR: "u"},
                "ownerReferences": [{"kind": "Secret"}], "finalizers": ["x"]},
            "spec": {"nodeName": "edge-1", "containers": [{"name": "c"}]}, "status": {"phase": "Running"}
        });
        json_patch(&mut body, patch);
        body
    }

    fn json_patch(target: &mut Value, patch: &Value) {
        for (key, value) in patch.as_object().unwrap() {
            let pointer = format!("/{}", key.replace('.', "/"));
            match target.pointer_mut(&pointer) {
                Some(place) => *place = value.clone(),
                None => {
                    let (parent, name) = pointer.rsplit_once('/').unwrap();
                    target.pointer_mut(parent).unwrap()[name] = value.clone();
                }
            }
        }
    }

    fn check(patch: Value) -> Result<Value, String> {
        checked("edge-1", &Key::new("ns", "web-edge-1"), &body(&patch))
    }

    #[test]
    fn a_mirror_pod_of_its_own_node_is_taken_and_cut_down() {
        let pod = check(json!({})).unwrap();
        assert_eq!(pod["metadata"]["annotations"][MIRROR], "u");
        for gone in ["ownerReferences", "finalizers"] {
            assert!(pod["metadata"].get(gone).is_none(), "{gone}");
        }
        assert!(pod.get("status").is_none());
    }

    #[test]
    fn everything_else_is_denied() {
        let volume = |source: Value| json!({"spec.volumes": [source]});
        let env = |from: Value| json!({"spec.containers": [{"name": "c", "envFrom": [from]}]});
        for patch in [
            json!({"metadata.annotations": {}}),
            json!({"metadata.name": "other"}),
            json!({"metadata.namespace": "kube-system"}),
            json!({"spec.nodeName": "edge-2"}),
            json!({"spec.nodeName": null}),
            json!({"spec.serviceAccountName": "a"}),
            json!({"spec.serviceAccount": "a"}),
            json!({"spec.imagePullSecrets": [{"name": "s"}]}),
            json!({"spec.resourceClaims": [{"name": "s"}]}),
            volume(json!({"name": "v", "secret": {"secretName": "s"}})),
            volume(json!({"name": "v", "configMap": {"name": "s"}})),
            volume(json!({"name": "v", "persistentVolumeClaim": {"claimName": "s"}})),
            volume(json!({"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}})),
            env(json!({"secretRef": {"name": "s"}})),
            env(json!({"configMapRef": {"name": "s"}})),
        ] {
            assert!(check(patch.clone()).is_err(), "{patch}");
        }
    }
}
