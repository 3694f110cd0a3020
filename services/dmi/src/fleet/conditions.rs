//! Conditions of a device as its node sees them: Ready, Online, Synced.
//!
//! Each has a reason for programs and a message that says what to do. `lastTransitionTime` changes only with
//! the status.

use skerry_k8s_types::{Condition, ONLINE, READY, SYNCED, set_condition};

use super::device::{Device, Served, State};
use crate::twin::{Now, Sync};

/// Refused and pending properties that are named in a message.
const MAX_NAMED: usize = 5;

/// The device's mapper, as far as the registry knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MapperState<'a> {
    /// It is there.
    Connected,
    /// It has the device, and is away.
    Away {
        /// Its name.
        name: &'a str,
    },
    /// It has none, and is reported over the event bus.
    Bus,
    /// No mapper of the protocol is known.
    None,
}

impl MapperState<'_> {
    /// Whether somebody is there who knows about the device.
    pub(crate) fn serves(self) -> bool {
        matches!(self, Self::Connected | Self::Bus)
    }
}

const TRUE: &str = "True";
const FALSE: &str = "False";
const UNKNOWN: &str = "Unknown";

type Verdict = (&'static str, &'static str, String);

fn ready(device: &Device, mapper: MapperState<'_>) -> Verdict {
    let protocol = &device.spec.protocol;
    match &device.spec.model {
        None => return (FALSE, "ModelNotFound", "the device names no DeviceModel: set spec.deviceModelRef".into()),
        Some((model, None)) => {
            let message = format!("the DeviceModel {} is not there: create it in the device's namespace", model.name);
            return (FALSE, "ModelNotFound", message);
        }
        Some(_) => {}
    }
    if protocol.is_empty() {
        let message = "the device names no protocol: set spec.protocol.protocolName".into();
        return (FALSE, "NoProtocol", message);
    }
    match mapper {
        MapperState::None => {
            let message = format!("no mapper for the protocol {protocol:?} is connected on this node: start one");
            (FALSE, "MapperNotConnected", message)
        }
        MapperState::Away { name } => {
            (FALSE, "MapperNotConnected", format!("the mapper {name} is not connected: see whether it runs"))
        }
        MapperState::Bus => (TRUE, "ReportsOverMqtt", String::new()),
        MapperState::Connected => match &device.served {
            Served::Refused(words) => (FALSE, "MapperRefused", format!("the mapper cannot serve the device: {words}")),
            Served::Pending => (FALSE, "MapperPending", "the mapper has not taken the device over yet".into()),
            Served::Yes => (TRUE, "MapperServes", String::new()),
        },
    }
}

fn online(device: &Device, mapper: MapperState<'_>) -> Verdict {
    if !mapper.serves() {
        return (UNKNOWN, "MapperNotConnected", "without its mapper nobody knows about the device".into());
    }
    let because = |text: &str| {
        if device.state_reason.is_empty() { text.to_owned() } else { format!("{text}: {}", device.state_reason) }
    };
    match device.state {
        // With a word when something beside the device does not work, such as its `pushMethod`.
        Some(State::Online) => (TRUE, "DeviceOnline", device.state_reason.clone()),
        Some(State::Offline) => (FALSE, "DeviceOffline", because("the mapper cannot reach the device")),
        Some(State::Unhealthy) => (FALSE, "DeviceUnhealthy", because("the device answers, and does not work")),
        Some(State::Unknown) => (UNKNOWN, "DeviceUnknown", because("the mapper does not know")),
        // Mappers need not report states; a value says it as well.
        None if device.twins.values().any(|twin| twin.told_good()) => (TRUE, "ValuesReported", String::new()),
        None => (UNKNOWN, "NoReport", "the mapper has not reported the device yet".into()),
    }
}

fn synced(device: &Device, mapper: MapperState<'_>) -> Verdict {
    let (mut pending, mut refused, mut any) = (Vec::new(), Vec::new(), false);
    for (name, sync) in device.sync() {
        any |= sync != Sync::Nothing;
        match sync {
            Sync::Nothing | Sync::Yes => {}
            Sync::Pending => pending.push(name.to_owned()),
            Sync::Refused(words) => refused.push(format!("{name}: {words}")),
        }
    }
    let list = |mut all: Vec<String>| {
        let more = all.len().saturating_sub(MAX_NAMED);
        all.truncate(MAX_NAMED);
        let text = all.join(", ");
        if more > 0 { format!("{text} and {more} more") } else { text }
    };
    if !any {
        (TRUE, "NothingDesired", String::new())
    } else if !refused.is_empty() {
        (FALSE, "DesiredRefused", format!("the device refused {}", list(refused)))
    } else if pending.is_empty() {
        (TRUE, "AllSynced", String::new())
    } else if mapper.serves() {
        (FALSE, "DesiredPending", format!("the device does not have the desired value of {} yet", list(pending)))
    } else {
        (UNKNOWN, "MapperNotConnected", "without its mapper nobody knows what the device has".into())
    }
}

/// Computes all conditions. Returns whether one has changed.
pub(super) fn update(device: &mut Device, now: Now, mapper: MapperState<'_>) -> bool {
    let verdicts = [(READY, ready(device, mapper)), (ONLINE, online(device, mapper)), (SYNCED, synced(device, mapper))];
    let time = rfc3339(now.wall);
    let mut changed = false;
    for (r#type, (status, reason, message)) in verdicts {
        changed |= set_condition(
            &mut device.conditions,
            Condition {
                r#type: r#type.into(),
                status: status.into(),
                reason: reason.into(),
                message,
                last_transition_time: time.clone(),
                observed_generation: device.spec.generation,
            },
        );
    }
    changed
}

/// A time as the API has it.
pub(crate) fn rfc3339(unix_ms: i64) -> String {
    let seconds = unix_ms.div_euclid(1000);
    jiff::Timestamp::from_second(seconds).map(|time| time.to_string()).unwrap_or_default()
}
