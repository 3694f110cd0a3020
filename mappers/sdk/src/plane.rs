//! The side of the data plane that the SDK keeps: what it is told, and what is wrong with devices' `pushMethod`s.
//!
//! What cannot be used is logged once and shown with the state Online, so that it is read in the device's
//! condition: the device works, only its values do not go where somebody wanted them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::data_plane::DataPlane;
use crate::report::DeviceState;
use crate::schedule::Effects;
use crate::{Definition, DeviceKey, Quality};

/// See the module documentation. Clones are the same.
#[derive(Clone)]
pub(crate) struct Plane {
    plane: Arc<dyn DataPlane>,
    problems: Arc<Mutex<BTreeMap<DeviceKey, String>>>,
}

impl Plane {
    pub(crate) fn new(plane: Arc<dyn DataPlane>) -> Self {
        Self { plane, problems: Arc::default() }
    }

    /// What is wrong; empty: nothing.
    pub(crate) fn define(&self, definition: &Arc<Definition>) -> String {
        let words = self.plane.define(definition).join("; ");
        if words.is_empty() {
            self.lock().remove(&definition.key);
        } else {
            tracing::warn!(device = %definition.key, problem = words, "values do not go where they should");
            self.lock().insert(definition.key.clone(), words.clone());
        }
        words
    }

    pub(crate) fn remove(&self, key: &DeviceKey) {
        self.plane.remove(key);
        self.lock().remove(key);
    }

    /// Hands on the good values, and says with the state Online what is wrong.
    pub(crate) fn take(&self, effects: &mut Effects) {
        for (definition, reports) in &effects.reports {
            for (index, report) in reports {
                let pushed = definition.properties.get(*index).is_some_and(|property| !property.push_method.is_empty());
                if let (true, Quality::Good, Some(value)) = (pushed, report.quality, &report.value) {
                    self.plane.record(definition, *index, value, report.source_unix_ms);
                }
            }
        }
        for (definition, state, reason) in &mut effects.states {
            if *state == DeviceState::Online && reason.is_empty() {
                reason.extend(self.lock().get(&definition.key).map(String::as_str));
            }
        }
    }

    pub(crate) async fn close(&self) {
        self.plane.close().await;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<DeviceKey, String>> {
        self.problems.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Report;
    use crate::{DataType, Sample, Value};
    use std::pin::Pin;

    #[derive(Default)]
    struct Kept(Mutex<Vec<(usize, Value, i64)>>);

    impl DataPlane for Kept {
        fn define(&self, definition: &Arc<Definition>) -> Vec<String> {
            definition.properties.iter().filter(|p| &*p.name == "wrong").map(|p| format!("{}: no", p.name)).collect()
        }

        fn remove(&self, _: &DeviceKey) {}

        fn record(&self, _: &Arc<Definition>, property: usize, value: &Value, unix_ms: i64) {
            self.0.lock().unwrap().push((property, value.clone(), unix_ms));
        }

        fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
            Box::pin(std::future::ready(()))
        }
    }

    #[test]
    fn good_values_of_properties_with_a_push_method_go_out_and_what_is_wrong_is_shown() {
        let json = || serde_json::Value::Null;
        let mut definition = Definition::new("default", "a", json());
        for name in ["pushed", "quiet", "wrong"] {
            definition = definition.property(name, DataType::Int, json());
        }
        let push = serde_json::Map::from_iter([("http".to_owned(), json())]);
        Arc::make_mut(&mut definition.properties[0]).push_method = push.into();
        let definition = Arc::new(definition);
        let kept = Arc::new(Kept::default());
        let plane = Plane::new(Arc::clone(&kept) as _);
        assert_eq!(plane.define(&definition), "wrong: no");
        let report = |sample| Report::of(sample, DataType::Int, 5);
        let mut effects = Effects::default();
        let reports = [(0, Sample::good(1_i64)), (1, Sample::good(2_i64)), (0, Sample::uncertain(3_i64, "old"))];
        let reports = reports.into_iter().map(|(index, sample)| (index, Arc::new(report(sample)))).collect();
        effects.reports.push((Arc::clone(&definition), reports));
        for (state, reason) in [(DeviceState::Online, ""), (DeviceState::Offline, "away")] {
            effects.states.push((Arc::clone(&definition), state, reason.to_owned()));
        }
        plane.take(&mut effects);
        assert_eq!(*kept.0.lock().unwrap(), [(0, Value::Int(1), 5)]);
        let reasons: Vec<_> = effects.states.iter().map(|(_, _, reason)| reason.as_str()).collect();
        assert_eq!(reasons, ["wrong: no", "away"]);
        plane.remove(&definition.key);
        let mut later = Effects::default();
        later.states.push((Arc::clone(&definition), DeviceState::Online, String::new()));
        plane.take(&mut later);
        assert_eq!(later.states[0].2, "");
    }
}
