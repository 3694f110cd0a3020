//! What is written, and what is told, as tables.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;
use crate::known::NodeState;

fn seen(status: Value, generation: i64) -> Snapshot {
    let device = json!({"metadata": {"name": "d", "namespace": "ns", "generation": generation},
        "spec": {"nodeName": "n1"}, "status": status});
    Snapshot { device: Arc::new(serde_json::from_value(device).unwrap()), model: None, node: NodeState::Ready }
}

fn verdicts(online: &str) -> [(&'static str, Verdict); 3] {
    let one = |r#type, status: &str| (r#type, (status.to_owned(), "R".to_owned(), String::new()));
    [one(skerry_k8s_types::READY, "True"), one(ONLINE, online), one(skerry_k8s_types::SYNCED, "True")]
}

fn fields(state: &str, online: &str) -> DeviceStatusFields {
    DeviceStatusFields { state: state.to_owned(), last_online_time: online.to_owned(), ..Default::default() }
}

#[test]
fn a_summary_names_the_generation_that_it_makes_and_then_rests() {
    let now: Timestamp = "2026-01-01T00:10:00Z".parse().unwrap();
    let reported = fields("online", "2026-01-01T00:09:59Z");
    let first = summary(&seen(Value::Null, 3), &reported, &verdicts("True"), now).unwrap();
    assert_eq!(first.observed_generation, Some(4));
    assert!(first.conditions.iter().all(|c| c.observed_generation == Some(4)));
    let written = serde_json::to_value(&first).unwrap();
    // The write made generation 4: there is nothing more to write.
    assert_eq!(summary(&seen(written.clone(), 4), &reported, &verdicts("True"), now), None);
    // Somebody changed the spec: the conditions say that they have seen it.
    let again = summary(&seen(written.clone(), 5), &reported, &verdicts("True"), now).unwrap();
    assert_eq!(again.observed_generation, Some(6));
    assert_eq!(again.conditions[0].last_transition_time, first.conditions[0].last_transition_time);
    // Where the status is a subresource after all, nothing runs in circles either.
    assert_eq!(summary(&seen(written.clone(), 3), &reported, &verdicts("True"), now), None);
    // Seen online again: once a minute.
    for (online, write) in [("2026-01-01T00:10:30Z", false), ("2026-01-01T00:10:59Z", true), ("", false)] {
        let told = fields("online", online);
        assert_eq!(summary(&seen(written.clone(), 4), &told, &verdicts("True"), now).is_some(), write, "{online}");
    }
}

#[test]
fn a_state_that_nobody_can_know_is_unknown() {
    let now = Timestamp::UNIX_EPOCH;
    for (online, state, want) in [
        ("True", "online", "online"),
        ("False", "offline", "offline"),
        ("Unknown", "online", "unknown"),
        ("Unknown", "", ""),
    ] {
        let summary = summary(&seen(Value::Null, 1), &fields(state, ""), &verdicts(online), now).unwrap();
        assert_eq!(summary.state, want, "{online} {state}");
    }
}

#[test]
fn events_tell_of_turns() {
    let new = |r#type: &str, status: &str, reason: &str| Condition {
        r#type: r#type.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        ..Condition::default()
    };
    for (old, condition, want) in [
        (None, new(ONLINE, "True", ""), Some((false, "DeviceOnline"))),
        (Some("True"), new(ONLINE, "True", ""), None),
        (Some("True"), new(ONLINE, "False", ""), Some((true, "DeviceOffline"))),
        (Some("True"), new(ONLINE, "Unknown", ""), Some((true, "DeviceUnknown"))),
        (None, new(ONLINE, "Unknown", ""), None),
        (Some("True"), new("Synced", "False", "DesiredPending"), None),
        (Some("True"), new("Synced", "False", "DesiredRefused"), Some((true, "DesiredRefused"))),
        (Some("False"), new("Synced", "True", ""), Some((false, "DesiredReached"))),
        (Some("True"), new("Ready", "False", ""), Some((true, "DeviceNotReady"))),
    ] {
        assert_eq!(event(old, &condition), want, "{old:?} {condition:?}");
    }
}

#[test]
fn one_desired_value_is_changed_and_nothing_else() {
    let object: DynamicObject =
        serde_json::from_value(json!({"metadata": {"name": "d"}, "spec": {"x": 1, "properties": [
        {"name": "a", "desired": {"value": "1", "metadata": {"k": "v"}}}, {"name": "b", "visitors": {"y": 2}}]}}))
        .unwrap();
    let a = with_desired(object.clone(), "a", Some("2")).unwrap();
    assert_eq!(a.data["spec"]["properties"][0]["desired"], json!({"value": "2", "metadata": {"k": "v"}}));
    let b = with_desired(object.clone(), "b", Some("3")).unwrap();
    assert_eq!(b.data["spec"]["properties"][1], json!({"name": "b", "visitors": {"y": 2}, "desired": {"value": "3"}}));
    assert_eq!(b.data["spec"]["x"], 1);
    assert!(with_desired(object.clone(), "a", None).unwrap().data["spec"]["properties"][0].get("desired").is_none());
    assert!(with_desired(object, "c", Some("1")).is_none());
}
