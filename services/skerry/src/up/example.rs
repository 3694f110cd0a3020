//! Applies the objects of a folder, and waits until their pods run and their devices are read.
//!
//! Objects are created, or merged into what is there, in the order of file names and of the documents
//! in a file. What is waited for are the workloads and devices among them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::discovery::{self, Scope};
use kube::{Client, ResourceExt as _};
use serde_json::Value;

use crate::failure::{Context as _, Failure, Result};
use crate::kubernetes::failed;
use crate::runtime::MAPPER_IMAGE;

/// How often workloads are looked at.
const POLL: Duration = Duration::from_millis(200);
/// Values of a device that are shown.
const SHOWN: usize = 4;
/// A folder of examples is small; more is the wrong folder.
const MAX_OBJECTS: usize = 500;

/// What `apply` made that can be waited for.
#[derive(Debug, Clone)]
pub(crate) struct Made {
    kind: Kind,
    namespace: String,
    name: String,
    /// The object's, or for a Device that of its DeviceStatus.
    api: Api<DynamicObject>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Deployment,
    DaemonSet,
    Device,
}

impl Made {
    /// How many pods or devices are there, when all are.
    fn complete(&self, object: &DynamicObject) -> Option<i64> {
        let status = |field: &str| object.data.pointer(&format!("/status/{field}"));
        let number = |field: &str| status(field).and_then(Value::as_i64);
        let current = number("observedGeneration") == object.metadata.generation;
        match self.kind {
            Kind::Deployment => {
                let wanted = object.data.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
                (current && number("readyReplicas").unwrap_or(0) >= wanted).then_some(wanted)
            }
            Kind::DaemonSet => {
                let wanted = number("desiredNumberScheduled")?;
                (current && number("numberReady").unwrap_or(0) >= wanted).then_some(wanted)
            }
            Kind::Device => (!values(object).is_empty()).then_some(1),
        }
    }
}

/// What a DeviceStatus says of the device's properties.
fn values(status: &DynamicObject) -> Vec<(String, String)> {
    let twins = status.data.pointer("/status/twins").and_then(Value::as_array).into_iter().flatten();
    let text = |twin: &Value, at: &str| twin.pointer(at).and_then(Value::as_str).map(str::to_owned);
    let value = |twin| Some((text(twin, "/propertyName")?, text(twin, "/reported/value").filter(|v| !v.is_empty())?));
    twins.filter_map(value).collect()
}

/// Applies every `*.yaml` file of a folder. Returns what can be waited for.
pub(crate) async fn apply(client: &Client, folder: &Path) -> Result<Vec<Made>> {
    let mut made = Vec::new();
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
        let (kind, api) = match types.kind.as_str() {
            "Deployment" => (Kind::Deployment, api),
            "DaemonSet" => (Kind::DaemonSet, api),
            "Device" => {
                let gvk = GroupVersionKind::gvk(&gvk.group, &gvk.version, "DeviceStatus");
                let (resource, _) = discovery::pinned_kind(client, &gvk).await.map_err(failed(what()))?;
                (Kind::Device, Api::namespaced_with(client.clone(), &namespace, &resource))
            }
            _ => continue,
        };
        made.push(Made { kind, namespace, name, api });
    }
    Ok(made)
}

/// Protocols of the mappers whose images the objects of the folders name.
pub(crate) fn mappers(folders: &[PathBuf]) -> Result<BTreeSet<String>> {
    fn find(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::String(text) => {
                let protocol = text.strip_prefix(MAPPER_IMAGE).and_then(|rest| rest.split(':').next());
                found.extend(protocol.map(str::to_owned));
            }
            Value::Array(list) => list.iter().for_each(|v| find(v, found)),
            Value::Object(fields) => fields.values().for_each(|v| find(v, found)),
            _ => {}
        }
    }
    let mut found = BTreeSet::new();
    for folder in folders {
        read(folder)?.iter().for_each(|object| find(&object.data, &mut found));
    }
    Ok(found)
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

/// Waits until every pod of the workloads is ready and every device was read; returns how many that are.
pub(crate) async fn ready(made: &[Made], client: &Client, patience: Duration) -> Result<(i64, i64)> {
    let until = tokio::time::Instant::now() + patience;
    let (mut pods, mut devices) = (0, 0);
    for one in made {
        let count = loop {
            let object = one.api.get_opt(&one.name).await.map_err(failed(format!("cannot read {:?}", one.kind)))?;
            if let Some(count) = object.and_then(|object| one.complete(&object)) {
                break count;
            }
            if tokio::time::Instant::now() >= until {
                let failure = Failure::new(format!("{:?} {}/{} is not ready", one.kind, one.namespace, one.name));
                return Err(if one.kind == Kind::Device {
                    failure.cure(format!("kubectl describe device -n {} {}", one.namespace, one.name))
                } else {
                    failure
                        .cause(why(client, &one.namespace).await)
                        .cure("kubectl describe pods; the logs are in the directory of up")
                });
            }
            tokio::time::sleep(POLL).await;
        };
        *if one.kind == Kind::Device { &mut devices } else { &mut pods } += count;
    }
    Ok((pods, devices))
}

/// One line per device: its name, and the first of its values.
pub(crate) async fn devices(made: &[Made]) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for device in made.iter().filter(|m| m.kind == Kind::Device) {
        let status = device.api.get(&device.name).await.map_err(failed("cannot read a DeviceStatus"))?;
        let state = status.data.pointer("/status/state").and_then(Value::as_str).unwrap_or_default();
        let values: Vec<_> =
            values(&status).into_iter().take(SHOWN).map(|(name, value)| format!("{name}={value}")).collect();
        lines.push(format!("{}/{}   {state}   {}", device.namespace, device.name, values.join("  ")));
    }
    Ok(lines)
}

/// One line per pod: name, phase, node, address.
pub(crate) async fn pods(made: &[Made], client: &Client) -> Result<Vec<Pod>> {
    let mut pods = Vec::new();
    let workloads = made.iter().filter(|m| m.kind != Kind::Device);
    let namespaces: BTreeSet<&str> = workloads.map(|w| w.namespace.as_str()).collect();
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
    fn the_modbus_example_wants_its_mapper() {
        let folder = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(name);
        assert_eq!(mappers(&[folder("hello"), folder("modbus")]).unwrap(), BTreeSet::from(["modbus".to_owned()]));
    }

    #[test]
    fn an_empty_folder_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read(dir.path()).is_err());
    }
}
