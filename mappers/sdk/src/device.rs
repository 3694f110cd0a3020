//! A device as a driver sees it: its configuration in the driver's own types.
//!
//! Made from a [`Definition`] whenever the node sends a new version; it never changes afterwards.

use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::definition::JsonText;
use crate::{DataType, Definition, Driver, Fault, PropertyDefinition, Value, ValueError};

/// Namespace and name of a Device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceKey {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl DeviceKey {
    /// Of these names.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

impl fmt::Display for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A device.
pub struct Device<D: Driver> {
    /// Namespace and name.
    pub key: DeviceKey,
    /// How it is reached.
    pub protocol: D::Protocol,
    /// Its properties.
    pub points: Vec<Point<D>>,
}

/// A property of a device.
pub struct Point<D: Driver> {
    /// Where it is in the device.
    pub visitor: D::Visitor,
    /// What the Device and its model say of it.
    pub property: Arc<PropertyDefinition>,
}

impl<D: Driver> Device<D> {
    /// Reads a definition with the driver's types.
    ///
    /// # Errors
    /// [`Fault::Config`] that names the field.
    pub fn new(definition: &Definition) -> Result<Self, Fault> {
        let protocol = parse("protocol.configData", &definition.protocol_config)?;
        let point = |property: &Arc<PropertyDefinition>| {
            let place = format!("property {}: visitors.configData", property.name);
            let visitor = parse(&place, &property.visitor_config)?;
            Ok(Point { visitor, property: Arc::clone(property) })
        };
        let points = definition.properties.iter().map(point).collect::<Result<_, Fault>>()?;
        Ok(Self { key: definition.key.clone(), protocol, points })
    }

    /// The point of this name.
    pub fn point(&self, name: &str) -> Option<&Point<D>> {
        self.points.iter().find(|point| *point.property.name == *name)
    }
}

impl<D: Driver> Point<D> {
    /// Name of the property.
    pub fn name(&self) -> &str {
        &self.property.name
    }

    /// Its type in the model.
    pub fn data_type(&self) -> DataType {
        self.property.data_type
    }

    /// A value that somebody wants, as this point takes it.
    ///
    /// # Errors
    /// When the property cannot be written, or the value is not of its type or range.
    pub fn accept(&self, text: &str) -> Result<Value, ValueError> {
        self.property.accept(text)
    }
}

fn parse<T: DeserializeOwned>(place: &str, config: &JsonText) -> Result<T, Fault> {
    T::deserialize(serde_json::Value::Object(config.object()))
        .map_err(|error| Fault::Config(format!("{place}: {error}")))
}

impl<D: Driver> fmt::Debug for Device<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("key", &self.key).field("points", &self.points).finish_non_exhaustive()
    }
}

impl<D: Driver> fmt::Debug for Point<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Point").field(&self.property.name).finish()
    }
}
