//! Rows of Deployment, ReplicaSet, DaemonSet, StatefulSet, Job, CronJob.
//!
//! Called through `table`. Limits: none. Pure: nothing to lose on a crash.

use super::{Printer, labels_text, object_age, or_none};
use crate::json::{int_at, list_at, str_at};
use crate::meta;
use jiff::Timestamp;
use serde_json::Value;

pub(super) fn printer(kind: &str) -> Option<Printer> {
    Some(match kind {
        "Deployment" => Printer {
            columns: &[
                ("Name", "string", 0),
                ("Ready", "string", 0),
                ("Up-to-date", "string", 0),
                ("Available", "string", 0),
                ("Age", "string", 0),
                ("Containers", "string", 1),
                ("Images", "string", 1),
                ("Selector", "string", 1),
            ],
            cells: |o, now| {
                let mut row = vec![
                    meta::name(o).into(),
                    format!("{}/{}", number(o, "/status/readyReplicas"), number(o, "/spec/replicas")).into(),
                    number(o, "/status/updatedReplicas").into(),
                    number(o, "/status/availableReplicas").into(),
                    object_age(o, now),
                ];
                row.extend(template(o));
                row
            },
        },
        "ReplicaSet" => Printer {
            columns: &[
                ("Name", "string", 0),
                ("Desired", "integer", 0),
                ("Current", "integer", 0),
                ("Ready", "integer", 0),
                ("Age", "string", 0),
                ("Containers", "string", 1),
                ("Images", "string", 1),
                ("Selector", "string", 1),
            ],
            cells: |o, now| {
                let mut row = vec![
                    meta::name(o).into(),
                    number(o, "/spec/replicas").into(),
                    number(o, "/status/replicas").into(),
                    number(o, "/status/readyReplicas").into(),
                    object_age(o, now),
                ];
                row.extend(template(o));
                row
            },
        },
        "DaemonSet" => Printer {
            columns: &[
                ("Name", "string", 0),
                ("Desired", "integer", 0),
                ("Current", "integer", 0),
                ("Ready", "integer", 0),
                ("Up-to-date", "integer", 0),
                ("Available", "integer", 0),
                ("Node Selector", "string", 0),
                ("Age", "string", 0),
                ("Containers", "string", 1),
                ("Images", "string", 1),
                ("Selector", "string", 1),
            ],
            cells: |o, now| {
                let mut row = vec![
                    meta::name(o).into(),
                    number(o, "/status/desiredNumberScheduled").into(),
                    number(o, "/status/currentNumberScheduled").into(),
                    number(o, "/status/numberReady").into(),
                    number(o, "/status/updatedNumberScheduled").into(),
                    number(o, "/status/numberAvailable").into(),
                    labels_text(o.pointer("/spec/template/spec/nodeSelector")).into(),
                    object_age(o, now),
                ];
                row.extend(template(o));
                row
            },
        },
        "StatefulSet" => Printer {
            columns: &[
                ("Name", "string", 0),
                ("Ready", "string", 0),
                ("Age", "string", 0),
                ("Containers", "string", 1),
                ("Images", "string", 1),
            ],
            cells: |o, now| {
                let mut row = vec![
                    meta::name(o).into(),
                    format!("{}/{}", number(o, "/status/readyReplicas"), number(o, "/spec/replicas")).into(),
                    object_age(o, now),
                ];
                row.extend(template(o).into_iter().take(2));
                row
            },
        },
        "Job" => Printer {
            columns: &[
                ("Name", "string", 0),
                ("Status", "string", 0),
                ("Completions", "string", 0),
                ("Duration", "string", 0),
                ("Age", "string", 0),
                ("Containers", "string", 1),
                ("Images", "string", 1),
                ("Selector", "string", 1),
            ],
            cells: job,
        },
        "CronJob" => Printer {
            columns: &[
                ("Name", "string", 0),
                ("Schedule", "string", 0),
                ("Timezone", "string", 0),
                ("Suspend", "boolean", 0),
                ("Active", "integer", 0),
                ("Last Schedule", "string", 0),
                ("Age", "string", 0),
            ],
            cells: |o, now| {
                let last = match str_at(o, "/status/lastScheduleTime") {
                    "" => "<none>".into(),
                    time => super::age(time, now),
                };
                vec![
                    meta::name(o).into(),
                    str_at(o, "/spec/schedule").into(),
                    or_none(str_at(o, "/spec/timeZone")).into(),
                    o.pointer("/spec/suspend").and_then(Value::as_bool).unwrap_or(false).to_string().into(),
                    list_at(o, "/status/active").len().into(),
                    last,
                    object_age(o, now),
                ]
            },
        },
        _ => return None,
    })
}

fn number(object: &Value, pointer: &str) -> i64 {
    int_at(object, pointer).unwrap_or(0)
}

fn job(o: &Value, now: Timestamp) -> Vec<Value> {
    let condition = |wanted: &str| {
        list_at(o, "/status/conditions").iter().any(|c| str_at(c, "/type") == wanted && str_at(c, "/status") == "True")
    };
    let status = if condition("Complete") {
        "Complete"
    } else if condition("Failed") {
        "Failed"
    } else if meta::is_deleting(o) {
        "Terminating"
    } else if condition("Suspended") {
        "Suspended"
    } else {
        "Running"
    };
    let wanted = int_at(o, "/spec/completions").or_else(|| int_at(o, "/spec/parallelism")).unwrap_or(1);
    let start = meta::parse_time(str_at(o, "/status/startTime"));
    let end = meta::parse_time(str_at(o, "/status/completionTime")).unwrap_or(now);
    let duration = start.map(|s| meta::human_duration(end.as_second() - s.as_second())).unwrap_or_default();
    let mut row = vec![
        meta::name(o).into(),
        status.into(),
        format!("{}/{wanted}", number(o, "/status/succeeded")).into(),
        duration.into(),
        object_age(o, now),
    ];
    row.extend(template(o));
    row
}

/// Containers, images, selector.
fn template(o: &Value) -> [Value; 3] {
    let all = |field: &str| {
        let texts: Vec<&str> = list_at(o, "/spec/template/spec/containers").iter().map(|c| str_at(c, field)).collect();
        Value::from(texts.join(","))
    };
    let expressions = list_at(o, "/spec/selector/matchExpressions").iter().map(|e| {
        let values: Vec<&str> = list_at(e, "/values").iter().filter_map(Value::as_str).collect();
        match str_at(e, "/operator") {
            "Exists" => str_at(e, "/key").to_owned(),
            "DoesNotExist" => format!("!{}", str_at(e, "/key")),
            operator => format!("{} {} ({})", str_at(e, "/key"), operator.to_ascii_lowercase(), values.join(",")),
        }
    });
    let labels = labels_text(o.pointer("/spec/selector/matchLabels"));
    let parts: Vec<String> = std::iter::once(labels).filter(|l| l != "<none>").chain(expressions).collect();
    [all("/name"), all("/image"), or_none(parts.join(",")).into()]
}
