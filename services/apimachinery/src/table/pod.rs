//! The row of a Pod: what `kubectl get pods` says, including why a container does not run.
//!
//! Called through `table`. Invariant: the status column follows kubectl's own order of reasons
//! (deletion, init containers, containers, pod). Limits: none. Pure: nothing to lose on a crash.

use super::{Printer, age, object_age, or_none};
use crate::json::{int_at, list_at, str_at};
use crate::meta;
use jiff::Timestamp;
use serde_json::Value;

pub(super) fn printer(kind: &str) -> Option<Printer> {
    (kind == "Pod").then_some(Printer {
        columns: &[
            ("Name", "string", 0),
            ("Ready", "string", 0),
            ("Status", "string", 0),
            ("Restarts", "string", 0),
            ("Age", "string", 0),
            ("IP", "string", 1),
            ("Node", "string", 1),
            ("Nominated Node", "string", 1),
            ("Readiness Gates", "string", 1),
        ],
        cells,
    })
}

fn reason_of(status: &Value) -> Option<String> {
    let waiting = str_at(status, "/state/waiting/reason");
    if !waiting.is_empty() {
        return Some(waiting.to_owned());
    }
    let terminated = status.pointer("/state/terminated")?;
    let reason = str_at(terminated, "/reason");
    if !reason.is_empty() {
        return Some(reason.to_owned());
    }
    match int_at(terminated, "/signal") {
        Some(signal) if signal != 0 => Some(format!("Signal:{signal}")),
        _ => Some(format!("ExitCode:{}", int_at(terminated, "/exitCode").unwrap_or(0))),
    }
}

fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let containers = list_at(pod, "/status/containerStatuses");
    let total = list_at(pod, "/spec/containers").len();
    let ready = containers
        .iter()
        .filter(|c| c.get("ready") == Some(&Value::Bool(true)) && c.pointer("/state/running").is_some())
        .count();
    let mut reason = match str_at(pod, "/status/reason") {
        "" => str_at(pod, "/status/phase").to_owned(),
        reason => reason.to_owned(),
    };
    let (mut restarts, mut last_restart) = (0, "");
    let inits = list_at(pod, "/status/initContainerStatuses");
    let init_total = list_at(pod, "/spec/initContainers").len();
    let mut initializing = false;
    for (index, status) in inits.iter().enumerate() {
        restarts += int_at(status, "/restartCount").unwrap_or(0);
        let finished = str_at(status, "/lastState/terminated/finishedAt");
        if finished > last_restart {
            last_restart = finished;
        }
        let done = int_at(status, "/state/terminated/exitCode") == Some(0);
        let sidecar_up = status.get("started") == Some(&Value::Bool(true)) && is_sidecar(pod, status);
        if done || sidecar_up {
            continue;
        }
        reason = match reason_of(status) {
            Some(why) if why != "PodInitializing" => format!("Init:{why}"),
            _ => format!("Init:{index}/{init_total}"),
        };
        initializing = true;
        break;
    }
    if !initializing {
        (restarts, last_restart) = (0, "");
        let mut running = false;
        for status in containers.iter().rev() {
            restarts += int_at(status, "/restartCount").unwrap_or(0);
            let finished = str_at(status, "/lastState/terminated/finishedAt");
            if finished > last_restart {
                last_restart = finished;
            }
            match reason_of(status) {
                Some(why) => reason = why,
                None => {
                    running |=
                        status.get("ready") == Some(&Value::Bool(true)) && status.pointer("/state/running").is_some()
                }
            }
        }
        if reason == "Completed" && running {
            let pod_ready = list_at(pod, "/status/conditions")
                .iter()
                .any(|c| str_at(c, "/type") == "Ready" && str_at(c, "/status") == "True");
            reason = if pod_ready { "Running".into() } else { "NotReady".into() };
        }
    }
    if meta::is_deleting(pod) {
        reason = if str_at(pod, "/status/reason") == "NodeLost" { "Unknown".into() } else { "Terminating".into() };
    }
    let restarts = match age(last_restart, now).as_str() {
        Some(ago) if !last_restart.is_empty() && restarts > 0 => format!("{restarts} ({ago} ago)"),
        _ => restarts.to_string(),
    };
    let gates = list_at(pod, "/spec/readinessGates");
    let passed = gates.iter().filter(|gate| {
        let wanted = str_at(gate, "/conditionType");
        list_at(pod, "/status/conditions")
            .iter()
            .any(|c| str_at(c, "/type") == wanted && str_at(c, "/status") == "True")
    });
    let gates_text = if gates.is_empty() { "<none>".to_owned() } else { format!("{}/{}", passed.count(), gates.len()) };
    vec![
        meta::name(pod).into(),
        format!("{ready}/{total}").into(),
        reason.into(),
        restarts.into(),
        object_age(pod, now),
        or_none(str_at(pod, "/status/podIP")).into(),
        or_none(str_at(pod, "/spec/nodeName")).into(),
        or_none(str_at(pod, "/status/nominatedNodeName")).into(),
        gates_text.into(),
    ]
}

fn is_sidecar(pod: &Value, status: &Value) -> bool {
    let name = str_at(status, "/name");
    list_at(pod, "/spec/initContainers")
        .iter()
        .any(|c| str_at(c, "/name") == name && str_at(c, "/restartPolicy") == "Always")
}
