//! One property's twin: what the cloud wants, what the node wants, what the device says.
//!
//! Invariants: there is an overlay only while the cloud's value is the one that it replaced; a desired value
//! counts as taken over only when the mapper said so for that value, or the device reports it; a value that
//! was not reported for longer than its limit, or not since the start, is never Good.

use skerry_common::desired::Answer;
use skerry_common::kinds::desired_base;
use skerry_k8s_types::PropertyType;

use super::{Now, same};

/// Earlier writes of the node whose answer did not come yet. Of more in a row those in the middle are forgotten: what
/// may have been taken was on its way when the link was lost, or is new.
pub(crate) const MAX_EARLIER: usize = 16;

/// How far a value can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Quality {
    /// The device has it.
    Good,
    /// The device had it, and may have another by now; or doubts it.
    Uncertain,
    /// There is no usable value.
    Bad,
}

impl Quality {
    /// As people read it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Good => "Good",
            Self::Uncertain => "Uncertain",
            Self::Bad => "Bad",
        }
    }
}

/// A desired value that was set on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Overlay {
    pub(crate) value: String,
    /// [`desired_base`] of the cloud's value that it replaces.
    pub(crate) base: String,
    /// Names this write, for the cloud's answer.
    pub(crate) id: String,
    /// The node's earlier writes that the cloud may still come to take, oldest first.
    pub(crate) earlier: Vec<Earlier>,
}

/// A write of the node that was replaced by another before its answer came.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Earlier {
    pub(crate) id: String,
    /// [`desired_base`] of its value.
    pub(crate) version: String,
}

/// What a device said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Measured {
    /// Empty where there is no usable value.
    pub(crate) value: String,
    /// As the mapper qualifies it.
    pub(crate) quality: Quality,
    /// When the device had it, milliseconds since the epoch.
    pub(crate) source_ms: i64,
    /// When it came, by the clock that only runs forward; `None`: before the start of this process.
    pub(crate) at: Option<u64>,
    /// Why it is not good.
    pub(crate) problem: String,
    /// Whether it is for the cloud.
    pub(crate) to_cloud: bool,
}

/// Whether the device has the desired value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sync<'a> {
    /// Nothing is wanted.
    Nothing,
    /// It has it.
    Yes,
    /// Not yet.
    Pending,
    /// It refused, with these words.
    Refused(&'a str),
}

/// What a value of the cloud did to the twin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CloudChange {
    /// Nothing: it is the value that was known.
    Same,
    /// What is wanted of the device may be another value now.
    Changed,
    /// The overlay has ended: accepted, or overruled.
    OverlayEnded,
    /// An earlier write of the node was accepted; the overlay holds, with a new base, and must be told again.
    Rebased,
}

/// See the module documentation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Property {
    pub(crate) cloud: Option<String>,
    pub(crate) overlay: Option<Overlay>,
    /// The cloud's answer to a write of the node, as it came with its value.
    pub(crate) answer: Option<Answer>,
    /// Why the last value that was set on the node is not wanted any more, for people.
    pub(crate) not_taken: Option<String>,
    pub(crate) reported: Option<Measured>,
    /// Version of the desired value that the device has taken over.
    pub(crate) applied: String,
    /// Version of the desired value that the device refused, and its words.
    pub(crate) refused: Option<(String, String)>,
}

impl Property {
    /// What is wanted of the device.
    pub(crate) fn desired(&self) -> Option<&str> {
        self.overlay.as_ref().map(|overlay| overlay.value.as_str()).or(self.cloud.as_deref())
    }

    /// Version of what is wanted.
    pub(crate) fn version(&self) -> Option<String> {
        self.desired().map(|value| desired_base(Some(value)))
    }

    /// Takes what the cloud wants, and what it answered last.
    pub(crate) fn set_cloud(&mut self, value: Option<String>, answer: Option<&Answer>) -> CloudChange {
        let known = self.cloud == value;
        if !known {
            self.not_taken = None;
        }
        self.cloud = value;
        self.answer = answer.cloned();
        self.weigh().unwrap_or(if known { CloudChange::Same } else { CloudChange::Changed })
    }

    /// Whether the overlay still holds against the cloud's value and answer.
    fn weigh(&mut self) -> Option<CloudChange> {
        let version = desired_base(self.cloud.as_deref());
        let overlay = self.overlay.as_mut()?;
        let earlier = |id: &str| overlay.earlier.iter().position(|earlier| earlier.id == id);
        match &self.answer {
            // Whatever is wanted now is wanted with knowledge of it.
            Some(answer) if answer.id == overlay.id => {}
            Some(answer) if let Some(at) = earlier(&answer.id) => {
                let answered = overlay.earlier.drain(..=at).next_back();
                match answered.filter(|_| answer.refused.is_none()) {
                    Some(taken) if taken.version == version => {
                        overlay.base = version;
                        return Some(CloudChange::Rebased);
                    }
                    // It was taken, and the value then changed in the cloud.
                    Some(_) => {}
                    None if overlay.base == version => return None,
                    None => {}
                }
            }
            _ if overlay.base == version => return None,
            // A cloud that gives no answers: by the value alone.
            _ => {
                if let Some(at) = overlay.earlier.iter().position(|earlier| earlier.version == version) {
                    overlay.earlier.drain(..=at);
                    overlay.base = version;
                    return Some(CloudChange::Rebased);
                }
            }
        }
        let overlay = self.overlay.take()?;
        let refused = self.answer.as_ref().filter(|answer| answer.id == overlay.id);
        if let Some(why) = refused.and_then(|answer| answer.refused.as_ref()) {
            self.not_taken = Some(format!("the cloud did not take {}, which was set here: {why}", overlay.value));
        } else if refused.is_none() && self.cloud.as_deref() != Some(&overlay.value) {
            self.not_taken =
                Some(format!("{}, which was set here, was replaced: the cloud has changed it", overlay.value));
        }
        Some(CloudChange::OverlayEnded)
    }

    /// The overlay that a write on the node makes.
    pub(crate) fn overlay_of(&self, value: &str, id: &str) -> Overlay {
        let mut earlier = Vec::new();
        if let Some(old) = &self.overlay {
            earlier.clone_from(&old.earlier);
            earlier.push(Earlier { id: old.id.clone(), version: desired_base(Some(&old.value)) });
            if earlier.len() > MAX_EARLIER {
                earlier.remove(MAX_EARLIER / 2);
            }
        }
        let base = desired_base(self.cloud.as_deref());
        Overlay { value: value.to_owned(), base, id: id.to_owned(), earlier }
    }

    /// Takes an overlay that is durable now. Whether its value is what is wanted: not when the cloud's value has
    /// changed since it was made. There is none afterwards where the cloud wants the same.
    pub(crate) fn set_overlay(&mut self, overlay: Overlay) -> bool {
        self.not_taken = None;
        if overlay.earlier.is_empty() && self.cloud.as_deref() == Some(&overlay.value) {
            self.overlay = None;
            return true;
        }
        self.overlay = Some(overlay);
        self.weigh() != Some(CloudChange::OverlayEnded)
    }

    /// Takes the outcome of a desired value. Outcomes of older values say nothing.
    pub(crate) fn outcome(&mut self, version: &str, refused: Option<&str>) {
        match refused {
            Some(words) => {
                if self.version().as_deref() == Some(version) {
                    self.refused = Some((version.to_owned(), words.to_owned()));
                }
            }
            None => {
                version.clone_into(&mut self.applied);
                self.refused.take_if(|(refused, _)| refused == version);
            }
        }
    }

    /// Takes what the device said.
    pub(crate) fn report(&mut self, measured: Measured) {
        self.reported = Some(measured);
    }

    /// Whether the device has what is wanted.
    pub(crate) fn sync(&self, kind: Option<PropertyType>) -> Sync<'_> {
        let (Some(desired), Some(version)) = (self.desired(), self.version()) else { return Sync::Nothing };
        let reported = self.reported.as_ref().filter(|r| r.quality == Quality::Good && r.at.is_some());
        if self.applied == version || reported.is_some_and(|reported| same(kind, &reported.value, desired)) {
            return Sync::Yes;
        }
        match &self.refused {
            Some((refused, words)) if *refused == version => Sync::Refused(words),
            _ => Sync::Pending,
        }
    }

    /// How far the value can be trusted now. `limit_ms` is how long it counts as fresh; `served`: its
    /// mapper is there.
    pub(crate) fn quality(&self, now: Now, limit_ms: u64, served: bool) -> Option<Quality> {
        let reported = self.reported.as_ref()?;
        let fresh = served && reported.at.is_some_and(|at| now.mono.saturating_sub(at) <= limit_ms);
        Some(if fresh { reported.quality } else { reported.quality.max(Quality::Uncertain) })
    }
}
