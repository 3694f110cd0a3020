//! What becomes of a request over the event bus.
//!
//! All of a request is checked before anything of it is done, and wanted values come first: they are on disk
//! when the answer is made. Refusals have KubeEdge's codes: 400, 404, 409, 500; and 429 for too many requests.

use skerry_common::Key;
use tonic::{Code, Status};

use super::MAX_PAYLOAD;
use super::payload::{self, Base, Body, TwinValue, Twins};
use super::request::{self, Request};
use super::topic::Asked;
use crate::fleet::{BusRefused, Reading};
use crate::node::Node;
use crate::twin::Quality;

/// An answer, and what it was about.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) base: Base,
    pub(super) body: Body,
    /// Properties that the request has set.
    pub(super) set: Vec<String>,
}

impl Answer {
    pub(super) fn refused(event_id: &str, code: u16, reason: impl Into<String>, now_ms: i64) -> Self {
        let body = Body::Error { code, reason: reason.into() };
        Self { base: Base::answer(event_id, now_ms), body, set: Vec::new() }
    }

    pub(super) fn is_refusal(&self) -> bool {
        matches!(self.body, Body::Error { .. })
    }
}

struct Refused {
    code: u16,
    reason: String,
}

impl From<BusRefused> for Refused {
    fn from(refused: BusRefused) -> Self {
        let (code, reason) = match refused {
            BusRefused::NoDevice => (404, "the device is not on this node".into()),
            BusRefused::Served(why) => (409, why),
            BusRefused::Value(why) => (400, why),
        };
        Self { code, reason }
    }
}

impl From<Status> for Refused {
    fn from(status: Status) -> Self {
        let code = match status.code() {
            Code::NotFound => 404,
            Code::InvalidArgument => 400,
            Code::Aborted => 409,
            _ => 500,
        };
        Self { code, reason: status.message().to_owned() }
    }
}

fn bad(reason: impl Into<String>) -> Refused {
    Refused { code: 400, reason: reason.into() }
}

/// Does what is asked.
pub(super) async fn answer(node: &Node, asked: &Asked, bytes: &[u8]) -> Answer {
    let now_ms = node.now().wall;
    if bytes.len() > MAX_PAYLOAD {
        let reason = format!("the message has {} bytes, and {MAX_PAYLOAD} are allowed", bytes.len());
        return Answer::refused("", 400, reason, now_ms);
    }
    let request = match request::read(bytes) {
        Ok(request) => request,
        Err(reason) => return Answer::refused("", 400, reason, now_ms),
    };
    let event_id = request.event_id.clone();
    let mut set = Vec::new();
    let done = match asked {
        Asked::TwinGet(key) => twins(node, key).map(|twin| Body::Twins { twin }),
        Asked::TwinUpdate(key) => update(node, key, request, &mut set).await.map(|twin| Body::Twins { twin }),
        Asked::StateUpdate(key) => state(node, key, &request),
        Asked::Members => Ok(members(node)),
        Asked::CloudUpdate(_) => {
            Err(bad("what the cloud wants is in the Device; on the node it is set with twin/update"))
        }
    };
    match done {
        Ok(body) => Answer { base: Base::answer(&event_id, node.now().wall), body, set },
        Err(Refused { code, reason }) => {
            // A part may be done where the disk filled up half-way.
            Answer { set, ..Answer::refused(&event_id, code, reason, now_ms) }
        }
    }
}

fn twins(node: &Node, key: &Key) -> Result<Twins, Refused> {
    let shown = node.read(|fleet, now| fleet.show(key, now)).ok_or(BusRefused::NoDevice)?;
    Ok(payload::twins(shown))
}

async fn update(node: &Node, key: &Key, request: Request, set: &mut Vec<String>) -> Result<Twins, Refused> {
    let Request { timestamp, twin, .. } = request;
    let asked = twin.ok_or_else(|| bad("the message has no twin"))?;
    let (mut reported, mut desired) = (Vec::new(), Vec::new());
    for (property, twin) in asked {
        let Some(twin) = twin else {
            return Err(bad(format!("the property {property:?} is not optional and cannot be deleted")));
        };
        if let Some(TwinValue { value: Some(value), .. }) = twin.expected {
            desired.push((property.clone(), value));
        }
        if let Some(TwinValue { value: Some(value), metadata }) = twin.actual {
            let at = metadata.map_or(0, |metadata| metadata.timestamp);
            reported.push((property, value, if at > 0 { at } else { timestamp }));
        }
    }
    node.read(|fleet, _| {
        fleet.check_bus(
            key,
            reported.iter().map(|(property, value, _)| (property.as_str(), value.as_str())),
            desired.iter().map(|(property, value)| (property.as_str(), value.as_str())),
        )
    })?;
    for (property, value) in desired {
        node.desire(key, &property, &value).await?;
        set.push(property);
    }
    if !reported.is_empty() {
        let wall = node.now().wall;
        let names: Vec<String> = reported.iter().map(|(property, ..)| property.clone()).collect();
        let readings = reported.into_iter().map(|(property, value, at)| Reading {
            property,
            value: Some(value),
            quality: Quality::Good,
            // What a clock that is ahead says is not from the future.
            source_ms: at.min(wall),
            problem: String::new(),
            outcome: None,
            // As in KubeEdge, where everything of the bus goes to the cloud.
            mapper_decides: true,
        });
        let readings = readings.collect();
        node.metrics.values.inc_by(names.len() as u64);
        node.change(|fleet, now| fleet.report_bus(key, readings, now))?;
        set.extend(names);
    }
    let mut twins = twins(node, key)?;
    twins.retain(|name, _| set.contains(name));
    Ok(twins)
}

fn state(node: &Node, key: &Key, request: &Request) -> Result<Body, Refused> {
    let word = request.state.as_deref().ok_or_else(|| bad("the message has no state"))?;
    node.change(|fleet, now| fleet.report_bus_state(key, word, now))?;
    let shown = node.read(|fleet, now| fleet.show(key, now)).ok_or(BusRefused::NoDevice)?;
    Ok(Body::State { device: payload::member(&shown).without_id() })
}

fn members(node: &Node) -> Body {
    let keys = node.read(|fleet, _| fleet.device_keys(""));
    let shown = keys.iter().filter_map(|key| node.read(|fleet, now| fleet.show(key, now)));
    Body::Members { devices: shown.map(|shown| payload::member(&shown)).collect() }
}
