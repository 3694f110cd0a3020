//! What of a device is kept on disk, and how it comes back.
//!
//! Overlays are written before they are acknowledged; reported values, state and conditions at an interval,
//! so that after a restart the last values are shown, as Uncertain, until they are reported again. What
//! belongs to a device of another uid is dropped.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use skerry_common::Key;
use skerry_k8s_types::Condition;

use super::{Device, Fleet, State};
use crate::twin::{Earlier, Measured, Overlay, Quality};

/// A value set on the node, as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SavedOverlay {
    pub(crate) uid: String,
    pub(crate) property: String,
    pub(crate) value: String,
    pub(crate) base: String,
    pub(crate) id: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) earlier: Vec<Earlier>,
}

impl SavedOverlay {
    pub(crate) fn new(uid: &str, property: &str, overlay: &Overlay) -> Self {
        Self {
            uid: uid.to_owned(),
            property: property.to_owned(),
            value: overlay.value.clone(),
            base: overlay.base.clone(),
            id: overlay.id.clone(),
            earlier: overlay.earlier.clone(),
        }
    }
}

/// What a device said, as stored.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct SavedTwins {
    pub(crate) uid: String,
    #[serde(default)]
    state: String,
    #[serde(default)]
    last_online_ms: i64,
    #[serde(default)]
    conditions: Vec<Condition>,
    #[serde(default)]
    twins: BTreeMap<String, SavedTwin>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct SavedTwin {
    #[serde(default)]
    value: Option<String>,
    #[serde(default)]
    bad: bool,
    #[serde(default)]
    source_ms: i64,
    #[serde(default)]
    problem: String,
    #[serde(default)]
    to_cloud: bool,
    #[serde(default)]
    applied: String,
    #[serde(default)]
    refused: Option<(String, String)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    not_taken: Option<String>,
}

impl Fleet {
    /// Takes what was on disk, before the first object comes.
    pub(crate) fn load(&mut self, twins: BTreeMap<Key, SavedTwins>, overlays: BTreeMap<Key, Vec<SavedOverlay>>) {
        self.saved = twins;
        self.saved_overlays = overlays;
    }

    /// Gives a device that came what was saved of it.
    pub(super) fn restore(&mut self, device: &mut Device) {
        let key = device.key().clone();
        if let Some(saved) = self.saved.remove(&key).filter(|saved| saved.uid == device.spec.uid) {
            device.last_online_ms = saved.last_online_ms;
            device.state = State::parse(&saved.state);
            device.state_word = saved.state;
            device.conditions = saved.conditions;
            for (name, saved) in saved.twins {
                let Some(twin) = device.twins.get_mut(name.as_str()) else { continue };
                twin.state.applied = saved.applied;
                twin.state.refused = saved.refused;
                twin.state.not_taken = saved.not_taken;
                twin.state.reported = saved.value.map(|value| Measured {
                    value,
                    quality: if saved.bad { Quality::Bad } else { Quality::Uncertain },
                    source_ms: saved.source_ms,
                    at: None,
                    problem: saved.problem,
                    to_cloud: saved.to_cloud,
                });
            }
        }
        for saved in self.saved_overlays.remove(&key).unwrap_or_default() {
            let overlay = Overlay { value: saved.value, base: saved.base, id: saved.id, earlier: saved.earlier };
            let twin = device.twins.get_mut(saved.property.as_str()).filter(|_| saved.uid == device.spec.uid);
            let holds = twin.is_some_and(|twin| twin.state.set_overlay(overlay) && twin.state.overlay.is_some());
            let name = (key.clone(), saved.property.as_str().into());
            // Whether the cloud has heard of it nobody remembers.
            if holds {
                self.tell.insert(name)
            } else {
                self.forget.insert(name)
            };
        }
    }

    /// Devices of which something has changed since they were saved; at most `limit`. They count as saved.
    pub(crate) fn take_unsaved(&mut self, limit: usize) -> Vec<(Key, SavedTwins)> {
        let unsaved = self.devices.values_mut().filter(|device| device.unsaved).take(limit);
        unsaved.map(|device| (device.key().clone(), save(device))).collect()
    }

    /// Saving failed: it has to be done again.
    pub(crate) fn not_saved(&mut self, key: &Key) {
        if let Some(device) = self.devices.get_mut(key) {
            device.unsaved = true;
        }
    }
}

fn save(device: &mut Device) -> SavedTwins {
    device.unsaved = false;
    let twin = |twin: &super::device::Twin| {
        let reported = twin.state.reported.as_ref();
        SavedTwin {
            value: reported.map(|reported| reported.value.clone()),
            bad: reported.is_some_and(|reported| reported.quality == Quality::Bad),
            source_ms: reported.map_or(0, |reported| reported.source_ms),
            problem: reported.map(|reported| reported.problem.clone()).unwrap_or_default(),
            to_cloud: reported.is_some_and(|reported| reported.to_cloud),
            applied: twin.state.applied.clone(),
            refused: twin.state.refused.clone(),
            not_taken: twin.state.not_taken.clone(),
        }
    };
    SavedTwins {
        uid: device.spec.uid.clone(),
        state: device.state_word.clone(),
        last_online_ms: device.last_online_ms,
        conditions: device.conditions.clone(),
        twins: device.twins.iter().map(|(name, t)| (name.to_string(), twin(t))).collect(),
    }
}
