//! Pods from files of this machine: read from a directory, run without any API.
//!
//! One task looks at the directory every [`LOOK`] and sends all pods to the agent when something
//! changed. A pod's uid is a hash of the node's name and of what the file says, so that the same file is
//! the same pod after a restart, and another content is another pod. Invariants: a file that cannot be
//! read or makes no sense changes nothing (the pod that it gave before stays) and is told as an Event; a
//! directory that cannot be read changes nothing at all. Limits: [`MAX_FILES`] files of [`MAX_BYTES`].

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::{Pod, Toleration};
use serde_json::Value;
use skerry_common::{Key, fnv1a};
use tokio::sync::mpsc;

use crate::context::Context;
use crate::events::{Kind, Subject};

use crate::pod::spec::{PodExt, references};

/// Reading the names of a directory costs some microseconds.
const LOOK: Duration = Duration::from_secs(1);
/// A node runs some ten of them.
const MAX_FILES: usize = 256;
/// A manifest larger than this is a mistake.
const MAX_BYTES: u64 = 1 << 20;
/// Where a pod comes from: `file`, or `api`.
const SOURCE: &str = "kubernetes.io/config.source";
/// Marks a mirror pod; its value is the uid of the static pod.
pub(crate) const MIRROR: &str = "kubernetes.io/config.mirror";
/// A hash of the pod as its file has it; the kubelet's name.
const HASH: &str = "kubernetes.io/config.hash";

/// The task's ends.
pub(crate) struct StaticPods {
    pub(crate) context: Arc<Context>,
    pub(crate) dir: PathBuf,
    /// All pods, whenever one of them changed.
    pub(crate) news: mpsc::Sender<Vec<Pod>>,
}

/// What tells whether a file has changed.
type Stamp = (u64, Option<SystemTime>);

impl StaticPods {
    /// Runs until it is dropped or the agent is gone.
    pub(crate) async fn run(self) {
        let mut stamps: Option<BTreeMap<PathBuf, Stamp>> = None;
        let mut known: BTreeMap<PathBuf, Pod> = BTreeMap::new();
        loop {
            match look(&self.dir) {
                Ok(now) if stamps.as_ref() != Some(&now) => {
                    known.retain(|path, _| now.contains_key(path));
                    for path in now.keys() {
                        let same = stamps.as_ref().is_some_and(|s| s.get(path) == now.get(path));
                        match if same { continue } else { read(path, &self.context.node) } {
                            Ok(pod) => drop(known.insert(path.clone(), pod)),
                            Err(why) => self.tell(path, &why),
                        }
                    }
                    stamps = Some(now);
                    if self.news.send(known.values().cloned().collect()).await.is_err() {
                        return;
                    }
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(dir = %self.dir.display(), %error, "static pods not read"),
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn tell(&self, path: &Path, why: &str) {
        let message = format!("the static pod {} cannot be used: {why}", path.display());
        let node = Subject::node(&self.context.node);
        self.context.events.record(&node, Kind::Warning, "InvalidStaticPod", &message);
    }
}

fn look(dir: &Path) -> io::Result<BTreeMap<PathBuf, Stamp>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir)?.take(MAX_FILES) {
        let entry = entry?;
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        // A link may point to a file elsewhere.
        let meta = fs::metadata(entry.path());
        if let Ok(meta) = meta.as_ref()
            && meta.is_file()
            && !hidden
        {
            found.insert(entry.path(), (meta.len(), meta.modified().ok()));
        }
    }
    Ok(found)
}

fn read(path: &Path, node: &str) -> Result<Pod, String> {
    if fs::metadata(path).map_err(|e| e.to_string())?.len() > MAX_BYTES {
        return Err(format!("it is larger than {MAX_BYTES} bytes"));
    }
    let text = fs::read_to_string(path).map_err(|e| e.to_string())?;
    parse(&text, node, &path.display().to_string())
}

/// A pod from the text of a file, in YAML or JSON.
fn parse(text: &str, node: &str, place: &str) -> Result<Pod, String> {
    let value: Value = skerry_common::parse(text, place).map_err(|e| skerry_common::chain(&e))?;
    if value.get("kind").and_then(Value::as_str) != Some("Pod")
        || value.get("apiVersion").and_then(Value::as_str) != Some("v1")
    {
        return Err("it is no Pod of v1".into());
    }
    let mut pod: Pod = serde_json::from_value(value).map_err(|e| e.to_string())?;
    let meta = &mut pod.metadata;
    let name = meta.name.clone().unwrap_or_default();
    if name.is_empty() {
        return Err("it has no name".into());
    }
    meta.name = Some(format!("{name}-{node}"));
    meta.namespace.get_or_insert_with(|| "default".into());
    (meta.managed_fields, meta.resource_version, meta.deletion_timestamp) = (None, None, None);
    (meta.owner_references, meta.generation, pod.status) = (None, None, None);
    let spec = pod.spec.as_mut().ok_or("it has no spec")?;
    if spec.containers.is_empty() {
        return Err("it has no container".into());
    }
    spec.node_name = Some(node.to_owned());
    // Nothing that happens to the Node ends it.
    let every =
        Toleration { operator: Some("Exists".into()), effect: Some("NoExecute".into()), ..Toleration::default() };
    spec.tolerations.get_or_insert_default().push(every);
    let refs = references(&pod);
    let account = pod.spec().service_account_name.as_ref().is_some_and(|a| !a.is_empty());
    if account || refs.tokens || !refs.config_maps.is_empty() || !refs.secrets.is_empty() || !refs.claims.is_empty() {
        return Err("a static pod cannot refer to service accounts, ConfigMaps, Secrets or claims".into());
    }
    Key::checked(pod.namespace(), pod.name()).map_err(|e| e.to_string())?;
    let plain = serde_json::to_string(&pod).map_err(|e| e.to_string())?;
    let uid = format!("{:016x}{:016x}", fnv1a(&[node, &plain]), fnv1a(&[&plain, node, "static"]));
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(HASH.into(), uid.clone());
    annotations.insert(SOURCE.into(), "file".into());
    annotations.remove(MIRROR);
    pod.metadata.uid = Some(uid);
    Ok(pod)
}

/// Whether the pod itself, not its mirror, comes from a file.
pub(crate) fn is_from_file(pod: &Pod) -> bool {
    pod.metadata.annotations.as_ref().and_then(|a| a.get(SOURCE)).is_some_and(|s| s == "file")
}

/// What the API is to show of a static pod.
pub(crate) fn mirror_of(pod: &Pod) -> Pod {
    let mut mirror = pod.clone();
    let uid = mirror.metadata.uid.take().unwrap_or_default();
    mirror.metadata.annotations.get_or_insert_default().insert(MIRROR.into(), uid);
    mirror
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const FILE: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, labels: {a: b}}\nspec:\n  containers: [{name: c, image: i}]\n";

    #[test]
    fn a_file_is_a_pod_of_this_node() {
        let pod = parse(FILE, "edge-1", "f").unwrap();
        assert_eq!(
            (pod.name(), pod.namespace(), pod.spec().node_name.as_deref()),
            ("web-edge-1", "default", Some("edge-1"))
        );
        assert_eq!(pod.uid().len(), 32);
        assert!(crate::objects::uid_is_safe(pod.uid()) && is_from_file(&pod));
        assert_eq!(parse(FILE, "edge-1", "f").unwrap().uid(), pod.uid(), "the same file is the same pod");
        assert_ne!(parse(FILE, "edge-2", "f").unwrap().uid(), pod.uid());
        assert_ne!(parse(&FILE.replace("image: i", "image: j"), "edge-1", "f").unwrap().uid(), pod.uid());
        let mirror = mirror_of(&pod);
        assert_eq!(mirror.metadata.annotations.unwrap().get(MIRROR), pod.metadata.uid.as_ref());
        assert_eq!(mirror.metadata.uid, None);
    }

    #[test]
    fn what_is_no_static_pod_is_refused() {
        let with = |line: &str| format!("{FILE}  {line}\n");
        for bad in [
            "kind: Service\napiVersion: v1\n".to_owned(),
            "{".to_owned(),
            FILE.replace("name: web, ", ""),
            FILE.replace("name: web", "name: ../web"),
            FILE.replace("[{name: c, image: i}]", "[]"),
            with("serviceAccountName: a"),
            with("volumes: [{name: v, secret: {secretName: s}}]"),
            with("volumes: [{name: v, configMap: {name: s}}]"),
        ] {
            assert!(parse(&bad, "edge-1", "f").is_err(), "{bad}");
        }
    }

    #[test]
    fn hidden_files_and_directories_are_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.yaml"), FILE).unwrap();
        fs::write(dir.path().join(".a.yaml.swp"), FILE).unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        assert_eq!(look(dir.path()).unwrap().len(), 1);
        assert!(look(&dir.path().join("none")).is_err(), "nothing is concluded");
    }
}
