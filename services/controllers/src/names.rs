//! Names that controllers give: random suffixes and template hashes, in the alphabet of Kubernetes.
//!
//! The hash is FNV-1a (32 bit) over the template as JSON with sorted keys, so it does not depend on
//! the process, and changes only when the template does.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use rand::RngExt as _;

/// No vowels (no words) and no 0, 1, 3 (they read as letters).
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// Length of a random suffix.
const SUFFIX: usize = 5;
/// Longest name of an object.
const MAX_NAME: usize = 63;

/// The label by which a Deployment tells its ReplicaSets apart.
pub(crate) const POD_TEMPLATE_HASH: &str = "pod-template-hash";

fn letter(n: u32) -> char {
    let index = n as usize % ALPHABET.len();
    ALPHABET.get(index).map_or('b', |b| char::from(*b))
}

/// `<base>-<5 random letters>`, shortened to fit.
pub(crate) fn generate(base: &str) -> String {
    let mut rng = rand::rng();
    let mut name: String = base.chars().take(MAX_NAME - SUFFIX - 1).collect();
    name.push('-');
    name.extend((0..SUFFIX).map(|_| letter(rng.random::<u32>())));
    name
}

/// The hash of a pod template; `collisions` makes another one when two templates collide.
pub(crate) fn template_hash(template: &PodTemplateSpec, collisions: i32) -> String {
    let mut template = template.clone();
    strip_hash(&mut template);
    // A typed template always serializes; if it ever did not, all such templates would share a hash
    // and the collision count would tell them apart.
    let value = serde_json::to_value(&template).unwrap_or_default();
    let mut text = value.to_string();
    if collisions > 0 {
        text.push_str(&collisions.to_string());
    }
    let mut hash: u32 = 0x811c_9dc5;
    for byte in text.bytes() {
        hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    }
    hash.to_string().bytes().map(|digit| letter(u32::from(digit))).collect()
}

/// Removes the hash label, so that templates can be compared.
pub(crate) fn strip_hash(template: &mut PodTemplateSpec) {
    if let Some(meta) = &mut template.metadata {
        if let Some(labels) = &mut meta.labels {
            labels.remove(POD_TEMPLATE_HASH);
            if labels.is_empty() {
                meta.labels = None;
            }
        }
        // The API server may store an empty creationTimestamp in templates; it means nothing.
        meta.creation_timestamp = None;
    }
}

/// Are two templates the same but for the hash label?
pub(crate) fn same_template(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    let (mut a, mut b) = (a.clone(), b.clone());
    strip_hash(&mut a);
    strip_hash(&mut b);
    a == b
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;
    use serde_json::json;

    fn template(image: &str) -> PodTemplateSpec {
        serde_json::from_value(json!({
            "metadata": {"labels": {"app": "a"}},
            "spec": {"containers": [{"name": "c", "image": image}]}
        }))
        .unwrap()
    }

    #[test]
    fn hash_ignores_its_own_label_and_sees_every_change() {
        let a = template("a");
        let mut labelled = a.clone();
        labelled.metadata.as_mut().unwrap().labels.as_mut().unwrap().insert(POD_TEMPLATE_HASH.into(), "x".into());
        assert_eq!(template_hash(&a, 0), template_hash(&labelled, 0));
        assert!(same_template(&a, &labelled));
        assert_ne!(template_hash(&a, 0), template_hash(&template("b"), 0));
        assert_ne!(template_hash(&a, 0), template_hash(&a, 1));
        assert!(!same_template(&a, &template("b")));
    }

    #[test]
    fn names_fit() {
        let name = generate(&"x".repeat(200));
        assert_eq!(name.len(), MAX_NAME);
        assert_ne!(generate("a"), generate("a"));
    }
}
