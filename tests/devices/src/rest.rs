//! What is so when everything has come to rest: the Device, dmi, the device and the DeviceStatus say the same.

use kube::api::DynamicObject;
use skerry_proto::dmi::v1 as pb;

use crate::api::devices_api;
use crate::plant::refuses;
use crate::system::System;

/// A device as everybody sees it, at rest.
#[derive(Debug, Clone)]
pub struct Rest {
    device: DynamicObject,
    status: DynamicObject,
    view: pb::DeviceView,
}

/// The desired value of a property in a Device; canonical numbers only.
pub fn desired_in(device: &DynamicObject, property: &str) -> Option<i64> {
    let properties = device.data["spec"]["properties"].as_array()?;
    let found = properties.iter().find(|known| known["name"] == property)?;
    found["desired"]["value"].as_str()?.parse().ok()
}

impl Rest {
    /// Looks at a device.
    ///
    /// # Errors
    /// Who does not know it, or why it is not at rest yet.
    pub async fn look(system: &System, name: &str, properties: &[&str]) -> Result<Self, String> {
        let get = async |kind: &str| {
            let found = devices_api(&system.client, kind).get_opt(name).await.map_err(|error| error.to_string())?;
            found.ok_or_else(|| format!("there is no {kind} {name}"))
        };
        let device = get("Device").await?;
        let status = get("DeviceStatus").await?;
        let view = system.view(name).await.map_err(|error| format!("{name}: {error:#}"))?;
        let rest = Self { device, status, view };
        let mut refused = Vec::new();
        for property in properties {
            let is_refused = rest.agrees(system, name, property).map_err(|why| format!("{name}/{property}: {why}"))?;
            if is_refused {
                refused.push(*property);
            }
        }
        rest.conditions(&refused).map_err(|why| format!("{name}: {why}"))?;
        Ok(rest)
    }

    /// The versions of both objects: they change with every write.
    pub fn versions(&self) -> (Option<String>, Option<String>) {
        (self.device.metadata.resource_version.clone(), self.status.metadata.resource_version.clone())
    }

    /// What the Device wants.
    pub fn desired(&self, property: &str) -> Option<i64> {
        desired_in(&self.device, property)
    }

    /// Whether everybody says the same of a property; with whether the device refuses what is wanted.
    fn agrees(&self, system: &System, name: &str, property: &str) -> Result<bool, String> {
        let wanted = self.desired(property);
        let text = wanted.map(|value| value.to_string());
        let twin = self.view.twins.iter().find(|twin| twin.property == property).ok_or("dmi has no twin")?;
        if twin.desired != text {
            return Err(format!("the Device wants {wanted:?}, and dmi {:?}", twin.desired));
        }
        if twin.desired.is_some() && twin.desired_origin() != pb::DesiredOrigin::Cloud {
            return Err(format!("{wanted:?} still counts as set on the node"));
        }
        let refused = wanted.filter(|wanted| refuses(property, *wanted));
        let held = system.plant.holds(name, property);
        if let Some(refused) = refused {
            if system.plant.told(name, property) != Some(refused) {
                return Err(format!("the device was not told {refused} last"));
            }
        } else if wanted.is_some_and(|wanted| wanted != held) {
            return Err(format!("{wanted:?} is wanted, and the device holds {held}"));
        }
        if twin.reported.as_deref() != Some(held.to_string().as_str()) || twin.quality() != pb::Quality::Good {
            return Err(format!("the device holds {held}, and dmi says {:?} {:?}", twin.reported, twin.quality()));
        }
        let twins = self.status.data["status"]["twins"].as_array();
        let cloud = twins.into_iter().flatten().find(|twin| twin["propertyName"] == property);
        let in_cloud = |field: &str| cloud.and_then(|twin| twin[field]["value"].as_str()).map(str::to_owned);
        if in_cloud("reported") != Some(held.to_string()) {
            return Err(format!("the device holds {held}, and the DeviceStatus says {:?}", in_cloud("reported")));
        }
        if in_cloud("observedDesired") != text {
            return Err(format!("{wanted:?} is wanted, and the DeviceStatus says {:?}", in_cloud("observedDesired")));
        }
        Ok(refused.is_some())
    }

    fn conditions(&self, refused: &[&str]) -> Result<(), String> {
        let synced = if refused.is_empty() { ("True", "AllSynced") } else { ("False", "DesiredRefused") };
        let wanted = [("Ready", ("True", "MapperServes")), ("Online", ("True", "DeviceOnline")), ("Synced", synced)];
        for (kind, object) in [("Device", &self.device), ("DeviceStatus", &self.status)] {
            let conditions = object.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
            for (r#type, (status, reason)) in wanted {
                let Some(found) = conditions.iter().find(|condition| condition["type"] == r#type) else {
                    return Err(format!("the {kind} has no condition {type}"));
                };
                if found["status"] != status || found["reason"] != reason {
                    return Err(format!("{status} {reason} is true, and the {kind} says {found}"));
                }
            }
        }
        let generation = self.device.metadata.generation;
        if self.device.data["status"]["observedGeneration"].as_i64() != generation {
            return Err(format!("the generation {generation:?} was not seen"));
        }
        Ok(())
    }
}
