//! A Deployment and its ReplicaSets as the rollout arithmetic sees them.
//!
//! Pure. Everything that the other modules of this folder compute with is read from the API objects
//! here, with Kubernetes' defaults for what is not set.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::names::same_template;
use crate::pods::name;

/// Number of the rollout that a ReplicaSet stands for.
pub(crate) const REVISION: &str = "deployment.kubernetes.io/revision";
/// Earlier numbers of the same ReplicaSet.
pub(crate) const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// Replicas of the Deployment when the ReplicaSet was last scaled.
pub(crate) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
/// The same plus surge.
pub(crate) const MAX: &str = "deployment.kubernetes.io/max-replicas";
/// kubectl's memory of the last apply, which is about the Deployment only.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// One ReplicaSet.
#[derive(Debug, Clone)]
pub(crate) struct Set {
    pub(crate) object: Arc<ReplicaSet>,
    pub(crate) created: Option<Timestamp>,
    /// spec.replicas
    pub(crate) replicas: i32,
    /// status.replicas
    pub(crate) actual: i32,
    pub(crate) ready: i32,
    pub(crate) available: i32,
    pub(crate) revision: i64,
    pub(crate) desired: Option<i32>,
    pub(crate) max: Option<i32>,
}

fn annotation<'a>(annotations: Option<&'a BTreeMap<String, String>>, key: &str) -> Option<&'a str> {
    annotations.and_then(|a| a.get(key)).map(String::as_str)
}

impl Set {
    fn new(object: &Arc<ReplicaSet>) -> Self {
        let annotations = object.metadata.annotations.as_ref();
        let number = |key| annotation(annotations, key).and_then(|v| v.parse().ok());
        let status = object.status.clone().unwrap_or_default();
        Self {
            created: object.metadata.creation_timestamp.as_ref().map(|t| t.0),
            replicas: object.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1),
            actual: status.replicas,
            ready: status.ready_replicas.unwrap_or(0),
            available: status.available_replicas.unwrap_or(0),
            revision: annotation(annotations, REVISION).and_then(|v| v.parse().ok()).unwrap_or(0),
            desired: number(DESIRED),
            max: number(MAX),
            object: object.clone(),
        }
    }

    pub(crate) fn name(&self) -> &str {
        name(self.object.as_ref())
    }
}

/// The Deployment with its sets, oldest first.
pub(crate) struct View<'a> {
    pub(crate) deployment: &'a Deployment,
    pub(crate) replicas: i32,
    pub(crate) max_surge: i32,
    pub(crate) max_unavailable: i32,
    pub(crate) rolling: bool,
    /// The set that has the Deployment's template.
    pub(crate) new: Option<Set>,
    pub(crate) old: Vec<Set>,
}

/// A number or a percentage of `total`. Nonsense is 0.
pub(crate) fn scaled_value(value: Option<&IntOrString>, default: &str, total: i32, round_up: bool) -> i32 {
    let percent = |text: &str| -> i32 {
        let Some(percent) = text.strip_suffix('%').and_then(|p| p.parse::<i64>().ok()) else { return 0 };
        let product = percent.max(0).saturating_mul(i64::from(total));
        let value = if round_up { product.saturating_add(99) / 100 } else { product / 100 };
        i32::try_from(value).unwrap_or(i32::MAX)
    };
    match value {
        Some(IntOrString::Int(n)) => (*n).max(0),
        Some(IntOrString::String(text)) => percent(text),
        None => percent(default),
    }
}

impl<'a> View<'a> {
    pub(crate) fn new(deployment: &'a Deployment, sets: &[Arc<ReplicaSet>]) -> Self {
        let spec = deployment.spec.clone().unwrap_or_default();
        let replicas = spec.replicas.unwrap_or(1).max(0);
        let strategy = spec.strategy.unwrap_or_default();
        let rolling = strategy.type_.as_deref() != Some("Recreate");
        let update = strategy.rolling_update.unwrap_or_default();
        let (mut surge, mut unavailable) = (
            scaled_value(update.max_surge.as_ref(), "25%", replicas, true),
            scaled_value(update.max_unavailable.as_ref(), "25%", replicas, false).min(replicas),
        );
        if !rolling {
            (surge, unavailable) = (0, 0);
        } else if surge == 0 && unavailable == 0 {
            // Otherwise nothing could ever move; both round to 0 with few replicas.
            unavailable = 1;
        }
        let mut all: Vec<Set> = sets.iter().map(Set::new).collect();
        all.sort_by(|a, b| (a.created, a.name()).cmp(&(b.created, b.name())));
        let is_new = |s: &Set| {
            let template = s.object.spec.as_ref().and_then(|s| s.template.as_ref());
            template.is_some_and(|t| same_template(t, &spec.template))
        };
        let new = all.iter().position(is_new).map(|i| all.remove(i));
        Self { deployment, replicas, max_surge: surge, max_unavailable: unavailable, rolling, new, old: all }
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Set> {
        self.old.iter().chain(self.new.as_ref())
    }

    /// Sum of spec.replicas of all sets.
    pub(crate) fn total(&self) -> i32 {
        self.all().map(|s| s.replicas).sum()
    }

    /// Annotations that every set gets when it is scaled.
    pub(crate) fn scale_annotations(&self) -> BTreeMap<String, String> {
        BTreeMap::from([
            (DESIRED.to_owned(), self.replicas.to_string()),
            (MAX.to_owned(), self.replicas.saturating_add(self.max_surge).to_string()),
        ])
    }

    /// Annotations of the new set with revision number `revision`.
    pub(crate) fn new_set_annotations(&self, revision: i64) -> BTreeMap<String, String> {
        let mut annotations = self.deployment.metadata.annotations.clone().unwrap_or_default();
        for own in [REVISION, REVISION_HISTORY, DESIRED, MAX, LAST_APPLIED] {
            annotations.remove(own);
        }
        annotations.insert(REVISION.to_owned(), revision.to_string());
        if let Some(new) = &self.new
            && new.revision != revision
            && new.revision > 0
        {
            let earlier = annotation(new.object.metadata.annotations.as_ref(), REVISION_HISTORY).unwrap_or_default();
            let mut history: Vec<String> = earlier.split(',').filter(|s| !s.is_empty()).map(str::to_owned).collect();
            history.push(new.revision.to_string());
            annotations.insert(REVISION_HISTORY.to_owned(), history.join(","));
        }
        annotations
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;

    #[test]
    fn numbers_and_percentages() {
        let text = |s: &str| Some(IntOrString::String(s.to_owned()));
        for (value, total, up, expected) in [
            (None, 4, true, 1),
            (None, 3, true, 1),
            (None, 3, false, 0),
            (text("50%"), 3, true, 2),
            (text("50%"), 3, false, 1),
            (text("100%"), 10, false, 10),
            (text("nonsense"), 10, false, 0),
            (Some(IntOrString::Int(2)), 10, false, 2),
            (Some(IntOrString::Int(-2)), 10, false, 0),
            (text("1000000000%"), i32::MAX, true, i32::MAX),
        ] {
            assert_eq!(scaled_value(value.as_ref(), "25%", total, up), expected, "{value:?} of {total}");
        }
    }
}
