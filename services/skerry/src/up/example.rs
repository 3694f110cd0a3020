//! Applies the objects of a folder, and waits until their pods run.
//!
//! Objects are created, or merged into what is there, in the order of file names and of the documents
//! in a file. What is waited for are the workloads among them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::discovery::{self, Scope};
use kube::{Client, ResourceExt as _};

use crate::failure::{Context as _, Failure, Result};
use crate::kubernetes::failed;

/// How often workloads are looked at.
const POLL: Duration = Duration::from_millis(200);
/// A folder of examples is small; more is the wrong folder.
const MAX_OBJECTS: usize = 500;

/// What `apply` made that can be waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Workload {
    namespace: String,
    name: String,
}

/// Applies every `*.yaml` file of a folder. Returns its Deployments.
pub(crate) async fn apply(client: &Client, folder: &Path) -> Result<Vec<Workload>> {
    let mut workloads = Vec::new();
    for object in read(folder)? {
        let types = object.types.clone().ok_or_else(|| Failure::usage("an object of the example has no kind"))?;
        let name = object.name_any();
        let what = || format!("cannot apply {} {name}", types.kind);
        let gvk = GroupVersionKind::try_from(&types).or_fail(what)?;
        let (resource, capabilities) = discovery::pinned_kind(client, &gvk).await.map_err(failed(what()))?;
        let namespace = object.namespace().unwrap_or_else(|| "default".to_owned());
        let api: Api<DynamicObject> = match capabilities.scope {
            Scope::Cluster => Api::all_with(client.clone(), &resource),
            Scope::Namespaced => Api::namespaced_with(client.clone(), &namespace, &resource),
        };
        match api.create(&PostParams::default(), &object).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 409 => {
                api.patch(&name, &PatchParams::default(), &Patch::Merge(&object)).await.map_err(failed(what()))?;
            }
            Err(error) => return Err(failed(what())(error)),
        }
        if types.kind == "Deployment" {
            workloads.push(Workload { namespace, name });
        }
    }
    Ok(workloads)
}

fn read(folder: &Path) -> Result<Vec<DynamicObject>> {
    let what = || format!("cannot read the example {}", folder.display());
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .or_fail(what)?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml" || e == "yml"))
        .collect();
    files.sort();
    let mut objects: Vec<DynamicObject> = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).or_fail(what)?;
        // As kubectl reads it: `0400` is a file mode.
        let options = serde_saphyr::options! { legacy_octal_numbers: true };
        let found: Vec<DynamicObject> = serde_saphyr::from_multiple_with_options(&text, options)
            .map_err(|error| Failure::usage(what()).cause(error.to_string()))?;
        objects.extend(found);
    }
    if objects.is_empty() || objects.len() > MAX_OBJECTS {
        return Err(Failure::usage(what()).cause(format!("{} objects; 1 to {MAX_OBJECTS} are expected", objects.len())));
    }
    Ok(objects)
}

/// Waits until every Deployment has all its replicas ready; returns how many pods that are.
pub(crate) async fn ready(client: &Client, workloads: &[Workload], patience: Duration) -> Result<i32> {
    let until = tokio::time::Instant::now() + patience;
    let mut pods = 0;
    for workload in workloads {
        let api: Api<Deployment> = Api::namespaced(client.clone(), &workload.namespace);
        loop {
            let deployment = api.get(&workload.name).await.map_err(failed("cannot read a Deployment"))?;
            let wanted = deployment.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
            let status = deployment.status.unwrap_or_default();
            if status.ready_replicas.unwrap_or(0) >= wanted
                && status.observed_generation == deployment.metadata.generation
            {
                pods += wanted;
                break;
            }
            if tokio::time::Instant::now() >= until {
                return Err(Failure::new(format!("Deployment {}/{} is not ready", workload.namespace, workload.name))
                    .cause(why(client, &workload.namespace).await)
                    .cure("kubectl describe pods; the logs are in the directory of up"));
            }
            tokio::time::sleep(POLL).await;
        }
    }
    Ok(pods)
}

/// One line per pod: name, phase, node, address.
pub(crate) async fn pods(client: &Client, workloads: &[Workload]) -> Result<Vec<Pod>> {
    let mut pods = Vec::new();
    let mut namespaces: Vec<_> = workloads.iter().map(|w| w.namespace.as_str()).collect();
    namespaces.dedup();
    for namespace in namespaces {
        let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
        pods.extend(api.list(&ListParams::default()).await.map_err(failed("cannot list pods"))?.items);
    }
    Ok(pods)
}

async fn why(client: &Client, namespace: &str) -> String {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let Ok(pods) = api.list(&ListParams::default()).await else { return "its pods cannot be listed".into() };
    let told: Vec<String> = pods
        .iter()
        .map(|pod| {
            let status = pod.status.clone().unwrap_or_default();
            let waiting = status.container_statuses.into_iter().flatten().find_map(|c| c.state?.waiting);
            let reason =
                waiting.map(|w| format!("{}: {}", w.reason.unwrap_or_default(), w.message.unwrap_or_default()));
            format!("{} is {} {}", pod.name_any(), status.phase.unwrap_or_default(), reason.unwrap_or_default())
        })
        .collect();
    if told.is_empty() { "it has no pods".into() } else { told.join("; ") }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_hello_example_is_read_in_order() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/hello");
        let kinds: Vec<_> = read(&folder).unwrap().into_iter().map(|o| o.types.unwrap().kind).collect();
        assert_eq!(kinds, ["Namespace", "ConfigMap", "Secret", "Deployment", "Service"]);
        let deployment = read(&folder).unwrap().remove(3);
        let mode = deployment.data.pointer("/spec/template/spec/volumes/2/secret/defaultMode");
        assert_eq!(mode.and_then(serde_json::Value::as_i64), Some(0o400));
    }

    #[test]
    fn an_empty_folder_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read(dir.path()).is_err());
    }
}
