//! Devices and mappers as they are printed: JSON for programs, rows for people.
//!
//! Rows are made for one moment, because they have ages in it. Text of devices and mappers is cut and made
//! plain in rows; JSON has it whole.

use jiff::Timestamp;
use serde_json::{Value, json};
use skerry_proto::dmi::v1 as pb;

use crate::ui::{self, Column, column, wide};

/// Characters of a value in a table; JSON has all of it.
const MAX_CELL: usize = 60;

/// Columns of mappers.
pub(super) const MAPPERS: &[Column] = &[
    column("NAME", "/name"),
    column("PROTOCOL", "/protocol"),
    column("API", "/api"),
    column("STATE", "/state"),
    column("SINCE", "/since"),
    column("DEVICES", "/devices"),
    column("VALUES", "/values"),
    column("REFUSED", "/refused"),
    wide("VERSION", "/version"),
    wide("PROBLEM", "/problem"),
];

/// Columns of devices.
pub(super) fn columns(namespaces: bool) -> Vec<Column> {
    let namespace = namespaces.then(|| column("NAMESPACE", "/namespace"));
    let rest = [
        column("NAME", "/name"),
        column("MODEL", "/model"),
        column("PROTOCOL", "/protocol"),
        column("MAPPER", "/mapper"),
        column("STATE", "/state"),
        column("SYNCED", "/synced"),
        column("LAST-SEEN", "/lastSeen"),
        wide("READY", "/ready"),
        wide("VALUES", "/values"),
        wide("REASON", "/reason"),
    ];
    namespace.into_iter().chain(rest).collect()
}

/// The namespace and name of a device.
pub(super) fn named(key: &pb::DeviceKey) -> String {
    plain(&format!("{}/{}", key.namespace, key.name))
}

/// Text of others without what a terminal would obey.
pub(super) fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for letter in text.chars() {
        // Marks that turn the direction of what follows are not control characters, and as misleading.
        if letter.is_control()
            || matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        {
            plain.extend(letter.escape_default());
        } else {
            plain.push(letter);
        }
    }
    plain
}

/// The same, short enough for a table.
pub(super) fn short(text: &str) -> String {
    let cut: String = text.chars().take(MAX_CELL).collect();
    if cut.len() < text.len() { format!("{}…", plain(&cut)) } else { plain(&cut) }
}

/// How long ago something was; `-` for never.
pub(super) fn ago(unix_ms: i64, now: Timestamp) -> String {
    if unix_ms <= 0 {
        return "-".into();
    }
    // A clock that was set back makes no negative ages.
    ui::age(u64::try_from(now.as_millisecond().saturating_sub(unix_ms) / 1000).unwrap_or(0))
}

fn time(unix_ms: i64) -> Option<String> {
    (unix_ms > 0).then(|| Timestamp::from_millisecond(unix_ms).ok()).flatten().map(|time| time.to_string())
}

/// True, False or Unknown.
pub(super) fn status(condition: &pb::ConditionView) -> &'static str {
    match condition.state.as_str() {
        "True" => "True",
        "False" => "False",
        _ => "Unknown",
    }
}

/// A condition of a device.
pub(super) fn condition<'v>(view: &'v pb::DeviceView, r#type: &str) -> Option<&'v pb::ConditionView> {
    view.conditions.iter().find(|condition| condition.r#type == r#type)
}

fn word(view: &pb::DeviceView, r#type: &str) -> &'static str {
    condition(view, r#type).map_or("Unknown", status)
}

/// The state in KubeEdge's words. What a mapper said before it went away is not known any more.
pub(super) fn state(view: &pb::DeviceView) -> &'static str {
    match (word(view, "Online"), view.state()) {
        ("Unknown", _) => "unknown",
        (_, pb::DeviceState::Offline) => "offline",
        (_, pb::DeviceState::Unhealthy) => "unhealthy",
        ("True", _) => "online",
        _ => "unknown",
    }
}

/// The quality of what was reported; empty where nothing was.
pub(super) fn quality(twin: &pb::TwinView) -> &'static str {
    match (&twin.reported, twin.quality()) {
        (None, _) => "",
        (_, pb::Quality::Good) => "Good",
        (_, pb::Quality::Bad) => "Bad",
        // A word of a newer node is no reason for trust.
        (_, pb::Quality::Uncertain | pb::Quality::Unspecified) => "Uncertain",
    }
}

/// Who wants the desired value; empty where nothing is.
pub(super) fn origin(twin: &pb::TwinView) -> &'static str {
    match twin.desired_origin() {
        pb::DesiredOrigin::Cloud => "cloud",
        pb::DesiredOrigin::Edge => "edge",
        pb::DesiredOrigin::Unspecified => "",
    }
}

/// A device for programs.
pub(super) fn device(view: &pb::DeviceView) -> Value {
    let key = view.key.clone().unwrap_or_default();
    let twins: Vec<_> = view.twins.iter().map(twin).collect();
    let conditions = view.conditions.iter().map(|condition| {
        json!({
            "type": condition.r#type, "status": status(condition), "reason": condition.reason,
            "message": condition.message, "since": time(condition.since_unix_ms),
        })
    });
    let conditions: Vec<Value> = conditions.collect();
    json!({
        "namespace": key.namespace, "name": key.name, "model": view.model, "protocol": view.protocol,
        "mapper": view.mapper, "state": state(view), "stateReason": view.state_reason,
        "lastOnlineTime": time(view.last_online_unix_ms), "twins": twins, "conditions": conditions,
    })
}

/// A twin for programs.
pub(super) fn twin(twin: &pb::TwinView) -> Value {
    json!({
        "property": twin.property, "type": twin.r#type, "unit": twin.unit, "writable": twin.writable,
        "reported": twin.reported, "quality": quality(twin), "reportedTime": time(twin.reported_unix_ms),
        "desired": twin.desired, "desiredOrigin": origin(twin), "synced": twin.synced, "problem": twin.problem,
    })
}

/// A device for people.
pub(super) fn row(view: &pb::DeviceView, now: Timestamp) -> Value {
    let key = view.key.clone().unwrap_or_default();
    let good = view.twins.iter().filter(|twin| quality(twin) == "Good").count();
    let reported = view.twins.iter().filter(|twin| twin.reported.is_some()).count();
    let unwell = view.conditions.iter().find(|condition| status(condition) != "True");
    json!({
        "namespace": key.namespace, "name": key.name, "model": plain(&view.model), "protocol": plain(&view.protocol),
        "mapper": plain(&view.mapper), "state": state(view), "synced": word(view, "Synced"),
        "lastSeen": ago(view.last_online_unix_ms, now), "ready": word(view, "Ready"),
        "values": format!("{good}/{reported} good"),
        "reason": unwell.map(|condition| plain(&condition.reason)),
    })
}

/// A mapper for programs.
pub(super) fn mapper(view: &pb::MapperView) -> Value {
    json!({
        "name": view.name, "protocol": view.protocol, "version": view.version, "api": view.api,
        "connected": view.connected, "since": time(view.since_unix_ms), "devices": view.devices,
        "values": view.values, "refused": view.refused, "problem": view.problem,
    })
}

/// A mapper for people.
pub(super) fn mapper_row(view: &pb::MapperView, now: Timestamp) -> Value {
    json!({
        "name": plain(&view.name), "protocol": plain(&view.protocol), "version": short(&view.version),
        "api": view.api, "state": if view.connected { "connected" } else { "away" },
        "since": ago(view.since_unix_ms, now), "devices": view.devices, "values": view.values,
        "refused": view.refused, "problem": plain(&view.problem),
    })
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    /// The moment of the tests.
    pub(in super::super) const NOW_MS: i64 = 1_700_000_000_000;

    pub(in super::super) fn now() -> Timestamp {
        Timestamp::from_millisecond(NOW_MS).unwrap()
    }

    pub(in super::super) fn cond(r#type: &str, state: &str, reason: &str) -> pb::ConditionView {
        pb::ConditionView {
            r#type: r#type.into(),
            status: state == "True",
            state: state.into(),
            reason: reason.into(),
            message: String::new(),
            since_unix_ms: NOW_MS - 30_000,
        }
    }

    /// A boiler with a temperature that was read 5 s ago, and a set point that it does not have yet.
    pub(in super::super) fn boiler() -> pb::DeviceView {
        let temperature = pb::TwinView {
            property: "temperature".into(),
            r#type: "DOUBLE".into(),
            unit: "C".into(),
            reported: Some("21.5".into()),
            quality: pb::Quality::Good.into(),
            reported_unix_ms: NOW_MS - 5_000,
            synced: true,
            ..Default::default()
        };
        let setpoint = pb::TwinView {
            property: "setpoint".into(),
            r#type: "INT".into(),
            writable: true,
            desired: Some("50".into()),
            desired_origin: pb::DesiredOrigin::Edge.into(),
            ..Default::default()
        };
        pb::DeviceView {
            key: Some(pb::DeviceKey { namespace: "plant".into(), name: "b1".into() }),
            model: "boiler".into(),
            protocol: "modbus".into(),
            mapper: "m".into(),
            state: pb::DeviceState::Online.into(),
            last_online_unix_ms: NOW_MS - 7_000,
            twins: vec![temperature, setpoint],
            conditions: vec![
                cond("Ready", "True", "MapperServes"),
                cond("Online", "True", "DeviceOnline"),
                cond("Synced", "False", "DesiredPending"),
            ],
            ..Default::default()
        }
    }

    #[test]
    fn a_table_is_like_kubectls() {
        let rows = [row(&boiler(), now())];
        assert_eq!(
            ui::table(&columns(false), &rows, false),
            [
                "NAME   MODEL    PROTOCOL   MAPPER   STATE    SYNCED   LAST-SEEN",
                "b1     boiler   modbus     m        online   False    7s",
            ]
        );
        let all = ui::table(&columns(true), &rows, true);
        assert!(all[0].starts_with("NAMESPACE   NAME"), "{all:?}");
        assert!(all[1].ends_with("True    1/1 good   DesiredPending"), "{all:?}");
    }

    #[test]
    fn what_a_mapper_that_is_away_said_is_not_shown_as_known() {
        let mut view = boiler();
        view.conditions = [("Ready", "False"), ("Online", "Unknown"), ("Synced", "Unknown")]
            .map(|(r#type, state)| cond(r#type, state, "MapperNotConnected"))
            .to_vec();
        let shown = row(&view, now());
        assert_eq!(
            (&shown["state"], &shown["synced"], &shown["ready"]),
            (&"unknown".into(), &"Unknown".into(), &"False".into())
        );
        view.twins[0].quality = pb::Quality::Uncertain.into();
        assert_eq!(row(&view, now())["values"], "0/1 good");
        assert_eq!(device(&view)["twins"][0]["quality"], "Uncertain");
        view.conditions.clear();
        assert_eq!(state(&view), "unknown");
    }

    #[test]
    fn a_state_is_in_kubeedges_words() {
        for (online, told, word) in [
            (cond("Online", "True", "ValuesReported"), pb::DeviceState::Unspecified, "online"),
            (cond("Online", "False", "DeviceOffline"), pb::DeviceState::Offline, "offline"),
            (cond("Online", "False", "DeviceUnhealthy"), pb::DeviceState::Unhealthy, "unhealthy"),
            (cond("Online", "Unknown", "NoReport"), pb::DeviceState::Unspecified, "unknown"),
        ] {
            let view = pb::DeviceView { conditions: vec![online], state: told.into(), ..Default::default() };
            assert_eq!(state(&view), word);
        }
    }

    #[test]
    fn programs_get_everything() {
        let shown = device(&boiler());
        assert_eq!(shown["twins"][0]["reportedTime"], "2023-11-14T22:13:15Z");
        assert_eq!(shown["twins"][1]["reported"], Value::Null);
        assert_eq!(shown["twins"][1]["quality"], "");
        assert_eq!(shown["twins"][1]["desiredOrigin"], "edge");
        assert_eq!(shown["conditions"][2]["status"], "False");
        assert_eq!(shown["lastOnlineTime"], "2023-11-14T22:13:13Z");
    }

    #[test]
    fn text_of_others_does_not_reach_the_terminal_as_it_is() {
        assert_eq!(plain("a\u{1b}[2Jb\nc"), "a\\u{1b}[2Jb\\nc");
        assert_eq!(plain("x\u{202e}y"), "x\\u{202e}y");
        assert_eq!(plain("21,5 °C"), "21,5 °C");
        assert_eq!(short(&"a".repeat(MAX_CELL)), "a".repeat(MAX_CELL));
        assert_eq!(short(&"a".repeat(MAX_CELL + 1)), format!("{}…", "a".repeat(MAX_CELL)));
    }

    #[test]
    fn ages_are_never_negative() {
        assert_eq!(ago(0, now()), "-");
        assert_eq!(ago(NOW_MS + 60_000, now()), "0s");
        assert_eq!(ago(NOW_MS - 59_999, now()), "59s");
    }

    #[test]
    fn a_mapper_that_is_away_says_so() {
        let mut view =
            pb::MapperView { name: "m".into(), connected: true, since_unix_ms: NOW_MS - 1000, ..Default::default() };
        assert_eq!(mapper_row(&view, now())["state"], "connected");
        view.connected = false;
        assert_eq!(mapper_row(&view, now())["state"], "away");
        assert_eq!(mapper(&view)["connected"], false);
    }
}
