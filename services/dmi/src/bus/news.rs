//! What clients of the event bus were told of each device, and what is new.
//!
//! Compares a device with what was last told of it, so that many changes between two looks are one message, and
//! a time without a broker costs nothing. Bounded by the number of devices.

use std::collections::{BTreeMap, BTreeSet};

use skerry_common::Key;

use super::payload::{self, Body, Change, Member, Twins};
use super::topic;
use crate::fleet::DeviceShown;

/// Bytes of devices in one message about members, and of the twins of one of them.
const MEMBERS_BYTES: usize = 64 * 1024;

#[derive(Debug)]
struct Told {
    member: Member,
    twins: Twins,
    delta: BTreeMap<String, String>,
}

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct News {
    devices: BTreeMap<Key, Told>,
    added: BTreeMap<Key, Member>,
    removed: BTreeSet<Key>,
}

/// What to tell although it is not new.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Again<'p> {
    /// What is wanted and not so: whoever has just come, or has just reported, may not know it.
    pub(super) delta: bool,
    /// Properties that a client has set.
    pub(super) properties: &'p [String],
}

impl News {
    /// Devices of which something was told.
    pub(super) fn known(&self) -> impl Iterator<Item = &Key> {
        self.devices.keys()
    }

    /// Looks at a device; `None`: it is gone. Returns topics and what to publish there.
    pub(super) fn look(
        &mut self,
        key: &Key,
        now: Option<DeviceShown>,
        again: Again<'_>,
        now_ms: i64,
    ) -> Vec<(String, Body)> {
        let Some(shown) = now else {
            if self.devices.remove(key).is_some() && self.added.remove(key).is_none() {
                self.removed.insert(key.clone());
            }
            return Vec::new();
        };
        let member = payload::member(&shown);
        let mut twins = payload::twins(shown);
        self.date(key, &mut twins, now_ms);
        let delta: BTreeMap<String, String> =
            twins.iter().filter_map(|(name, twin)| Some((name.clone(), twin.delta()?.to_owned()))).collect();
        let old = self.devices.get(key);
        let mut news = Vec::new();
        match old {
            // What it is one asks for; what it was nobody knows.
            None => {
                self.removed.remove(key);
                self.added.insert(key.clone(), member.clone().with_twins(&twins, MEMBERS_BYTES));
            }
            Some(old) => {
                if old.member.state != member.state && again.properties.is_empty() {
                    news.push((topic::state(key), Body::State { device: member.clone().without_id() }));
                }
                let twin = changes(&old.twins, &twins, again.properties);
                if !twin.is_empty() {
                    news.push((topic::document(key), Body::Document { twin }));
                }
            }
        }
        if !delta.is_empty() && (again.delta || old.is_none_or(|old| old.delta != delta)) {
            let wanted = twins.iter().filter(|(_, twin)| twin.wanted().is_some());
            let twin = wanted.map(|(name, twin)| (name.clone(), twin.clone())).collect();
            news.push((topic::delta(key), Body::Delta { twin, delta: delta.clone() }));
        }
        self.devices.insert(key.clone(), Told { member, twins, delta });
        news
    }

    /// Says since when values are wanted.
    pub(super) fn date(&self, key: &Key, twins: &mut Twins, now_ms: i64) {
        let known = self.devices.get(key);
        for (name, twin) in twins {
            twin.date(known.and_then(|told| told.twins.get(name)), now_ms);
        }
    }

    /// The client that has set a state is told by its answer.
    pub(super) fn told_state(&mut self, shown: &DeviceShown) {
        if let Some(told) = self.devices.get_mut(&shown.key) {
            told.member = payload::member(shown);
        }
    }

    /// Devices that came and went since the last call.
    pub(super) fn take_members(&mut self) -> Vec<Body> {
        let added = std::mem::take(&mut self.added).into_values().map(|member| (true, member));
        let removed = std::mem::take(&mut self.removed).into_iter().map(|key| (false, Member::named(&key)));
        let (mut all, mut bytes) = (Vec::new(), 0);
        let (mut added_devices, mut removed_devices) = (Vec::new(), Vec::new());
        for (is_new, member) in added.chain(removed) {
            let more = payload::bytes(&member);
            if bytes > 0 && bytes + more > MEMBERS_BYTES {
                let (added_devices, removed_devices) =
                    (std::mem::take(&mut added_devices), std::mem::take(&mut removed_devices));
                all.push(Body::Membership { added_devices, removed_devices });
                bytes = 0;
            }
            bytes += more;
            if is_new { &mut added_devices } else { &mut removed_devices }.push(member);
        }
        if bytes > 0 {
            all.push(Body::Membership { added_devices, removed_devices });
        }
        all
    }
}

fn changes(old: &Twins, new: &Twins, again: &[String]) -> BTreeMap<String, Change> {
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let changed = names.into_iter().filter_map(|name| {
        let (last, current) = (old.get(name), new.get(name));
        let same = match (last, current) {
            (Some(last), Some(current)) => last.says(current),
            (last, current) => last.is_none() && current.is_none(),
        };
        let tell = !same || again.contains(name);
        tell.then(|| (name.clone(), Change { last: last.cloned(), current: current.cloned() }))
    });
    changed.collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::fleet::{State, TwinShown};
    use crate::twin::Quality;

    fn shown(state: State, value: &str, source_ms: i64, desired: &str) -> DeviceShown {
        DeviceShown {
            key: key(),
            model: String::new(),
            protocol: Arc::from("p"),
            mapper: None,
            state: Some(state),
            state_reason: String::new(),
            last_online_ms: 0,
            twins: vec![TwinShown {
                property: "t".into(),
                r#type: "INT",
                unit: String::new(),
                writable: true,
                reported: Some((value.to_owned(), Quality::Good, source_ms)),
                desired: Some((desired.to_owned(), false)),
                synced: false,
                refused: false,
                problem: String::new(),
            }],
            conditions: Vec::new(),
        }
    }

    fn key() -> Key {
        Key::checked("plant", "b1").unwrap()
    }

    fn told(news: &[(String, Body)]) -> Vec<(&str, Value)> {
        let last = |topic: &'static str| topic;
        news.iter()
            .map(|(topic, body)| {
                let topic = topic.strip_prefix("$hw/events/device/plant/b1/").unwrap();
                let topic = ["state/update/result", "twin/update/document", "twin/update/delta"]
                    .into_iter()
                    .find(|known| *known == topic)
                    .unwrap();
                (last(topic), serde_json::to_value(body).unwrap())
            })
            .collect()
    }

    #[test]
    fn only_what_is_new_is_told() {
        let mut news = News::default();
        let look = |news: &mut News, shown| news.look(&key(), Some(shown), Again::default(), 9);
        let first = look(&mut news, shown(State::Online, "5", 1, "6"));
        let [("twin/update/delta", delta)] = &told(&first)[..] else { panic!("{first:?}") };
        assert_eq!(delta["delta"], json!({ "t": "6" }));
        // Confirmed: a new time alone is no news.
        assert!(look(&mut news, shown(State::Online, "5", 2, "6")).is_empty());
        let done = look(&mut news, shown(State::Online, "6", 3, "6"));
        let [("twin/update/document", document)] = &told(&done)[..] else { panic!("{done:?}") };
        assert_eq!(document["twin"]["t"]["last"]["actual"]["value"], "5");
        assert_eq!(document["twin"]["t"]["current"]["actual"]["value"], "6");
        let offline = look(&mut news, shown(State::Offline, "6", 3, "6"));
        let [("state/update/result", state)] = &told(&offline)[..] else { panic!("{offline:?}") };
        assert_eq!(state["device"], json!({ "name": "b1", "state": "offline" }));
    }

    #[test]
    fn what_somebody_has_to_hear_is_told_again() {
        let mut news = News::default();
        let now = || Some(shown(State::Online, "5", 1, "6"));
        news.look(&key(), now(), Again::default(), 9);
        let delta = news.look(&key(), now(), Again { delta: true, properties: &[] }, 9);
        assert!(matches!(&told(&delta)[..], [("twin/update/delta", _)]));
        let both = news.look(&key(), now(), Again { delta: true, properties: &["t".to_owned()] }, 9);
        assert!(matches!(&told(&both)[..], [("twin/update/document", _), ("twin/update/delta", _)]));
    }

    #[test]
    fn members_come_and_go() {
        let mut news = News::default();
        let members = |news: &mut News| serde_json::to_value(news.take_members()).unwrap();
        let now = || Some(shown(State::Online, "5", 1, "6"));
        news.look(&key(), now(), Again::default(), 9);
        assert_eq!(members(&mut news)[0]["added_devices"][0]["id"], "plant/b1");
        assert_eq!(members(&mut news), json!([]));
        news.look(&key(), None, Again::default(), 9);
        assert_eq!(
            members(&mut news),
            json!([{ "added_devices": [], "removed_devices": [{ "id": "plant/b1", "name": "b1" }] }])
        );
        // It was never told: there is nothing to take back.
        news.look(&key(), now(), Again::default(), 9);
        news.look(&key(), None, Again::default(), 9);
        assert_eq!(members(&mut news), json!([]));
    }
    #[test]
    fn many_members_are_many_messages_and_long_twins_stay_out() {
        let mut news = News::default();
        let long = "x".repeat(MEMBERS_BYTES / 10);
        for at in 0..25 {
            let key = Key::checked("plant", &format!("d{at}")).unwrap();
            let value = if at == 7 { "x".repeat(MEMBERS_BYTES) } else { long.clone() };
            let shown = DeviceShown { key: key.clone(), ..shown(State::Online, &value, 1, "") };
            news.look(&key, Some(shown), Again::default(), 9);
        }
        let messages = news.take_members();
        assert_eq!(messages.len(), 3);
        assert!(messages.iter().all(|message| payload::bytes(message) < MEMBERS_BYTES + 100));
        let all: Vec<Value> = messages
            .iter()
            .flat_map(|message| serde_json::to_value(message).unwrap()["added_devices"].as_array().unwrap().clone())
            .collect();
        assert_eq!(all.len(), 25);
        for member in all {
            assert_eq!(member["twin"].is_null(), member["name"] == "d7", "{}", member["name"]);
        }
    }
}
