//! Where values go beside the node: the hook for a data plane.
//!
//! The SDK has none of its own, so a mapper without one pays for nothing; `skerry-mapper-dataplane` serves the
//! `pushMethod` of properties. Called by the engine when devices come and go, and by the tasks of lines for each
//! good value. Nothing here may block or wait: a line waits for nobody.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use serde::Deserialize;

use crate::{Definition, DeviceKey, Value};

/// Takes the values of devices.
pub trait DataPlane: Send + Sync + 'static {
    /// A device, as it is described now. Gives what is wrong in its `pushMethod`s, which is then shown with its
    /// state: the device is served all the same.
    fn define(&self, definition: &Arc<Definition>) -> Vec<String>;

    /// A device is no longer ours.
    fn remove(&self, key: &DeviceKey);

    /// A good value of a property, by its index, and when the device had it (milliseconds since the Unix epoch).
    /// Values of one property come in order. A definition that is no longer the device's is passed over.
    fn record(&self, definition: &Arc<Definition>, property: usize, value: &Value, unix_ms: i64);

    /// Keeps what is not delivered; called last.
    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

/// The section `data_plane` of a mapper's configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataPlaneConfig {
    /// Folder of values that wait for a sink that is away; `/var/lib/skerry/<name of the mapper>` without it.
    #[serde(default)]
    pub folder: Option<PathBuf>,
    /// Most bytes that wait for one sink; the oldest values are dropped first.
    #[serde(default)]
    pub spool_bytes: Option<u64>,
    /// How long a value waits at most, in seconds in which the mapper runs.
    #[serde(default)]
    pub spool_age_seconds: Option<u64>,
    /// CA certificates for TLS beside those of the system, PEM.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// InfluxDB: whether numbers are written as text, as KubeEdge's mappers do, for buckets that have such fields.
    #[serde(default)]
    pub influxdb2_text: bool,
}
