//! What a report changes in a DeviceStatus, and how urgent that is.
//!
//! Pure; called by the writer. Only properties that the Device names are taken and kept. What is somebody
//! else's (`extensions`) is not touched. Limits: values of [`MAX_VALUE`] bytes, [`MAX_METADATA`] entries each.

use skerry_k8s_types::{Device, DeviceStatusFields, Twin, TwinProperty, state};

use crate::value::MAX_VALUE;

/// Entries of metadata of one value.
const MAX_METADATA: usize = 16;

/// Longest key or value of metadata, and longest time.
const MAX_TEXT: usize = 256;

/// States that are taken, in lower case. Others are ignored, as KubeEdge does.
const STATES: [&str; 5] = [state::OK, state::ONLINE, state::OFFLINE, state::UNHEALTHY, state::UNKNOWN];

/// How urgent a change is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Change {
    /// There is none.
    Nothing,
    /// Values and times: they may wait.
    Values,
    /// The state, a first value, or a desired value that arrived: at once.
    Urgent,
}

/// The status after a report of its node.
pub(crate) fn merge(
    device: &Device,
    current: &DeviceStatusFields,
    report: Option<&DeviceStatusFields>,
) -> (DeviceStatusFields, Change) {
    let mut next = current.clone();
    let mut change = Change::Nothing;
    let before = next.twins.len();
    next.twins.retain(|twin| device.property(&twin.property_name).is_some());
    if next.twins.len() != before {
        change = Change::Urgent;
    }
    let Some(report) = report else { return (next, change) };
    for twin in report.twins.iter().filter(|twin| device.property(&twin.property_name).is_some()) {
        change = change.max(put(&mut next.twins, twin));
    }
    let state = report.state.to_lowercase();
    if STATES.contains(&state.as_str()) && state != next.state {
        next.state = state;
        change = Change::Urgent;
    }
    let online = &report.last_online_time;
    if *online != next.last_online_time && online.len() <= MAX_TEXT && online.parse::<jiff::Timestamp>().is_ok() {
        next.last_online_time.clone_from(online);
        change = change.max(Change::Values);
    }
    (next, change)
}

fn put(twins: &mut Vec<Twin>, told: &Twin) -> Change {
    let (reported, observed) = (clean(told.reported.as_ref()), clean(told.observed_desired.as_ref()));
    let Some(known) = twins.iter_mut().find(|twin| twin.property_name == told.property_name) else {
        twins.push(Twin { property_name: told.property_name.clone(), reported, observed_desired: observed });
        return Change::Urgent;
    };
    let mut change = Change::Nothing;
    let value = |property: &Option<TwinProperty>| property.as_ref().map(|property| property.value.clone());
    if value(&observed) != value(&known.observed_desired) {
        change = Change::Urgent;
    } else if observed != known.observed_desired {
        change = Change::Values;
    }
    known.observed_desired = observed;
    if reported.is_some() && reported != known.reported {
        change = change.max(if known.reported.is_none() { Change::Urgent } else { Change::Values });
        known.reported = reported;
    }
    change
}

/// A value within the bounds; one that is too long is left out.
fn clean(property: Option<&TwinProperty>) -> Option<TwinProperty> {
    let property = property.filter(|property| property.value.len() <= MAX_VALUE)?;
    let short = property.metadata.iter().filter(|(key, value)| key.len() <= MAX_TEXT && value.len() <= MAX_TEXT);
    let metadata = short.take(MAX_METADATA).map(|(key, value)| (key.clone(), value.clone())).collect();
    Some(TwinProperty { value: property.value.clone(), metadata })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use serde_json::{Value, json};

    use super::*;

    fn device(properties: &[&str]) -> Device {
        let properties: Vec<Value> = properties.iter().map(|name| json!({"name": name})).collect();
        serde_json::from_value(json!({"spec": {"properties": properties}})).unwrap()
    }

    fn status(value: Value) -> DeviceStatusFields {
        serde_json::from_value(value).unwrap()
    }

    fn twin(property: &str, value: &str, at: u32) -> Value {
        json!({"propertyName": property, "reported": {"value": value, "metadata": {"timestamp": at.to_string()}}})
    }

    #[test]
    fn urgency_follows_what_changed() {
        let device = device(&["t", "p"]);
        let current = status(json!({"state": "online", "lastOnlineTime": "2026-01-01T00:00:00Z", "twins": [
            {"propertyName": "t", "reported": {"value": "1", "metadata": {"timestamp": "1"}},
             "observedDesired": {"value": "5"}}]}));
        let observed = |value: &str, desired: &str| {
            json!({"twins": [{"propertyName": "t", "reported": {"value": value, "metadata": {"timestamp": "1"}},
                "observedDesired": {"value": desired}}]})
        };
        for (report, want) in [
            (json!({}), Change::Nothing),
            (observed("1", "5"), Change::Nothing),
            (observed("2", "5"), Change::Values),
            (observed("1", "6"), Change::Urgent),
            (json!({"twins": [twin("p", "1", 1)]}), Change::Urgent),
            (json!({"twins": [twin("other", "1", 1)]}), Change::Nothing),
            (json!({"state": "ONLINE"}), Change::Nothing),
            (json!({"state": "Offline"}), Change::Urgent),
            (json!({"state": "broken"}), Change::Nothing),
            (json!({"lastOnlineTime": "2026-01-01T00:00:10Z"}), Change::Values),
            (json!({"lastOnlineTime": "yesterday"}), Change::Nothing),
        ] {
            let (_, change) = merge(&device, &current, Some(&status(report.clone())));
            assert_eq!(change, want, "{report}");
        }
    }

    #[test]
    fn twins_are_merged_and_what_is_not_the_devices_goes() {
        let current = status(json!({"twins": [twin("old", "1", 1), twin("t", "1", 1)], "extensions": {"a": 1}}));
        let report = status(json!({"extensions": {"a": 2}, "twins": [twin("t", "2", 2), twin("u", "1", 1),
            {"propertyName": "w", "reported": {"value": "x".repeat(MAX_VALUE + 1)}}]}));
        let (next, change) = merge(&device(&["t", "w"]), &current, Some(&report));
        assert_eq!(change, Change::Urgent);
        let names: Vec<_> = next.twins.iter().map(|twin| twin.property_name.as_str()).collect();
        assert_eq!(names, ["t", "w"]);
        assert_eq!(next.twins[0].reported.as_ref().unwrap().value, "2");
        assert!(next.twins[1].reported.is_none(), "a value without bounds is not taken");
        assert_eq!(next.extensions, current.extensions);
        // A report without a value leaves the last one.
        let (next, change) = merge(&device(&["t"]), &next, Some(&status(json!({"twins": [{"propertyName": "t"}]}))));
        assert_eq!(next.twins[0].reported.as_ref().unwrap().value, "2");
        assert_eq!(change, Change::Urgent, "a property went");
        assert_eq!(merge(&device(&["t"]), &next, None).1, Change::Nothing);
    }
}
