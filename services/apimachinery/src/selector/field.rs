//! Field selectors (`spec.nodeName=n1,status.phase!=Running`) over the few fields each resource offers.
//!
//! Called by list and watch. The fields of an object are extracted once, when it is stored
//! (`object::Entry`), so that matching never parses JSON. Invariant: a field that a resource does not
//! offer is a 400 in Kubernetes' wording, never "no match".
//! Limits: `MAX_REQUIREMENTS`. Pure: nothing to lose on a crash.

use super::MAX_REQUIREMENTS;
use crate::error::ApiError;

/// One equality (or inequality) over one field.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    field: String,
    value: String,
    equal: bool,
}

/// A parsed field selector.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector {
    requirements: Vec<Requirement>,
}

/// The fields that objects of a storage resource (`group/plural`) offer besides name and namespace.
pub(crate) fn field_paths(storage: &str) -> &'static [&'static str] {
    match storage {
        "/pods" => &[
            "spec.nodeName",
            "status.phase",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.podIP",
            "status.nominatedNodeName",
        ],
        "/nodes" => &["spec.unschedulable"],
        "/secrets" => &["type"],
        "/namespaces" => &["status.phase"],
        "/services" => &["spec.clusterIP", "spec.type"],
        "/events" => &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        "apps/replicasets" => &["status.replicas"],
        "batch/jobs" => &["status.successful"],
        _ => &[],
    }
}

impl FieldSelector {
    /// Parses the string form for a resource; `kind` is for the message.
    pub fn parse(text: &str, storage: &str, kind: &str) -> Result<Self, ApiError> {
        let mut requirements = Vec::new();
        for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            if requirements.len() == MAX_REQUIREMENTS {
                return Err(ApiError::BadRequest("too many field selector requirements".into()));
            }
            let (field, value, equal) = if let Some((f, v)) = part.split_once("!=") {
                (f, v, false)
            } else if let Some((f, v)) = part.split_once("==") {
                (f, v, true)
            } else if let Some((f, v)) = part.split_once('=') {
                (f, v, true)
            } else {
                return Err(ApiError::BadRequest(format!("invalid selector: '{text}'; can't understand '{part}'")));
            };
            // The names that events.k8s.io gives to the same fields.
            let field = match field {
                "regarding.kind" => "involvedObject.kind",
                "regarding.namespace" => "involvedObject.namespace",
                "regarding.name" => "involvedObject.name",
                "regarding.uid" => "involvedObject.uid",
                "reportingController" => "reportingComponent",
                other => other,
            };
            if !["metadata.name", "metadata.namespace"].contains(&field) && !field_paths(storage).contains(&field) {
                return Err(ApiError::BadRequest(format!("field label not supported: {field} (kind {kind})")));
            }
            requirements.push(Requirement { field: field.to_owned(), value: value.to_owned(), equal });
        }
        Ok(Self { requirements })
    }

    /// True when every object matches.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Does an object match? `get` answers a field; an absent field is the empty string.
    pub fn matches<'f>(&self, get: impl Fn(&str) -> &'f str) -> bool {
        self.requirements.iter().all(|r| (get(&r.field) == r.value) == r.equal)
    }

    /// The name that `metadata.name=` demands, if it does.
    pub fn exact_name(&self) -> Option<&str> {
        self.requirements.iter().find(|r| r.equal && r.field == "metadata.name").map(|r| r.value.as_str())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn field_selectors() {
        let fields = |field: &str| match field {
            "metadata.name" => "web",
            "spec.nodeName" => "n1",
            _ => "",
        };
        for (text, expected) in [
            ("", true),
            ("metadata.name=web", true),
            ("spec.nodeName==n1,metadata.name=web", true),
            ("spec.nodeName!=n1", false),
            ("spec.nodeName=", false),
            ("status.phase=", true),
            ("status.phase!=Running", true),
        ] {
            assert_eq!(FieldSelector::parse(text, "/pods", "Pod").unwrap().matches(fields), expected, "{text}");
        }
        assert!(FieldSelector::parse("spec.image=x", "/pods", "Pod").is_err());
        assert!(FieldSelector::parse("metadata.name", "/pods", "Pod").is_err());
        assert_eq!(FieldSelector::parse("metadata.name=a", "/x", "X").unwrap().exact_name(), Some("a"));
    }
}
