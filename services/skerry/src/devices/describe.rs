//! `skerry describe device`: all about a device, as `kubectl describe` would show it.

use jiff::Timestamp;
use serde_json::json;
use skerry_proto::dmi::v1 as pb;

use super::show;
use crate::ui::{self, Column, column};

const TWINS: &[Column] = &[
    column("PROPERTY", "/property"),
    column("TYPE", "/type"),
    column("REPORTED", "/reported"),
    column("QUALITY", "/quality"),
    column("AGE", "/age"),
    column("DESIRED", "/desired"),
    column("SYNCED", "/synced"),
];

/// Columns of what was read now.
pub(super) const READINGS: &[Column] = &[
    column("PROPERTY", "/property"),
    column("TYPE", "/type"),
    column("VALUE", "/reported"),
    column("QUALITY", "/quality"),
    column("PROBLEM", "/problem"),
];

const CONDITIONS: &[Column] = &[
    column("TYPE", "/type"),
    column("STATUS", "/status"),
    column("SINCE", "/since"),
    column("REASON", "/reason"),
    column("MESSAGE", "/message"),
];

/// The description.
pub(super) fn lines(view: &pb::DeviceView, now: Timestamp) -> Vec<String> {
    let key = view.key.clone().unwrap_or_default();
    let field = |name: &str, value: &str| {
        let value = if value.is_empty() { "<none>".into() } else { show::plain(value) };
        format!("{:<14}{value}", format!("{name}:"))
    };
    let mut state = show::state(view).to_owned();
    if !view.state_reason.is_empty() && state != "online" {
        state = format!("{state}: {}", view.state_reason);
    }
    let seen = match Timestamp::from_millisecond(view.last_online_unix_ms) {
        Ok(time) if view.last_online_unix_ms > 0 => {
            format!("{time} ({} ago)", show::ago(view.last_online_unix_ms, now))
        }
        _ => "never".into(),
    };
    let mut lines = vec![
        field("Name", &key.name),
        field("Namespace", &key.namespace),
        field("Model", &view.model),
        field("Protocol", &view.protocol),
        field("Mapper", &view.mapper),
        field("State", &state),
        field("Last Seen", &seen),
    ];
    let twins: Vec<_> = view.twins.iter().map(|twin| self::twin(twin, now)).collect();
    section(&mut lines, "Twins", TWINS, &twins);
    let conditions = view.conditions.iter().map(|condition| {
        json!({
            "type": show::plain(&condition.r#type), "status": show::status(condition),
            "since": show::ago(condition.since_unix_ms, now), "reason": show::plain(&condition.reason),
            "message": show::plain(&condition.message),
        })
    });
    section(&mut lines, "Conditions", CONDITIONS, &conditions.collect::<Vec<_>>());
    let problems = view.twins.iter().filter(|twin| !twin.problem.is_empty());
    let problems: Vec<_> =
        problems.map(|t| format!("  {}: {}", show::plain(&t.property), show::plain(&t.problem))).collect();
    if problems.is_empty() {
        lines.push(field("Problems", ""));
    } else {
        lines.push("Problems:".into());
        lines.extend(problems);
    }
    lines
}

/// A twin for people.
pub(super) fn twin(twin: &pb::TwinView, now: Timestamp) -> serde_json::Value {
    let reported = twin.reported.as_ref().map(|value| {
        let unit = if twin.unit.is_empty() || value.is_empty() { String::new() } else { format!(" {}", twin.unit) };
        show::short(&format!("{value}{unit}"))
    });
    let desired = twin.desired.as_ref().map(|value| {
        // What the cloud does not know yet is worth a word.
        let here = if twin.desired_origin() == pb::DesiredOrigin::Edge { " (set here)" } else { "" };
        format!("{}{here}", show::short(value))
    });
    let synced = twin.desired.as_ref().map(|_| if twin.synced { "True" } else { "False" });
    json!({
        "property": show::short(&twin.property), "type": twin.r#type, "reported": reported,
        "quality": show::quality(twin), "age": show::ago(twin.reported_unix_ms, now),
        "desired": desired, "synced": synced, "problem": show::plain(&twin.problem),
    })
}

fn section(lines: &mut Vec<String>, title: &str, columns: &[Column], rows: &[serde_json::Value]) {
    if rows.is_empty() {
        lines.push(format!("{:<14}<none>", format!("{title}:")));
        return;
    }
    lines.push(format!("{title}:"));
    lines.extend(ui::table(columns, rows, false).into_iter().map(|line| format!("  {line}")));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]
    use super::super::show::tests::{NOW_MS, boiler, now};
    use super::*;

    #[test]
    fn a_description_has_twins_conditions_and_problems() {
        let mut view = boiler();
        view.twins[0].quality = pb::Quality::Uncertain.into();
        view.twins[0].reported_unix_ms = NOW_MS - 200_000;
        view.twins[1].problem = "illegal data\u{7} value".into();
        view.conditions[2].message = "the device does not have the desired value of setpoint yet".into();
        let expected = "\
Name:         b1
Namespace:    plant
Model:        boiler
Protocol:     modbus
Mapper:       m
State:        online
Last Seen:    2023-11-14T22:13:13Z (7s ago)
Twins:
  PROPERTY      TYPE     REPORTED   QUALITY     AGE     DESIRED         SYNCED
  temperature   DOUBLE   21.5 C     Uncertain   3m20s   -               -
  setpoint      INT      -          -           -       50 (set here)   False
Conditions:
  TYPE     STATUS   SINCE   REASON           MESSAGE
  Ready    True     30s     MapperServes     -
  Online   True     30s     DeviceOnline     -
  Synced   False    30s     DesiredPending   the device does not have the desired value of setpoint yet
Problems:
  setpoint: illegal data\\u{7} value";
        assert_eq!(lines(&view, now()).join("\n"), expected);
    }

    #[test]
    fn a_device_that_nobody_serves_is_described_too() {
        let text = lines(&pb::DeviceView::default(), now()).join("\n");
        for line in ["Mapper:       <none>", "State:        unknown", "Last Seen:    never", "Twins:        <none>"] {
            assert!(text.contains(line), "{text}");
        }
    }
}
