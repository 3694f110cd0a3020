//! A device as the node describes it, whatever version of the interface it came by.
//!
//! Tests of a driver write it with [`Definition::new`] and [`Definition::property`].

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::{DataType, DeviceKey, Value, ValueError};

/// KubeEdge's cycle where the Device says none.
pub(crate) const DEFAULT_CYCLE: Duration = Duration::from_secs(1);

/// Key of `visitors.configData` that the SDK takes for itself: how far a number must move to be reported before
/// its report cycle is over. Zero, the default: every change is reported.
pub(crate) const DEADBAND: &str = "deadband";

/// A JSON object.
pub(crate) type Json = serde_json::Map<String, serde_json::Value>;

/// A JSON object, kept as its text: as a map, three keys are ten times as large, and there is one for each of tens
/// of thousands of properties. The empty object has no text. The same keys and values are the same text.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct JsonText(Box<str>);

impl JsonText {
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The object.
    pub fn object(&self) -> serde_json::Map<String, serde_json::Value> {
        // It was written from one; the empty text is none.
        serde_json::from_str(&self.0).unwrap_or_default()
    }
}

impl From<Json> for JsonText {
    fn from(object: Json) -> Self {
        if object.is_empty() { Self::default() } else { Self(serde_json::Value::Object(object).to_string().into()) }
    }
}

impl fmt::Debug for JsonText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_empty() { "{}" } else { &self.0 })
    }
}

/// A device with its model's defaults merged in.
#[derive(Debug, Clone, PartialEq)]
pub struct Definition {
    /// Namespace and name.
    pub key: DeviceKey,
    /// Name of its model.
    pub model: String,
    /// `protocol.configData`.
    pub protocol_config: JsonText,
    /// Its properties. What else needs one shares it.
    pub properties: Vec<Arc<PropertyDefinition>>,
    /// Its methods.
    pub methods: Vec<MethodDefinition>,
    /// How often its state is told when it did not change; zero: never.
    pub state_cycle: Duration,
}

/// A property of a device.
#[derive(Debug, Clone, PartialEq)]
pub struct PropertyDefinition {
    /// Its name.
    pub name: Box<str>,
    /// For people.
    pub description: Box<str>,
    /// The model's type.
    pub data_type: DataType,
    /// Whether it may be written.
    pub writable: bool,
    /// Smallest value; empty: no bound.
    pub minimum: Box<str>,
    /// Largest value; empty: no bound.
    pub maximum: Box<str>,
    /// For people.
    pub unit: Box<str>,
    /// `visitors.configData`.
    pub visitor_config: JsonText,
    /// How far a number must move to be reported before its report cycle is over.
    pub deadband: f64,
    /// How often it is read.
    pub collect_cycle: Duration,
    /// How often it is reported when it did not change.
    pub report_cycle: Duration,
    /// Whether it is reported at all.
    pub report_to_cloud: bool,
    /// `pushMethod`, where else the value goes; empty: nowhere.
    pub push_method: JsonText,
}

/// A value that somebody wants a property to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Desired {
    /// As it is in the Device.
    pub(crate) value: String,
    /// Opaque: equal or not equal.
    pub(crate) version: String,
}

/// What is wanted of a device, by the index of its properties; nothing of most of them.
pub(crate) type Wishes = BTreeMap<usize, Desired>;

/// A method of a device: a name for a group of properties.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MethodDefinition {
    /// Its name.
    pub name: String,
    /// For people.
    pub description: String,
    /// Names of its properties.
    pub properties: Vec<String>,
}

impl Definition {
    /// A device without properties, reached by `protocol_config` (a JSON object; anything else is empty).
    pub fn new(namespace: &str, name: &str, protocol_config: serde_json::Value) -> Self {
        Self {
            key: DeviceKey { namespace: namespace.to_owned(), name: name.to_owned() },
            model: String::new(),
            protocol_config: object(protocol_config),
            properties: Vec::new(),
            methods: Vec::new(),
            state_cycle: Duration::ZERO,
        }
    }

    /// The index of the property of this name.
    pub(crate) fn position(&self, name: &str) -> Option<usize> {
        self.properties.iter().position(|property| *property.name == *name)
    }

    /// As [`Definition::position`], where it is most likely at `index`: another version of a device has most of its
    /// properties where they were, and looking for each among thousands would hold up the others.
    pub(crate) fn position_near(&self, index: usize, name: &str) -> Option<usize> {
        let there = self.properties.get(index).is_some_and(|property| *property.name == *name);
        if there { Some(index) } else { self.position(name) }
    }

    /// With one more property, readable and writable, read and reported each second.
    #[must_use]
    pub fn property(mut self, name: &str, data_type: DataType, visitor_config: serde_json::Value) -> Self {
        self.properties.push(Arc::new(PropertyDefinition {
            name: name.into(),
            description: Box::default(),
            data_type,
            writable: true,
            minimum: Box::default(),
            maximum: Box::default(),
            unit: Box::default(),
            visitor_config: object(visitor_config),
            deadband: 0.0,
            collect_cycle: DEFAULT_CYCLE,
            report_cycle: DEFAULT_CYCLE,
            report_to_cloud: true,
            push_method: JsonText::default(),
        }));
        self
    }
}

impl PropertyDefinition {
    /// A value that somebody wants, as this property takes it.
    ///
    /// # Errors
    /// When the property cannot be written, or the value is not of its type or range.
    pub fn accept(&self, text: &str) -> Result<Value, ValueError> {
        if !self.writable {
            return Err(ValueError::ReadOnly);
        }
        let value = Value::parse(self.data_type, text)?;
        value.check_range(&self.minimum, &self.maximum)?;
        Ok(value)
    }
}

/// Takes the SDK's own key out of a visitor's configuration.
pub(crate) fn take_deadband(config: &mut Json) -> Result<f64, String> {
    let Some(value) = config.remove(DEADBAND) else { return Ok(0.0) };
    let number = match &value {
        serde_json::Value::String(text) => text.trim().parse().ok(),
        other => other.as_f64(),
    };
    let number = number.filter(|n: &f64| n.is_finite() && *n >= 0.0);
    number.ok_or_else(|| format!("visitors.configData: {DEADBAND} must be a number that is not negative"))
}

fn object(value: serde_json::Value) -> JsonText {
    match value {
        serde_json::Value::Object(object) => object.into(),
        _ => JsonText::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_kept_as_it_was_and_compared_by_what_is_in_it() {
        let text = |json: &str| JsonText::from(serde_json::from_str::<Json>(json).unwrap());
        assert_eq!(text(r#"{"b": 18446744073709551615, "a": [1.5]}"#), text(r#"{"a":[1.5],"b":18446744073709551615}"#));
        assert_eq!(text(r#"{"b": 18446744073709551615}"#).object()["b"].as_u64(), Some(u64::MAX));
        assert!(text("{}").is_empty() && text("{}").object().is_empty());
        assert_ne!(text(r#"{"a":1}"#), text(r#"{"a":2}"#));
    }

    /// There are tens of thousands of these in a mapper.
    #[test]
    fn a_property_is_small() {
        assert!(size_of::<PropertyDefinition>() <= 160, "{}", size_of::<PropertyDefinition>());
    }
}
