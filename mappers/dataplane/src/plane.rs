//! The data plane of one mapper: which properties go to which sinks, and one task per sink.
//!
//! Called by the SDK: when devices come and go, and by the tasks of lines for each value, which is put into the
//! queues of its sinks and nothing more. A sink lives as long as the mapper, also when no device uses it any more:
//! what waits for it is still delivered.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use skerry_mapper_sdk::{CancellationToken, DataPlane, DataPlaneConfig, Definition, DeviceKey, Value};
use skerry_telemetry::Registry;
use tokio_util::task::TaskTracker;

use crate::metrics::Metrics;
use crate::queue::Queue;
use crate::record::{Record, Target};
use crate::route::{self, SinkKey};
use crate::secrets::Secrets;
use crate::sink::{Means, Sink};
use crate::spool::{DEFAULT_SPOOL_AGE, DEFAULT_SPOOL_BYTES, Spool};
use crate::tls::Tls;
use crate::worker::{Keeper, Worker};

/// Sinks of one mapper: each has a connection, a queue and a part of the disk.
const MAX_SINKS: usize = 64;
/// Folder of the spools of all mappers.
const DEFAULT_FOLDER: &str = "/var/lib/skerry";

/// Opens the data plane of a mapper with the credentials of this process: what `skerry_mapper_sdk::run_with` wants.
pub fn open(config: &DataPlaneConfig, mapper: &str, registry: &Registry) -> Arc<dyn DataPlane> {
    Arc::new(Plane::new(config, mapper, registry, Secrets::from_environment()))
}

/// See the module documentation.
pub struct Plane {
    means: Means,
    spool: Spool,
    metrics: Metrics,
    tasks: TaskTracker,
    stop: CancellationToken,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Only devices with a property that goes somewhere.
    devices: HashMap<DeviceKey, Routes>,
    sinks: BTreeMap<SinkKey, Arc<Queue>>,
}

/// Where the properties of a device go.
struct Routes {
    definition: Arc<Definition>,
    /// In the order of the properties.
    properties: Vec<Vec<(Arc<Queue>, Arc<Target>)>>,
}

impl Plane {
    /// Nothing is opened yet: that waits for the first sink.
    pub fn new(config: &DataPlaneConfig, mapper: &str, registry: &Registry, secrets: Secrets) -> Self {
        let folder: PathBuf = config.folder.clone().unwrap_or_else(|| Path::new(DEFAULT_FOLDER).join(mapper));
        let bytes = config.spool_bytes.unwrap_or(DEFAULT_SPOOL_BYTES);
        let age = config.spool_age_seconds.map_or(DEFAULT_SPOOL_AGE, Duration::from_secs);
        let tls = Tls::new(config.ca_file.clone());
        Self {
            means: Means { secrets, tls, influxdb2_text: config.influxdb2_text },
            spool: Spool::new(&folder, bytes, age),
            metrics: Metrics::register(registry),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            inner: Mutex::default(),
        }
    }

    /// The queue of a sink, which is started if it is new.
    fn sink(&self, inner: &mut Inner, key: SinkKey) -> Result<Arc<Queue>, String> {
        if let Some(queue) = inner.sinks.get(&key) {
            return Ok(Arc::clone(queue));
        }
        if inner.sinks.len() >= MAX_SINKS {
            return Err(format!("a mapper sends to at most {MAX_SINKS} sinks"));
        }
        let sink = Sink::new(&key, &self.means).ok_or("this mapper was built without it")?;
        let queue = Arc::new(Queue::default());
        let metrics = self.metrics.of(key.kind());
        let keeper = Keeper::new(key.to_string().into(), Arc::clone(&queue), self.spool.clone(), metrics);
        self.tasks.spawn(Worker { sink, keeper }.run(self.stop.clone()));
        inner.sinks.insert(key, Arc::clone(&queue));
        Ok(queue)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DataPlane for Plane {
    fn define(&self, definition: &Arc<Definition>) -> Vec<String> {
        let mut problems = Vec::new();
        let mut properties = Vec::new();
        let mut inner = self.lock();
        for property in &definition.properties {
            let mut sinks = Vec::new();
            if !property.push_method.is_empty() {
                let (read, wrong) = route::read(definition, property);
                problems.extend(wrong);
                for (key, target) in read {
                    match self.sink(&mut inner, key) {
                        Ok(queue) => sinks.push((queue, Arc::new(target))),
                        Err(words) => problems.push(format!("property {}: pushMethod: {words}", property.name)),
                    }
                }
            }
            properties.push(sinks);
        }
        if properties.iter().all(Vec::is_empty) {
            inner.devices.remove(&definition.key);
        } else {
            let routes = Routes { definition: Arc::clone(definition), properties };
            inner.devices.insert(definition.key.clone(), routes);
        }
        problems
    }

    fn remove(&self, key: &DeviceKey) {
        self.lock().devices.remove(key);
    }

    fn record(&self, definition: &Arc<Definition>, property: usize, value: &Value, unix_ms: i64) {
        let inner = self.lock();
        let routes = inner.devices.get(&definition.key).filter(|routes| Arc::ptr_eq(&routes.definition, definition));
        for (queue, target) in routes.and_then(|routes| routes.properties.get(property)).into_iter().flatten() {
            queue.push(Record { target: Arc::clone(target), value: value.clone(), unix_ms });
        }
    }

    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async {
            self.stop.cancel();
            self.tasks.close();
            self.tasks.wait().await;
        })
    }
}

impl std::fmt::Debug for Plane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sinks: Vec<_> = self.lock().sinks.keys().map(ToString::to_string).collect();
        f.debug_struct("Plane").field("sinks", &sinks).finish_non_exhaustive()
    }
}
