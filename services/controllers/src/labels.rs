//! Label selectors and node selectors, matched as Kubernetes matches them.
//!
//! Pure functions over API types. A selector that cannot be understood is an error, never a match:
//! a selector that matched everything by mistake would adopt or delete foreign pods.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

type Labels = BTreeMap<String, String>;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Op {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
}

/// A parsed `LabelSelector`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Selector(Vec<(String, Op)>);

impl Selector {
    /// Parses a selector; `Err` says what is wrong with it.
    pub(crate) fn parse(selector: &LabelSelector) -> Result<Self, String> {
        let mut out = Vec::new();
        for (key, value) in selector.match_labels.iter().flatten() {
            out.push((key.clone(), Op::In(vec![value.clone()])));
        }
        for e in selector.match_expressions.iter().flatten() {
            let values = e.values.clone().unwrap_or_default();
            let op = match e.operator.as_str() {
                "In" | "NotIn" if values.is_empty() => return Err(format!("operator {} without values", e.operator)),
                "In" => Op::In(values),
                "NotIn" => Op::NotIn(values),
                "Exists" => Op::Exists,
                "DoesNotExist" => Op::DoesNotExist,
                other => return Err(format!("unknown selector operator {other}")),
            };
            out.push((e.key.clone(), op));
        }
        Ok(Self(out))
    }

    /// An empty selector selects everything; workloads refuse it.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Does the selector select an object with these labels?
    pub(crate) fn matches(&self, labels: Option<&Labels>) -> bool {
        self.0.iter().all(|(key, op)| {
            let value = labels.and_then(|l| l.get(key));
            match op {
                Op::In(values) => value.is_some_and(|v| values.contains(v)),
                Op::NotIn(values) => value.is_none_or(|v| !values.contains(v)),
                Op::Exists => value.is_some(),
                Op::DoesNotExist => value.is_none(),
            }
        })
    }
}

/// Does a map selector (Service, nodeSelector) select these labels? An empty one selects all.
pub(crate) fn map_matches(selector: &Labels, labels: Option<&Labels>) -> bool {
    selector.iter().all(|(k, v)| labels.and_then(|l| l.get(k)) == Some(v))
}

/// Does any term of a required node affinity match? No terms match nothing.
pub(crate) fn node_selector_matches(selector: &NodeSelector, name: &str, labels: Option<&Labels>) -> bool {
    selector.node_selector_terms.iter().any(|t| node_term_matches(t, name, labels))
}

/// Does one term match? A term without requirements matches nothing, as in Kubernetes.
pub(crate) fn node_term_matches(term: &NodeSelectorTerm, name: &str, labels: Option<&Labels>) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    expressions.iter().all(|r| requirement(r, labels.and_then(|l| l.get(&r.key)).map(String::as_str)))
        && fields.iter().all(|r| r.key == "metadata.name" && requirement(r, Some(name)))
}

fn requirement(r: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = r.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|v| values.iter().any(|x| x == v));
    match r.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" | "Lt" => {
            let have = value.and_then(|v| v.parse::<i64>().ok());
            let want = values.first().and_then(|v| v.parse::<i64>().ok());
            match (have, want) {
                (Some(have), Some(want)) if r.operator == "Gt" => have > want,
                (Some(have), Some(want)) => have < want,
                _ => false,
            }
        }
        _ => false,
    }
}

/// `nodeSelector` and required node affinity together.
pub(crate) fn pod_selects_node(spec: &k8s_openapi::api::core::v1::PodSpec, node: &Node) -> bool {
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let labels = node.metadata.labels.as_ref();
    spec.node_selector.as_ref().is_none_or(|s| map_matches(s, labels))
        && spec
            .affinity
            .as_ref()
            .and_then(|a| a.node_affinity.as_ref())
            .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())
            .is_none_or(|s| node_selector_matches(s, name, labels))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;
    use serde_json::json;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn label_selectors() {
        let l = labels(&[("app", "a"), ("tier", "1")]);
        for (selector, expected) in [
            (json!({"matchLabels": {"app": "a"}}), true),
            (json!({"matchLabels": {"app": "b"}}), false),
            (json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["a", "b"]}]}), true),
            (json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["a"]}]}), false),
            (json!({"matchExpressions": [{"key": "none", "operator": "NotIn", "values": ["a"]}]}), true),
            (json!({"matchExpressions": [{"key": "tier", "operator": "Exists"}]}), true),
            (json!({"matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]}), false),
        ] {
            let parsed = Selector::parse(&serde_json::from_value(selector.clone()).unwrap()).unwrap();
            assert_eq!(parsed.matches(Some(&l)), expected, "{selector}");
        }
    }

    #[test]
    fn a_selector_that_cannot_be_understood_matches_nothing() {
        for bad in [
            json!({"matchExpressions": [{"key": "a", "operator": "Near"}]}),
            json!({"matchExpressions": [{"key": "a", "operator": "In"}]}),
        ] {
            assert!(Selector::parse(&serde_json::from_value(bad).unwrap()).is_err());
        }
    }

    #[test]
    fn node_terms() {
        let l = labels(&[("cores", "4"), ("zone", "a")]);
        for (term, expected) in [
            (json!({}), false),
            (json!({"matchExpressions": [{"key": "cores", "operator": "Gt", "values": ["3"]}]}), true),
            (json!({"matchExpressions": [{"key": "cores", "operator": "Lt", "values": ["3"]}]}), false),
            (json!({"matchExpressions": [{"key": "zone", "operator": "Gt", "values": ["3"]}]}), false),
            (json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}), true),
            (json!({"matchFields": [{"key": "metadata.uid", "operator": "Exists"}]}), false),
            (
                json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}],
                       "matchExpressions": [{"key": "zone", "operator": "In", "values": ["b"]}]}),
                false,
            ),
        ] {
            let parsed: NodeSelectorTerm = serde_json::from_value(term.clone()).unwrap();
            assert_eq!(node_term_matches(&parsed, "n", Some(&l)), expected, "{term}");
        }
    }
}
