//! One device: its twins, its state, and when to tell the cloud.
//!
//! Invariants: a status that changes a condition or the state, or brings a first value, goes at once but for
//! [`URGENT_GAP_MS`]; changed values go at most once in [`Pace::values_ms`]; values that are only confirmed go
//! once in [`Pace::refresh_ms`]. Limits: one status per device waits, the newest.

use std::collections::BTreeMap;
use std::sync::Arc;

use skerry_common::Key;
use skerry_k8s_types::Condition;

use super::conditions;
use super::mapper::MapperId;
use crate::twin::{CloudChange, Measured, Now, Property, PropertySpec, Quality, Spec, Sync};

/// Between two statuses of a device that are urgent: what flaps must not become a stream of writes.
const URGENT_GAP_MS: u64 = 1_000;

/// How often the cloud hears of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pace {
    /// Between statuses with changed values.
    pub(crate) values_ms: u64,
    /// Between statuses whose values are only confirmed.
    pub(crate) refresh_ms: u64,
}

/// How a device is, as its mapper says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It works.
    Online,
    /// It cannot be reached.
    Offline,
    /// It can be reached and does not work.
    Unhealthy,
    /// Nobody knows.
    Unknown,
}

impl State {
    /// Reads the word of a v1beta1 mapper.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text {
            "ok" | "online" => Some(Self::Online),
            "offline" => Some(Self::Offline),
            "unhealthy" => Some(Self::Unhealthy),
            "unknown" => Some(Self::Unknown),
            _ => None,
        }
    }

    /// The word for it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Offline => "offline",
            Self::Unhealthy => "unhealthy",
            Self::Unknown => "unknown",
        }
    }
}

/// A property of the device and its twin.
#[derive(Debug, Clone)]
pub(crate) struct Twin {
    pub(crate) spec: PropertySpec,
    pub(crate) state: Property,
    /// The quality that was told last.
    told: Option<Quality>,
}

impl Twin {
    /// Whether the value is good, as of the last look.
    pub(crate) fn told_good(&self) -> bool {
        self.told == Some(Quality::Good)
    }
}

/// What the mapper did with the device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Served {
    /// Not known yet.
    #[default]
    Pending,
    /// It serves it.
    Yes,
    /// It cannot, with these words.
    Refused(String),
}

/// See the module documentation.
#[derive(Debug, Clone)]
pub(crate) struct Device {
    pub(crate) spec: Spec,
    pub(crate) twins: BTreeMap<Arc<str>, Twin>,
    /// The mapper that has it; it may be away for a moment.
    pub(crate) mapper: Option<MapperId>,
    pub(crate) served: Served,
    /// It was reported over the event bus since it had a mapper, or since the start.
    pub(crate) over_bus: bool,
    pub(crate) state: Option<State>,
    /// The mapper's word for the state; `ok` is also `online`.
    pub(crate) state_word: String,
    pub(crate) state_reason: String,
    pub(crate) last_online_ms: i64,
    pub(crate) conditions: Vec<Condition>,
    /// When the cloud was told last; `None`: not since the start.
    sent_at: Option<u64>,
    urgent: bool,
    changed: bool,
    touched: bool,
    /// A report may have changed more than the value: its quality, or whether the device has what is wanted.
    pub(super) moved: bool,
    /// Something changed since the last checkpoint.
    pub(crate) unsaved: bool,
}

impl Device {
    pub(crate) fn new(spec: Spec) -> Self {
        let mut device = Self {
            spec,
            twins: BTreeMap::new(),
            mapper: None,
            served: Served::Pending,
            over_bus: false,
            state: None,
            state_word: String::new(),
            state_reason: String::new(),
            last_online_ms: 0,
            conditions: Vec::new(),
            sent_at: None,
            urgent: true,
            changed: true,
            touched: false,
            moved: false,
            unsaved: false,
        };
        device.adopt_properties();
        device
    }

    /// Takes a new spec of the same device. Returns the properties whose overlay has ended, and those whose
    /// overlay must be told again.
    pub(crate) fn update(&mut self, spec: Spec) -> Overlays {
        if self.spec.version != spec.version {
            self.served = Served::Pending;
        }
        self.spec = spec;
        self.urgent = true;
        self.adopt_properties()
    }

    fn adopt_properties(&mut self) -> Overlays {
        let mut changes = Overlays::default();
        let mut old = std::mem::take(&mut self.twins);
        for mut spec in std::mem::take(&mut self.spec.properties) {
            let mut state = old.remove(&spec.name).map(|twin| twin.state).unwrap_or_default();
            match state.set_cloud(spec.desired.take(), self.spec.answers.get(&spec.name)) {
                CloudChange::OverlayEnded => changes.ended.push(Arc::clone(&spec.name)),
                CloudChange::Rebased => changes.tell.push(Arc::clone(&spec.name)),
                CloudChange::Changed | CloudChange::Same => {}
            }
            self.twins.insert(Arc::clone(&spec.name), Twin { spec, state, told: None });
        }
        for (name, twin) in old {
            if twin.state.overlay.is_some() {
                changes.ended.push(name);
            }
        }
        changes
    }

    /// Takes a value.
    pub(crate) fn report(&mut self, property: &str, measured: Measured) -> Result<(), &'static str> {
        let Some(twin) = self.twins.get_mut(property) else {
            return Err("the device has no such property");
        };
        let old = twin.state.reported.as_ref();
        let is_new = old.is_none_or(|old| old.value != measured.value || old.quality != measured.quality);
        if measured.to_cloud {
            // The first value of a property, also the first one after a start, is what somebody waits for.
            self.urgent |= old.is_none();
            self.changed |= is_new;
            self.touched = true;
        }
        self.moved |= twin.told != Some(measured.quality) || twin.state.desired().is_some();
        self.unsaved = true;
        twin.state.report(measured);
        Ok(())
    }

    /// Takes a state.
    pub(crate) fn set_state(&mut self, state: State, word: &str, reason: &str, now: Now) {
        if state == State::Online {
            self.last_online_ms = now.wall;
            self.touched = true;
        }
        if self.state != Some(state) || self.state_word != word || self.state_reason != reason {
            self.state = Some(state);
            word.clone_into(&mut self.state_word);
            reason.clone_into(&mut self.state_reason);
            self.urgent = true;
            self.unsaved = true;
        }
    }

    /// An outcome of a desired value came.
    pub(crate) fn touch_outcome(&mut self) {
        self.moved = true;
        self.unsaved = true;
    }

    /// Says that what is shown of the device may be another.
    pub(crate) fn touch(&mut self) {
        self.changed = true;
        self.unsaved = true;
    }

    /// How far a property can be trusted now.
    pub(crate) fn quality(twin: &Twin, now: Now, served: bool) -> Option<Quality> {
        twin.state.quality(now, twin.spec.fresh_ms(), served)
    }

    /// Computes what follows from time and from the mapper's presence. Returns whether something that is
    /// shown has changed.
    pub(crate) fn look(&mut self, now: Now, mapper: conditions::MapperState<'_>) -> bool {
        let served = mapper.serves();
        self.moved = false;
        let mut moved = false;
        for twin in self.twins.values_mut() {
            let quality = twin.state.quality(now, twin.spec.fresh_ms(), served);
            if quality != twin.told {
                twin.told = quality;
                moved = true;
                self.changed |= twin.state.reported.as_ref().is_some_and(|r| r.to_cloud);
            }
        }
        if conditions::update(self, now, mapper) {
            self.urgent = true;
            moved = true;
        }
        moved
    }

    /// When the cloud shall hear of the device, by the clock that only runs forward; `None`: there is
    /// nothing to say.
    pub(crate) fn due(&self, pace: Pace) -> Option<u64> {
        let Some(sent_at) = self.sent_at else { return Some(0) };
        let after = if self.urgent {
            URGENT_GAP_MS
        } else if self.changed {
            pace.values_ms
        } else if self.touched {
            pace.refresh_ms
        } else {
            return None;
        };
        Some(sent_at.saturating_add(after))
    }

    /// The status that was made now is on its way.
    pub(crate) fn sent(&mut self, now: Now) {
        self.sent_at = Some(now.mono);
        self.urgent = false;
        self.changed = false;
        self.touched = false;
    }

    /// Whether the device has everything that is wanted.
    pub(crate) fn sync(&self) -> Vec<(&str, Sync<'_>)> {
        let kind = |twin: &Twin| twin.spec.model.as_ref().and_then(|model| model.r#type);
        self.twins
            .iter()
            .filter(|(_, twin)| twin.spec.writable())
            .map(|(name, twin)| (&**name, twin.state.sync(kind(twin))))
            .collect()
    }

    pub(crate) fn key(&self) -> &Key {
        &self.spec.key
    }
}

/// What an update did to values that were set on the node.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Overlays {
    /// They do not hold any more.
    pub(crate) ended: Vec<Arc<str>>,
    /// They hold, and the cloud shall hear of them again.
    pub(crate) tell: Vec<Arc<str>>,
}
